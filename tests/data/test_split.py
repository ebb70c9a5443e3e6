"""A batch is a pure function of (indices, seed, draw)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from langevin import data
from langevin._errors import UserError
from langevin.data import Split
from langevin.data.split import moments
from langevin.numerics.frame import Cosines
from support import with_labels


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (512, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_bytes_become_exactly_minus_one_to_one() -> None:
    x, label = with_labels(
        Split(torch.arange(256, dtype=torch.uint8).view(256, 1), {"label": torch.arange(256) % 7}).all()
    )
    assert x.dtype == torch.float32
    assert (x[0], x[255]) == (-1, 1)
    torch.testing.assert_close(x[:, 0].double(), torch.arange(256).double() / 127.5 - 1, atol=2**-23, rtol=0)
    assert label[8] == 1


def test_augmentation_ignores_batch_order_and_global_state(images: torch.Tensor) -> None:
    split = Split(images, {"label": torch.arange(512)}, flip=True)
    index = torch.randperm(512)
    whole, label = with_labels(split.batch(index, seed=3, draw=5))
    torch.manual_seed(99)
    parts = [split.batch(part, seed=3, draw=5)["x"] for part in index.split(37)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(label, index)
    state = torch.get_rng_state()
    split.batch(index)
    assert torch.equal(state, torch.get_rng_state())


def test_flip_mirrors_half_anew_each_draw(images: torch.Tensor) -> None:
    split, index = Split(images, flip=True), torch.arange(512)
    plain = split.all()["x"]
    flips = []
    for seed, draw in ((0, 0), (0, 1), (1, 0)):
        x = split.batch(index, seed=seed, draw=draw)["x"]
        flipped = (x != plain).flatten(1).any(1)
        assert torch.equal(x[flipped], plain[flipped].flip(-1))
        assert abs(int(flipped.sum()) - 256) < 4 * 512**0.5 / 2
        flips.append(flipped)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        # Independent draws agree on half of the images.
        assert abs(int((flips[one] == flips[two]).sum()) - 256) < 4 * 512**0.5 / 2


def test_random_windows_reach_every_place_alike() -> None:
    # One image of 3 × 6 whose pixels are their positions: a 2-window has 2 × 5 places.
    image = torch.arange(18, dtype=torch.uint8).view(1, 3, 6)
    split = Split([image] * 4000, crop=2)
    x = split.batch(torch.arange(4000), seed=1)["x"]
    corner = ((x[:, 0, 0, 0] + 1) * 127.5).round().long()
    counts = torch.bincount(corner, minlength=18)
    places = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    assert int(counts[places].sum()) == 4000
    assert (counts[places] - 400).abs().max() < 4 * (4000 * 0.09) ** 0.5
    assert ((x[:, 0, 1, 1] - x[:, 0, 0, 0]) * 127.5 - 7).abs().max() < 1e-4
    # Without augmentation: the centre (rows 0–1 or 1–2, columns 2–3).
    assert ((split.all()["x"][0, 0, 0, 0] + 1) * 127.5).round() == 8


def test_moments_are_those_of_what_training_sees(images: torch.Tensor) -> None:
    split = Split(images, flip=True)
    seen = torch.cat([split.batch(torch.arange(512), draw=k)["x"] for k in range(64)]).double().flatten(1)
    mean, cov = moments(split, full=True)
    both = torch.cat([split.all()["x"], split.all()["x"].flip(-1)]).double().flatten(1)
    torch.testing.assert_close(mean, both.mean(0), atol=1e-13, rtol=0)
    torch.testing.assert_close(cov, torch.cov(both.T, correction=0), atol=1e-13, rtol=0)
    torch.testing.assert_close(moments(split, full=False)[1], cov.diagonal(), atol=1e-13, rtol=0)
    # 64 draws of a fair coin for 512 images of deviation < 0.6: 5 sd of a mean are below 0.02.
    assert (seen.mean(0) - mean).abs().max() < 0.02


def test_moments_do_not_cancel() -> None:
    # mean 1e4, deviation 1e-2 at float64: E[x²] − E[x]² would lose 8 digits of the variance.
    x = 1e4 + 2.0**-7 * torch.tensor([[-1.0], [1.0]]).repeat(5000, 1)
    mean, cov = moments(Split(x), full=True)
    assert float(cov) == pytest.approx(2.0**-14, rel=1e-12)
    assert float(mean) == pytest.approx(1e4, rel=1e-15)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        (torch.tensor([512]), "0…511"),
        (torch.tensor([-1]), "0…511"),
        (torch.tensor([0.0]), "int64"),
        (torch.tensor([[0]]), "int64"),
    ],
)
def test_bad_indices(images: torch.Tensor, indices: torch.Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Split(images).batch(indices)


def test_labels_match_examples(images: torch.Tensor) -> None:
    with pytest.raises(UserError, match="label must have shape"):
        Split(images, {"label": torch.zeros(3, dtype=torch.int64)})


def test_spectrum_of_large_images(tmp_path) -> None:
    """Images of 768 coordinates carry the variances of the DCT along the colours' principal directions.

    Against the full covariance of the same images turned by the same orthonormal matrix, whose diagonal they are;
    mirrored halves count. All of it travels with a model.
    """
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 255, (40, 1, 16, 16), generator=generator)
    images = (0.7 * grey + 0.3 * torch.randint(0, 255, (40, 3, 16, 16), generator=generator)).to(torch.uint8)
    np.save(tmp_path / "images.npy", images.numpy())
    for flip in (False, True):
        dataset = data.load(str(tmp_path / "images.npy"), flip=flip)
        info = dataset.info
        x = Split(dataset.train._x).batch(torch.arange(len(dataset.train)))["x"]
        x = x.double()
        x = torch.cat((x, x.flip(-1))) if flip else x
        centred = (x - x.mean(0)).flatten(1)
        basis = Cosines((3, 16, 16), info.colours)
        turn = basis.to(torch.eye(768, dtype=torch.float64))
        torch.testing.assert_close(turn.mT @ turn, torch.eye(768, dtype=torch.float64), atol=1e-12, rtol=0)
        expected = (turn.mT @ (centred.mT @ centred / len(x)) @ turn).diagonal()
        torch.testing.assert_close(info.spectrum, expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(basis.back(basis.to(centred)), centred, rtol=0, atol=1e-12)
        assert data.DataInfo.from_dict(info.to_dict(), info.tensors()) == info
        # Grey is shared by the channels, so the first direction of the colours holds most of the variance.
        first, *others = info.spectrum.reshape(3, -1).sum(1).tolist()
        assert first > 5 * max(others)
    assert data.load("digits").info.spectrum is None


def test_leading_directions_of_large_points(tmp_path) -> None:
    """Points of 600 coordinates carry 64 principal directions and what is left, as their full covariance has them.

    The iteration starts with eight directions too many; what direction k lacks falls like (λ_73/λ_k)^4, 2e-5 at k = 30
    where λ_k ∝ k⁻³, and moves its variance by the square of that.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = torch.arange(1, 601, dtype=torch.float64) ** -1.5
    turn = torch.linalg.qr(torch.randn(600, 600, generator=generator, dtype=torch.float64))[0]
    x = 0.3 + (torch.randn(500, 600, generator=generator, dtype=torch.float64) * sizes) @ turn.mT
    np.save(tmp_path / "points.npy", x.float().numpy())
    dataset = data.load(str(tmp_path / "points.npy"))
    info = dataset.info
    learn = dataset.train.batch(torch.arange(len(dataset.train)))["x"].double().flatten(1)
    cov = torch.cov(learn.mT, correction=0)
    values, vectors = (v.flip(-1) for v in torch.linalg.eigh(cov))
    assert info.colours is None
    assert info.directions.shape == (600, 64)
    torch.testing.assert_close(info.directions.mT @ info.directions, torch.eye(64, dtype=torch.float64))
    torch.testing.assert_close(info.spectrum[:30], values[:30], rtol=1e-6, atol=0)
    assert float((info.directions[:, :30] * vectors[:, :30]).sum(0).abs().min()) > 1 - 1e-4
    total = info.spectrum[:-1].sum() + (600 - 64) * info.spectrum[-1]
    torch.testing.assert_close(total, cov.diagonal().sum(), rtol=1e-10, atol=0)
    assert data.DataInfo.from_dict(info.to_dict(), info.tensors()) == info
    for change, words in (
        ({"directions": None}, "spectrum is known with either colours or directions"),
        ({"spectrum": None}, "spectrum is known with either colours or directions"),
        ({"spectrum": info.spectrum[1:]}, r"spectrum must have shape \(65,\)"),
        ({"directions": info.directions[:5]}, r"directions must be \(600, k\)"),
        ({"directions": torch.tensor(1.0)}, r"directions must be \(600, k\)"),
    ):
        with pytest.raises(UserError, match=words):
            replace(info, **change)


