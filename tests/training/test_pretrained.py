"""Runs that go on from a pretrained model of this library: whole, by low-rank updates, and with its own samples."""

from __future__ import annotations

import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import langevin
from langevin import UserError
from langevin.data import Dataset, Split
from langevin.models.learned import checksum
from langevin.models.low_rank import LowRank, layers_of
from langevin.training import BudgetConfig, Config, OptimiserConfig, OutputConfig, StartConfig, train
from langevin.training.pretrained import WithPrior
from tiny_runs import interrupted, points, same_files, tiny

pytest.importorskip("peft")
ROUNDING = 2.0**-23
"""Of float32."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a second, to go on from."""
    out = tmp_path_factory.mktemp("base") / "run"
    train(tiny(40), points(), out, device="cpu", quiet=True)
    return out


def tuned(base: Path, out: Path, steps: int = 8, dataset: Dataset | None = None, **start: Any) -> Any:
    config = Config(
        batch=8,
        start=StartConfig(model=str(base), **start),
        optimiser=OptimiserConfig(lr=1e-2),
        budget=BudgetConfig(steps=steps),
        output=OutputConfig(log_every=3, validate_every=4, validate_on=20, sample_every=0, checkpoint_every=3),
    )
    return train(config, dataset or points(), out, device="cpu", quiet=True, base=langevin.load(base, device="cpu"))


def asked(model: Any) -> torch.Tensor:
    """The belief's mean at some states of noise."""
    x = torch.linspace(-2, 2, 12).reshape(6, 2)
    with torch.no_grad():
        t = model.process.time(torch.tensor(math.log(4.0)))  # σ/α of a half
        return model.given(label=1)(x, t).mean


@pytest.mark.parametrize("start", [{}, {"lora": 2}], ids=["whole", "lora"])
def test_it_goes_on_from_where_the_model_was(base: Path, tmp_path: Path, start: dict[str, Any]) -> None:
    """At a learning rate that changes nothing the model is the same; at another it is not, and the base stays.

    An update B A with B = 0 adds exact zeros, and a rate of 1e-30 is below half an ulp of every weight but those of
    zero, which move by 1e-30 a step: the beliefs are equal to float32 rounding of their size.
    """
    before = langevin.load(base, device="cpu")
    seen, mark = asked(before), checksum(before.network)
    config = Config(
        start=StartConfig(model=str(base), **start),
        budget=BudgetConfig(steps=3),
        output=OutputConfig(sample_every=0, validate_every=0),
        optimiser=replace(Config().optimiser, lr=1e-30),
    )
    still = train(config, points(), tmp_path / "still", device="cpu", quiet=True, base=before)
    torch.testing.assert_close(asked(still), seen, rtol=0, atol=4 * ROUNDING * float(seen.abs().max()))
    config = replace(config, optimiser=replace(config.optimiser, lr=1e-2))
    moved = train(config, points(), tmp_path / "moved", device="cpu", quiet=True, base=before)
    assert float((asked(moved) - seen).abs().max()) > 100 * ROUNDING * float(seen.abs().max())
    assert checksum(before.network) == mark


def test_it_is_settled_by_the_model(base: Path, tmp_path: Path) -> None:
    """Network, process, prediction and loss are the model's; batch, steps and rate are those of short runs."""
    config = Config(start=StartConfig(model=str(base)), output=OutputConfig(sample_every=0))
    resolved = langevin.training.resolve_config(config, points().info, langevin.load(base, device="cpu"))
    told = langevin.load(base, device="cpu").config["config"]
    same = resolved.to_dict()
    assert (same["prediction"], same["objective"]) == (told["prediction"], told["objective"])
    assert same["process"] == {"name": "edm", "options": {"sigma_min": 0.002, "sigma_max": 80.0}}
    assert same["network"]["name"] == "mlp"
    assert resolved.budget.steps == 1000
    assert resolved.batch == 32
    assert resolved.optimiser.lr == pytest.approx(1e-4)  # a small network: the highest rate, a tenth of it for all


def test_an_update_is_what_the_formula_says(base: Path, tmp_path: Path) -> None:
    """W + B A, from the matrices in the file that peft reads, in the place of W: what ``load`` gives, to rounding.

    An entry of B A is a sum of two products, added to W: three roundings of numbers no larger than 1 at most.
    """
    made = tuned(base, tmp_path / "lora", lora=2)
    found = langevin.load(tmp_path / "lora", device="cpu")
    matrices = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    weights, plain = dict(found.network.named_parameters()), langevin.load(base, device="cpu").network
    names = layers_of(plain)
    assert len(names) * 2 == len(matrices)
    assert len(names) > 2
    for name, value in plain.named_parameters():
        layer, _, leaf = name.rpartition(".")
        if layer in names and leaf == "weight":
            a, b = (matrices[f"base_model.model.{layer}.lora_{x}.weight"] for x in "AB")
            assert float((b @ a).abs().max()) > 0
            value = value + b @ a
        torch.testing.assert_close(weights[name], value, rtol=0, atol=3 * ROUNDING)
    assert torch.equal(asked(found), asked(made))  # what a run returns is what is loaded again
    assert not isinstance(made.network, LowRank)
    assert made.data == found.data


