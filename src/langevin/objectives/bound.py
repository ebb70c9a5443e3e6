"""The terms of the variational bound: decoders, and the divergence of one step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .._errors import UserError
from ..denoisers import DataDescription, Denoiser
from ..distributions import Categorical, Dirac, Distribution, Levels, Noise, Normal, kl
from ..processes import Chain, Observable, Process, as_time, expand, require


class Decoder(ABC):
    """How p(x_0 | x_t) at the smallest time of a grid is made of the belief about x_0.

    Attributes:
        density: whether ``log_prob`` is that of a density, not of a probability.
    """

    density: ClassVar[bool]

    @abstractmethod
    def log_prob(self, law: Distribution, x0: Tensor) -> Tensor:
        """log p(x_0 | x_t) in nats, ``(B,)``, where the belief is ``law``."""


@dataclass(frozen=True)
class Continuous(Decoder):
    """The density of the belief itself: for data without levels.

    Args:
        std: of a normal law around the belief's mean instead, > 0; the belief's own spread if None.
    """

    std: float | None = None
    density = True

    def __post_init__(self) -> None:
        _positive(self.std)

    def log_prob(self, law: Distribution, x0: Tensor) -> Tensor:
        return (law if self.std is None else Normal(law.mean, self.std**2)).log_prob(x0).to(torch.float64)


@dataclass(frozen=True)
class Tokens(Decoder):
    """The probability that the belief gives to tokens."""

    density = False

    def log_prob(self, law: Distribution, x0: Tensor) -> Tensor:
        return law.log_prob(x0).to(torch.float64)


NARROW = 1e-4
"""The least deviation, in units of a bin, that a belief is given: what it says of a bin is then 0 or 1 in any case."""


@dataclass(frozen=True)
class Discretised(Decoder):
    r"""A normal law a coordinate, integrated over the bin of each level (Ho et al. 2020, arXiv:2006.11239 eq. 13).

    .. math:: P(x) = Φ\!\left(\tfrac{x + Δ/2 - μ}{s}\right) - Φ\!\left(\tfrac{x - Δ/2 - μ}{s}\right), \qquad
              Δ = \tfrac{\mathrm{high} - \mathrm{low}}{\mathrm{levels} - 1}

    The bins of the lowest and the highest level reach to −∞ and ∞, so that the probabilities of the levels sum to 1.
    Of the belief the mean and the variance of each coordinate are taken; a belief about levels has their probabilities.

    Args:
        levels: L ≥ 2, 256 for 8-bit images.
        low, high: the values of the lowest and the highest level.
        std: s, > 0; that of the belief if None.
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0
    std: float | None = None
    density = False

    def __post_init__(self) -> None:
        if type(self.levels) is not int or self.levels < 2:
            raise UserError(f"levels must be an integer of at least 2, got {self.levels!r}")
        if not -math.inf < self.low < self.high < math.inf:
            raise UserError(f"low, high must be finite with low < high, got {self.low} and {self.high}")
        _positive(self.std)

    @property
    def width(self) -> float:
        """Δ."""
        return (self.high - self.low) / (self.levels - 1)

    def log_prob(self, law: Distribution, x0: Tensor) -> Tensor:
        if isinstance(law, Levels) and self.std is None:
            return law.log_prob(x0).to(torch.float64)
        mean, x = law.mean.to(torch.float64), x0.to(torch.float64)
        if self.std is None:
            variance = law.cov.diagonal(tuple(x.shape[1:])).to(torch.float64)
            # A law without spread has no slope in it: a root of 0 would make gradients not-a-number.
            std = torch.sqrt(variance.clamp_min((NARROW * self.width) ** 2))
        else:
            std = torch.full((), self.std, dtype=torch.float64, device=x.device)
        # By symmetry the bin is taken on the side of the lower tail, where its two ends do not round to 1.
        side = torch.where(x < mean, 1.0, -1.0)
        near, far = ((side * (x - mean) + end * self.width / 2) / std for end in (1, -1))
        first, last = x < self.low + self.width / 2, x > self.high - self.width / 2
        no_near, no_far = torch.where(side > 0, last, first), torch.where(side > 0, first, last)
        below = torch.where(no_near, 0.0, torch.special.log_ndtr(torch.where(no_near, 0.0, near)))
        apart = below - torch.special.log_ndtr(torch.where(no_far, 0.0, far))
        return (below + torch.where(no_far, 0.0, _log1mexp(torch.where(no_far, 1.0, apart)))).flatten(1).sum(1)


def _log1mexp(d: Tensor) -> Tensor:
    """log(1 − e^{−d}) for d > 0."""
    small = d < math.log(2)
    near = torch.log(-torch.expm1(-torch.where(small, d, 1.0)))
    return torch.where(small, near, torch.log1p(-torch.exp(-torch.where(small, 1.0, d))))


