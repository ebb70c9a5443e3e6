"""Captions as bytes, and a transformer that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError, check_instance
from .layers import attention, integer

ABSENT = -1
"""What stands where no token is: behind the end of a caption, and everywhere if there is no caption."""

END = 256
"""The token that ends every caption, so that the empty one, which is this token alone, is not "no caption"."""

LONGEST = 2**14
"""Tokens a caption may have."""

SPACE, WIDE = 32, 0xE0
"""The token of a space, and the first byte, in UTF-8, of characters of three bytes or more."""


def encode_text(text: str, length: int) -> Tensor:
    """A caption as tokens, int64 ``(length,)``: its bytes in UTF-8, 0 to 255, then 256 for its end, then −1.

    Bytes are a vocabulary without a file, which knows every language (ByT5, arXiv:2105.13626). A caption of more than
    ``length − 1`` bytes is cut behind the last character (code point) that fits as a whole, and ends with 256 too.

    Args:
        text: the caption, which may be empty.
        length: L, from 1 on, the tokens of every caption.

    Raises:
        UserError: for what is no text, or text that UTF-8 does not have (half of a surrogate pair), or a length out of
            its range.
    """
    return _encode("text", text, integer("length", length, 1, LONGEST))


def encode_texts(texts: Sequence[str | None], length: int) -> Tensor:
    """Captions as tokens, int64 ``(B, length)``: :func:`encode_text` of each, and −1 throughout for None, no caption.

    Raises:
        UserError: for what is no list of texts, and as :func:`encode_text`, with the place of the text in the list.
    """
    length = integer("length", length, 1, LONGEST)
    if isinstance(texts, str):
        raise UserError(f"texts must be a list of texts, got one text; write [{texts[:40]!r}]")
    check_instance("texts", texts, Sequence, "a list of texts")
    tokens = torch.full((len(texts), length), ABSENT)
    for i, text in enumerate(texts):
        if text is not None:
            tokens[i] = _encode(f"texts[{i}]", text, length)
    return tokens


def _encode(name: str, text: str, length: int) -> Tensor:
    check_instance(name, text, str, "text")
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{name} holds {text[error.start]!r}, half of a character, at place {error.start}") from error
    if len(data) >= length:
        # What is cut is good UTF-8 up to its last character, which alone may be torn: that is what "ignore" leaves out.
        data = data[: length - 1].decode(errors="ignore").encode()
    return torch.tensor([*data, END, *[ABSENT] * (length - 1 - len(data))])


def decode_text(tokens: Tensor) -> str:
    """The caption of tokens ``(L,)``, as :func:`encode_text` gives them.

    Raises:
        UserError: for tokens that are not bytes, then 256, then −1 to the end; for −1 throughout, which is no caption;
            for bytes that are not UTF-8.
    """
    check_instance("tokens", tokens, Tensor, "integers of shape (L,)")
    if tokens.ndim != 1 or not _whole(tokens):
        raise UserError(f"tokens must be integers of shape (L,), got {tuple(tokens.shape)} {tokens.dtype}")
    values = tokens.tolist()
    if all(value == ABSENT for value in values):
        raise UserError("tokens are all -1, which is no caption; the empty caption is 256, then -1")
    end = values.index(END) if END in values else len(values)
    if end == len(values) or any(v != ABSENT for v in values[end + 1 :]) or not all(0 <= v < END for v in values[:end]):
        raise UserError("tokens must be bytes (0 to 255), then 256 for the end, then -1 to the last place")
    try:
        return bytes(values[:end]).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"tokens are no UTF-8: {error.reason} at place {error.start}") from error


def _whole(tokens: Tensor) -> bool:
    return not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)) (pre-norm, arXiv:2002.04745); a key is read where ``mask`` is true.

    The last layers of both branches start smaller by √(2·depth), so that the sum of all branches has the size of one.
    """

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        with torch.no_grad():
            for layer in (self.out, self.outer):
                layer.weight.mul_((2 * depth) ** -0.5)
                layer.bias.zero_()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        # layers.Attention masks a context alone, never the tokens themselves.
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.outer(F.gelu(self.inner(self.norm2(x)), approximate="tanh"))


