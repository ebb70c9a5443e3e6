"""``langevin edit``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._errors import UserError
from . import prompt_to_prompt
from .given import conditions
from .options import (
    Name,
    Whole,
    at_least_one,
    check_guidance,
    check_seed,
    class_index,
    device_named,
    json_value,
    writable,
)
from .words import provenance
from .work import Done, each

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from ..report import Bar
    from ..tasks.pictures import Picture


@dataclass(frozen=True)
class Options:
    """Change images by a model: inside a mask, to a class, from strokes, word by word.

    IN is a picture, or a folder with all pictures below it, of the model's size or larger: larger ones are edited in
    overlapping tiles (not by prompt-to-prompt, which takes the model's size alone). Writes OUT/NAME.png,
    OUT/NAME-strip.png (before, mask, after) and OUT/NAME.json, which says how. Pixels outside the mask are those of the
    input, byte for byte. The same call goes on where one was stopped. Without IN pictures of --source and --target are
    drawn from the same noise, the target's with the source's attention: OUT/source-0.png, OUT/target-0.png,
    OUT/sheet.png, and OUT/attention.png, which shows where each word looks.
    """

    model: Annotated[str, arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub, of grey or colour images."""
    input: Annotated[Positional[str | None], arg(metavar="[IN]", help_behavior_hint="")] = None
    """A picture, or a folder of pictures; none, to draw pictures of two captions."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("edited")
    """Where the results go."""
    mask: Name = None
    """A picture of the input's size, white where it may change; or a folder, with one of each picture's name."""
    strength: Annotated[float, arg(metavar="S")] = 2.0
    """The noise level sigma/alpha to which the image is taken: 0.5 changes texture, 2 shapes, 10 leaves little
    (prompt-to-prompt: a high level, such as 20)."""
    label: Name = None
    """The class to edit to, by name or index."""
    given: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """Another condition that the model takes, as NAME=VALUE."""
    source_label: Name = None
    """The class that the images have now, for diffedit."""
    source: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """The caption that the images have now, for prompt-to-prompt and diffedit."""
    target: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """The caption to edit to."""
    replace_steps: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """For prompt-to-prompt: the share of the steps in which words have the source's attention; 0.6 if not given."""
    self_steps: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """For prompt-to-prompt: the share of the steps in which the picture has the source's attention to itself, and so
    its layout; 0.5 if not given."""
    reweight: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="WORD=C")] = ()
    """For prompt-to-prompt: a word of the target and the factor of its attention, as WORD=C; several times for more."""
    blend: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="WORD")] = ()
    """For prompt-to-prompt: the picture changes only where this word looks, or where any of the words does that are
    other ones now, for 'changed'; several times for more."""
    method: Name = None
    """By its name (`langevin methods --category edit`); if not given, prompt-to-prompt with --source and --target, else
    blend if there is a mask and sdedit if not."""
    method_options: Annotated[dict[str, str], arg(metavar="KEY VALUE ...", help_behavior_hint="")] = field(
        default_factory=dict
    )
    """Settings of the method: repeats 3."""
    guide: Name = None
    """A picture to start from, in the place of the input itself: the input with strokes on it."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 1
    """Results of each picture; without IN, pairs of pictures."""
    steps: Annotated[int, arg(metavar="N")] = 50
    """Steps of the whole grid; those below the strength are taken."""
    sampler: Name = None
    """Update rule, by its name; the method's own if not given."""
    grid: Name = None
    """Time grid, by its name."""
    guidance_scale: Annotated[float, arg(metavar="W")] = 1.0
    """Classifier-free guidance, uncond + W (cond - uncond): 1 is the plain conditional model."""
    overlap: Whole = None
    """Pixels that neighbouring tiles share; a quarter of a tile if not given."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise, the same for every picture."""
    batch: Annotated[int, arg(metavar="N")] = 64
    """Images, or tiles, carried at a time."""
    no_metadata: bool = False
    """Leave out of the pictures how they were made, which `langevin replay` draws them again by."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Read, edit, write."""
    out = writable(options.out)
    at_least_one(n=options.n, steps=options.steps, batch=options.batch)
    check_guidance(options.guidance_scale)
    check_seed(options.seed)
    from ..adapters import loading
    from ..generate import model_digest
    from ..tasks import edit as editing
    from ..tasks import pictures, prepare

    worded = options.source is not None and options.target is not None
    method = options.method or (WORDED if worded else editing.editing.default_method(options.mask))
    settings = {key: json_value(text) for key, text in options.method_options.items()} | attention_settings(options)
    if attention_settings(options) and method != WORDED:
        raise UserError(f"{next(iter(attention_settings(options))).replace('_', '-')} is taken by {WORDED} alone")
    if options.input is None:
        if method != WORDED or not worded:
            raise UserError("IN must be given, a picture or a folder; without it --source and --target draw two")
        prompt_to_prompt.run(options, out, settings, {name: getattr(options, name) for name in REQUEST})
        return
    made = editing.create_method(method, **settings)
    if made.needs_mask and options.mask is None:
        raise UserError(f"mask must be given for method {method!r}; sdedit edits whole images without one")
    for name in ("source_label", "source"):
        if getattr(options, name) is not None:
            editing.editing.refuse_source(method, made, name.replace("_", "-"))
    found = pictures.find(options.input, out)
    model = loading.load_denoiser(options.model, own=False, device=device_named(options.device))
    pictures.image_model(model)
    given = conditions(options.given, options.label, model)
    source: dict[str, Any] = {}
    if options.source_label is not None:
        source["label"] = class_index(options.source_label, model.class_names, "source-label")
    for name, told, text in (("target", given, options.target), ("source", source, options.source)):
        if text is not None and "caption" in told:
            raise UserError(f"caption was given twice, by --{name} and --given caption")
        if text is not None:
            told["caption"] = prompt_to_prompt.condition(model, name, text)
    pictures.check_sizes(found, model)
    request = {
        "command": "edit",
        "model": model_digest(options.model),
        "method": repr(made),
        **{name: getattr(options, name) for name in REQUEST},
        "given": list(options.given),
    }
    guide = None if options.guide is None else Path(options.guide).expanduser()
    drawn = {name: pictures.mask_of(options.mask, name) for name, _ in found}
    beside = {name: [file for file in (mask, guide) if file is not None] for name, mask in drawn.items()}
    how = None if options.no_metadata else provenance("edit", options, model)
    results = pictures.Results(out, request, options.n, beside, made=how)
    results.check(found)
    masks = {}
    for name, path in found:
        if (file := drawn[name]) is not None:
            width, height = pictures.size_of(path)
            masks[name] = pictures.read_mask(file, (height, width))
            if not bool(masks[name].any()):
                raise UserError(f"mask {file} is black everywhere: nothing may change; {pictures.WHITE}")
    # What the library refuses is refused of all before any of them is begun.
    prepare.steps_below(model, made.sampler(), options.strength, options.steps, options.grid)

    def work(picture: Picture, told: Any, bar: Bar) -> Done:
        free = masks.get(picture.name)
        start = None if guide is None else pictures.read(picture.name, guide, model).x
        x = editing.edit(
            told,
            picture.x,
            mask=free,
            strength=options.strength,
            method=made,
            guide=start,
            source=source or None,
            steps=options.steps,
            sampler=options.sampler,
            grid=options.grid,
            guidance_scale=options.guidance_scale,
            n=options.n,
            seed=options.seed,
            overlap=options.overlap,
            batch=options.batch,
            progress=bar,
            **given,
        )
        edited = [pictures.keep(pictures.to_pixels(one, model), picture.pixels, free) for one in x]
        size = list(picture.pixels.shape)
        record = {"model": options.model, "size": size, "free": None if free is None else int(free.sum())}
        return Done(edited, columns(picture.pixels, free, edited), record)

    done = each(results, found, model, "editing", work)
    print(f"{out}: edited by {method} at σ/α = {options.strength:g}, {done}.")