def _positive(std: float | None) -> None:
    if std is not None and not 0 < std < math.inf:
        raise UserError(f"std must be a number > 0, got {std}")


def default_decoder(denoiser: Denoiser) -> Decoder:
    """For tokens their probability, for data with levels that of the bin, for all other data the density."""
    if isinstance(denoiser.process, Chain):
        return Tokens()
    return decoder_of_data(denoiser.data)


def decoder_of_data(data: DataDescription | None) -> Decoder:
    """For data with levels the probability of the bin, for all other data the density."""
    if data is None or data.levels is None or data.low is None or data.high is None:
        return Continuous()
    return Discretised(data.levels, data.low, data.high)


def widened(process: Process, belief: Distribution, x_t: Tensor, t: Tensor | float) -> Distribution:
    r"""A belief with a density: a point gets the posterior variance of unit-variance data.

    With y = a x_0 + r ε what the state says of the data, that is :math:`r^2/(a^2 + r^2)`: DDPM's β_1 for the first
    step of a table (arXiv:2006.11239 §3.2, its first choice of σ²). Any other belief is left as it is.
    """
    if not isinstance(belief, Dirac):
        return belief
    observable: Observable = require(process, Observable, "the density of a point belief")
    seen = observable.observe(x_t, t)
    return Normal(belief.mean, expand(seen.r**2 / (seen.a**2 + seen.r**2), belief.mean))


def decode(
    process: Process, decoder: Decoder, x0: Tensor, x_t: Tensor, belief: Distribution, t: Tensor | float
) -> Tensor:
    """L_0 = −log p(x_0 | x_t) of each sample in nats, ``(B,)``, where t is the smallest time of the grid.

    For tokens the law is the reverse step to clean data, which knows what the chain could not have done.
    """
    if isinstance(decoder, Tokens):
        return -decoder.log_prob(process.reverse(x_t, belief, t, 0.0), x0)
    return -decoder.log_prob(widened(process, belief, x_t, t), x0)


def step_term(
    process: Process,
    x0: Tensor,
    x_t: Tensor,
    belief: Distribution,
    t: Tensor | float,
    s: Tensor | float,
    noise: Noise | None = None,
    x_s: Tensor | None = None,
) -> Tensor:
    r"""L_{t→s} of each sample in nats, float64 ``(B,)``: one term of the bound (arXiv:2006.11239 eq. 5).

    .. math:: \mathrm{KL}\!\left(q(x_s | x_t, x_0) \,\|\, p(x_s | x_t)\right), \quad
              p(x_s | x_t) = E_{\mathrm{belief}}[q(x_s | x_t, x_0)]

    Closed where both laws are normal or both categorical. Otherwise (a belief that is a mixture, a finite set) it is
    one draw of log q − log p, unbiased, at an x_s drawn by ``noise``. Where an ``x_s`` is given, a draw of the bridge,
    it is log q − log p there.

    Args:
        process: of the states.
        x0: clean data ``(B, *shape)``.
        x_t: a draw of q(x_t | x_0).
        belief: about x_0 given x_t.
        t, s: times with 0 < s < t, ``()`` or ``(B,)``.
        noise: of these samples, needed where there is no closed form.
        x_s: a draw of q(x_s | x_t, x_0), or None.

    Raises:
        UserError: if p has no density.
    """
    return divergence(process.bridge(x_t, x0, t, s), process.reverse(x_t, belief, t, s), noise, x_s)


def prior_term(
    process: Process,
    x0: Tensor,
    t: Tensor | float,
    start: Distribution | None = None,
    noise: Noise | None = None,
    x_t: Tensor | None = None,
) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ start) of each sample in nats, ``(B,)``; start is the process's prior if not given."""
    start = process.prior(tuple(x0.shape[1:])) if start is None else start
    return divergence(process.marginal(x0, as_time(t)), start, noise, x_t)


def divergence(q: Distribution, p: Distribution, noise: Noise | None = None, x: Tensor | None = None) -> Tensor:
    """KL(q ‖ p) in closed form where there is one, else log q − log p at a draw x of q; always at x if it is given."""
    closed = any(isinstance(q, kind) and isinstance(p, kind) for kind in (Normal, Categorical))
    if x is None and closed:
        return kl(q, p)
    if x is None:
        if noise is None:
            raise UserError(f"noise must be given: KL to a {type(p).__name__} has no closed form")
        x = q.sample(noise)
    try:
        return (q.log_prob(x) - p.log_prob(x)).to(torch.float64)
    except TypeError as error:
        raise UserError(
            f"a step of this belief has no density ({error}); take denoisers.gaussian(denoiser), or independent for "
            "tokens"
        ) from None
