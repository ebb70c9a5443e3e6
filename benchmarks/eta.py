"""DDIM's table of η and the number of steps, where every Fréchet distance is known, and on a trained model.

    python benchmarks/eta.py                      # a normal world, in closed form: seconds
    python benchmarks/eta.py --model runs/digits  # the same on a trained model

The worlds are N(m, C), under the table of a thousand linear β: one with the mean and covariance of the digits, and one
with the spectrum of photographs, 3,072 directions of 32×32 in three colours with variances that fall as 1/f², an RMS of
0.5 a coordinate, and 92, 6 and 2 per cent of it in brightness and two colour differences. On them a step of DDIM is
affine in the state and in its noise, direction by direction, so that the law of what comes out is normal with moments
that follow from three states a step (0, 1, and 0 with unit noise) sent through the sampler itself; its Fréchet distance
to N(m, C) is closed.

Further tables are of a network that errs: it believes in a smoother world, in which each direction has the variance
λ·(1 − e). The belief is still affine, so the distance is still closed, and what the tables do not share is the error of
the network, not the discretisation.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import langevin
import record
from langevin import Noise, processes, samplers
from langevin._registry import lookup
from langevin.denoisers import Denoiser
from langevin.distributions import Dirac

ETAS: tuple[float | str, ...] = (0.0, 0.2, 0.5, 1.0, "hat")
STEPS = (10, 20, 50, 100, 1000)

PAPER = {
    0.0: (13.36, 6.84, 4.67, 4.16, 4.04),
    0.2: (14.04, 7.11, 4.77, 4.25, 4.09),
    0.5: (16.66, 8.35, 5.25, 4.46, 4.29),
    1.0: (41.07, 18.36, 8.01, 5.78, 4.73),
    "hat": (367.43, 133.37, 32.72, 9.99, 3.17),
}
"""FID on CIFAR-10 (arXiv:2010.02502, Table 1)."""


@dataclass(frozen=True, eq=False)
class Constant(Noise):
    """Noise whose normals are given numbers, one a sample."""

    values: Tensor | None = None

    def __init__(self, seed: int, sample: Tensor | int, draw: int = 0, values: Tensor | None = None) -> None:
        super().__init__(seed, sample, draw)
        object.__setattr__(self, "values", values)

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        values = torch.zeros(len(self)) if self.values is None else self.values
        return values.reshape(-1, *[1] * len(shape)).expand(len(self), *shape).to(torch.float64)


def law_of(
    sampler: samplers.Sampler, denoiser: Denoiser, grid: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(D,)`` of what comes out of an affine, diagonal denoiser for normal, independent inputs.

    Args:
        sampler: whose step is affine in state and noise, coordinate by coordinate.
        denoiser: of a normal world with a diagonal covariance.
        grid: times.
        mean, variance: of the start.
    """
    planned = sampler.plan(denoiser.process, samplers.check_grid(grid))
    probes = torch.zeros(3, *denoiser.shape, dtype=torch.float64)
    probes[1] = 1.0
    noise = Constant(0, 3, values=torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    memory = None
    for i, (t, s) in enumerate(itertools.pairwise(grid), 1):
        state = planned.step(samplers.State(probes, t, memory), s, denoiser, noise.step(i))
        memory, (shift, moved, shaken) = state.memory, state.x
        gain, std = moved - shift, shaken - shift
        mean, variance = gain * mean + shift, gain**2 * variance + std**2
    return mean, variance


@dataclass(frozen=True, eq=False)
class Normals(Denoiser):
    r"""The belief's mean for data N(m, diag λ): :math:`m + \frac{αλ}{α^2λ + σ^2} (x_t - α m)`.

    Args:
        process: scalar-Gaussian.
        location: m, ``(D,)``.
        variances: λ, ``(D,)``.
    """

    process: processes.ScalarGaussian
    location: Tensor
    variances: Tensor

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.location.shape)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        t = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma2 = self.process.alpha(t), self.process.sigma2(t)
        gain = alpha * self.variances / (alpha**2 * self.variances + sigma2)
        return Dirac(self.location + gain * (x_t - alpha * self.location))


def digits() -> tuple[Tensor, Tensor]:
    """m and λ of the digits, in the eigenbasis of their covariance."""
    info = langevin.data.load("digits").info
    values, vectors = torch.linalg.eigh(info.cov.double())
    return vectors.T @ info.mean.double(), values.clamp_min(0)


def photographs(
    size: int = 32, rms: float = 0.5, shares: tuple[float, ...] = (0.92, 0.06, 0.02)
) -> tuple[Tensor, Tensor]:
    """m = 0 and λ ∝ 1/max(f, 1)² over the frequencies of a picture, for brightness and two colour differences."""
    f = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    power = 1 / (f[:, None] ** 2 + f**2).clamp_min(1).flatten()
    whole = len(shares) * size**2 * rms**2
    values = torch.cat([share * whole * power / power.sum() for share in shares])
    return torch.zeros_like(values), values


