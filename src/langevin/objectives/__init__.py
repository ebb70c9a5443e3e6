"""How a denoiser is learned: a weight on the error of x̂_0, at times drawn from a law."""

from .denoising import DEFAULT_TIMES, Denoising, Objective, create
from .times import TIMES, Importance, LogNormal, Stratified, TableKnots, TimeLaw, Uniform
from .weights import WEIGHTS

__all__ = [
    "DEFAULT_TIMES",
    "TIMES",
    "WEIGHTS",
    "Denoising",
    "Importance",
    "LogNormal",
    "Objective",
    "Stratified",
    "TableKnots",
    "TimeLaw",
    "Uniform",
    "create",
]
