"""Images to bytes with a diffusion model, and what that costs at best."""

from __future__ import annotations

from .codec import Compressed, Received, compress, decompress
from .container import Header, read_header
from .decoders import DECODERS
from .pixels import Levels
from .rates import RateDistortion, rate_distortion

__all__ = [
    "DECODERS",
    "Compressed",
    "Header",
    "Levels",
    "RateDistortion",
    "Received",
    "compress",
    "decompress",
    "rate_distortion",
    "read_header",
]
