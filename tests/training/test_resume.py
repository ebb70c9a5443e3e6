"""Interrupted after any step and resumed, a run ends with the same files, byte for byte, as one that was not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from langevin import data, models, nn, training
from langevin._errors import UserError
from langevin.storage import files
from langevin.training import (
    Config,
    EMAConfig,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    OutputConfig,
    ParallelConfig,
    PredictionConfig,
    ProcessConfig,
)
from langevin.training.loader import Loader
from support import thinned
from tiny_runs import captioned, interrupted, killed, points, same_files, tiny

STEPS = 9
OUTPUT = OutputConfig(log_every=2, validate_every=4, validate_on=20, sample_every=0, checkpoint_every=3, keep=2)


def run(config: Config, out: Path, dataset: data.Dataset | None = None, **named: Any) -> Any:
    return training.train(config, dataset or points(), out, device="cpu", quiet=True, **named)


def every_way_out(config: Config, tmp_path: Path, dataset: data.Dataset | None = None, steps: int = STEPS) -> int:
    """Interrupt, and kill, a run of ``steps`` steps in each of them, resume it, and compare all files: how many."""
    run(config, tmp_path / "whole", dataset)
    tried = 0
    for step in range(1, steps + 1):
        for name, stop in (("stop", interrupted), ("kill", killed)):
            out = tmp_path / f"{name}-{step}"
            if step == steps and name == "stop":
                continue  # the last step's signal comes when all is done
            with stop(step):
                run(config, out, dataset)
            run(config, out, dataset, resume=bool(training.checkpoints(out)))
            same_files(tmp_path / "whole", out)
            shutil.rmtree(out)
            tried += 1
    return tried


EVERYTHING: dict[str, Any] = {
    "network": NetworkConfig("mlp", {"width": 16, "depth": 2, "dropout": 0.3}),  # type: ignore[dict-item]
    "objective": ObjectiveConfig(times="importance", times_options={"bins": "3", "terms": "2"}, dropout={"label": 0.3}),
    "ema": EMAConfig("constant", half_life=50.0),
}


def everything(**changes: Any) -> Config:
    """Epochs of 7.5 batches, dropout, hidden labels, a law of times with a history, a cosine schedule."""
    return replace(tiny(STEPS, **EVERYTHING), output=OUTPUT, **changes)


@pytest.mark.parametrize(
    "work",
    thinned([ParallelConfig(), ParallelConfig(accumulate=3, workers=2)], 2),
    ids=["plain", "accumulated-by-workers"],
)
def test_every_step(tmp_path: Path, work: ParallelConfig) -> None:
    assert every_way_out(everything(work=work), tmp_path) == 2 * STEPS - 1


def test_every_step_of_muon(tmp_path: Path) -> None:
    """Its momentum is kept too, of matrices and of filters."""
    small = NetworkConfig("unet", {"width": "8", "multipliers": "[1]", "blocks": "[1]", "attention": "[]"})
    config = replace(tiny(4, network=small, optimiser=OptimiserConfig("muon")), output=OUTPUT)
    assert every_way_out(config, tmp_path, windows(), steps=4) == 7
    tensors = load_file(training.checkpoints(tmp_path / "whole")[-1] / "optimizer.safetensors")
    assert {key.rpartition("/")[2] for key in tensors} == {"exp_avg", "exp_avg_sq", "momentum_buffer", "step"}


def test_twice_interrupted(tmp_path: Path) -> None:
    run(everything(), tmp_path / "whole")
    with interrupted(2):
        run(everything(), tmp_path / "parts")
    with killed(2):  # the second of what is left
        run(everything(), tmp_path / "parts", resume=True)
    with interrupted(7):
        run(everything(), tmp_path / "parts", resume=True)
    run(everything(), tmp_path / "parts", resume=True)
    same_files(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("part", [1, 2])
def test_amid_an_accumulation(tmp_path: Path, part: int) -> None:
    """It is as of the step before: no gradient of half a batch is kept anywhere."""
    config = everything(work=ParallelConfig(accumulate=3))
    run(config, tmp_path / "whole")
    with killed(5, part):
        run(config, tmp_path / "parts")
    assert training.checkpoints(tmp_path / "parts")[-1].name == "step-0000003"
    run(config, tmp_path / "parts", resume=True)
    same_files(tmp_path / "whole", tmp_path / "parts")


def windows() -> data.Dataset:
    """Pictures that are cut at random and mirrored: their augmentation is a random stream too."""
    x = (torch.arange(40 * 12 * 14) * 2654435761 % 251).to(torch.uint8).reshape(40, 1, 12, 14)
    parts = [data.Split(list(x[:30]), None, flip=True, crop=8), data.Split(x[30:, :, :8, :8])]
    whole = parts[1].all()["x"].flatten(1).double()
    info = data.DataInfo("windows", (1, 8, 8), levels=256, mean=whole.mean(0), cov=whole.T.cov(correction=0))
    return data.Dataset(info, *parts)


def test_whatever_the_number_of_workers(tmp_path: Path) -> None:
    config = lambda workers: replace(
        tiny(6, work=ParallelConfig(workers=workers), output=replace(OUTPUT, sample_every=3)),
        network=NetworkConfig("unet", {"width": "8", "blocks": "1", "multipliers": "[1,1]"}),
    )
    run(config(0), tmp_path / "none", windows())
    for workers in (1, 3):
        out = tmp_path / str(workers)
        with interrupted(4):
            run(config(workers), out, windows())
        run(config(workers), out, windows(), resume=True)
        told = [(p / "model.safetensors").read_bytes() for p in (tmp_path / "none", out)]
        assert told[0] == told[1]
        assert (out / "metrics.csv").read_bytes() == (tmp_path / "none" / "metrics.csv").read_bytes()


def test_workers_read_what_is_asked_for() -> None:
    """In whatever order they end, and from whatever step on."""
    split, order = windows().train, training.Order(30, 5)
    alone = Loader(split, order, 7, slice(2, 6), 5)
    ahead = Loader(split, order, 7, slice(2, 6), 5, workers=3)
    for step in (1, 2, 3, 10, 11, 4):
        assert torch.equal(alone[step]["x"], ahead[step]["x"])
    ahead.close()


DIGITS = data.load("digits", limit=40)
HEART = data.load("heartbeat")
UNET = NetworkConfig("unet", {"width": "8", "blocks": "1", "multipliers": "[1,1]"})
MLP = NetworkConfig("mlp", {"width": "16", "depth": "2"})
BEATS = NetworkConfig("transformer", {"width": "16", "depth": "1"})
torch.manual_seed(0)
CODES = models.encode(DIGITS, models.Autoencoder(nn.VAE(1, size=(8, 8), width=8, blocks=1).eval(), DIGITS.info))
CRITIC = '{"width": 16, "depth": 1}'
MODEL_TYPES: dict[str, tuple[data.Dataset, dict[str, Any]]] = {
    "gan": (points(), {"objective": ObjectiveConfig("gan", {"discriminator": CRITIC, "r1": "0.5", "every": "2"})}),
    "gan-diffused": (
        points(),
        {"objective": ObjectiveConfig("gan", {"discriminator": CRITIC, "loss": "least-squares", "diffuse": "vp"})},
    ),
    "normalizing-flow": (points(), {"network": NetworkConfig("coupling", {"width": "8", "depth": "2", "hidden": "1"})}),
    "classifier": (points(), {"objective": ObjectiveConfig("cross-entropy")}),
    "contrastive": (
        captioned(),
        {
            "network": NetworkConfig("dual-encoder", {"image": '{"width": 16, "depth": 1}', "text": '{"width": 16}'}),
            "objective": ObjectiveConfig("contrastive"),
        },
    ),
    "latent": (CODES, {"network": NetworkConfig("unet", {"width": "8", "blocks": "1", "multipliers": "[1]"})}),
    "restoring": (
        data.load("digits", limit=40, degrade="resize=4,noise=0.1"),
        {"network": UNET, "objective": ObjectiveConfig(dropout={"image": 0.5})},
    ),
    "real": (points(), {}),
    "images": (DIGITS, {"network": UNET, "precision": "bfloat16"}),
    "float16": (DIGITS, {"network": UNET, "precision": "float16"}),
    "tokens": (HEART, {"network": BEATS}),
    "tokens-history": (
        HEART,
        {
            "network": BEATS,
            "objective": ObjectiveConfig(
                times="importance", times_options={"bins": "2", "terms": "2", "of": '{"name": "uniform", "low": 1e-9}'}
            ),
        },
    ),
    "levels": (DIGITS, {"network": UNET, "prediction": PredictionConfig("levels"), "precision": "float32"}),
    "phase": (points(), {"process": ProcessConfig("phase-space", {"beta": "6"})}),
    "levy": (points(), {"process": ProcessConfig("mixture", {"size": "0.3"})}),
    "learned": (
        points(),
        {"process": ProcessConfig("learned", {"gamma": "[-6, 3]"}), "objective": ObjectiveConfig("vdm")},
    ),
    "energy": (points(), {"network": NetworkConfig("mlp", {"width": "16", "depth": "2", "energy": "true"})}),
    "variance": (
        points(),
        {
            "process": ProcessConfig("ddpm"),
            "objective": ObjectiveConfig("hybrid", times="table"),
            "prediction": PredictionConfig("eps", variance="range", time="index"),
        },
    ),
    "sliced": (points(), {"objective": ObjectiveConfig("sliced-vr")}),
    "scheduled sampling": (
        points(),
        {"objective": ObjectiveConfig("scheduled-sampling", {"steps": "2", "eta": "1.0", "ramp": "6"})},
    ),
    "vae": (DIGITS, {"network": NetworkConfig("vae", {"width": "8", "blocks": "1", "latent": "2"})}),
}


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_every_kind_of_model(tmp_path: Path, kind: str) -> None:
    dataset, changes = MODEL_TYPES[kind]
    config = replace(tiny(7, output=replace(OUTPUT, sample_every=7)), **changes)
    run(config, tmp_path / "whole", dataset)
    with interrupted(5):
        run(config, tmp_path / "parts", dataset)
    run(config, tmp_path / "parts", dataset, resume=True)
    same_files(tmp_path / "whole", tmp_path / "parts")


def test_a_skipped_step_amid(tmp_path: Path) -> None:
    """The count of steps that were not finite, and of those in a row, is state as any other."""
    x = points()
    x.train._x[5] = 1e30  # type: ignore[index]
    run(everything(), tmp_path / "whole", x)
    assert models.load(tmp_path / "whole", device="cpu").config["skipped"] >= 1
    for step in range(2, STEPS):
        with interrupted(step):
            run(everything(), tmp_path / str(step), x)
        run(everything(), tmp_path / str(step), x, resume=True)
        same_files(tmp_path / "whole", tmp_path / str(step))


# ---------------------------------------------------------------- what is missing or does not belong


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped, to be copied and broken."""
    out = tmp_path_factory.mktemp("broken") / "run"
    small = NetworkConfig("mlp", {"width": "8", "depth": "1"})
    with interrupted(5):
        run(replace(everything(), network=small), out)
    return out


