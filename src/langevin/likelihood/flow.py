r"""The probability flow as what is left of it beside a Gaussian, on a time warp that has nothing at either end.

``exact.py``, where to begin reading, calls it.

With y = x/α, σ the noise-to-signal ratio, u = log σ, mean m, covariance V diag(λ) Vᵀ, S² = λ + σ², z = Vᵀ(y − m)/S,

.. math::
    \frac{dz}{du} = f(z, u) = -\frac{Δ}{S}, \qquad Δ = V^T(\hat x_0 - m) - \frac{λ}{S} z, \qquad
    \frac{d \log p(z)}{du} = -\mathrm{div} f = \mathrm{tr} \frac{∂\hat x_0}{∂y} - \sum \frac{λ}{S^2}

z is N(0, I) at σ = ∞ for all data, and at σ = 0 an affine map of them, so no prior is cut off and no ε left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..denoisers import Denoiser
from ..denoisers.base import Density
from ..numerics.frame import GaussianFrame
from ..numerics.quadrature import Array, gauss, lagrange
from ..processes import ScalarGaussian, expand, require
from .probes import Probes

LOG_2PI = math.log(2 * math.pi)


class Flow:
    """The field f(z, u) of a denoiser beside the Gaussian of a frame, and its divergence.

    An exact belief is asked at every σ; any other between the ends of what its process calls useful, and beyond them Δ
    is continued as it goes to nothing: like σ² below and like σ⁻² above, at the same z.
    """

    def __init__(self, denoiser: Denoiser, frame: GaussianFrame, asked: list[int] | None = None) -> None:
        self.denoiser, self.frame = denoiser, frame.on(denoiser.device)
        self.process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "the exact likelihood")
        self.variances = self.frame.variances
        ends = torch.tensor([self.process.t_min, self.process.t_max], dtype=torch.float64)
        low, high = (-0.5 * self.process.log_snr(ends)).tolist()
        self.low = -math.inf if isinstance(denoiser, Density) else low
        self.high = high
        self.asked = [0] if asked is None else asked
        """Samples asked about, all calls together: a list, so that the flow of some of the samples adds to it."""

    def rows(self, index: slice | Tensor) -> Flow:
        """The flow of some of the samples."""
        return Flow(self.denoiser.rows(index), self.frame, self.asked)

    def scale(self, u: Tensor) -> Tensor:
        """S at u ``()`` or ``(B, 1)``: ``(D,)`` or ``(B, D)``."""
        return torch.sqrt(self.variances + torch.exp(2 * u))

    def start(self, y: Tensor, u: float) -> tuple[Tensor, Tensor]:
        """z of states ``(B, *shape)`` at u (−∞ for data), and log |dz/dy|."""
        scale = self.scale(torch.tensor(u, dtype=torch.float64))
        return self.frame.to(y) / scale, -torch.log(scale).sum()

    def __call__(self, z: Tensor, u: Tensor) -> Tensor:
        """f, ``(B, D)``, at u ``()`` or ``(B, 1)``: one evaluation of the denoiser."""
        at = u.clamp(self.low, self.high)
        scale = self.scale(at)
        t = self.process.time(-2 * at.reshape(-1) if at.ndim else -2 * at)
        y = self.frame.back(z * scale)
        x = (expand(self.process.alpha(t), y) * y).reshape(-1, *self.denoiser.shape)
        rest = self.frame.to(self.denoiser(x, t).mean) - self.variances / scale * z
        self.asked[0] += len(z)
        return rest * (-torch.exp(-2 * (u - at).abs()) / self.scale(u))

    def both(self, z: Tensor, u: Tensor, probes: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        """f and its divergence: ``(B,)`` exactly, by D products, or ``(K, B)`` by one for each of K probes."""
        if probes is not None:
            f, products = self.products(z, u, probes)
            return f, (products * torch.stack(probes)).sum(-1)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            f = self(z, u)
        parts = []
        for k in range(z.shape[1]):
            seed = torch.zeros_like(f)
            seed[:, k] = 1
            parts.append(torch.autograd.grad(f, z, seed, retain_graph=k + 1 < z.shape[1])[0][:, k])
        return f.detach(), torch.stack(parts).detach().sum(0)

    def products(self, z: Tensor, u: Tensor, probes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """f, and A ε for each of K probes, ``(K, B, D)``: A is the derivative of f in the coordinates in which it is
        symmetric, where εᵀAε varies least."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            f = self(z, u)
        scale, last = self.scale(u), len(probes) - 1
        parts = [
            torch.autograd.grad(f, z, probe * scale, retain_graph=k < last)[0] / scale for k, probe in enumerate(probes)
        ]
        return f.detach(), torch.stack(parts).detach()


