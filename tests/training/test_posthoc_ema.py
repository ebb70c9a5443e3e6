"""Averages of any length from a few that were stored: against quadrature, against averages that were tracked.

It is one file, of more than 400 lines, since the formula, the averages of a run and the model that is loaded are held
to the same courses of weights.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import langevin
from langevin import models, training
from langevin._errors import UserError
from langevin.storage import files
from langevin.training import (
    EMA,
    BudgetConfig,
    EMAConfig,
    Learner,
    NetworkConfig,
    ObjectiveConfig,
    ProcessConfig,
    posthoc_ema,
)
from langevin.training import snapshots as stored
from langevin.training.posthoc_ema import Profile, coefficients, combination, inner_product, profile_error
from tiny_runs import interrupted, killed, points, same_files, tiny

TARGETS = (0.03, 0.07, 0.15, 0.2)
T = 960
ROUNDING = 2.0**-24
"""Of float32, relative."""


def profiles(count: int, last: float = T) -> list[Profile]:
    """What ``count`` snapshots of a run of ``last`` steps store."""
    return [Profile(last * k / count, width) for k in range(1, count + 1) for width in stored.WIDTHS]


def run(out: Path, steps: int = 40, **changes: Any) -> Any:
    return training.train(tiny(steps, **changes), points(), out, device="cpu", quiet=True)


# ---------------------------------------------------------------- the formula


def quadrature(a: Profile, b: Profile) -> float:
    """∫ p_a p_b by Gauss–Legendre on panels that halve towards 0, from the definition of a profile.

    On a panel [h, 2h] a power is a function of τ/h alone, analytic on a disc of more than twice the panel's half-width
    around its centre: 40 nodes are good to rounding for powers up to 100. What is left out, (0, 2^-60 m), holds a share
    2^(-60 (α + γ + 1)) of the integral.
    """
    node, weight = np.polynomial.legendre.leggauss(40)

    def density(p: Profile, tau: np.ndarray) -> np.ndarray:
        return np.where(tau <= p.step, (p.exponent + 1) / p.step * (tau / p.step) ** p.exponent, 0.0)

    total, high = 0.0, min(a.step, b.step)
    for _ in range(60):
        low = high / 2
        tau = (low + high) / 2 + (high - low) / 2 * node
        total += float((high - low) / 2 * (weight * density(a, tau) * density(b, tau)).sum())
        high = low
    return total


@pytest.mark.parametrize("a", [Profile(7, 0.28), Profile(300, 0.05), Profile(1000, 0.02)])
@pytest.mark.parametrize("b", [Profile(7, 0.1), Profile(400, 0.2), Profile(250.5, 0.05)])
def test_inner_product_is_the_integral(a: Profile, b: Profile) -> None:
    wanted = quadrature(a, b)
    assert inner_product(a, b) == pytest.approx(wanted, rel=1e-10)
    assert inner_product(b, a) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("width", [0.05, 0.2])
def test_an_average_is_the_integral_of_its_profile(width: float) -> None:
    """The weights of the steps, by the recursion, are the integrals of the profile over (n − 1, n]: to 50 roundings."""
    ema, total = EMA(nn.Linear(1, 1), batch=1, width=width), np.zeros(50)
    for n in range(1, 51):
        total *= ema.decay(n)
        total[n - 1] += 1 - ema.decay(n)
    edges = (np.arange(51) / 50) ** (Profile(50, width).exponent + 1)
    np.testing.assert_allclose(total, np.diff(edges), rtol=0, atol=50 * 2.0**-53)


def test_the_error_of_a_profile_is_its_norm() -> None:
    """As a sum over fine cells, where each function is its mean over one: good to (h γ / τ)² / 24 of the profiles."""
    known, target = profiles(4), Profile(T, 0.15)
    c = coefficients(known, target)
    edges = np.arange(0, T + 1 / 16, 1 / 16)
    mean = lambda p: np.diff(np.minimum(edges / p.step, 1) ** (p.exponent + 1)) * 16
    residual = mean(target) - sum(x * mean(p) for x, p in zip(c.tolist(), known))
    norm = math.sqrt((residual**2).sum() / (mean(target) ** 2).sum())
    assert profile_error(known, c, target) == pytest.approx(norm, rel=1e-4)
    # It is least among coefficients that sum to 1: the slope along every such direction is 0, and the curve is convex.
    for i in range(len(c) - 1):
        for sign in (-1, 1):
            moved = c.clone()
            moved[i] += sign * 1e-3
            moved[i + 1] -= sign * 1e-3
            assert profile_error(known, moved, target) > profile_error(known, c, target)


@pytest.mark.parametrize("width", TARGETS)
def test_the_error_of_a_profile_falls_with_the_square_of_the_count(width: float) -> None:
    """Between two snapshots the profiles stored later are free multiples of τ^γ₁ and τ^γ₂, two functions that meet a
    smooth one and its slope: the error on an interval of length h is O(h²), so four times less with twice as many."""
    error = []
    for count in (32, 64, 128):
        known = profiles(count)
        error.append(profile_error(known, coefficients(known, Profile(T, width)), Profile(T, width)))
    assert 3.5 < error[0] / error[1] < 4.2
    assert 3.7 < error[1] / error[2] < 4.2


def test_the_table_of_the_page() -> None:
    """docs/ema.md prints the errors of profiles with two digits."""
    page = (Path(__file__).parents[2] / "docs" / "ema.md").read_text()
    lines = page.partition("<!-- profile errors -->")[2].partition("<!-- /profile errors -->")[0].strip().splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert [row[0] for row in rows] == ["4", "8", "16", "32", "64"]
    for count, *cells in rows:
        known = profiles(int(count))
        for width, cell in zip(head[1:], cells, strict=True):
            target = Profile(T, float(width))
            assert cell == f"{100 * profile_error(known, coefficients(known, target), target):.2g} %"


@pytest.mark.parametrize("width", TARGETS)
@pytest.mark.parametrize("count", [1, 4, 16, 64])
def test_coefficients_sum_to_one(width: float, count: int) -> None:
    """To rounding where that is asked for. Without, |1 − Σc| is at most ‖r‖ times the distance of the constant 1 from
    the stored profiles on (0, T], whose square is T − 1ᵀA⁻¹1 since every profile has integral 1."""
    known, target = profiles(count), Profile(T, width)
    c = coefficients(known, target)
    # A sum of 2N numbers, each rounded, and the multiplier's own: 4N eps Σ|c|, and cond(A) < 2e5 times that at worst.
    assert abs(float(c.sum()) - 1) <= 4 * len(c) * 2.0**-53 * float(c.abs().sum())
    plain = coefficients(known, target, unit_sum=False)
    gram = torch.tensor([[inner_product(a, b) for b in known] for a in known], dtype=torch.float64)
    ones = torch.ones(len(known), dtype=torch.float64)
    distance = math.sqrt(T - float(ones @ torch.linalg.solve(gram, ones)))
    residual = profile_error(known, plain, target) * math.sqrt(inner_product(target, target))
    off = abs(float(plain.sum()) - 1)
    assert 1e-3 * residual * distance < off <= residual * distance
    assert off > 1e3 * abs(float(c.sum()) - 1)
    right = torch.tensor([inner_product(a, target) for a in known], dtype=torch.float64)
    # The equation itself, to the rounding of a solution with numbers of this size.
    assert float((gram @ plain - right).abs().max()) < 1e-9 * float(right.max())


def test_a_stored_profile_is_taken_as_it_is() -> None:
    known = profiles(8)
    for i, profile in enumerate(known):
        assert coefficients(known, profile).tolist() == [float(i == j) for j in range(len(known))]
    # And what is solved for is the same, where it is not recognised.
    near = coefficients(known, Profile(known[5].step, known[5].width * (1 + 1e-9)))
    assert float((near - coefficients(known, known[5])).abs().max()) < 1e-6


# ---------------------------------------------------------------- weights that move


def tracked(theta: np.ndarray, profile: Profile) -> np.ndarray:
    """The averages at the profile's step of weights ``(T, …)``, by the recursion."""
    mean = np.zeros_like(theta[0])
    for n in range(1, int(profile.step) + 1):
        beta = (1 - 1 / n) ** (profile.exponent + 1)
        mean = beta * mean + (1 - beta) * theta[n - 1]
    return mean