def refused(out: Path, breaking: Callable[[Path], Any], name: str, sealed: bool = True) -> None:
    """A run whose last checkpoint is broken is refused by a sentence with the file's name, and nothing is changed.

    ``sealed``: with a manifest of what is there now, so that it is not the checksum that tells.
    """
    path = training.checkpoints(out)[-1]
    held = {file: file.read_bytes() for file in [*path.iterdir(), *out.glob("*.*")] if file.is_file()}
    breaking(path)
    if sealed:
        files.seal(path, {n: files.digest((path / n).read_bytes()) for n in (*TENSORS, "state.json")})
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        run(Config(), out, resume=True)
    for file, content in held.items():
        if file.parent == out:
            assert file.read_bytes() == content
        else:
            file.write_bytes(content)


TENSORS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TENSORS)
def test_each_tensor_is_needed_as_it_is(broken: Path, name: str, every: int) -> None:
    tensors = load_file(training.checkpoints(broken)[-1] / name)
    for key, value in [*tensors.items()][::every]:
        others = {k: v for k, v in tensors.items() if k != key}
        bad: dict[str, dict[str, torch.Tensor]] = {
            "missing": others,
            "renamed": {**others, f"{key}x": value},
            "dtype": {**others, key: value.double()},
            "shape": {**others, key: value[None].clone()},
            "not finite": {**others, key: torch.full_like(value, np.nan)},
        }
        for made in bad.values():
            refused(broken, lambda path, made=made: save_file(made, path / name), name)
    refused(broken, lambda path: save_file({}, path / name), name)
    refused(broken, lambda path: (path / name).unlink(), name, sealed=False)


