"""What an operator answers: the measurement A(x), and where it is linear its adjoint, inverses and singular values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_integer, check_numbers, shown
from .._registry import register
from ..distributions import Noise, Stream

Shape = tuple[int, ...]


class Operator(ABC):
    """A of a measurement y = A(x) + n: images ``(B, *shape)`` in, measurements ``(B, *measured)`` out.

    Differentiable in x where A is. Complex measurements are real tensors with a last axis of two, the real and the
    imaginary part, so that inner products are those of real vectors.
    """

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A(x), ``(B, *measured)``."""

    @abstractmethod
    def measured(self, shape: Shape) -> Shape:
        """The event shape of the measurement of data of an event shape.

        Raises:
            UserError: for data that this operator does not measure.
        """

    def check(self, shape: Shape, y: Tensor) -> None:
        """Refuse measurements that are not of data of that shape."""
        if not isinstance(y, Tensor) or tuple(y.shape[1:]) != self.measured(shape):
            got = tuple(y.shape) if isinstance(y, Tensor) else shown(y)
            wanted = ", ".join(map(str, self.measured(shape)))
            raise UserError(f"y must be measurements (B, {wanted}) of data {tuple(shape)} by {self!r}, got {got}")

    def __matmul__(self, first: Operator) -> Operator:
        """``second @ first`` measures what first measured of the data: :class:`Chain`."""
        return Chain(first, self) if isinstance(first, Operator) else NotImplemented


@dataclass(frozen=True, eq=False)
class SVD:
    """A = U S Vᵀ, matrix-free, with one singular value a coordinate of the data.

    Args:
        values: s_i ≥ 0, ``(D,)``; 0 for the coordinates of which nothing is measured.
        to: the coordinates Vᵀx of data, ``(B, D)`` of ``(B, *shape)``.
        back: the data V c of coordinates.
        measured_to: Uᵀy, ``(B, D)``, 0 where s_i = 0.
        measured_back: U c, ``(B, *measured)``; coordinates with s_i = 0 do not count.
    """

    values: Tensor
    to: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    measured_to: Callable[[Tensor], Tensor]
    measured_back: Callable[[Tensor], Tensor]


ITERATIONS = 1000
"""Steps of conjugate gradients at most."""


