"""Checks of what a thing computes: its order, the levels its states stand at, the law of its samples."""

from __future__ import annotations

import itertools
import math

import torch

from . import truth
from .conventions import Level
from .report import Said, none, said
from .subject import Path, Run, Subject

RATIO = 0.3
"""The noise-to-signal ratio at which an order is measured: the structure of the world, 0.1 to 0.35, is there."""

COUNTS = (64, 128, 256)
"""Steps of an order's measurement."""

SLACK = 0.35
"""What a measured order may lack: slopes over two doublings in the laws of this library scatter by up to 0.25."""

ROUNDING = 2e-6
"""Errors below this are of float32, in which most schedulers keep their states and coefficients."""


def order(subject: Subject) -> Said:
    """Against the exact flow the error at a fixed noise level falls with the number of steps n as n^(−p).

    The flow is known to 1e-10. The level is one that the run passes through (or the sampler is given a grid that ends
    there), so that the last step to clean data, of first order in most methods, does not hide the order of the others.
    Tables are made ten times as long, since a grid of 256 of 1000 whole times is not smooth. A multistep method of
    order p that begins with a step of first order has in that step a local error of h², and so is of order 2 as a
    whole, whatever p: it is WRONG below min(p, 2), and noted below p. One that is below on both doublings is below.
    Where times are rounded to whole ones and noise levels are not, an error stays that no step size takes away: noted.
    """
    if subject.stochastic:
        return none("it draws noise; see law")
    errors, rounded = [], 0.0
    for n in COUNTS:
        run, i = subject.near(Run(n, 16, fine=True, until=RATIO), RATIO)
        end, rounded = run.levels[i], asked_off(run)
        off = run.states[i] - truth.flow(run.states[0], run.levels[0], end)
        errors.append(float(off.abs().median()) / math.hypot(*end))
    if not all(map(math.isfinite, errors)):
        return said("WRONG", "an error that is no number")
    slopes = [math.log2(a / max(b, 1e-300)) for a, b in itertools.pairwise(errors)]
    slope = sum(slopes) / len(slopes)
    if errors[-1] < ROUNDING:  # the last doubling is lost in rounding
        slope = slopes[0]
    figure = f"{slope:.2f} (errors {', '.join(f'{e:.1e}' for e in errors)} at {', '.join(map(str, COUNTS))} steps)"
    values = {"order": slope, **{f"error at {n}": e for n, e in zip(COUNTS, errors)}}
    if errors[0] < ROUNDING:
        return said("ok", f"errors below float32's rounding, {errors[0]:.1e} at {COUNTS[0]} steps", "", **values)
    if subject.order is None:
        return said("note", figure, "none declared", **values)
    if rounded > 1e-4 and slope < subject.order - SLACK:
        why = (
            f"{subject.order:g} declared; the network is told noise off by {100 * rounded:.2g} %, which leaves an error"
        )
        return said("note", figure, why, **values)
    claimed, entitled = subject.order, min(subject.order, 2.0)
    expected = f"{claimed:g} declared"
    if slope < entitled - SLACK and max(slopes) < entitled - SLACK / 2:
        return said("WRONG", figure, f"{expected}, at least {entitled - SLACK:.2f}", **values)
    if slope < claimed - SLACK:
        return said("note", figure, f"{expected}; a start of first order leaves 2", **values)
    return said("ok", figure, expected, **values)


def path(subject: Subject) -> Said:
    """The distance of samples to the ends of the exact flow from the same starts: the median over coordinates."""
    if subject.stochastic:
        return none("it draws noise")
    values = {}
    for n in (10, 50):
        run = subject.run(Run(n, 64))
        exact = truth.flow(run.states[0], run.levels[0], run.levels[-1])
        values[f"error at {n}"] = float((run.x.to(torch.float64) - exact).abs().median())
    figure = f"{values['error at 10']:.4f} at 10 steps, {values['error at 50']:.4f} at 50"
    return said("note", figure, "0; for comparison", **values)