def keys(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all keys of nested objects."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*where, key)
            yield from keys(inner, (*where, key))


def test_each_key_of_the_state_is_needed(broken: Path) -> None:
    state = json.loads((training.checkpoints(broken)[-1] / "state.json").read_text())
    # What a network or a law is called with has defaults of its own, which weights must fit; a source is not compared.
    places = [p for p in keys(state) if not any(part.endswith("options") or part == "source" for part in p[:-1])]
    assert len(places) > 60
    for place in places:
        changed = json.loads(json.dumps(state))
        inner = changed
        for part in place[:-1]:
            inner = inner[part]
        del inner[place[-1]]
        refused(
            broken,
            lambda path, made=changed: (path / "state.json").write_text(json.dumps(made)),
            "state.json",
        )
    refused(broken, lambda path: (path / "state.json").unlink(), "state.json", sealed=False)
    refused(broken, lambda path: (path / "clock.json").unlink(), "clock.json")


BAD_VALUES: list[tuple[tuple[str, ...], Any]] = [
    (("progress", "step"), 4),
    (("progress", "step"), -5),
    (("progress", "step"), "5"),
    (("progress", "skipped"), 1),  # the optimiser has taken 5 steps
    (("progress", "skipped"), 6),
    (("progress", "loss_sum"), None),
    (("progress", "loss_count"), 0.5),
    (("progress", "in_a_row"), 3),
    (("progress", "division"), [1]),
    (("progress", "rows"), [{"step": 2}]),
    (("progress", "rows"), {}),
    (("objective",), {}),
    (("objective", "losses"), [[0.0]]),
    (("objective", "count"), "many"),
    (("scale",), {"value": 2.0, "good": 1}),
    (("config", "seed"), -1),
    (("config", "batch"), 0),
    (("config", "network", "name"), "nlp"),
    (("langevin",), 99),
]


@pytest.mark.parametrize(("place", "value"), BAD_VALUES, ids=lambda v: ".".join(v) if isinstance(v, tuple) else str(v))
def test_no_value_that_no_run_has(broken: Path, place: tuple[str, ...], value: Any) -> None:
    state = json.loads((training.checkpoints(broken)[-1] / "state.json").read_text())
    inner = state
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    refused(broken, lambda path: (path / "state.json").write_text(json.dumps(state)), "state.json")


@pytest.mark.parametrize("name", [*TENSORS, "state.json"])
def test_files_of_two_checkpoints_do_not_mix(broken: Path, tmp_path: Path, name: str) -> None:
    """Of another step of this run, and of the same step of another run."""
    other = tmp_path / "other"
    with interrupted(5):
        run(replace(everything(seed=1), network=NetworkConfig("mlp", {"width": "8", "depth": "1"})), other)
    for source in (training.checkpoints(broken)[-2], training.checkpoints(other)[-1]):
        refused(broken, lambda path, source=source: shutil.copy(source / name, path / name), name, sealed=False)


def test_weights_that_moved_between_names(broken: Path) -> None:
    """Two tensors of one shape, each under the other's name."""
    name = "model.safetensors"
    tensors = load_file(training.checkpoints(broken)[-1] / name)
    one, two = next((a, b) for a in tensors for b in tensors if a < b and tensors[a].shape == tensors[b].shape)
    mixed = {**tensors, one: tensors[two], two: tensors[one]}
    refused(broken, lambda path: save_file(mixed, path / name), name, sealed=False)
