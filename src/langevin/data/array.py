"""A NumPy file of points or images; never a pickle."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from ..denoisers.conditions import check_label
from ..nn.text import ABSENT, END, decode_text
from ..storage.untrusted import reading, room
from ._numpy import arrays, count_nonfinite
from .dataset import Dataset, Examples, Options, adjust_split, assemble, held_out, limited
from .split import PICTURES
from .text_features import encode_captions

PIXEL_CHANNELS = (1, 3, 4)

BESIDE = ("image", "mask", "vector", "sequence", "caption")
"""Arrays that belong to each example, and become conditions under their name."""

EXAMPLE = 160
"""Bytes that an example takes beside its numbers while a file is read: its index as text, in a list, and two hashes."""


def array(path: str | os.PathLike[str], options: Options | None = None) -> Dataset:
    """Read a ``.npy`` file, or a ``.npz`` file with ``x`` and optionally what belongs to each example.

    ``x`` is points ``(N, D)`` or images ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)`` with C of 1, 3 or 4 last;
    uint8 is read as x/127.5 − 1, float16/32/64 as it is, in [−1, 1] for images and any finite value for points.
    ``label`` is integers 0…K−1; ``image`` pictures as ``x`` may be; ``mask`` ``(N, H, W)`` or ``(N, 1, H, W)`` in
    [0, 1]; ``vector`` ``(N, V)`` and ``sequence`` ``(N, L, F)`` floats, in which not-a-numbers mark what is absent;
    ``caption`` ``(N, L)`` tokens of ``nn.text.encode_texts``: bytes, 256 for the end, then −1, which stands throughout
    where there is none, and which ``text_encoder`` makes a ``sequence`` of. One example in ten is held out by a hash of
    its index.

    Raises:
        UserError: for a file that is damaged, holds Python objects, or has another shape, type or range.
    """
    options = options or Options()
    title = str(path)
    held = arrays(path, ("x", "label", *BESIDE))
    label = held.pop("label", None)
    x = _tensor(held.pop("x"), title)
    beside = {name: _beside(name, value, len(x), title) for name, value in held.items()}
    if options.text_encoder is not None:
        if "sequence" in beside:
            raise UserError(f"{title}: text_encoder makes the condition sequence, which these data have already")
        with reading(title):
            told = [
                None if bool((row < 0).all()) else decode_text(row) for row in beside.pop("caption", torch.empty(0))
            ]
            beside["sequence"] = encode_captions(told, options.text_encoder, title, options.progress)
    pictures = [name for name in beside if name in PICTURES]
    if pictures and (options.size or options.crop != "center"):
        raise UserError(f"{title}: size and crop would leave the {pictures[0]} of each example as it is; resize both")
    image = x.ndim == 4
    byte = x.dtype == torch.uint8
    room(EXAMPLE * len(x), f"{title}: {len(x)} examples, their names and hashes,")
    if not image and (options.size or options.channels):
        raise UserError(f"{title}: these are points of shape {tuple(x.shape[1:])}; size and channels are for images.")
    classes = _classes(label, len(x), title)
    label = None if label is None else label.astype(np.int64)
    keys = [str(i) for i in range(len(x))]
    test = adjust_split(keys, held_out(keys), label, title)
    index = limited(keys, test, options.limit)
    random = options.crop == "random"
    parts = []
    for mask, ragged in ((~test[index], random), (test[index], False)):
        part = x[torch.from_numpy(index[mask])]
        if image:
            part = _fit(_recolour(part, options.channels, title), options, title)
        if random and not ragged:
            part = _centre(part, options.size or 0)
        rows = torch.from_numpy(index[mask])
        conditions = {name: value[rows] for name, value in beside.items()}
        if label is not None:
            conditions["label"] = torch.from_numpy(label)[rows]
        parts.append(Examples(list(part) if ragged else part, conditions))
    del x  # the parts have their own
    levels = 256 if byte else None
    name = Path(path).stem
    return assemble(name, parts, options, classes=classes, levels=levels, bounded=image or byte, source=title)


def _tensor(raw: np.ndarray, title: str) -> Tensor:
    """The array as points ``(N, D)`` or images ``(N, C, H, W)``, uint8 or finite float32."""
    if raw.ndim not in (2, 3, 4) or 0 in raw.shape:
        raise UserError(
            f"{title}: x has shape {raw.shape}; accepted: (N, D), (N, H, W), (N, C, H, W), (N, H, W, C), not empty."
        )
    if raw.dtype != np.uint8 and raw.dtype.kind != "f":
        raise UserError(f"{title}: x is {raw.dtype}; accepted: uint8 (0…255) or floats.")
    if raw.ndim == 3:
        raw = raw[:, None]
    elif raw.ndim == 4 and _channels_last(raw.shape[1:], title):
        raw = raw.transpose(0, 3, 1, 2)
    if raw.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(raw))
    with np.errstate(over="ignore"):
        x = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32))
    if bad := count_nonfinite(x.numpy()):
        raise UserError(f"{title}: x holds {bad} values that are no finite float32.")
    if x.ndim == 4:
        low, high = float(x.min()), float(x.max())
        if low < -1 or high > 1:
            bytes_like = low >= 0 and 2 < high <= 255
            scale = "x / 127.5 - 1" if bytes_like else f"2 * (x - {low:g}) / {high - low:g} - 1"
            seen = f"images are in [{low:g}, {high:g}], expected [-1, 1]"
            raise UserError(f"{title}: {seen}; scale them (here: {scale}) or save uint8.")
        if low >= 0:
            warnings.warn(f"{title}: images are in [{low:g}, {high:g}]; if black is 0, use 2 * x - 1", stacklevel=4)
    return x


def _beside(name: str, raw: np.ndarray, count: int, title: str) -> Tensor:
    """What belongs to each example: pictures as ``x``, or finite float32 (not-a-number where absent)."""
    if len(raw) != count:
        raise UserError(f"{title}: {name} must be of {count} examples, as x is; got {len(raw)}.")
    if name == "image":
        made = _tensor(raw, f"{title}: image")
        if made.ndim != 4:
            raise UserError(
                f"{title}: image must be pictures (N, H, W), (N, C, H, W) or (N, H, W, C); got {raw.shape}."
            )
        return made
    if name == "caption":
        return _tokens(raw, title)
    axes = {"mask": (3, 4), "vector": (2,), "sequence": (3,)}[name]
    if raw.ndim not in axes or 0 in raw.shape or raw.dtype.kind not in "buif":
        accepted = {"mask": "(N, H, W) or (N, 1, H, W)", "vector": "(N, V)", "sequence": "(N, L, F)"}[name]
        raise UserError(f"{title}: {name} must be numbers {accepted}; got {raw.dtype} {raw.shape}.")
    with np.errstate(over="ignore"):
        value = torch.from_numpy(np.ascontiguousarray(raw, dtype=np.float32))
    if bool(value.isinf().any()):
        raise UserError(f"{title}: {name} holds infinities.")
    if name != "mask":
        return value
    value = value[:, None] if value.ndim == 3 else value
    if value.shape[1] != 1 or not bool(((value >= 0) & (value <= 1)).all()):
        raise UserError(f"{title}: mask must be (N, H, W) or (N, 1, H, W) in [0, 1]; got {tuple(value.shape)}.")
    return value


def _tokens(raw: np.ndarray, title: str) -> Tensor:
    """Captions, int16 ``(N, L)``: bytes, ``END``, then ``ABSENT`` to the last place; or ``ABSENT`` throughout."""
    if raw.ndim != 2 or 0 in raw.shape or raw.dtype.kind not in "iu":
        raise UserError(f"{title}: caption must be integers (N, L); got {raw.dtype} {raw.shape}.")
    if int(raw.min()) < ABSENT or int(raw.max()) > END:
        raise UserError(f"{title}: caption must lie in {ABSENT}…{END}; got {int(raw.min())}…{int(raw.max())}.")
    value = torch.from_numpy(raw.astype(np.int16))
    there, ends = value != ABSENT, value == END
    # A row has either no token, or one end, which is the last of its tokens; and no gap before it.
    one = ends.sum(1) == there.any(1)
    last = (ends[:, :-1] <= ~there[:, 1:]).all(1)
    gapless = (there[:, :-1] >= there[:, 1:]).all(1)
    if not bool((one & last & gapless).all()):
        row = int((one & last & gapless).byte().argmin())
        raise UserError(
            f"{title}: caption must be bytes, then {END}, then {ABSENT}, as nn.text.encode_texts makes it; "
            f"caption[{row}] is not."
        )
    return value


def _channels_last(shape: tuple[int, ...], title: str) -> bool:
    """Whether ``(a, b, c)`` is (H, W, C). Channels are 1, 3 or 4; if both ends could be, the equal pair is H and W."""
    first, middle, last = shape
    if last not in PIXEL_CHANNELS:
        return False
    if first not in PIXEL_CHANNELS or (first == middle != last):
        return True
    if middle == last != first:
        return False
    raise UserError(f"{title}: x of shape (N, {first}, {middle}, {last}) reads as (N, C, H, W) or (N, H, W, C).")


def _recolour(x: Tensor, channels: int | None, title: str) -> Tensor:
    """Grey repeated to colour, or colour to grey by the luma of ITU-R BT.601, as Pillow does."""
    have = x.shape[1]
    if channels in (None, have):
        return x
    if (have, channels) == (1, 3):
        return x.expand(-1, 3, -1, -1)
    if (have, channels) == (3, 1):
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        grey = (x.float() * luma).sum(1, keepdim=True)
        return grey.round().to(torch.uint8) if x.dtype == torch.uint8 else grey.clamp(-1, 1)
    raise UserError(f"{title}: images have {have} channels; they cannot be read with channels={channels}.")


def _fit(x: Tensor, options: Options, title: str) -> Tensor:
    """The short side brought to ``size`` (antialiased, bicubic), and the central square of it unless windows follow."""
    size = options.size
    if size is None:
        return x
    height, width = x.shape[-2:]
    short = min(height, width)
    if short != size:
        room(len(x) * x.shape[1] * size**2 * x.element_size(), f"{title}, at size {size},")
        target = [max(size, round(size * side / short)) for side in (height, width)]
        parts = []
        for part in x.split(1024):
            part = torch.nn.functional.interpolate(part.float(), target, mode="bicubic", antialias=True)
            # A bicubic filter overshoots at edges; the range of the data does not.
            byte = x.dtype == torch.uint8
            parts.append(part.round().clamp(0, 255).to(torch.uint8) if byte else part.clamp(-1, 1))
        x = torch.cat(parts)
    return x if options.crop == "random" else _centre(x, size)


def _centre(x: Tensor, size: int) -> Tensor:
    top, left = (x.shape[-2] - size) // 2, (x.shape[-1] - size) // 2
    return x[..., top : top + size, left : left + size].contiguous()


def _classes(label: np.ndarray | None, count: int, title: str) -> tuple[str, ...]:
    """Names of the classes 0…max; a file of labels brings no other."""
    if label is None:
        return ()
    if label.shape != (count,) or label.dtype.kind not in "iu":
        raise UserError(f"{title}: label must be {count} integers, one an example; got {label.dtype} {label.shape}.")
    if int(label.max()) >= count:
        raise UserError(f"{title}: labels must be classes 0…K−1; got {int(label.max())} for {count} examples.")
    classes = tuple(str(k) for k in range(int(label.max()) + 1))
    check_label(torch.from_numpy(label.astype(np.int64)), len(classes), f"{title}: labels")
    return classes
