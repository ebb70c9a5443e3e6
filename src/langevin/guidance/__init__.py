"""Functions from denoisers to a denoiser: what changes the belief."""

from .pooling import Linear, classifier_free, linear

__all__ = ["Linear", "classifier_free", "linear"]
