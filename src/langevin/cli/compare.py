"""``langevin compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._errors import UserError
from .evaluate import dataset_of
from .given import conditions
from .options import Name, at_least_one, check_guidance, check_seed, device_named, writable

if TYPE_CHECKING:
    from ..data import Dataset

PAGE, FIGURES, TABLE = "report.html", "compare.json", "compare.csv"


@dataclass(frozen=True)
class Options:
    """Compare samplers on a model, or on several, from the same noises.

    Writes DIR/report.html, a page that holds all it shows: quality against evaluations and against seconds, the
    distance of each sampler to the model's own converged paths, pictures from the same noise, and what to take, with
    the reason; DIR/compare.json with every figure and its protocol; DIR/compare.csv, a row per sampler and
    number of evaluations.
    """

    model: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL ...")]
    """Model directories, of this library or of diffusers, or owner/name on the Hub."""
    samplers: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (
        "default",
        "dpmpp-2m",
        "unipc",
        "deis",
        "heun",
        "ddim",
    )
    """Samplers by name (`langevin methods --category samplers`); also `default`, and `learned`, what `langevin tune`
    learned."""
    steps: Annotated[tuple[int, ...], arg(metavar="N ...")] = (5, 8, 12, 20)
    """Evaluations (NFE, calls of the network per sample), while `langevin sample --steps` counts steps; a sampler with
    two evaluations per step makes half as many steps."""
    guidance_scale: Annotated[tuple[float, ...], arg(metavar="W ...")] = (1.0,)
    """Scales of classifier-free guidance; the two calls of a guided evaluation count as one, where papers
    usually count two."""
    label: Name = None
    """Class of all samples, by name or index; if not given, classes 0, 1, ... in turn."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition, as NAME=VALUE (see `langevin sample --help`)."""
    text_encoder: Name = None
    """Where the text encoder is that the model's data name, if it is on the Hub."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 128
    """Samples per sampler and number of evaluations, at least 8; distances are of the first 64."""
    data: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None
    """Data to compare the distribution of the samples with; each model's own where it knows them, if not given."""
    tolerance: Annotated[float, arg(metavar="X")] = 0.05
    """Largest median distance to the converged paths that is good enough, in standard deviations of the data; the same
    quantity as --tolerance of `langevin sample`."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("comparison")
    """Where results go; those of an earlier call are replaced."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noises."""
    batch: Annotated[int, arg(metavar="N")] = 256
    """Samples carried at a time."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Compare, write, print."""
    out = writable(options.out)
    if not options.model:
        raise UserError("MODEL must be given: a directory, or several")
    at_least_one(n=options.n, batch=options.batch)
    for steps in options.steps:
        at_least_one(steps=steps)
    for scale in options.guidance_scale:
        check_guidance(scale)
    check_seed(options.seed)
    if not 0 < options.tolerance < float("inf"):
        raise UserError(f"tolerance must be a number > 0, got {options.tolerance:g}")
    from ..adapters import loading
    from ..report import Bar
    from ..report.compare import compare_page
    from ..storage import files
    from ..tasks.compare import compare

    device = device_named(options.device)
    if len(set(options.model)) < len(options.model):
        raise UserError(f"models must differ, got {', '.join(options.model)}")
    models = {path: loading.load_denoiser(path, own=False, device=device) for path in options.model}
    given = [conditions(options.given, options.label, model, options.text_encoder) for model in models.values()]
    if any(one.get("label") != given[0].get("label") for one in given):
        raise UserError(f"label {options.label!r} must be the same class of all models; compare them one by one")
    data: dict[str, Dataset] = {}
    for path, model in models.items():
        found = _data(model, options)
        if found is not None:
            data[path] = found
    with Bar("comparing") as bar:
        made = compare(
            models,
            options.samplers,
            options.steps,
            guidance_scale=options.guidance_scale,
            given=given[0],
            n=options.n,
            seed=options.seed,
            batch=options.batch,
            data=data,
            tolerance=options.tolerance,
            progress=bar,
        )
    page = compare_page(made).encode()
    table = made.to_csv().encode()
    figures = {**made.to_dict(), "files": {PAGE: files.digest(page), TABLE: files.digest(table)}}
    files.publish(out, {PAGE: page, TABLE: table, FIGURES: files.as_json(figures)})
    print(made)
    print(f"{out / PAGE} shows it; {FIGURES} holds all figures with their protocol.")


def _data(model: Any, options: Options) -> Dataset | None:
    """What a model's samples are held against, if it can be had without asking anybody."""
    from ..metrics.evaluate import check_counts, check_real

    try:
        found = dataset_of(model, options.data, text_encoder=options.text_encoder)
        check_real(found.info)
        check_counts(found)
    except UserError:
        if options.data is not None:
            raise
        return None
    return found
