"""Trained models: the error of each solver's path, and the quality of its samples, against evaluations.

    python benchmarks/models.py MODEL [MODEL …] [--out runs/models]

The error is that of the end of the path against a fine reference from the same noise, relative to the RMS of the data:
the median over samples. Solvers are ours (every deterministic one of the registry, and the default) and the strongest
fixed peer on exact worlds, azula's exponential Adams–Bashforth of order 4 in noise prediction on a log-uniform grid.
With ``--quality`` every solver, the stochastic too, draws ``-n`` samples, which are compared with the training data by
sliced Wasserstein-2. Writes a table (CSV), JSON and a picture.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections.abc import Callable
from pathlib import Path as File

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import langevin
import peers
from langevin import Noise, samplers
from langevin._registry import methods
from langevin.denoisers import NetworkDenoiser
from langevin.metrics import sliced_wasserstein
from langevin.processes import ScalarGaussian

BUDGETS = (5, 8, 10, 15, 20)
REFERENCE = 200
STRONGEST = "azula exponential AB4 ε, log"


def mean_of(model: NetworkDenoiser, n: int, counter: list[int]) -> Callable[[Tensor, float], Tensor]:
    """D(y, σ/α) in the coordinates x/α, flat, which is what a peer asks."""
    process: ScalarGaussian = model.process  # type: ignore[assignment]

    def mean(y: Tensor, rho: float) -> Tensor:
        t = process.time(-2 * math.log(rho))
        counter[0] += 1
        x = (process.alpha(t) * y).reshape(n, *model.shape)
        return model(x, t).mean.reshape(n, -1).to(torch.float64)

    return mean


def reference(model: NetworkDenoiser, start: Tensor) -> Tensor:
    """The end of the path at t_min by order 4 in noise prediction on a fine grid."""
    fine = samplers.grids.log_snr(model.process, REFERENCE + 1)[:-1]
    exact = samplers.Multistep("eps", "log-snr", 4, start="corrected")
    *_, state = langevin.trajectory(model, exact, grid=fine, start=start)
    return state.x.to(torch.float64)


def to_t_min(model: NetworkDenoiser, sampler: samplers.Sampler | None, grid: str | None, budget: int, start: Tensor):
    """Our path to t_min: the default grid of the sampler (or a named one) without its last step to clean data."""
    process = model.process
    rule = samplers.default_sampler(model) if sampler is None else sampler
    make = (
        (lambda n: getattr(samplers.grids, grid)(process, n))
        if grid
        else (
            lambda n: next(
                g for g in (rule.default_grid(process, n), samplers.default_grid(process, n)) if g is not None
            )
        )
    )
    times = make(budget + 1)
    times = times[:-1] if abs(float(times[-2]) - process.t_min) < 1e-12 else make(budget)
    times[-1] = process.t_min
    before = model.counter.calls
    *_, state = langevin.trajectory(model, rule, grid=times, start=start)
    assert model.counter.calls - before <= budget, (rule, budget, model.counter.calls - before)
    return state.x.to(torch.float64)


def measured(model: NetworkDenoiser, arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The error of every solver at every budget: a row a solver, its budgets' medians averaged over seeds."""
    n, rms = arguments.samples, model.data.std
    process: ScalarGaussian = model.process  # type: ignore[assignment]
    strongest = next((p for p in peers.peers()[0] if p.name == STRONGEST), None)
    solvers: dict[str, samplers.Sampler | None] = {"default": None}
    grids: dict[str, str | None] = {"default": None}
    for method in methods("samplers"):
        sampler = method.make()
        try:
            sampler.check(process)
        except langevin.UserError:
            continue
        if isinstance(sampler, samplers.Linear) and not getattr(sampler, "eta", 0):
            solvers[method.name], grids[method.name] = sampler, None
    solvers["dpmpp-2m karras"], grids["dpmpp-2m karras"] = samplers.DPMSolverPP(), "karras"
    errors: dict[str, dict[int, list[float]]] = {name: {b: [] for b in BUDGETS} for name in (*solvers, STRONGEST)}
    with torch.no_grad():
        for seed in range(arguments.seeds):
            noise = Noise(1000 + seed, n)
            start = process.prior(model.shape).sample(noise)
            if process.t_max < 1:
                start = start * process.sigma(torch.tensor(process.t_max, dtype=torch.float64))
            end = reference(model, start)
            for name, sampler in track(list(solvers.items()), f"{model.data.name}, seed {seed}"):
                for budget in BUDGETS:
                    x = to_t_min(model, sampler, grids[name], budget, start)
                    errors[name][budget].append(far(x, end, rms))
            if strongest is None:
                continue
            top, bottom = (float(torch.exp(-process.log_snr(t) / 2)) for t in (process.t_max, process.t_min))
            scale = process.alpha(torch.tensor(process.t_max, dtype=torch.float64))
            for budget in BUDGETS:
                calls = [0]
                mean = mean_of(model, n, calls)
                y = (start / scale).reshape(n, -1).to(torch.float64)
                found = peers.run(strongest, peers.Path(mean, y, top, bottom, budget, None, rms))
                assert calls[0] == budget, (calls, budget)
                x = found.reshape(n, *model.shape) * process.alpha(torch.tensor(process.t_min, dtype=torch.float64))
                errors[STRONGEST][budget].append(far(x, end, rms))
    rows: list[dict[str, object]] = []
    for name, found in errors.items():
        if all(found.values()):
            rows.append({"solver": name, **{str(b): sum(v) / len(v) for b, v in found.items()}})
    return rows


