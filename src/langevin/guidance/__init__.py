"""Functions from denoisers to a denoiser: what changes the belief."""

from .classifier import classifier
from .classifier_free import LinearPooling, classifier_free, linear
from .energy import energy
from .measurement import dps, moment_matching, pigdm
from .tilt import Moments, Tilted

__all__ = [
    "LinearPooling",
    "Moments",
    "Tilted",
    "classifier",
    "classifier_free",
    "dps",
    "energy",
    "linear",
    "moment_matching",
    "pigdm",
]
