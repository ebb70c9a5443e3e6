"""From a configuration to an objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .._errors import unknown
from .denoising import Denoising, Objective
from .matching import MATCHING
from .times import LikelihoodImportance, LogNormal, Stratified, TimeLaw, Uniform
from .times import create as create_times
from .weights import WEIGHTS

DEFAULT_TIMES: dict[str, TimeLaw] = {"edm": LogNormal(), "likelihood": Stratified(LikelihoodImportance())}
"""The law of t of an objective that names none, where it is not uniform: the paper's own."""


def create(config: str | Mapping[str, Any] | Objective) -> Objective:
    """An objective by name, or by ``{"name": …, "times": …, settings}`` as ``Objective.to_dict`` writes it.

    ``times`` is a name or a mapping of its own, e.g. ``{"name": "stratified", "of": "log-normal"}``; if it is not
    given, the law of the objective's paper is taken.
    """
    if isinstance(config, Objective):
        return config
    settings: dict[str, Any] = {"name": config} if isinstance(config, str) else dict(config)
    name, times = str(settings.pop("name", None)), settings.pop("times", None)
    if name not in WEIGHTS and name not in MATCHING:
        raise unknown("objective", name, {**WEIGHTS, **MATCHING}, " `langevin methods --room objectives` lists them.")
    law = DEFAULT_TIMES.get(name, Uniform()) if times is None else create_times(times)
    if name in WEIGHTS:
        return Denoising(name, law, settings)
    kind = MATCHING[name]
    known = {f.name for f in fields(kind)} - {"times", "settings"}  # what remains is the weight's
    own = {key: settings.pop(key) for key in known & set(settings)}
    return kind(times=law, settings=settings, **own)
