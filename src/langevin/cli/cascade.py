"""``langevin cascade``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import writable


@dataclass(frozen=True)
class Options:
    """Put models together that draw one after the other: a cascade, such as from 16 to 32 to 64 pixels.

    Every model but the first is told, as the condition image, what the one before it drew: it was trained with
    --degrade resize=16,noise=0..0.2 or the like, whose noise lets it bear with what a model draws. The result is one
    model: `langevin sample`, `evaluate` and `replay` take it, and a guidance scale leads every stage that takes the
    condition.
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL MODEL [MODEL ...]")]
    """Model directories, or names of `langevin models`, in the order in which they draw."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="DIR")]
    """Directory of the cascade."""


LOG = "metrics.csv"


def run(options: Options) -> None:
    """Load, check, and write."""
    out = writable(options.out)
    if len(options.models) < 2:
        raise UserError(f"MODEL must be given at least twice, got {' '.join(options.models) or 'none'}")
    from ..adapters import loading
    from ..models import Cascade, location
    from ..models.directory import CONFIG, contents
    from ..models.timing import CLOCK
    from ..storage import files

    there = files.read_json(out / CONFIG) if (out / CONFIG).is_file() else None
    if there is not None and there.get("kind") != Cascade.kind:
        raise UserError(f"out must be a new directory or an earlier cascade's, but {out} holds another model")
    stages = [loading.load_denoiser(name, own=False, device="cpu") for name in options.models]
    for stage, name in zip(stages, options.models, strict=True):
        if isinstance(stage, Cascade):
            raise UserError(f"{name} is a cascade itself: give its models, {name}/stage-0 and so on")
    model = Cascade(tuple(stages))
    for before, after, name in zip(stages, stages[1:], options.models[1:], strict=False):
        told = after.condition_sizes["image"]
        if before.output_shape[0] != told:
            raise UserError(
                f"{name} is told pictures of {told} channels, the model before it draws {before.output_shape[0]}"
            )
    held = contents(model)
    for part, name in zip(model.parts, options.models, strict=True):
        folder = location.here(name)
        for file in (LOG, CLOCK):
            if folder is not None and (folder / file).is_file():
                held[f"{part}/{file}"] = files.read(folder / file)
    with files.lock(out):
        files.publish(out, held)
    sizes = " to ".join("×".join(map(str, stage.output_shape[1:])) for stage in stages)
    print(f"{out} holds a cascade of {len(stages)} models, {sizes}; `langevin sample {out} --out samples` draws.")
