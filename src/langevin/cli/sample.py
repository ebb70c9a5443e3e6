"""``langevin sample``."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._duration import duration
from .._errors import UserError
from .given import conditions
from .options import Name, Number, Sampling, Whole, at_least_one, device_named, writable
from .words import provenance

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import DataInfo
    from ..denoisers import NetworkDenoiser
    from ..generate import Provenance, Rank, Recipe, Request

IMAGES = "images"
"""The directory of single images, and what the record calls their count."""

CHOSEN = ("sampler", "process", "grid", "steps", "evaluations", "guidance_scale", "variance", "label")
"""What pictures say of the request as it was resolved."""

POINTS = 4096
"""Points, or lines of text, that are shown of shards."""


@dataclass(frozen=True)
class Options:
    """Draw samples of a trained model.

    Writes DIR/samples.npz (`x`, float32 (N, C, H, W) in the range of the data, int64 for tokens, and `label` for a
    conditional model), DIR/grid.png (DIR/scatter.png for points, DIR/samples.txt for sequences of tokens) and
    DIR/sample.json, which says how they were drawn. With --images, also DIR/images/00000.png, … with the class in the
    name where there are classes.

    With --shard-size, DIR/shard-00000.npz, … take the place of samples.npz. They are written as they are drawn, the
    same call goes on where one was killed, and several processes or machines may share the work: torchrun, or --rank.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 64
    """How many samples."""
    label: Name = None
    """Class of all samples, by name or index; if not given, classes 0, 1, ... in turn."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition that the model takes, as NAME=VALUE: caption="a red bird", image=FILE, vector=0.5,1; an array
    file (.npy) has one for all samples or one each. What is not given is absent."""
    text_encoder: Name = None
    """Where the text encoder is that the model's data name, a directory or a name on the Hub; needed for captions if it
    is on the Hub."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("samples")
    """Where they go; what an earlier call left there is overwritten, but for shards, which are kept."""
    shard_size: Whole = None
    """Samples of a shard, a multiple of --batch; all in one file if not given."""
    rank: Annotated[str | None, arg(metavar="I/K", help_behavior_hint="")] = None
    """With --shard-size: this call is number I, in 0…K-1, of K that fill DIR; under torchrun, the process's own."""
    images: bool = False
    """Write every sample as a PNG of its own too, in DIR/images."""
    no_metadata: bool = False
    """Leave out of the pictures how they were made, which `langevin replay` draws them again by."""
    tolerance: Number = None
    """Instead of --steps: the fewest evaluations whose error of the path is estimated to be at most this, root mean
    square a coordinate in units of the data's standard deviation, against the model's own converged path; 1e-2 is
    fine."""
    sampling: Annotated[Sampling, arg(name="")] = field(default_factory=Sampling)
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Sample and write."""
    out = writable(options.out)
    at_least_one(n=options.n, shard_size=options.shard_size)
    from ..adapters import loading
    from ..generate import REQUEST, generate, within
    from ..report import Bar
    from ..storage import files

    rank = _rank(options)
    if options.tolerance is not None:
        check_tolerance(options, options.tolerance)
    recipe, device = options.sampling.recipe(), own_device(options.device)
    model = loading.load_denoiser(options.model, own=False, device=device)
    given = conditions(options.given, options.label, model, options.text_encoder)
    chosen: dict[str, Any] = {}
    if options.tolerance is not None:
        recipe, found = within(model, recipe, options.tolerance, options.n, given=given)
        print(f"{found}.")
        # Pictures say the steps that were taken: drawn again, nothing is to be estimated.
        taken = replace(options.sampling, steps=recipe.steps, sampler=recipe.sampler)
        options, chosen = replace(options, tolerance=None, sampling=taken), {"tolerance": found.to_dict()}
    if options.images:
        _check_images(out, model, options.shard_size)
    if options.shard_size is not None:
        asked = request(options.model, model, recipe, options.n, options.shard_size, given)
        return _shards(out, asked, model, options.model, rank, given)
    if (out / REQUEST).exists():
        raise UserError(f"out holds shards, {out / REQUEST}; give --shard-size to go on with them, or another --out")
    with files.lock(out):
        with Bar("sampling") as bar:
            drawn = generate(model, recipe, options.n, given=given, progress=bar)
        typed = {"given": list(options.given)} if options.given else {}
        own = {"model": options.model, "trained_steps": model.config.get("steps")}
        record = {**own, **drawn.record, **typed, **chosen}
        made = None if options.no_metadata else provenance("sample", options, model)
        if made is not None:
            made = replace(made, settings={**made.settings, **{key: record[key] for key in CHOSEN}})
        write(out, drawn.x, drawn.label, model.output, record, model.class_names, options.images, made)
    print(
        f"{out}: {options.n} samples in {duration(drawn.seconds)}, {drawn.evaluations} network evaluations each "
        f"(sampler {record['sampler']})."
    )


def check_tolerance(options: Options, tolerance: float) -> None:
    """Refuse what is no tolerance, and steps beside one, before a model is loaded."""
    from ..samplers.tolerance import check_tolerance

    check_tolerance(tolerance)
    if options.sampling.steps is not None:
        raise UserError(f"tolerance chooses the steps: leave out --steps {options.sampling.steps}, or --tolerance")


def _rank(options: Options) -> Rank:
    """This call's, with a request for several processes that they could not share refused."""
    from ..generate import Rank

    rank = Rank.launched() if options.rank is None else Rank.read(options.rank)
    if rank.of > 1 and options.shard_size is None:
        raise UserError(f"shard-size must be given where several processes share the work, got rank {rank}")
    return rank


