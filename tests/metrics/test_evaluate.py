"""The table of measures: complete, JSON-able, with protocols, and telling good from bad."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from langevin import data
from langevin._errors import UserError
from langevin._registry import methods
from langevin.metrics import Features, comparison, evaluate
from support import with_labels

PROTOCOL = {"data", "features", "features_sha256", "samples", "real", "split", "resize", "range", "seed"}


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def fresh(digits: data.Dataset) -> dict:
    """What a sampler gets that returns held-out scans."""
    x, y = with_labels(digits.test.all())
    return evaluate(x, y, digits, progress=False)


def test_registry() -> None:
    rows = {m.name: m.arxiv for m in methods("metrics")}
    assert rows["frechet"] == "1706.08500"
    assert rows["kernel"] == "1801.01401"
    assert rows["precision-recall"] == "1904.06991"
    assert {"sliced-wasserstein", "label-agreement", "train-synthetic-test-real", "memorisation"} <= set(rows)


def test_every_number_has_its_protocol(digits: data.Dataset, fresh: dict) -> None:
    again = json.loads(json.dumps(fresh, allow_nan=False))
    assert set(again) == {
        *(f"{m}/{s}" for m in ("frechet", "kernel", "precision", "recall") for s in ("pixels", "classifier")),
        "sliced-wasserstein",
        "memorisation",
        "inception-score/classifier",
        "label-agreement",
        "train-synthetic-test-real",
    }
    for key, row in again.items():
        assert row["protocol"].keys() >= PROTOCOL, key
        assert isinstance(row["value"], float), key
        assert (row["protocol"]["samples"], row["protocol"]["real"]) == (359, 359), key
        assert row["protocol"]["split"] == "test"
        assert row["protocol"]["range"] == [-1, 1]
    assert len(again["frechet/classifier"]["protocol"]["features_sha256"]) == 64
    assert again["train-synthetic-test-real"]["protocol"]["trained_on"] == 359


def test_held_out_scans_as_samples(fresh: dict) -> None:
    # The samples are the reference: distances vanish, everything is covered, nothing is copied from training.
    assert fresh["frechet/pixels"]["value"] < 1e-9
    assert fresh["frechet/pixels"]["real"] > 0.1
    assert fresh["precision/pixels"]["value"] == fresh["recall/pixels"]["value"] == 1
    assert fresh["sliced-wasserstein"]["value"] < 1e-9
    assert fresh["memorisation"]["value"] == 1
    # 356 of 359 held-out scans are read right by the machine trained on real data.
    agreement = fresh["label-agreement"]
    assert agreement["value"] == agreement["real"] == pytest.approx(356 / 359)
    assert np.average(agreement["by_class"], weights=[36, 36, 35, 37, 36, 36, 36, 36, 35, 36]) == pytest.approx(
        356 / 359
    )
    assert fresh["train-synthetic-test-real"]["value"] == 1  # tested on what it was taught


def test_training_scans_as_samples_are_called_copies(digits: data.Dataset) -> None:
    x, y = with_labels(digits.train.all())
    found = evaluate(x[:300], y[:300], digits, features="pca:8", progress=False)
    assert found["memorisation"]["value"] == 0
    assert found["label-agreement"]["value"] == 1
    assert found["frechet/pca:8"]["value"] < 3 * found["frechet/pca:8"]["real"]
    assert "frechet/pixels" not in found


def test_memorisation_is_of_the_data_a_model_was_trained_on(digits: data.Dataset) -> None:
    """Copies of training data are copies whatever they are measured against, and fresh data of others are not."""
    x, y = with_labels(digits.train.all())
    other = replace(digits, train=data.Split(x[:500], {"label": y[:500]}))
    copies = x[600:900]
    of_others = evaluate(copies, None, other, features="pca:8", progress=False)["memorisation"]
    assert of_others["value"] > 0.5
    found = evaluate(copies, None, other, features="pca:8", progress=False, trained_on=digits)["memorisation"]
    assert found["value"] == 0
    assert found["protocol"]["train"] == len(x)
    unknown = evaluate(copies, None, other, features="pca:8", progress=False, trained_on="unknown")["memorisation"]
    assert unknown["value"] is None
    assert "other data" in unknown["note"]


def test_noisy_and_mislabelled_samples_score_worse(digits: data.Dataset, fresh: dict) -> None:
    x, y = with_labels(digits.test.all())
    noisy = evaluate(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), y, digits)
    for key in ("frechet/pixels", "frechet/classifier", "kernel/pixels", "kernel/classifier", "sliced-wasserstein"):
        assert noisy[key]["value"] > 5 * abs(noisy[key]["real"]), key
    assert noisy["precision/pixels"]["value"] < 0.5
    assert noisy["train-synthetic-test-real"]["value"] < noisy["train-synthetic-test-real"]["real"]
    wrong = evaluate(x, (y + 1) % 10, digits, features="pixels")
    assert wrong["label-agreement"]["value"] < 0.02
    assert wrong["train-synthetic-test-real"]["value"] < 0.02


def test_points_without_labels() -> None:
    roll = data.load("swissroll", limit=600)
    found = evaluate(roll.test.all()["x"], None, roll)
    assert set(found) == {
        "frechet/pixels", "kernel/pixels", "precision/pixels", "recall/pixels", "sliced-wasserstein", "memorisation",
    }  # fmt: skip
    assert found["memorisation"]["protocol"]["range"] == [None, None]
    json.dumps(found, allow_nan=False)


def test_mirrored_copies_are_copies_where_training_mirrors(digits: data.Dataset) -> None:
    mirrored = data.load("digits", flip=True)
    copies = mirrored.train.all()["x"][:50].flip(-1)
    assert evaluate(copies, None, mirrored, features="pca:2")["memorisation"]["value"] == 0
    assert evaluate(copies, None, digits, features="pca:2")["memorisation"]["value"] > 0.5


def test_held_out_copies_leave_no_ratio(tmp_path) -> None:
    np.save(tmp_path / "same.npy", np.tile(np.eye(4), (50, 1)))
    same = data.load(tmp_path / "same.npy")
    found = evaluate(torch.rand(20, 4), None, same)["memorisation"]
    assert found["value"] is None
    assert "exact copy" in found["note"]


def test_wide_images_use_principal_components(tmp_path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (300, 20, 20, 3), dtype=np.uint8)
    label = np.arange(300) % 2
    x[label == 1] //= 4
    np.savez(tmp_path / "wide.npz", x=x, label=label)
    wide = data.load(tmp_path / "wide.npz")
    found = evaluate(wide.test.all()["x"], wide.test.labels, wide)
    assert "frechet/pca:64" in found
    assert found["label-agreement"]["protocol"]["features"] == "pca:64"
    assert found["frechet/classifier"]["protocol"]["feature_settings"]["input"] == "pca:64"
    assert found["label-agreement"]["value"] == 1


def photos(count: int, seed: int, side: int = 20) -> torch.Tensor:
    """Pictures with the spectrum of photographs, 1/f in amplitude, each of its own contrast and colour."""
    generator = torch.Generator().manual_seed(seed)
    f = torch.fft.fftfreq(side) * side
    radius = (f[:, None].square() + f.square()).sqrt().clamp_min(1)
    white = torch.randn(count, 3, side, side, generator=generator)
    x = torch.fft.ifft2(torch.fft.fft2(white) / radius**1.2).real
    x = 0.4 * x / x.std() * torch.exp(0.5 * torch.randn(count, 1, 1, 1, generator=generator))
    return (x + 0.3 * torch.randn(count, 3, 1, 1, generator=generator)).clamp(-1, 1)


def divided(path: Path, x: np.ndarray, label: np.ndarray | None, count: int) -> data.Dataset:
    """An array whose last ``count`` examples are held out."""
    np.savez(path, x=x, **({} if label is None else {"label": label}))
    whole = data.load(path)
    values = torch.from_numpy(x).float() if whole.info.low is None else torch.from_numpy(x).permute(0, 3, 1, 2)
    sizes = [len(x) - count, count]
    told = [{}, {}] if label is None else [{"label": part} for part in torch.from_numpy(label).split(sizes)]
    train, test = (data.Split(part, condition) for part, condition in zip(values.split(sizes), told))
    return replace(whole, train=train, test=test)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> data.Dataset:
    """200 pictures to learn from, and 24 held out."""
    pixels = ((photos(224, 3) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return divided(tmp_path_factory.mktemp("few") / "photos.npz", pixels, None, 24)


@pytest.mark.parametrize("kind", ["noise", "fresh"])
def test_noise_does_not_beat_real_data_against_24_pictures(few: data.Dataset, kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 3, 20, 20, generator=generator).mul(0.4).clamp(-1, 1) if kind == "noise" else photos(200, 1)
    assert len(few.test) == 24
    found = evaluate(x, None, few, features=["pca:64", "pca:4", "pixels"], progress=False)
    for space in ("pca:64", "pca:4"):
        # Principal components hardly answer to noise: it lies in the middle of the data, within every ball.
        row = found[f"precision/{space}"]
        assert row["noise"] >= max(0.85, row["real"])
        assert row["value"] is None
        assert "interval" not in row
        assert f"Not given: with 24 held-out examples and these features noise gets {row['noise']:.0%}" in row["note"]
    # In pixels precision does tell them apart, by intervals that do not touch.
    row = found["precision/pixels"]
    assert row["noise"] < 0.3 < row["real"]
    assert (row["value"] < 0.3) == (kind == "noise")
    assert row["interval"][0] <= row["value"] <= row["interval"][1]
    assert "note" not in row
    # Recall in pixels, the sliced distance and the kernel distance do not, and say so.
    assert "read it beside the precision" in found["recall/pixels"]["note"]
    for name in ("sliced-wasserstein", "kernel/pixels"):
        assert "cannot tell noise from real data" in found[name]["note"], name
    assert found["frechet/pca:64"]["value"] is None
    assert "64 features needs more than 64 examples on each side, and there are 24" in found["frechet/pca:64"]["note"]
    assert "24 held-out examples are few for 4 features" in found["frechet/pca:4"]["note"]
    json.dumps(found, allow_nan=False)


def test_hundreds_of_scans_are_enough(digits: data.Dataset, fresh: dict) -> None:
    """No measure of the demo is refused, and the notes are of the counts: 359 for 60 features, splits of 35 for 10."""
    assert {key for key, row in fresh.items() if "note" in row} <= {
        "frechet/pixels", "frechet/classifier", "inception-score/classifier",
    }  # fmt: skip
    for key, row in fresh.items():
        assert row["value"] is not None, key
        if key not in ("memorisation", "train-synthetic-test-real"):
            better = row["noise"] < row["real"] if key.startswith(("precision", "recall", "label", "incep")) else None
            assert (row["noise"] > row["real"]) is not better, key


def test_a_classifier_that_knows_no_better_reads_nothing(tmp_path) -> None:
    rng = np.random.default_rng(0)
    blind = divided(tmp_path / "x.npz", rng.normal(size=(60, 3)), rng.integers(0, 2, 60), 24)
    found = evaluate(torch.rand(20, 3), torch.arange(20) % 2, blind, features="pixels", progress=False)
    for key in ("label-agreement", "train-synthetic-test-real"):
        assert found[key]["value"] is None
        assert "would have to exceed the share of the commonest class" in found[key]["note"]


def test_nothing_is_measured_against_seven(tmp_path) -> None:
    small = divided(tmp_path / "x.npz", np.random.default_rng(0).normal(size=(40, 3)), None, 7)
    with pytest.raises(UserError, match=r"7 held-out examples, and measures need at least 8; .* --data"):
        evaluate(torch.rand(20, 3), None, small, progress=False)


def test_same_seed_same_numbers(digits: data.Dataset, fresh: dict) -> None:
    x, y = with_labels(digits.test.all())
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002  (global state must not matter)
    assert evaluate(x, y, digits) == fresh


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"samples": torch.zeros(20, 1, 8, 9)}, r"shape \(N, 1, 8, 8\); got \(20, 1, 8, 9\)"),
        ({"samples": torch.zeros(3, 1, 8, 8)}, "at least 8"),
        ({"samples": torch.full((20, 1, 8, 8), torch.nan)}, "non-finite"),
        ({"labels": torch.full((20,), 10)}, r"labels must lie in \[0, 10\), got \[10\]"),
        ({"labels": torch.zeros(19, dtype=torch.int64)}, r"integer tensor \(20,\)"),
        ({"features": ["pixels", "inceptoin"]}, "Did you mean 'inception'"),
    ],
)
def test_refusals_come_before_work(digits: data.Dataset, change: dict, words: str, monkeypatch) -> None:
    monkeypatch.setattr(comparison, "frechet_distance", lambda *_: pytest.fail("worked before checking"))
    arguments = {"samples": torch.zeros(20, 1, 8, 8), "labels": None, "features": "pixels", **change}
    with pytest.raises(UserError, match=words):
        evaluate(arguments["samples"], arguments["labels"], digits, features=arguments["features"])


def test_a_feature_space_of_ones_own(digits: data.Dataset) -> None:
    """A map with its name and hash; the inception score of what it classifies, next to that of real data."""
    rows = lambda x: x.flatten(1).double()
    means = Features("means", "a" * 64, lambda x: rows(x).view(len(x), 8, 8).mean(2), {"resize": "none"})
    bright = Features("bright", None, rows, {}, lambda x: torch.eye(2)[(rows(x).mean(1) > -0.4).long()])
    x, _ = with_labels(digits.test.all())
    found = evaluate(x, None, digits, features=["pca:3", means, bright], progress=False)
    assert found["frechet/means"]["protocol"]["features_sha256"] == "a" * 64
    assert found["frechet/means"]["protocol"]["resize"] == "none"
    assert found["frechet/means"]["value"] < 1e-9
    assert 1 < found["inception-score/bright"]["value"] <= 2
    # The same images, dealt in another order: splits of 36 differ by a few per cent.
    assert found["inception-score/bright"]["real"] == pytest.approx(found["inception-score/bright"]["value"], abs=0.1)
    assert "inception-score/means" not in found
    assert found["inception-score/bright"]["protocol"]["splits"] == 10
    with pytest.raises(UserError, match="differ in their names"):
        evaluate(x, None, digits, features=["pca:3", "pca:3"])


def test_labels_for_data_without_classes() -> None:
    roll = data.load("swissroll", limit=100)
    with pytest.raises(UserError, match="'swissroll' has no classes"):
        evaluate(roll.test.all()["x"], torch.zeros(100, dtype=torch.int64), roll)
