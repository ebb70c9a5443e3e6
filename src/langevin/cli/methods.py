"""``langevin methods``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from .options import Name, console

HEADS = {"id": "id", "name": "name", "arxiv": "arXiv", "where": "where", "proof": "proof"}
"""Columns of the table, by the key of a row."""

WIDE = 200
"""Columns of text where there is no terminal to fit."""


@dataclass(frozen=True)
class Options:
    """List every method: its id, name, paper, place in the code and proof."""

    category: Name = None
    """Of one category alone: processes, samplers, grids, metrics, ..."""
    json: bool = False
    """As JSON, for machines."""


def run(options: Options) -> None:
    """Print the registry."""
    from .._registry import methods

    rows = [(method.category, method.row()) for method in methods(options.category)]
    if options.json:
        print(json.dumps([row for _, row in rows], indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table(*HEADS.values(), box=None, pad_edge=False)
    for key, column in zip(HEADS, table.columns):
        column.no_wrap, column.overflow = key in ("id", "arxiv"), "fold"
    before = None
    for category, row in rows:
        if before not in (None, category):
            table.add_row()
        before = category
        table.add_row(*(row[key] for key in HEADS))
    console(None if sys.stdout.isatty() else WIDE).print(table, highlight=False, markup=False)
