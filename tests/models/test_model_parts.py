"""Models of parts: a denoiser of codes with its codec, and cascades; what they draw, keep and refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin
from langevin import data, guidance, models, nn, processes, samplers
from langevin._errors import UserError
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.distributions import Noise, Stream
from langevin.generate import Recipe, generate
from langevin.models import Autoencoder, Cascade, Latent
from langevin.storage import files

DIGITS = data.load("digits", limit=60)


def moved(network: Any, by: float = 0.05) -> Any:
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += by * torch.randn_like(p)
    return network.eval()


def codec() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(moved(nn.VAE(1, size=(8, 8), latent=2, width=8, blocks=1)), DIGITS.info)


def denoiser(info: DataInfo, conditions: dict[str, int], size: int = 8) -> NetworkDenoiser:
    options = {"size": (size, size), "width": 8, "multipliers": (1,), "blocks": 1, "attention": ()}
    network = moved(nn.UNet(info.shape[0], conditions=conditions, **options))
    return NetworkDenoiser(network, processes.EDM(), AffineParameterization("edm", 0.5), info.shape, data=info)


def latent() -> Latent:
    codes = models.encode(DIGITS, codec())
    return Latent(denoiser(codes.info, {"label": 10}, 2), codes.codec)


def cascade() -> Cascade:
    small = data.load("digits", limit=60)
    info = DataInfo("small", (1, 4, 4), classes=small.info.classes)
    return Cascade((denoiser(info, {"label": 10}, 4), denoiser(DIGITS.info, {"label": 10, "image": 1})))


def test_a_latent_draws_codes_and_reads_them_decoded() -> None:
    model = latent()
    label = torch.arange(6)
    x = langevin.sample(model.given(label=label), n=6, steps=3, seed=4)
    codes = langevin.sample(model.base.given(label=label), n=6, steps=3, seed=4)
    with torch.no_grad():
        truth = model.codec.decode(codes).mean.clamp(-1, 1)
    assert x.shape == (6, 1, 8, 8)
    torch.testing.assert_close(x, truth, rtol=0, atol=0)
    assert (model.shape, model.output_shape, model.output) == ((2, 2, 2), (1, 8, 8), DIGITS.info)
    guided = guidance.classifier_free(model, label=label, guidance_scale=2.0)
    assert langevin.sample(guided, samplers.DDIM(), n=6, steps=2).shape == (6, 1, 8, 8)
    drawn = generate(model, Recipe(steps=3), 6)
    assert (drawn.evaluations, drawn.x.shape) == (3, (6, 1, 8, 8))


def test_a_cascade_is_its_stages_one_after_the_other() -> None:
    model = cascade()
    label = torch.arange(5)
    x = langevin.sample(model.given(label=label), samplers.DDIM(), n=5, steps=3, seed=4)
    noise = Noise(4, 5)
    first = langevin.sample(model.models[0].given(label=label), samplers.DDIM(), steps=3, noise=noise)
    told = model.models[1].given(label=label, image=first)
    second = langevin.sample(told, samplers.DDIM(), steps=3, noise=noise.fold_in(Stream.STAGE + 1))
    torch.testing.assert_close(x, second, rtol=0, atol=0)
    batched = langevin.sample(model.given(label=label), samplers.DDIM(), n=5, steps=3, seed=4, batch=2)
    torch.testing.assert_close(batched, x, rtol=0, atol=1e-5)
    drawn = generate(model, Recipe(steps=3), 4)
    assert (drawn.evaluations, drawn.x.shape) == (6, (4, 1, 8, 8))
    assert model.conditions() == ("label",)


def test_guidance_of_a_cascade_is_of_every_stage_that_is_told() -> None:
    """Each stage guided by itself, one after the other, on the same noise; a stage without the label stays as it is."""
    info = DataInfo("small", (1, 4, 4), classes=DIGITS.info.classes)
    first = denoiser(info, {"label": 10}, 4)
    label, noise = torch.arange(5), Noise(4, 5)
    later = noise.fold_in(Stream.STAGE + 1)
    cfg = lambda model: guidance.classifier_free(model, label=label, guidance_scale=3.0)
    draw = lambda model, noise: langevin.sample(model, samplers.DDIM(), steps=3, noise=noise)
    for told in ({"label": 10, "image": 1}, {"image": 1}):
        second = denoiser(DIGITS.info, told)
        small = draw(cfg(first), noise)
        lead = cfg(second.given(image=small)) if "label" in told else second.given(image=small)
        truth = draw(lead, later)
        found = draw(cfg(Cascade((first, second))), noise)
        torch.testing.assert_close(found, truth, rtol=0, atol=0)
        bound = guidance.classifier_free(Cascade((first, second)).given(label=label), guidance_scale=3.0)
        torch.testing.assert_close(draw(bound, noise), truth, rtol=0, atol=0)
        assert not torch.allclose(draw(Cascade((first, second)).given(label=label), noise), truth)
    drawn = generate(cascade(), Recipe(steps=3, guidance_scale=3.0), 4)
    assert (drawn.evaluations, drawn.x.shape) == (12, (4, 1, 8, 8))  # two a step, three steps, two stages
    with pytest.raises(UserError, match="condition must be given, such as label=3"):
        guidance.classifier_free(cascade(), guidance_scale=3.0)
    with pytest.raises(UserError, match="condition 'caption' is not one this model takes"):
        guidance.classifier_free(cascade(), caption=label, guidance_scale=3.0)


def test_the_picture_of_a_cascade_guides_its_first_stage_alone() -> None:
    model = Cascade((denoiser(DIGITS.info, {"image": 1}), denoiser(DIGITS.info, {"image": 1})))
    image = torch.full((1, 4, 4), 0.5)
    guided = guidance.classifier_free(model, image=image, guidance_scale=2.0)
    assert guided.stages[1] is model.stages[1]
    told = Cascade((model.models[0], denoiser(DIGITS.info, {"image": 1, "label": 10}))).given(image=image)
    by_label = guidance.classifier_free(told, label=torch.arange(2), guidance_scale=2.0)
    assert by_label.stages[0] is told.stages[0]  # it is told a picture, and leads by none
    assert by_label.stages[1] is not told.stages[1]
    assert langevin.sample(guided, samplers.DDIM(), n=2, steps=2).shape == (2, 1, 8, 8)


def test_a_start_is_of_the_first_stage() -> None:
    model = Cascade((denoiser(DIGITS.info, {}), denoiser(DIGITS.info, {"image": 1})))
    start = torch.zeros(3, 1, 8, 8)
    x = langevin.sample(model, samplers.DDIM(), start=start, steps=2, seed=4)
    first = langevin.sample(model.models[0], samplers.DDIM(), start=start, steps=2, seed=4)
    noise = Noise(4, 3).fold_in(Stream.STAGE + 1)
    second = langevin.sample(model.models[1].given(image=first), samplers.DDIM(), steps=2, noise=noise)
    torch.testing.assert_close(x, second, rtol=0, atol=0)


def test_a_plan_has_the_stages_of_its_model() -> None:
    """In their order, each checked: of another number of them it is refused, and where one of them rises."""
    model = cascade()
    plan = samplers.resolve(model, samplers.DDIM(), steps=3)
    assert len(plan.stages) == 2
    assert plan.stages[-1] is plan
    assert torch.equal(langevin.sample(model, plan, n=2), langevin.sample(model, samplers.DDIM(), n=2, steps=3))
    with pytest.raises(UserError, match="a plan of 2 stages was given for a model of 1"):
        langevin.sample(model.models[0], plan)
    with pytest.raises(UserError, match="a plan of 1 stages was given for a model of 2"):
        langevin.sample(model, plan.earlier[0])
    up = samplers.resolve(model.models[0], samplers.DDIM(), grid=[0.1, 0.5], upwards=True)
    for wrong in (replace(plan, earlier=(up,)), replace(up, earlier=plan.earlier)):
        with pytest.raises(UserError, match="grid must decrease strictly to draw data"):
            langevin.sample(model, wrong)
    three = Cascade((model.models[0], *[denoiser(DIGITS.info, {"image": 1}) for _ in range(2)]))
    on = lambda stage, process: replace(stage, process=process)
    vp, edm, flow = processes.VP(), processes.EDM(), processes.RectifiedFlow()
    mixed = Cascade(tuple(map(on, three.models, (vp, edm, flow))))
    grids = [stage.grid for stage in samplers.resolve(mixed, samplers.DDIM(), steps=3).stages]
    for grid, stage in zip(grids, mixed.models):
        assert torch.equal(grid, samplers.resolve(stage, samplers.DDIM(), steps=3).grid)
    assert not torch.equal(grids[0], grids[1])


def test_progress_counts_every_stage() -> None:
    told: list[tuple[int, int]] = []
    langevin.sample(cascade(), samplers.DDIM(), n=2, steps=3, progress=lambda done, total: told.append((done, total)))
    assert told == [(2 * i, 12) for i in range(1, 7)]


def test_the_image_of_the_first_stage_can_be_given() -> None:
    """A cascade that restores: its first stage is told a picture, the others what was made of it."""
    first = denoiser(DIGITS.info, {"image": 1})
    model = Cascade((first, denoiser(DIGITS.info, {"image": 1})))
    assert model.conditions() == ("image",)
    one, other = (langevin.sample(model.given(image=torch.full((1, 4, 4), v)), n=2, steps=2) for v in (-1.0, 1.0))
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("make", [latent, cascade])
def test_round_trip(make: Any, tmp_path: Path) -> None:
    model = make()
    models.save(model, tmp_path)
    again = models.load(tmp_path, device="cpu")
    assert type(again) is type(model)
    label = torch.arange(4)
    for one, other in ((model, again), (again, model)):
        x, y = (langevin.sample(m.given(label=label), n=4, steps=2) for m in (one, other))
        torch.testing.assert_close(x, y, rtol=0, atol=0)
    assert models.about(again).keys() == {"kind", *model.parts}
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["parts"].keys() == dict(model.parts).keys()
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", *written["parts"]}


def swap_codec(folder: Path) -> None:
    other = Autoencoder(moved(nn.VAE(1, size=(8, 8), latent=2, width=8, blocks=1), 0.2), DIGITS.info)
    models.save(other, folder / "codec")


def edit(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return change


def nested(folder: Path) -> None:
    models.save(latent(), folder / "codec")


def fewer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["parts"]["codec"]
    (folder / "config.json").write_text(json.dumps(config))


DAMAGE = {
    "another codec": (swap_codec, "config.json"),
    "a part that is gone": (lambda folder: files.remove(folder / "codec"), "codec.* is no model directory"),
    "a part of parts": (nested, "a part cannot be a latent itself"),
    "too few parts": (fewer, "a latent has the parts denoiser and codec"),
    "no parts": (edit(parts={}), "parts must be checksums"),
    "a way out": (edit(parts={"../x": {"sha256": "0" * 64, "bytes": 3}}), "parts must be checksums"),
    "an unknown key": (edit(extra=1), "unknown extra"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(what: str, tmp_path: Path) -> None:
    models.save(latent(), tmp_path)
    damage, says = DAMAGE[what]
    damage(tmp_path)
    with pytest.raises(UserError, match=says):
        models.load(tmp_path, device="cpu")


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"the codes of the codec have shape \(2, 2, 2\), the denoiser's \(1, 8, 8\)"):
        Latent(denoiser(DIGITS.info, {}), codec())
    with pytest.raises(UserError, match="two denoisers of networks or more"):
        Cascade((denoiser(DIGITS.info, {}),))
    with pytest.raises(UserError, match=r"stages\[1\] must take the condition image"):
        Cascade((denoiser(DIGITS.info, {}), denoiser(DIGITS.info, {"label": 10})))
    with pytest.raises(UserError, match=r"two denoisers of networks or more, got 2 \(Latent, NetworkDenoiser\)"):
        Cascade((latent(), denoiser(DIGITS.info, {"image": 1})))
    with pytest.raises(UserError, match="a cascade has no belief as a whole"):
        cascade()(torch.zeros(1, 1, 8, 8), 0.5)


def test_codes_are_draws_of_the_codec_s_law() -> None:
    """Standardised by its mean and deviation a code is a unit normal, each sample's own at every visit."""
    codes = models.encode(DIGITS, codec())
    rows = torch.arange(60)
    with torch.no_grad():
        law = codec().encode(DIGITS.train.all()["x"])
    std = law.covariance.diagonal((2, 2, 2)).sqrt()
    draws = torch.stack([codes.train.batch(rows, draw=k)["x"] for k in range(50)])
    unit = ((draws - law.mean) / std).flatten()
    assert abs(float(unit.mean())) < 4.5 / len(unit) ** 0.5
    assert abs(float(unit.std()) - 1) < 4.5 / (2 * len(unit)) ** 0.5
    part = codes.train.batch(rows[10:20], draw=3)
    torch.testing.assert_close(part["x"], draws[3, 10:20], rtol=0, atol=0)
    assert torch.equal(part["label"], DIGITS.train.labels[10:20])  # type: ignore[index]
    torch.testing.assert_close(codes.test.plain(rows[:5])["x"], codec().encode(DIGITS.test.all()["x"][:5]).mean)


