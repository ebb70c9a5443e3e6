"""``langevin replay``."""

from __future__ import annotations

import contextlib
import importlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._errors import UserError
from .options import Name, device_named, writable
from .parse import parse
from .words import words_of

if TYPE_CHECKING:
    import numpy as np

    from ..generate import Provenance

DRAWN = ("sample", "edit", "restore", "purify", "disco")
"""Commands whose pictures say how they were made."""


@dataclass(frozen=True)
class Options:
    """Draw a picture of langevin again, from what it says of itself, and compare.

    FILE is a PNG that `sample`, `disco`, `edit`, `restore` or `purify` wrote: it names the model, the seed, the
    settings and all files it depends on, with checksums. Writes DIR/NAME.png and DIR/NAME.json, and says whether they
    are the same bytes, and if not, what differs. The exit code is 0 for the same pixels and 1 for others.
    """

    file: Annotated[Positional[str], arg(metavar="FILE")]
    """The picture."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("replayed")
    """Where the picture goes that is drawn again."""
    model: Name = None
    """Where the model is now, if it has moved; its checksum must be the same."""
    moved: UseAppendAction[tuple[str, ...]] = ()
    """A file that was read and lies elsewhere now, as OLD=NEW: the picture that was edited, its mask, a condition. Its
    checksum must be the same."""
    alone: bool = False
    """Draw a sample alone, not in the batch it was drawn in: the same but for the rounding of the network."""
    show: bool = False
    """Print what the picture says, and draw nothing."""
    nearest: bool = False
    """Find the nearest example of the model's training data, and write DIR/NAME-nearest.png."""
    bits: bool = False
    """Tell the exact likelihood of the picture under the model, in bits a dimension."""
    device: Name = None
    """cpu or cuda; the one it was drawn on, if not given."""


def run(options: Options) -> int:
    """Read, draw, compare."""
    from ..generate import Provenance
    from ..storage import files

    said = Provenance.of(options.file)
    if options.show:
        print(files.as_json({**said.__dict__, "words": list(said.words)}).decode(), end="")
        return 0
    out = writable(options.out)
    content = Path(options.file).read_bytes()
    asked, inputs = request(said, options)
    check(said, asked, inputs)
    device = device_named(options.device or said.device)
    alone = options.alone and said.index is not None
    single = said.index is not None and said.command == "sample"
    drawn = sample_again(said, asked, alone, device) if single else command_again(said, asked, device)
    own = replace(said, device=str(device or said.device), versions=_versions())
    again = own.stamp(drawn, said.file, index=said.index)
    found = compared(content, again, said, own)
    name = Path(said.file).stem
    extra = looked_at(options, asked, content, out / f"{name}-nearest.png")
    with files.lock(out):
        files.replace(out / f"{name}.png", again)
        files.replace(out / f"{name}.json", files.as_json({"file": options.file, **found, **extra}))
    print(f"{out / f'{name}.png'}: {verdict(found)}")
    if "nearest_distance" in extra:
        print(
            f"nearest training example: {extra['nearest_index']}, at a root mean square of "
            f"{extra['nearest_distance']:.4f} a pixel; held-out examples lie at {extra['heldout_distance']:.4f}"
        )
    if "bits_per_dimension" in extra:
        print(f"{extra['bits_per_dimension']:.4f} bits a dimension")
    return 0 if found["same_pixels"] else 1


def _versions() -> dict[str, str]:
    from ..generate import versions

    return versions()


