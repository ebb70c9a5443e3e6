"""How a model is told captions: its tokens, how many it takes, and what is bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..._errors import UserError, shown
from ...denoisers import Denoiser, check_is_denoiser
from ...nn.text import TextEncoder, encode_texts
from .alignment import Tokenizer, Tokens, byte_tokens

Words = str | Sequence[str]
"""A caption or a list of captions; a word or a list of words."""


@dataclass(frozen=True)
class CaptionReader:
    """How a model is told captions.

    Attributes:
        limit: tokens of a caption at most, its marks included.
        tokenizer: the tokens of a caption that fits.
        length: how many tokens a caption has, whether it fits or not.
        to_condition: what is bound of captions, one a sample, with so many tokens of the longest.
        keys: how many keys of attention captions become whose longest has so many tokens.
        unit, marks: what ``length`` counts, and how many of them are no part of the text, for messages.
    """

    limit: int
    tokenizer: Tokenizer
    length: Callable[[str], int]
    to_condition: Callable[[list[str], int], Any]
    keys: Callable[[int], int]
    unit: str
    marks: int

    def check(self, name: str, given: Words) -> list[str]:
        """Captions as a list, none of them longer than the model takes.

        Raises:
            UserError: for what is no text, and a caption that would be cut.
        """
        found = [given] if isinstance(given, str) else given
        if not isinstance(found, Sequence) or not found or not all(isinstance(caption, str) for caption in found):
            raise UserError(f"{name} must be a caption or a list of captions, got {shown(given)}")
        for caption in found:
            if (length := self.length(caption)) > self.limit:
                raise UserError(
                    f"{name} must have at most {self.limit - self.marks} {self.unit}, which this model takes, got "
                    f"{length - self.marks}: {caption[:60]!r}"
                )
        return list(found)


def caption_reader(model: Denoiser) -> CaptionReader:
    """How a model is told captions: as bytes that become words, or by the tokenizer of a pipeline of diffusers.

    Raises:
        UserError: for what is no model, one that is told no captions, one of several stages, or of no pictures.
    """
    check_is_denoiser(model, "model")
    if len(model.stages) != 1:
        raise UserError("model must be one denoiser; a cascade draws in stages: take one of them")
    sizes = model.belief_of.condition_sizes
    if "caption" not in sizes:
        takes = f"takes {', '.join(sizes)}" if sizes else "was trained without conditions"
        raise UserError(f"model must be told captions, whose words are changed; this one {takes}")
    if len(model.shape) != 3:
        raise UserError(f"model must be one of pictures (C, H, W), got one of shape {tuple(model.shape)}")
    network = getattr(model.belief_of, "network", None)
    prompts = getattr(network, "prompts", None)
    if prompts is not None:
        return _of_tokenizer(prompts.tokenizers[0])
    parts = network.modules() if isinstance(network, nn.Module) else ()
    text = next((part for part in parts if isinstance(part, TextEncoder)), None)
    tokenizer, keys = (byte_tokens, int) if text is None else (text.spans, text.sizes)
    of_bytes = lambda texts, length: encode_texts(texts, length)
    return CaptionReader(sizes["caption"], tokenizer, lambda text: len(text.encode()) + 1, of_bytes, keys, "bytes", 1)


def _of_tokenizer(tokenizer: Any) -> CaptionReader:
    """By a tokenizer of transformers, whose tokens say which letters they are of."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"model must have a tokenizer that says which letters a token is of, got {type(tokenizer)}")
    limit = int(tokenizer.model_max_length)

    def tokens(text: str) -> Tokens:
        found = tokenizer(
            text, return_offsets_mapping=True, padding="max_length", max_length=limit, truncation=True
        )  # as the pipeline asks
        place = lambda letter: len(text[:letter].encode())
        return tuple(range(place(first), place(last)) for first, last in found["offset_mapping"])

    length = lambda text: len(tokenizer(text, verbose=False)["input_ids"])
    return CaptionReader(limit, tokens, length, lambda texts, _: texts, lambda _: limit, "tokens", length(""))