def test_moments_are_those_of_the_codes_that_training_sees() -> None:
    codes = models.encode(DIGITS, codec())
    seen = torch.cat([codes.train.batch(torch.arange(60), draw=k)["x"] for k in range(400)]).double().flatten(1)
    assert codes.info.cov is not None
    error = torch.cov(seen.T, correction=0) - codes.info.cov
    scale = torch.sqrt(codes.info.variance[:, None] * codes.info.variance)
    # 400 draws of 60 codes: the examples are the same every time, so what is left is the error of the noise alone.
    assert (error.abs() / scale).max() < 4.5 * (2 / len(seen)) ** 0.5 * 2
    assert (codes.info.low, codes.info.classes) == (None, DIGITS.info.classes)
    weights = codes.info.source["codec"]
    assert codes.info.source == {**DIGITS.info.source, "codec": weights}
    assert len(weights) == 64


def test_mirrored_data_have_mirrored_codes() -> None:
    mirrored = replace(DIGITS, train=data.Split(DIGITS.train._x, DIGITS.train.conditions, flip=True))
    codes = models.encode(mirrored, codec())
    rows = torch.arange(60)
    flipped = mirrored.train.mirrored(rows, 0, 7)
    with torch.no_grad():
        x = mirrored.train.batch(rows, draw=7)["x"]
        law = codec().encode(x)
    z = codes.train.batch(rows, draw=7)["x"]
    assert 10 < int(flipped.sum()) < 50
    unit = (z - law.mean) / law.covariance.diagonal((2, 2, 2)).sqrt()
    assert unit.abs().max() < 6
    noise = Noise(0, rows, draw=7).fold_in(Stream.CODES).normal((2, 2, 2))
    torch.testing.assert_close(unit.double(), noise, rtol=0, atol=1e-3)


def test_data_that_have_no_codes() -> None:
    with pytest.raises(UserError, match=r"the codec is for data of shape \(1, 8, 8\), got \(2,\)"):
        models.encode(data.load("moons", limit=20), codec())
    with pytest.raises(UserError, match="codec must be a codec"):
        models.encode(DIGITS, denoiser(DIGITS.info, {}))  # type: ignore[arg-type]