def levels(subject: Subject) -> Said:
    """Where all data are one point, x̂_0 and ε̂ are constant, and states are a·x_0 + s·ε at the times they claim.

    A deterministic method whose step is linear in x̂_0 and ε̂ with the right coefficients is exact there at any number of
    steps, to float32's rounding of a state of the size of the first, 1e-3 at most. A state that is another level's,
    exactly, shows a step of another length than the grid's: WRONG at any number of steps. Otherwise four times as many
    steps must at least halve what is missed, as an integrator of order 1 does (to a quarter). Where the network is
    asked at times of another noise than the state's (``times`` says by how much), that share may be missed as well.

    Methods that draw noise are held to the mean and the standard deviation of 8192 numbers: 4 standard errors of the
    latter are 3.1 %. Ten steps and seven, which do not divide a table of a thousand.
    """
    misses, worst, told = {}, ("", 0.0), 0.0
    for n in (10, 7, 40):
        run = subject.run(Run(n, 2048 if subject.stochastic else 8, belief=truth.point))
        missed = [miss(run, i, subject.stochastic) for i in range(len(run.states)) if judged(subject, run, i)]
        misses[n], told = max(missed), max(told, asked_off(run))
        if n != 40 and (found := strayed(subject, n)):
            worst = (f"{n} steps: {found}", 1.0)
            break
    values = {f"miss at {n}": m for n, m in misses.items()}
    base = 0.035 if subject.stochastic else 1e-3
    least = base + told
    bound = f"{least:.2g} ({base:g}, and {told:.1g} for the times)" if told > 0.01 * base else f"{least:.2g}"
    if worst[1]:
        return said("WRONG", worst[0], "the level of the time that is asked next", **values)
    figure = f"off by {misses[10]:.1e} of a state at 10 steps, {misses[7]:.1e} at 7, {misses[40]:.1e} at 40"
    if max(misses[10], misses[7]) <= least:
        return said("ok", figure, f"at most {bound}", **values)
    proven = subject.kind == "scheduler" or not subject.stochastic  # chains of Langevin have a bias of their step size
    if proven and misses[40] > 2 * least and not misses[40] <= 0.5 * misses[10]:
        return said("WRONG", figure, f"at most {bound}, or falling with the steps", **values)
    return said("note", figure, f"{bound}; it falls with the steps", **values)


def asked_off(run: Path) -> float:
    """How far the noise that the network is told is from that of the states: the angles atan(s/a), relatively.

    A small angle is the noise-to-signal ratio; near pure noise, where that ratio is huge and says little, it is π/2.
    """
    if len(run.asked) != len(run.states) - 1:  # samplers here show the states of steps, not of evaluations
        return 0.0
    pairs = [(angle(own), angle(told)) for own, told in zip(run.levels, run.asked_levels)]
    return max((abs(a - b) / max(a, b) for a, b in pairs if max(a, b) > 0), default=0.0)


def angle(level: Level) -> float:
    """atan(s/a), from 0 for data to π/2 for noise."""
    return math.atan2(level[1], level[0])


def judged(subject: Subject, run: Path, i: int) -> bool:
    """Whether a state is one that a method stands by: no stage within a step."""
    return i == len(run.states) - 1 or i % subject.every == 0


def miss(run: Path, i: int, stochastic: bool) -> float:
    """How far a state on the world of a point is from its level, in units of the state."""
    a, s = run.levels[i]
    x, begin, (a0, s0) = run.states[i].to(torch.float64), run.states[0].to(torch.float64), run.levels[0]
    if not bool(x.isfinite().all()):
        return math.inf
    size = math.hypot(a * float(truth.POINT.abs().max()), s)
    if not stochastic:
        exact = a * truth.POINT + s * (begin - a0 * truth.POINT) / s0
        return float((x - exact).abs().max()) / size / 3  # ε goes to about three standard deviations
    signal, spread = fitted(run, i, True)
    # The mean of n samples has an error of s/√n, which is none of the method's.
    off = max(0.0, abs(signal - a) * float(truth.POINT.norm()) - 4 * s / math.sqrt(len(x)))
    return max(off, abs(spread - s)) / size


def fitted(run: Path, i: int, stochastic: bool) -> Level:
    """(a, s) of a state on the world of a point: its share of the point, and that of the noise."""
    a0, s0 = run.levels[0]
    x, m = run.states[i].to(torch.float64), truth.POINT
    if stochastic:
        a = float((x.mean(0, keepdim=True) * m).sum() / m.square().sum())
        return a, float((x - a * m).square().mean().sqrt())
    eps = (run.states[0].to(torch.float64) - a0 * m) / s0
    columns = torch.stack((m.expand(x.shape).reshape(-1), eps.reshape(-1)), 1)
    solved = torch.linalg.lstsq(columns, x.reshape(-1, 1)).solution.flatten()
    return float(solved[0]), float(solved[1])


