"""Conditions as they are typed: ``--given label=3 --given caption="…" --given image=FILE``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import UserError, unknown
from .options import class_index

if TYPE_CHECKING:
    from torch import Tensor

    from ..denoisers import NetworkDenoiser

FILES = (".npy", ".npz")


def conditions(
    given: Sequence[str], label: str | None, model: NetworkDenoiser, text_encoder: str | None = None
) -> dict[str, Any]:
    """The conditions of a command, by name, each for all samples or ``(N, …)`` one each.

    Args:
        given: texts ``NAME=VALUE``. A label is a class's name or index, a caption is text, a vector is numbers with
            commas between them; an image or a mask is a picture's file; each of them but label and caption may be an
            array file, which has one for all samples or one each.
        label: of ``--label``, or None.
        text_encoder: of ``--text-encoder``, or None; see :func:`text_encoder_of`. A caption of a model that is told its
            features is given as these, under the name ``sequence``.
        model: what it takes decides what is accepted.

    Raises:
        UserError: for a name the model does not take, or a value that cannot be read as it.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"given must be NAME=VALUE, such as label=3, got {text!r}")
        if name == "caption" and name not in model.condition_sizes and "sequence" in model.condition_sizes:
            if (encoder := text_encoder_of(model, text_encoder)) is None:
                raise UserError(
                    "this model is told features of a text, and does not say which encoder makes them; name it with "
                    "--text-encoder, or give sequence=FILE.npy"
                )
            if "sequence" in found:
                raise UserError("caption was given twice, or beside a sequence, which is what it becomes")
            found["sequence"] = _features(value, encoder, model)
            continue
        if name not in model.condition_sizes:
            if not model.condition_sizes:
                raise UserError(f"{name} was given, but this model was trained without conditions")
            raise unknown("condition", name, model.condition_sizes)
        if name in found or (name == "label" and label is not None):
            raise UserError(f"{name} was given twice")
        found[name] = _value(name, value, model)
    if label is not None:
        found["label"] = class_index(label, model.class_names)
    return found


def text_encoder_of(model: NetworkDenoiser, asked: str | None) -> str | None:
    """The text encoder that makes features of captions for a model: what is asked for, or what its data name.

    Raises:
        UserError: for data that name one which is not here.
    """
    known = None if model.data is None else model.data.source.get("text_encoder")
    if asked is not None or known is None:
        return asked
    from ..data.text_features import is_directory

    if not is_directory(known):
        # A model may come from anywhere: what it names is not fetched before somebody who can read has said so.
        raise UserError(
            f"captions of this model go through the text encoder {known}, which is no directory here, and is fetched "
            f"from the Hub only if asked for; name it, or where it is, with --text-encoder {known}"
        )
    return str(known)


def _features(text: str, encoder: str, model: NetworkDenoiser) -> Tensor:
    """A caption as the features that the model was told of its data, float32 ``(L, F)``."""
    from ..data.text_features import TextFeatures

    features = TextFeatures(encoder)([text])[0].float()
    size = model.condition_sizes["sequence"]
    if features.shape[1] != size:
        raise UserError(
            f"text encoder {encoder} makes features of {features.shape[1]} numbers, this model takes {size}"
        )
    return features


def _value(name: str, text: str, model: NetworkDenoiser) -> Any:
    import torch

    if name == "label":
        return class_index(text, model.class_names)
    if name in getattr(model.network, "readers", {}):
        return text  # which the network reads itself
    if name == "caption":
        from ..nn.text import encode_text

        return encode_text(text, model.condition_sizes["caption"])
    if text.lower().endswith(FILES):
        return _array(name, Path(text))
    if name in ("image", "mask"):
        return _picture(name, Path(text), model)
    if name == "vector":
        try:
            return torch.tensor([float(part) for part in text.split(",")])
        except ValueError:
            raise UserError(f"vector must be numbers with commas between them, got {text!r}") from None
    raise UserError(f"{name} must be an array file (.npy), got {text!r}")


def _array(name: str, path: Path) -> Tensor:
    """An array of a file: under the condition's name in an .npz file."""
    import numpy as np
    import torch

    from ..data._numpy import arrays

    value = arrays(path, (name,))[name]
    if value.dtype.kind == "c":
        raise UserError(f"{name} {path} must hold real numbers, got {value.dtype}")
    if value.dtype == np.uint8 and name == "image":
        return torch.from_numpy(value).float() / 127.5 - 1
    return torch.from_numpy(value).float()


def _picture(name: str, path: Path, model: NetworkDenoiser) -> Tensor:
    """A picture's file as the condition of that shape: an image in [−1, 1], a mask in [0, 1], white is 1."""
    channels = model.condition_sizes[name]
    if channels not in (1, 3):
        raise UserError(f"{name} has {channels} channels, which no picture has: give an array file (.npy)")
    known = None if model.data is None else model.data.conditions.get(name)
    x = pixels_of(name, path, channels, None if known is None else (known[1], known[2]))
    return x if name == "mask" else 2 * x - 1


def pixels_of(name: str, path: Path, channels: int, size: tuple[int, int] | None) -> Tensor:
    """A picture's file, float32 ``(channels, H, W)`` in [0, 1].

    Args:
        name: of what it is given as, for messages.
        path: the file.
        channels: 1 or 3.
        size: (H, W) that it is brought to, or None: the largest part in the middle that has the sides' ratio is taken,
            as pictures are cut where they are trained on.

    Raises:
        UserError: for a file that is no picture.
    """
    import torch
    from torch.nn.functional import interpolate

    from ..data.images import Refused, decode

    try:
        pixels = decode(os.fspath(path), None, channels, False)
    except Refused as error:
        raise UserError(f"{name} {path} cannot be read: {error}") from None
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
    if size is not None and tuple(x.shape[1:]) != size:
        scale = min(have / want for have, want in zip(x.shape[1:], size))
        tall, wide = (max(1, round(scale * want)) for want in size)
        top, left = (x.shape[1] - tall) // 2, (x.shape[2] - wide) // 2
        x = x[:, top : top + tall, left : left + wide]
        x = interpolate(x[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)
    return x
