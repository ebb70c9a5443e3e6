"""Backbones: networks ``(x, time, condition) -> (B, out_channels, *size)``, made from plain JSON.

Beside them a variational autoencoder, a normalizing flow and an encoder of captions.
"""

from .attention_control import controlled
from .backbone import Backbone
from .coupling import CouplingFlow
from .create import BACKBONES, CODECS, DUAL_ENCODERS, ENCODERS, FLOWS, SUITS, create_network, default, outline, takes
from .dit import DiT
from .dual_encoder import DualEncoder
from .edm_unet import EDMUNet
from .encoder import Encoder
from .layers import attention
from .lucidrains import LucidrainsUNet
from .mlp import MLP
from .text import TextEncoder, decode_text, encode_text, encode_texts
from .transformer import Transformer
from .unet import UNet
from .unet2d import UNet2D
from .vae import VAE

__all__ = [
    "BACKBONES",
    "CODECS",
    "DUAL_ENCODERS",
    "ENCODERS",
    "FLOWS",
    "MLP",
    "SUITS",
    "VAE",
    "Backbone",
    "CouplingFlow",
    "DiT",
    "DualEncoder",
    "EDMUNet",
    "Encoder",
    "LucidrainsUNet",
    "TextEncoder",
    "Transformer",
    "UNet",
    "UNet2D",
    "attention",
    "controlled",
    "create_network",
    "decode_text",
    "default",
    "encode_text",
    "encode_texts",
    "outline",
    "takes",
]