class LinearOperator(Operator):
    """An operator that is a matrix, never written out unless ``matrix`` is asked for."""

    @abstractmethod
    def domain(self, measured: Shape) -> Shape:
        """The event shape of the data of which measurements have an event shape: the inverse of ``measured``."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀy, ``(B, *shape)``: here by the reverse mode of A itself, which is its transpose exactly."""
        y = _batch(y)
        with torch.enable_grad():
            zero = y.new_zeros(len(y), *self.domain(tuple(y.shape[1:]))).requires_grad_()
            (back,) = torch.autograd.grad(self(zero), zero, y, create_graph=y.requires_grad)
        return back

    def svd(self, shape: Shape) -> SVD | None:
        """Its singular values and bases for data of a shape; None where they are not known in closed form."""
        return None

    def solve(self, v: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """(a·A Aᵀ + b·I)⁻¹ v, ``(B, *measured)``, for a ≥ 0 and b > 0, numbers or ``(B,)``.

        By the singular values where they are known, else by conjugate gradients to the rounding of v. What of v lies
        outside the range of A is divided by b; where A reaches every measurement there is none, and its rounding is
        not divided by a small b.
        """
        column = lambda c, like: c.reshape(-1, *[1] * (like.ndim - 1)).to(like) if isinstance(c, Tensor) else c
        known = self.svd(self.domain(tuple(v.shape[1:])))
        if known is None:
            return conjugate_gradients(lambda u: column(a, u) * self(self.adjoint(u)) + column(b, u) * u, v)
        c = known.measured_to(v)
        seen = (known.values > 0).to(c)
        inside = known.measured_back(seen * c / (column(a, c) * known.values.to(c) ** 2 + column(b, c)))
        if int((known.values > 0).sum()) == v[0].numel():
            return inside
        return inside + (v - known.measured_back(seen * c)) / column(b, v)

    def regularised_inverse(self, v: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
        """Aᵀ(a·A Aᵀ + b·I)⁻¹ v, ``(B, *shape)``, for a > 0 and b ≥ 0, numbers or ``(B,)``; A⁺v/a for the number b = 0.

        Where singular values are known, s/(a s² + b) in their coordinates: ``solve`` first would divide by a small b
        what then cancels.
        """
        column = lambda c, like: c.reshape(-1, *[1] * (like.ndim - 1)).to(like) if isinstance(c, Tensor) else c
        known = self.svd(self.domain(tuple(v.shape[1:])))
        none = isinstance(b, (int, float)) and b == 0
        if known is None:
            if none:
                back = self.pseudo_inverse(v)
                return back / column(a, back)
            return self.adjoint(self.solve(v, a, b))
        c = known.measured_to(v)
        s = known.values.to(c)
        seen = s > (1e-6 * s.max() if none else 0)
        return known.back(torch.where(seen, s / (column(a, c) * s**2 + column(b, c)).clamp_min(1e-300), 0.0) * c)

    def pseudo_inverse(self, y: Tensor, tolerance: float = 1e-6) -> Tensor:
        """A⁺y, ``(B, *shape)``: the least x of those with A(x) nearest to y.

        Args:
            y: ``(B, *measured)``.
            tolerance: singular values below this share of the largest count as 0.
        """
        y = _batch(y)
        known = self.svd(self.domain(tuple(y.shape[1:])))
        if known is None:
            return conjugate_gradients(lambda x: self.adjoint(self(x)), self.adjoint(y), tolerance=tolerance)
        s = known.values.to(y)
        kept = s > tolerance * s.max()
        inverse = torch.where(kept, 1 / torch.where(kept, s, 1.0), 0.0)
        return known.back(inverse * known.measured_to(y))

    def matrix(self, shape: Shape) -> Tensor:
        """The matrix itself, float64 ``(M, D)`` on flattened events, for small data."""
        eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        return self(eye).flatten(1).mT.contiguous()


def _batch(y: Tensor) -> Tensor:
    if not isinstance(y, Tensor) or y.ndim < 2:
        raise UserError(f"y must be a tensor of measurements (B, *measured), got {shown(y)}")
    return y


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], v: Tensor, *, tolerance: float | None = None, iterations: int = ITERATIONS
) -> Tensor:
    """x with apply(x) = v for a symmetric positive (semi-)definite matrix, each sample on its own.

    Args:
        apply: of a batch ``(B, *event)``.
        v: ``(B, *event)``.
        tolerance: of the residual, as a share of v's norm; 8 roundings of its dtype if not given.
        iterations: at most.
    """
    tolerance = 8 * torch.finfo(v.dtype).eps if tolerance is None else tolerance
    dot = lambda p, q: (p * q).flatten(1).sum(1).reshape(-1, *[1] * (v.ndim - 1))
    x, r = torch.zeros_like(v), v
    p, old = r, dot(r, r)
    enough = old * tolerance**2
    for _ in range(check_integer("iterations", iterations, 1)):
        going = old > enough
        if not bool(going.any()):
            break
        ap = apply(p)
        curvature = dot(p, ap)
        step = _ratio(old, curvature, going)
        x, r = x + step * p, r - step * ap
        new = dot(r, r)
        p = r + _ratio(new, old, going) * p
        old = torch.where(going & (step > 0), new, torch.zeros_like(new))
    return x


