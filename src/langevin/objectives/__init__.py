"""How a denoiser is learned: a weight on the error of x̂_0, at times drawn from a law."""

from .adversarial import Adversarial
from .bound import Continuous, Decoder, Discretised, Tokens
from .classification import CrossEntropy, MaximumLikelihood
from .contrastive import Contrastive
from .create import DEFAULT_TIMES, OBJECTIVES, TIMELESS, create_objective
from .denoising import DenoisingLoss, Objective, Timed
from .elbo import ELBO, Codec, elbo
from .heads import SecondMoment
from .importance import Importance
from .matching import ExplicitScoreMatching, ImplicitScoreMatching, SlicedScoreMatching, SlicedVR
from .players import Player
from .scheduled_sampling import ScheduledSampling
from .times import Levels, LikelihoodImportance, LogNormal, Stratified, TableKnots, TimestepDistribution, Uniform
from .tokens import D3PM
from .variational import Hybrid, Vlb
from .vdm import VDM
from .weights import WEIGHTS

__all__ = [
    "D3PM",
    "DEFAULT_TIMES",
    "ELBO",
    "OBJECTIVES",
    "TIMELESS",
    "VDM",
    "WEIGHTS",
    "Adversarial",
    "Codec",
    "Continuous",
    "Contrastive",
    "CrossEntropy",
    "Decoder",
    "DenoisingLoss",
    "Discretised",
    "ExplicitScoreMatching",
    "Hybrid",
    "ImplicitScoreMatching",
    "Importance",
    "Levels",
    "LikelihoodImportance",
    "LogNormal",
    "MaximumLikelihood",
    "Objective",
    "Player",
    "ScheduledSampling",
    "SecondMoment",
    "SlicedScoreMatching",
    "SlicedVR",
    "Stratified",
    "TableKnots",
    "Timed",
    "TimestepDistribution",
    "Tokens",
    "Uniform",
    "Vlb",
    "create_objective",
    "elbo",
]
