"""Losses and gradients that are not finite, and float16: what is skipped changes nothing, and is counted."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from langevin import models, training
from langevin._errors import UserError
from langevin.objectives import DenoisingLoss
from langevin.training import Learner
from langevin.training.learner import LARGEST, Scale
from tiny_runs import points, tiny

Spoil = Callable[[torch.Tensor], torch.Tensor]


def state(learner: Learner) -> dict[str, torch.Tensor]:
    """Weights, average and moments."""
    return {f"{part}/{k}": v.clone() for part, held in learner.tensors().items() for k, v in held.items()}


def watched(config: training.Config, out: Path, spoil: Spoil, at: tuple[int, ...]) -> list[dict[str, torch.Tensor]]:
    """All tensors after each step, with the losses of some steps spoilt."""
    plain, loss, seen = Learner.step, DenoisingLoss.__call__, []

    def call(self: DenoisingLoss, denoiser: Any, x0: Any, condition: Any, noise: Any) -> torch.Tensor:
        value = loss(self, denoiser, x0, condition, noise)
        return spoil(value) if noise.draw in at and torch.is_grad_enabled() else value

    def step(self: Learner, *given: Any, **named: Any) -> Any:
        outcome = plain(self, *given, **named)
        seen.append(state(self))
        return outcome

    with mock.patch.object(Learner, "step", step), mock.patch.object(DenoisingLoss, "__call__", call):
        training.train(config, points(), out, device="cpu", quiet=True)
    return seen


SPOILT: dict[str, Spoil] = {
    "nan": lambda loss: loss * math.nan,
    "inf": lambda loss: loss * math.inf,
    "one of them": lambda loss: loss * torch.tensor([1.0] * 7 + [math.nan]),
    "a loss, not its gradient": lambda loss: loss + math.inf,
    "1e30": lambda loss: loss * 1e30,
    "more than float32 holds": lambda loss: loss * 1e60,
}


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("what", SPOILT)
def test_a_spike_changes_nothing(tmp_path: Path, what: str, precision: str, clip: float | None) -> None:
    base = tiny(8, precision=precision)
    config = replace(base, optimiser=replace(base.optimiser, clip=clip))
    with mock.patch.object(Scale, "FIRST", 2.0**10):  # 2¹⁶ is too much for the first step of this network
        seen = watched(config, tmp_path, SPOILT[what], (5,))
    same = lambda a, b: all(torch.equal(a[key], b[key]) for key in b)
    assert same(seen[4], seen[3])
    assert not same(seen[5], seen[4])
    assert all(torch.isfinite(v).all() for v in seen[-1].values())
    assert models.load(tmp_path, device="cpu").config["skipped"] == 1
    assert [row["skipped"] for row in csv.DictReader((tmp_path / "metrics.csv").open())] == ["0", "1", "1"]


def test_a_gradient_whose_square_is_infinite(tmp_path: Path) -> None:
    """Its norm is finite, in float64; Adam would remember its square for ever, as infinity, and not move again."""
    base = tiny(8)
    config = replace(base, optimiser=replace(base.optimiser, clip=None))
    with mock.patch("torch.nn.utils.clip_grad_norm_", return_value=torch.tensor(LARGEST, dtype=torch.float64)):
        seen = watched(config, tmp_path, lambda loss: loss, ())
    assert all(torch.equal(seen[0][key], seen[-1][key]) for key in seen[0])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30, -3e38])
def test_an_outlier_in_the_data(tmp_path: Path, value: float) -> None:
    """One example of sixty: steps without it go on, and the weights stay finite."""
    dataset = points()
    dataset.train._x[7] = value  # type: ignore[index]
    made = training.train(tiny(40), dataset, tmp_path, device="cpu", quiet=True)
    epochs = 40 * 8 / 60
    assert math.floor(epochs) <= made.config["skipped"] <= math.ceil(epochs)
    assert all(torch.isfinite(p).all() for p in made.network.parameters())


def test_the_scale_of_the_loss() -> None:
    scale = Scale(True)
    for _ in range(3):
        scale.after(False)
    assert (scale.value, scale.good) == (2.0**13, 0)
    for _ in range(Scale.EVERY):
        scale.after(True)
    assert (scale.value, scale.good) == (2.0**14, 0)
    scale.after(True)
    again = Scale(True)
    again.restore(scale.state())
    assert again.state() == scale.state() == {"value": 2.0**14, "good": 1}
    for bad in ({}, {"value": 3.0, "good": 0}, {"value": 2.0, "good": -1}, {"value": 0.0, "good": 0}, {"value": "2"}):
        with pytest.raises(UserError, match="scale of the loss"):
            again.restore(bad)
    idle = Scale(False)
    idle.after(False)
    assert (idle.value, idle.state()) == (1.0, {})


def test_float16_learns_what_float32_learns(tmp_path: Path) -> None:
    """The same batches and noise, the network's arithmetic rounded by 2⁻¹¹: the held-out loss is within 1 %."""
    held = {}
    for precision in ("float32", "float16", "bfloat16"):
        base = tiny(60, precision=precision)
        config = replace(base, optimiser=replace(base.optimiser, lr=5e-3, warmup=5))
        with mock.patch.object(Scale, "FIRST", 2.0**10):  # no step is skipped
            made = training.train(config, points(), tmp_path / precision, device="cpu", quiet=True)
        held[precision] = made.config["val_loss"]
        assert {p.dtype for p in made.network.parameters()} == {torch.float32}
    assert held["float32"] < 0.8  # it has learned
    assert held["float16"] == pytest.approx(held["float32"], rel=0.01)
    assert held["float16"] != held["float32"]
    assert held["bfloat16"] != held["float16"]


def test_float16_finds_its_scale(tmp_path: Path) -> None:
    """A loss so steep that 2¹⁶ times its gradient overflows: a few steps are skipped, then it goes on; it is resumed
    with the scale it had found."""
    config = replace(tiny(20, precision="float16"), seed=2)
    watched(config, tmp_path, lambda loss: loss * 1e4, tuple(range(1, 21)))
    kept = json.loads((training.checkpoints(tmp_path)[-1] / "state.json").read_text())
    assert 0 < kept["progress"]["skipped"] < 15
    assert kept["progress"]["in_a_row"] == 0
    assert kept["scale"]["value"] == 2.0 ** (16 - kept["progress"]["skipped"])
    steps = load_file(training.checkpoints(tmp_path)[-1] / "optimizer.safetensors")
    assert {float(v) for k, v in steps.items() if k.endswith("/step")} == {20.0 - kept["progress"]["skipped"]}


def test_dropout_is_each_sample_s_own() -> None:
    """The mask of a sample is a function of its noise, not of its batch; half of the features stay, doubled."""
    from langevin.distributions import Noise
    from langevin.training import NetworkConfig

    config = training.resolve_config(
        tiny(network=NetworkConfig("mlp", {"width": "16", "dropout": "0.5"})), points().info
    )
    denoiser, objective = training.build(config, points().info)
    learner = Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=6)
    module, masks = learner._dropouts[0], []
    module.register_forward_hook(lambda module, given, made: masks.append((made / given[0]).detach()))
    x0 = torch.randn(6, 2)
    for rows in (torch.arange(6), torch.tensor([4]), torch.tensor([5, 0])):
        learner._backward(learner.turns[0], {"x": x0[rows]}, Noise(3, 6, 1).rows(rows), {})
    whole, one, two = masks
    assert torch.equal(one[0], whole[4])
    assert torch.equal(two, whole[[5, 0]])
    assert not torch.equal(whole[0], whole[1])
    assert set(whole.unique().tolist()) == {0.0, 2.0}
