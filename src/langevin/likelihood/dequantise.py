r"""Noise that turns levels into a density: for any law q(u | x) inside the bin of x,

.. math:: \log P(x) \ge E_{q(u | x)} [\log p(x + u) - \log q(u | x)]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._errors import UserError
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Noise
from ..objectives import Discretised
from ..processes import ScalarGaussian, require
from .bound import check_data, check_levels

_LOG_2PI = math.log(2 * math.pi)


class Dequantiser(ABC):
    """A law q(u | x) of the noise on levels a width Δ apart, |u| < Δ/2 in each coordinate."""

    name: str

    @abstractmethod
    def sample(self, x: Tensor, width: float, std: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """(x + u, log q(u | x)) for data ``(B, *shape)``; ``std`` is σ/α where the density is taken."""

    def time(self, process: ScalarGaussian, width: float) -> float:
        """The time whose density is taken; that of x/α, which is nearly that of the data."""
        return 0.0


@dataclass(frozen=True)
class Uniform(Dequantiser):
    """u uniform over the bin (Theis et al. 2016, arXiv:1511.01844): for models trained on such data."""

    name = "uniform"

    def sample(self, x: Tensor, width: float, std: float, noise: Noise) -> tuple[Tensor, Tensor]:
        u = width * (noise.uniform(tuple(x.shape[1:])) - 0.5)
        return x + u, torch.full((len(x),), -x[0].numel() * math.log(width), dtype=torch.float64)


@dataclass(frozen=True)
class TruncatedNormal(Dequantiser):
    r"""u normal with the process's own σ/α, cut at ±Δ/2 (Zheng et al. 2023, arXiv:2305.03935 §4.1).

    The density is taken at the time that has this σ/α, so that a model trained on the levels themselves is asked about
    just what it was trained on. The time is that of σ/α = Δ/8, or the process's ``t_min`` if that is later.
    """

    name = "truncated normal"

    def time(self, process: ScalarGaussian, width: float) -> float:
        return max(process.t_min, float(process.time(-2 * math.log(width / 8))))

    def sample(self, x: Tensor, width: float, std: float, noise: Noise) -> tuple[Tensor, Tensor]:
        edge = torch.tensor(width / 2 / std, dtype=torch.float64)
        share = torch.erf(edge / math.sqrt(2))
        z = math.sqrt(2) * torch.erfinv(share * (2 * noise.uniform(tuple(x.shape[1:])) - 1))
        z = z.clamp(-edge, edge)
        log_q = -0.5 * (z**2 + _LOG_2PI) - math.log(std) - torch.log(share)
        return x + std * z, log_q.flatten(1).sum(1)


class LogisticNormal(nn.Module, Dequantiser):
    r"""u = Δ(sigmoid(a(x) + e^{b(x)} ε) − ½), ε normal, with a and b by a small network (variational dequantisation).

    After Ho et al. 2019, arXiv:1902.00275 §3.1, with one affine layer in the flow's place. ``learn`` trains it.

    Args:
        shape: of the events: images go through 3×3 convolutions, other events through a perceptron.
        width: channels of the hidden layers, ≥ 1.
    """

    name = "variational"

    def __init__(self, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        size = math.prod(shape)
        image = len(shape) == 3
        into, out = (shape[0], 2 * shape[0]) if image else (size, 2 * size)
        layer = (lambda a, b: nn.Conv2d(a, b, 3, padding=1)) if image else nn.Linear
        last = layer(width, out)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.shape = shape if image else (size,)
        self.body = nn.Sequential(layer(into, width), nn.SiLU(), layer(width, width), nn.SiLU(), last).double()

    def time(self, process: ScalarGaussian, width: float) -> float:
        return TruncatedNormal().time(process, width)

    def sample(self, x: Tensor, width: float, std: float, noise: Noise) -> tuple[Tensor, Tensor]:
        a, b = self.body(x.double().reshape(-1, *self.shape)).reshape(len(x), 2, -1).unbind(1)
        b = b.clamp(-7, 7) + math.log(1.6)  # a normal logit of this spread is nearly uniform
        e = noise.normal((a.shape[1],)).to(a)
        logit = a + torch.exp(b) * e
        log_u = torch.nn.functional.logsigmoid(logit) + torch.nn.functional.logsigmoid(-logit)
        log_q = -0.5 * (e**2 + _LOG_2PI) - b - log_u - math.log(width)
        u = width * (torch.sigmoid(logit) - 0.5)
        return x + u.reshape(x.shape), log_q.sum(1)


DEQUANTISERS = {"uniform": Uniform, "normal": TruncatedNormal}
"""Laws by name; ``learn_dequantiser`` makes another."""


def learn_dequantiser(
    denoiser: Denoiser,
    x: Tensor,
    *,
    steps: int = 500,
    batch: int = 64,
    rate: float = 3e-3,
    seed: int = 0,
) -> LogisticNormal:
    r"""Train q(u | x) on a model that stays as it is, by ascent of E[log p(x + u) − log q(u | x)].

    log p needs no likelihood for that: its gradient in u is the score, one evaluation of the model a step,

    .. math:: ∇_φ E \log p(x + u_φ) = E \big[ \tfrac{α^2}{σ^2} (\hat x_0 - y) \cdot ∇_φ u_φ \big], \quad y = x + u.

    Args:
        denoiser: of a scalar-Gaussian process, whose data have levels.
        x: training data on their levels, ``(N, *shape)``.
        steps: of Adam, ≥ 1.
        batch: data a step.
        rate: the step size, falling to 0 like a cosine.
        seed: of initial weights, order and noise.
    """
    width = levels_of(denoiser, x)
    check_is_denoiser(denoiser)
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "variational dequantisation")
    for name, value in (("steps", steps), ("batch", batch)):
        if type(value) is not int or value < 1:
            raise UserError(f"{name} must be an integer of at least 1, got {value!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        law = LogisticNormal(tuple(denoiser.shape))
        order = torch.randint(len(x), (steps, batch))
    law = law.to(denoiser.device)
    t = torch.tensor(law.time(process, width), dtype=torch.float64)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    optimiser = torch.optim.Adam(law.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for i in range(steps):
        clean = x[order[i]].to(denoiser.device, torch.float64)
        y, log_q = law.sample(clean, width, sigma / alpha, Noise(seed, batch).step(i).to(denoiser.device))
        with torch.no_grad():
            score = (denoiser.rows(order[i])(alpha * y, t).mean - y) * (alpha / sigma) ** 2
        loss = (log_q - (score * y).flatten(1).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return law.requires_grad_(False).eval()


def levels_of(denoiser: Denoiser, x: Tensor) -> float:
    """The bin width Δ of the model's data, and that x stands on their levels."""
    data = denoiser.data
    if data is None or data.levels is None or data.low is None or data.high is None:
        raise UserError("dequantise is for data with levels, which this model does not say its data have; leave it out")
    bins = Discretised(data.levels, data.low, data.high)
    check_levels(check_data(denoiser, x), bins)
    return bins.width
