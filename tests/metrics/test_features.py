"""Feature spaces are what their names say, and their hashes change with them."""

import hashlib
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from langevin import data
from langevin._errors import UserError
from langevin.metrics import feature_space, features


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


def tiny(tmp_path, shape=(3, 8, 8)) -> data.Dataset:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 256, (40, *shape), dtype=np.uint8))
    return data.load(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["classifier", "pca:5"])
def test_seeds_of_64_bits_are_taken(name: str, digits: data.Dataset) -> None:
    small = data.load("digits", limit=60)
    same, other = (feature_space(name, small, seed=seed) for seed in (5, 2**32 + 5))
    assert same.sha256 == other.sha256


def test_pixels(digits: data.Dataset) -> None:
    x = digits.test.all()["x"]
    space = feature_space("pixels", digits)
    assert torch.equal(space(x), x.flatten(1).double())
    assert space.sha256 is None


def test_pca_is_that_of_the_training_split(digits: data.Dataset) -> None:
    space = feature_space("pca:5", digits)
    x = digits.train.all()["x"].flatten(1).double()
    # Independent: eigenvectors of the covariance the description carries.
    values, vectors = torch.linalg.eigh(digits.info.cov)
    found = space(digits.train.all()["x"])
    variances = values.flip(0)[:5]
    torch.testing.assert_close(torch.cov(found.T, correction=0), variances.diag(), atol=1e-10, rtol=1e-10)
    top = (x - x.mean(0)) @ vectors[:, -1]
    torch.testing.assert_close(found[:, 0].abs(), top.abs(), atol=1e-10, rtol=1e-10)
    assert space.settings["explained_variance"] == pytest.approx(float(variances.sum() / values.sum()), rel=1e-10)
    assert space.sha256 != feature_space("pca:4", digits).sha256
    assert space.sha256 == feature_space("pca:5", digits).sha256


def test_classifier_separates_classes_it_did_not_see(digits: data.Dataset) -> None:
    space = feature_space("classifier", digits)
    h, y = space(digits.test.all()["x"]), digits.test.labels
    train = space(digits.train.all()["x"])
    assert h.shape == (359, 64)
    assert float(train.square().mean()) == pytest.approx(1, rel=1e-10)
    centres = torch.stack([train[digits.train.labels == k].mean(0) for k in range(10)])
    nearest = torch.cdist(h, centres).argmin(1)
    pixels = digits.test.all()["x"].flatten(1).double()
    x = digits.train.all()["x"].flatten(1).double()
    pixel_centres = torch.stack([x[digits.train.labels == k].mean(0) for k in range(10)])
    by_pixels = torch.cdist(pixels, pixel_centres).argmin(1)
    # Class centres separate better in the feature space than in pixels, by more than one binomial deviation (1.5 %).
    assert (nearest == y).double().mean() > (by_pixels == y).double().mean() + 0.015
    assert space.sha256 != feature_space("classifier", digits, seed=1).sha256


def test_hash_depends_on_values_shapes_and_types() -> None:
    from langevin.metrics.classifiers import digest

    a = np.arange(6.0)
    assert len({digest(a), digest(a + 1), digest(a.reshape(2, 3)), digest(a.view(np.int64)), digest(a, a)}) == 5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pixel", "unknown features 'pixel'. Did you mean 'pixels'"),
        ("pca", "positive integer, as in 'pca:64'"),
        ("pca:0", "positive integer"),
        ("pca:x", "positive integer"),
        ("pca:65", r"1…64 for 1438 examples of 64 values"),
    ],
)
def test_refused_names(digits: data.Dataset, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        feature_space(name, digits)


def test_classifier_needs_classes() -> None:
    with pytest.raises(UserError, match="'swissroll' has none"):
        feature_space("classifier", data.load("swissroll", limit=50))


def test_inception_says_what_is_missing(digits: data.Dataset, tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="grey or colour images"):
        feature_space("inception", data.load("moons", limit=50))
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"pip install 'langevin\[metrics\]'"):
        feature_space("inception", digits)


def test_classifier_probabilities(digits: data.Dataset) -> None:
    """Its own last layer: they sum to 1 and agree with the labels nearly always."""
    space = feature_space("classifier", digits)
    assert space.classify is not None
    p = space.classify(digits.test.all()["x"])
    assert p.shape == (359, 10)
    torch.testing.assert_close(p.sum(1), torch.ones(359, dtype=torch.float64))
    assert (p.argmax(1) == digits.test.labels).double().mean() > 0.9
    assert feature_space("pca:4", digits).classify is None


def test_inception_reads_only_the_published_file_as_bytes_in_colour(tmp_path, monkeypatch) -> None:
    seen, asked = [], []

    class Network:
        def __init__(self, name: str, layers: list, path: str, antialias: bool) -> None:
            assert antialias is False
            asked.append((layers, path))

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.float().mean((2, 3))

    fid = types.ModuleType("torchmetrics.image.fid")
    fid.NoTrainInceptionV3 = Network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", fid)
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    made = tiny(tmp_path, (1, 8, 8))
    with pytest.raises(UserError, match="weights are not on this machine"):
        feature_space("inception", made)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "saved")
    weights = (tmp_path / "saved").read_bytes()
    (tmp_path / "checkpoints" / features.INCEPTION_FILES[1]).write_bytes(weights)
    with pytest.raises(UserError, match="not the published network"):
        feature_space("inception", made)
    whole = hashlib.sha256(weights).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", whole[:8])
    space = feature_space("inception", made)
    assert space.sha256 == whole
    x = torch.tensor([-1.2, -1.0, 0.0, 1.0, 2.0]).view(5, 1, 1, 1).expand(5, 1, 8, 8)
    assert space(x).shape == (5, 3)
    assert seen[0].dtype == torch.uint8
    assert seen[0].shape == (5, 3, 8, 8)
    assert seen[0][:, 2, 0, 0].tolist() == [0, 0, 128, 255, 255]
    assert asked == [(["2048"], str(tmp_path / "checkpoints" / features.INCEPTION_FILES[1]))]
    assert space.classify is not None
    torch.testing.assert_close(space.classify(x).sum(1), torch.ones(5, dtype=torch.float64))
    assert asked[1][0] == ["logits_unbiased"]
    # A file of one's own, which must be the same network.
    (tmp_path / "mine.pth").write_bytes(weights)
    own = feature_space(f"inception:{tmp_path / 'mine.pth'}", made)
    assert (own.name, own.sha256) == ("inception", whole)
    own(x)
    assert asked[-1][1] == str(tmp_path / "mine.pth")
    # Eight digits of a hash can be forged: a file that would run code is not read, whatever its hash.
    forged = pickle.dumps(Path("canary").touch)
    monkeypatch.setattr(features, "INCEPTION_SHA256", hashlib.sha256(forged).hexdigest()[:8])
    (tmp_path / "mine.pth").write_bytes(forged)
    with pytest.raises(UserError, match=r"it would run .*getattr"):
        feature_space(f"inception:{tmp_path / 'mine.pth'}", made)
    (tmp_path / "mine.pth").write_bytes(b"other")
    with pytest.raises(UserError, match="not the published network"):
        feature_space(f"inception:{tmp_path / 'mine.pth'}", made)
    with pytest.raises(UserError, match="there is no file"):
        feature_space("inception:/nowhere.pth", made)
