"""How a denoiser is learned: a weight on the error of x̂_0, at times drawn from a law."""

from .bound import Continuous, Decoder, Discretised, Tokens
from .create import DEFAULT_TIMES, OBJECTIVES, TIMELESS, create
from .denoising import Denoising, Objective, Timed
from .elbo import ELBO, Codec, elbo
from .heads import SecondMoment
from .matching import MATCHING, Explicit, Implicit, Sliced, SlicedVR
from .times import (
    TIMES,
    Importance,
    Levels,
    LikelihoodImportance,
    LogNormal,
    Stratified,
    TableKnots,
    TimeLaw,
    Uniform,
)
from .tokens import D3PM
from .variational import VARIATIONAL, Hybrid, Vlb
from .vdm import VDM
from .weights import WEIGHTS

__all__ = [
    "D3PM",
    "DEFAULT_TIMES",
    "ELBO",
    "MATCHING",
    "OBJECTIVES",
    "TIMELESS",
    "TIMES",
    "VARIATIONAL",
    "VDM",
    "WEIGHTS",
    "Codec",
    "Continuous",
    "Decoder",
    "Denoising",
    "Discretised",
    "Explicit",
    "Hybrid",
    "Implicit",
    "Importance",
    "Levels",
    "LikelihoodImportance",
    "LogNormal",
    "Objective",
    "SecondMoment",
    "Sliced",
    "SlicedVR",
    "Stratified",
    "TableKnots",
    "TimeLaw",
    "Timed",
    "Tokens",
    "Uniform",
    "Vlb",
    "create",
    "elbo",
]
