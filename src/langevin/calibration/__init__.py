"""What is learned about a trained model: optimal variances, and a solver for one number of evaluations."""

from .solver import tune, tune_model
from .variances import calibrate_model, train_head

__all__ = ["calibrate_model", "train_head", "tune", "tune_model"]
