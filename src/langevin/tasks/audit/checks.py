"""The table of checks, and what runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..._errors import UserError
from . import accuracy, behaviour, interface
from .behaviour import line
from .report import CheckResult, Report, Said, none, said
from .subject import Subject

CHECKS: dict[str, Callable[[Subject], Said]] = {
    "order": accuracy.order,
    "path": accuracy.path,
    "levels": accuracy.levels,
    "law": accuracy.law,
    "moments": accuracy.moments,
    "times": behaviour.times,
    "wasted": behaviour.wasted,
    "one step": behaviour.one_step,
    "finite": behaviour.finite,
    "dtype": behaviour.dtype,
    "float32": behaviour.float32,
    "batch": behaviour.batch,
    "seeds": behaviour.seeds,
    "left over": behaviour.left_over,
    "config": interface.config,
    "add noise": interface.add_noise,
    "training noise": interface.training_noise,
    "entry": interface.entry,
    "beginning": interface.beginning,
    "ending": interface.ending,
}
"""A function a row: a new check is one more line."""

ALONE = ("order", "times", "one step", "finite", "config", "add noise", "training noise", "beginning", "ending")
"""The checks that mean something where samples are no numbers."""


def audit_subject(subject: Subject, checks: Iterable[str] | None = None) -> Report:
    """All checks of a scheduler or a sampler, or some of them."""
    begun, said_of_itself = time.monotonic(), about(subject)
    rows = tuple(row(subject, name) for name in (CHECKS if checks is None else checks))
    return Report(subject.name, subject.kind, rows, said_of_itself, round(time.monotonic() - begun, 2))


def about(subject: Subject) -> dict[str, object]:
    """What a thing says of itself, as far as it runs; what it refuses altogether is refused here."""
    try:
        return dict(subject.about())
    except UserError:
        raise
    except Exception:  # it does not run: the rows say so
        return {}


def row(subject: Subject, name: str) -> CheckResult:
    """One check; what cannot be measured is noted, and what no run of ten steps can tell is left to ``finite``."""
    try:
        if name not in ALONE and not subject.sound:
            return none("samples of ten steps are no numbers: see finite")(name)
        made = CHECKS[name](subject)
    except UserError as error:
        made = said("note", f"refused: {line(error)}")
    except Exception as error:  # of foreign code: rows on steps and dtypes judge it, here it only stands in the way
        made = said("note", f"could not be measured: {type(error).__name__}: {line(error)}")
    return made(name)
