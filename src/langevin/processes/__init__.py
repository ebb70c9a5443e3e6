"""q: how data become noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._errors import UserError
from .._registry import lookup
from .base import (
    Observable,
    Observation,
    ProbabilityFlow,
    Process,
    Score,
    SignalToNoise,
    as_time,
    expand,
    power,
)
from .chains import (
    SCHEDULES,
    Absorbing,
    Chain,
    DiscretisedGaussian,
    FiniteChain,
    MatrixChain,
    Neighbours,
    Replacement,
    TableChain,
    Uniform,
)
from .gamma import GammaNoise
from .gaussian import (
    DDPM,
    EDM,
    VE,
    VP,
    Cosine,
    RectifiedFlow,
    ScalarGaussian,
    SubVP,
    VariancePreserving,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
)
from .learned import Learned, Learning, MonotoneNetwork
from .phase import Look, PhaseSpace


def create(config: str | Mapping[str, Any]) -> Process:
    """A process by its registered name, or by ``{"name": …, settings}`` as ``Process.to_dict`` writes it."""
    settings = {"name": config} if isinstance(config, str) else dict(config)
    name = settings.pop("name", None)
    make = lookup("processes", str(name)).make
    try:
        nested = {k: create(v) if k == "base" else v for k, v in settings.items()}
        process: Process = make(**nested)
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
    "Look",
    "MatrixChain",
    "MonotoneNetwork",
    "Neighbours",
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
    "TableChain",
    "Uniform",
    "VariancePreserving",
    "as_time",
    "cosine_betas",
    "create",
    "expand",
    "linear_betas",
    "power",
    "scaled_linear_betas",
]
