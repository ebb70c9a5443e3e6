"""Samples in shards: any number of processes fill one directory, and any of them may be killed at any time.

A shard is a function of the request and its number. It is written whole or not at all, and says itself what it holds,
so processes need no word with each other: each takes the shards of its rank, keeps those that are whole, and draws the
others. Two that draw one shard write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from .._errors import UserError
from ..data._numpy import arrays
from ..denoisers import VARIANCE_HEADS, NetworkDenoiser
from ..models import directory
from ..models.variances import CALIBRATION
from ..storage import files
from ..storage.untrusted import parse_json
from .samples import Recipe, generate

FORMAT = 1
"""Version of the format; a reader refuses what it does not know."""

REQUEST = "shards.json"
"""What was asked for, beside the shards."""

BYTES = 2**20
"""Size beyond which ``shards.json``, or what a shard says of itself, is refused."""

AGAIN = " (the same `langevin sample` draws again what is not whole)"

AT_WORK = ".rank-"
"""How the directories begin whose locks keep two processes from one rank."""

MOST = 2**31
"""Samples at most; the noise counts 2³²."""


@dataclass(frozen=True)
class Rank:
    """A process's share: the shards whose number is ``index`` modulo ``of``.

    Args:
        index: 0 … of − 1.
        of: how many ranks there are, at least 1.
    """

    index: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise UserError(f"rank must be I/K with I in 0…K-1, got {self.index}/{self.of}")

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @classmethod
    def read(cls, text: str) -> Rank:
        """``I/K`` as it is typed."""
        index, _, of = text.partition("/")
        if not (index.isdecimal() and of.isdecimal()):
            raise UserError(f"rank must be I/K with I in 0…K-1, as in 0/3, got {text!r}")
        return cls(int(index), int(of))

    @classmethod
    def launched(cls) -> Rank:
        """That of this process under torchrun or ``accelerate launch``; the whole if it runs by itself."""
        return cls(int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1"))))


@dataclass(frozen=True)
class Request:
    """What a directory of shards holds.

    Args:
        n: samples, in 1…2³¹.
        shard_size: samples of a shard (of the last, what is left); a multiple of the recipe's batch.
        label: of all samples; ``"in turn"``, or None for a model without labels.
        recipe: how they are drawn. Its batch belongs to the request: samples are drawn in full batches that begin at
            multiples of it, so that not even rounding depends on n, on shards, on processes, or on where a run was
            killed.
        shape: of a sample.
        model: the SHA-256 of the model's files.
        version: of langevin.
        given: the SHA-256 of each condition but the label, by name; they are one for all samples.
    """

    n: int
    shard_size: int
    label: int | str | None
    recipe: Recipe
    shape: tuple[int, ...]
    model: str
    version: str = __version__
    given: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("n", self.n), ("shard_size", self.shard_size)):
            if type(value) is not int or not 1 <= value <= MOST:
                raise UserError(f"{name} must be an integer in 1…{MOST}, got {value!r}")
        batch = self.recipe.batch
        if self.shard_size % batch:
            fits = next(b for b in range(min(batch, self.shard_size), 0, -1) if self.shard_size % b == 0)
            raise UserError(
                f"shard-size must be a multiple of batch, got {self.shard_size} and {batch}: samples are drawn in full "
                f"batches; --batch {fits} will do"
            )

    @property
    def count(self) -> int:
        """How many shards."""
        return -(-self.n // self.shard_size)

    def size(self, shard: int) -> int:
        """Samples of a shard."""
        return min(self.shard_size, self.n - shard * self.shard_size)

    def to_dict(self) -> dict[str, Any]:
        """The request as plain JSON."""
        recipe = {**asdict(self.recipe), "options": dict(self.recipe.options)}
        own = {name: getattr(self, name) for name in ("n", "shard_size", "label", "model", "version")}
        own["given"] = dict(self.given)
        return {"langevin": FORMAT, "kind": "shards", **own, "shape": list(self.shape), "recipe": recipe}

    @cached_property
    def digest(self) -> str:
        """Its SHA-256, by which a shard knows whose it is."""
        return hashlib.sha256(files.as_json(self.to_dict())).hexdigest()

    @classmethod
    def of(cls, folder: Path) -> Request:
        """That of a directory, checked.

        Raises:
            UserError: if there is none, or it is not one.
        """
        file = folder / REQUEST
        if not file.is_file():
            raise UserError(f"{folder} holds no shards: {REQUEST} is missing")
        if file.stat().st_size > BYTES:
            raise UserError(f"{file} must be at most {BYTES} bytes, got {file.stat().st_size}")
        held = files.read_json(file)
        keys = {"langevin", "kind", "n", "shard_size", "label", "given", "recipe", "shape", "model", "version"}
        files.only(file, held, keys)
        if held.pop("langevin") != FORMAT or held.pop("kind") != "shards":
            raise UserError(f"{file}: not a request of shards that this version of langevin reads")
        recipe, shape, label = held.pop("recipe"), held.pop("shape"), held["label"]
        if not isinstance(recipe, dict) or not isinstance(recipe.get("options"), dict):
            raise UserError(f"{file}: recipe must be a JSON object with options")
        files.only(file, recipe, set(asdict(Recipe())))
        if type(recipe["batch"]) is not int or recipe["batch"] < 1:
            raise UserError(f"{file}: batch must be an integer of at least 1, got {recipe['batch']!r}")
        if not isinstance(shape, list) or not all(type(k) is int and 1 <= k <= MOST for k in shape):
            raise UserError(f"{file}: shape must be a list of positive integers, got {shape!r}")
        if not (label is None or label == "in turn" or type(label) is int):
            raise UserError(f"{file}: label must be an integer, 'in turn' or null, got {label!r}")
        if not isinstance(held["given"], dict) or not all(isinstance(v, str) for v in held["given"].values()):
            raise UserError(f"{file}: given must be text by name, got {held['given']!r}")
        if not isinstance(held["model"], str) or not isinstance(held["version"], str):
            raise UserError(f"{file}: model and version must be text")
        try:
            made = cls(**held, recipe=Recipe(**recipe), shape=tuple(shape))
            made.digest  # noqa: B018 (a number or a text that JSON has no word for)
            return made
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None

    def claim(self, folder: Path, rank: Rank | None = None) -> None:
        """See that a directory is for this request; a rank that writes says so in one that nobody has taken.

        Raises:
            UserError: if it holds other samples; it names what differs.
        """
        if not (folder / REQUEST).exists():
            if (folder / "samples.npz").exists():
                raise UserError(f"out must not hold other samples: {folder / 'samples.npz'} was drawn without shards")
            if rank is None:
                return
            files.replace(folder / REQUEST, files.as_json(self.to_dict()))
        theirs, ours = (_flat(json.loads(files.as_json(r.to_dict()))) for r in (Request.of(folder), self))
        other = [f"{k} is {theirs[k]!r} there and {ours[k]!r} here" for k in ours if theirs[k] != ours[k]]
        if other:
            raise UserError(f"{folder} holds shards of another request: {'; '.join(other)}")


def _flat(request: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in request.items() if k != "recipe"}, **request["recipe"]}


@dataclass(frozen=True)
class Shard:
    """One, read and checked.

    Args:
        x: float32 ``(size, *shape)``, int64 for tokens.
        label: int64 ``(size,)``, or None.
        record: how it was drawn, as plain JSON.
        sha256: of the file.
    """

    x: Tensor
    label: Tensor | None
    record: dict[str, Any]
    sha256: str


class Shards:
    """A directory of shards.

    Args:
        folder: as ``langevin sample --shard-size`` fills it.

    Raises:
        UserError: if it is none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.request = Request.of(self.folder)

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{shard:05d}.npz"

    def missing(self) -> list[int]:
        """Shards that have no file."""
        there = {entry.name for entry in os.scandir(self.folder)}
        return [k for k in range(self.request.count) if self.path(k).name not in there]

    def read(self, shard: int) -> Shard:
        """One of them.

        Raises:
            UserError: if it is missing, damaged, or of another request.
        """
        path = self.path(shard)
        size, request = self.request.size(shard), self.request
        most = size * (math.prod(request.shape) + 1) * 8 + BYTES
        try:
            if path.stat().st_size > most:
                raise UserError(f"{path} must be at most {most} bytes, got {path.stat().st_size}")
            held = arrays(path, ("x", "label", "about"), most)
            about = parse_json(held["about"].tobytes())
            x, label, record = held["x"], held.get("label"), about["record"]
            fits = x.shape == (size, *request.shape) and (label is None) == (request.label is None)
            whole = about["sha256"] == _digest(request, shard, x, label, record)
        except FileNotFoundError:
            raise UserError(f"{path} is missing{AGAIN}") from None
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, NotImplementedError) as error:
            raise UserError(f"{path} is damaged: {error}{AGAIN}") from None
        if not fits or not whole:
            raise UserError(f"{path} is damaged, or of another request{AGAIN}")
        labels = None if label is None else torch.from_numpy(label)
        return Shard(torch.from_numpy(x), labels, record, files.digest(files.read(path))["sha256"])

    def whole(self, shard: int) -> bool:
        """Whether a shard is there and what it says it is."""
        try:
            self.read(shard)
        except UserError:
            return False
        return True

    def write(self, shard: int, x: Tensor, label: Tensor | None, record: dict[str, Any], rank: Rank) -> None:
        """Write one, whole or not at all."""
        arrays = {"x": x.numpy()} if label is None else {"x": x.numpy(), "label": label.numpy()}
        about = {"sha256": _digest(self.request, shard, arrays["x"], arrays.get("label"), record), "record": record}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, about=np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8))  # type: ignore[arg-type]
        files.replace(self.path(shard), buffer.getvalue())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Samples and labels of all of them in turn, one shard held at a time."""
        for k in range(self.request.count):
            held = self.read(k)
            yield held.x, held.label

    def head(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The first samples."""
        parts = [self.read(k) for k in range(min(self.request.count, -(-count // self.request.shard_size)))]
        label = None if parts[0].label is None else torch.cat([p.label for p in parts if p.label is not None])[:count]
        return torch.cat([p.x for p in parts])[:count], label

    def record(self) -> dict[str, Any]:
        """How they were drawn, with the SHA-256 of each file; all of them are read and checked.

        Raises:
            UserError: for one that is missing or damaged.
        """
        records: list[dict[str, Any]] = []
        sha256, evaluations = {}, 0
        for k in range(self.request.count):
            held = self.read(k)
            sha256[self.path(k).name] = held.sha256
            record = dict(held.record)
            evaluations += record.pop("evaluations")  # of an adaptive sampler, a shard's own
            if record not in records:  # of another device or version
                records.append(record)
        return {
            **records[0],
            "evaluations": evaluations // self.request.count,
            "n": self.request.n,
            "label": self.request.label,
            "shard_size": self.request.shard_size,
            "model_sha256": self.request.model,
            "drawn_otherwise": records[1:],
            "shards": sha256,
        }


def _digest(request: Request, shard: int, x: Any, label: Any, record: Any) -> str:
    """The SHA-256 by which a shard knows itself."""
    found = hashlib.sha256(f"{request.digest} {shard} {json.dumps(record, sort_keys=True)}".encode())
    for array in (x, label):
        if array is not None:
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def fill(
    denoiser: NetworkDenoiser,
    request: Request,
    folder: Path,
    rank: Rank,
    progress: Callable[[int, int], None] | None = None,
    given: Mapping[str, Any] | None = None,
) -> int:
    """Draw a rank's shards, but for those that are there and whole.

    Args:
        denoiser: the model, as ``langevin.load`` gives it.
        request: what is asked for.
        folder: made if it does not exist.
        rank: whose shards.
        progress: called as ``progress(done, total)``, counting samples.
        given: conditions of all samples, by name.

    Returns:
        How many shards were drawn.

    Raises:
        UserError: for a request that cannot be met, a directory that holds others, or a rank that another process is
            at, with its number.
    """
    request.claim(folder)
    try:
        with files.lock(folder / f"{AT_WORK}{rank.index}-of-{rank.of}"):
            return _fill(denoiser, request, folder, rank, progress, given or {})
    finally:
        for left in folder.glob(f"{AT_WORK}*"):  # ours, and those of processes that were killed
            with contextlib.suppress(OSError, UserError):
                with files.lock(left):
                    pass
                left.rmdir()


def _fill(
    denoiser: NetworkDenoiser,
    request: Request,
    folder: Path,
    rank: Rank,
    progress: Callable[[int, int], None] | None,
    given: Mapping[str, Any],
) -> int:
    mine = range(rank.index, request.count, rank.of)
    total, drawn = sum(map(request.size, mine)), 0
    batch = request.recipe.batch
    for i, k in enumerate(mine):
        before = i * request.shard_size
        if (folder / REQUEST).exists() and (shards := Shards(folder)).path(k).exists() and shards.whole(k):
            continue
        size = request.size(k)
        full = -(-size // batch) * batch

        def told(done: int, of: int, size: int = size, before: int = before) -> None:
            if progress is not None:
                progress(before + done * size // of, total)

        told_of = {**given, "label": request.label if isinstance(request.label, int) else None}
        made = generate(denoiser, request.recipe, full, given=told_of, first=k * request.shard_size, progress=told)
        record = {key: value for key, value in made.record.items() if key not in ("n", "label", "seconds")}
        request.claim(folder, rank)
        Shards(folder).write(k, made.x[:size], None if made.label is None else made.label[:size], record, rank)
        drawn += 1
    return drawn


def model_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of the files of a model that samples depend on: all but its checkpoints and what was found of it."""
    folder = directory.find(os.fspath(path))
    names = [directory.CONFIG, directory.WEIGHTS, directory.MOMENTS, CALIBRATION, "solver-*.json"]
    names += [f"{head}/{name}" for head in VARIANCE_HEADS for name in (directory.CONFIG, directory.WEIGHTS)]
    found = hashlib.sha256()
    for file in sorted({f for name in names for f in folder.glob(name)}):
        with open(file, "rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(2**20):
                digest.update(block)
        found.update(f"{file.relative_to(folder).as_posix()} {digest.hexdigest()}\n".encode())
    return found.hexdigest()
