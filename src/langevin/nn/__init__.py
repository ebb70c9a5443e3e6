"""Backbones: networks ``(x, time, condition) -> (B, out_channels, *size)``, made from plain JSON.

Beside them a variational autoencoder and a normalizing flow.
"""

from .backbone import Backbone
from .coupling import CouplingFlow
from .create import CODECS, create_network, default, outline
from .dit import DiT
from .layers import attention
from .mlp import MLP
from .transformer import Transformer
from .unet import UNet
from .vae import VAE

__all__ = [
    "CODECS",
    "MLP",
    "VAE",
    "Backbone",
    "CouplingFlow",
    "DiT",
    "Transformer",
    "UNet",
    "attention",
    "create_network",
    "default",
    "outline",
]