def own_device(name: str | None) -> str | None:
    """The device that is asked for; of several processes on a machine with GPUs, each takes one of its own."""
    import torch

    mine = os.environ.get("LOCAL_RANK", "")
    if name is None and mine.isdecimal() and torch.cuda.is_available():
        name = f"cuda:{int(mine) % torch.cuda.device_count()}"
    return device_named(name)


def request(place: str, model: NetworkDenoiser, recipe: Recipe, n: int, size: int, given: Mapping[str, Any]) -> Request:
    """What shards are to hold."""
    from ..adapters import hub
    from ..denoisers.conditions import KINDS, labels_in_turn
    from ..generate import Request, model_digest

    label = given.get("label", "in turn" if labels_in_turn(model.condition_sizes, given) else None)
    beside = {}
    for name, value in given.items():
        if name == "label":
            continue
        if not isinstance(value, str) and value.ndim != len(KINDS[name].axes):
            raise UserError(f"{name} must be one for all samples where they are drawn in shards, got one each")
        beside[name] = condition_checksum(value)
    return Request(n, size, label, recipe, model.output_shape, model_digest(hub.find(place)), given=beside)


def condition_checksum(value: str | Tensor) -> str:
    """The SHA-256 of a condition: of a text, or of the type, shape and numbers of an array."""
    from ..storage import files

    text = value if isinstance(value, str) else f"{value.dtype} {tuple(value.shape)} "
    found: str = files.digest(text.encode() + (b"" if isinstance(value, str) else value.numpy().tobytes()))["sha256"]
    return found


