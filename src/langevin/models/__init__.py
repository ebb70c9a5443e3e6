"""The model directory: denoisers and codecs with what was learned for them, read without running code."""

from .codec import Autoencoder
from .directory import load, load_codec, save

__all__ = ["Autoencoder", "load", "load_codec", "save"]
