"""``langevin edit`` without a picture: two captions on one noise, side by side, and where each word looks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._duration import duration
from .._errors import UserError
from .given import conditions
from .options import device_named
from .words import provenance, settings_of

if TYPE_CHECKING:
    from ..tasks.edit import Edited

SHOWN = 4
"""Pairs whose attention is shown."""

UNUSED = ("mask", "guide", "source_label", "overlap")
"""Options that are of pictures."""


def condition(model: Any, name: str, text: str) -> Any:
    """A caption as the model is told it.

    Raises:
        UserError: for a model without captions, or a caption that is longer than it takes.
    """
    from ..tasks.edit.captions import caption_reader

    reader = caption_reader(model)
    return reader.to_condition(reader.check(name, text), reader.limit)


def run(options: Any, out: Path, settings: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Draw both, write both.

    Args:
        options: of ``langevin edit``, as they were given.
        out: where the results go.
        settings: of prompt-to-prompt.
        asked: the options that results depend on, by name.
    """
    from .. import training
    from ..adapters import loading
    from ..generate import machine, model_digest, versions
    from ..report import Bar
    from ..storage import files
    from ..tasks import edit as editing
    from ..tasks import pictures

    for name in UNUSED:
        if getattr(options, name) is not None:
            raise UserError(f"{name.replace('_', '-')} is of pictures that are edited, and IN was not given")
    for name in ("iterations", "fixed_point"):
        if name in settings:
            raise UserError(f"{name.replace('_', '-')} is of pictures that are inverted, and IN was not given")
    editing.create_method("prompt-to-prompt", **settings)  # refuses what it does not take
    request = {
        "command": "edit",
        "model": model_digest(options.model),
        "settings": dict(settings),
        **{name: value for name, value in asked.items() if name not in UNUSED},
        "given": list(options.given),
    }
    request = json.loads(files.as_json(request))
    record = out / "edit.json"
    if record.exists():
        if files.read_json(record).get("request") != request:
            raise UserError(f"out holds results of another request, {record}; choose another --out, or remove it")
        print(f"{out}: the pictures of this request are there; nothing was drawn.")
        return
    model = loading.load_denoiser(options.model, own=False, device=device_named(options.device))
    pictures.image_model(model)
    given = conditions(options.given, options.label, model)
    if "caption" in given:
        raise UserError("caption was given twice: --source and --target are the captions")
    begun = time.monotonic()
    counted = model.counted()
    with files.lock(out):
        with Bar("drawing") as bar:
            made = editing.prompt_to_prompt(
                counted,
                options.source,
                options.target,
                **settings,
                maps=True,
                n=options.n,
                steps=options.steps,
                sampler=options.sampler,
                grid=options.grid,
                guidance_scale=options.guidance_scale,
                seed=options.seed,
                batch=options.batch,
                progress=bar,
                **given,
            )
        low, high = (-1.0, 1.0) if model.output.low is None else (model.output.low, model.output.high)
        drawn = {
            f"{side}-{i}.png": training.png(training.image(one, low=low, high=high))
            for side in ("source", "target")
            for i, one in enumerate(getattr(made, side).cpu())
        }
        drawn |= {"sheet.png": side_by_side(made, low, high), "attention.png": attention(made, low, high)}
        if not options.no_metadata:
            how = provenance("edit", options, model)
            drawn = {file: how.stamp(content, file) for file, content in drawn.items()}
        for file, content in drawn.items():
            files.replace(out / file, content)
        about = {
            "model": options.model,
            "trained_steps": model.config.get("steps"),
            "request": request,
            "settings": settings_of(options, ("out", "no_metadata", "device")),
            "calls": counted.counter.calls,
            "seconds": round(time.monotonic() - begun, 3),
            "files": {file: files.digest(content) for file, content in drawn.items()},
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
            "machine": machine(),
        }
        files.replace(record, files.as_json(about))
    pairs = f"{options.n} pair{'s' * (options.n != 1)}"
    print(f"{out}: {pairs} of two captions by prompt-to-prompt in {duration(time.monotonic() - begun)}.")


def side_by_side(made: Edited, low: float, high: float) -> bytes:
    """Sources and targets in turn, each over its caption."""
    import torch

    from .. import training
    from ..report.sheet import sheet

    both = torch.stack([made.source, made.target], 1).flatten(0, 1).cpu()
    one = made.alignments[0]
    texts = [one.source, one.target] * len(made.source)
    columns = 2 if len(made.source) < 4 else 2 * round((len(made.source) / 2) ** 0.5)
    return training.png(sheet(both, texts, columns, low=low, high=high))


def attention(made: Edited, low: float, high: float) -> bytes:
    """Of each of the first pairs, two rows: the picture, and the mean attention to each word of its caption."""
    import torch
    from torch.nn.functional import interpolate

    from .. import training
    from ..report.sheet import sheet
    from ..tasks.edit.alignment import words

    one = made.alignments[0]
    told = {side: list(dict.fromkeys(words(getattr(one, side)))) for side in ("source", "target")}
    columns = 1 + max(map(len, told.values()))
    x, texts = [], []
    for i in range(min(len(made.source), SHOWN)):
        for side, known in told.items():
            picture = getattr(made, side)[i].cpu()
            blank = torch.full_like(picture, high)
            x.append(picture)
            texts.append(f"{side} {i}")
            for word in known:
                seen = made.attention(word, side)[i].cpu()
                share = interpolate(seen[None, None], picture.shape[1:])[0] / seen.amax().clamp_min(1e-12)
                x.append((low + (high - low) * share).expand_as(picture).to(picture))
                texts.append(f"{word}  ≤ {float(seen.amax()):.2g}")
            x += [blank] * (columns - 1 - len(known))
            texts += [""] * (columns - 1 - len(known))
    return training.png(sheet(torch.stack(x), texts, columns, low=low, high=high))
