"""Pipelines of diffusers that learn on here: what is written is a pipeline, or an update that one reads.

Tolerances are those of ``test_diffusers_in``: float32 rounding over five steps, grown by at most 1/α of the first.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import langevin
from langevin import UserError
from langevin.adapters import diffusers as adapter
from langevin.data import DataInfo, Dataset, Split
from langevin.training import BudgetConfig, Config, OutputConfig, StartConfig, train

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")
import small_pipelines as small  # noqa: E402

CLOSE = 5e-5
WORDS = ("a red apple", "a green pear")
QUICK = OutputConfig(log_every=2, validate_every=2, validate_on=4, sample_every=0, checkpoint_every=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


def pipeline(name: str, place: Path) -> Path:
    """The directory of a small pipeline, saved once by diffusers."""
    if not (place / name).exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small.save(getattr(small, name)(), place / name)
    return place / name


def pictures(shape: tuple[int, ...], captions: bool = False, classes: tuple[str, ...] = ()) -> Dataset:
    """Twelve plain pictures of two colours."""
    kind = torch.arange(12) % 2
    x = torch.where(kind[:, None, None, None] == 0, 0.5, -0.5).expand(12, *shape).clone()
    x += 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    beside: dict[str, torch.Tensor] = {"label": kind} if classes else {}
    if captions:
        beside["caption"] = langevin.nn.encode_texts([WORDS[k] for k in kind.tolist()], 16)
    shapes = {"caption": (16,)} if captions else {}
    info = DataInfo("plain", shape, -1.0, 1.0, classes, 256, conditions=shapes)
    rows = lambda a, b: Split(x[a:b], {key: value[a:b] for key, value in beside.items()})
    return Dataset(info, rows(0, 10), rows(10, 12))


def tuned(base: Path, out: Path, dataset: Dataset, *, steps: int = 4, rate: float = 1e-2, **start: Any) -> Any:
    config = Config(
        batch=4,
        start=StartConfig(model=str(base), **start),
        budget=BudgetConfig(steps=steps),
        output=QUICK,
        precision="float32",
    )
    config = langevin.training.Config(**{**vars(config), "optimiser": langevin.training.OptimiserConfig(lr=rate)})
    return train(config, dataset, out, device="cpu", quiet=True, base=langevin.load(base, device="cpu"))


def images(model: Any, **given: Any) -> torch.Tensor:
    """Five steps of DDIM on the pipeline's own times, from one noise."""
    bound = model.given(**given) if given else model
    return langevin.sample(bound, "ddim", n=2, grid=adapter.native_grid(model, 5), seed=3)


DATA = {"sd": ((3, 16, 16), True, ()), "ddpm": ((3, 16, 16), False, ()), "dit": ((3, 16, 16), False, ("goldfish",))}


def data_of(name: str, base: Path) -> Dataset:
    _, captions, _ = DATA[name]
    shape = tuple(langevin.load(base, device="cpu").output.shape)
    return pictures(shape, captions, ("goldfish", "tench, Tinca tinca") if name == "dit" else ())


@pytest.mark.parametrize("name", DATA)
def test_all_weights_learn_and_the_pipeline_is_whole(place: Path, tmp_path: Path, name: str) -> None:
    """What is written is read by diffusers, and draws what the run's own model does."""
    base, out = pipeline(name, place), tmp_path / "run"
    data = data_of(name, base)
    made = tuned(base, out, data)
    again = langevin.load(out, device="cpu")
    given = {"caption": WORDS[0]} if name == "sd" else {"label": 1} if name == "dit" else {}
    old, new = images(langevin.load(base, device="cpu"), **given), images(again, **given)
    assert torch.equal(new, images(made, **given))
    assert float((new - old).abs().max()) > 100 * CLOSE
    theirs = diffusers.DiffusionPipeline.from_pretrained(str(out))
    assert type(theirs).__name__ == json.loads((base / "model_index.json").read_text())["_class_name"]
    part = theirs.transformer if name == "dit" else theirs.unet
    mine = getattr(made, "base", made).network.network.state_dict()
    assert all(torch.equal(value, mine[key]) for key, value in part.state_dict().items())
    denoiser = getattr(again, "base", again)
    assert denoiser.data == getattr(made, "base", made).data
    untouched = "vae" if name != "ddpm" else "scheduler"
    for file in (base / untouched).iterdir():
        assert (out / untouched / file.name).read_bytes() == file.read_bytes()


def test_diffusers_reads_the_update(place: Path, tmp_path: Path) -> None:
    """``load_lora_weights`` of a run's directory draws the images of ``langevin.load`` of it, text encoder and all."""
    base, out = pipeline("sd", place), tmp_path / "run"
    tuned(base, out, pictures((3, 16, 16), True), rate=0.05, lora=2, train_text_encoder=True)
    ours = langevin.load(out, device="cpu").given(caption=WORDS[0])
    grid = adapter.native_grid(ours, 5)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(base))
    theirs.load_lora_weights(str(out))
    theirs.set_progress_bar_config(disable=True)
    x = torch.randn(2, *ours.shape, generator=torch.Generator().manual_seed(1))
    expected = theirs([WORDS[0]] * 2, num_inference_steps=5, guidance_scale=1.0, latents=x, output_type="pt").images
    found = langevin.sample(ours, "ddim", grid=grid, start=x)
    torch.testing.assert_close((found + 1) / 2, expected, rtol=0, atol=CLOSE)
    plain = diffusers.StableDiffusionPipeline.from_pretrained(str(base))
    plain.set_progress_bar_config(disable=True)
    before = plain([WORDS[0]] * 2, num_inference_steps=5, guidance_scale=1.0, latents=x, output_type="pt").images
    assert float((before - expected).abs().max()) > 100 * CLOSE


