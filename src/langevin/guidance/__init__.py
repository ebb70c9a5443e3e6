"""Functions from denoisers to a denoiser: what changes the belief."""

from .classifier_free import LinearPooling, classifier_free, linear

__all__ = ["LinearPooling", "classifier_free", "linear"]