def courses() -> np.ndarray:
    """Weights ``(T, 5)`` as functions of the step; 100 is far from 0 for how much they move."""
    n = np.arange(1, T + 1)
    rng = np.random.default_rng(0)
    falls, waves = np.exp(-n / 50), np.sin(n / 15) + np.cos(n / 70)
    walks, jumps = np.cumsum(rng.standard_normal(T)) / 10, (n > 0.8 * T) - 2.0 * (n < 0.3 * T)
    return 100 + np.stack([falls, waves, walks, jumps, rng.standard_normal(T)], 1)


@pytest.mark.parametrize("step", [T, 700])
@pytest.mark.parametrize("width", TARGETS)
def test_an_average_is_made_as_if_it_had_been_tracked(width: float, step: int) -> None:
    """The error is ∫ r (θ − m) for any m, so at most ‖r‖ (Σ_n (θ_n − m)²)^½ by Cauchy and Schwarz, and rounding: T
    blends of values below 110 for each average, times Σ|c|."""
    target, errors, theta = Profile(step, width), [], courses()
    moved, wanted = np.linalg.norm(theta - theta.mean(0), axis=0), tracked(theta, target)
    for count in (1, 2, 4, 8, 16, 32):
        known = profiles(count)
        c = coefficients(known, target).numpy()
        norm = profile_error(known, torch.from_numpy(c), target) * math.sqrt(inner_product(target, target))
        made = sum(x * tracked(theta, p) for x, p in zip(c.tolist(), known))
        rounding = T * 110 * 2.0**-53 * (1 + np.abs(c).sum())
        assert (np.abs(made - wanted) <= norm * moved + rounding).all()
        errors.append(np.abs(made - wanted).max())
    assert errors[-1] < errors[0] / 20  # the profile itself is met 15 to 50 times better with 32 than with one


