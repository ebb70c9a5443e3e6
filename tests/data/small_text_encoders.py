"""Text encoders of a few thousand random weights, and pictures with captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

transformers = pytest.importorskip("transformers")

KINDS = ("clip", "t5", "bert")
WIDTH, PLACES = 16, 12
ROUNDING = 2**-10
"""Of float16, twice: half a unit in the last of 11 bits, for sums of float32 in another order too."""


def tokenizer(folder: Path) -> None:
    """Words between a token for the beginning and one for the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "the", "and", "of", "red", "blue", "bird", "dog"]
    words.append("sea")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    fast.save_pretrained(folder)


def network(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "clip":
        tokens = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
        config = transformers.CLIPTextConfig(vocab_size=13, max_position_embeddings=PLACES, **shape, **tokens, **more)
        return transformers.CLIPTextModel(config)
    if kind == "t5":
        sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        return transformers.T5EncoderModel(transformers.T5Config(vocab_size=13, **sizes, **more))
    config = transformers.BertConfig(vocab_size=13, max_position_embeddings=PLACES, **shape, **more)
    return transformers.BertModel(config)


def saved(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def saved_all(root: Path) -> Path:
    """One encoder of each kind, in folders of these names."""
    for kind in KINDS:
        saved(root / kind, network(kind))
    return root


def own(folder: Path, text: str) -> Tensor:
    """The states of one caption by transformers alone, without padding: float32 ``(L, F)``."""
    kind = {"clip": "CLIPTextModel", "t5": "T5EncoderModel", "bert": "BertModel"}[folder.name]
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        text, return_tensors="pt", truncation=True, max_length=PLACES if folder.name != "t5" else 256
    )
    with torch.no_grad():
        return model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state[0]


def pictures(root: Path, count: int = 24) -> Path:
    """Pictures, red or blue, that say which; every sixth says nothing."""
    root.mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (200 + i % 50, 0, 0) if i % 2 else (i, 0, 200)).save(root / f"{i:02d}.png")
        if i % 6:
            (root / f"{i:02d}.txt").write_text("a red bird" if i % 2 else "the blue dog of the sea")
    return root
