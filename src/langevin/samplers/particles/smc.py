"""Sequential Monte Carlo along the reverse process: particles with weights that reach a tilted law itself."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, check_numbers, shown, unknown
from ..._registry import register
from ...denoisers import Denoiser, Generator, check_is_denoiser
from ...distributions import Dirac, Distribution, Noise, Stream
from ..linear.ancestral import Ancestral
from ..plan import resolve
from ..sampling import check_memory
from .factors import POTENTIALS, Factor, Function, LogFactor, Track
from .proposals import Move, Proposal, as_proposal
from .resampling import effective, log_mean, normalised, systematic


@dataclass(frozen=True, eq=False, repr=False)
class Particles:
    """Weighted draws of a tilted law, in populations that never met.

    Attributes:
        x: clean data, ``(P, n, *shape)``.
        log_weights: unnormalised, float64 ``(P, n)``; the mean of their exponentials is the evidence, unbiased.
        ess: effective sample size of each population at each time of the grid, before it was resampled, ``(P, N + 1)``.
        ancestors: which particle each comes from at each step, int64 ``(P, N, n)``; 0, 1, 2, … without resampling.
    """

    x: Tensor
    log_weights: Tensor
    ess: Tensor
    ancestors: Tensor

    @property
    def populations(self) -> int:
        """P."""
        return self.x.shape[0]

    @property
    def n(self) -> int:
        """Particles of a population."""
        return self.x.shape[1]

    @property
    def log_evidence(self) -> Tensor:
        """log of each population's estimate of E[ψ_0(x_0)] under the law that is tilted, ``(P,)``."""
        return log_mean(self.log_weights)

    @property
    def weights(self) -> Tensor:
        """Weights of all particles, ``(P, n)``, with sum 1: a population counts as much as its evidence."""
        return normalised(self.log_weights.flatten()).reshape(self.log_weights.shape)

    @property
    def roots(self) -> Tensor:
        """How many of the first particles of a population have descendants among the last, int64 ``(P,)``."""
        index = torch.arange(self.n).expand(self.populations, -1)
        for step in self.ancestors.cpu().unbind(1)[::-1]:
            index = step.gather(1, index)
        return torch.tensor([len(row.unique()) for row in index])

    def mean(self, f: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """E[f(x_0)] of the tilted law, with all particles; f of data ``(B, *shape)``, x_0 itself if not given."""
        flat = self.x.flatten(0, 1)
        value = flat if f is None else f(flat)
        if not isinstance(value, Tensor) or value.shape[:1] != flat.shape[:1]:
            raise UserError(f"f must return a value a particle, ({len(flat)}, …), got {shown(value)}")
        weights = self.weights.flatten().to(value.device)
        return torch.tensordot(weights, value.to(torch.float64), 1)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws of equal weight, ``(n, *shape)``, in random order: particles, the heavy ones several times.

        They are as good as the effective sample size says: draws from one population are not independent, and
        for independent ones as many populations must be run.
        """
        check_integer("n", n, 1)
        noise = Noise(seed, n).fold_in(Stream.CHOSEN)
        u = noise.uniform((2,))
        index = systematic(self.log_weights.reshape(1, -1).cpu(), u[:1, 0], n)[0]
        return self.x.flatten(0, 1)[index[u[:, 1].argsort()].to(self.x.device)]

    def __repr__(self) -> str:
        last, least = self.ess[:, -1], self.ess.amin(1)
        size = f"{float(last.mean()):.1f}" + (f" ({float(last.min()):.1f} at worst)" if self.populations > 1 else "")
        many = f"{self.populations} populations of " if self.populations > 1 else ""
        evidence = float(log_mean(self.log_evidence))
        return (
            f"Particles({many}n={self.n}, ESS={size}, lowest {float(least.min()):.1f} on the way, "
            f"log evidence {evidence:.4g})"
        )


class Target(ABC):
    """A law of paths that particles are moved and weighed towards.

    Attributes:
        denoiser: what says the process, the shape and the dtype of the data.
    """

    if TYPE_CHECKING:  # read-only: a class may have it as a field or as a property

        @property
        def denoiser(self) -> Denoiser: ...

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first states, made of draws of the prior, and their log weights beside the factor, ``(B,)``."""
        return x, torch.zeros(len(x), dtype=torch.float64, device=x.device)

    @abstractmethod
    def ask(self, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, tuple[Distribution, ...]]:
        """log ψ_t, ``(B,)``, and the beliefs that a move needs."""

    @abstractmethod
    def move(self, x: Tensor, beliefs: tuple[Distribution, ...], t: Tensor, s: Tensor) -> Move:
        """The proposal from t to s."""

    @abstractmethod
    def last(self, x0: Tensor, noise: Noise) -> Tensor:
        """log ψ_0 of the states at t = 0, ``(B,)``."""


@dataclass(frozen=True, eq=False)
class Twisted(Target):
    """The paths of a denoiser's reverse process, tilted by a factor at their end."""

    denoiser: Denoiser
    factor: Factor
    proposal: Proposal

    def _checked(self, value: object, x: Tensor, t: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            raise UserError(f"factor must return one number a particle, ({len(x)},), got {shown(value)}")
        # At clean data a particle may be ruled out; before, its factor must say how good it is.
        wrong = value.isnan() | (value == torch.inf) | ((value == -torch.inf) & (t > 0).to(value.device))
        if bool(wrong.any()):
            got = f"{float(value[wrong][0])} at t = {float(t):.4g}"
            raise UserError(f"factor must be finite (and may be -inf at t = 0 alone), got {got}")
        return value

    def ask(self, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, tuple[Distribution, ...]]:
        factor = lambda x_t, belief: self._checked(self.factor(x_t, t, belief, noise), x_t, t)
        belief, log_psi, own = self.proposal.ask(self.denoiser, factor, x, t)
        return log_psi, (belief,) if own is None else (belief, own)

    def move(self, x: Tensor, beliefs: tuple[Distribution, ...], t: Tensor, s: Tensor) -> Move:
        return self.proposal.move(self.denoiser.process, x, beliefs[0], (*beliefs, None)[1], t, s)

    def last(self, x0: Tensor, noise: Noise) -> Tensor:
        t, read = torch.zeros((), dtype=torch.float64), self.denoiser.process.read(x0)
        return self._checked(self.factor(x0, t, Dirac(read), noise), x0, t)


def run(
    target: Target,
    *,
    n: int,
    steps: int | None = None,
    grid: Tensor | list[float] | str | None = None,
    potential: str = "difference",
    threshold: float = 0.5,
    seed: int = 0,
    populations: int | Tensor = 1,
    batch: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Particles:
    """The particles of a target: see ``smc``, whose settings these are."""
    check_integer("n", n, 1)
    indices = _indices(populations, 2**32 // n)
    check_integer("batch", batch, 1)
    check_numbers(threshold=threshold)
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold must lie in [0, 1], a share of the particles, got {threshold}")
    if potential not in POTENTIALS:
        raise unknown("potential", potential, POTENTIALS)
    denoiser = target.denoiser
    if len(denoiser.stages) > 1 or isinstance(denoiser, Generator):
        raise UserError(f"denoiser must have a reverse process, step by step, got {denoiser!r}")
    check_memory(n * len(indices), denoiser)
    times = resolve(denoiser, Ancestral(), steps=steps, grid=grid).grid
    if float(times[-1]) != 0:
        raise UserError(f"grid must end at t = 0, where the factor is the tilt itself, got {float(times[-1]):g}")
    group = max(1, batch // n)
    found = []
    with torch.no_grad():
        for first in range(0, len(indices), group):
            rows = indices[first : first + group]
            found.append(_populations(target, times, rows, n, potential, threshold, seed))
            if progress is not None:
                progress((first + len(rows)) * n, len(indices) * n)
    particles = Particles(*map(torch.cat, zip(*found)))
    if not bool((particles.log_weights > -torch.inf).any()):
        raise UserError("every particle has weight 0: the factor rules out all that was reached; take more particles")
    return particles


def _indices(populations: int | Tensor, most: int) -> Tensor:
    """Which populations are run, int64 ``(P,)``: the first P, or those that are named."""
    if not isinstance(populations, Tensor):
        return torch.arange(check_integer("populations", populations, 1, most))
    named = populations.ndim == 1 and populations.dtype == torch.int64 and len(populations) > 0
    if not named or bool((populations < 0).any() or (populations >= most).any()):
        raise UserError(f"populations must be a number, or int64 indices in [0, {most}), got {shown(populations)}")
    return populations.cpu()


def _populations(
    target: Target, times: Tensor, rows: Tensor, n: int, potential: str, threshold: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Some populations at once: clean data, log weights, effective sizes, ancestors."""
    denoiser, move_on = target.denoiser, POTENTIALS[potential]
    device = denoiser.device
    noise = Noise(seed, (rows[:, None] * n + torch.arange(n)).flatten()).to(device)
    chance = Noise(seed, rows).to(device)
    shape = len(rows), n
    own = torch.arange(n, device=device).expand(shape)

    x = denoiser.process.prior(denoiser.shape).sample(noise.step(0))
    if x.is_floating_point():
        x = x.to(device=device, dtype=torch.promote_types(denoiser.dtype, torch.float32))
    x, log_weights = target.begin(x)
    track: Track = None
    reached = torch.zeros_like(log_weights)
    sizes, ancestors = [], []
    for i, (t, s) in enumerate(itertools.pairwise(times.unbind())):
        log_psi, beliefs = target.ask(x, t, noise.step(i))
        track, goal = move_on(track, reached, log_psi.to(torch.float64))
        log_weights, reached = log_weights + goal - reached, goal
        each = log_weights.reshape(shape)
        ess = effective(each)
        sizes.append(ess)
        low = (ess < threshold * n * (1 - 1e-9)) & (ess > 0)  # equal weights are n but for rounding
        ancestor = own
        if bool(low.any()):
            u = chance.step(i).fold_in(Stream.RESAMPLED).uniform(())
            ancestor = torch.where(low[:, None], systematic(each, u), own)
            log_weights = torch.where(low[:, None], log_mean(each)[:, None], each).flatten()
            index = (ancestor + torch.arange(len(rows), device=device)[:, None] * n).flatten()
            x, reached = x[index], reached[index]
            track = None if track is None else track[index]
            beliefs = _of_rows(target, beliefs, index, x, t, noise.step(i))
        ancestors.append(ancestor)
        move = target.move(x, beliefs, t, s)
        x_s = move.sample(noise.step(i + 1))
        x_s = x_s.to(x) if x.is_floating_point() else x_s
        if not bool(x_s.isfinite().all()):
            raise UserError(f"particles are not finite at t = {float(s):.4g}: the network or the proposal diverged")
        log_weights = log_weights + move.log_ratio(x_s)
        if bool(log_weights.isnan().any()):
            raise UserError(
                f"proposal must have a density where it moves, got weights that are no numbers at t = {float(s):.4g}"
            )
        x = x_s
    log_weights = log_weights + target.last(x, noise.step(len(times))).to(torch.float64) - reached
    each = log_weights.reshape(shape)
    sizes.append(effective(each))
    read = denoiser.read(x)
    read = read.to(denoiser.dtype) if read.is_floating_point() else read
    return read.reshape(*shape, *read.shape[1:]), each, torch.stack(sizes, 1), torch.stack(ancestors, 1)


def _of_rows(
    target: Target, beliefs: tuple[Distribution, ...], index: Tensor, x: Tensor, t: Tensor, noise: Noise
) -> tuple[Distribution, ...]:
    """The beliefs of the particles that were taken; those of a kind that does not come apart are asked for again."""
    try:
        return tuple(belief.rows(index) for belief in beliefs)
    except TypeError:
        return target.ask(x, t, noise)[1]


@register(
    "particles",
    "smc",
    title="Sequential Monte Carlo with twisting functions and proposals of one's own",
    arxiv="2306.17775",
    proof="exact: tests/samplers/test_particles.py",
)
def smc(
    denoiser: Denoiser,
    factor: Factor | LogFactor,
    *,
    n: int,
    steps: int | None = None,
    grid: Tensor | list[float] | str | None = None,
    proposal: Denoiser | Proposal | None = None,
    potential: str = "difference",
    threshold: float = 0.5,
    seed: int = 0,
    populations: int | Tensor = 1,
    batch: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> Particles:
    r"""Draws of the law :math:`p(x_0)\,ψ_0(x_0) / Z`, p being that of ancestral sampling with this denoiser.

    Particles x_t with weights w move down the grid (Wu et al. 2023, arXiv:2306.17775, alg. 1):

    .. math::
        x_s \sim r(x_s | x_t), \qquad
        w \leftarrow w \, \frac{p(x_s | x_t)\, ψ_s(x_s)}{r(x_s | x_t)\, ψ_t(x_t)}

    with p the reverse kernel of the whole belief (η = 1) and r the proposal. The weights' product telescopes to the
    tilt whatever the ψ_t and r are, so these decide how many particles are needed and not what is reached. Where the
    effective sample size falls under ``threshold``·n, a population is resampled systematically.

    Particles of a population interact, so a population is drawn in one batch and its particles depend on n. It depends
    on (seed, index of the population) alone, not on how many others there are nor on ``batch``.

    Args:
        denoiser: the belief whose law is tilted. The whole belief of an exact world makes p the law of the world
            at any number of steps; ``denoisers.unit`` and others make it that of DDPM.
        factor: log ψ_t(x_t), ``(B,)``, of (x_t, t, belief); at t = 0 the belief is the point x_0, and it is the tilt.
        n: particles of a population.
        steps, grid: as of ``langevin.sample``; the grid must end at 0.
        proposal: None, the reverse kernel itself; a guided denoiser, whose mean moves it (whose kernel it is, on
            processes of other kinds); or a ``Proposal``: ``Gradient()`` is the gradient of the factor.
        potential: ``"difference"``, or ``"max"`` or ``"sum"`` of arXiv:2501.06848.
        threshold: in [0, 1]; 0 never resamples (importance sampling), 1 always does.
        seed: of the noise.
        populations: how many, which never meet; or the indices of those that are run, int64 ``(P,)``.
        batch: how many particles are moved at a time; a population is never split.
        progress: called as ``progress(done, total)`` after some populations.

    Raises:
        UserError: for settings out of range, a factor of another shape or that is not finite, a process without the
            power that the proposal needs.
    """
    check_is_denoiser(denoiser)
    if not callable(factor):
        raise UserError(f"factor must be a function of (x_t, t, belief), got {shown(factor)}")
    twisting = factor if isinstance(factor, Factor) else Function(factor)
    return run(
        Twisted(denoiser, twisting, as_proposal(proposal, denoiser.process)),
        n=n,
        steps=steps,
        grid=grid,
        potential=potential,
        threshold=threshold,
        seed=seed,
        populations=populations,
        batch=batch,
        progress=progress,
    )
