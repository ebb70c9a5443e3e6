"""Features of captions, by a frozen text encoder of Hugging Face `transformers`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, nearest
from ..nn.text import encode_texts
from ..storage.untrusted import JSON_BYTES, contents, parse_json, reading, reason, room
from ._progress import track
from .captions import LONGEST
from .dataset import Options

TEXT_PARTS = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
"""The class that encodes texts alone, by ``model_type``, of models that do more; all else is ``AutoModel``."""

FETCHED = ["*.json", "*.txt", "*.model", "model*.safetensors"]
"""Files of a repository of the Hub that are fetched: no pickle and no code is among them."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Weights that are not opened."""

BATCH = 32
"""Captions that are encoded at a time."""


class TextFeatures:
    """A frozen text encoder: captions to the last hidden states of their tokens.

    In evaluation mode, without gradients, in float32, on a GPU if there is one. No code of the encoder's is run and no
    pickle is opened: a directory, or a repository, must hold its weights in safetensors.

    Args:
        name: a directory as ``save_pretrained`` writes it, or ``owner/name`` or ``owner/name@revision`` of the Hub.

    Raises:
        UserError: without the `transformers` package, for what is no such place, or what does not load from it.
    """

    def __init__(self, name: str) -> None:
        transformers = require_transformers(name)
        folder = _find(name)
        title = f"text encoder {name}"
        with reading(title), quietly(transformers):
            kind = check_directory(folder, title)
            safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **safe)
            made = getattr(transformers, TEXT_PARTS.get(kind, "AutoModel"))
            model, loaded = made.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True, **safe)
            # What a pooler would make of the states is not read.
            if lost := sorted(key for key in loaded["missing_keys"] if "pooler" not in key):
                raise UserError(f"its weights lack {lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''}")
            if getattr(model.config, "is_encoder_decoder", False):
                model = model.get_encoder()
            self.model = model.float().eval().requires_grad_(False)
        self.name = name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        places = getattr(self.model.config, "max_position_embeddings", None) or LONGEST
        self.length = int(min(LONGEST, self.tokenizer.model_max_length, places))

    def __call__(self, texts: Sequence[str | None], *, progress: bool = False) -> Tensor:
        """The condition ``sequence`` of captions: float16 ``(N, L, F)``, L the tokens of the longest, 256 at most.

        Not-a-numbers stand behind the end of a caption, and throughout where there is none. float16 halves the memory
        and keeps 11 bits; an encoder's states, which a norm comes last to, are far from its ends.

        Args:
            texts: captions; None is none. Longer ones than the encoder has places for are cut.
            progress: show a bar when it takes longer than two seconds.

        Raises:
            UserError: if no text has a token, if it takes more memory than there is, or states beyond float16.
        """
        rows: dict[str, list[int]] = {}
        for i, text in enumerate(texts):
            if text is not None:
                rows.setdefault(text, []).append(i)  # a caption that many pictures have is encoded once
        with reading(f"text encoder {self.name}"):
            return self._encoded(len(texts), rows, progress)

    def _encoded(self, count: int, rows: dict[str, list[int]], progress: bool) -> Tensor:
        unique = list(rows)
        ids = self.tokenizer(unique, truncation=True, max_length=self.length)["input_ids"] if unique else []
        told = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: -len(ids[i]))
        if not told:
            raise UserError("there is no caption to encode")
        found: Tensor | None = None
        batches = [told[first : first + BATCH] for first in range(0, len(told), BATCH)]
        for batch in track(batches, len(batches), "encoding captions", progress):
            states = self._states([ids[i] for i in batch])
            if found is None:
                shape = (count, len(ids[told[0]]), states.shape[2])
                room(2 * shape[0] * shape[1] * shape[2], f"features of {count} captions, {shape[1]} x {shape[2]} each,")
                found = torch.full(shape, torch.nan, dtype=torch.float16)
            for i, state in zip(batch, states):
                state = state[: len(ids[i])]
                if not bool(state.isfinite().all()):
                    raise UserError(f"its states of {unique[i][:40]!r} are no numbers of float16")
                found[rows[unique[i]], : len(state)] = state
        assert found is not None
        return found

    @torch.no_grad()
    def _states(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """The last hidden states of token ids, float16 ``(B, L, F)``; what stands behind an end means nothing."""
        length = max(map(len, ids))
        pad = self.tokenizer.pad_token_id or 0
        tokens = torch.tensor([[*row, *[pad] * (length - len(row))] for row in ids], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids], device=self.device)
        states: Tensor = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        return states.to("cpu", torch.float16)


def is_directory(name: str) -> bool:
    """Whether an encoder of this name is a directory here, and not one to be fetched."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        return Path(name).expanduser().is_dir()
    return False


def encode_captions(texts: Sequence[str | None], encoder: str, title: str, progress: bool = False) -> Tensor:
    """The condition ``sequence`` of the captions of data, see :class:`TextFeatures`.

    Raises:
        UserError: as there, and for data without captions.
    """
    if all(text is None for text in texts):
        raise UserError(f"text_encoder was given, but {title} has no captions")
    return TextFeatures(encoder)(texts, progress=progress)


def caption_conditions(
    parts: Sequence[Sequence[str]], options: Options, title: str, length: int
) -> list[dict[str, Tensor]]:
    """What the captions of each part of data become, by name: ``caption`` or, of an encoder, ``sequence``.

    Captions are int16 ``(N, length)``; a sequence is as long in every part.
    """
    texts = [text for part in parts for text in part]
    if options.text_encoder is not None:
        name, made = "sequence", encode_captions(texts, options.text_encoder, title, options.progress)
    else:
        name, made = "caption", encode_texts(texts, length).to(torch.int16)
    return [{name: own} for own in made.split([len(part) for part in parts])]


def require_transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError(f'text encoder {name} needs the package transformers: pip install "langevin[text]"') from None
    return transformers


def _find(name: str) -> Path:
    """The directory of an encoder, fetched if it is a repository of the Hub."""
    if is_directory(name):
        return Path(name).expanduser()
    repository, _, revision = name.partition("@")
    _, slash, rest = repository.partition("/")
    if name.startswith((".", "~", "/")) or "/" in rest or "\\" in name or (slash and not rest) or Path(name).exists():
        parent = Path(name).expanduser().parent
        beside = [str(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        raise UserError(f"no text encoder {name!r}: it is no directory.{nearest(name, beside)}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=FETCHED))
    except Exception as error:
        # Network, permissions, names that are none: the library has an exception for each.
        raise UserError(
            f"no text encoder {name!r}: no directory of that name, and the Hub gives none: {reason(error)}"
        ) from None


def check_directory(folder: Path, title: str) -> str:
    """The ``model_type`` of a directory that holds a configuration and weights in safetensors that fit into memory."""
    try:
        config = parse_json(contents(folder / "config.json", JSON_BYTES))
    except FileNotFoundError:
        raise UserError(
            f"{title} has no config.json: it is not what `save_pretrained` of transformers writes"
        ) from None
    weights = list(folder.glob("model*.safetensors"))
    if not weights:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        only = f", only {pickles[0]}, a pickle, which is not opened" if pickles else ""
        raise UserError(f"{title} has no weights in safetensors{only}")
    room(sum(path.stat().st_size for path in weights), f"{title}")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise UserError(f"{title} says no model_type in its config.json, got {json.dumps(kind)[:40]}")
    return kind


@contextlib.contextmanager
def quietly(transformers: Any) -> Iterator[None]:
    """Without the bars and reports of loading, which a text part of a larger model would fill with what it leaves."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