def closed(mean: Tensor, variances: Tensor, error: float, grid: str, steps: tuple[int, ...]) -> dict[str, list[float]]:
    """The table on N(m, diag λ) with a belief in λ·(1 − error): squared Fréchet distances, a list an η."""
    process = processes.DDPM()
    denoiser = Normals(process, mean, variances * (1 - error))
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        for eta in ETAS:
            found[str(eta)] = []
            for n in steps:
                times = lookup("grids", grid).make(process, n)
                start = (torch.zeros_like(mean), torch.ones_like(variances))  # the process's prior
                out, spread = law_of(samplers.DDIM(eta), denoiser, times, *start)  # type: ignore[arg-type]
                # Both covariances are diagonal: |m − m'|² + Σ (√λ − √λ')².
                distance = (out - mean).square().sum() + (spread.sqrt() - variances.sqrt()).square().sum()
                found[str(eta)].append(float(distance))
    return found


def trained(
    path: str, n: int, steps: tuple[int, ...], grid: str | None, seed: int, console: Console
) -> dict[str, object]:
    """The table of a model, with the Fréchet distance to its held-out data in the space of the data."""
    denoiser = langevin.load(path)
    dataset = langevin.data.load(denoiser.data.name)
    process = denoiser.process
    name = grid or ("linspace" if isinstance(process, processes.DDPM) else "karras")
    labels = torch.arange(n) % max(len(dataset.info.classes), 1)
    denoiser = denoiser.given(label=labels) if "label" in denoiser.conditions() else denoiser
    held = dataset.test.all()["x"].flatten(1).double()
    real = dataset.train.all()["x"].flatten(1).double()
    figure = lambda x: langevin.metrics.frechet_distance(x, held)
    found: dict[str, list[float]] = {}
    for eta in ETAS:
        found[str(eta)] = []
        for count in steps:
            times = lookup("grids", name).make(process, count)
            x = langevin.sample(denoiser, samplers.DDIM(eta), grid=times, seed=seed, n=n, batch=500)  # type: ignore[arg-type]
            found[str(eta)].append(figure(x.flatten(1).double()))
            console.print(f"η = {eta}, {count} steps: {found[str(eta)][-1]:.4g}", style="dim")
    some = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))[:n]
    about = {"process": str(process), "grid": name, "samples": n, "held-out": len(held), "real": figure(real[some])}
    return {"frechet": found, **about}


def tell(name: str, found: dict[str, list[float]], steps: tuple[int, ...], kept: str = "") -> None:
    """Print a table, the best η of each column marked; as a record if it has a name."""
    table = Table(name, *(f"S = {n}" for n in steps))
    best = [min(column) for column in zip(*found.values())]
    for eta, values in found.items():
        label = "σ̂" if eta == "hat" else f"η = {eta}"
        table.add_row(label, *(f"**{v:.3g}**" if v == b else f"{v:.3g}" for v, b in zip(values, best)))
    if kept:
        record.show(kept, table)
    else:
        Console(width=110).print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model directory; without it the closed forms")
    parser.add_argument(
        "--error", type=float, nargs="+", default=[0.02, 0.1], help="of the second table, share of λ missed"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--grid", help="a registered grid: linspace on tables, karras elsewhere if not given")
    parser.add_argument("-n", type=int, default=2000, help="samples of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    parser.add_argument("--record", action="store_true", help="keep the tables for the documentation")
    settings = parser.parse_args()
    console, steps = Console(width=110), tuple(settings.steps)
    told: dict[str, object] = {"paper": {str(k): v for k, v in PAPER.items()}}
    if settings.model:
        result = trained(settings.model, settings.n, steps, settings.grid, settings.seed, console)
        told[settings.model] = result
        about = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in list(result.items())[1:])
        console.print(f"{settings.model}: squared Fréchet distances, {about}")
        tell(f"{settings.model}, {settings.n} samples", result["frechet"], steps, "eta-model")  # type: ignore[arg-type]
    else:
        for name, (mean, values) in (("photographs", photographs()), ("digits", digits())):
            for error in (0.0, *settings.error):
                found = closed(mean, values, error, settings.grid or "linspace", steps)
                told[f"{name}, error {error}"] = found
                belief = "exact belief" if error == 0 else f"belief in variances {error:.0%} too small"
                record_of = {("photographs", 0.0): "eta-exact", ("photographs", 0.02): "eta-smooth"}
                tell(f"moments of {name}, {belief}", found, steps, record_of.get((name, error), ""))
    tell("CIFAR-10, FID (arXiv:2010.02502, Table 1)", {str(k): list(v) for k, v in PAPER.items()}, STEPS)
    if settings.out:
        settings.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