def test_the_bound_is_met() -> None:
    """Weights that move as the residual does are as far off as the bound says, but for its change within a step."""
    known, target = profiles(8), Profile(T, 0.2)
    c = coefficients(known, target)
    cells = lambda p: np.diff(np.minimum(np.arange(T + 1) / p.step, 1) ** (p.exponent + 1))
    residual = cells(target) - sum(x * cells(p) for x, p in zip(c.tolist(), known))
    theta = residual / np.linalg.norm(residual)
    error = float(abs(sum(x * tracked(theta, p) for x, p in zip(c.tolist(), known)) - tracked(theta, target)))
    bound = profile_error(known, c, target) * math.sqrt(inner_product(target, target))
    assert 0.99 * bound < error <= bound


@contextmanager
def watched(averages: dict[float, EMA], course: list[Tensor]) -> Iterator[None]:
    """Averages of other lengths are tracked along, and the weights of every step are kept."""
    plain = Learner.step

    def step(self: Learner, *given: Any, **named: Any) -> Any:
        for width in TARGETS:
            averages.setdefault(width, EMA(self.network, self.batch, width))
        made = plain(self, *given, **named)
        for average in averages.values():
            average.update(self.network, named["number"])
        course.append(torch.cat([p.detach().flatten().double() for p in self.network.parameters()]))
        return made

    with mock.patch.object(Learner, "step", step):
        yield


def test_a_trained_model_of_any_length(tmp_path: Path) -> None:
    """Every weight of a network is within the bound of an average that was tracked while it learned.

    Rounding: averages take 48 blends in float32, of values below the largest weight; what is stored is rounded once, by
    half a unit of its precision (of float16 also at most 2^-25 near 0).
    """
    averages: dict[float, EMA] = {}
    course: list[Tensor] = []
    with watched(averages, course):
        model = run(tmp_path / "float32", 48, ema=EMAConfig(width=0.1, snapshots=8))
    shutil.copytree(tmp_path / "float32", tmp_path / "float16", ignore=lambda *_: [stored.FOLDER])
    for step in steps_of(tmp_path / "float32"):
        read = {s.width: s.read() for s in stored.found(tmp_path / "float32") if s.step == step}
        stored.save(tmp_path / "float16", step, read, torch.float16)
    theta = torch.stack(course)
    largest, moved = float(theta.abs().max()), (theta - theta.mean(0)).norm(dim=0)
    flat = lambda network: torch.cat([p.detach().flatten().double() for p in network.parameters()])
    for dtype, unit in (("float32", 0.0), ("float16", 2.0**-11 * largest + 2.0**-25)):
        for width, average in averages.items():
            made = combination(tmp_path / dtype, width)
            c = float(made.coefficients.abs().sum())
            norm = made.error * math.sqrt(inner_product(made.target, made.target))
            rounding = 48 * ROUNDING * largest * (1 + c) + c * unit
            loaded = langevin.load(tmp_path / dtype, ema=width, device="cpu")
            error = (flat(loaded.network) - flat(average.network)).abs()
            assert bool((error <= norm * moved + rounding).all())
            # Another length would not be: the average that the run keeps is further off than the one made.
            if dtype == "float32":
                other = (flat(model.network) - flat(average.network)).norm()
                assert float(error.norm()) < 0.3 * float(other)


