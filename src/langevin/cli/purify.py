"""``langevin purify``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .given import conditions
from .options import Name, Whole, at_least_one, check_seed, device_named, writable
from .words import provenance
from .work import Done, each

if TYPE_CHECKING:
    from ..report import Bar
    from ..tasks.pictures import Picture


@dataclass(frozen=True)
class Options:
    """Take small adversarial changes out of images: noise, and back by a model (DiffPure).

    IN is a picture, or a folder with all pictures below it, of the model's size or larger. Writes OUT/NAME.png,
    OUT/NAME-strip.png (before, after, what was taken out) and OUT/NAME.json. The same call goes on where one was
    stopped.
    """

    input: Annotated[Positional[str], arg(metavar="IN")]
    """A picture, or a folder of pictures."""
    model: Annotated[str, arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub, of grey or colour images."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("purified")
    """Where the results go."""
    strength: Annotated[float, arg(metavar="S")] = 0.5
    """The noise level sigma/alpha: enough to drown the change, too little to lose what is shown."""
    label: Name = None
    """The class to tell the model, if it is known."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition that the model takes, as NAME=VALUE."""
    steps: Annotated[int, arg(metavar="N")] = 20
    """Steps of the whole grid; those below the strength are taken."""
    sampler: Name = None
    """Update rule, by its name; ancestral if not given."""
    overlap: Whole = None
    """Pixels that neighbouring tiles share; a quarter of a tile if not given."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise, the same for every picture."""
    batch: Annotated[int, arg(metavar="N")] = 64
    """Tiles carried at a time."""
    no_metadata: bool = False
    """Leave out of the pictures how they were made, which `langevin replay` draws them again by."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Read, purify, write."""
    out = writable(options.out)
    at_least_one(steps=options.steps, batch=options.batch)
    check_seed(options.seed)
    import numpy as np

    from .. import samplers
    from ..adapters import loading
    from ..generate import model_digest
    from ..tasks import pictures, prepare
    from ..tasks.purify import check_model, purify

    rule = samplers.create_sampler(options.sampler or "ancestral")
    found = pictures.find(options.input, out)
    model = loading.load_denoiser(options.model, own=False, device=device_named(options.device))
    check_model(model)
    pictures.image_model(model)
    given = conditions(options.given, options.label, model)
    pictures.check_sizes(found, model)
    prepare.steps_below(model, rule, options.strength, options.steps)
    names = ("strength", "label", "steps", "sampler", "overlap", "seed")
    asked = {"command": "purify", "model": model_digest(options.model), **{n: getattr(options, n) for n in names}}
    asked["given"] = list(options.given)
    how = None if options.no_metadata else provenance("purify", options, model)
    results = pictures.Results(out, asked, made=how)
    results.check(found)

    def work(picture: Picture, told: Any, bar: Bar) -> Done:
        settings: dict[str, Any] = {"strength": options.strength, "steps": options.steps, "sampler": rule}
        x = purify(
            told,
            picture.x,
            seed=options.seed,
            overlap=options.overlap,
            batch=options.batch,
            progress=bar,
            **settings,
            **given,
        )
        after = pictures.to_pixels(x[0], model)
        change = np.abs(after.astype(np.int16) - picture.pixels)
        columns = [("input", picture.pixels), ("purified", after), ("change", change.astype(np.uint8))]
        record = {"model": options.model, "size": list(after.shape), "mean_change": round(float(change.mean()), 4)}
        return Done([after], columns, record)

    print(f"{out}: purified at σ/α = {options.strength:g}, {each(results, found, model, 'purifying', work)}.")
