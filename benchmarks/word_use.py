"""Does a model read the letter that a caption asks for? Errors of x̂_0 with the right letter, and with another.

    python benchmarks/word_use.py runs/one runs/another

Mean square error on held-out pictures of ``glyphs``, by noise level σ/α; the other caption differs in one character,
which is drawn at random. A model that does not read the letter has the same error with both; the last column says by
how many per cent it grows.
"""

from __future__ import annotations

import argparse
import random
import re

import torch
from rich.table import Table

import langevin
from caption_use import errors, heading
from langevin.data.faces import CHARACTERS
from langevin.nn.text import decode_text, encode_text
from record import show

LEVELS = (1.0, 2.0, 4.0, 8.0)


def another(caption: str, draw: random.Random) -> str:
    """The same sentence with another letter, or another digit, in its place."""
    found = re.search(r"(letter|digit) (\w)", caption)
    assert found is not None
    pool = [c for c in CHARACTERS if c.isdigit() == (found[1] == "digit") and c != found[2]]
    return caption[: found.start(2)] + draw.choice(pool) + caption[found.end(2) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="models that are told captions of glyphs")
    parser.add_argument("-n", type=int, default=256, help="held-out pictures")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    table = Table("model", "steps", "σ/α", "right letter", "another", "more", title="mean square error of x̂_0")
    for name in options.models:
        model = langevin.load(name)
        held = langevin.data.load("glyphs", size=model.shape[-1], limit=options.n).test
        batch = held.plain(torch.arange(min(options.n, len(held))))
        x, right, draw = batch["x"], batch["caption"], random.Random(0)
        other = torch.stack([encode_text(another(decode_text(row), draw), right.shape[1]) for row in right])
        told = [model.given(caption=right), model.given(caption=other)]
        for i, level in enumerate(LEVELS):
            with_right, with_other = errors(told, x, level)
            first = ("", "") if i else heading(name, model)
            more = f"{100 * (with_other / with_right - 1):.1f} %"
            table.add_row(*first, f"{level:g}", f"{with_right:.4f}", f"{with_other:.4f}", more)
    show("word-use", table)


if __name__ == "__main__":
    main()