@dataclass(frozen=True)
class TimeWarp:
    r"""A time warp v(u) with v′ of a plateau and a bump, each falling like a power of σ on both sides.

    .. math:: v(u) = \sum_i \frac{B_i}{k_i} \big[ \mathrm{sp}(k_i (u - a_i)) - \mathrm{sp}(k_i (u - b_i)) \big],
              \qquad \mathrm{sp}(x) = \log(1 + e^x)

    f falls like σ² and like σ⁻³, v′ like σ^{±k} with k < 1: the integrands du/dv·f vanish at both ends with their first
    derivatives, and the trapezoid rule on equal steps of v is as exact as the integrand is smooth.

    Args:
        parts: (B, k, a, b) of each part.
    """

    parts: tuple[tuple[float, float, float, float], ...]

    @property
    def whole(self) -> float:
        """v at u = ∞; it is 0 at −∞."""
        return sum(height * (b - a) for height, _, a, b in self.parts)

    def __call__(self, u: Array) -> Array:
        """v."""
        total = np.zeros_like(u)
        for height, k, a, b in self.parts:
            total += height / k * (np.logaddexp(0, k * (u - a)) - np.logaddexp(0, k * (u - b)))
        return total

    def slope(self, u: Array) -> Array:
        """v′ > 0."""
        total = np.zeros_like(u)
        for height, k, a, b in self.parts:
            # σ(p) − σ(q) = sinh((p − q)/2)/(2 cosh(p/2) cosh(q/2)), which does not cancel far out
            p, q = k * (u - a) / 2, k * (u - b) / 2
            total += height / 2 * math.sinh(k * (b - a) / 2) / (np.cosh(p) * np.cosh(q))
        return total

    def inverse(self, v: Array) -> Array:
        """u of v in (0, whole), by bisection."""
        low, high = np.full_like(v, -60.0), np.full_like(v, 60.0)
        for _ in range(70):
            middle = (low + high) / 2
            below = self(middle) < v
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2


FINE = 0.03
"""Structure is looked for down to this share of the data's spread: a covariance does not tell how fine clusters are."""

STIFF = 0.13
"""Above this share of the largest deviation samples decide between clusters, and the field is stiff."""


@lru_cache(maxsize=64)
def time_warps(frame: GaussianFrame, stochastic: bool) -> tuple[TimeWarp, float]:
    """The time warp of this frame, and the u from which the field may be stiff.

    With exact divergences evaluations stand closer where samples decide between clusters; with probes, whose variance
    the path's error never reaches, they stand evenly in log σ where the derivative is far from a diagonal.
    """
    largest = frame.largest if frame.spectral else 2.5 * frame.std
    fine, coarse = math.log(FINE * frame.std), math.log(largest)
    if stochastic:
        parts = [(1.0, 1.0, fine, coarse)]
    else:
        parts = [(1.0, 0.7, fine, coarse), (1.0, 3.0, coarse - 1.85, coarse + 0.25)]
    return TimeWarp(tuple(parts)), coarse + math.log(STIFF)


@dataclass(frozen=True)
class Nodes:
    """Nodes s_i = i/(n + 1), i = 1…n: u there, du/ds, and whether the field may be stiff."""

    u: Array
    rate: Array
    stiff: NDArray[np.bool_]

    @classmethod
    def make(cls, warp: TimeWarp, stiff: float, begin: float, nodes: Array) -> Nodes:
        """Equal steps of the warped time; where the path begins at a finite u, steps grow from 0 like a cube.

        So the integrand vanishes there too, with its first derivatives, and nothing is asked at the beginning itself.
        """
        if math.isinf(begin):
            share, growth, first = nodes, np.ones_like(nodes), 0.0
        else:
            near = 0.1**2
            share = nodes**3 * (1 + near) / (nodes**2 + near)
            growth = (nodes**4 + 3 * near * nodes**2) * (1 + near) / (nodes**2 + near) ** 2
            first = float(warp(np.array([begin]))[0])
        span = warp.whole - first
        u = warp.inverse(first + span * share)
        return cls(u, span * growth / warp.slope(u), u > stiff)


