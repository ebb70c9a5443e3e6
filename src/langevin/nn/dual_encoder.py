"""An encoder of pictures and one of captions into the same space, where what belongs together is near."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError, check_instance, unknown
from .._registry import register
from .conditioning import LARGEST, NONE
from .encoder import Encoder
from .layers import integer
from .mlp import MLP
from .text import TextEncoder, encode_texts

TOWERS: dict[str, type[Encoder] | type[MLP]] = {Encoder.name: Encoder, MLP.name: MLP}
"""Networks of pictures, or of points, by name."""

HOTTEST = 100.0
"""The scale of the logits at most (arXiv:2103.00020 §2.5)."""

FIRST = 1 / 0.07
"""The scale that learning begins at (arXiv:2103.00020 §2.5)."""


@register(
    "nn",
    "dual-encoder",
    title="Dual encoder of pictures and captions (CLIP's two towers)",
    arxiv="2103.00020",
    proof="exact: tests/nn/test_dual_encoder.py",
)
class DualEncoder(nn.Module):
    r"""Two towers that end in vectors of one space, and the scale of their products (arXiv:2103.00020 §2.3–2.4):

    .. math:: u = f(x, t) / |f(x, t)|, \quad v = g(y) / |g(y)|, \quad \text{logit}(x, y) = τ ⟨u, v⟩, \quad τ \le 100

    The tower of pictures is the way down of a U-Net, of points an MLP, and is told the time, so that it may read noisy
    data (arXiv:2112.05744 §3.2). That of captions is a transformer over their bytes, of which the mean over the tokens
    that are there is taken, or of the features of another encoder a layer a token and the same mean. A caption that is
    absent has the vector 0.

    Args:
        embedding: E, numbers of a vector.
        image: name and options of ``encoder`` or ``mlp``, without ``out_channels``, which is E.
        text: ``caption``, the most tokens of a caption, with the options of ``nn.TextEncoder``; or ``sequence``, the
            features of a token, with ``width``, features of the layer that reads it.

    Raises:
        UserError: for an unknown name or option, or one out of its range.
    """

    name: ClassVar[str] = "dual-encoder"
    computes_only = True
    """That it reads nothing but parameters and what it is given, and changes nothing."""

    def __init__(
        self,
        *,
        embedding: int = 128,
        image: Mapping[str, Any] = NONE,
        text: Mapping[str, Any] = NONE,
    ) -> None:
        super().__init__()
        size = integer("embedding", embedding, 1, 2**14)
        self.image = _tower(image, size)
        with torch.no_grad():  # a backbone returns zeros at first, which have no direction
            head = self.image.head
            head.weight.normal_(std=head.weight.shape[1] ** -0.5)
        self.reads, sized, options = _read(text)
        if self.reads == "caption":
            self.text: nn.Module = TextEncoder(length=sized, **options)
        else:
            wide = integer("text.width", options.get("width", 256), 1, 2**14)
            options = {"width": wide}
            self.text = nn.Sequential(nn.LayerNorm(sized), nn.Linear(sized, wide), nn.GELU())
        wide = int(options.get("width", getattr(self.text, "width", 0)))
        self.project = nn.Linear(wide, size, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST)))
        self.sized = sized
        own = {k: v for k, v in self.image.config.items() if k != "out_channels"}
        told = self.text.config if isinstance(self.text, TextEncoder) else options
        kept = {k: v for k, v in told.items() if k not in ("name", "length")}
        self._options: dict[str, Any] = {"embedding": size, "image": own, "text": {self.reads: sized, **kept}}

    @property
    def config(self) -> dict[str, Any]:
        """Name and options, plain JSON: a network made of the options has the same shape."""
        return {"name": self.name, **self._options}

    @property
    def scale(self) -> Tensor:
        """τ, at most 100. Its gradient is that of the scale without the bound: else it could not come down again."""
        surplus = (self.log_scale - math.log(HOTTEST)).clamp_min(0)
        return (self.log_scale - surplus.detach()).exp()

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ``UserError`` if an event of this shape can't be taken."""
        self.image.check_shape(shape)

    def encode_image(self, x: Tensor, time: Tensor) -> Tensor:
        """Unit vectors ``(B, E)``, float32 at least, of events ``(B, *shape)`` of about unit variance at times."""
        return _unit(self.image(x, time, None))

    def feature_map(self, x: Tensor, time: Tensor) -> Tensor:
        """What the tower of pictures sees before it takes the mean over places, ``(B, C, h, w)``.

        Raises:
            UserError: for a tower of points, which has none.
        """
        if not isinstance(self.image, Encoder):
            raise UserError("features over places are of an encoder of images; this one reads points")
        embedding, context = self.image.conditioning(time, {})
        return self.image.features(x.to(embedding.dtype), embedding, context)

    def encode_text(self, value: Tensor) -> Tensor:
        """Unit vectors ``(B, E)``, float32 at least, of captions or sequences; zero where there is none.

        Args:
            value: tokens int64 ``(B, L)`` as ``encode_texts`` gives them, −1 for none, or features ``(B, L, F)``,
                not-a-number for none: what ``reads`` says.
        """
        value = self.checked(value)
        if self.reads == "caption":
            # Places that no caption of the batch reaches would cost as much as those that one does.
            longest = int((value >= 0).sum(1).max().clamp_min(1))
            tokens, present = self.text(value[:, :longest])
        else:
            gone = value.isnan().any(-1)
            tokens, present = self.text(value.to(self.project.weight.dtype).masked_fill(gone[..., None], 0)), ~gone
        # The direction of the sum is that of the mean; of none it is 0, which stays 0.
        return _unit(self.project((tokens * present[..., None]).sum(1)))

    def checked(self, value: Tensor) -> Tensor:
        """What ``encode_text`` takes.

        Raises:
            UserError: for another shape or type.
        """
        check_instance(self.reads, value, Tensor, "a tensor")
        if self.reads == "caption":
            if value.ndim != 2 or value.is_floating_point() or not 1 <= value.shape[1] <= self.sized:
                raise UserError(f"caption must be integers (B, L), L from 1 to {self.sized}, got {tuple(value.shape)}")
        elif value.ndim != 3 or not value.is_floating_point() or value.shape[2] != self.sized:
            raise UserError(f"sequence must be real numbers (B, L, {self.sized}), got {tuple(value.shape)}")
        return value

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Captions as ``encode_text`` takes them; a longer one than it takes is cut, with a warning.

        Raises:
            UserError: for an encoder that reads the features of another, which must make them.
        """
        if self.reads != "caption":
            raise UserError(
                "this encoder reads features of captions, not their text; give the text encoder of its data "
                "(--text-encoder), or features (B, L, F)"
            )
        for text in texts:
            if isinstance(text, str) and len(text.encode(errors="replace")) >= self.sized:
                warnings.warn(
                    f"{text[:40]!r} is longer than the {self.sized - 1} bytes this encoder reads: the rest is cut",
                    stacklevel=2,
                )
        return encode_texts(texts, self.sized)

    def extra_repr(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return f"{count / 1e6:.2f} M parameters, embedding={self._options['embedding']}, reads={self.reads}"


def _unit(vector: Tensor) -> Tensor:
    """Vectors of length 1, float32 at least: in half precision products of them would tell little apart."""
    return F.normalize(vector.to(torch.promote_types(vector.dtype, torch.float32)), dim=-1)


def _tower(image: Mapping[str, Any], size: int) -> Encoder | MLP:
    check_instance("image", image, Mapping, "a mapping such as {'name': 'encoder'}")
    options = {key: value for key, value in image.items() if key != "name"}
    name = str(image.get("name", Encoder.name))
    if name not in TOWERS:
        raise unknown("network of image", name, TOWERS)
    known = [p for p in inspect.signature(TOWERS[name]).parameters if p not in ("out_channels", "conditions", "text")]
    for option in options:
        if option not in known:
            raise unknown(f"option of image ({name})", str(option), known)
    return TOWERS[name](**{**options, "out_channels": size})


def _read(text: Mapping[str, Any]) -> tuple[str, int, dict[str, Any]]:
    """What the tower of captions reads, its size, and its options."""
    check_instance("text", text, Mapping, "a mapping such as {'caption': 64}")
    named = [name for name in ("caption", "sequence") if name in text]
    if len(named) != 1:
        raise UserError(f"text must say caption, tokens at most, or sequence, features of a token; got {dict(text)}")
    name, options = named[0], {key: value for key, value in text.items() if key not in named}
    plain = [p for p in inspect.signature(TextEncoder).parameters if p != "length"]
    for option in options:
        if option not in (known := plain if name == "caption" else ["width"]):
            raise unknown(f"option of text ({name})", str(option), known)
    return name, integer(f"text.{name}", text[name], 1, LARGEST[name]), options