def test_what_was_stored_is_given_back_to_the_bit(tmp_path: Path) -> None:
    model = run(tmp_path / "run", 40, ema=EMAConfig(snapshots=4))
    same = langevin.load(tmp_path / "run", ema=0.1, device="cpu")
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, same.network.state_dict()[name])
    kept = load_file(training.checkpoints(tmp_path / "run")[-1] / "ema-050.safetensors")
    for step in (20, 40):
        wanted = load_file(stored.place(tmp_path / "run", step) / "ema-050.safetensors")
        made = langevin.load(tmp_path / "run", ema=0.05, step=step, device="cpu")
        for name, value in made.network.named_parameters():
            assert torch.equal(value, wanted[name])
            assert step == 20 or torch.equal(value, kept[name])
    assert made.config["ema"] == {"width": 0.05, "step": 40}
    assert langevin.load(tmp_path / "run", ema=0.05, step=20, device="cpu").config["steps"] == 20


def test_a_model_of_another_length_is_a_model(tmp_path: Path) -> None:
    """It is sampled, saved and loaded as any other, and what was learned for other weights does not go with it."""
    run(tmp_path / "run", 20, ema=EMAConfig(snapshots=4))
    made = langevin.load(tmp_path / "run", ema=0.15, device="cpu")
    plain = langevin.load(tmp_path / "run", device="cpu")
    kept = [p.clone() for p in plain.network.parameters()]
    posthoc_ema.with_ema(plain, tmp_path / "run", 0.15)
    assert all(map(torch.equal, kept, plain.network.parameters()))  # a copy is made
    models.save(made, tmp_path / "saved")
    again = langevin.load(tmp_path / "saved", device="cpu")
    assert again.config["ema"] == {"width": 0.15, "step": 20}
    x = [langevin.sample(model, n=4, steps=3, seed=0) for model in (made, again)]
    assert torch.equal(*x)
    assert not torch.equal(x[0], langevin.sample(langevin.load(tmp_path / "run", device="cpu"), n=4, steps=3, seed=0))


KINDS: dict[str, dict[str, Any]] = {
    "gan": {"objective": ObjectiveConfig("gan", {"discriminator": '{"width": 16, "depth": 1}'})},
    "classifier": {"objective": ObjectiveConfig("cross-entropy")},
    "normalizing-flow": {"network": NetworkConfig("coupling", {"width": "8", "depth": "2", "hidden": "1"})},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(tmp_path: Path, kind: str) -> None:
    """A discriminator is no part of what is stored, as it is none of what is loaded."""
    run(tmp_path / "run", 12, ema=EMAConfig(snapshots=3), **KINDS[kind])
    plain = langevin.load(tmp_path / "run", device="cpu")
    one, other = (langevin.load(tmp_path / "run", ema=width, device="cpu") for width in (0.1, 0.2))
    assert type(one) is type(plain)
    state = plain.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in one.network.state_dict().items())
    assert any(not torch.equal(value, state[name]) for name, value in other.network.state_dict().items())


# ---------------------------------------------------------------- what a run stores


def steps_of(out: Path) -> list[int]:
    return sorted({snapshot.step for snapshot in stored.found(out)})


def test_snapshots_are_spread_over_the_run(tmp_path: Path) -> None:
    """The last at its end, none for 0, one a step at most; both widths each, rounded as asked for."""
    for count, wanted in ((0, []), (1, [7]), (3, [3, 5, 7]), (20, [1, 2, 3, 4, 5, 6, 7])):
        out = tmp_path / str(count)
        run(out, 7, ema=EMAConfig(snapshots=count))
        assert steps_of(out) == wanted
        assert (out / stored.FOLDER).exists() == bool(count)
    assert {s.width for s in stored.found(tmp_path / "3")} == {0.05, 0.1}
    run(tmp_path / "half", 7, ema=EMAConfig(snapshots=3, snapshot_precision="float16"))
    for one, two in zip(stored.found(tmp_path / "3"), stored.found(tmp_path / "half")):
        half = two.read()
        for name, value in one.read().items():
            assert half[name].dtype == torch.float16
            assert torch.equal(half[name], value.half())


