"""Proposals: by which law particles are moved, and what that does to their weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..._errors import UserError, shown
from ...denoisers import Denoiser, check_is_denoiser
from ...distributions import Dirac, Distribution, Noise
from ...processes import Process, ScalarGaussian, expand, require


@dataclass(frozen=True, eq=False)
class Move:
    """How particles are moved in a step.

    Args:
        sample: x_s with a step's noise, ``(B, *state)``.
        log_ratio: log p(x_s | x_t) − log proposal(x_s | x_t), ``(B,)``, of what was sampled.
    """

    sample: Callable[[Noise], Tensor]
    log_ratio: Callable[[Tensor], Tensor]

    @staticmethod
    def by(kernel: Distribution) -> Move:
        """By the reverse kernel itself: the ratio is 1."""
        return Move(kernel.sample, lambda x: torch.zeros(len(x), dtype=torch.float64, device=x.device))

    @staticmethod
    def shifted(kernel: Distribution, shift: Tensor) -> Move:
        """By the reverse kernel, moved by ``shift``: as wide as the kernel is, so weights have a finite variance.

        .. math:: \\log p(x_s) - \\log p(x_s - δ)
        """
        return Move(
            lambda noise: kernel.sample(noise) + shift,
            lambda x: (kernel.log_prob(x) - kernel.log_prob(x - shift)).to(torch.float64),
        )

    @staticmethod
    def warped(kernel: Distribution, mean: Tensor, scale: Tensor) -> Move:
        """By the reverse kernel, moved to a mean and scaled about it: ``scale`` > 0, ``()``.

        .. math:: x_s = μ' + c (x - μ), \\quad \\log p(x_s) - \\log p(μ + (x_s - μ') / c) + D \\log c
        """
        centre = kernel.mean

        def log_ratio(x: Tensor) -> Tensor:
            inside = kernel.log_prob(centre + (x - mean) / scale.to(x))
            return (kernel.log_prob(x) - inside).to(torch.float64) + x[0].numel() * torch.log(scale)

        return Move(lambda noise: mean + scale.to(mean) * (kernel.sample(noise) - centre), log_ratio)

    @staticmethod
    def other(kernel: Distribution, law: Distribution) -> Move:
        """By another law, which must reach whatever the kernel reaches."""
        return Move(law.sample, lambda x: (kernel.log_prob(x) - law.log_prob(x)).to(torch.float64))


Evaluation = tuple[Distribution, Tensor, Distribution | None]
"""The belief, log ψ_t, and what else the proposal believes."""


class Proposal(ABC):
    """What particles are moved by; the reverse kernel of the denoiser that is tilted is what they are weighed by.

    The last step, to clean data, is the kernel's own where states are numbers: that of a point belief has no density.
    """

    needs: ClassVar[tuple[type, str]] = (Process, "a proposal")

    def check(self, process: Process) -> None:
        """Refuse a process that lacks a power this proposal needs."""
        require(process, *self.needs)

    def ask(
        self, denoiser: Denoiser, factor: Callable[[Tensor, Distribution], Tensor], x: Tensor, t: Tensor
    ) -> Evaluation:
        """The belief, the factor and the proposal's own belief at (x_t, t)."""
        belief = denoiser(x, t)
        return belief, factor(x, belief), None

    @abstractmethod
    def move(
        self, process: Process, x: Tensor, belief: Distribution, own: Distribution | None, t: Tensor, s: Tensor
    ) -> Move:
        """From t to s."""


@dataclass(frozen=True)
class Unguided(Proposal):
    """The reverse kernel itself: the bootstrap filter, which needs no density and no gradient."""

    def move(
        self, process: Process, x: Tensor, belief: Distribution, own: Distribution | None, t: Tensor, s: Tensor
    ) -> Move:
        return Move.by(process.reverse(x, belief, t, s))


def kernel_shift(process: ScalarGaussian, x: Tensor, t: Tensor, s: Tensor, moved: Tensor) -> Tensor:
    """a·Δ: what a change Δ of x̂_0 does to the mean of the reverse kernel."""
    a, _, _ = process.bridge_coefficients(t, s)
    return expand(a, x) * moved


