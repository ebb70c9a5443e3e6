"""``langevin convert``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import Name, Whole, named, writable


@dataclass(frozen=True)
class Options:
    """Write the tensors of a foreign pickle (.pt, .pth, .ckpt, .pkl) into a safetensors file, without running it.

    A pickle is a program. This command lists what the file would call, without calling it, and reads it only if that is
    tensors and containers of them; else it is refused with the names. With --from it writes a model directory, which
    `langevin sample` reads: a checkpoint of EDM's networks, or of denoising-diffusion-pytorch by lucidrains.
    """

    input: Annotated[Positional[Path], arg(metavar="FILE")]
    """A file of torch.save, or a plain pickle; with --from .safetensors too."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="FILE.safetensors")]
    """The file to write; with --from the directory of the model."""
    source: Annotated[Literal["edm", "lucidrains"] | None, arg(name="from")] = None
    """Make a model of it: the program that its network is of."""
    key: Name = None
    """Which mapping of tensors, if the file holds several: state_dict, model/ema, ...; with --from that of the moving
    average if there is one."""
    size: Whole = None
    """For lucidrains: side of the images it was trained on, which its file does not tell."""
    objective: Literal["pred_noise", "pred_x0", "pred_v"] | None = None
    """For lucidrains: what the network predicts, if the weight of the loss in the file does not tell."""
    theta: float = 10_000.0
    """For lucidrains: sinusoidal_pos_emb_theta of the network."""
    precondition: Literal["edm", "vp", "ve"] = "edm"
    """For EDM: how its network is asked and read, EDMPrecond, VPPrecond or VEPrecond."""
    sigma_data: float = 0.5
    """For EDM: sigma_data of EDMPrecond."""
    run_code: bool = False
    """Unpickle what is more than tensors, in another process: whatever its author put into the file runs as you."""


SETTINGS = {"lucidrains": ("size", "objective", "theta"), "edm": ("precondition", "sigma_data")}
"""Settings that are of one program."""


def run(options: Options) -> None:
    """Convert, and say what was read and how."""
    model = options.source is not None
    defaults = {field.name: field.default for field in fields(Options)}
    for program, names in SETTINGS.items():
        for name in names:
            if program != options.source and getattr(options, name) != defaults[name]:
                raise UserError(f"{name.replace('_', '-')} is for --from {program}, got {getattr(options, name)!r}")
    if not model and options.out.suffix != ".safetensors":
        raise UserError(f"out must be a .safetensors file, got {options.out}")
    if model and options.out.suffix == ".safetensors":
        raise UserError(f"out must be a directory for the model that --from makes, got {options.out}")
    out = writable(options.out, file=not model)
    with named("FILE", options.input):
        source = options.input.expanduser()
        if source.is_dir():
            raise UserError(f"FILE must be a file of weights, but {options.input} is a folder")
        if not source.exists():
            raise UserError(f"there is no file {options.input}")
        if not source.is_file():
            raise UserError(f"FILE must be a file of weights, but {options.input} is no regular file")
    _warn(source, options.run_code)
    if model:
        return _model(options, source, out)
    from ..adapters.pickles import convert

    out.parent.mkdir(parents=True, exist_ok=True)
    about = convert(source, out, key=options.key, run_code=options.run_code)
    of = f" of {about['key']}" if about["key"] else ""
    how = "the file's code was run" if options.run_code else "no code was run"
    print(f"{out}: {about['tensors']} tensors{of}, {about['numbers']:,} numbers; {how}.")
    if about["left_out"]:
        print(f"Left out, as no tensors: {', '.join(about['left_out'][:20])}.")


def _warn(source: Path, run_code: bool) -> None:
    if run_code:
        print(
            f"langevin convert: warning: unpickling {source} with --run-code: its author's code runs now, and can "
            "read, change and send all that you can.",
            file=sys.stderr,
            flush=True,
        )


def _model(options: Options, source: Path, out: Path) -> None:
    """Write the model directory of another program's checkpoint."""
    from .. import models
    from ..adapters.checkpoints import read

    made = read(
        source,
        str(options.source),
        key=options.key,
        run_code=options.run_code,
        **{name: getattr(options, name) for name in SETTINGS[str(options.source)]},
    )
    models.save(made, out)
    count = sum(p.numel() for p in made.network.parameters())
    shape, classes = " x ".join(map(str, made.shape)), made.condition_sizes.get("label", 0)
    told = f", of {classes} classes" if classes else ""
    read_as = f"prediction {made.parameterization.prediction}, process {type(made.process).__name__}"
    print(f"{out}: network {made.network.name} of {count:,} parameters for images of {shape}{told}; {read_as}.")
    print(f"Next:\n  langevin sample {shlex.quote(str(out))} -n 16 --out {shlex.quote(str(out / 'samples'))}")