def request(said: Provenance, options: Options) -> tuple[Any, dict[str, str]]:
    """The options of the command that made the picture, with what has moved, and the files it read, where they are."""
    if said.command not in DRAWN:
        raise UserError(f"{options.file}: pictures of {said.command!r:.40} cannot be replayed")
    if {"-h", "--help"} & set(said.words):
        raise UserError(f"{options.file}: its words are {list(said.words)!r:.80}, which ask for help")
    where, words = {path: path for path in said.inputs}, list(said.words)
    for text in options.moved:
        old, _, new = text.partition("=")
        if old not in where or not new:
            raise UserError(f"moved must be OLD=NEW with OLD one of {', '.join(where) or 'no files'}, got {text!r}")
        if Path(old).stem != Path(new).stem and words[0] == old:
            raise UserError(f"moved must keep the name of the picture, {Path(old).stem}, which results are named by")
        where[old] = new
        words = [f"{word[: len(word) - len(old)]}{new}" if names(word, old) else word for word in words]
    command = importlib.import_module(f".{said.command}", __package__)
    asked = parse(f"langevin {said.command}", command.Options, words)
    assert asked is not None  # for what asks for help was refused
    return (asked if options.model is None else replace(asked, model=options.model)), where


def names(word: str, path: str) -> bool:
    """Whether a word of a command line is a path, or NAME=path."""
    return word == path or word.endswith(f"={path}")


def check(said: Provenance, asked: Any, inputs: Mapping[str, str]) -> None:
    """Refuse other files than the picture was made of, before any work.

    Raises:
        UserError: with the file that is another.
    """
    from ..generate import model_digest
    from ..generate.provenance import checksum

    try:
        there = model_digest(asked.model)
    except UserError as error:
        raise UserError(f"{error}; --model says where the model is now") from None
    if there != said.model:
        raise UserError(
            f"model {asked.model} is another one than made the picture (SHA-256 {there[:12]}…, not "
            f"{said.model[:12]}…); --model says where that one is"
        )
    for path, now in inputs.items():
        if now == getattr(asked, "encoder", None):
            try:
                there = model_digest(now)
            except UserError as error:
                raise UserError(f"{error}; --moved {path}=NEW says where the encoder is now") from None
            if there != said.inputs[path]:
                raise UserError(f"encoder {now} is another one than made the picture (SHA-256 {there[:12]}…)")
            continue
        if not Path(now).is_file():
            raise UserError(f"{now} is not there; if it has moved, --moved {path}=NEW says where it is")
        if (there := checksum(now)) != said.inputs[path]:
            raise UserError(f"{now} is another file than made the picture (SHA-256 {there[:12]}…)")


def sample_again(said: Provenance, asked: Any, alone: bool, device: str | None) -> bytes:
    """The PNG of one sample, drawn in the batch it was drawn in, or alone."""
    from .. import training
    from ..adapters.loading import load_denoiser
    from ..denoisers.conditions import KINDS
    from ..generate import generate
    from ..report import Bar
    from ..training import value_range
    from .given import conditions

    index = said.index or 0
    if not 0 <= index < asked.n:
        raise UserError(f"the picture says it is sample {index} of {asked.n}, which cannot be")
    recipe = asked.sampling.recipe()
    model = load_denoiser(asked.model, own=False, device=device)
    given = conditions(asked.given, asked.label, model, asked.text_encoder)
    begin = index // recipe.batch * recipe.batch
    first, end = (index, index + 1) if alone else (begin, min(begin + recipe.batch, asked.n))
    each = lambda name, value: hasattr(value, "ndim") and value.ndim > len(KINDS[name].axes)
    rows = {name: value[first:end] if each(name, value) else value for name, value in given.items()}
    with Bar("drawing") as bar:
        drawn = generate(model, recipe, end - first, given=rows, first=first, progress=bar)
    low, high = value_range(model.output)
    return training.png(training.image(drawn.x[index - first], low=low, high=high))


def command_again(said: Provenance, asked: Any, device: str | None) -> bytes:
    """The PNG that the command writes, run once more into a directory that goes away."""
    command = importlib.import_module(f".{said.command}", __package__)
    with tempfile.TemporaryDirectory() as place:
        again = replace(asked, out=Path(place) / "out", no_metadata=True, device=device)
        with contextlib.redirect_stdout(io.StringIO()):
            command.run(again)
        file = (Path(place) / "out" / said.file).resolve()
        if not file.is_relative_to(Path(place).resolve()) or not file.is_file():
            raise UserError(f"`langevin {said.command} {' '.join(words_of(asked))}` does not write {said.file!r:.80}")
        return file.read_bytes()


