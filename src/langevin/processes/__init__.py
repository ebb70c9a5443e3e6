"""The forward process q: how data become noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import UserError, shown
from .._registry import lookup
from ..storage.untrusted import settings as checked
from . import grids
from .base import (
    Observable,
    Observation,
    ProbabilityFlow,
    Process,
    Score,
    SignalToNoise,
    as_time,
    check_process,
    expand,
    require,
)
from .ddpm import DDPM, cosine_betas, linear_betas, scaled_linear_betas, zero_terminal_snr
from .discrete import Chain
from .gamma import GammaNoise
from .gaussian import ScalarGaussian, VariancePreserving
from .learned import Learned, Learning, MonotoneNetwork
from .levy import LevyNoise
from .mixture import MixtureNoise
from .neighbours import Neighbours
from .noise_levels import NoiseLevels, largest_distance, level_ratio
from .phase import PhaseSpace, SufficientStatistic
from .replacement import SCHEDULES, Absorbing, Replacement, Uniform
from .schedules import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from .tables import DiscretisedGaussian, FiniteChain, MatrixChain, TableChain


def create_process(config: str | Mapping[str, Any]) -> Process:
    """A process by its registered name, or by ``{"name": …, settings}`` as ``Process.to_dict`` writes it.

    Raises:
        UserError: for an unknown name or setting (with the nearest), or a value of a wrong type or out of its range.
    """
    if not isinstance(config, str | Mapping):
        raise UserError(f"process must be a name or a mapping with a name and settings, got {shown(config)}")
    settings = {"name": config} if isinstance(config, str) else dict(config)
    name = settings.pop("name", None)
    make = lookup("processes", str(name)).make
    nested = {k: create_process(v) if k == "base" else v for k, v in settings.items()}
    given = checked(make, nested, f"process {name!r}")  # type: ignore[arg-type]
    try:
        process: Process = make(**given)
    except TypeError as error:
        raise UserError(f"process {name!r}: {error}") from None
    return process


__all__ = [
    "DDPM",
    "EDM",
    "SCHEDULES",
    "VE",
    "VP",
    "Absorbing",
    "Chain",
    "Cosine",
    "DiscretisedGaussian",
    "FiniteChain",
    "GammaNoise",
    "Learned",
    "Learning",
    "LevyNoise",
    "MatrixChain",
    "MixtureNoise",
    "MonotoneNetwork",
    "Neighbours",
    "NoiseLevels",
    "Observable",
    "Observation",
    "PhaseSpace",
    "ProbabilityFlow",
    "Process",
    "RectifiedFlow",
    "Replacement",
    "ScalarGaussian",
    "Score",
    "SignalToNoise",
    "SubVP",
    "SufficientStatistic",
    "TableChain",
    "Uniform",
    "VariancePreserving",
    "as_time",
    "check_process",
    "cosine_betas",
    "create_process",
    "expand",
    "grids",
    "largest_distance",
    "level_ratio",
    "linear_betas",
    "require",
    "scaled_linear_betas",
    "zero_terminal_snr",
]
