"""Denoisers against an exact world: the error of the belief, and whether another convention fits better."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, unknown
from ...adapters.networks import denoiser as wrapped
from ...denoisers import Denoiser
from ...processes import DDPM, ScalarGaussian
from ...worlds import World, random_mixture, ring
from . import truth
from .behaviour import line
from .drive import distance
from .report import Report, Said, Verdict, none, said

RATIOS = (0.05, 0.15, 0.5, 1.5, 5.0)
"""Noise-to-signal ratios that are looked at."""

WORLDS: dict[str, Callable[[], World]] = {
    "audit": truth.world,
    "ring": ring,
    "random-2": lambda: random_mixture(2, components=3),
    "random-16": lambda: random_mixture(16, components=3),
}
"""Worlds by name; a denoiser is given states ``(B, D)`` of them."""

N = 512
"""States at each level."""

EXACT, NEAR = 1e-3, 0.1
"""Excess errors, over the error of the exact belief itself: float32's rounding, and what adds 1 % to its square."""

BETTER = 2.0
"""Another convention is named if its error is so many times smaller."""


@dataclass(eq=False)
class Believer:
    """A network, read by a convention, of a world's data.

    Args:
        name: as it was asked for.
        network: ``f(x, time)``.
        process: with states αx_0 + σε.
        conventions: ``prediction`` and ``time`` of :func:`langevin.denoiser`.
        world: the truth.
    """

    name: str
    network: Callable[..., Any]
    process: ScalarGaussian
    conventions: Mapping[str, Any]
    world: World

    def __post_init__(self) -> None:
        if not isinstance(self.process, ScalarGaussian):
            raise UserError(f"process must have states αx_0 + σε for an audit, got {self.process!r}")
        if isinstance(self.network, Denoiser) and tuple(self.network.shape) != tuple(self.world.shape):
            own, of = tuple(self.network.shape), tuple(self.world.shape)
            raise UserError(f"world must have states of the denoiser's shape, {own}, got one of shape {of}")
        self.denoiser = self.read(self.network, **self.conventions)

    def read(self, network: Callable[..., Any], **conventions: Any) -> Denoiser:
        """A denoiser of a network by a convention."""
        if isinstance(network, Denoiser):
            return network
        kept = {key: value for key, value in conventions.items() if value is not None}
        return wrapped(network, process=self.process, shape=self.world.shape, **kept)

    def excess(self, denoiser: Denoiser) -> dict[float, float]:
        """At each level the error of the belief's mean over that of the exact belief: RMS(x̂ − x̂*) / RMS(x_0 − x̂*)."""
        found = {}
        for i, ratio in enumerate(RATIOS):
            t = self.process.time(-2 * math.log(ratio))
            x0 = self.world.sample(N, 40 + i)
            alpha, sigma = self.process.alpha(t), self.process.sigma(t)
            eps = torch.randn(x0.shape, dtype=x0.dtype, generator=torch.Generator().manual_seed(i))
            x = alpha * x0 + sigma * eps
            exact = self.world.denoiser(self.process)(x, t).mean
            with torch.no_grad():
                mean = denoiser(x.to(denoiser.dtype), t).mean.to(torch.float64)
            off = float((mean - exact).square().mean().sqrt() / (x0 - exact).square().mean().sqrt())
            found[ratio] = off if math.isfinite(off) else math.inf
        return found

    def others(self) -> Iterator[tuple[str, Denoiser]]:
        """The same network by other conventions, each with a name; those that are refused are left out."""
        if isinstance(self.network, Denoiser):
            return
        own = dict(self.conventions)
        f = self.network
        kinds: list[tuple[str, Callable[..., Any], dict[str, Any]]] = []
        if isinstance(self.process, DDPM):
            kinds.append(("the index n in place of n − 1", lambda x, t: f(x, t + 1), own))
            kinds.append(("the index n − 2 in place of n − 1", lambda x, t: f(x, t - 1), own))
        for prediction in ("eps", "x0", "v", "flow", "score", "edm"):
            if prediction != own.get("prediction"):
                kinds.append((f"prediction {prediction}", f, {**own, "prediction": prediction}))
        for label in ("index", "time", "t", "sigma", "log_sigma", "log_snr"):
            if label != own.get("time"):
                kinds.append((f"time {label}", f, {**own, "time": label}))
        kinds.append(("the other sign of its output", lambda x, t: -tensor(f(x, t)), own))
        for name, network, conventions in kinds:
            try:
                yield name, self.read(network, **conventions)
            except UserError:
                continue


