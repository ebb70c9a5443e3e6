"""Checks of how a thing behaves: times, wasted work, numbers, dtypes, batches, seeds, what is left from run to run."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch

from .accuracy import asked_off
from .drive import distance
from .report import Said, Verdict, none, said
from .subject import Run, Subject

HALVES = (torch.float16, torch.bfloat16)


def times(subject: Subject) -> Said:
    """The times at which ten steps ask the network: falling, none twice in a row, of the noise that the state has.

    Rising times are WRONG, and so is a run that asks nothing. Repeated ones, beyond those of methods of several
    evaluations a step, and times that stand for another noise than the state's (a grid of noise levels whose times are
    rounded to whole ones) are noted: the network is asked a question that is not the one at hand; what it costs is in
    the other rows.
    """
    run = subject.run(Run(10, 2))
    asked = list(run.asked)
    if not asked:
        return said("WRONG", "the network is never asked: samples do not depend on it", "evaluations", evaluations=0.0)
    aligned = len(asked) == len(run.states) - 1  # a state before each evaluation; samplers here show those of steps
    off = asked_off(run)
    noise = [level_ratio(told) for told in run.asked_levels]
    main = noise[:: subject.every] if aligned else []
    rising = any(b > a * (1 + 1e-9) for a, b in itertools.pairwise(main))
    repeats = sum(a == b for a, b in itertools.pairwise(asked)) if aligned and subject.every == 1 else 0
    figure = f"{len(asked)} evaluations, from {asked[0]:.4g} to {asked[-1]:.4g}"
    figure += f"; {repeats} asked again at once" if repeats else ""
    figure += f"; noise asked for and noise held differ by up to {100 * off:.2g} %" if off > 1e-4 else ""
    values = {"evaluations": float(len(asked)), "repeats": float(repeats), "noise off": off}
    expected = "falling times, of the noise that the states have"
    if rising:
        return said("WRONG", f"{figure}; noise rises", expected, **values)
    return said("note" if repeats or off > 0.01 else "ok", figure, expected, **values)


def level_ratio(level: tuple[float, float]) -> float:
    """s/a; infinite for pure noise."""
    return level[1] / level[0] if level[0] > 0 else math.inf


def wasted(subject: Subject) -> Said:
    """Each of the evaluations of ten steps, changed by 0.01, changes the samples; one that does not was for nothing."""
    how = Run(10, 4)
    plain = subject.run(how)
    if not (count := len(plain.asked)):
        return none("the network is never asked: see times")
    unused = [j + 1 for j in range(count) if distance(subject.run(replace(how, nudge=j)).x, plain.x) == 0.0]
    values = {"wasted": float(len(unused))}
    if not unused:
        return said("ok", f"all {count} evaluations count", "all", **values)
    which = ", ".join("the last" if j == count else f"no. {j}" for j in unused)
    return said("WRONG", f"of {count} evaluations {which} changes nothing", "all count", **values)


def one_step(subject: Subject) -> Said:
    """One step gives samples that are numbers; a ValueError, as a refusal is, is noted."""
    return tried(subject, (1,))


def finite(subject: Subject) -> Said:
    """Any number of steps up to the most gives numbers."""
    return tried(subject, tuple(dict.fromkeys((2, 3, 5, 20, 100, max(1, subject.most - 1), subject.most))))


def tried(subject: Subject, counts: tuple[int, ...]) -> Said:
    """Whether runs of these steps give numbers."""
    bad, refused = [], []
    for n in counts:
        try:
            x = subject.run(Run(n, 2)).x
            if not bool(x.isfinite().all()):
                bad.append(f"no numbers at {n} step{'s' * (n != 1)}")
        except ValueError as error:
            refused.append(f"stops at {n}: {line(error)}")
        except Exception as error:  # whatever a foreign thing raises is what it does at this number of steps
            bad.append(f"{type(error).__name__} at {n}: {line(error)}")
    counted = ", ".join(map(str, counts))
    if bad:
        return said("WRONG", "; ".join(bad), f"numbers at {counted}")
    if refused:
        return said("note", "; ".join(refused), f"numbers at {counted}")
    return said("ok", f"numbers at {counted}", "numbers")


def line(error: Exception) -> str:
    """The first line of an error, cut."""
    return (str(error).strip().splitlines() or ["no message"])[0][:90]


def dtype(subject: Subject) -> Said:
    """Half-precision states and outputs come back in half precision, and as near as rounding them allows.

    A pipeline hands the state to its network, which refuses another dtype than its own. The error of a run in half
    precision is held against that of a run in float32 whose states and outputs are rounded to half precision at every
    step: what a scheduler cannot avoid. More than four times that is noted: its own arithmetic is in half precision.
    """
    if subject.kind != "scheduler":
        return none("states are carried in float32 at least")
    how, notes, values = Run(20, 16), [], {}
    exact = subject.run(how).x
    for kind in HALVES:
        name = str(kind).removeprefix("torch.")
        try:
            run = subject.run(replace(how, dtype=kind))
        except Exception as error:  # a foreign scheduler may fail in any way, which is said
            return said("WRONG", f"{name}: {type(error).__name__}: {line(error)}", "states of the dtype that came")
        others = {str(x.dtype).removeprefix("torch.") for x in run.states if x.dtype != kind}
        if others:
            return said("WRONG", f"{name} in, {', '.join(sorted(others))} out", "states of the dtype that came")
        if not bool(run.x.isfinite().all()):
            return said("WRONG", f"{name}: samples that are no numbers", "numbers")
        if subject.stochastic:  # noise of another dtype is another noise
            continue
        least = typical(subject.run(replace(how, dtype=torch.float32, rounded=kind)).x, exact)
        ratio = typical(run.x, exact) / max(least, 1e-12)
        values[f"{name} error over rounding"] = ratio
        notes.append(f"{name} {ratio:.1f}")
    if not values:
        return said("ok", "half precision in and out, numbers", "the dtype that came")
    figure = f"error over that of rounding states: {', '.join(notes)}"
    verdict: Verdict = "note" if max(values.values()) > 4 else "ok"
    return said(verdict, figure, "at most 4, and the dtype that came", **values)


def typical(x: torch.Tensor, exact: torch.Tensor) -> float:
    """The root mean square difference."""
    return float((x.to(torch.float64) - exact.to(torch.float64)).square().mean().sqrt())


def float32(subject: Subject) -> Said:
    """Float32 moves samples of twenty steps by no more than its rounding, and the arithmetic inside is no coarser.

    A rounding of 2^-24 a step, amplified a hundredfold at most by the flow of the world (the bound of this library's
    own laws), over 20 steps: 1.2e-4 of a datum's unit. Three times that is WRONG: half precision has 2^-11 = 4.9e-4.

    What is rounded inside whatever comes in shows in the answer to a small change of the start: one of 2·δ must do
    twice what one of δ does, up to the flow's curvature times δ², 1e-6 for δ = 1e-4, and to that rounding.
    """
    if subject.stochastic:
        return none("noise of another dtype is another noise")
    how = Run(20, 16)
    plain, once, twice = (subject.run(replace(how, shift=delta)).x.to(torch.float64) for delta in (0.0, 1e-4, 2e-4))
    gap = max(distance(subject.run(replace(how, dtype=torch.float32)).x, plain), distance(twice - once, once - plain))
    allowed = 2**-24 * 20 * 100
    verdict: Verdict = "ok" if gap <= allowed else "note" if gap <= 3 * allowed else "WRONG"
    return said(verdict, f"{gap:.1e}", f"at most {allowed:.1e}", gap=gap)


def batch(subject: Subject) -> Said:
    """Six samples at once are those of two and of four, to float32's rounding; of noise, with a generator a sample."""
    how = Run(10, 6, each=subject.stochastic)
    try:
        whole = subject.run(how).x
    except Exception as error:  # a list of generators may be refused in any way
        return said("note", f"a generator a sample: {type(error).__name__}: {line(error)}", "the same samples")
    parts = torch.cat([subject.run(replace(how, rows=rows)).x for rows in ((0, 2), (2, 6))])
    gap = distance(whole, parts)
    if gap <= 1e-5:
        return said("ok", f"{gap:.1e}", "at most 1e-5", gap=gap)
    if subject.stochastic and not takes_generator(subject):
        return said("note", "it takes no generator: samples depend on the batch", "at most 1e-5", gap=gap)
    return said("WRONG", f"{gap:.1e}", "at most 1e-5", gap=gap)


