"""Solvers and variances of latent models and of pipelines of diffusers: of which belief, where kept, when left out."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin
from langevin import UserError, calibration, data, models, nn, processes
from langevin.calibration import calibrate_model, train_head, tune_model
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser, calibrate, with_variance
from langevin.generate import model_digest
from langevin.models import Autoencoder, Latent
from langevin.models.learned import checksum, is_foreign, place, stamp
from langevin.samplers import Ancestral, LearnedSolver
from langevin.storage import files
from support import thinned

QUICK: dict[str, Any] = {"n": 6, "held_out": 3, "minutes": 0.02}
DIGITS = data.load("digits", limit=60)


def moved(network: Any) -> Any:
    torch.manual_seed(0)
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.eval()


def latent() -> Latent:
    """A denoiser of codes of digits and its codec, as networks of this library."""
    torch.manual_seed(0)
    codec = Autoencoder(moved(nn.VAE(1, size=(8, 8), latent=2, width=8, blocks=1)), DIGITS.info)
    codes = models.encode(DIGITS, codec)
    network = moved(
        nn.UNet(2, size=(2, 2), width=8, multipliers=(1,), blocks=1, attention=(), conditions={"label": 10})
    )
    reading = AffineParameterization("edm", 0.5)
    return Latent(NetworkDenoiser(network, processes.EDM(), reading, (2, 2, 2), data=codes.info), codec)


def held(folder: Path) -> dict[str, str]:
    """Checksums of the files of a directory, by name."""
    found = sorted(f for f in folder.rglob("*") if f.is_file())
    return {f.relative_to(folder).as_posix(): files.digest(f.read_bytes())["sha256"] for f in found}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    models.save(latent(), tmp_path / "latent")
    return tmp_path / "latent"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A pipeline of images and one of codes, saved by diffusers."""
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    import small_pipelines as small

    folder = tmp_path_factory.mktemp("pipelines")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: small.save(getattr(small, name)(), folder / name) for name in ("ddpm", "dit")}


def test_a_solver_of_a_latent_model_is_that_of_its_denoiser(own: Path) -> None:
    """The file lies in the part; what is drawn with it are decoded draws of the denoiser with the same solver."""
    model = models.load(own, device="cpu")
    before, parts = model_digest(own), held(own)
    steps, more = 1, {"n": 2, "held_out": 1}
    plain = model.base.given(label=torch.arange(3))
    expected = calibration.tune(plain, steps, label="in turn", **more)
    found, file = tune_model(model, steps, own, **more)
    assert file == own / "denoiser" / "solver-1.json"
    assert found == expected  # but for how it was made
    assert found.use.made["trained_steps"] is None
    assert "weights" not in found.use.made
    again = models.load(own, device="cpu")
    told = again.given(label=torch.arange(4))
    rule = langevin.samplers.resolve(told, steps=steps).sampler
    assert isinstance(rule, LearnedSolver)
    x = langevin.sample(told, n=4, steps=steps, seed=3)
    z = langevin.sample(again.base.given(label=torch.arange(4)), found, n=4, steps=steps, seed=3)
    torch.testing.assert_close(x, again.codec.decode(z).mean.clamp(-1, 1).detach(), rtol=0, atol=1e-6)
    assert model_digest(own) != before
    assert {name: digest for name, digest in held(own).items() if name in parts} == parts


