"""``langevin tune``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from .._duration import duration
from .._errors import UserError
from .options import Name, Number, at_least_one, check_guidance, class_index, device_named, writable


@dataclass(frozen=True)
class Options:
    """Learn a solver for a model and a number of evaluations, which `langevin sample` then takes by default.

    Its time grid and coefficients are fitted to accurate trajectories of the model itself, from N noises, and judged by
    half as many others. Writes MODEL/solver-STEPS.json, a few kilobytes (of a latent model MODEL/denoiser/..., of a
    pipeline of diffusers MODEL/langevin/..., no file of which is changed). Samples are then drawn with it wherever
    --steps is that, the guidance scale is the same, and neither --sampler nor --grid is given.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory (of a model of `langevin models` a copy), a pipeline of diffusers, or owner/name on the Hub
    (the file then goes into its local copy)."""
    steps: Annotated[int, arg(metavar="N")]
    """Steps to tune for, 1 to 64: each is one evaluation, a guided one asks the network twice."""
    guidance_scale: Annotated[float, arg(metavar="W")] = 1.0
    """Classifier-free guidance to tune for, uncond + W (cond - uncond)."""
    label: Name = None
    """Class to tune for, by name or index; if not given, classes 0, 1, ... in turn. Other conditions are absent: a
    solver is kept for steps, guidance and class."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 256
    """Noises to learn from."""
    minutes: Number = None
    """Stop after this long; if not given, when the held-out noises gain nothing more."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noises."""
    batch: Annotated[int, arg(metavar="N")] = 128
    """Samples of one gradient at a time; fewer take less memory."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Learn, write, and say what was gained."""
    at_least_one(steps=options.steps, n=options.n, batch=options.batch)
    check_guidance(options.guidance_scale)
    if options.minutes is not None and not options.minutes > 0:
        raise UserError(f"minutes must be a number > 0, got {options.minutes}")
    from .. import calibration
    from ..adapters import hub, loading
    from ..generate import versions
    from ..models import shipped
    from ..report import Bar

    folder, device = writable(shipped.check_own(hub.find(options.model)), "model"), device_named(options.device)
    model = loading.load_network(folder, device=device)
    label = class_index(options.label, model.class_names)
    with Bar(f"tuning for {options.steps} evaluations") as bar:
        sampler, file = calibration.tune_model(
            model,
            options.steps,
            folder,
            guidance_scale=options.guidance_scale,
            label=label,
            n=options.n,
            held_out=max(1, options.n // 2),
            seed=options.seed,
            minutes=options.minutes,
            batch=options.batch,
            made={"versions": versions()},
            progress=bar,
        )
    assert sampler.use is not None
    before, after = sampler.use.errors or (float("nan"), float("nan"))
    print(
        f"{file}: median error on held-out noises {after:.4f} of the data's size, {before:.4f} by the default sampler, "
        f"learned in {duration(sampler.use.made['seconds'])}."
    )
    if not sampler.gains:
        print(
            "That is no better than the default sampler, which `langevin sample` goes on to take. Give it more time "
            "(--minutes), or more noises (-n)."
        )
        return
    words = ["langevin", "sample", options.model, "--steps", str(options.steps)]
    words += [] if options.guidance_scale == 1 else ["--guidance-scale", f"{options.guidance_scale:g}"]
    words += [] if options.label is None else ["--label", options.label]
    print(f"Next:\n  {shlex.join(words)} -n 64 --out samples")
