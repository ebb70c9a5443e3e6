"""``langevin evaluate``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .._errors import UserError
from . import ema_lengths, retrieval
from .given import conditions, text_encoder_of
from .measured import show
from .options import Name, Sampling, Whole, at_least_one, writable
from .sample import own_device, request

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import DataInfo, Dataset
    from ..denoisers import NetworkDenoiser
    from ..generate import Recipe, Request
    from ..metrics import Parts


@dataclass(frozen=True)
class Options:
    """Measure a model's samples against the held-out split of its data.

    Every number goes into a JSON file with the protocol it was computed by; a table of them is printed. Beside each
    stands what real data, and noise, get in the samples' place; a measure that could only mislead with so few pictures
    is not given, and a sentence says why. Of a contrastive encoder it is measured how often it finds the caption of a
    held-out picture among 100, and the picture of a caption.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub."""
    n: Annotated[int | None, arg(aliases=("-n",), metavar="N", help_behavior_hint="")] = None
    """How many samples to draw, at least 8; 2000 if not given."""
    label: Name = None
    """Class of all samples, by name or index; if not given, classes 0, 1, ... in turn."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition, as NAME=VALUE (see `langevin sample --help`); a model that takes more than labels is given
    those of the held-out examples in turn, where nothing is given here."""
    samples: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Measure what `langevin sample` wrote, samples.npz or a directory of shards, instead of drawing any."""
    shard_size: Whole = None
    """Draw shards of so many samples, a multiple of --batch, into the directory --samples, and measure them: what is
    there is kept, and under torchrun the processes share the work."""
    data: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None
    """Data to measure against, read as the model's own were; the model's own if not given."""
    text_encoder: Name = None
    """Where the text encoder is that the model's data name; needed if it is on the Hub."""
    features: UseAppendAction[tuple[str, ...]] = ()
    """Feature space of the distances: pixels, pca:K, classifier or inception; those that suit the data if not given."""
    ema: Annotated[tuple[float, ...], arg(metavar="X ...", help_behavior_hint="")] = ()
    """Measure the model with a moving average of each of these lengths (sigma_rel, in (0, 0.28]) as its weights, from
    the same noises, and name the best: 0.03 0.05 0.1 0.15 0.2. For runs that stored averages (`langevin train
    --ema.snapshots 16`). Writes a picture beside the JSON file."""
    save: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """With --ema: write the model of the best length to this directory."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The JSON file; if not given, evaluation.json (ema-lengths.json with --ema) in the model directory, or in the
    working folder for a model that is given by its name or on the Hub."""
    sampling: Annotated[Sampling, arg(name="")] = field(default_factory=Sampling)
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Measure, write and print."""
    begun = time.monotonic()
    _consistent(options)
    folder = Path(options.model).expanduser()
    lengths = ema_lengths.check(options.ema, options.model) if options.ema else []
    name = "ema-lengths.json" if lengths else "evaluation.json"
    out = writable(options.out or (folder if folder.is_dir() else Path()) / name, file=True)
    import torch

    from .. import metrics
    from ..adapters import loading
    from ..denoisers import ContrastiveEncoder
    from ..generate import versions
    from ..metrics.evaluate import check_counts, check_real, few
    from ..metrics.features import parse
    from ..storage import files

    for name in options.features:
        parse(name)
    recipe, device = options.sampling.recipe(), own_device(options.device)
    model = loading.load(options.model, device=device)
    if isinstance(model, ContrastiveEncoder):
        retrieval.refuse(options)
        held_out = dataset_of(model, options.data, text_encoder=options.text_encoder)
        return retrieval.evaluate(model, held_out, options, out, begun)
    model = loading.as_denoiser(model, options.model, own=False)
    given = conditions(options.given, options.label, model, options.text_encoder)
    classes = options.samples is None or options.shard_size is not None
    dataset = dataset_of(model, options.data, classes=classes, text_encoder=options.text_encoder)
    check_real(dataset.info)
    check_counts(dataset)
    samples: Tensor | metrics.Parts
    labels: Tensor | None = None
    restored: dict[str, Any] = {}
    n = 2000 if options.n is None else options.n
    own = _trained_on(model, options.data, dataset)
    features = list(options.features) or None

    def measure(
        samples: Tensor | metrics.Parts, labels: Tensor | None, drawn: dict[str, Any], restored: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        found = metrics.evaluate(samples, labels, dataset, seed=recipe.seed, features=features, trained_on=own)
        return {**restored, **found}, drawn

    held: dict[str, Tensor] | None = None
    if options.samples is None:
        if not given and set(model.condition_sizes) - {"label"}:
            held = dataset.test.batch(torch.arange(n) % len(dataset.test))
            given = {name: held[name] for name in model.condition_sizes if name in held}
        given = {**_labels_of(model, dataset, n), **given}
        if lengths:
            of = lambda model: measure(*_drawn(model, recipe, n, given, dataset, held))
            return _search(options, out, model, dataset, lengths, of, begun)
        samples, labels, drawn, restored = _drawn(model, recipe, n, given, dataset, held)
    else:
        if options.shard_size is not None:
            if not given and (each := [name for name in model.condition_sizes if name != "label"]):
                raise UserError(
                    f"samples in shards are all given the same, and this model takes {', '.join(each)} of each "
                    "held-out example; give one for all with --given, or leave out --shard-size"
                )
            asked = request(options.model, model, recipe, n, options.shard_size, given)
            if not _together(asked, model, options.samples, given):
                return
        samples, labels, drawn = _held(options.samples, dataset.info)
    measures, _ = measure(samples, labels, drawn, restored)
    rough = few(dataset)
    found = {
        "kind": "evaluation",
        "model": options.model,
        "trained_steps": model.config.get("steps"),
        "data": dataset.info.to_dict(),
        "samples": drawn,
        "measures": measures,
        **({"note": rough} if rough else {}),
        "versions": versions(),
        "seconds": round(time.monotonic() - begun, 2),
    }
    files.replace(out, files.as_json(found))
    show(measures, drawn, dataset)
    if rough:
        print(rough)
    print(f"{out} holds all of it, with protocols.")


def _drawn(
    model: Any,
    recipe: Recipe,
    n: int,
    given: dict[str, Any],
    dataset: Dataset,
    held: dict[str, Tensor] | None,
) -> tuple[Tensor, Tensor | None, dict[str, Any], dict[str, Any]]:
    """Samples of a model, their labels, the record of how they were drawn, and what only restoring models get."""
    from ..generate import generate
    from ..report import Bar

    with Bar("sampling") as bar:
        made = generate(model, recipe, n, given=given, progress=bar)
    restored = {}
    if dataset.train.degrade is not None and held is not None:
        restored = {"psnr": _restored(made.x, held["x"], dataset.info)}
    return made.x, made.label if dataset.info.classes else None, made.record, restored


def _search(
    options: Options,
    out: Path,
    model: Any,
    dataset: Dataset,
    lengths: list[float],
    measure: Callable[[Any], tuple[dict[str, Any], dict[str, Any]]],
    begun: float,
) -> None:
    """Measure the model with an average of each length, write, and print."""
    from .. import models
    from ..generate import versions
    from ..metrics.evaluate import few
    from ..storage import files
    from ..training.posthoc_ema import with_ema

    folder, save = Path(options.model).expanduser(), None
    if options.save is not None:
        save = writable(options.save, "save")
        if (save / "config.json").exists():
            raise UserError(f"save must be a new directory, but {save} holds a model")
    found = ema_lengths.compare(model, folder, lengths, measure)
    rough = few(dataset)
    about = {
        "kind": "ema-lengths",
        "model": options.model,
        "data": dataset.info.to_dict(),
        **found,
        **({"note": rough} if rough else {}),
        "versions": versions(),
        "seconds": round(time.monotonic() - begun, 2),
    }
    image = out.with_suffix(".png")
    files.replace(out, files.as_json(about))
    files.replace(image, ema_lengths.picture(found))
    drawn = found["samples"]
    print(
        f"{drawn['n']} samples of each length from the same noises (sampler {drawn['sampler']}, {drawn['evaluations']} "
        f"evaluations each) against {len(dataset.test)} held-out of {dataset.info.name}"
    )
    ema_lengths.show(found)
    for line in (*ema_lengths.sentences(found), *([rough] if rough else [])):
        print(line)
    if save is not None:
        models.save(with_ema(model, folder, found["best"]), save)
        print(f"{save} holds the model of that length.")
    print(f"{out} holds all of it, with protocols, and {image.name} a picture.")


def _restored(x: Tensor, original: Tensor, info: DataInfo) -> dict[str, Any]:
    """How near samples are to the held-out examples whose damaged forms they were given."""
    from .. import metrics

    low, high = (-1.0, 1.0) if info.low is None or info.high is None else (info.low, info.high)
    each = metrics.psnr(x, original.to(x), low=low, high=high)
    mean, error = float(each.mean()), float(each.std()) / len(each) ** 0.5
    about = {"of": "sample and original, in dB", "range": [low, high], "n": len(each)}
    return {"value": mean, "stderr": error, "interval": [mean - 1.96 * error, mean + 1.96 * error], "protocol": about}


def _trained_on(model: Any, asked: str | None, dataset: Dataset) -> Dataset | Literal["unknown"]:
    """The data a model was trained on: those that are measured against, if no others are named."""
    known = None if model.output is None else model.output.source.get("source")
    if asked is None or asked == known:
        return dataset
    try:
        return dataset_of(model, None, classes=False)
    except UserError:  # they are not here, or would have to be fetched
        return "unknown"


def _consistent(options: Options) -> None:
    """Refuse options of drawing beside samples that were drawn already, and processes that could not share the work."""
    from ..data.dataset import FEWEST_TO_MEASURE
    from ..generate import Rank

    at_least_one(n=options.n, shard_size=options.shard_size)
    if options.save is not None and not options.ema:
        raise UserError("save is for the model of the best EMA length; give lengths with --ema")
    if options.ema and options.shard_size is not None:
        raise UserError("ema draws samples of each length; leave out --shard-size")
    rank = Rank.launched()
    if rank.of > 1 and options.shard_size is None:
        raise UserError(f"shard-size must be given where several processes share the work, got rank {rank}")
    if options.shard_size is not None and options.samples is None:
        raise UserError("shard-size needs a directory for the shards: give --samples")
    if options.samples is None or options.shard_size is not None:
        if options.n is not None and options.n < FEWEST_TO_MEASURE:
            raise UserError(f"n must be at least {FEWEST_TO_MEASURE} to be measured, got {options.n}")
        return
    if options.ema:
        raise UserError("samples that were drawn before are of one model; leave out --ema, or --samples")
    plain = Sampling()
    given = [name for name in ("n", "label") if getattr(options, name) is not None] + ["given"] * bool(options.given)
    # The seed is also that of the measures.
    names = [name for name in vars(plain) if name != "seed"]
    given += [name for name in names if getattr(options.sampling, name) != getattr(plain, name)]
    if given:
        asked = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"samples of a file are measured as they are; leave out {asked}, or --samples")


def _together(asked: Request, model: NetworkDenoiser, folder: Path, given: dict[str, Any]) -> bool:
    """Draw this process's shards; whether it is the one that measures, which then waits for those of the others."""
    from ..generate import Rank, Shards, fill
    from ..report import Bar

    rank = Rank.launched()
    with Bar("sampling" if rank.of == 1 else f"sampling {rank}") as bar:
        fill(model, asked, writable(folder, "samples"), rank, bar, given)
    if rank.index:
        print(f"{folder}: rank {rank} is done; rank 0 measures.")
        return False
    with Bar("waiting for the shards of other processes") as bar:
        while missing := Shards(folder).missing():
            bar(asked.count - len(missing), asked.count)
            time.sleep(0.2)
    return True


