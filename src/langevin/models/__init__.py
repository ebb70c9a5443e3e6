"""The model directory: denoisers and codecs with what was learned for them, read without running code."""

from .codec import Autoencoder
from .codes import encode
from .directory import about, load, load_denoiser, save
from .parts import Cascade, Latent

__all__ = ["Autoencoder", "Cascade", "Latent", "about", "encode", "load", "load_denoiser", "save"]