def takes_generator(subject: Subject) -> bool:
    """Whether a scheduler takes a generator; samplers here always do, by their seed."""
    return "generator" in getattr(subject, "takes", ("generator",))


def seeds(subject: Subject) -> Said:
    """A seed gives its samples again, to the bit, and another seed others."""
    if not subject.stochastic:
        twice = [subject.run(Run(10, 4)).x for _ in range(2)]
        gap = distance(*twice)
        return said("ok" if gap == 0 else "WRONG", f"two runs differ by {gap:.1e}", "0", gap=gap)
    again = [subject.run(Run(10, 4, draws=1, private=True)).x for _ in range(2)]
    gap = distance(*again)
    if gap and distance(*(subject.run(Run(10, 4, draws=1)).x for _ in range(2))) == 0:
        return said("WRONG", f"its generator is not used: two runs of one seed differ by {gap:.1e}", "0", gap=gap)
    if gap:
        return said("WRONG", f"two runs of one seed differ by {gap:.1e}", "0", gap=gap)
    note = "" if takes_generator(subject) else "; it takes no generator, and draws from torch's own stream"
    return said("note" if note else "ok", f"the same samples{note}", "the same samples", gap=gap)


def left_over(subject: Subject) -> Said:
    """A run does not depend on those before it on the same object: to the bit."""
    found = subject.again()
    if found is None:
        return none("nothing is kept from run to run")
    gap, how = found
    return said("ok" if gap == 0 else "WRONG", how if gap == 0 else f"{gap:.1e} off {how}", "0", gap=gap)
