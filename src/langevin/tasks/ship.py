"""A trained model as it is shipped by name: its weights in half precision, its card, its recipe, its log, an index."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from .. import models
from .._errors import UserError
from ..adapters.card import card
from ..adapters.pipeline import without_paths
from ..denoisers import Denoiser
from ..generate import Recipe, Samples, generate, versions
from ..models import shipped
from ..models.custom import CustomFormat
from ..models.directory import about, contents
from ..models.learned import PLACES, is_foreign
from ..models.timing import SECONDS
from ..storage import files

WEIGHTS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""What the weights may be stored in, by name."""

MOST = 1 / 255
"""How far samples may move when the weights are stored in half precision: root mean square, in the range of the data,
a grey level of 8-bit pictures. What moves farther is stored in float32."""

ROWS = 200
"""Rows of a training log that are kept beside those that hold a validation loss."""

PICTURE = "samples.png"

KEPT = ("solver-*.json", "calibration.json")
"""What was learned for the model and is shipped with it."""


@dataclass(frozen=True)
class Story:
    """What is said of a model beside what it knows of itself.

    Args:
        title: what it does, a line.
        figure: the headline figure of its card.
        notes: Markdown that the card says under its figures.
        licence: as the Hub spells it.
        evaluation: what ``langevin evaluate`` wrote.
        commands: the command line that trains it, by part; of a model of one part under ``""``.
        logs: ``metrics.csv`` of its training, in the same way; of a run that left parts, its own under ``""``.
        seconds: of its training, where the model does not say them.
        prompt: a caption for the lines of the card that show its use.
    """

    title: str
    figure: str = ""
    notes: str = ""
    licence: str | None = None
    evaluation: Mapping[str, Any] | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    logs: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    prompt: str = ""


