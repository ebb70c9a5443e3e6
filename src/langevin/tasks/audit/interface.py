"""Checks of what pipelines ask of a scheduler besides its steps: configuration, noise added, a start half-way."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import truth
from .behaviour import line
from .conventions import Level, exploding
from .drive import Driven, distance, quiet
from .report import Said, Verdict, none, said
from .subject import Run, Subject


def config(subject: Subject) -> Said:
    """One made of its configuration, by way of JSON, gives the same samples; one that a run changes is noted."""
    if not isinstance(subject, Driven) or subject.config is None:
        return none("it has no configuration that another is made of")
    how = Run(10, 4)
    with quiet():
        made = subject.make()
        before = dict(made.config)
        subject.drive(made, how)
        changed = sorted(key for key, value in dict(made.config).items() if before.get(key) != value)
    gap = distance(subject.reloaded(how).x, subject.run(how).x)
    if gap == 0 and changed:
        return said("note", f"a run changes {', '.join(changed)} of its configuration", "none changed")
    return said("ok" if gap == 0 else "WRONG", f"samples differ by {gap:.1e}", "0", gap=gap)


def add_noise(subject: Subject) -> Said:
    """``add_noise`` (or ``scale_noise``) at the times of ten steps gives the states that the steps expect there.

    a·x_0 + s·ε with the level of the step; half a per cent allows for tables in float32.
    """
    if not isinstance(subject, Driven):
        return none("it has none")
    path = subject.run(Run(10, 2))
    with quiet():
        made = subject.make()
        add = noiser(made)
        if add is None:
            return none("it has none")
        made.set_timesteps(10)
        worst, at = 0.0, 0.0
        for i in range(0, len(made.timesteps), subject.every):
            gap = gap_of(add(made.timesteps[i : i + 1]), path.levels[i])
            if gap > worst:
                worst, at = gap, float(made.timesteps[i])
    figure = f"off by {worst:.1e} of a state" + (f" at time {at:g}" if worst > 0.005 else "")
    return said("ok" if worst <= 0.005 else "WRONG", figure, "at most 0.005", gap=worst)


def training_noise(subject: Subject) -> Said:
    """``add_noise`` before any ``set_timesteps``, as a training loop calls it, gives the noise of the time.

    For tables, at whole times t: √ᾱ_t x_0 + √(1 − ᾱ_t) ε, or x_0 + σ_t ε where the states of the steps are scaled so.
    """
    if not isinstance(subject, Driven) or subject.conventions.family != "table":
        return none("it has no table of times")
    scaled = abs(subject.run(Run(10, 1)).levels[0][0] - 1) < 1e-6
    count = len(subject.conventions.level.bar)  # type: ignore[attr-defined]
    with quiet():
        made = subject.make()
        add = noiser(made)
        if add is None:
            return none("it has none")
        worst, text = 0.0, ""
        for t in (0, count // 4, count // 2, count - 1):
            alpha, sigma = subject.conventions.level(t)
            level = exploding(sigma / alpha) if scaled else (alpha, sigma)
            try:
                x = add(torch.tensor([t]))
            except Exception as error:  # whatever a foreign scheduler raises is what it does here
                return said("note", f"{type(error).__name__} at time {t}: {line(error)}", "the noise of the time")
            gap = gap_of(x, level)
            if gap > worst:
                got = held(x)
                worst, text = gap, f"at time {t} it gives {got[0]:.4f} x_0 + {got[1]:.4g} ε"
                text += f", not {level[0]:.4f} x_0 + {level[1]:.4g} ε"
    if worst <= 0.005:
        return said("ok", f"off by {worst:.1e} of a state", "at most 0.005", gap=worst)
    return said("WRONG", text, "the noise of the time", gap=worst)


X0, EPS = truth.POINT.to(torch.float64), torch.tensor([1.0, -0.5, 0.3, 0.8], dtype=torch.float64).reshape(1, 1, 2, 2)
"""A datum and a noise that are no multiples of each other."""


def noiser(made: Any) -> Any:
    """What adds noise to ``X0`` at a time ``(1,)``; None if a scheduler has nothing of the kind."""
    for name, keys in (("add_noise", 3), ("scale_noise", 3)):
        method = getattr(made, name, None)
        if method is None:
            continue
        words = list(inspect.signature(method).parameters)
        if "noise" not in words or len(words) > keys:
            return None
        if name == "add_noise":
            return lambda t, method=method: method(X0, EPS, t)
        return lambda t, method=method: method(X0, t, noise=EPS)
    return None


def held(x: Tensor) -> Level:
    """(a, s) of a·X0 + s·EPS."""
    columns = torch.stack((X0.flatten(), EPS.flatten()), 1)
    a, s = torch.linalg.lstsq(columns, x.to(torch.float64).reshape(-1, 1)).solution.flatten().tolist()
    return a, s


def gap_of(x: Tensor, level: Level) -> float:
    """How far a noised ``X0`` is from a level, in units of a state of it."""
    exact = level[0] * X0 + level[1] * EPS
    gap = float((x.to(torch.float64) - exact).abs().max()) / math.hypot(*level)
    return gap if math.isfinite(gap) else math.inf


def entry(subject: Subject) -> Said:
    """A run that begins half-way, at noised data, as image-to-image does it: as exact as the whole run, and sane.

    Told its first index or left to find it, the samples are the same to rounding. Their error against the exact flow
    from the same states is at most thrice that of the whole run: what is left to go is less, though a multistep method
    begins anew. An error of more than 1, the size of the data, is WRONG where the whole run has a tenth of it.
    """
    if not isinstance(subject, Driven):
        return none("it takes any start")
    begin = 10 * subject.every
    how = Run(20, 16, begin=begin)
    whole = subject.run(replace(how, begin=0))
    if len(whole.asked) <= begin + 1:
        return none("too few evaluations")
    try:
        told = subject.run(how)
    except Exception as error:  # whatever a foreign scheduler raises is what it does here
        return said("WRONG", f"{type(error).__name__} at a start half-way: {line(error)}", "numbers")
    gap = distance(told.x, subject.run(replace(how, told=False)).x)
    if not bool(told.x.isfinite().all()):
        return said("WRONG", "samples that are no numbers", "numbers")
    if gap > 1e-5:
        return said("WRONG", f"told where it begins or not, samples differ by {gap:.1e}", "at most 1e-5", gap=gap)
    if subject.stochastic:
        return said("ok", "numbers, told where it begins or not", "numbers", gap=gap)
    errors = []
    for path in (told, whole):
        exact = truth.flow(path.states[0], path.levels[0], path.levels[-1])
        errors.append(float((path.x.to(torch.float64) - exact).abs().median()))
    figure = f"error {errors[0]:.1e}, of the whole run {errors[1]:.1e}"
    allowed = max(3 * errors[1], 1e-3)
    lost = errors[0] > max(1.0, 10 * errors[1])
    verdict: Verdict = "ok" if errors[0] <= allowed else "WRONG" if lost else "note"
    return said(verdict, figure, f"at most {allowed:.1e}", error=errors[0])


def ending(subject: Subject) -> Said:
    """A run of ten steps ends at clean data, or at the smallest noise that the network is trained with.

    From any larger one it could have gone on: what is left of it, s/a, is noise in the samples.
    """
    if not isinstance(subject, Driven):
        return none("a grid says where it ends")
    a, s = subject.run(Run(10, 2)).levels[-1]
    least, left = subject.conventions.least, s / a
    figure = f"σ/α = {left:.3g} is left after 10 steps"
    return said("ok" if left <= 1.01 * least else "WRONG", figure, f"at most {least:.3g}", left=left)


def beginning(subject: Subject) -> Said:
    """``init_noise_sigma`` is the size of the first state, and little of the data is left in it.

    Pipelines start from noise of that size, as if nothing of the data were left: between s, and √(a² + s²), the size of
    a state of data of unit variance, to 1 %. A share a/s of more than 5 % of the data in the first state is noted: pure
    noise is another law there (arXiv:2305.08891).
    """
    if not isinstance(subject, Driven):
        return none("it has none")
    with quiet():
        made = subject.make()
        made.set_timesteps(10)
        size = float(getattr(made, "init_noise_sigma", 1.0))
    if subject.leads:
        return none("it moves noise to its first time itself")
    a, s = subject.run(Run(10, 1)).levels[0]
    share = a / s
    figure = f"{size:.4g} for a state of {s:.4g}; {100 * share:.2g} % of the data left"
    values = {"init_noise_sigma": size, "s": s, "data left": share}
    expected = f"{s:.4g} to {math.hypot(a, s):.4g}, at most 5 % left"
    off = max(s * 0.99 - size, size - math.hypot(a, s) * 1.01, 0.0) / s
    verdict: Verdict = "WRONG" if off > 0.1 else "note" if off or share > 0.05 else "ok"
    return said(verdict, figure, expected, **values)