def test_peft_reads_it(base: Path, tmp_path: Path) -> None:
    """``PeftModel.from_pretrained`` puts the same update into the pretrained network."""
    from peft import PeftModel

    made = tuned(base, tmp_path / "lora", lora=2)
    plain = langevin.load(base, device="cpu")
    theirs = PeftModel.from_pretrained(plain.network, str(tmp_path / "lora"))
    again = replace(plain, network=Taken(theirs, plain.network.config))
    # W x + B (A x) there, (W + B A) x here: sums of 16 products whose sizes add up to less than 10, so 16 · 2⁻²⁴ · 10 =
    # 1e-5 a layer, of which there are three.
    torch.testing.assert_close(asked(again), asked(made), rtol=0, atol=3e-5)
    assert float((asked(langevin.load(base, device="cpu")) - asked(made)).abs().max()) > 3e-4


class Taken(nn.Module):
    """A network of peft's as one of this library."""

    foreign = True

    def __init__(self, inner: nn.Module, config: Any) -> None:
        super().__init__()
        self.inner, self.config = inner, config

    def forward(self, *given: Any) -> torch.Tensor:
        return self.inner(*given)


def test_a_convolution_has_an_update() -> None:
    """Of a convolution A is one to r channels, B is 1 × 1: their composition is added to the kernel."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))
    x = torch.randn(2, 3, 6, 6)
    made = LowRank(plain, {"": ["0"]}, 2, "base", "0" * 64)
    for p in made.parameters():
        if p.requires_grad:
            nn.init.normal_(p)
    ((a, b),) = [tuple(made.matrices()[""].values())]
    kernel = plain[0].base_layer.weight + torch.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    expected = nn.functional.conv2d(x, kernel, plain[0].base_layer.bias, padding=1)
    with torch.no_grad():
        # Sums of 27 and of 2 products of size one: a hundred roundings.
        torch.testing.assert_close(
            made.merged()(x), expected, rtol=0, atol=100 * ROUNDING * float(expected.abs().max())
        )
        torch.testing.assert_close(plain(x), expected, rtol=0, atol=100 * ROUNDING * float(expected.abs().max()))


def test_which_layers_get_an_update() -> None:
    """Attention's where it is a fair part of the network, all layers where it is not, and those that are asked for."""
    made = lambda shape, name: langevin.nn.create_network(langevin.nn.default(shape, name=name, time_range=(0, 1)))
    dit, unet = made((3, 16, 16), "dit"), made((3, 16, 16), "unet")
    assert layers_of(dit)
    assert all(name.endswith(("attention.qkv", "attention.out")) for name in layers_of(dit))
    every = [name for name, layer in unet.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    assert layers_of(unet) == layers_of(unet, ["all"]) == every
    assert layers_of(unet, ["qkv"]) == [name for name in every if name.endswith(".qkv")]


def test_what_does_not_learn_is_not_kept_in_checkpoints(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "lora", lora=2)
    tuned(base, tmp_path / "whole")
    size = lambda run: max(path.stat().st_size for path in (tmp_path / run / "checkpoints").rglob("model.safetensors"))
    names = set(load_file(next((tmp_path / "lora" / "checkpoints").rglob("ema.safetensors"))))
    assert names
    assert all("lora_" in name for name in names)
    assert size("lora") < size("whole")


@pytest.mark.parametrize("start", [{}, {"lora": 2, "prior": 6}], ids=["whole", "lora and prior"])
def test_an_interrupted_run_ends_with_the_same_bytes(base: Path, tmp_path: Path, start: dict[str, Any]) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    tuned(base, straight, **start)
    with interrupted(5) as caught:
        tuned(base, broken, **start)
    assert f"--from {base}" in str(caught.value)
    config = Config(start=StartConfig(model=str(base)))
    model = langevin.load(base, device="cpu")
    train(config, points(), broken, device="cpu", quiet=True, resume=True, base=model)
    same_files(straight, broken)
    with pytest.raises(UserError, match="weights are not those of the model given"):
        train(config, points(), broken, device="cpu", quiet=True, resume=True, base=langevin.load(straight))
    with pytest.raises(UserError, match="give it again"):
        train(config, points(), broken, device="cpu", quiet=True, resume=True)


def test_samples_of_the_model_come_every_second_time() -> None:
    """Half of the indices are data, each of them as often as it fits, and half are samples, whatever the batch."""
    split = points(30).train
    x, label = torch.arange(100.0).reshape(50, 2), torch.zeros(50, dtype=torch.int64)
    both = WithPrior(split, x, {"label": label})
    assert len(both) == 100
    found = both.batch(torch.arange(100), seed=1, draw=3)
    assert torch.equal(found["x"][50:], x)
    assert torch.equal(found["x"][:50], split.batch(torch.arange(50) % len(split))["x"])
    some = torch.tensor([99, 3, 51, 27])
    assert torch.equal(both.batch(some, seed=1, draw=3)["x"], found["x"][some])
    without = WithPrior(split, x, {}).batch(torch.arange(100))
    assert torch.equal(without["label"][50:], torch.full((50,), -1))
    assert bool((without["label"][:50] >= 0).all())


def test_captions_of_two_lengths_stand_together() -> None:
    text = langevin.nn.encode_texts
    short = Split(torch.zeros(2, 2), {"caption": text(["ab", None], 3)})
    both = WithPrior(short, torch.ones(2, 2), {"caption": text(["abcdef"] * 2, 7)})
    found = both.batch(torch.arange(4))["caption"]
    assert torch.equal(found, text(["ab", None, "abcdef", "abcdef"], 7))


def test_an_example_that_comes_round_is_augmented_anew() -> None:
    """Ten pictures among a hundred samples come ten times an epoch, mirrored or not each time by a draw of its own.

    That all ten visits of all ten pictures agree with the first has a probability of 2⁻⁹⁰.
    """
    x = torch.arange(10.0)[:, None, None, None] + torch.tensor([0.0, 0.5])
    both = WithPrior(Split(x, flip=True), torch.zeros(100, 1, 1, 2), {})
    visits = both.batch(torch.arange(100), seed=1, draw=2)["x"].reshape(10, 10, 2)
    assert torch.equal(visits.sort(-1).values, x.reshape(1, 10, 2).expand(10, -1, -1))
    assert not torch.equal(visits, visits[:1].expand(10, -1, -1))
    assert torch.equal(both.plain(torch.arange(100))["x"], x.repeat(10, 1, 1, 1))


def test_samples_are_of_the_classes_that_the_data_do_not_show(base: Path, tmp_path: Path) -> None:
    data = points()
    (some,) = [torch.nonzero(data.train.labels == 1)[:, 0]]  # type: ignore[arg-type]
    one = replace(data, train=Split(data.train.batch(some)["x"], {"label": data.train.labels[some]}))  # type: ignore[index]
    tuned(base, tmp_path / "run", dataset=one, prior=4)
    held = load_file(tmp_path / "run" / "prior.safetensors")
    assert held["label"].tolist() == [0, 2, 0, 2]


def test_samples_are_the_models_own(base: Path, tmp_path: Path) -> None:
    """The file holds what ``langevin.sample`` draws of the model by the seed, under its classes in turn."""
    tuned(base, tmp_path / "run", prior=6)
    model = langevin.load(base, device="cpu").given(label=torch.arange(6) % 3)
    expected = langevin.sample(model, n=6, steps=24, seed=0)
    assert torch.equal(load_file(tmp_path / "run" / "prior.safetensors")["x"], expected)


def test_classes_are_told_by_their_names(base: Path, tmp_path: Path) -> None:
    """Data of the classes c and a are told as 2 and 0, whatever their own numbers are."""
    from langevin.training.pretrained import prepare

    data = points()
    other = replace(data, info=replace(data.info, classes=("c", "a", "b")))
    told = prepare(other, langevin.load(base, device="cpu"), StartConfig())
    assert torch.equal(told.train.labels, torch.tensor([2, 0, 1])[data.train.labels])  # type: ignore[arg-type, index]
    assert told.info.classes == ("a", "b", "c")
    strange = replace(data, info=replace(data.info, classes=("c", "a", "z")))
    with pytest.raises(UserError, match="the class 'z' of these data is none of the pretrained model's"):
        tuned(base, tmp_path / "run", dataset=strange)


def test_data_without_classes_are_told_none(base: Path, tmp_path: Path) -> None:
    assert tuned(base, tmp_path / "run", dataset=points(classes=0)).data.classes == ("a", "b", "c")


def test_data_with_more_than_the_model_takes(base: Path, tmp_path: Path) -> None:
    """What a model is not told is said."""
    out = tmp_path / "plain"
    train(tiny(6), points(classes=0), out, device="cpu", quiet=True)
    with pytest.warns(UserWarning, match="takes no condition; label of these data is ignored"):
        tuned(out, tmp_path / "run")


BAD = {
    "lora 0": ({"lora": 0}, "lora must be a rank of at least 1, got 0"),
    "layers alone": ({"layers": ("all",)}, "give lora"),
    "no such layer": ({"lora": 2, "layers": ("attn9",)}, "layers must be endings of names.*'attn9'"),
    "no encoder": ({"train_text_encoder": True}, "train-text-encoder is of pipelines"),
    "a caption": ({"caption": "a"}, "caption was given, but the pretrained model takes label"),
    "captions alone": ({"prior_captions": "a"}, "prior-captions"),
    "prior": ({"prior": -1}, "prior must be a number of samples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(base: Path, tmp_path: Path, name: str) -> None:
    start, said = BAD[name]
    with pytest.raises(UserError, match=said):
        tuned(base, tmp_path / "run", **start)
    assert not (tmp_path / "run").exists()


def test_what_else_is_refused(base: Path, tmp_path: Path) -> None:
    model, out = langevin.load(base, device="cpu"), tmp_path / "run"
    other = replace(Config(), network=replace(Config().network, name="mlp"))
    with pytest.raises(UserError, match="--network is chosen by the pretrained model"):
        train(other, points(), out, base=model)
    with pytest.raises(UserError, match=r"start\.model must say where"):
        train(Config(start=StartConfig(lora=2)), points(), out, base=model)
    with pytest.raises(UserError, match=r"prior is of runs that go on from"):
        train(Config(start=StartConfig(prior=2)), points(), out)
    with pytest.raises(UserError, match="base must be a model with a denoiser of a network"):
        train(Config(), points(), out, base=3)
    wide = points()
    wide = replace(wide, info=replace(wide.info, shape=(1, 2), mean=None, cov=None))
    with pytest.raises(UserError, match=r"makes data of shape \(2,\), but these have \(1, 2\)"):
        train(Config(), wide, out, base=model)


def test_directories_of_updates_are_held_against_each_other(base: Path, tmp_path: Path) -> None:
    moved, lora = tmp_path / "base", tmp_path / "lora"
    shutil.copytree(base, moved)
    tuned(moved, lora, lora=2)
    assert torch.equal(asked(langevin.load(lora, base=base, device="cpu")), asked(langevin.load(lora, device="cpu")))
    shutil.rmtree(moved)
    with pytest.raises(UserError, match="cannot be loaded; give base=…"):
        langevin.load(lora)
    other = tmp_path / "other"
    train(tiny(3), points(), other, device="cpu", quiet=True)
    with pytest.raises(UserError, match="its weights differ"):
        langevin.load(lora, base=other)
    with pytest.raises(UserError, match="base is for a LoRA"):
        langevin.load(base, base=other)
    file = lora / "adapter_model.safetensors"
    held = bytearray(file.read_bytes())
    held[-3] ^= 1
    file.write_bytes(held)
    with pytest.raises(UserError, match="is damaged"):
        langevin.load(lora, base=base)


def test_a_merged_update_is_a_model_like_any_other(base: Path, tmp_path: Path) -> None:
    tuned(base, tmp_path / "lora", lora=2)
    merged = langevin.load(tmp_path / "lora", device="cpu")
    langevin.models.save(merged, tmp_path / "merged")
    assert torch.equal(asked(langevin.load(tmp_path / "merged", device="cpu")), asked(merged))


@pytest.mark.parametrize("rate", [1e-30, 1e-2])
def test_a_picture_of_before_and_after(base: Path, tmp_path: Path, rate: float) -> None:
    """Left is what the model drew before it learned, right after it, from the same noises.

    At a rate that moves no weight (as above) the two are the same picture; at another they are not.
    """
    from PIL import Image

    config = Config(
        start=StartConfig(model=str(base)),
        budget=BudgetConfig(steps=4),
        optimiser=OptimiserConfig(lr=rate),
        output=OutputConfig(validate_every=0),
    )
    train(config, points(), tmp_path / "run", device="cpu", quiet=True, base=langevin.load(base, device="cpu"))
    names = sorted(path.name for path in (tmp_path / "run" / "pictures").iterdir())
    assert names == ["before-after.png", "step-0000000.png", "step-0000004.png"]
    both, before, after = (Image.open(tmp_path / "run" / "pictures" / name).convert("RGB") for name in names)
    across, down = both.width - before.width, both.height - before.height  # each stands under its name
    assert across > before.width
    assert both.crop((0, down, before.width, both.height)).tobytes() == before.tobytes()
    assert both.crop((across, down, both.width, both.height)).tobytes() == after.tobytes()
    assert (before.tobytes() == after.tobytes()) == (rate < 1e-20)
    words = [both.crop((x, 0, x + before.width, down)).tobytes() for x in (0, across)]
    assert words[0] != words[1]


def test_peft_is_asked_for_in_a_sentence(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'pip install "langevin\[lora\]"'):
        tuned(base, tmp_path / "run", lora=2)


def test_nothing_is_warned_of(base: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned(base, tmp_path / "run", lora=2)
