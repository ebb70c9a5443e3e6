"""``langevin convert``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import Name, named, writable


@dataclass(frozen=True)
class Options:
    """Write the tensors of a foreign pickle (.pt, .pth, .ckpt, .pkl) into a safetensors file, without running it.

    A pickle is a program. This command lists what the file would call, without calling it, and reads it only if that is
    tensors and containers of them; else it is refused with the names.
    """

    input: Annotated[Positional[Path], arg(metavar="FILE")]
    """A file of torch.save, or a plain pickle."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="FILE.safetensors")]
    """The file to write."""
    key: Name = None
    """Which mapping of tensors, if the file holds several: state_dict, model/ema, ..."""
    run_code: bool = False
    """Unpickle what is more than tensors, in another process: whatever its author put into the file runs as you."""


def run(options: Options) -> None:
    """Convert, and say what was read and how."""
    if options.out.suffix != ".safetensors":
        raise UserError(f"out must be a .safetensors file, got {options.out}")
    out = writable(options.out, file=True)
    with named("FILE", options.input):
        source = options.input.expanduser()
        if source.is_dir():
            raise UserError(f"FILE must be a file of weights, but {options.input} is a folder")
        if not source.exists():
            raise UserError(f"there is no file {options.input}")
        if not source.is_file():
            raise UserError(f"FILE must be a file of weights, but {options.input} is no regular file")
    from ..adapters.pickles import convert

    if options.run_code:
        print(
            f"langevin convert: warning: unpickling {source} with --run-code: its author's code runs now, and can "
            "read, change and send all that you can.",
            file=sys.stderr,
            flush=True,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    about = convert(source, out, key=options.key, run_code=options.run_code)
    of = f" of {about['key']}" if about["key"] else ""
    how = "the file's code was run" if options.run_code else "no code was run"
    print(f"{out}: {about['tensors']} tensors{of}, {about['numbers']:,} numbers; {how}.")
    if about["left_out"]:
        print(f"Left out, as no tensors: {', '.join(about['left_out'][:20])}.")
