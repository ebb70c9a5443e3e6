"""Conditions on the command line: what is typed is what is bound, and what cannot be is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from said import Run

import conditioned
import langevin as library
from langevin.cli.given import conditions
from langevin.generate import Recipe, Shards, generate
from langevin.nn.text import encode_text

WORDS = ["-n", 8, "--steps", 2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of every condition, and files to give it."""
    root = tmp_path_factory.mktemp("given")
    conditioned.saved(root / "model")
    g = np.random.default_rng(1)
    Image.fromarray(g.integers(0, 256, (4, 4), dtype=np.uint8)).save(root / "a.png")
    Image.fromarray(g.integers(0, 256, (4, 4), dtype=np.uint8)).save(root / "b.png")
    Image.fromarray(g.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(root / "large.png")
    Image.fromarray((g.random((8, 8)) < 0.5).astype(np.uint8) * 255).save(root / "mask.png")
    np.save(root / "eight.npy", g.integers(0, 256, (8, 1, 4, 4), dtype=np.uint8))
    np.save(root / "seven.npy", g.integers(0, 256, (7, 1, 4, 4), dtype=np.uint8))
    np.save(root / "colour.npy", g.random((8, 3, 4, 4), dtype=np.float32))
    np.save(root / "complex.npy", np.zeros((1, 4, 4), complex))
    np.save(root / "holes.npy", np.where(np.arange(16).reshape(1, 4, 4) > 3, np.nan, 0.0))
    np.savez(root / "held.npz", image=g.random((1, 4, 4)), other=np.zeros(3))
    np.savez(root / "other.npz", other=np.zeros(3))
    np.save(root / "vectors.npy", g.normal(size=(8, 2)))
    (root / "text.png").write_text("no picture")
    return root


def drawn(folder: Path) -> np.ndarray:
    with np.load(folder / "samples.npz") as held:
        return held["x"]


def bytes_of(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).copy()).float() / 127.5 - 1


@pytest.mark.filterwarnings("error")
def test_what_is_typed_is_what_is_bound(home: Path) -> None:
    model = library.load(home / "model", device="cpu")
    typed = ["label=2", "caption=a=b, é", "vector=0.5,-1e1", f"image={home / 'a.png'}", f"mask={home / 'mask.png'}"]
    found = conditions(typed, None, model)
    assert found["label"] == 2
    assert torch.equal(found["caption"], encode_text("a=b, é", 10))
    assert found["vector"].tolist() == [0.5, -10.0]
    assert (found["image"] - bytes_of(home / "a.png")[None]).abs().max() <= 2**-22
    assert torch.equal(found["mask"], (bytes_of(home / "mask.png")[None] > 0).float())
    assert conditions([], "1", model) == {"label": 1}
    assert conditions([], None, model) == {}
    # An array file: bytes as pictures, one each; by its name in an archive.
    eight = conditions([f"image={home / 'eight.npy'}"], None, model)["image"]
    assert torch.equal(eight, torch.from_numpy(np.load(home / "eight.npy")).float() / 127.5 - 1)
    held = conditions([f"image={home / 'held.npz'}"], None, model)["image"]
    assert torch.equal(held, torch.from_numpy(np.load(home / "held.npz")["image"]).float())
    # A picture of another size, and in colour, is brought to that of the data: its middle, not squeezed.
    large = conditions([f"image={home / 'large.png'}"], None, model)["image"]
    grey = torch.from_numpy(np.asarray(Image.open(home / "large.png").convert("L")).copy())[None, None] / 255
    middle = torch.nn.functional.interpolate(grey[..., 5:35], (4, 4), mode="bicubic", antialias=True)[0]
    assert (large - (2 * middle - 1)).abs().max() <= 1e-6


