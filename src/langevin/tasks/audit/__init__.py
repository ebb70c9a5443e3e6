"""Whether anyone's scheduler, sampler, guider or denoiser is right: put on exact worlds, a verdict a row."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from types import NoneType
from typing import Any

from ..._errors import UserError, nearest, shown, unknown
from .belief import Believer, audit_belief
from .checks import CHECKS, audit_subject
from .guider import Guidance, audit_guidance
from .load import KINDS, load
from .report import CheckResult, Report, Verdict, counted
from .state import Entry, State, state_of_diffusers

__all__ = [
    "CHECKS",
    "KINDS",
    "CheckResult",
    "Entry",
    "Report",
    "State",
    "Verdict",
    "audit",
    "counted",
    "load",
    "state_of_diffusers",
]


def audit(thing: object, *, checks: Iterable[str] | None = None, **how: Any) -> Report:
    """What is found about a scheduler, sampler, guider or denoiser on exact worlds.

    ::

        report = langevin.tasks.audit.audit("diffusers:DEISMultistepScheduler(solver_order=3)")
        print(report.wrong)

    Args:
        thing: a name or the thing itself, as :func:`langevin.tasks.audit.load` takes it.
        checks: of schedulers and samplers: some of ``CHECKS``; all if not given.
        how: the other arguments of ``load``: options, kind, process, prediction, time, world.

    Raises:
        UserError: for what cannot be found, made, or audited, with the reason.
    """
    takes = [name for name in inspect.signature(load).parameters if name != "thing"]
    for name in how:
        if name not in takes:
            raise UserError(
                f"audit has no argument {name!r}.{nearest(name, takes)} It takes checks, {', '.join(takes)}."
            )
    if isinstance(checks, str) or not isinstance(checks, (Iterable, NoneType)):
        raise UserError(f"checks must be a list of names such as ['order', 'law'], got {shown(checks)}")
    chosen = None if checks is None else list(checks)
    for name in chosen or ():
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    found = load(thing, **how)
    if isinstance(found, Guidance):
        return audit_guidance(found)
    if isinstance(found, Believer):
        return audit_belief(found)
    return audit_subject(found, chosen)
