"""Parquet files of pictures that say their number, for the tests of streamed data."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from langevin import data
from langevin.data.streaming import Streamed


def picture(number: int, side: int = 4) -> dict[str, Any]:
    """A picture that says its number in its first pixel."""
    pixels = np.full((side, side, 3), 128, np.uint8)
    pixels[0, 0] = number >> 16, number >> 8 & 255, number & 255
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "png")
    return {"bytes": held.getvalue(), "path": None}


def numbers(x: torch.Tensor) -> torch.Tensor:
    high, middle, low = ((x[:, :, 0, 0] + 1) * 127.5).round().long().unbind(1)
    return high << 16 | middle << 8 | low


def write(folder: Path, split: str, shards: tuple[int, ...], first: int = 0, broken: tuple[int, ...] = ()) -> None:
    """Parquet files as those of the Hub are."""
    import datasets

    kinds = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["even", "odd"]),
        "text": datasets.Value("string"),
    }
    for k, count in enumerate(shards):
        rows = range(first, first + count)
        columns = {
            "image": [{"bytes": b"none", "path": None} if i in broken else picture(i) for i in rows],
            "label": [i % 2 for i in rows],
            "text": [None if i % 5 == 0 else f"number {i % 7}" for i in rows],
        }
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        folder.mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / f"{split}-{k:05d}-of-{len(shards):05d}.parquet")
        first += count


def anew(dataset: data.Dataset) -> data.Dataset:
    """The data as another process has them: nothing is known of what was read before."""
    was = dataset.stream
    stream = Streamed(was.shards, was.example, was.like, apart=was.apart, count=was.count, title=was.title)
    return replace(dataset, stream=stream)
