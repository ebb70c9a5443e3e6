"""The forward step run backwards: reverse diffusion, consistent annealing, adaptive and preconditioned reverse SDEs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..._errors import UserError, check_integer
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import BrownianPath, Dirac, Noise, as_path
from ...processes import Process, ScalarGaussian, expand
from ..loop import Sampler, State
from .filters import WHOLE, Filter

_PROOF = "exact: tests/laws, tests/samplers/test_reverse_sde.py"


def check_downwards(t: Tensor, s: Tensor, what: str) -> None:
    """Refuse steps towards noise: the reverse SDE runs towards the data."""
    if bool((s > t).any()):
        raise UserError(f"grid must decrease for {what}")


def reverse_rates(process: ScalarGaussian, t: Tensor) -> tuple[Tensor, Tensor]:
    """f and g² at t, where the reverse SDE has them."""
    drift, g2 = process.drift(t), process.diffusion2(t)
    regular = drift.isfinite() & g2.isfinite() & (process.alpha(t) > 1e-9)
    if not bool(regular.all()):
        where = t if t.ndim == 0 else t[~regular.expand(t.shape)][0]
        raise UserError(f"grid must start where the reverse SDE has a drift: it is infinite at t = {float(where):g}")
    return drift, g2


@register("samplers", "reverse-diffusion", title="Reverse diffusion", arxiv="2011.13456", proof=_PROOF)
@dataclass(frozen=True)
class ReverseDiffusion(Sampler[ScalarGaussian]):
    r"""The forward step as it is discretised, reversed (Song et al. 2021, arXiv:2011.13456 eq. 46, appendix E).

    With the forward step :math:`x_t = x_s + f(x_s) + G z`, here that of the process from s to t,
    :math:`f(x) = (α_t/α_s - 1) x` and :math:`G^2 = σ_t^2 - (α_t/α_s)^2 σ_s^2`,

    .. math:: x_s = x_t - f(x_t) + G^2 ∇\log p_t(x_t) + G z

    One evaluation a step, weak order 1. Unlike Euler–Maruyama it needs no derivative of α and σ, and none of them need
    be finite; on the stride of a DDPM table it is the paper's own formula, with √(1−β) and β.
    """

    needs = ScalarGaussian, "reverse diffusion"

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        x, t = state.x, state.t
        check_downwards(t, s, "reverse diffusion")
        belief = denoiser(x, t)
        forward = process.transition(x, s, t)
        g2 = forward.cov.diagonal(tuple(x.shape[1:]))
        mean = 2 * x - forward.mean + g2 * process.score(x, belief, t)
        # x/α has the noise of a Brownian motion in the time σ²/α², and G² = α_t² times its increment.
        z = noise.along_path(t, s, lambda u: torch.exp(-process.log_snr(u))).normal(tuple(x.shape[1:])).to(x)
        return state.move(mean + torch.sqrt(g2) * z, s, belief=belief)


@register("samplers", "consistent-annealing", title="Consistent annealed sampling", arxiv="2009.05475", proof=_PROOF)
@dataclass(frozen=True)
class ConsistentAnnealing(Sampler[ScalarGaussian]):
    r"""Annealed Langevin steps whose noise lands on the next level (Jolicoeur-Martineau et al. 2020, arXiv:2009.05475).

    The paper's algorithm, in y = x/α at the level κ = σ/α, takes a share η of the way to x̂_0 and adds the noise that
    makes the level right, with γ = κ_s/κ_t:

    .. math:: y_s = y_t + η (\hat x_0 - y_t) + β κ_s z, \quad β^2 = 1 - (1 - η)^2/γ^2

    On its geometric levels a fixed η is a fixed β. Here β is the setting, η = 1 − γ√(1−β²), so that any grid has its
    noise right; β = 0 is DDIM, β = 1 resamples all noise. With one data point every step is exact; otherwise the law
    is that of a Langevin chain of step size η, too wide by a share of about η/2 where the levels are fine.

    One evaluation a step; the step to t = 0 returns x̂_0.

    Args:
        beta: β in [0, 1], the share of a level's noise that is new.
    """

    beta: float = 0.2
    needs = ScalarGaussian, "consistent annealed sampling"

    def __post_init__(self) -> None:
        if not 0.0 <= self.beta <= 1.0:
            raise UserError(f"beta must lie in [0, 1], got {self.beta}")

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        x, t = state.x, state.t
        check_downwards(t, s, "consistent annealed sampling")
        belief = denoiser(x, t)
        sigma = process.sigma(s)
        kept = math.sqrt(1 - self.beta**2) * sigma / process.sigma(t)
        mean = expand(process.alpha(s) - kept * process.alpha(t), x) * belief.mean + expand(kept, x) * x
        z = noise.normal(tuple(x.shape[1:])).to(x)
        return state.move(mean + expand(self.beta * sigma, x) * z, s, belief=belief)


@register("samplers", "preconditioned", title="Preconditioned reverse SDE", arxiv="2207.02196", proof=_PROOF)
@dataclass(frozen=True)
class Preconditioned(Sampler[ScalarGaussian]):
    r"""The reverse SDE with filtered noise (after Ma et al. 2022, arXiv:2207.02196), by Euler–Maruyama.

    The paper puts a linear map M before noise and score. Where the score is that of a Langevin chain this keeps its
    law. In the reverse SDE it does not, since a part of the score undoes the forward noise, which is not filtered; so
    only the other part is, the one that pairs with the added noise:

    .. math:: dx = \left[f x - \tfrac12 g^2 ∇\log p_t - \tfrac12 g^2 M M^T ∇\log p_t\right] dt + g M\, d\bar w

    Every M has the marginals of the process; M = 1 is the reverse SDE, M = 0 the probability flow. One evaluation a
    step, weak order 1.

    Args:
        filter: M; ``Frequency``, ``Matrix`` or any ``Filter``.
    """

    filter: Filter = WHOLE
    needs = ScalarGaussian, "the preconditioned reverse SDE"

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        x, t = state.x, state.t
        check_downwards(t, s, "the preconditioned reverse SDE")
        drift, g2 = reverse_rates(process, t)
        belief = denoiser(x, t)
        score = process.score(x, belief, t)
        slope = expand(drift, x) * x - expand(g2 / 2, x) * (score + self.filter.square(score))
        dw = noise.increment(tuple(x.shape[1:]), t, s, lambda u: u).to(x)
        moved = x + expand(s - t, x) * slope + expand(torch.sqrt(g2), x) * self.filter(dw)
        return state.move(moved, s, belief=belief)


@register(
    "samplers",
    "adaptive-sde",
    title="Adaptive reverse SDE (gotta go fast)",
    arxiv="2105.14080",
    proof="exact: tests/laws, tests/samplers/test_adaptive_sde.py",
)
@dataclass(frozen=True)
class AdaptiveSDE(Sampler[ScalarGaussian]):
    r"""The reverse SDE with a step size of its own for each sample (Jolicoeur-Martineau et al. 2021, arXiv:2105.14080).

    Algorithm 1: Euler–Maruyama x', its stochastic improved Euler x'' = ½(x' + x̃) on the same noise, where x̃ takes drift
    and g at (x', t − h), and the error of their difference in units of the tolerance,

    .. math:: E = \sqrt{\tfrac1D \sum_i \left(\frac{x'_i - x''_i}{δ_i}\right)^2}, \quad
              δ_i = \max(ε_{abs}, ε_{rel} \max(|x'_i|, |x'^{\,before}_i|))

    A step with E ≤ 1 is taken, and goes on from x'' (extrapolation); then h ← min(t − t_end, θ h E^{−r}).

    A step of the grid is integrated from its one end to its other; the grid of two points is its own. A last step to
    t = 0 goes to ``t_min`` and from there to x̂_0, as in the paper. Two evaluations an attempt, of the samples that are
    not there yet; a sample's path does not depend on the others.

    Two things are not in the paper. An error may vanish by chance, in few dimensions often, and without a bound the
    next step is then far too long: on N(½, ¼) under EDM, ε_rel = 0.02, the standard deviation came out above 2 where it
    is 0.5. So h at most grows by ``growth``. And a step that is refused is tried again on the same Brownian path. New
    noise, as published, favours noise that makes small errors, and its bias does not fall with the tolerance: on
    N(½, ¼) under VP the standard deviation came out 0.77. (In many dimensions an error is a mean over them, and both
    are small.) The path is that of the noise if it is a ``BrownianPath``, and one of 20 levels otherwise; steps end at
    ends of its cells.

    Args:
        relative: ε_rel > 0.
        absolute: ε_abs > 0, in units of the state; the paper takes one step of 256 of the data's range, 2/256.
        safety: θ in (0, 1].
        exponent: r in (0, 1]; 0.9 in the paper.
        first: the first step, > 0, in units of time.
        growth: the most by which a step may grow on the one before, > 1.
        limit: attempts a sample may take in a step of the grid, ≥ 1.

    Raises:
        UserError: where the limit is reached or an error is not a number, with its time and error; nothing is returned.
    """

    relative: float = 0.02
    absolute: float = 2 / 256
    safety: float = 0.9
    exponent: float = 0.9
    first: float = 0.01
    growth: float = 2.0
    limit: int = 10_000
    needs = ScalarGaussian, "the adaptive SDE solver"

    def __post_init__(self) -> None:
        for name in ("relative", "absolute", "first"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UserError(f"{name} must be > 0, got {value}")
        if not 1 < self.growth < math.inf:
            raise UserError(f"growth must be > 1, got {self.growth}")
        for name in ("safety", "exponent"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise UserError(f"{name} must lie in (0, 1], got {value}")
        check_integer("limit", self.limit, 1)

    def default_grid(self, process: Process, steps: int) -> Tensor:
        """Both ends: the steps between them are the solver's own, so ``steps`` is not used."""
        return torch.tensor([process.t_max, 0.0], dtype=torch.float64)

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        process = denoiser.process
        check_downwards(state.t, s, "the adaptive SDE solver")
        count = state.x.shape[0]
        begin, end = state.t.expand(count), s.expand(count)
        end = torch.where(end > 0, end, begin.clamp_max(process.t_min))
        x = self._integrate(process, denoiser, as_path(noise, 20), state.x, begin, end)
        if bool((s > 0).all()):
            return state.move(x, s)
        belief = denoiser(x, end if end.unique().numel() > 1 else end[0])
        last = process.reverse(x, Dirac(belief.mean), end, torch.zeros_like(end), 0.0).mean
        return state.move(torch.where(expand(s, x) > 0, x, last), s, belief=belief)

    def _integrate(
        self, process: ScalarGaussian, denoiser: Denoiser, path: BrownianPath, x: Tensor, t: Tensor, end: Tensor
    ) -> Tensor:
        event, brownian_time = tuple(x.shape[1:]), lambda u: u
        x, t, before, w = x.clone(), t.clone(), x.clone(), path.value(event, t, brownian_time).to(x)
        h = torch.full_like(t, self.first).minimum(t - end)
        error = torch.zeros_like(t)
        rows = (t > end).nonzero()[:, 0]
        part, asked = path.rows(rows), denoiser.rows(rows)
        for _ in range(self.limit):
            if rows.numel() == 0:
                return x
            now = t[rows]
            # On ends of cells, so that the rounding of an error moves no time (and a Brownian path with it).
            ahead = torch.maximum(path.floor(now - h[rows]), end[rows])
            ahead = torch.where(ahead < now, ahead, end[rows])  # an end closer than rounding resolves
            w_ahead = part.value(event, ahead, brownian_time).to(x)
            dw = w_ahead - w[rows]
            plain = self._euler(process, asked, x[rows], x[rows], now, ahead - now, dw)
            second = self._euler(process, asked, x[rows], plain, ahead, ahead - now, dw)
            better = (plain + second) / 2
            scale = torch.maximum(plain.abs(), before[rows].abs()).mul(self.relative).clamp_min(self.absolute)
            e = ((plain - better) / scale).flatten(1).square().mean(1).sqrt().to(t)
            if not bool(e.isfinite().all()):
                self._stop("its error is not a finite number", rows, ~e.isfinite(), now, e)
            good = e <= 1
            least = ~good & (path.floor((now + ahead) / 2) <= ahead)
            if bool(least.any()):
                self._stop(f"its step is the least that a path of depth {path.depth} has", rows, least, now, e)
            taken = rows[good]
            x[taken], before[taken], t[taken], error[rows] = better[good], plain[good], ahead[good], e
            w[taken] = w_ahead[good]
            growth = (self.safety * e.clamp_min(1e-300) ** -self.exponent).clamp_max(self.growth)
            h[rows] = (growth * (now - ahead)).minimum(t[rows] - end[rows])
            if bool((t[rows] <= end[rows]).any()):
                rows = rows[t[rows] > end[rows]]
                part, asked = path.rows(rows), denoiser.rows(rows)
        if rows.numel():
            self._stop(f"limit = {self.limit} attempts are used", rows, t[rows] > end[rows], t[rows], error[rows])
        return x

    def _euler(
        self, process: ScalarGaussian, denoiser: Denoiser, x: Tensor, at: Tensor, t: Tensor, h: Tensor, dw: Tensor
    ) -> Tensor:
        """x + h·(drift at ``at``) + g dw."""
        drift, g2 = reverse_rates(process, t)
        score = process.score(at, denoiser(at, t), t)
        slope = expand(drift, x) * at - expand(g2, x) * score
        return x + expand(h, x) * slope + expand(torch.sqrt(g2), x) * dw

    def _stop(self, why: str, rows: Tensor, bad: Tensor, t: Tensor, error: Tensor) -> None:
        i = int(bad.nonzero()[0])
        raise UserError(
            f"the adaptive SDE solver stopped: {why} for sample {int(rows[i])} of the batch at t = {float(t[i]):.6g}, "
            f"where the error was {float(error[i]):.3g} tolerances; raise relative, absolute or limit"
        )