def _ratio(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
    """a/b where asked and b > 0, else 0; with a gradient that is finite too."""
    where = where & (b > 0)
    return torch.where(where, a / torch.where(where, b, 1.0), 0.0)


@register("operators", "chain", title="One operator after another", proof="exact: tests/operators/test_operators.py")
class Chain(Operator):
    """y = second(first(x)), the same as ``second @ first``; a ``LinearChain`` if both are linear.

    Args:
        first: measures the data.
        second: measures what the first has measured.
    """

    def __new__(cls, first: Operator, second: Operator) -> Chain:
        linear = isinstance(first, LinearOperator) and isinstance(second, LinearOperator)
        return super().__new__(LinearChain if linear else cls)

    def __init__(self, first: Operator, second: Operator) -> None:
        check_instance("first", first, Operator, "an operator")
        check_instance("second", second, Operator, "an operator")
        self.first, self.second = first, second

    def __repr__(self) -> str:
        return f"{self.second!r} @ {self.first!r}"

    def measured(self, shape: Shape) -> Shape:
        return self.second.measured(self.first.measured(shape))

    def __call__(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class LinearChain(Chain, LinearOperator):
    """The matrix product of two linear operators, whose singular values are not known in closed form."""

    first: LinearOperator
    second: LinearOperator

    def domain(self, measured: Shape) -> Shape:
        return self.first.domain(self.second.domain(measured))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.first.adjoint(self.second.adjoint(y))


class MeasurementNoise(ABC):
    """The law of y given A(x)."""

    @abstractmethod
    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        """y of A(x), with uniform numbers in (0, 1) of its shape."""

    @abstractmethod
    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        """log p(y | A(x)) in nats, ``(B,)``."""


@dataclass(frozen=True)
class GaussianNoise(MeasurementNoise):
    """y = A(x) + std·z, z ~ N(0, I); std ≥ 0 in units of the measurement."""

    std: float

    def __post_init__(self) -> None:
        check_numbers(std=self.std)
        if self.std < 0:
            raise UserError(f"std must be >= 0, got {self.std}")

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean + self.std * torch.special.ndtri(noise).to(clean)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        if self.std == 0:
            raise UserError("std must be > 0 where the density of a measurement is asked for, got 0")
        square = (y - clean).flatten(1).square().sum(1)
        size = y[0].numel()
        return -0.5 * square / self.std**2 - size * (math.log(self.std) + 0.5 * math.log(2 * math.pi))


@dataclass(frozen=True)
class PoissonNoise(MeasurementNoise):
    """Counts y ~ Poisson(gain·(A(x) + offset)): photons, where A(x) + offset ≥ 0 is the intensity.

    Args:
        gain: expected counts for an intensity of 1, > 0.
        offset: what lifts A(x) to an intensity; 1 for pictures in [−1, 1] whose A keeps their range.
    """

    gain: float
    offset: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(gain=self.gain, offset=self.offset)
        if not self.gain > 0:
            raise UserError(f"gain must be > 0, got {self.gain}")

    def rate(self, clean: Tensor) -> Tensor:
        """gain·(A(x) + offset), at least a millionth of a count, so that its logarithm is finite."""
        return (self.gain * (clean + self.offset)).clamp_min(1e-6)

    def sample(self, clean: Tensor, noise: Tensor) -> Tensor:
        """By inversion: the smallest count whose cumulative probability is at least the uniform number."""
        rate = self.rate(clean).to(torch.float64)
        low = torch.zeros_like(rate)
        high = torch.ceil(rate + 10 * torch.sqrt(rate) + 20)
        for _ in range(int(math.log2(float(high.max()) + 1)) + 2):
            middle = torch.floor((low + high) / 2)
            enough = torch.special.gammaincc(middle + 1, rate) >= noise.to(rate)
            low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
        return high.to(clean)

    def log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        rate = self.rate(clean)
        return (y * torch.log(rate) - rate - torch.lgamma(y + 1)).flatten(1).sum(1)


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured: an operator, the measurement, and the law of its noise.

    Args:
        operator: A.
        y: ``(1, *measured)`` for all samples, or ``(B, *measured)``, one a sample.
        noise: of y given A(x); a number stands for ``GaussianNoise``.
    """

    operator: Operator
    y: Tensor
    noise: MeasurementNoise

    def __init__(self, operator: Operator, y: Tensor, noise: MeasurementNoise | float) -> None:
        if not isinstance(operator, Operator):
            raise UserError(f"operator must be a langevin.operators operator, got {shown(operator)}")
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim < 2:
            raise UserError(f"y must be a floating tensor of measurements (B, *measured), got {shown(y)}")
        if not bool(y.isfinite().all()):
            raise UserError(f"y must be finite, got {int((~y.isfinite()).sum())} numbers that are not")
        object.__setattr__(self, "operator", operator)
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "noise", noise if isinstance(noise, MeasurementNoise) else GaussianNoise(noise))

    def log_prob(self, x0: Tensor) -> Tensor:
        """log p(y | x_0) in nats, ``(B,)``."""
        clean = self.operator(x0)
        return self.noise.log_prob(self.y.to(clean).expand_as(clean), clean)

    def residual(self, x0: Tensor) -> Tensor:
        """y − A(x_0), ``(B, *measured)``."""
        clean = self.operator(x0)
        return self.y.to(clean) - clean

    def rows(self, index: slice | Tensor) -> Measurement:
        """The measurement of some of the samples."""
        return self if len(self.y) == 1 else Measurement(self.operator, self.y[index], self.noise)

    @property
    def linear(self) -> LinearOperator:
        """The operator, which must be linear."""
        if not isinstance(self.operator, LinearOperator):
            raise UserError(f"operator must be linear here, got {self.operator!r}, which is not")
        return self.operator

    @property
    def std(self) -> float:
        """The standard deviation of the noise, which must be Gaussian."""
        if not isinstance(self.noise, GaussianNoise):
            raise UserError(f"noise must be Gaussian here, got {self.noise!r}, which is not")
        return self.noise.std


def measure(operator: Operator, x: Tensor, noise: MeasurementNoise | float, seed: int = 0) -> Measurement:
    """A measurement of data ``(B, *shape)`` with the noise of a seed, sample i by itself."""
    law = noise if isinstance(noise, MeasurementNoise) else GaussianNoise(noise)
    clean = operator(x)
    uniform = Noise(seed, len(clean)).fold_in(Stream.MEASURED).uniform(tuple(clean.shape[1:]))
    return Measurement(operator, law.sample(clean, uniform.to(clean.device)), law)
