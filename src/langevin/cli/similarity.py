"""Encoders, captions and pictures of a command that compares them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import UserError
from .given import pixels_of, text_encoder_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..denoisers import ContrastiveEncoder


def captions_of(encoder: ContrastiveEncoder, texts: Sequence[str], text_encoder: str | None = None) -> Any:
    """Captions as an encoder takes them: texts, or their features ``(N, L, F)`` where it reads these.

    Raises:
        UserError: if the text encoder that makes the features is not here, or makes others.
    """
    if encoder.reads != "sequence":
        return list(texts)
    from ..data.text_features import TextFeatures

    named: Any = encoder
    known = text_encoder_of(named, text_encoder)
    if known is None:
        raise UserError("this encoder reads features of captions, and does not say whose; name them: --text-encoder")
    features = TextFeatures(known)(texts).float()
    size: Any = encoder.network.sized
    if features.shape[2] != size:
        raise UserError(f"text encoder {known} makes features of {features.shape[2]} numbers, the encoder reads {size}")
    return features


def picture_of(path: Path, data: Any, name: str = "image") -> Tensor:
    """A picture's file in the size, the channels and the range of a model's data, ``(1, C, H, W)``.

    Raises:
        UserError: for a model of no pictures, or a file that is none.
    """
    if data is None or not data.is_image or data.shape[0] not in (1, 3):
        raise UserError(f"{name} {path} is for models of grey or colour pictures, got {data!r}")
    channels, height, width = data.shape
    low, high = (-1.0, 1.0) if data.low is None else (data.low, data.high)
    return (low + (high - low) * pixels_of(name, path, channels, (height, width)))[None]
