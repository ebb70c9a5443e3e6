"""``langevin anomaly``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._errors import UserError
from .given import conditions
from .options import Name, Whole, at_least_one, check_guidance, device_named, writable
from .work import Done, each

if TYPE_CHECKING:
    from ..report import Bar
    from ..tasks.pictures import Picture


@dataclass(frozen=True)
class Options:
    """Show where images differ from what a model knows as healthy.

    IN is a picture, or a folder with all pictures below it, of the model's size or larger. Each is encoded without a
    condition and decoded as the class that is healthy. Writes OUT/NAME.png (the map of differences: black is none,
    white the whole range of the data or more), OUT/NAME-strip.png (input, healthy, map) and OUT/NAME.json. With a small
    strength and a scale of 1 little changes and the map is dark: raise --strength, then --scale. The same call goes on
    where one was stopped.
    """

    input: Annotated[Positional[str], arg(metavar="IN")]
    """A picture, or a folder of pictures."""
    model: Annotated[str, arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub, of grey or colour images."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("anomalies")
    """Where the results go."""
    label: Name = None
    """The class that is healthy, by name or index."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition that healthy images have, as NAME=VALUE; a label or one of these must be given."""
    strength: Annotated[float, arg(metavar="S")] = 1.0
    """The noise level sigma/alpha up to which images are encoded: the larger, the more may change."""
    steps: Annotated[int, arg(metavar="N")] = 50
    """Steps of the whole grid; those below the strength are taken, twice."""
    scale: Annotated[float, arg(metavar="W")] = 1.0
    """Classifier-free guidance to the healthy class: 1 is the plain conditional model, which may change little."""
    fixed_point: Annotated[int, arg(metavar="N")] = 0
    """Iterations a step of the encoding, so that what is not changed comes back exactly; 0 for plain DDIM."""
    truth: Name = None
    """A mask of the true anomaly, white; or a folder, with one of each picture's name: the AUROC is printed."""
    overlap: Whole = None
    """Pixels that neighbouring tiles share; a quarter of a tile if not given."""
    batch: Annotated[int, arg(metavar="N")] = 64
    """Tiles carried at a time."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Read, compare, write."""
    out = writable(options.out)
    at_least_one(steps=options.steps, batch=options.batch)
    check_guidance(options.scale, "scale")
    if options.fixed_point < 0:
        raise UserError(f"fixed-point must be an integer of at least 0, got {options.fixed_point}")
    import warnings

    from .. import samplers
    from ..adapters import loading
    from ..generate import model_digest
    from ..storage import files
    from ..tasks import pictures, prepare
    from ..tasks.anomaly import anomaly, auroc

    found = pictures.find(options.input, out)
    model = loading.load_denoiser(options.model, own=False, device=device_named(options.device))
    pictures.image_model(model)
    if options.label is None and not options.given:
        known = model.class_names
        what = (
            f"the class that is healthy, such as --label {known[0]}; known: {', '.join(known)}"
            if known
            else "but this model takes none: train one of healthy and other images with their labels"
        )
        raise UserError(
            f"label must be given, {what}. Encoded and decoded without one, every image comes back as it was"
        )
    given = conditions(options.given, options.label, model)
    pictures.check_sizes(found, model)
    if len(prepare.steps_below(model, samplers.DDIM(), options.strength, options.steps)) < 3:
        raise UserError(f"strength must leave two steps or more, got {options.strength:g}; take more steps")
    names = ("label", "strength", "steps", "scale", "fixed_point", "truth", "overlap")
    asked = {"command": "anomaly", "model": model_digest(options.model), **{n: getattr(options, n) for n in names}}
    asked["given"] = list(options.given)
    drawn = {name: pictures.mask_of(options.truth, name) for name, _ in found}
    beside = {name: [file] for name, file in drawn.items() if file is not None}
    results = pictures.Results(out, asked, beside=beside)
    results.check(found)
    truths = {}
    for name, path in found:
        if (file := drawn[name]) is not None:
            width, height = pictures.size_of(path)
            truths[name] = pictures.read_mask(file, (height, width))
    judged = {name for name, truth in truths.items() if bool(truth.any()) and not bool(truth.all())}
    if truths and not judged:
        raise UserError(f"truth {options.truth} must have white places and others: without both there is no AUROC")
    white = float(model.output.high - model.output.low)

    def work(picture: Picture, told: Any, bar: Bar) -> Done:
        made = anomaly(
            told,
            picture.x,
            strength=options.strength,
            steps=options.steps,
            scale=options.scale,
            fixed_point=options.fixed_point,
            overlap=options.overlap,
            batch=options.batch,
            progress=bar,
            **given,
        )
        score = made.map[0]
        most = float(score.max())
        if most < white / 255:
            warnings.warn(
                f"{picture.path}: nothing changed by one of 256 greys, so the map is black; take a larger "
                "--strength or --scale",
                stacklevel=2,
            )
        shown = (score / white * 255).clamp(0, 255).round().byte().numpy()[..., None]
        record: dict[str, Any] = {"model": options.model, "size": list(picture.pixels.shape)}
        record |= {"largest": round(most, 6), "mean": round(float(score.mean()), 6), "white": white}
        columns = [("input", picture.pixels), ("healthy", pictures.to_pixels(made.healthy[0], model)), ("map", shown)]
        truth = truths.get(picture.name)
        if truth is not None:
            record["auroc"] = round(auroc(score, truth), 4) if picture.name in judged else None
            columns.append(("truth", (truth[..., None].numpy() * 255).astype("uint8")))
        return Done([shown], columns, record)

    done = each(results, found, model, "comparing", work)
    records = [files.read_json(out / f"{name}.json") for name, _ in found]  # those that were there too
    told = [f"the largest difference is {max(r['largest'] for r in records):.3g}; white in the maps is {white:g}"]
    areas = [record["auroc"] for record in records if record.get("auroc") is not None]
    if areas:
        told.append(f"AUROC {sum(areas) / len(areas):.4f}{' on average' if len(areas) > 1 else ''}")
    if without := len(truths) - len(judged):
        told.append(f"{without} had no AUROC, as their truth is all of one colour")
    print(f"{out}: compared at σ/α = {options.strength:g}, {'; '.join([done, *told])}.")
