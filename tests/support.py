"""What several tests share: Monte-Carlo floors, networks made of exact worlds, references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import langevin
from langevin import processes
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.processes import ScalarGaussian


def thinned(values: Iterable[Any], every: int) -> list[Any]:
    """Parameters, of which one in ``every`` is in every run of the tests; the others are slow."""
    marks = lambda i: [pytest.mark.slow] if i % every else []
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=marks(i)) for i, v in enumerate(values)]


def sliced_w2(x: Tensor, y: Tensor, projections: int = 64, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance of two sets of equal size."""
    directions = torch.randn(projections, x.shape[1], generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    directions /= directions.norm(dim=1, keepdim=True)
    a, b = (x @ directions.T).sort(0).values, (y @ directions.T).sort(0).values
    return float(((a - b) ** 2).mean().sqrt())


def assert_law(x: Any, cdf: Callable[[Any], Any], edges: Sequence[float] = ()) -> None:
    """|empirical cdf − cdf| within the bound √(log(2/δ)/2n) that δ = 1e-6 of all seeds exceed (DKW).

    Args:
        x: draws of a scalar.
        cdf: of the law, of sorted draws.
        edges: of its support, near which much of a law may be below the rounding of x, where the cdf cannot be asked.
    """
    x = np.sort(np.asarray(x).reshape(-1))
    rank = np.searchsorted(x, x, side="right") / x.size
    resolved = np.ones(x.size, bool)
    for edge in edges:
        resolved &= np.abs(x - edge) > 1e-9 * max(1, abs(edge))
    assert resolved.sum() > 100
    assert np.abs(rank - cdf(x))[resolved].max() < math.sqrt(math.log(2e6) / (2 * x.size))


def w2_floor(world: langevin.worlds.World, n: int, pairs: int = 64) -> float:
    """Sliced W2 between two independent n-samples of the truth, mean + 4 sd over pairs: no sampler can beat it."""
    values = torch.tensor(
        [sliced_w2(world.sample(n, 2 * i + 1000), world.sample(n, 2 * i + 1001)) for i in range(pairs)]
    )
    return float(values.mean() + 4 * values.std())


def log_prob_gap(world: langevin.worlds.World, x: Tensor) -> float:
    """|mean log p(x) − E log p| in standard errors of that mean for as many samples of the truth.

    A law that is too narrow or too wide by a share δ of its standard deviation shifts the mean by about D·δ nats.
    """
    truth = world.log_prob(world.sample(50_000, 4242))
    error = truth.std() * math.sqrt(1 / len(x) + 1 / len(truth))
    return float((world.log_prob(x).mean() - truth.mean()).abs() / error)


class OracleNetwork(nn.Module):
    """A network that answers exactly: net = p·x̂_0 + q·ε̂ of a world, read back from (c_in x_t, ¼ log σ/α)."""

    def __init__(
        self,
        world: langevin.worlds.World,
        process: ScalarGaussian,
        parameterization: AffineParameterization,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.world, self.process, self.parameterization = world, process, parameterization
        self.anchor = nn.Parameter(torch.zeros((), dtype=dtype))
        self.config = {"conditions": {"label": world.classes}}
        self.calls = 0

    def forward(self, x: Tensor, time: Tensor, condition: dict[str, Tensor] | None = None) -> Tensor:
        self.calls += 1
        x, t = x.double(), self.process.time(-8 * time.double())
        expand = langevin.processes.expand
        x_t = x / expand(self.parameterization.input_scale(self.process, t), x)
        mean = self.world.denoiser(self.process)(x_t, t).mean
        if condition is not None:
            known = condition["label"] >= 0
            given = self.world.denoiser(self.process).given(label=condition["label"].clamp_min(0))(x_t, t).mean
            mean = torch.where(known[:, None], given, mean)
        p, q = self.parameterization.coefficients(self.process, t)
        noise = (x_t - expand(self.process.alpha(t), x) * mean) / expand(self.process.sigma(t), x)
        return (expand(p, x) * mean + expand(q, x) * noise).to(self.anchor.dtype) + self.anchor


def oracle(
    world: langevin.worlds.World, process: ScalarGaussian, prediction: str, dtype: torch.dtype = torch.float64
) -> NetworkDenoiser:
    """The network denoiser of an exact world under a prediction."""
    spread = math.sqrt(float(world.cov.diagonal().mean()))
    parameterization = AffineParameterization(prediction, sigma_data=spread)
    return NetworkDenoiser(
        OracleNetwork(world, process, parameterization, dtype), process, parameterization, world.shape
    )


def flow_reference(denoiser: langevin.denoisers.Denoiser, start: Tensor, t: float, s: float) -> Tensor:
    """The probability flow from t to s by an eighth-order Runge–Kutta method at a tolerance of 1e-12."""
    from scipy.integrate import solve_ivp

    process, shape = denoiser.process, start.shape

    def slope(time: float, x: object) -> object:
        state = torch.as_tensor(x).reshape(shape)
        now = torch.tensor(time, dtype=torch.float64)
        return process.velocity(state, denoiser(state, now), now).reshape(-1).numpy()

    # A table has kinks at its knots; a step must not straddle them unnoticed, so restart at a few.
    solution = solve_ivp(slope, (t, s), start.reshape(-1).numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
    assert solution.success
    return torch.as_tensor(solution.y[:, -1]).reshape(shape)


AFFINE = {
    "vp": processes.VP(),
    "sub-vp": processes.SubVP(),
    "ve": processes.VE(),
    "edm": processes.EDM(),
    "flow": processes.RectifiedFlow(),
    "cosine": processes.Cosine(),
    "ddpm": processes.DDPM(),
    "ddpm-cosine": processes.DDPM(processes.cosine_betas()),
    "ddpm-own": processes.DDPM([0.3, 0.01, 0.2, 0.05, 0.5]),
}
"""Processes x_t = αx_0 + σε on which networks are read, by name."""


def with_labels(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Examples and their labels."""
    return batch["x"], batch.get("label")
