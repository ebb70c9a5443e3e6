"""What the variance of the reverse step is worth in chains of few steps: on exact mixtures, and on digits.

    python benchmarks/variance.py [--world ring 2-D 64-D]           # chains of 5, 10, 25 steps against the truth
    python benchmarks/variance.py --model MODEL [--heads-steps N]   # bits/dim at 10, 25, 50, 100 steps

On mixtures the mean is exact and only the variance differs: β̃, β, the optimal number (Analytic-DPM, Γ by Monte Carlo),
the optimal number a coordinate (what SN- and NPR-DPM learn, here the exact posterior variances), and the whole
posterior covariance. Distances: KL between the paths of the data and of the chain from t = 1 to the smallest time, in
nats (no smaller than that of their ends), and sliced W2 of samples to as many of the truth, whose floor is that of two
such sets. The error of the KL is mostly that of a constant that all beliefs share.

With ``--model``, a model directory with a learned variance (objective ``hybrid``): its mean is kept and its variance
replaced; Γ and both heads are learned first and left in the directory. Bits/dim is the variational bound on the
held-out split, one draw a term and image, the same for every variance.
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import langevin
from langevin import Noise, processes, samplers, worlds
from langevin.denoisers import Denoiser, Transform, calibrate, dirac, gaussian, identity, unit, with_variance
from langevin.distributions import Diagonal, Normal, kl

WORLDS = {
    "ring": (worlds.ring(8, 1.0, 0.1), 4000),
    "2-D": (worlds.random_mixture(2, 4, rms=0.7, seed=2), 4000),
    "64-D": (worlds.random_mixture(64, 8, 16, rms=0.5, seed=7), 1000),
}
"""Worlds, and how many draws are taken of each."""


class _Coordinates(Transform):
    def __call__(self, x_t: Tensor, t: Tensor | float) -> Normal:
        belief = self.base(x_t, t)
        return Normal(belief.mean, Diagonal(belief.cov.diagonal(self.shape)))


def coordinates(denoiser: Denoiser) -> Denoiser:
    """The posterior variance of each coordinate: the limit of SN- and NPR-DPM."""
    return _Coordinates(denoiser)


def path_kl(denoiser: Denoiser, pick, steps: int, x0: Tensor) -> tuple[float, float]:
    """KL of the paths in nats, and its standard error; the draws are the same for every belief."""
    process, n = denoiser.process, len(x0)
    grid, chosen = samplers.default_grid(process, steps), pick(denoiser)
    total = torch.zeros(n, dtype=torch.float64)
    for k, (t, s) in enumerate(itertools.pairwise(grid[:-1])):
        x_t = process.marginal(x0, t).sample(Noise(8, n, k))
        total += kl(process.bridge(x_t, x0, t, s), process.reverse(x_t, chosen(x_t, t), t, s))
    # The true chain has Σ I(x_0; x_s | x_t) of these nats, whatever the belief: the whole belief would have it.
    true = torch.zeros(n, dtype=torch.float64)
    for k, (t, s) in enumerate(itertools.pairwise(grid[:-1])):
        x_t = process.marginal(x0, t).sample(Noise(8, n, k))
        bridge = process.bridge(x_t, x0, t, s)
        x_s = bridge.sample(Noise(9, n, k))
        true += bridge.log_prob(x_s) - process.reverse(x_t, denoiser(x_t, t), t, s).log_prob(x_s)
    gap = total - true
    return float(gap.mean()), float(gap.std()) / math.sqrt(n)


def sliced(x: Tensor, y: Tensor) -> float:
    """Sliced 2-Wasserstein distance over 64 directions."""
    directions = torch.randn(64, x.shape[1], generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    directions /= directions.norm(dim=1, keepdim=True)
    a, b = (v @ directions.T for v in (x, y))
    return float((a.sort(0).values - b.sort(0).values).square().mean().sqrt())


def mixtures(names: list[str], console: Console) -> None:
    """The table of chains."""
    for name, kind in itertools.product(names, ("VP", "EDM")):
        world, n = WORLDS[name]
        denoiser, x0 = world.denoiser(getattr(processes, kind)()), world.sample(n, 31)
        truth, fresh = world.sample(n, 77), world.sample(n, 78)
        analytic = calibrate(denoiser, world.sample(2000, 5))
        picks = {"β̃": dirac, "β": unit, "analytic": analytic, "coordinates": coordinates, "covariance": gaussian}
        table = Table(title=f"{name}, {kind}: KL of paths (nats) / sliced W2, floor {sliced(fresh, truth):.3f}")
        for column in ("steps", *picks):
            table.add_column(column, justify="right")
        for steps in (5, 10, 25):
            row = [str(steps)]
            for pick in picks.values():
                gap, error = path_kl(denoiser, pick, steps, x0)
                x = samplers.sample(pick(denoiser), samplers.Ancestral(), n=n, steps=steps, seed=3, batch=1000)
                row.append(f"{gap:.3f} ± {error:.3f} / {sliced(x, truth):.3f}")
            table.add_row(*row)
        console.print(table)


def digits(path: Path, heads_steps: int, console: Console) -> None:
    """The table of bits/dim."""
    model = langevin.load(path)
    dataset = langevin.data.load(**model.data.source)
    if "analytic" not in model.learned_variances:
        langevin.calibration.calibrate_model(model, dataset, path)
    for kind in ("sn", "npr"):
        if kind not in model.learned_variances:
            langevin.calibration.train_head(kind, model, dataset, path, steps=heads_steps, seed=0)
    model = langevin.load(path)
    held = dataset.test.all()
    x, label = held["x"], held["label"]
    bound = model.given(label=label) if "label" in model.conditions() else model
    picks = {name: lambda d, name=name: with_variance(d, name) for name in ("small", "large")}
    if model.variance is not None:
        picks["learned"] = identity
    picks |= {name: lambda d, name=name: with_variance(d, name) for name in ("analytic", "residual", "sn", "npr")}
    counts = (10, 25, 50, 100)
    table = Table(title=f"{path}: bits/dim on {len(x)} held-out, {model.process}")
    for column in ("variance", *map(str, counts)):
        table.add_column(column, justify="right")
    for name, pick in track(list(picks.items()), console=console):
        row = [name]
        for steps in counts:
            found = langevin.likelihood.bound(pick(bound), x, steps=steps, seed=1)
            bits = found.bits_per_dim
            row.append(f"{float(bits.mean()):.4f} ± {float(bits.std()) / math.sqrt(len(x)):.4f}")
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--heads-steps", type=int, default=2000)
    asked, console = parser.parse_args(), Console(width=150)
    if asked.model is None:
        mixtures(asked.world, console)
    else:
        digits(asked.model, asked.heads_steps, console)


if __name__ == "__main__":
    main()
