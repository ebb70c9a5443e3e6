"""Particles for what is asked most: a guidance's own law, a reward, a measurement, a product of laws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_numbers, shown
from ..._registry import register
from ...denoisers import Denoiser, batched, check_is_denoiser
from ...denoisers.statistics import around
from ...distributions import Dirac, Distribution, Noise, Normal
from ...guidance import LinearPooling, Tilted, linear
from ...operators import MeasurementNoise, Operator
from ...processes import Chain, ScalarGaussian, expand
from ...worlds.base import one_measurement
from .factors import Function, Likelihood, Reward
from .proposals import Gradient, Move, Proposal
from .smc import Particles, Target, run, smc

_PROOF = "exact: tests/samplers/test_particles.py"


@register(
    "particles", "twisted", title="Twisted diffusion: the law a guidance aims at", arxiv="2306.17775", proof=_PROOF
)
def twisted_smc(
    guided: Denoiser, *, tilt: Callable[[Tensor], Tensor] | None = None, n: int, **settings: Any
) -> Particles:
    r"""The law :math:`p(x_0)\,e^{g(x_0)}` of a guidance by a gradient, which the guidance alone does not sample.

    Its proposals are the guided steps (Wu et al. 2023, arXiv:2306.17775), its twisting function is the guidance's own
    :math:`g(x_t)`: of ``guidance.classifier`` at scale s, :math:`p(x_0)\,p(y | x_0)^s`.

    At a scale far above 1 the guidance's own factor is too pessimistic on the way, and the error has a long tail: then
    guide at scale 1 and give the law as ``tilt``, which reaches it with fewer particles (docs/particles.md).

    Args:
        guided: a denoiser guided by a gradient, as ``guidance.classifier`` and ``guidance.energy`` return.
        tilt: g of clean data ``(B, *shape)``, ``(B,)``; the guidance's own, asked at t = 0 with the belief that is the
            point x_0, if not given.
        n: particles of a population.
        settings: of ``smc``.
    """
    check_is_denoiser(guided, "guided")
    if not isinstance(guided, Tilted):
        raise UserError(
            "guided must be a denoiser guided by a gradient, such as guidance.classifier(…), "
            f"got {type(guided).__name__}; smc takes any factor, smc_product classifier-free guidance"
        )
    settings = {"proposal": Gradient(), **settings}
    return smc(guided.base, Function(guided.log_factor, tilt), n=n, **settings)


@register("particles", "steering", title="Feynman–Kac steering by a reward", arxiv="2501.06848", proof=_PROOF)
def fk_steering(
    denoiser: Denoiser,
    reward: Callable[[Tensor], Tensor],
    *,
    scale: float = 1.0,
    n: int,
    draws: int | None = None,
    **settings: Any,
) -> Particles:
    r"""The law :math:`p(x_0)\,e^{λ r(x_0)}` of any reward, which needs no gradient (Singhal et al. 2025,
    arXiv:2501.06848).

    Args:
        denoiser: the belief, of any process.
        reward: r of clean data ``(B, *shape)`` (of tokens, int64), one number a sample; large is good.
        scale: λ.
        n: particles of a population.
        draws: of the clean data by which a reward is looked ahead at; 0 is the predicted clean data, the default where
            data are numbers. Tokens need at least 1.
        settings: of ``smc``; ``potential="max"`` and ``"sum"`` are the paper's others, ``proposal=Gradient()`` guides.
    """
    check_is_denoiser(denoiser)
    draws = int(denoiser.process.discrete) if draws is None else draws
    return smc(denoiser, Reward(reward, scale, draws), n=n, **settings)


@register("particles", "posterior", title="Twisted diffusion of a measurement", arxiv="2306.17775", proof=_PROOF)
def smc_posterior(
    denoiser: Denoiser, operator: Operator, y: Tensor, std: float | MeasurementNoise, *, n: int, **settings: Any
) -> Particles:
    r"""The law :math:`p(x_0 | y) \propto p(x_0)\,p(y | x_0)` of what was measured, for any operator and noise.

    The twisting functions are ``Likelihood``; on scalar-Gaussian processes their gradients are the proposals.

    Args:
        denoiser: the belief.
        operator: A, for data of the denoiser's shape.
        y: one measurement.
        std: standard deviation of its noise, > 0, or its law.
        n: particles of a population.
        settings: of ``smc``; ``proposal=None`` takes no gradient.
    """
    check_is_denoiser(denoiser)
    measurement = one_measurement(operator, y, std, tuple(denoiser.shape))
    factor = Likelihood(measurement, denoiser.process)
    default: Proposal | None = Gradient() if isinstance(denoiser.process, ScalarGaussian) else None
    return smc(denoiser, factor, n=n, **{"proposal": default, **settings})


@dataclass(frozen=True, eq=False)
class Product(Target):
    r"""The paths of :math:`\prod_i p_i(x_0)^{w_i}\, q(x_{1:T} | x_0)`, whose end is the product law."""

    parts: tuple[Denoiser, ...]
    weights: tuple[float, ...]

    @property
    def denoiser(self) -> Denoiser:
        """The part of the largest weight, which is the proposal's."""
        return self.parts[self._largest]

    @property
    def _largest(self) -> int:
        return max(range(len(self.parts)), key=lambda i: self.weights[i])

    @property
    def _surplus(self) -> float:
        return sum(self.weights) - 1

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Draws of prior^Σ, which is normal with a variance Σ times smaller where the prior is normal."""
        prior, total = self.denoiser.process.prior(self.denoiser.shape), self._surplus + 1
        if not isinstance(prior, Normal):
            return x, self._surplus * prior.log_prob(x).to(torch.float64)
        drawn, centre = prior.log_prob(x), prior.mean.to(x)
        x = centre + (x - centre) / math.sqrt(total)
        log_weights = total * prior.log_prob(x) - drawn - x[0].numel() / 2 * math.log(total)
        return x, log_weights.to(torch.float64)

    def ask(self, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, tuple[Distribution, ...]]:
        return torch.zeros(len(x), dtype=torch.float64, device=x.device), tuple(batched(self.parts, x, t))

    def _kernel(self, x: Tensor, belief: Distribution, t: Tensor, s: Tensor) -> Distribution:
        process = self.denoiser.process
        if isinstance(belief, Dirac) and isinstance(process, ScalarGaussian) and s == 0:
            # A point has no density: it is as wide as the posterior of unit-variance data, as in the bound.
            return around(belief.mean, process.sigma2(t) / (process.alpha(t) ** 2 + process.sigma2(t)))
        return process.reverse(x, belief, t, s)

    def move(self, x: Tensor, beliefs: tuple[Distribution, ...], t: Tensor, s: Tensor) -> Move:
        process, own = self.denoiser.process, self._largest
        kernels = [self._kernel(x, belief, t, s) for belief in beliefs]
        if isinstance(process, ScalarGaussian):
            move = self._pooled(process, x, beliefs, kernels[own], t, s)
        else:
            move = Move.other(kernels[own], process.reverse(x, linear(beliefs, self.weights), t, s))

        def log_ratio(x_s: Tensor) -> Tensor:
            logs = [kernel.log_prob(x_s).to(torch.float64) for kernel in kernels]
            ratio = sum(w * log for w, log in zip(self.weights, logs)) - logs[own] + move.log_ratio(x_s)
            if abs(self._surplus) > 1e-12:
                ratio = ratio - self._surplus * process.transition(x_s, s, t).log_prob(x).to(torch.float64)
            return ratio

        return Move(move.sample, log_ratio)

    def _pooled(
        self,
        process: ScalarGaussian,
        x: Tensor,
        beliefs: tuple[Distribution, ...],
        kernel: Distribution,
        t: Tensor,
        s: Tensor,
    ) -> Move:
        r"""The largest part's kernel, at the mean and width that normal kernels of the bridge's variance v multiply to.

        .. math::
            \prod_i N(x_s; a \hat x_i + b x_t, v)^{w_i} / q(x_t | x_s)^{Σ-1} \propto
            N\Big(x_s; \frac{a \sum_i w_i \hat x_i + b x_t}{κ}, \frac vκ\Big),
            \quad κ = Σ - (Σ - 1) e^{λ_t - λ_s}
        """
        a, b, _ = process.bridge_coefficients(t, s)
        kappa = self._surplus + 1 - self._surplus * torch.exp(process.log_snr(t) - process.log_snr(s))
        pooled = linear([Dirac(belief.mean) for belief in beliefs], self.weights).mean
        mean = (expand(a, x) * pooled + expand(b, x) * x) / expand(kappa, x)
        return Move.warped(kernel, mean, 1 / torch.sqrt(kappa))

    def last(self, x0: Tensor, noise: Noise) -> Tensor:
        return torch.zeros(len(x0), dtype=torch.float64, device=x0.device)


@register("particles", "product", title="Product of laws, corrected by particles", proof=_PROOF)
def smc_product(
    denoisers: LinearPooling | Sequence[Denoiser], weights: Sequence[float] | None = None, *, n: int, **settings: Any
) -> Particles:
    r"""The product law :math:`\prod_i p_i(x_0)^{w_i}` itself, which no pooling of beliefs samples.

    Classifier-free guidance at scale w is :math:`p(x)^{1-w} p(x | y)^w`, negation is a negative weight. The proposals
    are steps of the pooled mean; the weight of a step is exact, with Σ = Σ_i w_i:

    .. math:: \log w \mathrel{+}= \sum_i w_i \log p_i(x_s | x_t) - (Σ - 1) \log q(x_t | x_s) - \log r(x_s | x_t)

    Args:
        denoisers: what ``guidance.classifier_free`` returns, or beliefs about data of one shape on one process.
        weights: w_i, one a denoiser, with a positive sum; of a pooling, its own.
        n: particles of a population.
        settings: of ``smc``, but for ``proposal`` and ``potential``.
    """
    if isinstance(denoisers, LinearPooling):
        if type(denoisers) is not LinearPooling:
            raise UserError(
                f"denoisers must be pooled linearly for their product, got {type(denoisers).__name__}; leave out "
                "rescale"
            )
        if weights is not None:
            raise UserError(f"weights must be left out of a pooling, which has its own, got {shown(weights)}")
        weights, denoisers = denoisers.weights, denoisers.parts
    if not isinstance(denoisers, Sequence) or not denoisers:
        raise UserError(f"denoisers must be a list of denoisers or classifier-free guidance, got {shown(denoisers)}")
    for one in denoisers:
        check_is_denoiser(one, "denoisers")
        if one.process != denoisers[0].process or tuple(one.shape) != tuple(denoisers[0].shape):
            raise UserError(f"denoisers must be of one shape on one process, got {denoisers[0]!r} and {one!r}")
    if weights is None or len(weights) != len(denoisers):
        raise UserError(f"weights must be one a denoiser, {len(denoisers)}, got {shown(weights)}")
    check_numbers(**{f"weights[{i}]": w for i, w in enumerate(weights)})
    if not sum(weights) > 0:
        raise UserError(f"weights must have a positive sum, got {sum(weights):g}: there is no such law")
    if not isinstance(denoisers[0].process, (ScalarGaussian, Chain)):
        raise UserError(f"denoisers must be on a scalar-Gaussian process or a chain, got {denoisers[0].process!r}")
    return run(Product(tuple(denoisers), tuple(map(float, weights))), n=n, **settings)