WORDED = "prompt-to-prompt"


def attention_settings(options: Options) -> dict[str, Any]:
    """The settings of prompt-to-prompt that were given as options of their own."""
    found: dict[str, Any] = {}
    for name in ("replace_steps", "self_steps"):
        if getattr(options, name) is not None:
            found[name] = getattr(options, name)
    if options.reweight:
        found["reweight"] = dict(map(factor, options.reweight))
    if options.blend:
        found["blend"] = options.blend[0] if len(options.blend) == 1 else list(options.blend)
    return found


def factor(text: str) -> tuple[str, float]:
    """``WORD=C`` as a word and a number."""
    word, _, number = text.rpartition("=")
    try:
        return word, float(number)
    except ValueError:
        raise UserError(f"reweight must be WORD=C with a number C, such as red=2, got {text!r}") from None


REQUEST = (
    *("mask", "strength", "label", "source_label", "guide", "n", "steps", "sampler", "grid", "guidance_scale"),
    *("overlap", "seed", "source", "target"),
)
"""Options that results depend on, as the record has them."""


def columns(given: np.ndarray, free: Tensor | None, made: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Of the strip: the input, the mask if there is one, the results."""
    from ..tasks.pictures import STRIP

    shown = [("input", given)]
    if free is not None:
        shown.append(("mask", (free[..., None].numpy() * 255).astype("uint8")))
    return [*shown, *((f"edited {i}" if len(made) > 1 else "edited", one) for i, one in enumerate(made[:STRIP]))]