class Translated(Proposal):
    """The reverse kernel, its mean moved by what ``ask`` says that x̂_0 is moved by."""

    def move(
        self, process: Process, x: Tensor, belief: Distribution, own: Distribution | None, t: Tensor, s: Tensor
    ) -> Move:
        assert isinstance(process, ScalarGaussian)
        assert own is not None
        kernel = process.reverse(x, belief, t, s)
        return Move.by(kernel) if s == 0 else Move.shifted(kernel, kernel_shift(process, x, t, s, own.mean))


@dataclass(frozen=True)
class Gradient(Translated):
    r"""Twisted diffusion (arXiv:2306.17775 eq. 8): the kernel's mean is moved along the gradient of the factor.

    .. math:: \hat x_0' = \hat x_0 + \frac{σ^2}{α} ∇_{x_t} \logψ_t(x_t)

    One forward and one backward pass of the denoiser serve belief, factor and gradient.
    """

    needs = ScalarGaussian, "a proposal by the gradient of a factor"

    def ask(
        self, denoiser: Denoiser, factor: Callable[[Tensor, Distribution], Tensor], x: Tensor, t: Tensor
    ) -> Evaluation:
        process = require(denoiser.process, ScalarGaussian, self.needs[1])
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            belief = denoiser(y, t)
            log_psi = factor(y, belief)
            if not log_psi.requires_grad:
                raise UserError("factor must be differentiable in x_t for a proposal by its gradient")
            (gradient,) = torch.autograd.grad(log_psi.sum(), y)
        alpha = process.alpha(t)
        # Where α = 0 a state says nothing about the data, and there is nothing to be guided by.
        strength = torch.where(alpha > 0, process.sigma2(t) / torch.where(alpha > 0, alpha, 1.0), 0.0)
        return belief, log_psi.detach(), Dirac(expand(strength, x) * gradient)


@dataclass(frozen=True, eq=False)
class Shifted(Translated):
    """The reverse kernel, its mean moved to where a guided denoiser believes the data to be.

    Args:
        denoiser: the guided one, of which the mean is taken.
    """

    denoiser: Denoiser
    needs = ScalarGaussian, "a proposal by the mean of a guided denoiser"

    def __post_init__(self) -> None:
        check_is_denoiser(self.denoiser, "proposal")

    def ask(
        self, denoiser: Denoiser, factor: Callable[[Tensor, Distribution], Tensor], x: Tensor, t: Tensor
    ) -> Evaluation:
        belief = denoiser(x, t)
        return belief, factor(x, belief), Dirac(self.denoiser(x, t).mean - belief.mean)


@dataclass(frozen=True, eq=False)
class Own(Proposal):
    """The reverse kernel of another denoiser, covariance and all: for tokens, and for whole beliefs.

    It must reach whatever the tilted kernel reaches: one that is narrower has weights without a variance.

    Args:
        denoiser: the other one.
    """

    denoiser: Denoiser

    def __post_init__(self) -> None:
        check_is_denoiser(self.denoiser, "proposal")

    def ask(
        self, denoiser: Denoiser, factor: Callable[[Tensor, Distribution], Tensor], x: Tensor, t: Tensor
    ) -> Evaluation:
        belief = denoiser(x, t)
        return belief, factor(x, belief), self.denoiser(x, t)

    def move(
        self, process: Process, x: Tensor, belief: Distribution, own: Distribution | None, t: Tensor, s: Tensor
    ) -> Move:
        assert own is not None
        kernel = process.reverse(x, belief, t, s)
        if s == 0 and not process.discrete:
            return Move.by(kernel)
        return Move.other(kernel, process.reverse(x, own, t, s))


def as_proposal(proposal: object, process: Process) -> Proposal:
    """A proposal of what was given; a denoiser gives its mean on scalar-Gaussian processes, else its whole kernel."""
    if proposal is None:
        return Unguided()
    if isinstance(proposal, Denoiser):
        if proposal.process != process:
            raise UserError(f"proposal must be of noisy data of {process}, got one of {proposal.process}")
        proposal = Shifted(proposal) if isinstance(process, ScalarGaussian) else Own(proposal)
    if not isinstance(proposal, Proposal):
        accepted = "a denoiser, a proposal such as langevin.samplers.particles.Gradient(), or None"
        why = "; the step of a sampler has no density to be weighed by" if hasattr(proposal, "step") else ""
        raise UserError(f"proposal must be {accepted}, got {shown(proposal)}{why}")
    proposal.check(process)
    return proposal