def test_sample_under_all_of_them(langevin: Run, home: Path, tmp_path: Path) -> None:
    given = ["--given", "label=1", "--given", "caption=3 red", "--given", "vector=0.5,1"]
    given += ["--given", f"image={home / 'a.png'}", "--given", f"mask={home / 'mask.png'}"]
    assert langevin("sample", home / "model", *WORDS, *given, "--out", tmp_path / "a").code == 0
    record = json.loads((tmp_path / "a" / "sample.json").read_text())
    assert record["given"] == given[1::2]
    assert record["label"] == 1
    model = library.load(home / "model", device="cpu")
    bound = conditions(given[1::2], None, model)
    assert np.array_equal(drawn(tmp_path / "a"), generate(model, Recipe(steps=2), 8, given=bound).x.numpy())
    assert langevin("sample", home / "model", *WORDS, "--out", tmp_path / "b").code == 0
    assert np.abs(drawn(tmp_path / "a") - drawn(tmp_path / "b")).max() > 1e-3
    short = [*given[2:], "--label", "1"]
    assert langevin("sample", home / "model", *WORDS, *short, "--out", tmp_path / "c").code == 0
    assert np.array_equal(drawn(tmp_path / "a"), drawn(tmp_path / "c"))


def test_sample_under_one_each(langevin: Run, home: Path, tmp_path: Path) -> None:
    given = ["--given", f"image={home / 'eight.npy'}", "--given", f"vector={home / 'vectors.npy'}"]
    assert langevin("sample", home / "model", *WORDS, *given, "--out", tmp_path / "a").code == 0
    assert langevin("sample", home / "model", *WORDS, *given, "--batch", 3, "--out", tmp_path / "b").code == 0
    assert np.abs(drawn(tmp_path / "a") - drawn(tmp_path / "b")).max() < 1e-5  # sums of float32 in another order
    images = np.load(home / "eight.npy")
    np.save(tmp_path / "one.npy", images[5])
    one = ["--given", f"image={tmp_path / 'one.npy'}", *given[2:]]
    assert langevin("sample", home / "model", *WORDS, *one, "--out", tmp_path / "c").code == 0
    gap = np.abs(drawn(tmp_path / "a") - drawn(tmp_path / "c")).reshape(8, -1).max(1)
    assert gap[5] < 1e-5
    assert (np.delete(gap, 5) > 1e-4).all()


REFUSED = [
    ("imag=a.png", "unknown condition 'imag'. Did you mean 'image'"),
    ("sequence=HOME/eight.npy", "unknown condition 'sequence'"),
    ("image", "given must be NAME=VALUE, such as label=3, got 'image'"),
    ("image=", "cannot be read"),
    ("image=HOME/none.png", "none.png cannot be read"),
    ("image=HOME/text.png", "text.png cannot be read: not a picture"),
    ("image=HOME", "cannot be read"),
    ("image=HOME/none.npy", "none.npy is not a readable NumPy file"),
    ("image=HOME/other.npz", "an .npz file needs an array 'image'"),
    ("image=HOME/seven.npy", "image must be one for all samples or 8, one each; got 7"),
    ("image=HOME/colour.npy", "image must be (B, 1, H, W) or (1, H, W), got shape (8, 3, 4, 4)"),
    ("image=HOME/complex.npy", "must hold real numbers, got complex128"),
    ("image=HOME/holes.npy", "'image' is partly not-a-number"),
    ("vector=0.5", "vector must be (B, 2) or (2,), got shape (1,)"),
    ("vector=a,b", "vector must be numbers with commas between them, got 'a,b'"),
    ("vector=inf,0", "'vector' holds an infinity"),
    ("label=3", "label must lie in [0, 3), got 3"),
    ("label=cat", "unknown label 'cat'"),
    ("mask=HOME/eight.npz", "eight.npz is not a readable NumPy file"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[text for text, _ in REFUSED])
def test_what_cannot_be_given(langevin: Run, home: Path, tmp_path: Path, text: str, said: str) -> None:
    text = text.replace("HOME", str(home))
    done = langevin("sample", home / "model", *WORDS, "--given", text, "--out", tmp_path / "out")
    assert done.code != 0
    assert said in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "out" / "samples.npz").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--given", "label=1", "--label", "1"],
        ["--given", "label=1", "--given", "label=2"],
        ["--given", "vector=0,1", "--given", "vector=0,1"],
    ],
)
def test_nothing_is_given_twice(langevin: Run, home: Path, tmp_path: Path, words: list[str]) -> None:
    done = langevin("sample", home / "model", *WORDS, *words, "--out", tmp_path / "out")
    assert done.code != 0
    assert f"{words[1].partition('=')[0]} was given twice" in done.err


