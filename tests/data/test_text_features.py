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
from torch import Tensor

import langevin as library
from langevin import UserError, data
from langevin.cli import main
from langevin.cli.given import conditions
from langevin.data import text_features
from langevin.data.text_features import TextFeatures
from langevin.nn.text import decode_text, encode_texts

transformers = pytest.importorskip("transformers")

KINDS = ("clip", "t5", "bert")
TEXTS = ["a red bird", None, "dog", "", "a red bird", "the blue dog and a red bird of the sea", "unheard of"]
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


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoders")
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


# --- data ---


def pictures(root: Path, count: int = 24) -> Path:
    """Pictures, red or blue, that say which; every sixth says nothing."""
    root.mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (200 + i % 50, 0, 0) if i % 2 else (i, 0, 200)).save(root / f"{i:02d}.png")
        if i % 6:
            (root / f"{i:02d}.txt").write_text("a red bird" if i % 2 else "the blue dog of the sea")
    return root


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


# --- from end to end ---

NETWORK = ["--network.name", "dit", "--network.options", "width", "16", "depth", "1", "heads", "2"]


@pytest.fixture(scope="module")
def home(encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on captioned pictures."""
    root = tmp_path_factory.mktemp("told")
    words = ["--text-encoder", str(encoders / "clip"), "--out", str(root / "run"), "--steps", "2", "--batch", "8"]
    assert main(["train", str(pictures(root / "p", 120)), *words, *NETWORK, "--output.sample-every", "2"]) == 0
    model = library.load(root / "run", device="cpu")
    with torch.no_grad():  # two steps from zero say nothing
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    library.models.save(model, root / "model")
    return root


def run(*words: object) -> int:
    return main([str(word) for word in words])


def drawn(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as held:
        return held["x"]


def test_train_then_sample_under_a_caption(encoders: Path, home: Path, tmp_path: Path) -> None:
    model = library.load(home / "model", device="cpu")
    assert dict(model.condition_sizes) == {"sequence": WIDTH}
    assert model.data.source["text_encoder"] == str(encoders / "clip")
    words = ["sample", home / "model", "-n", 4, "--steps", 2]
    for text in ("a red bird", "the blue dog"):
        assert run(*words, "--given", f"caption={text}", "--out", tmp_path / text) == 0
    assert run(*words, "--out", tmp_path / "none") == 0
    found = {name: drawn(tmp_path / name) for name in ("a red bird", "the blue dog", "none")}
    for a, b in (("a red bird", "none"), ("a red bird", "the blue dog")):
        assert np.abs(found[a] - found[b]).max() > 1e-4
    record = json.loads((tmp_path / "a red bird" / "sample.json").read_text())
    assert record["given"] == ["caption=a red bird"]
    # The same as by the array, and as by transformers itself.
    features = own(encoders / "clip", "a red bird").half().float()
    np.save(tmp_path / "s.npy", features.numpy())
    assert run(*words, "--given", f"sequence={tmp_path / 's.npy'}", "--out", tmp_path / "array") == 0
    assert np.abs(drawn(tmp_path / "array") - found["a red bird"]).max() <= 1e-5
    bound = conditions(["caption=a red bird"], None, model)
    assert (bound["sequence"] - features).abs().max() <= ROUNDING * features.abs().max()


@pytest.mark.slow
def test_what_a_caption_says_is_learned(encoders: Path, home: Path, tmp_path: Path) -> None:
    """Red pictures for a red bird, blue ones for a blue dog: 200 in the colour that is said, 0 in the other, of 255."""
    options = {"width": "32", "depth": "2", "heads": "2"}
    config = library.training.Config(
        network=library.training.NetworkConfig("dit", options),
        budget=library.training.BudgetConfig(steps=300),
        optimiser=library.training.OptimiserConfig(lr=2e-3),
        batch=32,
    )
    told = data.load(home / "p", text_encoder=str(encoders / "t5"))
    library.training.train(config, told, tmp_path / "run", quiet=True)
    model = library.load(tmp_path / "run", device="cpu")
    for text, sign in (("a red bird", 1), ("the blue dog of the sea", -1)):
        x = library.sample(model.given(conditions([f"caption={text}"], None, model)), n=16, steps=12)
        assert ((x[:, 0] - x[:, 2]).mean((1, 2)) * sign).min() >= 0.5


def test_evaluate_and_likelihood_read_the_data_through_the_encoder(home: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    words = ["-n", 8, "--steps", 2, "--features", "pixels", "--out", found]
    assert run("evaluate", home / "model", *words) == 0
    assert json.loads(found.read_text())["samples"]["given"] == ["sequence"]
    assert run("likelihood", home / "model", home / "p", "-n", 2, "--bound", "--steps", 2, "--out", tmp_path / "l") == 0


def test_an_encoder_of_the_hub_is_not_fetched_unasked(
    encoders: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model directory may name any: only who says its name fetches it."""
    import huggingface_hub

    model = library.load(home / "model", device="cpu")
    source = {**model.data.source, "text_encoder": "owner/name@v1"}
    config = json.loads((home / "model" / "config.json").read_text())
    assert config["data"]["source"]["text_encoder"] == str(encoders / "clip")
    config["data"]["source"] = source
    folder = tmp_path / "model"
    library.models.save(model, folder)
    (folder / "config.json").write_text(json.dumps(config))
    fetched: list[str] = []

    def fetch(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        fetched.append(f"{repository}@{revision}")
        return str(encoders / "clip")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    sampled = ["sample", folder, "-n", 2, "--steps", 2, "--given", "caption=dog", "--out", tmp_path / "out"]
    asked = [
        sampled,
        ["evaluate", folder, "--data", home / "p", "-n", 8, "--out", tmp_path / "e.json"],
        ["likelihood", folder, home / "p", "-n", 2, "--bound", "--steps", 2, "--out", tmp_path / "l"],
        ["calibrate", folder, home / "p"],
    ]
    for words in asked:
        assert run(*words) != 0
        said = " ".join(capsys.readouterr().err.split())
        assert "the text encoder owner/name@v1, which is no directory here, and is fetched from the Hub only if" in said
        assert "--text-encoder owner/name@v1" in said
    assert fetched == []
    assert run(*sampled, "--text-encoder", "owner/name@v1") == 0
    assert fetched == ["owner/name@v1"]
    assert run(*sampled, "--text-encoder", encoders / "clip") == 0
    # Without a caption, or with the model told nothing, no encoder is needed.
    assert run(*sampled[:6], "--out", tmp_path / "out") == 0
    assert run(*asked[2], "--unconditional") == 0
    assert fetched == ["owner/name@v1"]


def test_captions_that_cannot_be_given(
    encoders: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = transformers.BertConfig(vocab_size=13, hidden_size=8, intermediate_size=8, num_attention_heads=1)
    narrow = saved(tmp_path / "narrow", transformers.BertModel(config))
    np.save(tmp_path / "s.npy", np.zeros((3, WIDTH), np.float32))
    words = ["sample", home / "model", "-n", 2, "--steps", 2, "--out", tmp_path / "out", "--given", "caption=dog"]
    for more, says in (
        (["--text-encoder", narrow], "makes features of 8 numbers, this model takes 16"),
        (["--text-encoder", tmp_path / "none"], "it is no directory"),
        (["--given", "caption=sea"], "caption was given twice"),
        (["--given", f"sequence={tmp_path / 's.npy'}"], "sequence was given twice"),
    ):
        assert run(*words, *more) != 0
        assert says in " ".join(capsys.readouterr().err.split())


# --- corners ---


def test_a_text_without_a_token_is_none(encoders: Path) -> None:
    """Of a tokenizer that adds no ends: the empty caption has no state to tell of."""
    encoder = TextFeatures(str(encoders / "bert"))
    encoder.tokenizer = transformers.AutoTokenizer.from_pretrained(encoders / "bert")
    encoder.tokenizer.backend_tokenizer.post_processor = None
    features = encoder(["", "dog", None])
    assert features.shape == (3, 1, WIDTH)
    assert features.isnan().all(-1)[:, 0].tolist() == [True, False, True]
    for texts in ([""], [None], []):
        with pytest.raises(UserError, match="there is no caption to encode"):
            encoder(texts)


def test_states_beyond_float16_are_refused(encoders: Path) -> None:
    encoder = TextFeatures(str(encoders / "bert"))
    encoder.model.encoder.layer[-1].output.LayerNorm.bias.fill_(1e5)
    with pytest.raises(UserError, match="its states of 'dog' are no numbers of float16"):
        encoder(["dog"])


def test_features_that_do_not_fit_are_refused(encoders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextFeatures(str(encoders / "bert"))
    monkeypatch.setattr("langevin.storage.untrusted.memory", lambda: 2 * 5 * 3 * WIDTH)  # of which nine tenths
    with pytest.raises(UserError, match="features of 5 captions, 3 x 16 each, would take 480 B of memory"):
        encoder(["dog", "sea", None, None, None])


def test_a_model_that_does_not_say_whose_features_it_is_told(
    encoders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = np.random.default_rng(0).normal(size=(40, 3, WIDTH)).astype(np.float32)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=pixels, sequence=states)
    words = ["--steps", 1, "--batch", 8, *NETWORK, "--output.sample-every", 0]
    assert run("train", tmp_path / "a.npz", "--out", tmp_path / "run", *words) == 0
    sampled = ["sample", tmp_path / "run", "-n", 2, "--steps", 2, "--given", "caption=dog", "--out", tmp_path / "out"]
    assert run(*sampled) != 0
    assert "does not say which encoder makes them; name it with --text-encoder" in " ".join(
        capsys.readouterr().err.split()
    )
    assert run(*sampled, "--text-encoder", encoders / "bert") == 0