def ship(
    model: Any,
    name: str,
    story: Story,
    *,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    n: int = 16,
    given: Mapping[str, Any] | None = None,
    weights: str | None = None,
    picture: Callable[[Tensor], bytes] | None = None,
    learned: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """What the directory of a shipped model holds, by file.

    Args:
        model: as ``langevin.load`` gives it; what it is sampled with alone is kept.
        name: what it is to be loaded by.
        story: what is said of it.
        recipe: how the samples are drawn that its picture shows, and by which the rounding of weights is judged.
        n: how many.
        given: conditions of these.
        weights: ``float32``, ``float16`` or ``bfloat16``; the half precision that moves the samples less, if not given.
        picture: makes a PNG of the samples; none is shown if not given.
        learned: files of solvers and variances that were learned for it.

    Raises:
        UserError: for a name that none can have, a model that is not written in this library's own format, and
            half precision that moves the samples by more than ``MOST``.
    """
    if not shipped.is_name(name):
        raise UserError(f"name must be lower-case letters, digits, . _ and -, got {name!r}")
    if weights is not None and weights not in WEIGHTS:
        raise UserError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    own = model.belief_of if isinstance(model, Denoiser) else None
    if (own is not None and is_foreign(own)) or isinstance(getattr(own, "network", None), CustomFormat):
        raise UserError("a LoRA or a pipeline of diffusers is not shipped: give a model with weights of its own")
    if not story.title.strip() or "\n" in story.title:
        raise UserError(f"title must say what the model does, in a line, got {story.title!r}")
    plain = without_paths(model)
    stored, drawn = _stored(plain, recipe, n, given, weights)
    held = {**contents(plain, WEIGHTS[stored["weights"]]), **(learned or {})}
    if picture is not None and drawn is not None:
        held[PICTURE] = picture(drawn.x)
    for part, log in story.logs.items():
        held[f"{part}/metrics.csv" if part else "metrics.csv"] = thinned(log).encode()
    said = about(plain)
    held["recipe.json"] = files.as_json({"commands": dict(story.commands), "model": said, "versions": versions()})
    if story.evaluation is not None:
        held["evaluation.json"] = files.as_json({**story.evaluation, "model": name})
    trained = ({} if story.seconds is None else {SECONDS: story.seconds}) | training(model)
    held[shipped.CARD] = card(
        said,
        name=name,
        title=story.title,
        licence=story.licence,
        evaluation=story.evaluation,
        picture=PICTURE if PICTURE in held else None,
        notes="\n\n".join(part for part in (f"**{story.figure}**" * bool(story.figure), story.notes) if part),
        sections={"How it was made": _made(story, trained, stored)},
        prompt=story.prompt,
    ).encode()
    index = shipped.index(
        title=story.title,
        figure=story.figure,
        parameters=parameters(model),
        trained=trained,
        stored=stored,
        files={file: files.digest(content) for file, content in sorted(held.items())},
    )
    return {**held, shipped.INDEX: files.as_json(index)}


def moved(
    model: Any,
    weights: torch.dtype,
    recipe: Recipe,
    n: int,
    given: Mapping[str, Any] | None = None,
    before: Samples | None = None,
) -> tuple[float, Samples]:
    """How far samples move when a model's weights are stored in a type, from the same noises, and the samples then.

    Root mean square over all coordinates, in the range of the data, or in the standard deviation of the samples where
    the data have no range; of tokens the share that changes. Infinite where the type does not hold a weight.

    Args:
        model: a denoiser.
        weights: the type.
        recipe: how the samples are drawn.
        n: how many.
        given: conditions, as of ``generate``.
        before: samples of the model as it is, if they are drawn already.
    """
    before = before or generate(model, recipe, n, given=given)
    with TemporaryDirectory() as place:
        try:
            models.save(model, Path(place) / "model", weights=weights)
        except UserError:
            return math.inf, before
        after = generate(models.load(Path(place) / "model", device=model.device), recipe, n, given=given)
    if not before.x.is_floating_point():
        return float((before.x != after.x).double().mean()), after
    x, y, data = before.x.double(), after.x.double(), model.output
    unit = float(x.std()) if data is None or data.low is None else data.high - data.low
    found = float((y - x).square().mean().sqrt()) / max(unit, 1e-12)
    return found if math.isfinite(found) else math.inf, after


def _stored(
    model: Any, recipe: Recipe, n: int, given: Mapping[str, Any] | None, asked: str | None
) -> tuple[dict[str, Any], Samples | None]:
    """How the weights are stored, with how far that moves the samples, and the samples of the stored weights."""
    drawable = isinstance(model, Denoiser)
    if not drawable:  # nothing is drawn of it that could say how far it moves
        return {"weights": asked or "float32"}, None
    before = generate(model, recipe, n, given=given)
    ways = {name: moved(model, WEIGHTS[name], recipe, n, given, before) for name in _ways(asked)}
    best = min(ways, key=lambda name: ways[name][0])
    far, drawn = ways[best]
    if asked not in (None, "float32") and far > MOST:
        raise UserError(f"weights in {asked} move the samples by {far:.2g} of their range, more than {MOST:.2g}")
    if far > MOST:
        best, (far, drawn) = "float32", moved(model, torch.float32, recipe, n, given, before)
    return {"weights": best, "moved": far, "samples": n, "evaluations": drawn.evaluations}, drawn


def _ways(asked: str | None) -> Sequence[str]:
    return ("float16", "bfloat16") if asked is None else (asked,)


def parts_of(model: Any) -> dict[str, Any]:
    """The parts of a model by the names of their directories; a model of one part is its own, under ``""``."""
    parts = getattr(model, "parts", None)
    return dict(parts) if isinstance(parts, Mapping) else {"": model}


def parameters(model: Any) -> int:
    """Learned numbers of all its networks."""
    return sum(p.numel() for part in parts_of(model).values() for p in part.network.parameters())


def training(model: Any) -> dict[str, float]:
    """Steps, images and seconds of its training, all parts together; what is not known of one is left out."""
    found: dict[str, float] = {}
    for key in ("steps", "images", SECONDS):
        known = [part.config.get(key) for part in parts_of(model).values()]
        if all(isinstance(value, (int, float)) for value in known):
            found[key] = sum(known)
    return found


def thinned(log: str) -> str:
    """A training log with every row that holds a validation loss, and of the others at most ``ROWS``, evenly spaced."""
    head, *rows = log.splitlines()
    columns = head.split(",")
    place = columns.index("val_loss") if "val_loss" in columns else len(columns)
    every = math.ceil(len(rows) / ROWS) or 1
    valued = lambda row: bool(row.split(",")[place : place + 1] not in ([], [""]))
    kept = [row for i, row in enumerate(rows) if valued(row) or (len(rows) - 1 - i) % every == 0]
    return "".join(f"{row}\n" for row in (head, *kept))


def learned_files(folder: Path) -> dict[str, bytes]:
    """The solvers and variances that were learned for the model of a directory, by file."""
    found = (file for place in PLACES for pattern in KEPT for file in sorted((folder / place).glob(pattern)))
    return {file.relative_to(folder).as_posix(): files.read(file) for file in found}


def _made(story: Story, trained: Mapping[str, float], stored: Mapping[str, Any]) -> str:
    """The card's section on how the model was trained and is stored."""
    lines = []
    if trained:
        steps = f"{trained['steps']:,.0f} steps" if "steps" in trained else ""
        minutes = f"{trained[SECONDS] / 60:,.0f} minutes" if SECONDS in trained else ""
        lines.append(f"Trained for {' in '.join(part for part in (steps, minutes) if part)}.")
    if story.commands:
        body = "\n".join(story.commands.values())
        several = len(story.commands) > 1
        lines.append(f"The command{'s' * several} that train{'s' * (not several)} it again:\n\n```\n{body}\n```")
    kept = f"The weights are stored in {stored['weights']} and loaded to float32"
    if stored.get("moved"):
        kept += (
            f"; from the same noises that moves the samples by {stored['moved']:.1e} of their range (root mean square, "
            f"{stored['samples']} samples, {stored['evaluations']} evaluations each)"
        )
    return "\n\n".join([*lines, f"{kept}."])
