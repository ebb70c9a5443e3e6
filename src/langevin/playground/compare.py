"""The tab *Compare*: the same noise through several samplers, side by side."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import training
from .._errors import UserError, shown
from ..tasks.compare import compare
from .generate import chosen, conditions
from .jobs import Job
from .messages import number, titles, whole

if TYPE_CHECKING:
    from ..denoisers import NetworkDenoiser
    from ..tasks.compare.results import Side

MOST, BUDGET, PATHS = 6, 200, 16
"""Samplers and evaluations at most, and paths that are drawn by each."""


def samplers_of(given: Mapping[str, Any], model: NetworkDenoiser) -> list[str]:
    """The samplers of a request.

    Raises:
        UserError: unless they are one to six names, of samplers that draw from noise under the model's process.
    """
    names = given.get("samplers", ["default", "dpmpp-2m", "ddim"])
    known = {"default", *titles(model.process)}
    if not isinstance(names, list) or not 1 <= len(names) <= MOST or not all(isinstance(name, str) for name in names):
        raise UserError(f"samplers must be one to {MOST} names, got {shown(names)}")
    for name in names:
        if name not in known:
            raise UserError(f"samplers: {name!r} is none that draws from noise for this model")
    return list(dict.fromkeys(names))


class Comparisons:
    """Comparisons on the models that a playground was started with.

    Args:
        models: by name.
    """

    def __init__(self, models: Mapping[str, NetworkDenoiser]) -> None:
        self.models = models

    def run(self, job: Job) -> dict[str, Any]:
        """Draw the same noises by each sampler, and say how far each is from the model's own converged paths."""
        name, model = chosen(job.arguments, self.models)
        told = conditions(job.arguments, model)
        names = samplers_of(job.arguments, model)
        budget = whole(job.arguments, "steps", 10, 1, BUDGET)
        scale = number(job.arguments, "scale", 1.0, 0.0, 50.0)
        seed = whole(job.arguments, "seed", 0, 0, 2**53 - 1)
        found = compare(
            {name: model},
            names,
            [budget],
            guidance_scale=[scale],
            given=told,
            n=PATHS,
            seed=seed,
            progress=job.progress,
        )
        job.check()
        (side,) = found.sides
        rows = [
            {
                "sampler": cell.sampler,
                "evaluations": cell.evaluations,
                "seconds": cell.seconds,
                "distance": cell.median,
                "picture": picture(cell.shown, side),
            }
            for cell in side.cells
        ]
        if side.reference is not None:
            rows.append({"sampler": "converged", "distance": 0.0, "picture": picture(side.reference, side)})
        return {
            "rows": rows,
            "unresolved": side.unresolved,
            "left_out": [f"{sampler}: {reason}" for (sampler, _), reason in side.left_out.items()],
            "notes": [note for note in side.notes if not note.startswith("Laws are not compared")],
            "command": command(name, names, budget, scale, seed, told, model, job.arguments.get("caption")),
        }


def picture(x: Tensor, side: Side) -> str:
    """Samples in a row, as the address of a PNG that holds all of it."""
    if x.ndim == 4:
        made = training.image_grid(x, len(x), low=side.low, high=side.high)
    elif x.is_floating_point():
        made = training.scatter(x.flatten(1))
    else:
        return ""
    return "data:image/png;base64," + base64.b64encode(training.png(made)).decode()


def command(
    name: str,
    samplers: list[str],
    budget: int,
    scale: float,
    seed: int,
    told: Mapping[str, Any],
    model: NetworkDenoiser,
    caption: str | None,
) -> str:
    """The command that compares the same, with more paths and a report."""
    words = ["langevin", "compare", name, "--samplers", *samplers, "--steps", str(budget), "--seed", str(seed)]
    words += [] if scale == 1 else ["--guidance-scale", f"{scale:g}"]
    words += [] if "label" not in told else ["--label", model.class_names[told["label"]]]
    words += [] if caption is None else ["--given", f"caption={caption}"]
    return shlex.join([*words, "--out", "comparison"])