def _shards(
    out: Path, asked: Request, model: NetworkDenoiser, place: str, rank: Rank, given: Mapping[str, Any]
) -> None:
    """Draw a rank's shards; the process that finds all of them whole adds the picture and the record."""
    from .. import training
    from ..generate import Shards, fill
    from ..report import Bar

    begun = time.monotonic()
    of = f" {rank}" if rank.of > 1 else ""
    with Bar(f"sampling{of}") as bar:
        drawn = fill(model, asked, out, rank, bar, given)
    shards = Shards(out)
    missing = shards.missing()
    if missing:
        print(f"{out}: rank {rank} is done, {drawn} shards drawn; {len(missing)} of {asked.count} are still to come.")
        return
    record = {"model": place, "trained_steps": model.config.get("steps"), **shards.record()}
    x, label = shards.head(training.SHOWN if len(asked.shape) == 3 else POINTS)
    conclude(out, x, label, model.output, record, model.class_names)
    print(
        f"{out}: {asked.n} samples, {asked.count} shards, {drawn} of them drawn now in "
        f"{duration(time.monotonic() - begun)}, {record['evaluations']} network evaluations a sample "
        f"(sampler {record['sampler']})."
    )


def _check_images(out: Path, model: NetworkDenoiser, shard_size: int | None) -> None:
    """Refuse pictures of what is none, beside shards, or in the place of somebody's own."""
    if shard_size is not None:
        raise UserError("images are written beside samples.npz; leave out --images, or --shard-size")
    if len(model.output_shape) != 3:
        raise UserError(f"images need a model of images; this one makes samples of shape {model.output_shape}")
    if (out / IMAGES).exists() and not own_images(out):
        raise UserError(f"out holds {out / IMAGES}, which this command did not write; choose another --out")


def own_images(out: Path) -> bool:
    """Whether a directory's images are those that an earlier call says it wrote, and nothing else."""
    from ..storage import files

    try:
        count = files.read_json(files.place(out, "sample.json")).get(IMAGES, 0)
        held = os.listdir(out / IMAGES)
    except (UserError, OSError):
        return False
    return len(held) == count and all(re.fullmatch(r"\d{5,}(-.+)?\.png", name) for name in held)


def _image_files(x: Tensor, label: Tensor | None, data: DataInfo | None, names: list[str]) -> dict[str, bytes]:
    """Every sample as a PNG, under its index and the name of its class."""
    from .. import training

    low, high = training.value_range(data)
    found = {}
    for i, image in enumerate(x):
        of = "" if label is None else "-" + (re.sub(r"[^\w.+-]+", "_", names[int(label[i])])[:60] or "_")
        found[f"{IMAGES}/{i:05d}{of}.png"] = training.png(training.image(image, low=low, high=high))
    return found


def write(
    out: Path,
    x: Tensor,
    label: Tensor | None,
    data: DataInfo | None,
    record: dict[str, Any],
    names: list[str],
    images: bool = False,
    made: Provenance | None = None,
) -> None:
    """The three files, and the images if they are asked for, all of them or none.

    The last, sample.json, has the checksums of the first two. The images of an earlier call do not stay beside samples
    that they are not of.
    """
    import numpy as np

    from .. import training
    from ..storage import files

    arrays = {"x": x.numpy()} if label is None else {"x": x.numpy(), "label": label.numpy()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    name, picture = training.sheet(x, label, data, names)
    if made is not None and name.endswith(".png"):
        picture = made.stamp(picture, name)
    contents = {"samples.npz": buffer.getvalue(), name: picture}
    record = {**record, "files": {name: files.digest(content) for name, content in contents.items()}}
    if images:
        record[IMAGES] = len(x)
        single = _image_files(x, label, data, names)
        if made is not None:
            of = [None] * len(x) if label is None else [names[k] for k in label.tolist()]
            single = {file: made.stamp(png, file, index=i, label=of[i]) for i, (file, png) in enumerate(single.items())}
        contents |= single
    stale = not images and own_images(out)
    files.publish(out, {**contents, "sample.json": files.as_json(record)})
    if stale:
        files.remove(out / IMAGES)


def conclude(
    out: Path, x: Tensor, label: Tensor | None, data: DataInfo | None, record: dict[str, Any], names: list[str]
) -> None:
    """The picture and the record beside shards."""
    from .. import training
    from ..storage import files

    name, picture = training.sheet(x, label, data, names)
    files.replace(out / name, picture)
    files.replace(out / "sample.json", files.as_json(record))
