"""The model directory: denoisers and codecs with what was learned for them, read without running code."""

from .codec import Autoencoder
from .directory import load, load_denoiser, save

__all__ = ["Autoencoder", "load", "load_denoiser", "save"]
