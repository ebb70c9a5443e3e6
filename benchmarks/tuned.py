"""Tuned solvers beside the strongest fixed rule, on noises that they never saw.

    python benchmarks/tuned.py                                   exact worlds under EDM and DDPM-linear
    python benchmarks/tuned.py --model runs/demo/model --steps 8   the files that `langevin tune` left with a model

The rule is noise-prediction Adams–Bashforth of order 4 in log σ/α. On exact worlds all end at the smallest time; with a
model at clean data, where the rule takes its last step from the smallest time, as the default and DPM-Solver++(2M) do.
"""

from __future__ import annotations

import argparse
import time

import torch
from rich.table import Table

import langevin
import record
from langevin import processes, samplers, worlds
from langevin.calibration import solver as tuning
from langevin.denoisers import Denoiser
from langevin.samplers import DPMSolverPP, LearnedSolver, Multistep, find_learned_solver, grids

WORLDS = {
    "2-D ring": lambda: worlds.ring(),
    "64-D": lambda: worlds.random_mixture(64, components=8, rank=16, rms=0.5, seed=0),
}
PROCESSES = {"edm": processes.EDM(), "ddpm": processes.DDPM()}
RULE = Multistep("eps", "log-snr", 4)


def uniform(process: processes.ScalarGaussian, n: int) -> torch.Tensor:
    """n + 1 times uniform in log σ/α from the largest to the smallest."""
    ends = -0.5 * process.log_snr(torch.tensor([process.t_max, process.t_min], dtype=torch.float64))
    times = process.time(-2 * torch.linspace(*ends.tolist(), n + 1, dtype=torch.float64))
    times[0], times[-1] = process.t_max, process.t_min
    return times


def figures(trajectories: tuning.Trajectories, x: torch.Tensor) -> tuple[float, float]:
    """Median and RMS over samples of the error relative to the data."""
    errors = trajectories.errors(x.to(trajectories.target))
    return float(errors.median()), float((errors**2).mean().sqrt())


def end(denoiser: Denoiser, sampler: samplers.Sampler, grid: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        *_, last = samplers.trajectory(denoiser, sampler, grid=grid, start=start)
    return last.x


def exact(counts: list[int], fresh: int) -> Table:
    """Medians of the error, and their ratio to the rule's."""
    table = Table("evaluations", *map(str, counts))
    for name, make in WORLDS.items():
        world = make()
        for called, process in PROCESSES.items():
            denoiser = world.denoiser(process)
            reference = tuning.trajectories(denoiser, 384, seed=5, clean=False)
            test = tuning.trajectories(denoiser, fresh, seed=99, clean=False, evaluations=200)
            rows: list[list[str]] = [[], []]
            for n in counts:
                begun = time.perf_counter()
                sampler = tuning.tune(denoiser, n, seed=5, clean=False, reference=reference)
                seconds = time.perf_counter() - begun
                grid = sampler.default_grid(process, n)
                assert grid is not None
                ours = figures(test, end(denoiser, sampler, grid, test.start))
                rule = figures(test, end(denoiser, RULE, uniform(process, n), test.start))
                print(
                    f"{name:9} {called:5} {n:3}  tuned {ours[0]:.2e} / {ours[1]:.2e}  rule {rule[0]:.2e} / "
                    f"{rule[1]:.2e}  ratio {ours[0] / rule[0]:.3f} / {ours[1] / rule[1]:.2f}  {seconds:.0f} s",
                    flush=True,
                )
                rows[0].append(f"{ours[0]:.1e}")
                rows[1].append(f"{ours[0] / rule[0]:.3f}")
            table.add_row(f"{name}, {called}: tuned", *rows[0])
            table.add_row("ratio", *rows[1])
    return table


def model(path: str, counts: list[int], fresh: int) -> Table:
    """Medians of the error of every solver."""
    denoiser, _ = tuning.bound(langevin.load(path, device="cpu"), fresh, 1.0, None)
    process = denoiser.process
    assert isinstance(process, processes.ScalarGaussian)
    test = tuning.trajectories(denoiser, fresh, seed=99)
    medians: dict[str, list[str]] = {}
    for n in counts:
        tried: dict[str, tuple[samplers.Sampler | None, torch.Tensor | None]] = {
            "rule": (RULE, grids.log_snr(process, n)),
            "DPM-Solver++(2M), Karras": (DPMSolverPP(), grids.karras(process, n)),
            "default": (samplers.default_sampler(process), None),
        }
        tuned = find_learned_solver(denoiser, n)
        if isinstance(tuned, LearnedSolver):
            tried["tuned"] = (tuned, None)
        for name, (sampler, grid) in tried.items():
            steps = n if grid is None else None
            x = langevin.sample(denoiser, sampler, start=test.start, grid=grid, steps=steps)
            median, rms = figures(test, x)
            print(f"{n:3}  {name:24}  median {median:.4f}  RMS {rms:.4f}", flush=True)
            medians.setdefault(name, []).append(f"{median:.4f}")
    table = Table("evaluations", *map(str, counts))
    for name in ("tuned", "default", "rule", "DPM-Solver++(2M), Karras"):
        if len(medians.get(name, [])) == len(counts):
            table.add_row(name, *medians[name])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model directory")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 8, 10, 15])
    parser.add_argument("--fresh", type=int, help="noises to test on; 512, or 128 with a model")
    parser.add_argument("--record", action="store_true", help="keep the table for the documentation")
    options = parser.parse_args()
    if options.model:
        record.show("tuned-model", model(options.model, options.steps, options.fresh or 128))
    else:
        record.show("tuned", exact(options.steps, options.fresh or 512))


if __name__ == "__main__":
    main()
