"""Fokker–Planck on a grid: the law of any diffusion in one or two dimensions, without a sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser
from ..processes import PhaseSpace, Process, ScalarGaussian, as_time

Drift = Callable[[Tensor, Tensor], Tensor]
"""f(x, t): states ``(M, d)`` and a time ``()`` to ``(M, d)``, float64."""


@dataclass(frozen=True)
class Grid:
    """Equal cells of a box in one or two dimensions.

    Args:
        low, high: ends of the box, a number a dimension.
        cells: their count, at least 2 a dimension.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    cells: tuple[int, ...]

    def __post_init__(self) -> None:
        low, high = (tuple(float(v) for v in ends) for ends in (self.low, self.high))
        if not len(low) == len(high) == len(self.cells) or len(low) not in (1, 2):
            raise UserError(f"low, high, cells must have 1 or 2 numbers each, got {low}, {high}, {self.cells}")
        if not all(-math.inf < a < b < math.inf for a, b in zip(low, high)):
            raise UserError(f"low must be below high and both finite, got {low} and {high}")
        if not all(isinstance(n, int) and n >= 2 for n in self.cells):
            raise UserError(f"cells must be integers of at least 2, got {self.cells}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def widths(self) -> tuple[float, ...]:
        """Width of a cell in each dimension."""
        return tuple((b - a) / n for a, b, n in zip(self.low, self.high, self.cells))

    @property
    def volume(self) -> float:
        """Volume of a cell."""
        return math.prod(self.widths)

    def _places(self, face: int | None) -> Tensor:
        """Centres of the cells, or of the inner faces across one dimension, ``(M, d)``."""
        axes = [
            a + h * (torch.arange(n - (i == face), dtype=torch.float64) + (1.0 if i == face else 0.5))
            for i, (a, h, n) in enumerate(zip(self.low, self.widths, self.cells))
        ]
        return torch.stack([v.reshape(-1) for v in torch.meshgrid(*axes, indexing="ij")], -1)

    @cached_property
    def centres(self) -> Tensor:
        """``(N, d)``, the last dimension fastest."""
        return self._places(None)

    @cached_property
    def faces(self) -> tuple[Tensor, ...]:
        """Centres of the inner faces, a set ``(M, d)`` for each dimension they lie across."""
        return tuple(self._places(i) for i in range(len(self.cells)))

    def density(self, log_prob: Callable[[Tensor], Tensor]) -> Tensor:
        """A density at the centres, ``(*cells,)``, of total mass 1.

        Args:
            log_prob: of states ``(N, d)``, in nats, ``(N,)``.
        """
        log_p = log_prob(self.centres).to(torch.float64)
        return (torch.softmax(log_p, 0) / self.volume).reshape(self.cells)

    def histogram(self, x: Tensor) -> Tensor:
        """The density of samples ``(N, d)``: those outside the box count for no cell."""
        edges = [np.linspace(a, b, n + 1) for a, b, n in zip(self.low, self.high, self.cells)]
        counts, _ = np.histogramdd(x.detach().cpu().double().numpy(), edges)
        return torch.from_numpy(counts) / (x.shape[0] * self.volume)


@dataclass(frozen=True)
class Equation:
    """dx = f(x, t) dt + g(t) dw, in either direction of time: the noise spreads whichever way it is run.

    Args:
        drift: f.
        diffusion2: g² ≥ 0 of a time, ``()`` or one a dimension ``(d,)``.
    """

    drift: Drift
    diffusion2: Callable[[Tensor], Tensor]


def forward(process: Process) -> Equation:
    """The noising of a process: of one- or two-dimensional data, or of one coordinate and its velocity.

    Args:
        process: scalar-Gaussian, or phase space with states (x, v).
    """
    if isinstance(process, PhaseSpace):
        matrix = process.beta * torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        spread = process.beta * torch.tensor([0.0, 4.0], dtype=torch.float64)
        return Equation(lambda x, t: x @ matrix.mT, lambda t: spread)
    if not isinstance(process, ScalarGaussian):
        raise UserError(f"a grid needs a diffusion, scalar-Gaussian or phase space, got {type(process).__name__}")
    return Equation(lambda x, t: process.drift(t) * x, process.diffusion2)


def generative(denoiser: Denoiser, eta: float = 1.0) -> Equation:
    r"""The way back under a denoiser, to be run downwards (arXiv:2011.13456 eq. 6, 13; 2206.00364 eq. 6):

    .. math:: dx = \left[f - \tfrac{1 + η^2}{2} g^2 \hat s(x, t)\right] dt + η g\, d\bar w

    With the exact belief every η has the marginals of the noising; with any other they part.

    Args:
        denoiser: a belief about data of one or two dimensions, or of one with a velocity.
        eta: η ≥ 0: 1 is the reverse SDE, 0 the probability flow.
    """
    if not 0 <= eta < math.inf:
        raise UserError(f"eta must be >= 0, got {eta}")
    process: Any = denoiser.process
    noising = forward(process)

    def drift(x: Tensor, t: Tensor) -> Tensor:
        state = x[..., None] if isinstance(process, PhaseSpace) else x
        with torch.no_grad():
            score = process.score(state, denoiser(state.to(denoiser.dtype), t), t).reshape(x.shape).to(x)
        return noising.drift(x, t) - (1 + eta**2) / 2 * noising.diffusion2(t) * score

    return Equation(drift, lambda t: eta**2 * noising.diffusion2(t))


@register(
    "worlds", "grid", title="Fokker–Planck on a grid", arxiv="2206.04642", proof="exact: tests/worlds/test_grid.py"
)
def fokker_planck(grid: Grid, density: Tensor, equation: Equation, times: Tensor | list[float]) -> Tensor:
    r"""p_t on a grid: :math:`\partial_t p = -∇ \cdot (f p) + \tfrac12 \sum_i g_i^2 \partial_i^2 p`, no flux at the box.

    Finite volumes with the exponentially fitted flux of Scharfetter & Gummel (1969) through a face,

    .. math::
        J = \tfrac{D}{h} \left[B(-z)\, p_{left} - B(z)\, p_{right}\right], \quad
        z = \tfrac{f h}{D}, \; D = \tfrac{g^2}{2}, \; B(z) = \tfrac{z}{e^z - 1},

    which is upwind where D = 0. The rates of the cells are those of a Markov chain, and a step of length Δ is its
    :math:`e^{ΔA}` with f and g in the middle of the step, as a Poisson-weighted sum of powers of a matrix without a
    negative entry. So p ≥ 0 exactly and its mass stays, to rounding, at any step. Order 2 in the steps; in the cells 2
    where there is diffusion across them, and 1 where there is none. The normal law of an Ornstein–Uhlenbeck process
    is exactly stationary, at the centres.

    Args:
        grid: the cells; the box should hold the law, whose flux through its sides is left out.
        density: at ``times[0]``, ``(*cells,)``, ≥ 0.
        equation: ``forward(process)``, ``generative(denoiser, eta)``, or your own.
        times: ``(n + 1,)``, increasing or decreasing: each interval is one step. An equation with a score ends above 0.

    Returns:
        ``(n + 1, *cells)``: the density at every time, float64.
    """
    times = torch.as_tensor(times, dtype=torch.float64)
    moves = times.diff()
    if times.ndim != 1 or len(times) < 2 or not times.isfinite().all() or not ((moves > 0).all() or (moves < 0).all()):
        raise UserError("times must be 1-D, at least two, and increase or decrease strictly")
    p = torch.as_tensor(density, dtype=torch.float64)
    if tuple(p.shape) != grid.cells or not p.isfinite().all() or not (p >= 0).all():
        raise UserError(f"density must be {grid.cells}, finite and >= 0, got shape {tuple(p.shape)}")
    from tqdm import tqdm

    values, found = p.reshape(-1).numpy(), [p]
    for a, b in tqdm(list(itertools.pairwise(times)), "Fokker–Planck", delay=2, leave=False):
        values = _advance(values, _rates(grid, equation, as_time((a + b) / 2), down=bool(b < a)), float((b - a).abs()))
        found.append(torch.from_numpy(values).reshape(grid.cells))
    return torch.stack(found)


def _rates(grid: Grid, equation: Equation, t: Tensor, down: bool) -> Any:
    """A of dp/dt = A p, sparse: rates to the neighbours off the diagonal, columns of sum 0."""
    from scipy.sparse import coo_array

    index = np.arange(math.prod(grid.cells)).reshape(grid.cells)
    spread = equation.diffusion2(t).to(torch.float64).expand(len(grid.cells)) / 2
    rows, columns, rates = [], [], []
    for axis, (h, faces) in enumerate(zip(grid.widths, grid.faces)):
        f = equation.drift(faces, t)[:, axis].to(torch.float64).numpy() * (-1 if down else 1)
        if not np.isfinite(f).all():
            raise UserError(f"equation must have a finite drift on the grid; at t = {float(t):g} it has none")
        up, back = _fitted(f, float(spread[axis]), h)
        count = grid.cells[axis]
        left, right = (np.take(index, range(i, count - 1 + i), axis).reshape(-1) for i in (0, 1))
        rows += [right, left, left, right]
        columns += [left, right, left, right]
        rates += [up, back, -up, -back]
    size = (index.size, index.size)
    return coo_array((np.concatenate(rates), (np.concatenate(rows), np.concatenate(columns))), size).tocsr()


def _fitted(f: np.ndarray, d: float, h: float) -> tuple[np.ndarray, np.ndarray]:
    """Rates through a face to the right and to the left: D/h² B(∓fh/D), and upwind without diffusion."""
    if d * 1e12 <= np.abs(f).max(initial=0.0) * h:
        return np.maximum(f, 0) / h, np.maximum(-f, 0) / h
    z = f * h / d
    small = np.abs(z) < 1e-5
    safe = np.where(small, 1.0, z)
    with np.errstate(over="ignore"):
        back = d / h**2 * np.where(small, 1 - z / 2 + z**2 / 12, safe / np.expm1(safe))
    return back + f / h, back  # B(−z) = B(z) + z


def _advance(p: np.ndarray, rates: Any, step: float) -> np.ndarray:
    """e^{step·A} p: the chain after each number of jumps, times its Poisson probabilities."""
    from scipy.sparse import eye_array

    total = -float(rates.diagonal().min()) * step
    if total == 0:
        return p
    parts = math.ceil(total / 400)  # e^{−400} is a number yet
    mean = total / parts
    jump = eye_array(len(p), format="csr") + rates * (step / total)
    jump.data = np.maximum(jump.data, 0.0)  # 1 − 1 is a rounding
    most = math.ceil(mean + 9 * math.sqrt(mean) + 20)  # the tail beyond has less than 1e-17
    for _ in range(parts):
        term = math.exp(-mean) * p
        p = term.copy()
        for k in range(1, most):
            term = jump @ term * (mean / k)
            p += term
    return p