def strayed(subject: Subject, steps: int) -> str:
    """What is said of a step from the middle that leads, exactly, to another level than that of the time asked next.

    In the middle α and σ are alike, so that an integrator's local error of a tenth leaves the curve of the levels by
    far more than 1e-4, and a right step of a wrong length does not.
    """
    if subject.stochastic or subject.kind != "scheduler":
        return ""
    i, begin = subject.every, steps // 2 * subject.every
    run = subject.run(Run(steps, 8, belief=truth.point, begin=begin))
    if len(run.states) <= i + 1:
        return ""
    (a, s), (b, r) = run.levels[i], fitted(run, i, False)
    if not (b > 0 < r and a > 0 < s) or abs(curve(subject, (b, r)) - curve(subject, (a, s))) > 1e-4:
        return ""
    if abs(math.log(r / b) - math.log(s / a)) < 0.01:
        return ""
    return f"a step from time {run.asked[0]:g} leads to σ/α = {r / b:.4g}, the next time asked stands for {s / a:.4g}"


def curve(subject: Subject, level: Level) -> float:
    """What is the same for all levels of a family: α² + σ², α + σ, or α."""
    a, s = level
    if subject.family == "flow":
        return a + s
    return a if subject.family == "edm" else math.hypot(a, s)


def run_laws(subject: Subject) -> dict[int, truth.Law | None]:
    """The law of N samples at 10, 50 and the most steps; None where they are no numbers."""
    found: dict[int, truth.Law | None] | None = subject.__dict__.get("laws")
    if found is None:
        found = {}
        for n in (10, 50, subject.most, subject.most // 2):
            if max(found, default=0) > 50 and n < subject.most and found[subject.most] is not None:
                break  # half as many are for those that fail at the most, which is another row's
            try:
                x = subject.run(Run(n, truth.N)).x
            except Exception:  # of foreign code, which "finite" tells of
                x = torch.full((1,), math.nan)
            found[n] = truth.law(x) if bool(x.isfinite().all()) else None
        if found.get(subject.most) is None and found.get(subject.most // 2) is not None:
            del found[subject.most]
        subject.__dict__["laws"] = found
    return found


def law(subject: Subject) -> Said:
    """Sliced W2 of 2048 samples to as many data, over its floor; started from the exact law of the first level.

    The floor is the mean and four standard deviations of what 32 pairs of sets of the truth are apart. A method need
    not reach it in a few steps; at the most (1000) it must, or its distance must at least still be falling: to 0.6 of
    that at 50, where an error of order 1 would be a twentieth. One that stands above its floor is WRONG.
    """
    found, floor = run_laws(subject), truth.w2_floor()
    most = max(found)
    if lost := [n for n, one in found.items() if one is None]:
        return said("WRONG", f"samples that are no numbers at {', '.join(map(str, lost))} steps", "numbers")
    ratios = {n: one.w2 / floor for n, one in found.items() if one}
    figure = ", ".join(f"{r:.2f} at {n}" for n, r in ratios.items())
    values = {f"w2 over floor at {n}": r for n, r in ratios.items()}
    if ratios[most] <= 1:
        return said("ok", figure, f"at most 1 at {most}", **values)
    falling = ratios[most] <= 0.6 * ratios[50]
    return said("note" if falling else "WRONG", figure, f"at most 1 at {most}", **values)


def moments(subject: Subject) -> Said:
    """The variance of samples over that of the data at 10, 50 and the most steps, and the mean at the most.

    Judged at the most steps: the variance within 4.5 standard errors of 2048 samples, and 1 % (1000 steps of a first
    order method err by no more); coordinates' means within 4.5 standard errors (four of them are looked at) and 1 % of
    the data's spread. What lies outside, and is not at most half of what it was at 50 steps, is WRONG.
    """
    found = run_laws(subject)
    most = max(found)
    last, before = found[most], found[50]
    if last is None or before is None:
        return none("samples that are no numbers")
    figure = ", ".join(f"{one.variance:.3f} at {n}" for n, one in found.items() if one)
    values = {f"variance at {n}": one.variance for n, one in found.items() if one}
    values["mean at the most"] = last.mean
    allowed = 4.5 * truth.variance_error() + 0.01
    mean_allowed = 4.5 + 0.01 * math.sqrt(truth.N)
    figure += f"; mean off by {last.mean:.1f} standard errors"
    expected = f"1 ± {allowed:.3f} at {most}, mean within {mean_allowed:.2f} standard errors"
    off = (abs(last.variance - 1) / allowed, last.mean / mean_allowed)
    earlier = (abs(before.variance - 1) / allowed, before.mean / mean_allowed)
    if max(off) <= 1:
        return said("ok", figure, expected, **values)
    stuck = any(now > 1 and now > then / 2 for now, then in zip(off, earlier))
    return said("WRONG" if stuck else "note", figure, expected, **values)
