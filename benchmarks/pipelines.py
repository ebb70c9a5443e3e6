"""Our default in a diffusers pipeline's loop beside every scheduler of diffusers that runs there, at ten evaluations.

    langevin train digits --steps 500 --out runs/digits
    python benchmarks/pipelines.py runs/digits [--evaluations 10] [--guidance 1 5] [--samples 64] [--seeds 2] [--record]

A trained model of images with classes is read as three networks: ε on diffusers' linear table and on that of latent
diffusion, and the velocity of a rectified flow; a label a sample, with classifier-free guidance. All schedulers start
from the same noise. The error is the distance of the last state to the end of the model's own converged path from that
noise, the root mean square over pixels in units of the data's: medians over samples, the mean over seeds. The path is
taken down to the network's lowest time, and then to its x̂_0, by order 3 in 400 steps; the last row of each block is how
far it is from the same in half the steps, about eight times its own error.

A latent model of diffusers is taken in the same way, with ``--captions``; its distances are between codes. ``--tune``
adds a solver that was learned for this network, guidance and number of evaluations from other noises (docs/tune.md).

Theirs: each class in each spacing of times it offers, at as many steps as the evaluations pay for. Those that add noise
are not to follow the path, and are left out. Ours: the default as it is, told the guidance, and with moments too: of
256 pictures that the pipeline has drawn itself, and of the data.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from rich.table import Table
from torch import Tensor

import langevin
import record
from langevin import Noise, guidance, samplers
from langevin.adapters.diffusers import Scheduler
from langevin.adapters.diffusers.scheduler_config import Conventions
from langevin.denoisers import Denoiser, Transform, gaussian_frame
from langevin.distributions import Dirac
from langevin.processes import ScalarGaussian
from langevin.report import Bar

Network = Callable[[Tensor, Tensor], Tensor]
"""What a pipeline asks: the state and the timestep."""

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
HIDDEN = {*LATENT, "use_flow_sigmas", "prediction_type", "clip_sample"}
"""Settings that all of a kind have, and that are not shown."""

KINDS: dict[str, dict[str, Any]] = {
    "linear table, ε": {"_class_name": "DDIMScheduler", "clip_sample": False},
    "latent table, ε": {"_class_name": "DDIMScheduler", "clip_sample": False, **LATENT},
    "flow, v": {"_class_name": "FlowMatchEulerDiscreteScheduler"},
}
SPACINGS = [
    {"timestep_spacing": "leading", "steps_offset": 1},
    {"timestep_spacing": "trailing"},
    {"timestep_spacing": "linspace"},
]
LEVELS: list[dict[str, Any]] = [{f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")]


def network_of(model: Denoiser, units: Conventions) -> Network:
    """The model as the network that a pipeline has."""
    own: Any = model.process

    def network(x: Tensor, timestep: Tensor) -> Tensor:
        t = units.time(timestep.reshape(()))
        alpha, sigma = float(units.process.alpha(t)), float(units.process.sigma(t))
        # The time of the model at which σ/α is the same; states of more noise than it has seen are told as of the most.
        there = own.time(units.process.log_snr(t).clamp_min(float(own.log_snr(1.0))))
        mean = model((x * (own.sigma(there) / sigma)).to(x.dtype), there).mean
        noise = (x - alpha * mean) / sigma
        return noise - mean if units.kind == "flow" else noise

    return network


def asked(model: Denoiser, labels: int, captions: list[str], n: int, w: float) -> Denoiser:
    """The model under a condition a sample, in turn, with guidance."""
    if captions:
        given: dict[str, Any] = {"caption": [captions[i % len(captions)] for i in range(n)]}
    elif labels:
        given = {"label": torch.arange(n) % labels}
    else:
        return model
    return model.given(given) if w == 1 else guidance.classifier_free(model, guidance_scale=w, **given)


@dataclass(frozen=True, eq=False)
class On(Transform):
    """A denoiser on another process: the belief at a noise-to-signal ratio is the same; differentiable in x and t."""

    base: Denoiser
    to: ScalarGaussian

    @property
    def process(self) -> Any:
        return self.to

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        own: Any = self.base.process
        t = torch.as_tensor(t, dtype=torch.float64)
        there = own.time(self.to.log_snr(t).clamp_min(float(own.log_snr(1.0))))
        scale = own.sigma(there) / self.to.sigma(t)
        return Dirac(self.base((x_t * scale).to(x_t.dtype), there).mean)


def walk(scheduler: Any, network: Network, x: Tensor, flow: bool) -> tuple[Tensor, int]:
    """The loop of a pipeline, those of flows scale nothing; the last state and the evaluations it took."""
    x = x if flow else x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        shown = x if flow else scheduler.scale_model_input(x, t)
        x = scheduler.step(network(shown, t.double()), t, x, return_dict=False)[0]
    return x, len(scheduler.timesteps)


def converged(config: dict[str, Any], units: Conventions, network: Network, x: Tensor, steps: int) -> Tensor:
    """The end of the path: order 3 on a fine grid, uniform in log-SNR from the start to the lowest time, then x̂_0."""
    low = -2 * torch.log(torch.tensor(1e6, dtype=torch.float64)) if units.kind == "flow" else units.process.log_snr(1.0)
    fine = units.process.time(
        torch.linspace(float(low), float(units.process.log_snr(units.process.t_min)), steps).double()
    )
    first = [1.0] if float(fine[0]) < 1 - 1e-12 else []
    scheduler = Scheduler.from_config(config, sampler="dpmpp-3m", grid=[*first, *fine.tolist(), 0.0])
    scheduler.set_timesteps()
    return walk(scheduler, network, x, units.kind == "flow")[0]


def theirs(kind: str, evaluations: int) -> Iterator[tuple[str, Any]]:
    """Every deterministic scheduler of diffusers in every spacing, set to its evaluations."""
    half = (evaluations + 1) // 2
    if kind.startswith("flow"):
        made: list[tuple[str, Callable[..., Any], list[dict[str, Any]], int]] = [
            ("FlowMatchEuler", diffusers.FlowMatchEulerDiscreteScheduler, [{}, *LEVELS, {"shift": 3.0}], evaluations),
            ("FlowMatchHeun", diffusers.FlowMatchHeunDiscreteScheduler, [{}, {"shift": 3.0}], half),
        ]
        flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        for name, kind_of, orders in (
            ("DPMSolverMultistep", diffusers.DPMSolverMultistepScheduler, (2, 3)),
            ("DEISMultistep", diffusers.DEISMultistepScheduler, (2, 3)),
            ("UniPCMultistep", diffusers.UniPCMultistepScheduler, (2, 3)),
            ("DPMSolverSinglestep", diffusers.DPMSolverSinglestepScheduler, (2,)),
        ):
            shifts = [{"solver_order": o, "flow_shift": s, **flow} for o in orders for s in (1.0, 3.0)]
            made.append((name, kind_of, shifts, evaluations))
    else:
        table = LATENT if kind.startswith("latent") else {}
        multi = [{"solver_order": o} for o in (2, 3)]
        many = [{**a, **b} for a, b in itertools.product(multi, [*SPACINGS, *LEVELS])]
        plain, levels = list(SPACINGS), [*SPACINGS, *LEVELS]
        made = [
            ("DDIM", diffusers.DDIMScheduler, [{**s, "clip_sample": False} for s in plain], evaluations),
            ("PNDM", diffusers.PNDMScheduler, [{**s, "skip_prk_steps": True} for s in plain[:2]], evaluations - 1),
            ("LMSDiscrete", diffusers.LMSDiscreteScheduler, levels, evaluations),
            ("EulerDiscrete", diffusers.EulerDiscreteScheduler, levels, evaluations),
            ("HeunDiscrete", diffusers.HeunDiscreteScheduler, levels, half),
            ("KDPM2Discrete", diffusers.KDPM2DiscreteScheduler, levels, half),
            ("DPMSolverMultistep", diffusers.DPMSolverMultistepScheduler, many, evaluations),
            ("DPMSolverMultistep lu", diffusers.DPMSolverMultistepScheduler, [{"use_lu_lambdas": True}], evaluations),
            ("DPMSolverSinglestep", diffusers.DPMSolverSinglestepScheduler, [{}, *LEVELS], evaluations),
            ("DEISMultistep", diffusers.DEISMultistepScheduler, many, evaluations),
            ("UniPCMultistep", diffusers.UniPCMultistepScheduler, many, evaluations),
        ]
        made = [(name, one, [{**table, **s} for s in settings], n) for name, one, settings, n in made]
    for name, one, settings, steps in made:
        for setting in settings:
            shown = ", ".join(f"{k.removeprefix('use_')}={v}" for k, v in setting.items() if k not in HIDDEN)
            try:
                scheduler = one(**setting)
                scheduler.set_timesteps(steps)
            except (ValueError, TypeError, NotImplementedError, AssertionError, IndexError) as error:
                logging.info("%s(%s) does not run: %s", name, shown, error)
                continue
            yield f"{name}({shown})", scheduler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 5.0])
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--reference", type=int, default=400, help="steps of the converged path")
    parser.add_argument("--best", type=int, default=5, help="how many of theirs are shown")
    parser.add_argument("--captions", type=Path, help="a file of captions, one a line, of a model that is told them")
    parser.add_argument("--tune", type=int, default=0, help="noises that `langevin tune` learns from; 0 leaves it out")
    parser.add_argument("--minutes", type=float, default=4.0, help="of that at most, for each network and guidance")
    parser.add_argument("--name", default="pipelines", help="of the record")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    diffusers.logging.set_verbosity_error()
    loaded = langevin.load(args.model)
    model = loaded.base if isinstance(loaded, langevin.models.Latent) else loaded
    captions = args.captions.read_text().splitlines() if args.captions else []
    classes = len(model.data.classes) if "label" in model.conditions() else 0
    scale = float(torch.as_tensor(gaussian_frame(model).std)) if gaussian_frame(model) else 1.0
    table = Table(
        title=f"distance to the converged path at {args.evaluations} evaluations, in units of the data's spread"
    )
    for column in ("network", "guidance", "scheduler", "evaluations", "median distance"):
        table.add_column(column, justify="left" if column in ("network", "scheduler") else "right")
    with torch.no_grad():
        for kind, w in itertools.product(args.kinds, args.guidance):
            figures, limit = measured(model, classes, captions, kind, w, args)
            rows = sorted(figures.items(), key=lambda row: statistics.mean(row[1][1]))
            foreign = [row for row in rows if not row[0].startswith("langevin")][: args.best]
            for name, (spent, errors) in [*(r for r in rows if r[0].startswith("langevin")), *foreign]:
                table.add_row(kind, f"{w:g}", name, str(spent), f"{statistics.mean(errors) / scale:.4f}")
            table.add_row(
                kind,
                f"{w:g}",
                "the path itself, in half its steps",
                str(args.reference // 2),
                f"{limit / scale:.1e}",
                end_section=True,
            )
    record.show(args.name, table, width=150)


def measured(
    model: Denoiser, classes: int, captions: list[str], kind: str, w: float, args: argparse.Namespace
) -> tuple[dict[str, tuple[int, list[float]]], float]:
    """The medians of every scheduler, a seed each; how far the reference is from one of half the steps."""
    config = KINDS[kind]
    units = Conventions.of(config)
    figures: dict[str, tuple[int, list[float]]] = {}
    limit, tuned = 0.0, None
    if args.tune:
        n = args.tune + args.tune // 2
        with Bar(f"tuning, {kind}, guidance {w:g}") as bar, torch.enable_grad():
            moved = On(asked(model, classes, captions, n, w), units.process)
            tuned = langevin.calibration.tune(
                moved,
                args.evaluations,
                n=args.tune,
                held_out=args.tune // 2,
                seed=1,
                minutes=args.minutes,
                progress=bar,
            )
    for seed in range(args.seeds):
        noise = Noise(100 + seed, args.samples)
        bound = asked(model, classes, captions, args.samples, w)
        network = network_of(bound, units)
        start = noise.normal(model.shape).float()
        coarse, end = (converged(config, units, network, start, n) for n in (args.reference // 2, args.reference))
        limit = max(limit, distance(coarse, end))
        drawn = samplers.moments_from(draw(model, classes, captions, config, units), tuple(model.shape))
        told = {"guidance_scale": w}
        ours: dict[str, dict[str, Any]] = {
            "langevin, default": {},
            "langevin, default, guidance told": told,
            "langevin, default, guidance told, moments of 256 drawn": {**told, "moments": drawn},
        }
        if frame := gaussian_frame(model):
            ours["langevin, default, guidance told, the data's moments"] = {**told, "moments": frame}
        if tuned is not None:
            ours["langevin, tuned"] = {"sampler": tuned.for_model(On(bound, units.process))}
        made = [(name, Scheduler.from_config(config, **more)) for name, more in ours.items()]
        for _, scheduler in made:
            scheduler.set_timesteps(args.evaluations)
        for name, scheduler in [*made, *theirs(kind, args.evaluations)]:
            try:
                x, spent = walk(scheduler, network, start, units.kind == "flow")
            except (IndexError, ValueError, RuntimeError) as error:
                logging.info("%s does not run: %s", name, error)
                continue
            if spent <= args.evaluations:
                figures.setdefault(name, (spent, []))[1].append(distance(x, end))
    return figures, limit


def draw(model: Denoiser, classes: int, captions: list[str], config: dict[str, Any], units: Conventions) -> Tensor:
    """256 pictures of the pipeline itself, without guidance, by the default at 12 evaluations."""
    scheduler = Scheduler.from_config(config, guidance_scale=1.0)
    scheduler.set_timesteps(12)
    bound = asked(model, classes, captions, 256, 1.0)
    noise = Noise(7, 256).normal(model.shape).float()
    x, _ = walk(scheduler, network_of(bound, units), noise, units.kind == "flow")
    return x.flatten(1).double()


def distance(x: Tensor, y: Tensor) -> float:
    """The median over samples of the root mean square."""
    away = (x - y).flatten(1).square().mean(1).sqrt()
    return float("inf") if not bool(away.isfinite().all()) else float(away.median())


if __name__ == "__main__":
    main()