def test_what_float16_has_no_number_for_stays(tmp_path: Path) -> None:
    tensors = {"large": torch.tensor([1e5, 1.0]), "small": torch.tensor([1.0]), "none": torch.zeros(0)}
    stored.save(tmp_path, 3, {0.05: tensors}, torch.float16)
    (snapshot,) = stored.found(tmp_path)
    read = snapshot.read()
    assert torch.equal(read["large"], tensors["large"])
    assert read["small"].dtype == torch.float16


def test_a_budget_in_minutes(tmp_path: Path) -> None:
    """By the clock, then; the last is at the end all the same."""
    training.train(
        replace(tiny(ema=EMAConfig(snapshots=3)), budget=BudgetConfig(minutes=0.02)),
        points(),
        tmp_path / "run",
        device="cpu",
        quiet=True,
    )
    steps = steps_of(tmp_path / "run")
    assert len(steps) == 3
    assert steps[-1] == models.load(tmp_path / "run", device="cpu").config["steps"]


@pytest.mark.parametrize(
    "ema",
    [
        EMAConfig(snapshots=4),
        EMAConfig("constant", half_life=50.0, snapshots=5, snapshot_precision="float16"),
    ],
    ids=["one-beside", "two-beside"],
)
@pytest.mark.parametrize("steps", [(3, 7), pytest.param(range(1, 10), marks=pytest.mark.slow)], ids=["some", "all"])
def test_a_resumed_run_stores_the_same(tmp_path: Path, ema: EMAConfig, steps: Sequence[int]) -> None:
    """Interrupted and killed, after a snapshot and before the next checkpoint too, it ends with the same bytes."""
    run(tmp_path / "whole", 9, ema=ema)
    assert 6 in steps_of(tmp_path / "whole") or 7 in steps_of(tmp_path / "whole")  # checkpoints are every 4
    for step in steps:
        for name, stop in (("stop", interrupted), ("kill", killed)):
            if step == 9 and name == "stop":
                continue
            out = tmp_path / f"{name}-{step}"
            with stop(step):
                run(out, 9, ema=ema)
            config, resume = tiny(9, ema=ema), bool(training.checkpoints(out))
            training.train(config, points(), out, device="cpu", quiet=True, resume=resume)
            same_files(tmp_path / "whole", out)