def words_of(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Where words begin, bool ``(B, L)``, and the number of the word that each token belongs to, int64 ``(B, L)``.

    A word is what stands between spaces, with the space before it; a character of three or four bytes in UTF-8 (those
    of Chinese, Japanese or Korean, which are written without spaces) begins one of its own, and so does the end.
    """
    present, space, end = tokens >= 0, tokens == SPACE, tokens == END
    wide = (tokens >= WIDE) & ~end
    apart = F.pad(space, (1, 0), value=True)[:, :-1]
    return present & ~space & apart | wide | end, (space | wide | end).cumsum(1)


class TextEncoder(nn.Module):
    """Bidirectional transformer over the bytes of a caption: features of each word, each having read all others.

    Learned embeddings of the 257 tokens and of the places, pre-norm blocks (arXiv:1706.03762, 2002.04745), a last norm.
    Tokens that are absent (−1) are read by none, so padding changes nothing; their own features are zero.

    The first ``words`` blocks read within words (:func:`words_of`); from there on a word is one token, its first byte's
    (SpaceByte, arXiv:2404.14408). A caption of 60 bytes then has 11 tokens, and a word of one letter, which may
    decide what is drawn, weighs as much as any other.

    For a network with a condition ``sequence``, an absent token is one of not-a-numbers:
    ``features.masked_fill(~present[..., None], math.nan)``.

    Args:
        length: L from 1 to 16384, the most tokens a caption has, its end included.
        width: features of a token, a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        words: blocks, of the first, that read within words, from 0 to ``depth``; with 0 every byte stays a token.
        frozen: the parameters ask for no gradient and the encoder stays in evaluation mode: for weights that were
            learned before.

    Raises:
        UserError: for an option out of its range.
    """

    name: ClassVar[str] = "text"
    computes_only = True
    """That ``forward`` reads nothing but parameters and what it is given, and changes nothing."""

    def __init__(
        self,
        *,
        length: int = 128,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        words: int = 1,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        check_instance("frozen", frozen, bool, "true or false")
        self._options: dict[str, Any] = {
            "length": integer("length", length, 1, LONGEST),
            "width": integer("width", width, 1, 2**14),
            "depth": integer("depth", depth, 1, 256),
            "heads": integer("heads", heads, 1, 256),
            "words": integer("words", words, 0, depth),
            "frozen": frozen,
        }
        if width % heads:
            raise UserError(f"heads must divide width = {width}, got {heads}")
        self.length, self.width, self.words, self.frozen = length, width, words, frozen
        self.bytes = nn.Parameter(torch.randn(END + 1, width) * width**-0.5)
        self.places = nn.Parameter(torch.randn(length, width) * width**-0.5)
        self.blocks = nn.ModuleList(Block(width, heads, depth) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        if frozen:
            self.requires_grad_(False).eval()

    @property
    def config(self) -> dict[str, Any]:
        """Name and options, plain JSON: an encoder made of the options has the same shape."""
        return {"name": self.name, **self._options}

    def train(self, mode: bool = True) -> TextEncoder:
        """Training mode or not; a frozen encoder stays in evaluation mode, whatever the network around it does."""
        return super().train(mode and not self.frozen)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(B, W, width)`` in the dtype of the parameters, and where there is a word, bool ``(B, W)``.

        W = ``sizes(L)`` is the most words that L tokens of UTF-8 hold; with ``words = 0`` they are the tokens.

        Args:
            tokens: integers ``(B, L)`` from −1 to 256, L from 1 to ``length``, as :func:`encode_texts` gives them. A
                row of −1 alone is a caption that is absent: its features are zero, and present nowhere.

        Raises:
            UserError: for another shape or dtype, and on the CPU for a value out of the range: elsewhere a look is a
                wait for the device.
        """
        check_instance("tokens", tokens, Tensor, f"integers of shape (B, L), L from 1 to {self.length}")
        if tokens.ndim != 2 or not _whole(tokens) or not 1 <= tokens.shape[1] <= self.length:
            raise UserError(
                f"tokens must be integers of shape (B, L), L from 1 to {self.length}, "
                f"got {tuple(tokens.shape)} {tokens.dtype}"
            )
        if tokens.device.type == "cpu" and ((tokens < ABSENT) | (tokens > END)).any():
            raise UserError(f"tokens must lie from -1 to 256, got {int(tokens.min())} to {int(tokens.max())}")
        present = tokens >= 0
        h = F.embedding(tokens.long().clamp_min(0), self.bytes) + self.places[: tokens.shape[1]]
        if self.words:
            begins, number = words_of(tokens)
            # A token always reads itself: a softmax over nothing is not a number.
            itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
            within = (number[:, :, None] == number[:, None]) & present[:, None] | itself
            for block in self.blocks[: self.words]:
                h = block(h, within[:, None])
            places = (~begins).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.sizes(tokens.shape[1])]
            h, present = h.gather(1, places[..., None].expand(-1, -1, h.shape[2])), begins.gather(1, places)
        # A row without a token reads itself too, and is zero in the end.
        mask = (present | ~present.any(1, keepdim=True))[:, None, None]
        for block in self.blocks[self.words :]:
            h = block(h, mask)
        return self.norm(h).masked_fill(~present[..., None], 0), present

    def sizes(self, length: int) -> int:
        """W, how many features captions of ``length`` tokens have: the most words that there can be, with the end."""
        return length // 2 + 1 if self.words else length

    def spans(self, caption: str) -> tuple[range, ...]:
        """The bytes that each feature of a caption stands for; none for its end."""
        length = len(caption.encode())
        if not self.words:
            return *(range(i, i + 1) for i in range(length)), range(length, length)
        (begins,), _ = words_of(encode_text(caption, length + 1)[None])
        first = begins.nonzero().flatten().tolist()
        ends = (len(caption.encode()[:b].rstrip(b" ")) for b in first[1:])
        return *(range(a, b) for a, b in zip(first, ends)), range(length, length)

    def extra_repr(self) -> str:
        count = sum(p.numel() for p in self.parameters())
        return ", ".join([f"{count / 1e6:.2f} M parameters", *(f"{k}={v}" for k, v in self._options.items())])
