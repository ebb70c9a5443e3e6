"""A run on captions through a text encoder, from end to end: trained, sampled, measured, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_text_encoders import ROUNDING, WIDTH, own, pictures, saved, saved_all

import langevin as library
from langevin import UserError, data
from langevin.cli import main
from langevin.cli.given import conditions
from langevin.data.text_features import TextFeatures

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_all(tmp_path_factory.mktemp("encoders"))


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
