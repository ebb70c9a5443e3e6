"""``langevin demo``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from .._errors import UserError
from ..storage.untrusted import room
from .entry import abandon
from .options import Name, Number, Whole, at_least_one, check_seed, device_named, writable


@dataclass(frozen=True)
class Options:
    """Train a model on 8x8 scans of digits, sample it in several ways, measure each, and write a report.

    Says first how long it will take. DIR/report.html is one file that opens anywhere, DIR/report.json has every
    figure with its protocol, DIR/model is a model directory for `langevin sample` and `langevin evaluate`. A second
    call with the same settings uses the model that is there.
    """

    out: Annotated[Path, arg(metavar="DIR")] = Path("runs/demo")
    """Where it all goes."""
    minutes: Number = None
    """Minutes of training, instead of steps."""
    steps: Whole = None
    """Steps of training; 2500 if neither is given."""
    samples: Annotated[int, arg(metavar="N")] = 2000
    """Samples of the default in 12 steps, at least 100; half as many of the others, 3 % of DDPM in 1000 steps."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of training, of the samples, and of the measures."""
    fresh: bool = False
    """Train anew, whatever DIR holds."""
    quick: bool = False
    """Try the whole way in a minute, with a network so small and trained so little that its figures mean nothing."""
    device: Name = None
    """cpu or cuda; if not given, cuda where there is one."""


def run(options: Options) -> None:
    """Run the demo and say where its report is."""
    out = writable(options.out)
    at_least_one(steps=options.steps, samples=options.samples)
    check_seed(options.seed)
    if options.steps is not None and options.minutes is not None:
        raise UserError("give steps or minutes, not both")
    if options.minutes is not None and not options.minutes > 0:
        raise UserError(f"minutes must be a number > 0, got {options.minutes}")
    if options.quick and (options.steps is not None or options.minutes is not None):
        raise UserError("quick has a budget of its own; leave out --steps and --minutes")
    room(8 * 64 * options.samples, f"{options.samples} samples of digits")
    from ..report import Job, demo, demo_config
    from ..training import BudgetConfig, Config, NetworkConfig, OutputConfig

    if options.quick:
        config = Config(
            seed=options.seed,
            batch=32,
            network=NetworkConfig("unet", {"width": "8"}),
            budget=BudgetConfig(steps=40),
            output=OutputConfig(log_every=5, validate_every=20, validate_on=128, sample_every=0),
        )
    else:
        config = demo_config(options.seed, options.steps, options.minutes)
    samples = min(options.samples, 100) if options.quick else options.samples
    device = device_named(options.device)
    job = Job(config, samples=samples, seed=options.seed, fresh=options.fresh, device=device, quick=options.quick)
    demo(job, out, say=lambda line: print(line, flush=True), leave=abandon("langevin demo"))
    print(f"{out / 'report.html'} is the report; {out / 'report.json'} has every figure with its protocol.")
    print(f"Next:\n  langevin sample {shlex.quote(str(out / 'model'))} -n 64 --label 3 --out samples")
