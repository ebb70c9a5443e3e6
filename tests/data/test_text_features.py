"""Captions through text encoders of `transformers`: random ones of a few thousand numbers, made and saved here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_text_encoders import KINDS, PLACES, ROUNDING, WIDTH, network, own, pictures, saved, saved_all
from torch import Tensor

from langevin import UserError, data
from langevin.data import text_features
from langevin.data.text_features import TextFeatures
from langevin.nn.text import decode_text, encode_texts

transformers = pytest.importorskip("transformers")
TEXTS = ["a red bird", None, "dog", "", "a red bird", "the blue dog and a red bird of the sea", "unheard of"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_all(tmp_path_factory.mktemp("encoders"))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_last_hidden_states_of_transformers(encoders: Path, kind: str) -> None:
    """In one batch with longer captions, whose padding is read by none; absent ones are not-a-numbers throughout."""
    features = TextFeatures(str(encoders / kind))(TEXTS)
    assert features.dtype == torch.float16
    assert features.shape == (len(TEXTS), 12, WIDTH)  # ten words and both ends
    for text, row in zip(TEXTS, features):
        if text is None:
            assert row.isnan().all()
            continue
        states = own(encoders / kind, text)
        assert (row[: len(states)].float() - states).abs().max() <= ROUNDING * states.abs().max()
        assert row[len(states) :].isnan().all()
    assert torch.equal(features[0].nan_to_num(9), features[4].nan_to_num(9))
    assert not torch.equal(features[0, :3], features[5, :3])


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_frozen_and_batches_change_nothing(
    encoders: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = TextFeatures(str(encoders / kind))
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}
    whole = encoder(TEXTS)
    monkeypatch.setattr(text_features, "BATCH", 2)
    parts = encoder(TEXTS)
    assert torch.equal(whole.isnan(), parts.isnan())
    size = whole.nan_to_num(0).abs().max()
    assert (whole.nan_to_num(0).float() - parts.nan_to_num(0).float()).abs().max() <= ROUNDING * size


def test_long_captions_are_cut_where_the_encoder_ends(encoders: Path) -> None:
    long = "red " * 400
    for kind, length in (("clip", PLACES), ("bert", PLACES), ("t5", 256)):
        assert TextFeatures(str(encoders / kind))([long, None]).shape == (2, length, WIDTH)


def test_the_text_part_of_a_larger_model(encoders: Path, tmp_path: Path) -> None:
    """A whole CLIP, and a whole T5: the decoder and the pictures' half are left where they are, and nothing is said."""
    torch.manual_seed(1)
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text = network("clip").config.to_dict()
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**vision, "image_size": 8, "patch_size": 4}, projection_dim=8
    )
    clip = transformers.CLIPModel(config).eval()
    saved(tmp_path / "clip", clip)
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    t5 = transformers.T5Model(transformers.T5Config(vocab_size=13, **sizes)).eval()
    saved(tmp_path / "t5", t5)
    tokens = torch.tensor([[2, 4, 8, 10, 3]])
    with torch.no_grad():
        for folder, model in (("clip", clip.text_model), ("t5", t5.encoder)):
            states = model(input_ids=tokens).last_hidden_state[0]
            found = TextFeatures(str(tmp_path / folder))(["a red bird"])[0].float()
            assert (found - states).abs().max() <= ROUNDING * states.abs().max()


def test_half_precision_weights_are_computed_in_float32(encoders: Path, tmp_path: Path) -> None:
    saved(tmp_path / "bert", network("bert").to(torch.bfloat16))
    encoder = TextFeatures(str(tmp_path / "bert"))
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}


def test_a_model_whose_pooler_was_not_saved(encoders: Path, tmp_path: Path) -> None:
    """As of masked-language models: the pooler is not read, so it is no loss."""
    torch.manual_seed(0)
    config = network("bert").config
    saved(tmp_path / "bert", transformers.BertForMaskedLM(config))
    assert TextFeatures(str(tmp_path / "bert"))(["dog"]).shape == (1, 3, WIDTH)


