"""Distances between samples and real data, and scores of what samples are good for, each with its protocol."""

from .evaluate import evaluate
from .features import Features, feature_space
from .frechet import frechet_distance, gaussian_frechet
from .kernel import Estimate, kernel_distance
from .memorisation import Memorisation, memorisation, nearest_neighbours
from .precision_recall import PrecisionRecall, precision_recall
from .readers import Reader, label_agreement, svc, train_on_synthetic
from .sliced import sliced_floor, sliced_wasserstein

__all__ = [
    "Estimate",
    "Features",
    "Memorisation",
    "PrecisionRecall",
    "Reader",
    "evaluate",
    "feature_space",
    "frechet_distance",
    "gaussian_frechet",
    "kernel_distance",
    "label_agreement",
    "memorisation",
    "nearest_neighbours",
    "precision_recall",
    "sliced_floor",
    "sliced_wasserstein",
    "svc",
    "train_on_synthetic",
]
