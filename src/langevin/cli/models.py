"""``langevin models``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from .._errors import UserError, unknown
from .options import Name, Sampling, console, device_named

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ..models.shipped import Shipped


ACTIONS = ("list", "show", "path", "add")


@dataclass(frozen=True)
class Options:
    """Models by name: list what comes with the repository, show a card, say where one lies, add one.

    List names every model with what it does, its size, how long it was trained and the headline figure of its card;
    show NAME (as `langevin models show NAME`) prints the card and checks the files; path NAME prints its directory.
    NAME is taken wherever a model directory is; a directory of that name in the working folder comes first. For those
    who maintain the repository, `langevin models add RUN NEW-NAME --title TEXT` writes the directory of a shipped model
    from a finished run, with weights in half precision, card, recipe, log, a sheet of samples and an index of
    checksums. All options but --json are for add, those of sampling for its samples.
    """

    action: Annotated[Positional[str], arg(metavar="[ACTION]", help_behavior_hint="")] = "list"
    """list, show, path or add; list if not given."""
    name: Annotated[Positional[str], arg(metavar="[NAME]", help_behavior_hint="")] = ""
    """Of a model; for add, the directory of a run or a model."""
    to: Annotated[Positional[str], arg(metavar="[NEW-NAME]", help_behavior_hint="")] = ""
    """For add: the name of the new model."""
    title: Annotated[str, arg(metavar="TEXT", help_behavior_hint="")] = ""
    """For add: what the model does, in a line."""
    figure: Annotated[str, arg(metavar="TEXT", help_behavior_hint="")] = ""
    """For add: the headline figure of its card."""
    notes: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """For add: Markdown that the card has under its figures."""
    licence: Name = None
    """For add: of the model, as the Hub spells it: apache-2.0, mit, cc-by-4.0, ..."""
    weights: Annotated[Literal["float32", "float16", "bfloat16"] | None, arg(help_behavior_hint="")] = None
    """For add: what the weights are stored in; the half precision that moves the samples less, if not given."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 16
    """For add: samples of its picture, by which the rounding of the weights is judged too."""
    label: Name = None
    """For add: class of these samples."""
    given: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """For add: another condition of these samples, as NAME=VALUE; held-out examples' of the model's own data, if not
    given."""
    text_encoder: Name = None
    """For add: where the text encoder is that the model's data name."""
    sampling: Annotated[Sampling, arg(name="")] = field(default_factory=Sampling)
    device: Name = None
    """For add: cpu or cuda; cuda if there is one, if not given."""
    json: bool = False
    """For list: as JSON, for machines."""


def run(options: Options) -> None:
    """List, show, say where, or add."""
    from ..models import shipped

    if options.action not in ACTIONS:
        model = options.action in shipped.names()
        more = f" `langevin models show {options.action}` prints the card of the model." if model else ""
        raise unknown("action", options.action, ACTIONS, more)
    if options.action == "list":
        if options.name:
            raise UserError(f"list takes no NAME, got {options.name!r}; `langevin models show {options.name}`")
        return _list(options.json)
    if not options.name:
        raise UserError(f"NAME must be given to `langevin models {options.action}`; `langevin models` names them")
    if options.action == "add":
        return _add(options)
    if options.to:
        raise UserError(f"{options.action} takes one NAME, got {options.to!r} too")
    found = shipped.described(options.name)
    if options.action == "path":
        print(found.folder)
        return
    found.check()
    card = found.folder / shipped.CARD
    print(card.read_text(encoding="utf-8") if card.is_file() else f"{found.name} has no card {card}.")
    print(f"{found.folder}: {_size(found.size)}, {len(found.held)} files as they were written.")


