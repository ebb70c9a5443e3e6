"""Distances between samples and real data, and scores of what samples are good for, each with its protocol."""

from .classifiers import Accuracy, Classifier, label_agreement, svc, train_on_synthetic
from .crps import crps
from .evaluate import evaluate
from .features import Features, feature_space
from .frechet import FeatureSums, frechet_distance, gaussian_frechet
from .inception_score import ScoreSums, inception_score
from .kernel import Estimate, kernel_distance
from .memorisation import Memorisation, memorisation, nearest_neighbours
from .parts import Parts
from .precision_recall import PrecisionRecall, precision_recall
from .psnr import psnr
from .retrieval import Retrieval, retrieval
from .sliced import sliced_floor, sliced_wasserstein
from .ssim import ssim

__all__ = [
    "Accuracy",
    "Classifier",
    "Estimate",
    "FeatureSums",
    "Features",
    "Memorisation",
    "Parts",
    "PrecisionRecall",
    "Retrieval",
    "ScoreSums",
    "crps",
    "evaluate",
    "feature_space",
    "frechet_distance",
    "gaussian_frechet",
    "inception_score",
    "kernel_distance",
    "label_agreement",
    "memorisation",
    "nearest_neighbours",
    "precision_recall",
    "psnr",
    "retrieval",
    "sliced_floor",
    "sliced_wasserstein",
    "ssim",
    "svc",
    "train_on_synthetic",
]
