"""Public CLIP weights, as `transformers` keeps them, as a contrastive encoder."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError
from ..data import DataInfo
from ..data.text_features import check_directory, quietly, require_transformers
from ..denoisers import ContrastiveEncoder
from ..nn.dual_encoder import HOTTEST
from ..processes import EDM
from ..storage import files
from ..storage.untrusted import reading

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours in [0, 1], where a directory does not say others (arXiv:2103.00020's published code)."""

VOCABULARIES = ("tokenizer.json", "vocab.json")
"""Files of a tokenizer, of which one must be there: else an empty one is made."""

UNREAD = "position_ids"
"""The end of the name of a buffer that older files hold and newer models do not."""


def is_clip(folder: Path) -> bool:
    """Whether a directory is a CLIP model of transformers."""
    try:
        config = files.read_json(folder / CONFIG)
    except (UserError, OSError):
        return False
    return "langevin" not in config and config.get("model_type") == "clip"


class CLIPNetwork(nn.Module):
    """A CLIP model of transformers with the interface of ``nn.DualEncoder``; it learns no more.

    Pictures in [−1, 1] of any size are brought to the side that it reads, the middle square of others, by cubic
    interpolation without aliases, and standardised by its mean and standard deviation of each colour.

    Args:
        model: ``transformers.CLIPModel``.
        tokenizer: of its captions.
        mean, std: of the colours in [0, 1].
    """

    name: ClassVar[str] = "clip"
    reads: ClassVar[str] = "caption"

    def __init__(self, model: Any, tokenizer: Any, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.model, self.tokenizer = model.float().eval().requires_grad_(False), tokenizer
        self.side = int(model.config.vision_config.image_size)
        self.sized = int(min(model.config.text_config.max_position_embeddings, tokenizer.model_max_length))
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32)[:, None, None], persistent=False)

    @property
    def config(self) -> dict[str, Any]:
        """What there is to say of it: weights are where they came from."""
        return {"name": self.name, "size": self.side, "caption": self.sized}

    def train(self, mode: bool = True) -> CLIPNetwork:
        """It stays in evaluation mode."""
        return super().train(False)

    @property
    def scale(self) -> Tensor:
        """τ, at most 100."""
        scale: Tensor = self.model.logit_scale.exp().clamp(max=HOTTEST)
        return scale

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse what is no picture in colour."""
        if len(shape) != 3 or shape[0] != 3:
            raise UserError(f"CLIP reads pictures in colour (3, H, W), got {shape}")

    def pixels(self, x: Tensor) -> Tensor:
        """Pictures as the model is shown them, ``(B, 3, side, side)``."""
        height, width = x.shape[2:]
        if (height, width) != (self.side, self.side):
            scale = self.side / min(height, width)
            size = (max(self.side, round(scale * height)), max(self.side, round(scale * width)))
            x = F.interpolate(x, size, mode="bicubic", antialias=True)
            top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
            x = x[:, :, top : top + self.side, left : left + self.side]
        return ((x + 1) / 2 - self.mean.to(x)) / self.std.to(x)  # type: ignore[operator]

    def encode_image(self, x: Tensor, time: Tensor) -> Tensor:
        """Unit vectors ``(B, E)`` of clean pictures ``(B, 3, H, W)``; the time is not read."""
        vision = self.model.vision_model(pixel_values=self.pixels(x).float())
        return F.normalize(self.model.visual_projection(vision.pooler_output), dim=-1)

    def feature_map(self, x: Tensor, time: Tensor) -> Tensor:
        """The last states of the patches, ``(B, C, h, w)``."""
        states = self.model.vision_model(pixel_values=self.pixels(x).float()).last_hidden_state[:, 1:]
        side = round(states.shape[1] ** 0.5)
        made: Tensor = states.mT.unflatten(2, (side, side))
        return made

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Tokens ``(N, L)`` with −1 behind their end; a longer caption is cut, with a warning."""
        whole = self.tokenizer(list(texts))["input_ids"]
        for text, ids in zip(texts, whole):
            if len(ids) > self.sized:
                warnings.warn(
                    f"{text[:40]!r} is longer than the {self.sized} tokens this encoder reads: the rest is cut",
                    stacklevel=2,
                )
        rows = self.tokenizer(list(texts), truncation=True, max_length=self.sized)["input_ids"]
        tokens = torch.full((len(rows), max(map(len, rows), default=1)), -1)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        return tokens

    def encode_text(self, value: Tensor) -> Tensor:
        """Unit vectors ``(B, E)`` of tokens as ``tokenize`` gives them; zero where there is none."""
        known = self.model.config.text_config.vocab_size
        if value.ndim != 2 or value.is_floating_point() or bool((value >= known).any()):
            raise UserError(f"tokens must lie from -1 to {known - 1}, (B, L), as tokenize gives them")
        present = (value >= 0).any(1)
        if not bool(present.any()):
            return torch.zeros(len(value), self.model.config.projection_dim, device=value.device)
        # What is absent is asked as the first that is there, so that no softmax is over nothing.
        ids = torch.where(present[:, None], value, value[present][:1])
        mask = ids >= 0
        padded = torch.where(mask, ids, self.tokenizer.pad_token_id or 0)
        states = self.model.text_model(input_ids=padded, attention_mask=mask.long())
        return F.normalize(self.model.text_projection(states.pooler_output), dim=-1) * present[:, None]


def load(folder: Path, *, device: torch.device | str | None = None) -> ContrastiveEncoder:
    """The CLIP model of a directory: weights in safetensors alone, no code of it is run, nothing is unpickled.

    Args:
        folder: as ``save_pretrained`` of ``CLIPModel`` and its tokenizer writes it.
        device: where it goes; a CUDA device if there is one, else the CPU, if not given.

    Raises:
        UserError: without the `transformers` package, and for files that are missing, damaged or of another model.
    """
    title = f"encoder {folder}"
    transformers = require_transformers(str(folder))
    with reading(title), quietly(transformers):
        check_directory(folder, title)
        if not any((folder / name).is_file() for name in VOCABULARIES):
            raise UserError(f"{title} has no tokenizer: one of {', '.join(VOCABULARIES)} must be there")
        safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **safe)
        model, loaded = transformers.CLIPModel.from_pretrained(
            str(folder), use_safetensors=True, output_loading_info=True, local_files_only=True
        )
        if lost := sorted(key for key in loaded["missing_keys"] if not key.endswith(UNREAD)):
            raise UserError(f"its weights lack {lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''}")
        mean, std = _colours(folder)
        network = CLIPNetwork(model, tokenizer, mean, std)
    network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = DataInfo(f"CLIP {folder.name}", (3, network.side, network.side))
    return ContrastiveEncoder(network, EDM(), data, 1.0, noisy=False)


def _colours(folder: Path) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the colours that a directory says."""
    if not (folder / PREPROCESSOR).is_file():
        return MEAN, STD
    said = files.read_json(folder / PREPROCESSOR)
    found = [said.get("image_mean", list(MEAN)), said.get("image_std", list(STD))]
    for name, value in zip(("image_mean", "image_std"), found):
        good = isinstance(value, list) and len(value) == 3 and all(type(v) in (int, float) for v in value)
        if not good or (name == "image_std" and not min(value) > 0):
            raise UserError(f"{PREPROCESSOR}: {name} must be three numbers, got {value!r:.60}")
    return found[0], found[1]
