"""How a network is told the noise level and the conditions, and how it is told that there is none."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError, unknown
from ..denoisers.conditions import KINDS, check_label, check_real
from .layers import fourier, integer
from .picture import PictureEncoder, resized
from .text import TextEncoder

Context = tuple[Tensor, Tensor]
"""Tokens ``(B, L, width)`` of a sequence or a caption, and where they are present ``(B, L)``."""

LARGEST = {"label": 10**6, "caption": 2**12, "image": 10**4, "mask": 10**4, "vector": 10**5, "sequence": 10**5}
"""Sizes of conditions at most."""

PLANES = ("image", "mask")
"""Conditions that are laid beside x, as further channels, or made a vector of."""

NONE: Mapping[str, Any] = MappingProxyType({})
"""No conditions, no settings."""


class Conditioning(nn.Module):
    r"""One embedding ``(B, width)`` of time and conditions; tokens for attention; planes that lie beside an image.

    .. math::
        e = \mathrm{SiLU}\big(
            \mathrm{MLP}(\mathrm{fourier}(t)) + E_{label} + W v + P\,\overline{s} + \mathrm{CNN}(y) \big)

    A condition is absent by sample: label −1, a caption of −1, not-a-numbers. What is absent is replaced by a learned
    embedding (label, vector, encoded picture, mean of a sequence or caption), masked (tokens) or zero (planes), and a
    plane that is 1 where a picture is present comes with it; so nothing of it reaches the output.

    Args:
        width: features of the embedding.
        conditions: the conditions that are taken, with their sizes. ``label``: classes, integers ``(B,)``. ``vector``:
            features, ``(B, V)``. ``sequence``: features of a token, ``(B, L, F)``, any L. ``caption``: tokens at most,
            ``(B, L)``, see ``nn.text``. ``image``, ``mask``: channels, ``(B, C, H, W)`` of any size, which is brought
            to that of x.
        time_range: where the time input lies; (−3, 3) holds ¼·log(σ/α) of σ/α from 6e-6 to 1.6e5, (0, 999) the
            index of a table.
        takes: the conditions a network of this kind can take.
        text: settings of the encoder of captions, those of ``nn.text.TextEncoder``.
        pictures: how ``image`` and ``mask`` are read, by name. ``"beside"``, the default: laid beside x, place by
            place, for pictures that are aligned with it. ``"encoder"``, or a mapping of the settings of
            ``nn.picture.PictureEncoder``: a vector CNN(y) of the picture y is added to the embedding, for pictures
            that are not aligned (another view, a style) and for x that is no image.
    """

    def __init__(
        self,
        width: int,
        conditions: Mapping[str, int],
        time_range: Sequence[float] = (-3.0, 3.0),
        *,
        takes: Sequence[str] = tuple(KINDS),
        text: Mapping[str, Any] | None = None,
        pictures: Mapping[str, Any] = NONE,
    ) -> None:
        super().__init__()
        self.sizes = check_sizes(conditions, takes, pictures)
        encoded = encoded_pictures(pictures)
        for name in pictures:
            if name not in self.sizes:
                raise UserError(f"pictures has {name!r}, which is none of the network's conditions, {self.sizes}")
        match time_range:
            case [int() | float() as low, int() | float() as high] if -math.inf < low < high < math.inf:
                self.time_range = (float(low), float(high))
            case _:
                raise UserError(f"time_range must be two finite numbers, the lower first, got {time_range!r}")
        self.time_in, self.time_out = nn.Linear(64, width), nn.Linear(width, width)
        if classes := self.sizes.get("label"):
            self.label = nn.Embedding(classes + 1, width)  # the last row is "no label"
        if vector := self.sizes.get("vector"):
            self.vector_in, self.no_vector = nn.Linear(vector, width), nn.Parameter(torch.zeros(width))
        if sequence := self.sizes.get("sequence"):
            self.token_in, self.token_norm = nn.Linear(sequence, width), nn.LayerNorm(width)
            self.sequence_in, self.no_sequence = nn.Linear(width, width), nn.Parameter(torch.zeros(width))
        if length := self.sizes.get("caption"):
            self.text = _text_encoder(length, text or {})
            self.caption_in, self.caption_norm = nn.Linear(self.text.width, width), nn.LayerNorm(width)
            self.caption_out, self.no_caption = nn.Linear(width, width), nn.Parameter(torch.zeros(width))
        elif text:
            raise UserError(f"text is for networks that take the condition caption, got {dict(text)}")
        # In the order of PLANES, whatever the order in which they are written: the same weights for the same seed.
        named = [name for name in PLANES if name in encoded]
        self.encoders = nn.ModuleDict({n: PictureEncoder(self.sizes[n], width, **encoded[n]) for n in named})
        self.no_picture = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in named})

    @property
    def has_context(self) -> bool:
        """Whether there are tokens for attention to read."""
        return bool({"sequence", "caption"} & self.sizes.keys())

    @property
    def planes(self) -> int:
        """Channels that are laid beside x: those of each picture, and one that says whether it is there."""
        return sum(self.sizes[name] + 1 for name in self._beside)

    @property
    def _beside(self) -> list[str]:
        """The pictures that are laid beside x."""
        return [name for name in PLANES if name in self.sizes and name not in self.encoders]

    def check_shapes(self, condition: Mapping[str, Tensor], batch: int) -> None:
        """Names, types and shapes, without reading a value: cheap on every device."""
        for name, value in condition.items():
            if not self.sizes:
                raise UserError(f"condition {name!r} was given to a network that takes none")
            if name not in self.sizes:
                raise unknown("condition", name, self.sizes)
            kind = KINDS[name]
            want: list[int | None] = [None] * len(kind.axes)
            if kind.sized is not None:
                want[kind.sized] = self.sizes[name]
            fits = value.ndim == 1 + len(want) and len(value) == batch
            fits = fits and all(n in (None, m) for n, m in zip(want, value.shape[1:]))
            if not fits or value.is_floating_point() == kind.integer:
                what = "integers" if kind.integer else "real numbers"
                shape = ", ".join("any" if n is None else str(n) for n in [batch, *want])
                raise UserError(
                    f"condition {name!r} must be {what} of shape ({shape}), got {tuple(value.shape)} {value.dtype}"
                )
            if name == "caption" and value.shape[1] > self.sizes[name]:
                raise UserError(f"caption must have at most {self.sizes[name]} tokens, got {value.shape[1]}")

    def check(self, condition: Mapping[str, Tensor], batch: int) -> None:
        """:meth:`check_shapes`, and the values: labels in [−1, classes), rows wholly numbers or wholly absent."""
        self.check_shapes(condition, batch)
        for name, value in condition.items():
            kind = KINDS[name]
            if kind.integer:
                check_label(value, kind.values or self.sizes[name], name, absent=True)
            else:
                check_real(name, value)

    def forward(self, time: Tensor, condition: Mapping[str, Tensor]) -> tuple[Tensor, Context | None]:
        dtype = self.time_in.weight.dtype
        features = fourier(time, *self.time_range).to(dtype)
        e = self.time_out(F.silu(self.time_in(features)))
        if classes := self.sizes.get("label"):
            label = condition.get("label")
            none = torch.full_like(time, classes, dtype=torch.int64)
            e = e + self.label(none if label is None else torch.where(label < 0, none, label.long()))
        if "vector" in self.sizes:
            vector = condition.get("vector")
            e = e + (self.no_vector if vector is None else self._or_none(vector.to(dtype)))
        for name, encoder in self.encoders.items():
            picture, none = condition.get(name), self.no_picture[name]
            if picture is None:
                e = e + none
            else:
                here = _is_there(picture)
                vector = encoder(torch.where(here.view(-1, 1, 1, 1), picture, 0))
                e = e + torch.where(here[:, None], vector, none)
        contexts = []
        if "sequence" in self.sizes:
            sequence = condition.get("sequence")
            if sequence is None:
                e = e + self.no_sequence
            else:
                gone = sequence.isnan()
                tokens = self.token_norm(self.token_in(sequence.to(dtype).masked_fill(gone, 0)))
                contexts.append((tokens, ~gone.any(-1)))
                e = e + _sum_or(contexts[-1], self.sequence_in, self.no_sequence)
        if "caption" in self.sizes:
            caption = condition.get("caption")
            if caption is None:
                e = e + self.no_caption
            else:
                tokens, present = self.text(caption)
                contexts.append((self.caption_norm(self.caption_in(tokens.to(dtype))), present))
                e = e + _sum_or(contexts[-1], self.caption_out, self.no_caption)
        if not contexts:
            return F.silu(e), None
        return F.silu(e), (torch.cat([c[0] for c in contexts], 1), torch.cat([c[1] for c in contexts], 1))

    def beside(self, x: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """``x`` ``(B, C, H, W)`` with the pictures of the condition, brought to its size, as further channels."""
        if not self.planes:
            return x
        parts = [x]
        for name in self._beside:
            size, value = (len(x), 1, *x.shape[2:]), condition.get(name)
            if value is None:
                parts.append(x.new_zeros(len(x), self.sizes[name] + 1, *x.shape[2:]))
                continue
            here = _is_there(value).view(-1, 1, 1, 1)
            # In the dtype of x, but float32 at least: half precision is not resized on every device.
            picture = torch.where(here, value, 0).to(torch.promote_types(x.dtype, torch.float32))
            picture = resized(picture, (x.shape[2], x.shape[3])).to(x.dtype)
            parts += [picture, here.to(x.dtype).expand(size)]
        return torch.cat(parts, 1)

    def _or_none(self, vector: Tensor) -> Tensor:
        gone = vector.isnan()
        return torch.where(gone.any(1, keepdim=True), self.no_vector, self.vector_in(vector.masked_fill(gone, 0)))


def _text_encoder(length: int, options: Mapping[str, Any]) -> TextEncoder:
    known = [name for name in inspect.signature(TextEncoder).parameters if name != "length"]
    for name in options:
        if name not in known:
            raise unknown("option of text", str(name), known)
    return TextEncoder(length=length, **options)


def encoded_pictures(pictures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pictures that an encoder reads, with its settings.

    Raises:
        UserError: for what is no picture, or a way to read it or a setting that is not known.
    """
    if not isinstance(pictures, Mapping):
        raise UserError(f"pictures must be a mapping such as {{'image': 'encoder'}}, got {pictures!r}")
    found: dict[str, dict[str, Any]] = {}
    for name, way in pictures.items():
        if name not in PLANES:
            raise unknown("picture (of pictures)", str(name), PLANES)
        if isinstance(way, Mapping):
            for setting in way:
                if setting not in ("size", "width"):
                    raise unknown(f"option of pictures.{name}", str(setting), ("size", "width"))
            found[name] = dict(way)
        elif way == "encoder":
            found[name] = {}
        elif way != "beside":
            raise UserError(
                f"pictures.{name} must be 'beside', 'encoder' or settings of an encoder such as {{'size': 32}}, "
                f"got {way!r}"
            )
    return found


