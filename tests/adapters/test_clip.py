"""CLIP weights as transformers keeps them: a random model of a few thousand numbers, against transformers itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import langevin
from langevin import UserError, models, worlds
from langevin.adapters.clip import MEAN, STD
from langevin.denoisers import ContrastiveEncoder
from langevin.generate import model_digest
from langevin.guidance import ClipSettings, similarity
from langevin.nn.text import encode_texts
from langevin.processes import EDM
from langevin.tasks.disco import disco

transformers = pytest.importorskip("transformers")
SIDE, PLACES = 16, 12
WORDS = ("a", "the", "and", "of", "red", "blue", "bird", "dog", "sea")
TEXTS = ["a red bird", "dog", "the blue dog of the sea"]


def saved(folder: Path, **more: Any) -> Path:
    """A CLIP model with random weights, and a tokenizer of nine words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config={"vocab_size": 13, "max_position_embeddings": PLACES, **shape, **ends},
        vision_config={"image_size": SIDE, "patch_size": 4, **shape},
        projection_dim=8,
        **more,
    )
    transformers.CLIPModel(config).eval().save_pretrained(folder)
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ContrastiveEncoder:
    made: ContrastiveEncoder = langevin.load(folder, device="cpu")
    return made


def test_its_checksum_is_of_its_tokenizer_too(folder: Path, tmp_path: Path) -> None:
    """Files that pictures depend on, of which ``langevin replay`` says when they are others."""
    whole = model_digest(folder)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        place = shutil.copytree(folder, tmp_path / name)
        (place / name).write_bytes((place / name).read_bytes() + b" ")
        assert model_digest(place) != whole


def pictures(side: int = SIDE, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def shown(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_logits_are_those_of_transformers(folder: Path, encoder: ContrastiveEncoder) -> None:
    """Captions of several lengths in one batch; pixels by transformers' own preparation. Float32: a relative 1e-5."""
    own = transformers.CLIPModel.from_pretrained(folder).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    prepared = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})(
        list(pictures()), return_tensors="pt"
    )
    with torch.no_grad():
        known = own(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=prepared["pixel_values"],
        ).logits_per_image
        found = encoder.logits(shown(pictures()), TEXTS)
    torch.testing.assert_close(found, known, rtol=1e-5, atol=1e-5)
    assert known.std() > 0.1


@pytest.mark.parametrize("tall", [False, True])
def test_other_sizes_are_brought_to_its_own(encoder: ContrastiveEncoder, tall: bool) -> None:
    """Smooth pictures, the middle square of wide ones: interpolations of two libraries differ by little, in pixels."""
    where = torch.linspace(-1, 1, 40)
    wide = torch.stack([where.expand(32, 40), where[:32, None].expand(32, 40), -where.expand(32, 40)])
    wide = wide.mT if tall else wide
    pixels = ((wide + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
    prepared = transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})(
        pixels, return_tensors="pt"
    )["pixel_values"]
    network: Any = encoder.network
    assert (network.pixels(shown(pixels[None])) - prepared).abs().max() < 0.05  # of standardised colours, ±2


def test_absent_captions_and_long_ones(encoder: ContrastiveEncoder) -> None:
    tokens = encoder.network.tokenize(TEXTS)  # type: ignore[operator]
    gone = torch.cat([tokens, torch.full((1, tokens.shape[1]), -1)])
    vectors = encoder.encode_text(gone)
    assert (vectors[3] == 0).all()
    torch.testing.assert_close(vectors[:3], encoder.encode_text(TEXTS))
    torch.testing.assert_close(vectors[:3].norm(dim=1), torch.ones(3))
    assert (encoder.encode_text(gone[3:]) == 0).all()
    with pytest.warns(UserWarning, match=f"longer than the {PLACES} tokens"):
        assert encoder.network.tokenize(["red " * 40]).shape == (1, PLACES)  # type: ignore[operator]


def test_the_colours_are_those_that_the_directory_says(folder: Path, tmp_path: Path) -> None:
    import shutil

    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    x = torch.rand(1, 3, SIDE, SIDE)
    for place, mean, std in ((folder, MEAN, STD), (other, [0.5] * 3, [0.25] * 3)):
        network: Any = langevin.load(place, device="cpu").network
        known = ((x + 1) / 2 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        torch.testing.assert_close(network.pixels(x), known)
    (other / "preprocessor_config.json").write_text(json.dumps({"image_std": [0.25, 0, 1]}))
    with pytest.raises(UserError, match="image_std must be three numbers"):
        langevin.load(other)


def test_it_guides_a_model_of_other_size_and_is_asked_of_clean_data_alone(encoder: ContrastiveEncoder) -> None:
    world = worlds.Empirical(shown(pictures(20)).double()).denoiser(EDM())
    vectors = encoder.encode_text(["a red bird"])
    made = disco(
        world, encoder, vectors, [1.0], n=2, steps=3, init_image=shown(pictures(20))[:1].double(),
        settings=ClipSettings(cut_overview=2, cut_innercut=2, init_scale=10),
    )  # fmt: skip
    assert made.x.shape == (2, 3, 20, 20)
    guided = similarity(world, encoder, text="a red bird")
    x = torch.randn(1, 3, 20, 20, dtype=torch.float64)
    assert (guided(x, 0.01).mean - world(x, 0.01).mean).abs().max() > 0
    with pytest.raises(UserError, match="knows clean data alone"):
        encoder.encode_image(x, 0.01)
    with pytest.raises(UserError, match="pictures in colour"):
        encoder.encode_image(x[:, :1])


def test_it_stays_where_it_came_from(encoder: ContrastiveEncoder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"only networks made by langevin.nn can be saved, got CLIPNetwork"):
        models.save(encoder, tmp_path / "no")
    assert not any(p.requires_grad for p in encoder.network.parameters())
    assert not encoder.network.train().training


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("pickle", "only pytorch_model.bin, a pickle, which is not opened"),
        ("lost", "its weights lack"),
        ("damaged", "cannot be read"),
        ("no words", "has no tokenizer"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path: Path, case: str, said: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = saved(tmp_path)
    weights = load_file(folder / "model.safetensors")
    if case == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    if case == "lost":
        weights.pop("visual_projection.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if case == "damaged":
        (folder / "model.safetensors").write_bytes(b"no weights")
    if case == "no words":
        for path in folder.glob("token*"):
            path.unlink()
    with pytest.raises(UserError, match=said):
        langevin.load(folder)


def test_tokens_of_bytes_are_none_of_its_own(encoder: ContrastiveEncoder) -> None:
    """Its vocabulary ends at 13: bytes are refused with a sentence, not by an index out of range."""
    with pytest.raises(UserError, match="tokens must lie"):
        encoder.encode_text(encode_texts(["a"], 8))
