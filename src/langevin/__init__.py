"""langevin: one small algebra for diffusion models."""

__version__ = "0.1.0"
