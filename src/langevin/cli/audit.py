"""``langevin audit``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import Name, console, json_value, writable

if TYPE_CHECKING:
    from ..tasks.audit import Report, State

PROVEN_WRONG = 1
"""Exit code where a row is WRONG."""

ALL = "diffusers"
"""The thing that stands for every scheduler of the installed diffusers."""

NO_SCRIPTS = "No script was written: they are for schedulers of diffusers (diffusers:CLASS)."
"""What is said of reports that were asked for of anything else."""


@dataclass(frozen=True)
class Options:
    """Put anyone's scheduler, sampler, guider or denoiser on exact worlds: a table, a verdict a row.

    Exits with 0 if nothing is proven wrong, with 1 if something is. `langevin audit diffusers --out DIR` audits every
    scheduler of the installed release and writes DIR/state-of-the-samplers.md, .html and .json. A file or a module
    that is named is run.
    """

    thing: Annotated[Positional[str], arg(metavar="THING")]
    """diffusers:CLASS, langevin:NAME, MODULE:NAME or FILE.py:NAME, options in brackets:
    'diffusers:DPMSolverMultistepScheduler(use_karras_sigmas=True)'; or diffusers, for all of its schedulers."""
    options: Annotated[str | None, arg(metavar="JSON", help_behavior_hint="")] = None
    """Options as a JSON object: '{"solver_order": 3}'."""
    kind: Annotated[Literal["scheduler", "sampler", "guider", "denoiser"] | None, arg(help_behavior_hint="")] = None
    """What it is, where that cannot be seen: a function of three arguments is a sampler `f(denoiser, x, grid)`, of two
    a denoiser `f(x, time)`."""
    checks: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Some checks of schedulers and samplers by their names, as 'order' or 'left over'; all if not given."""
    process: Annotated[str, arg(metavar="NAME")] = "vp"
    """For samplers and denoisers: the noise process (`langevin methods --category processes`)."""
    prediction: Annotated[str, arg(metavar="NAME")] = "x0"
    """For a denoiser: what it returns: eps, x0, v, flow, score or edm."""
    time: Name = None
    """For a denoiser: what it is told of the time: index, t, sigma, ..."""
    world: Annotated[str, arg(metavar="NAME")] = "audit"
    """For a denoiser: the world whose belief is the truth: audit, ring, random-2 or random-16."""
    json: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write the rows as JSON."""
    reports: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """For schedulers of diffusers alone: write a short script for each row that is WRONG, which shows the figure with
    diffusers, torch and numpy."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("audit")
    """Where the page of `langevin audit diffusers` goes."""
    defaults: bool = False
    """For all schedulers: their default settings alone."""


def run(options: Options) -> int:
    """Audit, print, write; 1 where something is proven wrong."""
    begun = time.monotonic()
    given = given_options(options.options)
    json_file = None if options.json is None else writable(options.json, "json", file=True)
    reports = None if options.reports is None else writable(options.reports, "reports")
    if options.thing == ALL:
        return everything(options, json_file, reports)
    from ..tasks.audit import audit, counted

    report = audit(
        options.thing,
        checks=options.checks or None,
        options=given,
        kind=options.kind,
        process=options.process,
        prediction=options.prediction,
        time=options.time,
        world=options.world,
    )
    show(report)
    tally = ", ".join(f"{n} {verdict}" for verdict, n in counted(report.rows).items() if n)
    print(f"{report.thing}: {tally}. {time.monotonic() - begun:.0f} s.")
    write_json(json_file, report.to_dict())
    if reports is not None:
        from ..tasks.audit.load import parts

        where, name, settings = parts(report.thing)
        theirs = where == ALL and report.kind == "scheduler"
        written = write_reports(reports, [(name, settings, report)]) if theirs else 0
        print(scripts(reports, written) if theirs else NO_SCRIPTS)
    return PROVEN_WRONG if report.wrong else 0


def given_options(text: str | None) -> dict[str, Any]:
    """The object of ``--options``."""
    found = {} if text is None else json_value(text)
    if not isinstance(found, dict):
        raise UserError(f"options must be a JSON object such as '{{\"solver_order\": 3}}', got {text!r}")
    return found


def show(report: Report) -> None:
    """The table of a report."""
    from rich.table import Table

    about = ", ".join(f"{key} {value}" for key, value in report.about.items() if value is not None)
    print(f"{report.thing} ({report.kind}{': ' if about else ''}{about})")
    table = Table("check", "verdict", "figure", "expected", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.overflow = "fold"
    for row in report.rows:
        table.add_row(row.check, row.verdict, row.figure, row.expected)
    console(160).print(table, highlight=False, markup=False)


def write_json(path: Path | None, record: dict[str, Any]) -> None:
    """The record, with the versions of what was measured."""
    if path is None:
        return
    from ..generate import versions
    from ..storage import files

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(files.as_json({**record, "versions": versions()}))


def scripts(folder: Path, written: int) -> str:
    """A line about the scripts of a folder, which is made with the first of them."""
    if not written:
        return "No script was written: no row is WRONG that one can show."
    return f"{folder} holds {written} script{'s' * (written != 1)}."


def write_reports(folder: Path, found: Sequence[tuple[str, dict[str, Any], Report]]) -> int:
    """A script for each row that is WRONG and can be shown by one; how many."""
    from ..tasks.audit.scripts import script

    written = 0
    for name, options, report in found:
        for row in report.wrong:
            if (text := script(name, options, report, row)) is None:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            own = "".join(f"-{v}" for v in options.values() if isinstance(v, (str, int, bool)))
            own = "".join(c if c.isalnum() or c in "-_" else "" for c in own)
            (folder / f"{name}{own}-{row.check.replace(' ', '-')}.py").write_text(text, encoding="utf-8")
            written += 1
    return written


def everything(options: Options, json_file: Path | None, reports: Path | None) -> int:
    """The state of the samplers."""
    out = writable(options.out)
    from ..report import Bar
    from ..report.audit import as_html
    from ..storage import files
    from ..tasks.audit import state_of_diffusers
    from ..tasks.audit.page import as_markdown

    with Bar("audit") as bar:
        state = state_of_diffusers(variants=not options.defaults, progress=bar)
    record = state.to_dict()
    out.mkdir(parents=True, exist_ok=True)
    pages = {
        "state-of-the-samplers.md": as_markdown(state).encode(),
        "state-of-the-samplers.html": as_html(state).encode(),
        "state-of-the-samplers.json": files.as_json(record),
    }
    for name, content in pages.items():
        (out / name).write_bytes(content)
    write_json(json_file, record)
    overview(state)
    if reports is not None:
        found = [(e.name, e.options, e.report) for e in state.audited if e.report is not None]
        print(scripts(reports, write_reports(reports, found)))
    print(f"{out} holds state-of-the-samplers.md, .html and .json. {state.seconds:.0f} s.")
    return PROVEN_WRONG if any(e.report and e.report.wrong for e in state.entries) else 0


def overview(state: State) -> None:
    """A line a scheduler."""
    from rich.table import Table

    table = Table("scheduler", "wrong", "seconds", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for entry in state.entries:
        report = entry.report
        wrong = ", ".join(row.check for row in report.wrong) or "-" if report else f"not audited: {entry.why_not}"
        table.add_row(entry.title, wrong, f"{report.seconds:.0f}" if report else "")
    console(160).print(table, highlight=False, markup=False)
