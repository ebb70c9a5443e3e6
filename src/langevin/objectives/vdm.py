"""The continuous-time bound of variational diffusion models, which also teaches the noise schedule."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, NetworkDenoiser
from ..distributions import Noise, Stream
from ..processes import Learned, Learning, MonotoneNetwork, VariancePreserving
from .denoising import Condition, Timed
from .times import Stratified, TimestepDistribution, Uniform


def prior_term(x0: Tensor, gamma: Tensor) -> Tensor:
    r"""KL(q(x_1 | x_0) ‖ N(0, I)) a coordinate, in nats, ``(B,)``, for α² = sigmoid(−γ), σ² = sigmoid(γ).

    .. math:: \tfrac12 (σ_1^2 + α_1^2 x_0^2 - 1 - \log σ_1^2)
    """
    squares = x0.to(torch.float64).square().flatten(1).mean(1)
    return (torch.sigmoid(-gamma) * (squares - 1) - F.logsigmoid(gamma)) / 2


def reconstruction_term(x0: Tensor, gamma: Tensor, noise: Noise, levels: Tensor | None) -> Tensor:
    r"""−E log p(x_0 | z_0) a coordinate, in nats, ``(B,)``, with :math:`p(x | z_0) \propto q(z_0 | x)`.

    For data on ``levels``, normalised over them (arXiv:2107.00630, eq. 9 and app. C; one draw of z_0). For a density
    that is N(x; z_0/α_0, e^{γ_0}), whose expectation is closed: :math:`\tfrac12 (\log 2πe + γ_0)`.

    Args:
        x0: ``(B, *shape)``.
        gamma: γ_0, ``()``.
        noise: of these samples.
        levels: the values a coordinate can take, ``(L,)``; None for a density.
    """
    if levels is None:
        return ((math.log(2 * math.pi * math.e) + gamma) / 2).expand(x0.shape[0])
    # z_0/α_0 = x + ε e^{γ_0/2}: the log-odds of a level v against x are −½ [(δ + ε)² − ε²], δ = (x − v) e^{−γ_0/2}.
    epsilon = noise.fold_in(Stream.END).normal(tuple(x0.shape[1:])).to(x0)[..., None]
    apart = (x0[..., None] - levels.to(x0)) * torch.exp(-gamma / 2).to(x0)
    odds = -apart * (apart + 2 * epsilon) / 2
    return torch.logsumexp(odds, -1).flatten(1).mean(1).to(torch.float64)


@dataclass(frozen=True)
class Level(VariancePreserving):
    """The process whose time is the noise level, γ = 52 (t − ½): a network that is told γ is asked through it."""

    def log_alpha(self, t: Tensor) -> Tensor:
        return -F.softplus(52 * (t - 0.5)) / 2

    def sigma2(self, t: Tensor) -> Tensor:
        return torch.sigmoid(52 * (t - 0.5))

    def log_snr(self, t: Tensor | float) -> Tensor:
        return -52 * (torch.as_tensor(t, dtype=torch.float64) - 0.5)

    def time(self, log_snr: Tensor | float) -> Tensor:
        return 0.5 - torch.as_tensor(log_snr, dtype=torch.float64) / 52


@register(
    "objectives",
    "vdm",
    title="Variational diffusion model: the bound in continuous time, and its schedule",
    arxiv="2107.00630",
    proof="exact: tests/objectives/test_vdm.py",
)
@dataclass(frozen=True)
class VDM(Timed):
    r"""A bound on −log p(x_0) a coordinate, in nats, in the limit of infinitely many steps (arXiv:2107.00630, eq. 17).

    .. math:: \tfrac12 γ'(u)\, e^{-γ(u)}\, \tfrac1D |\hat x_0 - x_0|^2
              \;+\; \mathrm{KL}(q(x_1|x_0) \,‖\, N(0, I)) \;-\; \log p(x_0 | z_0), \quad u \sim U(0, 1)

    The expectation depends on γ through its ends alone (eq. 18). So the ends of the schedule follow the gradient of the
    bound, and its interior that of the square of the first term (app. I.2), whose expectation is, up to what the
    interior can't change, the variance of the estimate. Both come of one backward pass: the second is the first times
    twice the term, sample by sample.

    Args:
        times: the law of t: uniform from t_min to 1, best stratified (app. I.1).
    """

    times: TimestepDistribution = Stratified()  # noqa: RUF009 (frozen)

    def __call__(self, denoiser: Denoiser, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        process = denoiser.process
        assert isinstance(process, Learning)
        with torch.enable_grad():  # of s in u; the gradients of the loss are the caller's choice
            u = process.inside(self.times.quantile(process, self.times.uniform(noise))).requires_grad_()
            share = process.network.share(u)
            slope = process.rate(process.network.share, u)
        low, gap = process.network.ends()
        if not torch.is_grad_enabled():
            share, slope = share.detach(), slope.detach()
        gamma = low + gap * share
        level = Level()
        t = level.time(-gamma)
        x_t = level.marginal(x0, t).sample(noise)
        asked = (denoiser.given(condition) if condition else denoiser).replaced(process=level)
        error = (asked(x_t, t).mean - x0).square().flatten(1).mean(1).to(torch.float64)
        diffusion = gap * slope * torch.exp(-gamma) * error / 2
        if diffusion.requires_grad:
            for part in (share, slope):
                part.register_hook(lambda gradient: gradient * 2 * diffusion.detach())
        ends = prior_term(x0, low + gap) + reconstruction_term(x0, low, noise, levels_of(denoiser))
        return diffusion + ends

    def check(self, denoiser: Denoiser) -> None:
        if not isinstance(denoiser.process, (Learned, Learning)):
            raise UserError(f"objective 'vdm' learns the process 'learned', got {denoiser.process}; use 'likelihood'")
        if self.times not in (Uniform(), Stratified()):
            raise UserError(f"objective 'vdm' draws times uniform from t_min to 1, got {self.times}")
        how = denoiser.parameterization
        if how is not None and how.time != "log_sigma":
            raise UserError(f"objective 'vdm' needs a network that is told log_sigma, got prediction.time {how.time!r}")

    def prepare(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """The denoiser with a schedule that learns: a part of its network, so that it is averaged and kept with it."""
        network, process = denoiser.network, denoiser.process
        if not hasattr(network, "schedule"):
            assert isinstance(process, Learned)
            network.schedule = MonotoneNetwork(process.gamma[0], process.gamma[-1])
        assert isinstance(network.schedule, MonotoneNetwork)
        return replace(denoiser, process=Learning(network.schedule))

    def finish(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """The denoiser with the schedule as a table, and a network without it; weights are shared."""
        assert isinstance(denoiser.process, Learning)
        network = copy.copy(denoiser.network)
        network._modules = {name: part for name, part in network._modules.items() if name != "schedule"}
        return replace(denoiser, network=network, process=denoiser.process.frozen())

    def to_dict(self) -> dict[str, Any]:
        return {"name": "vdm", "times": self.times.to_dict()}


def levels_of(denoiser: Denoiser) -> Tensor | None:
    """The values a coordinate of the denoiser's data takes; None if they are continuous or unknown."""
    data = denoiser.data
    if data is None or data.levels is None or data.low is None or data.high is None:
        return None
    return torch.linspace(data.low, data.high, data.levels, dtype=torch.float64)