def compared(content: bytes, again: bytes, said: Provenance, own: Provenance) -> dict[str, Any]:
    """Two pictures, and what else differs: plain JSON."""
    from ..generate.provenance import digest_of, pixels_of

    old, new = pixels_of(content), pixels_of(again)
    found: dict[str, Any] = {
        "same_bytes": content == again,
        "same_pixels": old.shape == new.shape and bool((old == new).all()),
        "changed_since": digest_of(old) != said.pixels,
        "versions": {
            name: [said.versions.get(name, "-"), own.versions.get(name, "-")]
            for name in sorted({*said.versions, *own.versions})
            if said.versions.get(name) != own.versions.get(name)
        },
        "device": [said.device, own.device] if said.device != own.device else None,
    }
    if not found["same_pixels"] and old.shape == new.shape:
        apart = abs(old.astype(int) - new.astype(int))
        found |= {"pixels_that_differ": int((apart > 0).any(-1).sum()), "largest_difference": int(apart.max())}
    return found


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence."""
    others = [f"{name} {there} then, {here} now" for name, (there, here) in found["versions"].items()]
    others += [f"device {found['device'][0]} then, {found['device'][1]} now"] if found["device"] else []
    beside = f" ({'; '.join(others)})" if others else ""
    if found["same_bytes"]:
        return "the same bytes."
    if found["same_pixels"]:
        return f"the same pixels{beside}."
    why = "; the picture's pixels have been changed since it was written" if found["changed_since"] else ""
    if "largest_difference" not in found:
        return f"a picture of another size{beside}{why}."
    return (
        f"{found['pixels_that_differ']} pixels differ, by at most {found['largest_difference']} of 255 levels"
        f"{beside}{why}."
    )


def looked_at(options: Options, asked: Any, content: bytes, nearest_file: Path) -> dict[str, Any]:
    """The nearest training example and the likelihood of a picture, where they are asked for."""
    if not options.nearest and not options.bits:
        return {}
    import torch

    from .. import data, likelihood, training
    from ..adapters.loading import load_denoiser
    from ..generate.provenance import pixels_of
    from ..metrics.memorisation import nearest_neighbours
    from ..report import Bar
    from ..storage import files
    from ..training import value_range

    model = load_denoiser(asked.model, own=False, device=device_named(options.device))
    low, high = value_range(model.output)
    pixels: np.ndarray = pixels_of(content)
    x = low + torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() * ((high - low) / 255)
    if tuple(x.shape[1:]) != tuple(model.output_shape):
        raise UserError(f"nearest and bits are of one picture of the model's size, got {tuple(x.shape[1:])}")
    found: dict[str, Any] = {}
    if options.nearest:
        if model.data is None:
            raise UserError("nearest needs a model that knows its training data, and this one has no description of it")
        source = {key: value for key, value in model.data.source.items() if key != "codec"}
        dataset = data.load(**source)
        train, heldout = dataset.train.all()["x"], dataset.test.all()["x"][:256]
        distance, index = nearest_neighbours(x, train)
        beside = nearest_neighbours(heldout, train)[0].median()
        root = x[0].numel() ** 0.5
        found |= {
            "nearest_index": int(index),
            "nearest_distance": float(distance) / root,
            "heldout_distance": float(beside) / root,
        }
        pair = torch.cat((x, train[index]))
        sheet = training.image_grid(pair, 2, low=low, high=high, names=["picture", "nearest"])
        files.replace(nearest_file, training.png(sheet))
    if options.bits:
        levels = None if model.data is None else model.data.levels
        if levels is not None:  # the likelihood of a level, as `langevin evaluate` has it
            step = (high - low) / (levels - 1)
            x = low + ((x - low) / step).round() * step
        with Bar("likelihood") as bar:
            told = likelihood.exact(model, x, progress=bar, dequantise=None if levels is None else "normal")
        found["bits_per_dimension"] = float(told.bits_per_dim.mean())
    return found