def far(x: Tensor, end: Tensor, rms: float) -> float:
    """The median over samples of the RMS error a coordinate, in units of the data's RMS."""
    return float((x - end).flatten(1).square().mean(1).sqrt().median()) / rms


def quality(model: NetworkDenoiser, arguments: argparse.Namespace, real: Tensor) -> list[dict[str, object]]:
    """Sliced Wasserstein-2 to the training data of samples drawn with every solver."""
    rows: list[dict[str, object]] = []
    names = ["default", *(m.name for m in methods("samplers"))]
    for name in track(names, "quality"):
        row: dict[str, object] = {"solver": name}
        for budget in (5, 10, 20, 40):
            sampler = None if name == "default" else samplers.create_sampler(name)
            before = model.counter.calls
            try:
                x = langevin.sample(model, sampler, n=arguments.n, steps=budget, seed=0, batch=arguments.n)
            except langevin.UserError:
                break
            row[str(model.counter.calls - before)] = float(sliced_wasserstein(x.flatten(1).double(), real))
        rows.append(row)
    return rows


def picture(tables: dict[str, list[dict[str, object]]], path: File, ylabel: str) -> None:
    """A panel a model: a line a solver, the default thick."""
    figure, axes = plt.subplots(1, len(tables), figsize=(6 * len(tables), 4.5), squeeze=False, layout="constrained")
    for panel, (title, rows) in zip(axes[0], tables.items()):
        for row in rows:
            points = sorted((int(k), float(v)) for k, v in row.items() if k != "solver")  # type: ignore[arg-type]
            colour = {"default": "#d62728", STRONGEST: "#ff7f0e", "dpmpp-2m karras": "#1f77b4"}.get(str(row["solver"]))
            line = {"lw": 2.5, "marker": "o", "ms": 4} if colour else {"lw": 0.8, "marker": ".", "ms": 4, "alpha": 0.6}
            line["color"] = colour or f"C{2 + len(panel.lines) % 8}"
            panel.plot(*zip(*points), label=str(row["solver"]), **line)
        panel.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel=ylabel, title=title)
        ticks = sorted({int(k) for row in rows for k in row if k != "solver"})
        if len(ticks) > 8:  # solvers that take several evaluations a step: their numbers would run into each other
            ticks = [n for n in (5, 10, 20, 40, 80, 160, 320) if n <= ticks[-1]]
            least = min(float(v) for row in rows for k, v in row.items() if k != "solver")  # type: ignore[arg-type]
            panel.set_ylim(0.8 * least, 20 * least)  # chains that are far from done stand above
        panel.set_xticks(ticks, map(str, ticks))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=6, ncols=2)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def report(rows: list[dict[str, object]], title: str) -> None:
    """Print a table, the best first at ten evaluations."""
    keys = list(dict.fromkeys(k for row in rows for k in row if k != "solver"))
    table = Table("solver", *keys, title=title)
    for row in sorted(rows, key=lambda r: float(r.get("10", math.inf))):  # type: ignore[arg-type]
        table.add_row(str(row["solver"]), *(f"{row[k]:.4f}" if k in row else "" for k in keys))
    Console(width=120).print(table)


def save(rows: dict[str, list[dict[str, object]]], path: File) -> None:
    """JSON, and CSV in long form."""
    path.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "solver", "evaluations", "value"])
        for model, table in rows.items():
            for row in table:
                writer.writerows([model, row["solver"], k, v] for k, v in row.items() if k != "solver")


def main() -> None:
    """Print the tables and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=File)
    parser.add_argument("--samples", type=int, default=128, help="paths whose error is measured")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--label", type=int, help="of a model that takes labels; without it, no label is given")
    parser.add_argument("--quality", action="store_true", help="draw samples with every solver, too")
    parser.add_argument("-n", type=int, default=1000, help="samples for the quality")
    parser.add_argument("--out", type=File, default=File("runs/models"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    errors, distances = {}, {}
    for path in arguments.models:
        model = langevin.load(path)
        model = model if arguments.label is None else model.given(label=arguments.label)
        began = time.perf_counter()
        errors[path.name] = measured(model, arguments)
        report(errors[path.name], f"{path.name}: median error ({time.perf_counter() - began:.0f} s)")
        if arguments.quality:
            dataset = langevin.data.load(**model.data.source)
            real = dataset.train.batch(torch.arange(min(len(dataset.train), arguments.n)))["x"]
            distances[path.name] = quality(model, arguments, real.flatten(1).double())
            report(distances[path.name], f"{path.name}: sliced Wasserstein-2 to the training data, by evaluations")
    save(errors, arguments.out / "errors")
    picture(errors, arguments.out / "errors.png", "median error of the path")
    if distances:
        save(distances, arguments.out / "quality")
        picture(distances, arguments.out / "quality.png", "sliced Wasserstein-2 to the data")
    print(f"{arguments.out}/errors.png, errors.csv, errors.json" + (", quality.*" if distances else ""))


if __name__ == "__main__":
    main()