def _held(path: Path, info: DataInfo) -> tuple[Tensor | Parts, Tensor | None, dict[str, Any]]:
    """Samples that were drawn before, their labels, and the record of where they are."""
    from ..generate import Shards
    from ..metrics import Parts

    if not path.is_dir():
        x, labels = _read(path, info)
        return x, labels, {"file": str(path), "n": len(x)}
    shards = Shards(path)
    if missing := shards.missing():
        first = shards.path(missing[0]).name
        raise UserError(f"samples {path} lack {len(missing)} of {shards.request.count} shards, {first} the first")
    read = lambda: shards if info.classes else ((x, None) for x, _ in shards)
    return Parts(shards.request.n, read), None, {"file": str(path), **shards.request.to_dict()}


def dataset_of(
    model: Any, asked: str | None, *, option: str = "--data", classes: bool = True, text_encoder: str | None = None
) -> Dataset:
    """What the model was trained on, found again from its description, or what is asked for, read in the same way.

    Without ``classes`` no sample is drawn for the data: their classes may be others, and captions are not encoded.
    """
    from .. import data
    from ..data.dataset import with_classes
    from ..data.hub import PREFIX

    info: DataInfo | None = model.output
    read = {} if info is None else dict(info.source)
    source = read.pop("source", None)
    if asked is None and source is None:
        raise UserError(f"this model does not say what it was trained on; name it with {option}")
    if asked is None and str(source).startswith(PREFIX):
        how = f"{option} {source}" if option.startswith("-") else f"{source} as {option}"
        # A directory may come from anywhere: what it names is not fetched before somebody who can read has said so.
        raise UserError(
            f"the data this model was trained on, {source}, are on the Hub and are fetched only if asked for; "
            f"name them with {how}"
        )
    read.pop("text_encoder", None)
    if classes and (encoder := text_encoder_of(model, text_encoder)) is not None:
        read["text_encoder"] = encoder
    try:
        dataset = data.load(asked or str(source), **read)
    except UserError as error:
        if asked is not None:
            raise
        raise UserError(f"the data this model was trained on: {error} (name them with {option})") from None
    if dataset.info.shape != model.output_shape:
        raise UserError(f"data must have shape {model.output_shape} as the model has, got {dataset.info.shape}")
    mine = model.class_names
    if classes and mine and dataset.info.classes:
        return with_classes(dataset, mine, "the model's")
    return dataset


def _labels_of(model: Any, dataset: Dataset, n: int) -> dict[str, Tensor]:
    """The classes of samples that are measured against data without classes, or with some of the model's alone."""
    import torch

    if "label" not in model.condition_sizes:
        return {}
    held = dataset.test.labels
    if held is None:
        return {"label": torch.full((n,), -1)}
    some = len(held.unique()) < model.condition_sizes["label"]
    return {"label": held[torch.arange(n) % len(held)]} if some else {}


def _read(path: Path, info: DataInfo) -> tuple[Tensor, Tensor | None]:
    """Samples and labels of an .npz file; never a pickle."""
    import torch

    from ..data import samples

    x, label = samples(path)
    if x.shape[1:] != tuple(info.shape):
        raise UserError(f"{path}: samples must have the data's shape, (N, {str(tuple(info.shape))[1:]}, got {x.shape}")
    return torch.from_numpy(x), None if label is None or not info.classes else torch.from_numpy(label)
