"""``langevin export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import writable


@dataclass(frozen=True)
class Options:
    """Write a model as a pipeline of diffusers, with a scheduler of diffusers that fits.

    The network must be unet2d, trained as diffusers' pipelines ask a network:
    langevin train DATA --network.name unet2d --process.name ddpm --prediction.name v --prediction.time index
    --prediction.no-scale-input. What else stands in the way is named.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Where the pipeline goes: a new or empty directory, or one of an earlier export."""
    to: Literal["diffusers"] = "diffusers"
    """What it becomes."""


def run(options: Options) -> None:
    """Export, and say how it is read there."""
    out = writable(options.out)
    from ..adapters.diffusers.directory import is_diffusers
    from ..adapters.diffusers.export import check_target, save
    from ..adapters.hub import find
    from ..adapters.loading import load

    check_target(out, "out")
    if is_diffusers(find(options.model)):
        raise UserError(f"{options.model} is a pipeline of diffusers already")
    model = load(options.model, device="cpu")
    save(model, out)
    print(f"{out}: a pipeline, read by diffusers.DiffusionPipeline.from_pretrained({str(out)!r}).")
    if classes := model.condition_sizes.get("label"):
        print(
            "No pipeline of diffusers tells this network its class: call pipe.unet(x, t, class_labels=...), "
            f"where {classes} is none."
        )
