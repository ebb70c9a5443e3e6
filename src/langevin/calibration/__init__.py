"""What is learned about a trained model: optimal variances, and a solver for one number of evaluations."""

from .solver import tune, tune_model
from .variances import calibrate_model, of_states, train_head

__all__ = ["calibrate_model", "of_states", "train_head", "tune", "tune_model"]