def test_what_a_killed_run_stored_is_stored_again(tmp_path: Path) -> None:
    """After the last checkpoint: it is of steps that the run, gone on with otherwise, takes anew."""
    out = tmp_path / "run"
    with killed(8):
        run(out, 9, ema=EMAConfig(snapshots=9))
    assert steps_of(out) == [1, 2, 3, 4, 5, 6, 7]
    config = replace(tiny(12, ema=EMAConfig(snapshots=9)), budget=BudgetConfig(steps=12))
    training.train(config, points(), out, device="cpu", quiet=True, resume=True)
    assert steps_of(out) == [1, 2, 3, 4, *(s for s in range(5, 13) if 9 * s // 12 > 9 * (s - 1) // 12)]


def refused(match: str, work: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=match):
        work()


def test_requests_that_cannot_be_met(tmp_path: Path) -> None:
    run(tmp_path / "plain", 4)
    run(tmp_path / "run", 9, ema=EMAConfig(snapshots=2))
    load = lambda name="run", **named: lambda: langevin.load(tmp_path / name, device="cpu", **named)
    refused("plain holds no stored averages .* train with --ema.snapshots", load("plain", ema=0.1))
    for width in (0.0, -0.1, 0.29, math.nan, "0.1", True):
        refused(r"ema must be a relative length \(sigma_rel\) in \(0, 0.28\], got", load(ema=width))
    refused("step must be at most 9, .* got 10", load(ema=0.1, step=10))
    refused("step must be an integer of at least 1, got 0", load(ema=0.1, step=0))
    refused("give ema too, got step 4", load(step=4))
    with pytest.warns(UserWarning, match="length 0.005 at step 9 only roughly: its profile is off by"):
        load(ema=0.005)()
    for bad in (-1, 257, 1.5, True):
        refused(
            "ema.snapshots must be an integer from 0",
            lambda bad=bad: run(tmp_path / "no", 4, ema=EMAConfig(snapshots=bad)),
        )
    bad = EMAConfig(snapshots=1, snapshot_precision="bfloat16")  # type: ignore[arg-type]
    refused("ema.snapshot-precision must be float32 or float16", lambda: run(tmp_path / "no", 4, ema=bad))
    learned = {
        "process": ProcessConfig("learned", {"gamma": "[-6, 3]"}),
        "objective": ObjectiveConfig("vdm"),
        "ema": EMAConfig(snapshots=1),
    }
    refused("this run learns its process too", lambda: run(tmp_path / "no", 4, **learned))
    assert not (tmp_path / "no" / "averages").exists()


@pytest.mark.slow  # importing peft takes longer than all of this file
def test_a_lora_stores_none(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run(tmp_path / "base", 4)
    base = langevin.load(tmp_path / "base", device="cpu")
    start = training.StartConfig(model=str(tmp_path / "base"), lora=2, layers=("all",))
    config = replace(training.Config(batch=8), start=start, ema=EMAConfig(snapshots=1), budget=BudgetConfig(steps=2))
    work = lambda: training.train(config, points(), tmp_path / "lora", device="cpu", quiet=True, base=base)
    refused("this run trains a LoRA or a pipeline", work)


def test_what_is_damaged_is_named(tmp_path: Path) -> None:
    """A file that was cut, changed, exchanged or lost; an index of another step, or of other widths."""
    run(tmp_path / "run", 9, ema=EMAConfig(snapshots=2))
    folder = stored.place(tmp_path / "run", 9)
    file, index = folder / "ema-050.safetensors", folder / "index.json"
    load = lambda: langevin.load(tmp_path / "run", ema=0.2, device="cpu")
    told, tensors = json.loads(index.read_text()), load_file(file)

    def breaking(path: Path, content: bytes | None, match: str) -> None:
        kept = path.read_bytes()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        refused(match, load)
        path.write_bytes(kept)

    breaking(file, None, "ema-050.safetensors is missing")
    breaking(file, file.read_bytes()[:-4], "ema-050.safetensors is truncated")
    breaking(file, (folder / "ema-100.safetensors").read_bytes(), "ema-050.safetensors is damaged")
    breaking(index, None, "index.json is missing")
    for key, value in (
        ("step", 8),
        ("step", "9"),
        ("widths", [0.05]),
        ("widths", [0.05, 0.3]),
        ("widths", [0.05, 0.05]),
        ("files", {}),
        ("langevin", 99),
        ("kind", "model"),
        ("more", 1),
    ):
        breaking(index, json.dumps({**told, key: value}).encode(), "index.json")
    name = next(iter(tensors))
    for made in (
        {key: value for key, value in tensors.items() if key != name},
        {**tensors, name: torch.full_like(tensors[name], math.nan)},
        {**tensors, "more": tensors[name].clone()},
    ):
        save_file(made, tmp_path / "made")
        content = (tmp_path / "made").read_bytes()
        kept = index.read_text()
        index.write_text(json.dumps({**told, "files": {**told["files"], file.name: files.digest(content)}}))
        breaking(file, content, "ema-050.safetensors|ema-100.safetensors")
        index.write_text(kept)
    load()


def test_averages_of_another_network_are_refused(tmp_path: Path) -> None:
    """Of other shapes, and of other names."""
    run(tmp_path / "run", 2, ema=EMAConfig(snapshots=1))
    for options in ({"width": "8", "depth": "2"}, {"width": "16", "depth": "3"}):
        other = tmp_path / f"other-{len(list(tmp_path.iterdir()))}"
        run(other, 2, ema=EMAConfig(snapshots=1), network=NetworkConfig("mlp", options))  # type: ignore[arg-type]
        shutil.rmtree(tmp_path / "run" / stored.FOLDER)
        shutil.copytree(other / stored.FOLDER, tmp_path / "run" / stored.FOLDER)
        with pytest.raises(UserError, match="does not match its configuration"):
            langevin.load(tmp_path / "run", ema=0.07, device="cpu")


def test_a_checkpoint_needs_its_averages(tmp_path: Path) -> None:
    """As they were: a missing or exchanged one is told, not made anew."""
    out = tmp_path / "run"
    with interrupted(6):
        run(out, 9, ema=EMAConfig(snapshots=2))
    path = training.checkpoints(out)[-1] / "ema-050.safetensors"
    kept = path.read_bytes()
    resume = lambda: training.train(tiny(9), points(), out, device="cpu", quiet=True, resume=True)
    path.unlink()
    refused("ema-050.safetensors", resume)
    path.write_bytes((path.parent / "ema.safetensors").read_bytes())
    refused("ema-050.safetensors is damaged", resume)
    path.write_bytes(kept)
    resume()