def weights_of(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


REFUSED = [
    ("pickle", "no weights in safetensors, only pytorch_model.bin, a pickle, which is not opened"),
    ("nothing", "has no config.json"),
    ("no kind", "says no model_type"),
    ("code", "cannot be read|custom code|model type"),
    ("lost", "its weights lack"),
    ("damaged", "cannot be read"),
    ("words", "cannot be read"),
]


@pytest.mark.parametrize(("case", "says"), REFUSED)
def test_what_is_no_encoder_is_refused(encoders: Path, tmp_path: Path, case: str, says: str) -> None:
    from safetensors.torch import save_file

    folder = saved(tmp_path / "bert", network("bert"))
    config = json.loads((folder / "config.json").read_text())
    if case == "pickle":
        weights = weights_of(folder)
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    if case == "nothing":
        (folder / "config.json").unlink()
    if case == "no kind":
        del config["model_type"]
    if case == "code":
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModel": "mine.M"}}
        (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nC = M = None\n")
    if case == "lost":
        weights = weights_of(folder)
        del weights["encoder.layer.1.output.dense.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if case == "damaged":
        (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    if case == "words":
        (folder / "tokenizer.json").write_text("[]")
    if case in ("no kind", "code"):
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=says) as error:
        TextFeatures(str(folder))
    assert str(folder) in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_places_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No path is looked for on the Hub; what is fetched there is no pickle and no code, of the revision said."""
    import huggingface_hub

    asked: list[tuple[Any, ...]] = []

    def fetch(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        raise OSError("no network here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    (tmp_path / "file").write_text("")
    (tmp_path / "encoder").mkdir()
    for name in ("./none", "../none", "~/none", str(tmp_path / "encodr"), "a/b/c", "a/", str(tmp_path / "file")):
        with pytest.raises(UserError, match="it is no directory"):
            TextFeatures(name)
    with pytest.raises(UserError, match=f"Did you mean '{tmp_path / 'encoder'}'"):
        TextFeatures(str(tmp_path / "encodr"))
    assert asked == []
    for name in ("owner/name", "owner/name@v1", "t5-small"):
        with pytest.raises(UserError, match=f"no text encoder '{name}'.*the Hub gives none: no network here"):
            TextFeatures(name)
    assert [a[:2] for a in asked] == [("owner/name", None), ("owner/name", "v1"), ("t5-small", None)]
    assert asked[0][2] == ["*.json", "*.txt", "*.model", "model*.safetensors"]


def test_without_transformers_a_sentence_says_what_to_install(
    encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'needs the package transformers: pip install "langevin\[text\]"'):
        TextFeatures(str(encoders / "bert"))


def test_captions_of_a_folder_become_a_sequence(encoders: Path, tmp_path: Path) -> None:
    folder, name = pictures(tmp_path / "p"), str(encoders / "clip")
    made = data.load(folder, text_encoder=name)
    assert made.info.conditions == {"sequence": (8, WIDTH)}
    assert made.info.condition_sizes == {"sequence": WIDTH}
    assert made.info.source == {"source": str(folder), "text_encoder": name}
    assert data.DataInfo.from_dict(made.info.to_dict()).source == made.info.source
    again = data.load(**made.info.source)
    states = {text: own(encoders / "clip", text) for text in ("a red bird", "the blue dog of the sea")}
    for split, same in ((made.train, again.train), (made.test, again.test)):
        assert split.conditions["sequence"].dtype == torch.float16
        batch = split.all()
        assert batch["sequence"].dtype == torch.float32
        assert torch.equal(batch["sequence"].nan_to_num(9), same.all()["sequence"].nan_to_num(9))
        for x, row in zip((batch["x"] + 1) * 127.5, batch["sequence"]):
            red, blue = round(float(x[0, 0, 0])), round(float(x[2, 0, 0]))
            number = red - 200 if not blue else red
            if number % 6 == 0:
                assert row.isnan().all()
                continue
            wanted = states["a red bird" if number % 2 else "the blue dog of the sea"]
            assert (row[: len(wanted)] - wanted).abs().max() <= ROUNDING * wanted.abs().max()
            assert row[len(wanted) :].isnan().all()


def test_captions_of_an_array_file_and_of_the_hub(encoders: Path, tmp_path: Path) -> None:
    name, texts = str(encoders / "bert"), ["dog", "a red bird", None, "dog"] * 10
    x = np.zeros((40, 1, 4, 4), np.uint8)
    x[:, 0, 0, 0] = np.arange(40)
    np.savez(tmp_path / "a.npz", x=x, caption=encode_texts(texts, 20).numpy())
    held = [data.load(tmp_path / "a.npz", text_encoder=name)]
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.fromarray(picture[0]) for picture in x], "text": texts}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "hub")
    held.append(data.load(tmp_path / "hub", text_encoder=name))
    expected = TextFeatures(name)(texts)
    for made in held:
        assert made.info.conditions == {"sequence": (5, WIDTH)}
        for split in (made.train, made.test):
            batch = split.all()
            number = ((batch["x"][:, 0, 0, 0] + 1) * 127.5).round().long()
            assert torch.equal(batch["sequence"].nan_to_num(9), expected[number].float().nan_to_num(9))


def test_captions_of_data_by_name(encoders: Path) -> None:
    name = str(encoders / "bert")
    found = data.load("glyphs", size=16, limit=5, text_encoder=name)
    texts = data.load("glyphs", size=16, limit=5)
    assert "caption" not in found.info.conditions
    assert found.info.source == {"source": "glyphs", "size": 16, "limit": 5, "text_encoder": name}
    for split, plain in ((found.train, texts.train), (found.test, texts.test)):
        captions = [decode_text(tokens) for tokens in plain.all()["caption"]]
        made = split.all()["sequence"]
        assert made.shape[1:] == found.info.conditions["sequence"]
        for row, caption in zip(made, captions):
            states = own(encoders / "bert", caption)
            assert (row[: len(states)] - states).abs().max() < ROUNDING * states.abs().max()


def test_data_that_have_no_captions_are_refused(encoders: Path, tmp_path: Path) -> None:
    name = str(encoders / "bert")
    with pytest.raises(UserError, match="text_encoder is for data with captions, which digits has none of"):
        data.load("digits", text_encoder=name)
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 2)))
    with pytest.raises(UserError, match=r"text_encoder was given, but .*a.npz has no captions"):
        data.load(tmp_path / "a.npz", text_encoder=name)
    tokens, states = encode_texts(["dog"] * 20, 5).numpy(), np.zeros((20, 2, 3))
    np.savez(tmp_path / "b.npz", x=np.zeros((20, 2)), caption=tokens, sequence=states)
    with pytest.raises(UserError, match="text_encoder makes the condition sequence, which these data have already"):
        data.load(tmp_path / "b.npz", text_encoder=name)
    folder = pictures(tmp_path / "p", 4)
    for wrong in ("", "  ", 3):
        with pytest.raises(UserError, match="text_encoder must be a directory or owner/name of the Hub"):
            data.load(folder, text_encoder=wrong)  # type: ignore[arg-type]
