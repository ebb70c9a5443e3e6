"""Functions from denoisers to a denoiser: what changes the belief."""

from .apg import ProjectedGuidance, apg, with_momentum
from .autoguidance import autoguidance
from .cfg_plus_plus import cfg_plus_plus
from .cfg_zero_star import cfg_zero_star
from .classifier import classifier
from .classifier_free import classifier_free
from .clip_guidance import ClipSettings, clip_guidance
from .composition import conjunction, negate
from .energy import energy
from .interval import Interval, interval, noise_level
from .measurement import dps, moment_matching, pigdm
from .pooling import LinearPooling, Pooled, linear
from .product import Product, product
from .rescale import rescale
from .similarity import similarity
from .threshold import threshold
from .tilt import Moments, Tilted

__all__ = [
    "ClipSettings",
    "Interval",
    "LinearPooling",
    "Moments",
    "Pooled",
    "Product",
    "ProjectedGuidance",
    "Tilted",
    "apg",
    "autoguidance",
    "cfg_plus_plus",
    "cfg_zero_star",
    "classifier",
    "classifier_free",
    "clip_guidance",
    "conjunction",
    "dps",
    "energy",
    "interval",
    "linear",
    "moment_matching",
    "negate",
    "noise_level",
    "pigdm",
    "product",
    "rescale",
    "similarity",
    "threshold",
    "with_momentum",
]
