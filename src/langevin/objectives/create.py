"""From a name to an objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from .._errors import UserError, unknown
from .._registry import Method, Table, classes
from .denoising import DenoisingLoss, Objective, Timed
from .times import LikelihoodImportance, LogNormal, Stratified, TimestepDistribution, Uniform, create_times
from .weights import WEIGHTS


def _weighted(kind: type[DenoisingLoss]) -> Callable[..., Objective]:
    """The kind, called with its own settings and those of its weight side by side."""
    own = {f.name for f in fields(kind)} - {"settings"}

    def make(**given: Any) -> Objective:
        weight = {key: given.pop(key) for key in set(given) - own}
        return kind(settings=weight, **given)

    return make


def _timed(row: Method) -> Callable[..., Objective] | None:
    made: Any = row.make
    if not isinstance(made, type) or not issubclass(made, Timed):
        return None
    return _weighted(made) if issubclass(made, DenoisingLoss) else made


OBJECTIVES: Table[Callable[..., Objective]] = Table("objectives", _timed)
"""Objectives that are more than a weight, by name: called with ``times`` and their settings."""

TIMELESS = classes("objectives", Objective, but=(Timed,))
"""Objectives without times, by name: called with their settings alone."""

DEFAULT_TIMES: dict[str, TimestepDistribution] = {
    "edm": LogNormal(),
    "likelihood": Stratified(LikelihoodImportance()),
    "vdm": Stratified(),
    "d3pm": Stratified(Uniform(low=1e-9)),
}
"""The law of t of an objective that names none, where it is not uniform: the paper's own."""


def create_objective(config: str | Mapping[str, Any] | Objective) -> Objective:
    """An objective by name, or by ``{"name": …, "times": …, settings}`` as ``Objective.to_dict`` writes it.

    ``times`` is a name or a mapping of its own, e.g. ``{"name": "stratified", "of": "log-normal"}``; if it is not
    given, the law of the objective's paper is taken.
    """
    if isinstance(config, Objective):
        return config
    settings: dict[str, Any] = {"name": config} if isinstance(config, str) else dict(config)
    name, times = str(settings.pop("name", None)), settings.pop("times", None)
    if name not in (known := {**WEIGHTS, **OBJECTIVES, **TIMELESS}):
        raise unknown("objective", name, known, " `langevin methods --category objectives` lists them.")
    if name in TIMELESS:
        if times is not None:
            raise UserError(f"objective {name!r} has no times, got {times!r}")
        return _made(name, TIMELESS[name], settings)
    law = DEFAULT_TIMES.get(name, Uniform()) if times is None else create_times(times)
    if name in WEIGHTS:
        return DenoisingLoss(name, law, settings)
    return _made(name, OBJECTIVES[name], {"times": law, **settings})


def _made(name: str, make: Callable[..., Objective], settings: Mapping[str, Any]) -> Objective:
    if isinstance(make, type):
        known = [name for name in inspect.signature(make).parameters if name != "times"]
        for key in settings:
            if key not in known and key != "times":
                raise unknown(f"option of objective {name}", key, known)
    try:
        return make(**settings)
    except TypeError as error:
        raise UserError(f"objective {name!r}: {error}") from None
