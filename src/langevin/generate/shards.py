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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from ..data._numpy import arrays
from ..denoisers import VARIANCE_HEADS, NetworkDenoiser
from ..models import location
from ..models.learned import PLACES
from ..models.variances import CALIBRATION
from ..storage import files
from ..storage.untrusted import parse_json
from .request import BYTES, REQUEST, Rank, Request
from .samples import generate

AGAIN = " (the same `langevin sample` draws again what is not whole)"

TRANSFORMERS = (
    *("preprocessor_config.json", "tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json"),
    *("added_tokens.json", "model-*.safetensors", "model.safetensors.index.json"),
)
"""What an encoder of transformers has in its directory beside its weights, where these are one file."""

AT_WORK = ".rank-"
"""How the directories begin whose locks keep two processes from one rank."""


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
    folder = location.find(os.fspath(path))
    learned = [CALIBRATION, "solver-*.json"]
    learned += [f"{head}/{name}" for head in VARIANCE_HEADS for name in (location.CONFIG, location.WEIGHTS)]
    names = [location.CONFIG, location.WEIGHTS, location.MOMENTS]
    names += [where + name for where in PLACES for name in learned]
    names += TRANSFORMERS
    if (folder / "model_index.json").is_file():  # a pipeline of diffusers: a directory a component
        names += ["*.json", "*/*.json", "*.safetensors", "*/*.safetensors", "*/*.txt", "*/*.model"]
    found = hashlib.sha256()
    for file in sorted({f for name in names for f in folder.glob(name) if f.is_file()}):
        with open(file, "rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(2**20):
                digest.update(block)
        found.update(f"{file.relative_to(folder).as_posix()} {digest.hexdigest()}\n".encode())
    return found.hexdigest()
