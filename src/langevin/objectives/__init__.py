"""How a denoiser is learned: a weight on the error of x̂_0, at times drawn from a law."""

from .create import DEFAULT_TIMES, OBJECTIVES, create
from .denoising import Denoising, Objective, Timed
from .times import TIMES, Importance, LogNormal, Stratified, TableKnots, TimeLaw, Uniform
from .tokens import D3PM
from .weights import WEIGHTS

__all__ = [
    "D3PM",
    "DEFAULT_TIMES",
    "OBJECTIVES",
    "TIMES",
    "WEIGHTS",
    "Denoising",
    "Importance",
    "LogNormal",
    "Objective",
    "Stratified",
    "TableKnots",
    "TimeLaw",
    "Timed",
    "Uniform",
    "create",
]