def check_sizes(
    conditions: Mapping[str, int], takes: Sequence[str], pictures: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """The conditions of a network with their sizes, in one order, those of size 0 left out.

    Args:
        conditions: the sizes by name.
        takes: what a network of this kind can take.
        pictures: how it reads pictures, which it takes by an encoder whatever its kind; None if its kind has none.

    Raises:
        UserError: for a name that the network does not take, or a size out of range.
    """
    if not isinstance(conditions, Mapping):
        raise UserError(f"conditions must be a mapping such as {{'label': 10}}, got {conditions!r}")
    takes = list(dict.fromkeys([*takes, *encoded_pictures(pictures or NONE)]))
    for name in conditions:
        if name not in takes:
            by_encoder = pictures is not None and name in PLANES
            more = f" By an encoder it is taken: pictures {{{name!r}: 'encoder'}}." if by_encoder else ""
            raise unknown("condition", str(name), takes, more)
    sizes = {name: integer(f"conditions.{name}", conditions.get(name, 0), 0, LARGEST[name]) for name in KINDS}
    return {name: size for name, size in sizes.items() if size}


def _is_there(picture: Tensor) -> Tensor:
    """Which samples have a picture, ``(B,)``: one that is partly not-a-number is none."""
    return ~picture.flatten(1).isnan().any(1)


def _sum_or(context: Context, out: nn.Linear, none: Tensor) -> Tensor:
    r"""``out`` of :math:`\sum_i h_i / \sqrt n` over the n tokens that are present, ``none`` where there are none.

    A mean would make each token's say 1/n: what a single word decides would be learned √n times as slowly.
    """
    tokens, present = context
    count = present.sum(1, keepdim=True)
    pooled = (tokens * present[..., None]).sum(1) / count.clamp_min(1).to(tokens.dtype).sqrt()
    return torch.where(count > 0, out(pooled), none)