def test_a_model_without_conditions(langevin: Run, tmp_path: Path) -> None:
    conditioned.saved(tmp_path / "plain", conditioned.untrained(()))
    done = langevin("sample", tmp_path / "plain", *WORDS, "--given", "image=a.png", "--out", tmp_path / "out")
    assert done.code != 0
    assert "image was given, but this model was trained without conditions" in done.err
    assert langevin("sample", tmp_path / "plain", *WORDS, "--out", tmp_path / "out").code == 0


# --- a picture that is no picture of x ---


def test_points_are_told_a_picture_by_an_encoder(langevin: Run, tmp_path: Path) -> None:
    """Trained from an .npz file; told a picture's file; without an encoder both ways out are said."""
    g = np.random.default_rng(0)
    pictures = g.integers(0, 256, (60, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", x=g.normal(size=(60, 2)).astype(np.float32), image=pictures)
    words = ["train", tmp_path / "p.npz", "--steps", 2, "--batch", 8, "--out", tmp_path / "run"]
    refused = langevin(*words)
    assert refused.code != 0
    said = " ".join(refused.err.split())
    assert "network 'mlp' takes label, vector, but data 'p' have image too" in said
    assert '--network.options pictures \'{"image": "encoder"}\' to read by an encoder' in said
    assert "or --network.options conditions '{}' to leave it out" in said
    encoded = ["--network.options", "pictures", '{"image": {"size": 8, "width": 8}}', "width", "16"]
    assert langevin(*words, *encoded, "--output.sample-every", 2).code == 0
    model = library.load(tmp_path / "run", device="cpu")
    assert model.network.config["pictures"] == {"image": {"size": 8, "width": 8}}
    with torch.no_grad():  # two steps from zero say nothing
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    library.models.save(model, tmp_path / "model")
    Image.fromarray(pictures[0]).save(tmp_path / "there.png")
    sampled = ["sample", tmp_path / "model", *WORDS]
    assert langevin(*sampled, "--given", f"image={tmp_path / 'there.png'}", "--out", tmp_path / "a").code == 0
    assert langevin(*sampled, "--out", tmp_path / "b").code == 0
    assert np.abs(drawn(tmp_path / "a") - drawn(tmp_path / "b")).max() > 1e-3


# --- shards ---


def test_shards_are_the_samples_of_one_call(langevin: Run, home: Path, tmp_path: Path) -> None:
    given = ["--given", "caption=3 red", "--given", f"image={home / 'a.png'}"]
    words = ["-n", 32, "--steps", 2, "--batch", 16, *given]
    shards = [*words, "--shard-size", 16]
    assert langevin("sample", home / "model", *words, "--out", tmp_path / "one").code == 0
    for rank in ("1/2", "0/2"):
        assert langevin("sample", home / "model", *shards, "--rank", rank, "--out", tmp_path / "two").code == 0
    x = np.concatenate([x.numpy() for x, _ in Shards(tmp_path / "two")])
    assert np.array_equal(x, drawn(tmp_path / "one"))
    asked = json.loads((tmp_path / "two" / "shards.json").read_text())
    assert set(asked["given"]) == {"caption", "image"}
    # The same call goes on, however the picture is called; another picture, or none, is another request.
    (tmp_path / "again.png").write_bytes((home / "a.png").read_bytes())
    same = [str(word).replace(str(home / "a.png"), str(tmp_path / "again.png")) for word in shards]
    assert langevin("sample", home / "model", *same, "--out", tmp_path / "two").code == 0
    other = [str(word).replace("a.png", "b.png") for word in shards]
    less = ["-n", 32, "--steps", 2, "--batch", 16, "--shard-size", 16, *given[:2]]
    text = [str(word).replace("3 red", "3 blue") for word in shards]
    for words in (other, less, text):
        done = langevin("sample", home / "model", *words, "--out", tmp_path / "two")
        assert done.code != 0
        assert "holds shards of another request: given is" in done.err
    assert np.array_equal(x, np.concatenate([x.numpy() for x, _ in Shards(tmp_path / "two")]))


def test_shards_under_one_each_are_refused(langevin: Run, home: Path, tmp_path: Path) -> None:
    words = [*WORDS, "--batch", 8, "--shard-size", 8, "--given", f"image={home / 'eight.npy'}"]
    done = langevin("sample", home / "model", *words, "--out", tmp_path / "out")
    assert done.code != 0
    assert "image must be one for all samples where they are drawn in shards, got one each" in done.err


def test_a_picture_of_the_same_bytes_and_another_shape_is_another_request(
    langevin: Run, home: Path, tmp_path: Path
) -> None:
    words = [*WORDS, "--batch", 8, "--shard-size", 8, "--out", tmp_path / "out", "--given"]
    for shape, code in (((1, 4, 4), 0), ((1, 2, 8), 1)):
        np.save(tmp_path / "p.npy", np.linspace(-1, 1, 16, dtype=np.float32).reshape(shape))
        done = langevin("sample", home / "model", *words, f"image={tmp_path / 'p.npy'}")
        assert (done.code != 0) == bool(code), done.err
    assert "another request" in done.err


# --- trained and evaluated ---


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of digits from a small noisy picture of them, after two steps."""
    from langevin.cli import main

    out = tmp_path_factory.mktemp("given") / "digits"
    network = ["--network.name", "dit", "--network.options", "width", "16", "depth", "1", "heads", "2"]
    words = ["--steps", "2", "--batch", "8", "--limit", "64", "--degrade", "resize=4,noise=0.1", *network]
    assert main(["train", "digits", "--out", str(out), *words, "--output.sample-every", "2"]) == 0
    return out


def test_a_trained_model_says_what_it_takes(restored: Path) -> None:
    model = library.load(restored, device="cpu")
    assert dict(model.condition_sizes) == {"label": 10, "image": 1}
    assert dict(model.data.conditions) == {"label": (), "image": (1, 4, 4)}
    assert model.data.source["degrade"] == "resize=4,noise=0.1"
    assert list((restored / "pictures").glob("*.png"))


def test_evaluate_gives_held_out_conditions_in_turn(
    langevin: Run, restored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import langevin.generate as room

    seen: list[dict] = []
    real = room.generate
    monkeypatch.setattr(room, "generate", lambda *args, **more: (seen.append(more["given"]), real(*args, **more))[1])
    out = tmp_path / "found.json"
    count = 80  # more than the held-out examples: they begin again
    words = ["-n", count, "--steps", 2, "--features", "pixels", "--out", out]
    assert langevin("evaluate", restored, *words).code == 0
    held = library.data.load("digits", limit=64, degrade="resize=4,noise=0.1").test
    batch = held.batch(torch.arange(count) % len(held))
    assert len(held) < count
    assert set(seen[0]) == {"label", "image"}
    assert torch.equal(seen[0]["image"], batch["image"])
    assert torch.equal(seen[0]["label"], batch["label"])
    found = json.loads(out.read_text())
    assert (found["samples"]["given"], found["samples"]["label"]) == (["image"], "given")
    assert 0 < found["measures"]["psnr"]["value"] < 40
    assert found["measures"]["psnr"]["protocol"]["n"] == count
    # What is given here takes their place.
    np.save(tmp_path / "p.npy", np.zeros((1, 4, 4), np.float32))
    assert langevin("evaluate", restored, *words, "--given", f"image={tmp_path / 'p.npy'}").code == 0
    assert set(seen[1]) == {"image"}
    assert not seen[1]["image"].any()


def test_evaluate_refuses_shards_of_what_each_example_has(langevin: Run, restored: Path, tmp_path: Path) -> None:
    words = ["-n", 16, "--steps", 2, "--batch", 8, "--shard-size", 8, "--samples", tmp_path / "shards"]
    done = langevin("evaluate", restored, *words, "--out", tmp_path / "e.json")
    assert done.code != 0
    assert "give one for all with --given" in " ".join(done.err.split())
    np.save(tmp_path / "p.npy", np.zeros((1, 4, 4), np.float32))
    words += ["--given", f"image={tmp_path / 'p.npy'}", "--features", "pixels"]
    assert langevin("evaluate", restored, *words, "--out", tmp_path / "e.json").code == 0
    assert json.loads((tmp_path / "e.json").read_text())["samples"]["given"].keys() == {"image"}


def test_a_folder_with_captions_is_trained_on_and_sampled(langevin: Run, tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(24):
        Image.fromarray(g.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
        (tmp_path / "photos" / f"{i}.txt").write_text(f"number {i}")
    network = ["--network.name", "dit", "--network.options", "width", 16, "depth", 1, "heads", 2]
    text = ["text", '{"width": 16, "depth": 1, "heads": 2}']
    words = ["--steps", 2, "--batch", 8, *network, *text, "--output.sample-every", 2]
    out = tmp_path / "run"
    said = langevin("train", tmp_path / "photos", "--out", out, *words)
    assert said.code == 0, said.err
    model = library.load(out, device="cpu")
    assert dict(model.condition_sizes) == {"caption": 10}
    done = langevin(
        "sample", out, *WORDS, "--given", "caption=number 3", "--guidance-scale", 2, "--out", tmp_path / "s"
    )
    assert done.code == 0, done.err
    assert drawn(tmp_path / "s").shape == (8, 3, 8, 8)
    assert not list(out.glob("skipped.txt")) or not (out / "skipped.txt").read_text()


def test_likelihood_says_what_the_model_was_given(langevin: Run, restored: Path, tmp_path: Path) -> None:
    words = ["likelihood", restored, "digits", "-n", 4, "--bound", "--steps", 3, "--out", tmp_path / "l"]
    done = langevin(*words)
    assert done.code == 0
    assert "bound given label, image: " in done.out
    plain = langevin(*words, "--unconditional")
    assert "bound: " in plain.out
    number = lambda said: said.out.partition(" bits/dim")[0].split(": ")[1]
    assert number(plain) != number(done)


@pytest.mark.slow
def test_a_model_restores_as_well_as_the_best_linear_estimate_or_better(langevin: Run, tmp_path: Path) -> None:
    """A sample of p(x | picture) errs by 2·MMSE, the mean of eight of them by (1 + 1/8)·MMSE, and MMSE ≤ linear MMSE.

    That of x = N(m, C) from y = Ax + 0.1 n is tr(C − CAᵀ(ACAᵀ + 0.01)⁻¹AC). 600 steps of 20 s; measured on 200 held-out
    digits: 0.110 a sample and 0.063 the mean of eight; the linear one has 0.095, half of what is allowed to a sample.
    """
    out, count = tmp_path / "run", 200
    words = ["--steps", 600, "--batch", 64, "--network.options", "width", 16, "--output.sample-every", 0]
    assert langevin("train", "digits", "--degrade", "resize=4,noise=0.1", "--out", out, *words).code == 0
    model = library.load(out, device="cpu")
    held = library.data.load("digits", degrade="resize=4,noise=0.1")
    batch = held.test.plain(torch.arange(count))
    error = lambda x: float((x - batch["x"]).square().mean())
    told = {"label": batch["label"], "image": batch["image"]}
    draws = torch.stack([generate(model, Recipe(seed=seed), count, given=told).x for seed in range(8)])
    pixels = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)
    a = torch.nn.functional.interpolate(pixels, (4, 4), mode="bicubic", antialias=True).flatten(1).T
    c = held.info.cov
    seen = a @ c @ a.T + 0.01 * torch.eye(16, dtype=torch.float64)
    linear = float((c - c @ a.T @ torch.linalg.solve(seen, a @ c)).trace()) / 64
    assert error(draws[0]) <= 2 * linear
    assert error(draws.mean(0)) <= linear
    # 9/16 for samples of any one law around x; a model that ignores what it is not told would give 1, or 1/8.
    assert error(draws.mean(0)) / error(draws[0]) == pytest.approx(9 / 16, abs=0.1)
    assert error(generate(model, Recipe(), count, given={"label": batch["label"]}).x) >= 2 * error(draws[0])