def _list(as_json: bool) -> None:
    from ..models import shipped

    folder, known = shipped.root(), [shipped.described(name) for name in shipped.names()]
    if as_json:
        import json

        keys = ("name", "title", "figure", "parameters", "trained", "stored")
        rows = [{**{key: getattr(one, key) for key in keys}, "bytes": one.size} for one in known]
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    if folder is None:
        print(shipped.where().strip())
        return
    if not known:
        print(f"{folder} holds no model.")
        return
    from rich.table import Table

    table = Table("name", "what it does", "parameters", "size", "trained", box=None, pad_edge=False)
    for one in known:
        many = "" if one.parameters is None else f"{one.parameters / 1e6:.2f} M"
        what = "\n".join(part for part in (one.title, one.figure) if part)
        table.add_row(one.name, what, many, _size(one.size), _trained(one))
    console().print(table, highlight=False, markup=False)
    print(f"{folder}: {_size(sum(one.size for one in known))} together. `langevin models show NAME` prints a card.")


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _trained(one: Shipped) -> str:
    from .._duration import duration

    steps = f"{one.trained['steps']:,.0f} steps" if "steps" in one.trained else ""
    time = duration(one.trained["seconds"]) if "seconds" in one.trained else ""
    return ", ".join(part for part in (steps, time) if part)


def _add(options: Options) -> None:
    """Write the directory of a shipped model."""
    from ..models import location, shipped

    if not options.to:
        raise UserError("add takes the directory of a run and a NAME: langevin models add runs/digits digits-8")
    folder = shipped.root()
    if folder is None:
        raise UserError(f"there is no folder of models to add to.{shipped.where()}")
    run, out = location.here(options.name), folder / options.to
    if run is None:
        raise UserError(f"add takes the directory of a finished run or a model, got {options.name!r}")
    if out.exists() and not (out / shipped.INDEX).is_file():
        raise UserError(f"{out} is there and was not written by `langevin models add`: remove it, or take another name")
    if options.n < 1:
        raise UserError(f"n must be an integer of at least 1, got {options.n}")
    recipe = options.sampling.recipe()
    from ..adapters import loading
    from ..denoisers import Denoiser
    from ..models.timing import CLOCK, SECONDS
    from ..storage import files
    from ..tasks import ship

    model = loading.load(run, device=device_named(options.device))
    evaluation = run / "evaluation.json"
    logs = {part: run / part / "metrics.csv" for part in ("", *ship.parts_of(model))}
    clock = run / CLOCK  # of parts, the run's own
    sampled = isinstance(model, Denoiser)
    given, texts = _given(options, model) if sampled else ({}, [])
    story = ship.Story(
        options.title,
        options.figure,
        "" if options.notes is None else files.read(options.notes).decode(),
        options.licence,
        files.read_json(evaluation) if evaluation.is_file() else None,
        commands(model, options.to),
        {part: files.read(log).decode() for part, log in logs.items() if log.is_file()},
        float(files.read_json(clock).get(SECONDS, 0)) if clock.is_file() else None,
        next(iter(texts), ""),
    )
    held = ship.ship(
        model,
        options.to,
        story,
        recipe=recipe,
        n=options.n,
        given=given,
        weights=options.weights,
        picture=_picture(model, given, texts) if sampled and model.output.is_image else None,
        learned=ship.learned_files(run),
    )
    others = sum(shipped.described(name).size for name in shipped.names() if name != options.to)
    size = sum(map(len, held.values()))
    if others + size > shipped.MOST:
        raise UserError(
            f"{options.to} takes {_size(size)}; with the {_size(others)} of the others that is more than the "
            f"{_size(shipped.MOST)} that models of the repository may have together"
        )
    before = shipped.described(options.to).held if (out / shipped.INDEX).is_file() else {}
    files.publish(out, held)
    for name in before.keys() - held.keys():
        (out / name).unlink(missing_ok=True)
    found = shipped.described(options.to)
    found.check()
    far = found.stored.get("moved")
    moved = "" if far is None else f"; that moves the samples by {far:.1e} of their range"
    print(f"{out}: {_size(found.size)} of {_size(shipped.MOST)}, weights in {found.stored['weights']}{moved}.")


