"""What people do with a model: restore, edit, compress, compare, audit, purify, find anomalies, draw guided samples."""

from __future__ import annotations

from . import compare, compress, edit, restore
from .anomaly import Anomaly, anomaly, auroc
from .attack import pgd
from .diffusion_features import DiffusionFeatures, fit_classifier, fit_segmenter
from .disco import disco
from .purify import purify

__all__ = [
    "Anomaly",
    "DiffusionFeatures",
    "anomaly",
    "auroc",
    "compare",
    "compress",
    "disco",
    "edit",
    "fit_classifier",
    "fit_segmenter",
    "pgd",
    "purify",
    "restore",
]
