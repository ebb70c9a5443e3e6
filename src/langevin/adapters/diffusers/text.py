"""Prompts of a pipeline: its tokenizers and text encoders, asked once a prompt."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import UserError, shown
from ...nn.text import decode_text

KEPT = 2**28
"""Numbers of the rows that are kept at most: a gigabyte."""


def texts_of(tokens: Tensor) -> list[str | None]:
    """The captions of tokens ``(B, L)`` of ``nn.text``; None for a sample that has none."""
    return [None if int(row[0]) < 0 else decode_text(row) for row in tokens.cpu()]


class Prompts(nn.Module, ABC):
    """What the text encoders of a pipeline make of prompts, as rows of numbers that a denoiser is bound to.

    A row holds all parts, flattened, one behind another: the tokens' features, a pooled vector, a mask. ``parts`` reads
    rows back; one of not-a-numbers is no prompt, and stands for the empty one. Rows are kept for the prompts that come
    again, and made anew when an encoder learns, with gradients where they are asked for.

    Args:
        tokenizers: one an encoder.
        encoders: text encoders; None where a pipeline leaves one out.
        zeros: whether the features of no prompt are zeros (``force_zeros_for_empty_prompt``), not those of "".
    """

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module | None], zeros: bool = False) -> None:
        super().__init__()
        self.tokenizers = list(tokenizers)
        self.encoders = nn.ModuleList(nn.Identity() if e is None else e for e in encoders)
        with torch.no_grad():
            none = self.encode([""])
        self.sizes = {name: tuple(value.shape[1:]) for name, value in none.items()}
        self.zeros = zeros
        self._kept: dict[str, Tensor] = {"": self._row(none)}
        self._version = self._steps()

    @abstractmethod
    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        """The parts of prompts, ``(B, …)`` each."""

    @property
    def size(self) -> int:
        """Numbers of a row."""
        return sum(map(math.prod, self.sizes.values()))

    @property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and on the device of rows."""
        first = next(self.parameters())
        return torch.empty(0, dtype=torch.float32, device=first.device)

    def row(self, text: str | None) -> Tensor:
        """The row ``(1, size)`` of a prompt; None is no prompt.

        An encoder that learns is asked anew after each of its steps, and with gradients if these are asked for.
        """
        if text is None:
            text = ""
            if self.zeros:
                return torch.zeros(1, self.size, dtype=self.like.dtype, device=self.like.device)
        if self._learning():
            return self._row(self.encode([text]))
        version = self._steps()
        if version != self._version or len(self._kept) * self.size > KEPT:
            self._kept, self._version = {}, version
        if text not in self._kept:
            with torch.no_grad():
                self._kept[text] = self._row(self.encode([text]))
        return self._kept[text].to(self.like.device)

    def read(self, value: Any) -> Tensor:
        """A condition ``caption`` as rows ``(B, size)``: of a text, of a list of texts (None for no prompt), or rows.

        Raises:
            UserError: for anything else.
        """
        if isinstance(value, Tensor) and value.shape[-1:] and value.ndim <= 2:
            rows = value if value.ndim == 2 else value[None]
            if rows.is_floating_point() and rows.shape[-1] == self.size:
                return rows.to(self.like)
            if not rows.is_floating_point() and rows.dtype != torch.bool:
                value = texts_of(rows)
        texts = [value] if isinstance(value, str) else value
        if (
            not isinstance(texts, (list, tuple))
            or not texts
            or not all(text is None or isinstance(text, str) for text in texts)
        ):
            raise UserError(f"caption must be a text, or a list of texts, one a sample, got {shown(value)}")
        found: dict[str | None, Tensor] = {None: self.like.new_full((1, self.size), math.nan)}
        different = [text for text in dict.fromkeys(texts) if text is not None]
        if self._learning() and different:
            found |= zip(different, self._row(self.encode(different)).split(1))
        else:  # each alone, so that a row is of its text whatever stands beside it
            found |= {text: self.row(text) for text in different}
        return torch.cat([found[text] for text in texts])

    def parts(self, captions: Tensor | None, batch: int) -> dict[str, Tensor]:
        """The parts of captions, rows ``(B, size)`` or tokens of ``nn.text`` ``(B, L)``, or of no prompt at all."""
        if captions is None:
            rows = self.row(None).expand(batch, self.size)
        else:
            rows = self.read(captions)
            rows = torch.where(rows[:, :1].isnan(), self.row(None), rows)
        lengths = [math.prod(size) for size in self.sizes.values()]
        pieces = rows.split(lengths, dim=1)
        return {name: piece.unflatten(1, size) for (name, size), piece in zip(self.sizes.items(), pieces)}

    def _steps(self) -> int:
        """What grows with each step that the encoders learn."""
        return sum(p._version for p in self.encoders.parameters())

    def _learning(self) -> bool:
        """Whether gradients of the encoders are asked for."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.encoders.parameters())

    def _row(self, parts: dict[str, Tensor]) -> Tensor:
        return torch.cat([part.float().flatten(1) for part in parts.values()], 1)

    def tokens(self, i: int, texts: list[str], length: int | None = None) -> Any:
        """The input of encoder i, on its device: tokens ``(B, L)``, as many for every text, and where they are."""
        tokenizer = self.tokenizers[i]
        first = next(self.encoders[i].parameters())
        made = tokenizer(
            texts,
            padding="max_length",
            max_length=length or tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return made.to(first.device)


class LastLayer(Prompts):
    """The last features of one CLIP text encoder: Stable Diffusion 1 and 2 (arXiv:2112.10752)."""

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        found = self.tokens(0, texts)
        encoder = self.encoders[0]
        mask = found.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
        return {"tokens": encoder(found.input_ids, attention_mask=mask)[0]}


class Penultimate(Prompts):
    """The last features but one of each encoder, side by side, and a pooled vector: SDXL (arXiv:2307.01952)."""

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        found = [e(self.tokens(i, texts).input_ids, output_hidden_states=True) for i, e in enumerate(self.encoders)]
        pooled = next(out[0] for out in found if out[0].ndim == 2)
        return {"tokens": torch.cat([out.hidden_states[-2] for out in found], -1), "pooled": pooled}


class Masked(Prompts):
    """T5's features and where a token is: PixArt (arXiv:2310.00426), which reads prompts in lower case.

    Args:
        length: tokens of a prompt.
    """

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module | None], length: int) -> None:
        self.length = length
        super().__init__(tokenizers, encoders)

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        found = self.tokens(0, [text.lower().strip() for text in texts], self.length)
        features = self.encoders[0](found.input_ids, attention_mask=found.attention_mask)[0]
        return {"tokens": features, "mask": found.attention_mask.to(features.dtype)}


class Triple(Prompts):
    """Two CLIP encoders side by side, T5 behind them, and both pooled vectors: Stable Diffusion 3 (arXiv:2403.03206).

    Args:
        width: features of a token as the transformer takes them.
        length: tokens that T5 reads.
    """

    def __init__(
        self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module | None], width: int, length: int = 256
    ) -> None:
        self.width, self.length = width, length
        super().__init__(tokenizers, encoders)

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        length = self.tokenizers[0].model_max_length
        clip = [self.encoders[i](self.tokens(i, texts, length).input_ids, output_hidden_states=True) for i in (0, 1)]
        side = torch.cat([out.hidden_states[-2] for out in clip], -1)
        side = nn.functional.pad(side, (0, self.width - side.shape[-1]))
        if isinstance(self.encoders[2], nn.Identity):
            behind = side.new_zeros(len(texts), self.length, self.width)
        else:
            behind = self.encoders[2](self.tokens(2, texts, self.length).input_ids)[0]
        return {"tokens": torch.cat([side, behind.to(side)], 1), "pooled": torch.cat([out[0] for out in clip], -1)}


class PooledAndT5(Prompts):
    """CLIP's pooled vector and T5's features: Flux.

    Args:
        length: tokens that T5 reads.
    """

    def __init__(self, tokenizers: Sequence[Any], encoders: Sequence[nn.Module | None], length: int = 512) -> None:
        self.length = length
        super().__init__(tokenizers, encoders)

    def encode(self, texts: list[str]) -> dict[str, Tensor]:
        pooled = self.encoders[0](self.tokens(0, texts).input_ids).pooler_output
        features = self.encoders[1](self.tokens(1, texts, self.length).input_ids)[0]
        return {"tokens": features, "pooled": pooled}