def _told(model: Any) -> bool:
    """Whether a model says what it was trained on and how, and was trained from nothing."""
    config = model.config.get("config")
    known = model.data is not None and "source" in model.data.source
    return known and isinstance(config, Mapping) and not (config.get("start") or {}).get("model")


def commands(model: Any, name: str) -> dict[str, str]:
    """The command lines that train a model again, by part; of a cascade also the one that puts it together."""
    from ..models import Cascade
    from ..tasks import ship

    parts = ship.parts_of(model)
    made = {part: command(part, one, name) for part, one in parts.items() if _told(one)}
    if made and isinstance(model, Cascade):
        words = [*(f"runs/{name}/{part}" for part in parts), "--out", f"runs/{name}/cascade"]
        made["cascade"] = shlex.join(["langevin", "cascade", *words])
    return made


def command(part: str, model: Any, name: str) -> str:
    """The command line that trains a model again: everything that was chosen for it is said in words.

    Args:
        part: of a model of parts, its name; else empty.
        model: of a run.
        name: of the directory that the command writes, under ``runs/``.
    """
    from ..training import Config
    from .train import DataOptions, Options, StartOptions
    from .words import words_of

    read = dict(model.data.source)
    source, codec = str(read.pop("source")), "codec" in read
    known = {f.name for f in fields(DataOptions)}
    config = Config.from_dict(model.config["config"])
    asked = {f.name: getattr(config, f.name) for f in fields(Config) if f.name != "start"}
    options = Options(
        source=source,
        out=Path("runs", name, part),
        data=DataOptions(**{key: value for key, value in read.items() if key in known}),
        start=StartOptions(),
        codec=f"runs/{name}/codec" if codec else None,
        **asked,
    )
    return shlex.join(["langevin", "train", *words_of(options)])


def _given(options: Options, model: Any) -> tuple[dict[str, Any], list[str]]:
    """The conditions of the samples, and what is written under each picture."""
    import torch

    from ..denoisers.conditions import asked_conditions
    from .data import _texts
    from .evaluate import dataset_of
    from .given import conditions

    given = conditions(options.given, options.label, model, options.text_encoder)
    if given or not set(model.condition_sizes) - {"label"}:
        label = asked_conditions(model.condition_sizes, options.n, given).get("label")
        classes = model.class_names
        each = [] if label is None else torch.as_tensor(label).expand(options.n).tolist()
        caption = next((text.partition("=")[2] for text in options.given if text.startswith("caption=")), "")
        return given, [classes[k] if k >= 0 else "" for k in each] if each else [caption] * options.n * bool(caption)
    held = dataset_of(model, None, option="given", text_encoder=options.text_encoder).test
    batch = held.batch(torch.linspace(0, len(held) - 1, options.n).long())
    return {name: batch[name] for name in model.condition_sizes if name in batch}, _texts(batch, model.output)


def _picture(model: Any, given: Mapping[str, Any], texts: list[str]) -> Callable[[Tensor], bytes]:
    """What makes a sheet of samples, each beside the picture that it was made of, if there is one."""

    def draw(x: Tensor) -> bytes:
        import torch
        from torch.nn import functional

        from ..report.sheet import sheet
        from ..training import image_grid, png

        low, high = (-1.0, 1.0) if model.output.low is None else (model.output.low, model.output.high)
        told = given.get("image")
        if told is not None and told.ndim == x.ndim and told.shape[1] in (1, x.shape[1]):
            scaled = low + (told.float().cpu() + 1) / 2 * (high - low)
            beside = functional.interpolate(scaled, size=x.shape[2:]).expand_as(x)
            x = torch.cat([beside, x], dim=3)
        return png(sheet(x, texts, low=low, high=high) if texts else image_grid(x, low=low, high=high))

    return draw
