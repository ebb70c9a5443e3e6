"""Exact likelihood on four mixtures of 64 dimensions: nats of error a point against evaluations, ours and peers'.

    python benchmarks/likelihood.py               # the table; about ten minutes on one core
    python benchmarks/likelihood.py --points 32   # the same on fewer points

Peers are what is written around this flow elsewhere: scipy's RK45 and DOP853, torchdiffeq's dopri5, in the process's
own time, all points of a mixture as one system; and the recipe of score_sde, RK45 with one probe kept along the path.
They go from t_min to t_max at a tolerance of 1e-5, and are given the exact densities at both ends: the share of the
error that comes from a cut at t_min and from the prior in the place of p(t_max) is not charged to them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import record
from exact import FastMean
from langevin import Noise, likelihood, processes, worlds
from langevin.denoisers import Denoiser
from langevin.distributions import Dirac
from langevin.processes import expand

PROCESS = processes.EDM()
MIXTURES = 4


class Fast(Denoiser):
    """The exact belief's mean by two matrix products; it knows the density, and so may be asked at any σ."""

    def __init__(self, world: worlds.GaussianMixture) -> None:
        self.process, self.shape, self.data, self.fast = PROCESS, world.shape, world, FastMean(world)
        self.log_density = world.denoiser(PROCESS).log_density

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        t = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
        return Dirac(self.fast(x_t / expand(alpha, x_t), sigma / alpha))


Field = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""dx/dσ and its divergence ``(B,)`` at σ."""


def field(world: worlds.GaussianMixture, probes: Tensor | None) -> Field:
    """The flow of EDM in σ, (x − D)/σ; the divergence in closed form, D − tr Cov/σ², or of one probe."""
    fast = FastMean(world)

    def exactly(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        variance = world.values + sigma**2
        along = torch.einsum("kij,bki->bkj", world.basis, x[:, None] - world.means)
        weight = torch.softmax(world.log_weights - 0.5 * (along**2 / variance + variance.log()).sum(-1), -1)
        means = world.means + torch.einsum("kij,bkj->bki", world.basis, world.values / variance * along)
        mean = (weight[..., None] * means).sum(1)
        apart = (means - mean[:, None]).square().sum(-1) / sigma**2
        trace = (weight * (apart + (world.values / variance).sum(-1))).sum(1)
        return (x - mean) / sigma, (x.shape[1] - trace) / sigma

    def hutchinson(x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        assert probes is not None
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            slope = (x - fast(x, sigma)) / sigma
            back = torch.autograd.grad(slope, x, probes)[0]
        return slope.detach(), (back * probes).sum(1)

    return exactly if probes is None else hutchinson


def peer(
    world: worlds.GaussianMixture, probes: Tensor | None, x: Tensor, method: str, tolerance: float = 1e-5
) -> tuple[Tensor, int]:
    """log p of the data and evaluations: all points as one system, in σ from t_min to t_max."""
    low, high, f = PROCESS.sigma_min, PROCESS.sigma_max, field(world, probes)
    count = len(x)
    calls = 0

    def slope(sigma: float, state: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        move, div = f(state[:, :-1], sigma)
        return torch.cat((move, div[:, None]), 1)

    start = torch.cat((x, x.new_zeros(count, 1)), 1)
    if method == "dopri5":
        from torchdiffeq import odeint

        times = torch.tensor([low, high], dtype=torch.float64)
        end = odeint(lambda s, y: slope(float(s), y), start, times, rtol=tolerance, atol=tolerance, method=method)[-1]
    else:
        from scipy.integrate import solve_ivp

        flat = lambda s, y: slope(s, torch.from_numpy(y).reshape(start.shape)).reshape(-1).numpy()
        found = solve_ivp(flat, (low, high), start.reshape(-1).numpy(), method=method, rtol=tolerance, atol=tolerance)
        end = torch.from_numpy(np.ascontiguousarray(found.y[:, -1])).reshape(start.shape)
    return world.log_prob(end[:, :-1], PROCESS, PROCESS.t_max) + end[:, -1], calls


OURS: dict[str, dict[str, object]] = {
    "ours, 60 forwards and divergences": {"evaluations": 60, "stride": 1, "divergence": "exact"},
    "ours, 80 and 40": {"evaluations": 80, "stride": 2, "divergence": "exact"},
    "ours, 100 and 50": {"evaluations": 100, "stride": 2, "divergence": "exact"},
    "ours, one probe an evaluation": {"evaluations": 60, "divergence": "hutchinson"},
    "ours, two probes an evaluation": {"evaluations": 60, "divergence": "hutchinson", "probes": 2},
    "ours, one normal probe": {"evaluations": 60, "divergence": "hutchinson", "probe": "gaussian"},
}
PEERS = {
    "scipy RK45, exact divergence": ("RK45", ""),
    "scipy DOP853, exact divergence": ("DOP853", ""),
    "torchdiffeq dopri5, exact divergence": ("dopri5", ""),
    "score_sde's recipe: RK45, one fixed sign probe": ("RK45", "signs"),
    "the same, one fixed normal probe": ("RK45", "normal"),
}


def measure(points: int) -> dict[str, list[tuple[float, float, float]]]:
    """(evaluations, divergences, mean |error| in nats) of every row on every mixture."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(MIXTURES):
        world = worlds.random_mixture(64, components=8, rank=16, rms=0.5, seed=seed)
        x = world.sample(points, 1000)
        truth = world.log_prob(x)
        for name, settings in OURS.items():
            found = likelihood.exact(Fast(world), x, **settings)  # type: ignore[arg-type]
            error = float((found.log_prob - truth).abs().mean())
            rows.setdefault(name, []).append((found.evaluations, found.divergences, error))
        # What stands at t_min has the density of data with that noise: solvers are not charged with the difference.
        at_t_min = world.log_prob(x, PROCESS, PROCESS.t_min)
        for name, (method, law) in PEERS.items():
            normal = Noise(seed, points).normal(x.shape[1:])
            probes = {"": None, "signs": normal.sign(), "normal": normal}[law]
            log_p, calls = peer(world, probes, x, method)
            rows.setdefault(name, []).append((calls, calls, float((log_p - at_t_min).abs().mean())))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=256, help="points of each mixture")
    parser.add_argument("--record", action="store_true", help="keep the table for the documentation")
    points = parser.parse_args().points
    print(f"{MIXTURES} mixtures of 64 dimensions, {points} points each: nats of error a point, mean and worst mixture")
    table = Table("", "evaluations", "divergences", "nats", "worst")
    for name, cells in measure(points).items():
        asked, taken, errors = (np.array(column) for column in zip(*cells))
        table.add_row(name, f"{asked.mean():.0f}", f"{taken.mean():.0f}", f"{errors.mean():.4f}", f"{errors.max():.4f}")
    record.show("likelihood-exact", table)


if __name__ == "__main__":
    main()
