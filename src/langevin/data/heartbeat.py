"""The heartbeat of the first diffusion paper: binary sequences with a beat."""

from __future__ import annotations

import torch

from .._errors import UserError
from .._registry import register
from .dataset import Dataset, Examples, Options, assemble, subset
from .entry import Entry

LENGTH, PERIOD = 20, 5
COUNT = 10_000
"""Training sequences: 2,000 of each phase; a tenth as many are held out."""


@register(
    "data",
    "heartbeat",
    title="Heartbeat: binary sequences of length 20 with a 1 in every fifth place",
    arxiv="1503.03585",
    proof="exact: tests/data/test_token_sets.py",
    about=Entry(10_000, 1_000, (20,)),
)
def heartbeat(options: Options | None = None) -> Dataset:
    """Binary sequences of length 20 with a 1 in every fifth place, all five phases equally (arXiv:1503.03585 §3.1.2).

    The law has log₂ 5 = 2.322 bits a sequence. Both splits hold the same five sequences: there are no others.
    """
    options = options or Options()
    fixed("heartbeat", options)
    phase = torch.arange(COUNT) % PERIOD
    x = ((torch.arange(LENGTH)[None] - phase[:, None]) % PERIOD == 0).long()
    parts = [subset(Examples(part), options.limit) for part in (x, x[: COUNT // 10])]
    return assemble("heartbeat", parts, options, tokens=("0", "1"))


def fixed(name: str, options: Options) -> None:
    """Refuse what is for images."""
    if options.size is not None or options.channels is not None or options.crop != "center":
        raise UserError(f"{name}: these are sequences of tokens; size, channels and crop are for images.")