@lru_cache(maxsize=64)
def adams(count: int, ahead: bool) -> tuple[float, ...]:
    """∫₀¹ of the Lagrange basis on ``count`` nodes 1, 0, −1, … (0, −1, … if not ``ahead``): Adams' weights."""
    at, weights = gauss(0.0, 1.0)
    return tuple((lagrange(float(ahead) - np.arange(count, dtype=np.float64), at) @ weights).tolist())


SMOOTH, STEEP = (5, 6), (2, 4)
"""Nodes of the predictor and the corrector, where the field is smooth and where it may be stiff."""

MANY = 70
"""From this number of evaluations on, the predictor of the stiff part has one node more."""


def integrate(
    flow: Flow,
    z: Tensor,
    begin: float,
    *,
    evaluations: int,
    stride: int,
    probes: Probes | None,
    count: int,
    told: Callable[[], None],
) -> tuple[Tensor, Tensor, Tensor, int]:
    """From u = ``begin`` to ∞: z there, ∫ div f du, its standard error ``(B,)``, and how often div f was taken.

    A predictor–corrector of Adams with one evaluation a step. The divergence does not feed back: it is taken at every
    ``stride``-th node and summed.
    """
    n = stride * ((evaluations + 1) // stride) - 1
    step = 1 / (n + 1)
    warp, stiff = time_warps(flow.frame, probes is not None)
    nodes = Nodes.make(warp, stiff, begin, np.arange(1, n + 1, dtype=np.float64) * step)
    steep = (STEEP[0] + (n >= MANY), STEEP[1])
    values = [torch.zeros_like(z)] * SMOOTH[1]
    terms: list[Tensor] = []
    seen: list[tuple[Tensor, Tensor]] = []
    # Orthogonality over a few of the P rows of a block takes little off the variance of independent ones.
    many = (n + 1) // stride * count
    follows = probes is not None and probes.law == "rademacher" and many > max(8, probes.order / 8)
    for i in range(n + 1):
        # Beyond both ends the integrand is 0: the nodes there are known.
        ahead, back = steep if nodes.stiff[min(i, n - 1)] else SMOOTH
        if i < n:
            guess = z + step * _sum(adams(ahead, False), values)
            u, rate = torch.tensor(nodes.u[i], dtype=torch.float64), float(nodes.rate[i])
            if (i + 1) % stride == 0:
                first = len(terms) * count
                drawn = None if probes is None else [probes(first + k).to(z) for k in range(count)]
                if drawn is None:
                    value, part = flow.both(guess, u, None)
                else:
                    value, product = flow.products(guess, u, drawn)
                    signs = torch.stack(drawn)
                    part = (product * signs).sum(-1)
                    if follows:
                        seen.append((signs, product * (rate * step * stride / count)))
                terms.append(part * (rate * step * stride))
            else:
                value = flow(guess, u)
            told()
            values = [value * rate, *values[:-1]]
        else:
            values = [torch.zeros_like(z), *values[:-1]]
        z = z + step * _sum(adams(back, True), values)
    whole = torch.stack(terms)
    if probes is None:
        return z, whole.sum(0), torch.zeros_like(whole[0]), len(terms)
    if follows:
        assert probes is not None
        signs, products = (torch.cat(parts) for parts in zip(*seen))
        error = orthogonal_error(signs, products, probes.order).to(z.device)
        return z, whole.mean(1).sum(0), error, len(terms)
    return z, whole.mean(1).sum(0), _error(whole), len(terms)


def _sum(weights: tuple[float, ...], values: list[Tensor]) -> Tensor:
    total = values[0] * weights[0]
    for weight, value in zip(weights[1:], values[1:]):
        total = torch.add(total, value, alpha=weight)
    return total


def _error(terms: Tensor) -> Tensor:
    """The standard error of Σ_i mean_k of terms ``(n, K, B)``, as if probes were independent.

    With several probes from their spread at each node; with one from second differences along the path: the integrand
    is smooth there and the probes' part is not, and a second difference of white noise has 6 times its variance.
    """
    n, count, _ = terms.shape
    if count > 1:
        return (terms.var(1) / count).sum(0).sqrt()
    if n < 3:
        return torch.full_like(terms[0, 0], math.nan)
    second = terms[2:, 0] - 2 * terms[1:-1, 0] + terms[:-2, 0]
    return (second.square().mean(0) / 6 * n).sqrt()


SHAPES = 3
"""The number of cosines that represent the derivative along the path. More follow it better, but take more of
the estimate's noise for variance: with three the error told is 0.9 to 1.5 times the true one, with eight 2."""


PAIRS_AT_A_TIME = 2**22
"""Pairs of nodes, of all samples together, that are compared at a time: 32 MiB a table."""


def orthogonal_error(signs: Tensor, products: Tensor, order: int) -> Tensor:
    r"""The standard error of :math:`\sum_i ε_i^T A_i ε_i` with the orthogonal probes of ``Probes``, from one of each.

    Two different rows of a block of P have :math:`E[ε_{ia} ε_{ib} ε_{ja} ε_{jb}] = -1/(P-1)`, a ≠ b, and rows of
    two blocks are independent, so that with :math:`O_{ij} = \sum_{a ≠ b} (A_i)_{ab} (A_j)_{ab}`

    .. math:: \mathrm{Var} = 2 \sum_i O_{ii} - \frac{2}{P-1} \sum_{i ≠ j \text{ of a block}} O_{ij},

    which is 0 for a constant A over whole blocks. O of two nodes is the mean of what their products say:

    .. math:: (ε_j^T A_i ε_i)(ε_i^T A_j ε_j) - \frac{P}{P-1} \sum_a (ε_i ∘ A_i ε_i)_a (ε_j ∘ A_j ε_j)_a
              + \frac{1}{P-1} (ε_i^T A_i ε_i) (ε_j^T A_j ε_j)

    A is smooth along the path: O is fitted by :math:`Φ M Φ^T` with cosines Φ and M ≥ 0, so that what cancels in the
    variance cancels exactly.

    Args:
        signs: the probes, ``(n, B, D)`` in the order in which they were drawn.
        products: A_i ε_i, with the weight that their node has in the sum.
        order: P.
    """
    n = len(signs)
    c = 1 / max(order - 1, 1)
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    shapes = torch.cos(math.pi * place[:, None] * torch.arange(SHAPES, dtype=torch.float64))
    block = torch.arange(n) // order
    weights = (1 + c) * torch.eye(n, dtype=torch.float64) - c * (block[:, None] == block).double()
    weights = shapes.T @ weights @ shapes
    one, two = torch.triu_indices(n, n, 1)
    first, second = torch.triu_indices(SHAPES, SHAPES)
    design = shapes[one][:, first] * shapes[two][:, second]
    design = design + shapes[two][:, first] * shapes[one][:, second] * (first != second)
    inverse = torch.linalg.pinv(design)
    found = []
    size = max(1, PAIRS_AT_A_TIME // n**2)
    for e, product in zip(signs.cpu().split(size, 1), products.cpu().split(size, 1)):
        own = e * product
        traces = own.sum(-1)
        cross = torch.einsum("ibd,jbd->bij", product, e)
        diagonal = torch.einsum("ibd,jbd->bij", own, own)
        alike = cross * cross.mT - (1 + c) * diagonal + c * torch.einsum("ib,jb->bij", traces, traces)
        fitted = alike[:, one, two] @ inverse.T
        gram = torch.zeros(len(alike), SHAPES, SHAPES, dtype=torch.float64)
        gram[:, first, second] = fitted
        gram[:, second, first] = fitted
        values, vectors = torch.linalg.eigh(gram)
        gram = vectors * values.clamp_min(0)[:, None] @ vectors.mT
        found.append(2 * torch.einsum("bkl,kl->b", gram, weights))
    return torch.cat(found).clamp_min(0).sqrt()