@pytest.mark.parametrize("size", [6, 24])
@pytest.mark.parametrize("flip", [False, True])
def test_moments_of_classes(tmp_path, size, flip) -> None:
    """Each class alone, drawn towards what is within classes; a class of three examples says nothing of itself.

    Images of 36 coordinates in full, of 576 by the variances of their DCT; by hand from the examples themselves.
    """
    generator = torch.Generator().manual_seed(0)
    label = torch.cat((torch.arange(200) % 2, torch.full((3,), 2)))
    images = (torch.randint(0, 120, (203, size, size), generator=generator) + 40 * label[:, None, None]).to(torch.uint8)
    np.savez(tmp_path / "images.npz", x=images.numpy(), label=label.numpy())
    dataset = data.load(str(tmp_path / "images.npz"), flip=flip)
    info, learn = dataset.info, dataset.train
    x, label = Split(learn._x).batch(torch.arange(len(learn)))["x"].double(), learn.labels
    x, label = (torch.cat((x, x.flip(-1))), label.repeat(2)) if flip else (x, label)
    x = x.flatten(1)
    full = size == 6
    basis = None if full else Cosines((1, size, size), info.colours)
    second = lambda c: c.mT @ c if full else basis.to(c).square().sum(0)
    own = [second(x[label == k] - x[label == k].mean(0)) for k in (0, 1)]
    count = [int((label == k).sum()) for k in (0, 1)]
    within = sum(own) / sum(count)
    for k in (0, 1):
        share = count[k] / (count[k] + (2 * size**2 if full else 10))
        torch.testing.assert_close(info.class_mean[k], x[label == k].mean(0))
        torch.testing.assert_close(info.class_cov[k], share * own[k] / count[k] + (1 - share) * within)
    torch.testing.assert_close(info.class_mean[2], info.mean)
    torch.testing.assert_close(info.class_cov[2], info.cov if full else info.spectrum)
    assert data.DataInfo.from_dict(info.to_dict(), info.tensors()) == info
    for change, words in (
        ({"class_mean": None}, "class_mean and class_cov are both known or both None"),
        ({"class_mean": info.class_mean[:2]}, r"class_mean must have shape \(3, "),
        ({"class_cov": info.class_cov[:2]}, r"class_cov must have shape \(3, "),
        ({"class_mean": torch.tensor(1.0), "classes": ()}, "class_mean must have shape"),
    ):
        with pytest.raises(UserError, match=words):
            replace(info, **change)


def test_attributes_are_one_an_example() -> None:
    x = torch.zeros(3, 2)
    assert Split(x, attributes={"colour": ["red", "blue", "red"]}).attributes["colour"][1] == "blue"
    with pytest.raises(UserError, match="attribute 'colour' must have 3 values, one an example; got 2"):
        Split(x, attributes={"colour": ["red", "blue"]})