def test_variances_of_a_latent_model_are_of_its_codes(own: Path) -> None:
    """Γ is that of the denoiser on encoded data; a head comes back with the bytes it was kept as."""
    model = models.load(own, device="cpu")
    found, file = calibrate_model(model, DIGITS, own, times=4, n=32)
    assert file == own / "denoiser" / "calibration.json"
    codes = models.encode(DIGITS, model.codec)
    count = min(32, len(codes.train))
    batch = codes.train.batch(torch.arange(count) * len(codes.train) // count, seed=0)
    truth = calibrate(model.base, batch.pop("x"), batch, times=4, n=32)
    torch.testing.assert_close(found.gamma, truth.gamma, rtol=0, atol=0)
    assert (found.low, found.high) == (None, None)
    head = train_head("npr", model, DIGITS, own, steps=3, batch=8, quiet=True)
    assert not isinstance(head, Latent)
    again = models.load(own, device="cpu")
    assert sorted(again.learned_variances) == ["analytic", "npr", "residual"]
    x_t, t = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0)), 0.3
    for name, belief in (("analytic", found(model.base)), ("npr", head)):
        told = with_variance(again, name)
        torch.testing.assert_close(told(x_t, t).cov.variance, belief(x_t, t).cov.variance, rtol=0, atol=0)
        assert langevin.sample(told, Ancestral(), n=2, steps=2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("name", thinned(["dit", "ddpm"], 2))
def test_a_pipeline_keeps_them_in_a_folder_of_its_own(name: str, saved: dict[str, Path], tmp_path: Path) -> None:
    """No file of the pipeline changes; other weights are other models, for which nothing was learned."""
    folder = Path(shutil.copytree(saved[name], tmp_path / name))
    parts, before = held(folder), model_digest(folder)
    model = langevin.load(folder, device="cpu")
    _, file = tune_model(model, 2, folder, **QUICK)
    assert file == folder / "langevin" / "solver-2.json"
    shape = model.output_shape
    dataset = images(shape)
    _, file = calibrate_model(model, dataset, folder, times=3, n=16)
    assert file == folder / "langevin" / "calibration.json"
    train_head("sn", model, dataset, folder, steps=2, batch=8, quiet=True)
    after = held(folder)
    assert {key: after[key] for key in parts} == parts
    assert all(key.startswith("langevin/") for key in after.keys() - parts.keys())
    assert model_digest(folder) != before
    again = langevin.load(folder, device="cpu")
    assert sorted(again.learned_variances) == ["analytic", "residual", "sn"]
    told = again.given(label=torch.arange(2)) if "label" in again.conditions() else again
    assert isinstance(langevin.samplers.resolve(told, steps=2).sampler, LearnedSolver)
    assert not isinstance(langevin.samplers.resolve(told, steps=3).sampler, LearnedSolver)
    assert langevin.sample(told, n=2, steps=2).shape == (2, *shape)
    with pytest.warns(
        UserWarning, match=r"for states of shape \[.*\], the model's are \[.*\]: it is not used"
    ) as caught:
        larger = langevin.adapters.diffusers.load(folder, device="cpu", size=2 * shape[1])
    assert len(caught) == 3
    assert not larger.learned_variances
    with torch.no_grad():
        next(again.network.parameters()).add_(1.0)
    assert stamp(again) != stamp(model)
    with pytest.warns(UserWarning, match=r"for other weights: it is not used") as caught:
        left = langevin.adapters.diffusers.loading.with_learned(again, folder)
    assert len(caught) == 3
    assert not left.learned_variances
    assert not isinstance(langevin.samplers.resolve(left, steps=2).sampler, LearnedSolver)


def images(shape: tuple[int, ...], count: int = 40) -> data.Dataset:
    """Random images in [−1, 1]."""
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    flat = x.flatten(1).double()
    info = DataInfo("random", shape, -1.0, 1.0, mean=flat.mean(0), cov=flat.var(0))
    return data.Dataset(info, data.Split(x[:32]), data.Split(x[32:]))


def test_an_export_stands_beside_what_was_learned(tmp_path: Path) -> None:
    """What was learned goes with the pipeline that it was of: a second export over the first is without."""
    pytest.importorskip("diffusers")
    options = nn.default((1, 8, 8), name="unet2d", time_range=(0, 999), width=8, head=8)
    reading = AffineParameterization("v", sigma_data=0.5, time="index")
    network = moved(nn.create_network(options))
    model = NetworkDenoiser(network, processes.DDPM(), reading, (1, 8, 8), data=DIGITS.info)
    folder = tmp_path / "pipeline"
    langevin.adapters.diffusers.save(model, folder)
    again = langevin.load(folder, device="cpu")
    calibrate_model(again, DIGITS, folder, times=2, n=16)
    train_head("sn", again, DIGITS, folder, steps=1, batch=8, quiet=True)
    assert sorted(langevin.load(folder, device="cpu").learned_variances) == ["analytic", "residual", "sn"]
    langevin.adapters.diffusers.save(model, folder)
    assert not langevin.load(folder, device="cpu").learned_variances
    (folder / "langevin" / "mine.json").write_text("{}")
    with pytest.raises(UserError, match=r"langevin/mine\.json is not of an export"):
        langevin.adapters.diffusers.save(model, folder)


def test_stamps() -> None:
    """Steps tell a model of ours, weights one of others; one number of one parameter makes another checksum."""
    model = latent()
    assert stamp(model.base) == {"trained_steps": None}
    assert stamp(replace(model.base, config={"steps": 7})) == {"trained_steps": 7}
    foreign = replace(model.base, config={"diffusers": {}})
    assert is_foreign(foreign)
    assert not is_foreign(model)
    assert stamp(foreign)["weights"] == checksum(foreign.network)
    assert stamp(foreign)["shape"] == [2, 2, 2]
    first = checksum(foreign.network)
    with torch.no_grad():
        foreign.network.state_dict(keep_vars=True)[next(iter(foreign.network.state_dict()))].view(-1)[0] += 1e-3
    assert checksum(foreign.network) != first
    there = Path("there")
    assert place(there, model) == there / "denoiser"
    assert place(there, model.base) == there
    assert place(there, foreign) == there / "langevin"


def test_damage_is_named(own: Path) -> None:
    _, file = tune_model(models.load(own, device="cpu"), 2, own, **QUICK)
    file.write_text(json.dumps({**json.loads(file.read_text()), "more": 1}))
    with pytest.raises(UserError, match=r"denoiser/solver-2\.json"):
        models.load(own, device="cpu")
