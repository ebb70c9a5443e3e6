"""What a directory of shards is to hold, and who draws which of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .._errors import UserError
from .._version import __version__
from ..storage import files
from .samples import Recipe

FORMAT = 1
"""Version of the format; a reader refuses what it does not know."""

REQUEST = "shards.json"
"""What was asked for, beside the shards."""

BYTES = 2**20
"""Size beyond which ``shards.json``, or what a shard says of itself, is refused."""

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
        label: of all samples; ``"in turn"``, or None where none is told.
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