def tensor(out: Any) -> Tensor:
    """The tensor of what a network returned."""
    found: Tensor = getattr(out, "sample", out)
    return found


def belief(believer: Believer) -> Said:
    """The mean of the belief against the exact one, a noise level each, over the error that the exact belief leaves.

    An exact network in float32 reads 1e-3 at most; 0.1 adds 1 % to the squared error, as good training may. More than 1
    doubles the squared error: no denoiser of this world.
    """
    found = believer.excess(believer.denoiser)
    figure = ", ".join(f"{v:.2g} at σ/α = {ratio:g}" for ratio, v in found.items())
    worst = max(found.values())
    verdict: Verdict = "ok" if worst <= NEAR else "note" if worst <= 1 else "WRONG"
    values = {f"excess at {ratio:g}": v for ratio, v in found.items()}
    return said(verdict, figure, f"at most {NEAR:g}", **values)


def convention(believer: Believer) -> Said:
    """Whether another convention of prediction, time or sign fits better: half the error or less, over all levels.

    Where the convention asked for is exact to rounding, none can be better.
    """
    own = mean(believer.excess(believer.denoiser))
    best, name = own, ""
    for other, denoiser in believer.others():
        try:
            found = mean(believer.excess(denoiser))
        except Exception:  # a network that cannot be asked so says that this is not its convention
            continue
        if found < 0.9 * best:  # of two that read the same, the first
            best, name = found, other
    if own <= EXACT or best > own / BETTER:
        return said("ok", f"error {own:.2g}; the best of the others {'is worse' if best >= own else f'{best:.2g}'}", "")
    return said("WRONG", f"{name} fits better: error {best:.2g}, not {own:.2g}", "the convention asked for", best=best)


def mean(found: Mapping[float, float]) -> float:
    """The geometric mean over levels."""
    return math.exp(sum(math.log(max(v, 1e-12)) for v in found.values()) / len(found))


def batch(believer: Believer) -> Said:
    """Eight states at once, each at its own time, are those asked one by one."""
    x = believer.world.sample(8, 3).to(believer.denoiser.dtype)
    t = torch.linspace(0.2, 0.8, 8, dtype=torch.float64)
    with torch.no_grad():
        whole = believer.denoiser(x, t).mean
        parts = torch.cat([believer.denoiser(x[i : i + 1], t[i]).mean for i in range(8)])
    gap = distance(whole, parts)
    allowed = 1e-4 if believer.denoiser.dtype == torch.float32 else 1e-9
    return said("ok" if gap <= allowed else "WRONG", f"{gap:.1e}", f"at most {allowed:g}", gap=gap)


def again(believer: Believer) -> Said:
    """The same question has the same answer: nothing is drawn, and nothing is left from the one before."""
    if not len(believer.world.shape):
        return none("no shape")
    x = believer.world.sample(8, 3).to(believer.denoiser.dtype)
    with torch.no_grad():
        one = believer.denoiser(x, 0.5).mean
        believer.denoiser(2 * x, 0.3)
        two = believer.denoiser(x, 0.5).mean
    gap = distance(one, two)
    return said("ok" if gap == 0 else "WRONG", f"{gap:.1e}", "0", gap=gap)


BELIEFS: dict[str, Callable[[Believer], Said]] = {
    "belief": belief,
    "convention": convention,
    "batch": batch,
    "left over": again,
}
"""A function a row."""


def audit_belief(believer: Believer) -> Report:
    """All checks of a denoiser."""
    begun, rows = time.monotonic(), []
    for name, check in BELIEFS.items():
        try:
            made = check(believer)
        except UserError as error:
            made = said("note", f"refused: {line(error)}")
        rows.append(made(name))
    about = {"process": type(believer.process).__name__, **believer.conventions}
    return Report(believer.name, "denoiser", tuple(rows), about, round(time.monotonic() - begun, 2))


def world_named(name: str | World) -> World:
    """A world by its name, or itself.

    Raises:
        UserError: for a name that is not known.
    """
    if isinstance(name, World):
        return name
    if not isinstance(name, str) or name not in WORLDS:
        raise unknown("world", name, WORLDS)
    return WORLDS[name]()
