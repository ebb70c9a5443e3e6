"""The problems of the league: exact worlds, operators and noises, and exact samples where no closed form stands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, check_numbers, unknown
from ...distributions import Noise, Stream
from ...operators import Inpaint, LinearOperator, Matrix, Operator, compressed_sensing, measure
from ...worlds import GaussianMixture, random_mixture

COMPONENTS, RMS, MAGNITUDES = 3, 0.7, 3
"""Of the worlds: components, and the root mean square of a coordinate; numbers that the magnitudes measure."""


class Magnitudes(Operator):
    """y = |M x|, one measured number a row of M: the sign is lost, so the posterior has several modes.

    Args:
        matrix: M, ``(M, D)``.
    """

    def __init__(self, matrix: Tensor) -> None:
        self.inner = Matrix(matrix)

    def __repr__(self) -> str:
        return f"Magnitudes({self.inner.values.shape[0]} × {self.inner.values.shape[1]})"

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner(x).abs()

    def measured(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.inner.measured(shape)


def half(dim: int) -> Operator:
    """Half of the coordinates, those with an even place in a random order."""
    order = torch.argsort(Noise(dim, 1).uniform((dim,))[0])
    mask = torch.zeros(dim, dtype=torch.float64)
    mask[order[: dim // 2]] = 1.0
    return Inpaint(mask)


def averages(dim: int) -> Operator:
    """Means of four neighbours: super-resolution by 4."""
    return Matrix(torch.kron(torch.eye(dim // 4, dtype=torch.float64), torch.full((1, 4), 0.25, dtype=torch.float64)))


OPERATORS: dict[str, Callable[[int], Operator]] = {
    "inpainting": half,
    "averages": averages,
    "random": lambda dim: compressed_sensing((dim,), dim // 2, seed=dim),
    "magnitudes": lambda dim: Magnitudes(compressed_sensing((dim,), MAGNITUDES, seed=dim).values),
}
"""The operators of the table, for data ``(dim,)``: three are linear, the last is not."""


@dataclass(frozen=True)
class Setting:
    """One problem of the table.

    Args:
        dim: of the data, a multiple of 4.
        operator: a name of ``OPERATORS``.
        std: of the noise, > 0, in units of the measurement.
    """

    dim: int
    operator: str
    std: float

    def __post_init__(self) -> None:
        check_integer("dim", self.dim, 4)
        check_numbers(std=self.std)
        if self.dim % 4:
            raise UserError(f"dim must be a multiple of 4, got {self.dim}")
        if self.operator not in OPERATORS:
            raise unknown("operator", self.operator, OPERATORS)
        if not self.std > 0:
            raise UserError(f"std must be > 0, got {self.std}")

    @cached_property
    def world(self) -> GaussianMixture:
        """The data."""
        return random_mixture(self.dim, components=COMPONENTS, rms=RMS, seed=self.dim)

    @cached_property
    def a(self) -> Operator:
        """The operator itself."""
        return OPERATORS[self.operator](self.dim)

    def measurements(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Data and what was measured of them, one a sample."""
        x = self.world.sample(count, seed)
        return x, measure(self.a, x, self.std, seed=seed + 1).y

    def truth(self, y: Tensor, noise: Noise) -> Tensor:
        """Exact samples of the posterior of one measurement ``(1, M)``: a world's, or by rejection."""
        if isinstance(self.a, LinearOperator):
            return self.world.posterior(self.a, y, self.std).sample(noise)
        assert isinstance(self.a, Magnitudes)
        return given_magnitudes(self.world, self.a, y, self.std, noise)


def given_magnitudes(world: GaussianMixture, operator: Magnitudes, y: Tensor, std: float, noise: Noise) -> Tensor:
    """Exact samples of p(x | y = |M x| + n): of u = M x by rejection, then of x given u, which is Gaussian.

    A proposal is u = ±(y + s z) with any signs, kept where y + s z > 0; it is accepted with probability p(u)/P, where P
    is the sum of the largest values of the components of p(u). Sample i takes the first accepted of proposals of its
    own, so it does not depend on the number of samples.
    """
    m, wanted, tries = operator.inner.values, len(noise), 256
    covariances = torch.einsum("kij,kj,klj->kil", world.basis, world.values, world.basis)
    inner = m @ covariances @ m.mT
    small = GaussianMixture(world.log_weights.exp(), world.means @ m.mT, inner)
    peak = torch.logsumexp(small.log_weights - 0.5 * torch.logdet(2 * math.pi * inner), 0)
    u = torch.full((wanted, len(m)), math.nan, dtype=torch.float64)
    todo = torch.arange(wanted)
    for round_ in range(1000):
        own = noise.rows(todo).fold_in(Stream.WALKED + round_)
        v = y + std * own.normal((tries, len(m)))
        sign = own.fold_in(Stream.UNMEASURED).uniform((tries, len(m))) < 0.5
        tried = torch.where(sign, v, -v)
        density = small.log_prob(tried.flatten(0, 1)).reshape(-1, tries)
        uniform = own.fold_in(Stream.REMEASURED).uniform((tries,))
        accepted = (v > 0).all(-1) & (torch.log(uniform) < density - peak)
        hit = accepted.any(1)
        first = accepted.to(torch.uint8).argmax(1)
        u[todo[hit]] = tried[hit, first[hit]]
        todo = todo[~hit]
        if not len(todo):
            break
    else:
        raise UserError(f"std must be larger for exact samples by rejection, got {std}")
    joint = torch.softmax(small.log_weights + small.log_prob_clean(u), -1).cumsum(1)
    choice = noise.fold_in(Stream.COMPONENT).uniform(())[:, None] * joint[:, -1:]
    k = torch.searchsorted(joint, choice, right=True)[:, 0].clamp_max(joint.shape[1] - 1)
    x = world.clean(noise.fold_in(Stream.CLEAN), k)
    gain = torch.linalg.solve(inner, m @ covariances).mT  # C Mᵀ (M C Mᵀ)⁻¹
    return x + (gain[k] @ (u - x @ m.mT)[..., None])[..., 0]
