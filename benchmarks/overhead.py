"""Loop time over bare network calls: what a sampler costs beside the network it asks.

    python benchmarks/overhead.py

For the demo's U-Net at batch 64, ten evaluations: our loop, diffusers' schedulers on the same network, and the control
(bare calls against bare calls), interleaved in one process; medians over rounds, and the ratio to the bare calls of the
same round. The share of a step that noise takes is measured beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import langevin
from langevin import Noise, processes, samplers
from langevin.denoisers import NetworkDenoiser, Reading

STEPS = 10


def bare(network: torch.nn.Module, x: torch.Tensor) -> None:
    """Network calls with nothing between them."""
    label = torch.zeros(len(x))
    for _ in range(STEPS):
        network(x, label)


def ours(denoiser: NetworkDenoiser, sampler: samplers.Sampler, start: torch.Tensor) -> None:
    """Our loop."""
    langevin.sample(denoiser, sampler, start=start, steps=STEPS, batch=len(start))


def theirs(network: torch.nn.Module, scheduler: object, start: torch.Tensor) -> None:
    """The loop that diffusers' pipelines write out."""
    scheduler.set_timesteps(STEPS)
    x = start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = network(scheduler.scale_model_input(x, t), t.float().expand(len(x)))
        x = scheduler.step(out, t, x).prev_sample


class Silent(torch.nn.Module):
    """A network that costs nothing: what is left is the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, label: torch.Tensor, condition: object = None) -> torch.Tensor:
        return 0 * x


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()

    import diffusers

    network = langevin.nn.create(langevin.nn.default((1, 8, 8), classes=10)).eval()
    edm = NetworkDenoiser(network, processes.EDM(), Reading("edm"), (1, 8, 8))
    table = NetworkDenoiser(network, processes.DDPM(), Reading("eps", time="index", scale_input=False), (1, 8, 8))
    x = Noise(0, arguments.batch).normal((1, 8, 8)).float()
    jobs: dict[str, Callable[[], None]] = {
        "bare calls": lambda: bare(network, x),
        "bare calls again (control)": lambda: bare(network, x),
        "langevin: default (DPM-Solver++ 2M, EDM)": lambda: ours(edm, samplers.DPMSolverPP(), x),
        "langevin: DDIM, table": lambda: ours(table, samplers.DDIM(), x),
        "langevin: DDPM with noise, table": lambda: ours(table, samplers.DDPM(), x),
        "diffusers: DPMSolverMultistep": lambda: theirs(network, diffusers.DPMSolverMultistepScheduler(), x),
        "diffusers: DDIM": lambda: theirs(network, diffusers.DDIMScheduler(), x),
        "diffusers: DDPM": lambda: theirs(network, diffusers.DDPMScheduler(), x),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    with torch.no_grad():
        for job in jobs.values():
            job()
        for _ in range(arguments.rounds):
            for name, job in jobs.items():
                start = time.perf_counter()
                job()
                seconds[name].append(time.perf_counter() - start)
    rows = Table("loop", "ms a step", "× bare (median)", "min", "max")
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["bare calls"])]
        middle = statistics.median(ratios)
        cells = (
            f"{statistics.median(values) / STEPS * 1e3:.2f}",
            f"{middle:.3f}",
            f"{min(ratios):.3f}",
            f"{max(ratios):.3f}",
        )
        rows.add_row(name, *cells)
    console = Console(width=110)
    console.print(
        f"U-Net {sum(p.numel() for p in network.parameters()) / 1e6:.2f} M, batch {arguments.batch}, "
        f"{STEPS} evaluations, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    console.print(rows)

    noise, times = Noise(0, arguments.batch), []
    for draw in range(50):
        start = time.perf_counter()
        noise.at(draw).normal((1, 8, 8))
        times.append(time.perf_counter() - start)
    share = statistics.median(times) / (statistics.median(seconds["bare calls"]) / STEPS)
    console.print(f"noise of one step: {statistics.median(times) * 1e6:.0f} µs, {100 * share:.1f} % of a network call")

    for name, denoiser, sampler in (
        ("default", edm, samplers.DPMSolverPP()),
        ("DDIM", table, samplers.DDIM()),
        ("DDPM", table, samplers.DDPM()),
    ):
        silent = dataclasses.replace(denoiser, network=Silent())
        times = []
        for _ in range(30):
            start = time.perf_counter()
            ours(silent, sampler, x)
            times.append((time.perf_counter() - start) / STEPS)
        share = statistics.median(times) / (statistics.median(seconds["bare calls"]) / STEPS)
        console.print(
            f"{name}: {statistics.median(times) * 1e3:.2f} ms a step without a network, {1 + share:.3f} × bare"
        )


if __name__ == "__main__":
    main()