def test_an_update_in_a_pipeline_is_exported(place: Path, tmp_path: Path) -> None:
    base, out = pipeline("sd", place), tmp_path / "run"
    tuned(base, out, pictures((3, 16, 16), True), lora=2)
    merged = langevin.load(out, device="cpu")
    adapter.save(merged, tmp_path / "merged")
    again = langevin.load(tmp_path / "merged", device="cpu")
    assert torch.equal(images(again, caption=WORDS[1]), images(merged, caption=WORDS[1]))


def test_the_text_encoder_learns_or_does_not(place: Path, tmp_path: Path) -> None:
    base, data = pipeline("sd", place), pictures((3, 16, 16), True)
    before = load_file(base / "text_encoder" / "model.safetensors")
    for learns in (False, True):
        tuned(base, tmp_path / str(learns), data, train_text_encoder=learns)
        after = load_file(tmp_path / str(learns) / "text_encoder" / "model.safetensors")
        changed = [key for key, value in before.items() if not torch.equal(value, after[key])]
        assert bool(changed) == learns
    # What the run's own model was told while the encoder learned is what the pipeline that was written says.
    made = tuned(base, tmp_path / "again", data, train_text_encoder=True)
    assert torch.equal(images(made, caption=WORDS[0]), images(langevin.load(tmp_path / "again"), caption=WORDS[0]))
    assert torch.equal(images(made), images(langevin.load(tmp_path / "again")))


def test_no_class_stays_no_class(tmp_path: Path) -> None:
    """A U-Net of ours with classes, exported, learns on: the class behind the others is still that of none."""
    options = langevin.nn.default((3, 16, 16), {"label": 2}, name="unet2d", time_range=(0, 999))
    reading = langevin.denoisers.AffineParameterization("v", sigma_data=0.5, time="index", scale_input=False)
    network = langevin.nn.create_network(options)
    mine = langevin.denoisers.NetworkDenoiser(network, langevin.processes.DDPM(), reading, (3, 16, 16))
    mine = replace(mine, data=DataInfo("plain", (3, 16, 16), -1.0, 1.0, ("a", "b"), 256))
    adapter.save(mine, tmp_path / "base")
    tuned(tmp_path / "base", tmp_path / "run", pictures((3, 16, 16), classes=("a", "b")), steps=1)
    again = langevin.load(tmp_path / "run", device="cpu")
    assert again.condition_sizes == {"label": 2}
    assert again.network.null_label == 2


def test_tokens_of_a_caption_are_its_text(place: Path) -> None:
    """A caption of the data, bytes with −1 for none, is what the text is; of a batch each has its own."""
    model = langevin.load(pipeline("sd", place), device="cpu")
    x = torch.linspace(-1, 1, 3 * 4 * 8 * 8).reshape(3, 4, 8, 8)
    tokens = langevin.nn.encode_texts([WORDS[0], None, WORDS[1]], 20)
    with torch.no_grad():
        found = model.base.network(x, torch.full((3,), 500.0), {"caption": tokens})
        texts = model.given(caption=[WORDS[0], None, WORDS[1]]).base
        expected = texts.network(x, torch.full((3,), 500.0), dict(texts.condition))
    assert torch.equal(found, expected)
    assert torch.equal(model.given(caption=tokens).base.condition["caption"].isnan()[:, 0], tokens[:, 0] < 0)


def test_a_caption_for_all(place: Path, tmp_path: Path) -> None:
    """``caption`` is that of examples without one, and no other's."""
    from langevin.training.pretrained import prepare

    base = langevin.load(pipeline("sd", place), device="cpu")
    data = pictures((3, 16, 16), True)
    data.train.conditions["caption"][3] = -1
    told = prepare(data, base, StartConfig(caption="a plum of a longer name")).train
    told = told.batch(torch.arange(10))["caption"]
    texts = [langevin.nn.decode_text(row) for row in told]
    assert texts[3] == "a plum of a longer name"
    assert texts[:3] == [WORDS[0], WORDS[1], WORDS[0]]


def test_samples_of_the_model_have_the_captions_that_are_given(place: Path, tmp_path: Path) -> None:
    """A file's lines in turn, or one caption for all: the kept codes are what the pipeline draws under them."""
    base = pipeline("sd", place)
    (tmp_path / "captions.txt").write_text(f"{WORDS[1]}\n\n  a blue boat on the sea \n")
    given = {str(tmp_path / "captions.txt"): [WORDS[1], "a blue boat on the sea", WORDS[1]], WORDS[0]: [WORDS[0]] * 3}
    for i, (asked, texts) in enumerate(given.items()):
        tuned(base, tmp_path / str(i), pictures((3, 16, 16), True), steps=1, prior=3, prior_captions=asked)
        held = load_file(tmp_path / str(i) / "prior.safetensors")
        assert [langevin.nn.decode_text(row) for row in held["caption"]] == texts
        plain = langevin.load(base, device="cpu").base
        expected, other = (langevin.sample(m, n=3, steps=24, seed=0) for m in (plain.given(caption=texts), plain))
        # The same numbers in the same batches, captions told as tokens or as texts.
        torch.testing.assert_close(held["x"], expected, rtol=0, atol=CLOSE * float(expected.abs().max()))
        assert float((expected - other).abs().max()) > 100 * CLOSE * float(expected.abs().max())


def test_what_is_refused(place: Path, tmp_path: Path) -> None:
    base = pipeline("sd", place)
    with pytest.raises(UserError, match=r"shape \(3, 16, 16\), but these have \(3, 32, 32\); give --size 16"):
        tuned(base, tmp_path / "run", pictures((3, 32, 32)))
    with pytest.raises(UserError, match="already holds a run"):
        tuned(base, base, pictures((3, 16, 16)))
