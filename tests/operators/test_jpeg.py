"""JPEG against Pillow (libjpeg) on photographs, its tables, its gradients."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs

from langevin import operators as O
from langevin.operators.jpeg import CHROMINANCE, LUMINANCE, cosine_matrix, quantisation


def pillow(image: np.ndarray, quality: int, subsampling: str = "4:2:0") -> tuple[np.ndarray, dict[int, list[int]]]:
    file = io.BytesIO()
    options = {} if image.ndim == 2 else {"subsampling": subsampling}
    Image.fromarray(image).save(file, "JPEG", quality=quality, **options)
    read = Image.open(file)
    return np.asarray(read).astype(np.int64), read.quantization


def data(image: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    x = torch.from_numpy(image.copy()).to(dtype) / 127.5 - 1
    return x[None, None] if x.ndim == 2 else x.permute(2, 0, 1)[None]


def levels(y: torch.Tensor) -> np.ndarray:
    whole = ((y + 1) * 127.5).round().long()
    return (whole[0, 0] if y.shape[1] == 1 else whole[0].permute(1, 2, 0)).numpy()


@pytest.mark.parametrize("quality", [1, 10, 25, 49, 50, 75, 90, 100])
def test_tables_are_pillows(quality):
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    tables = pillow(image, quality)[1]
    for i, table in enumerate((LUMINANCE, CHROMINANCE)):
        assert np.array_equal(np.array(tables[i]).reshape(8, 8), quantisation(table, quality).numpy())


@pytest.mark.parametrize("quality", [5, 20, 50, 75, 95])
def test_grey_is_pillows_but_for_its_integer_transform(quality):
    """Coefficients are rounded the other way only where they are a half step but for the rounding of the transform.

    libjpeg transforms in integers with 13 bits and keeps 3 of them (an eighth) of each coefficient; with two passes of
    eight terms that are rounded to a quarter of it this is at most 1/16 + 8·(1/8)/2⁴ = 1/8. Elsewhere all
    coefficients agree, and pixels differ by one level at most, that of the rounding of the inverse transform.
    """
    image = photographs.camera()[:200, :203]
    theirs, _ = pillow(image, quality)
    ours = levels(O.JPEG(quality)(data(image)))
    rows, columns = 200 // 8 * 8, 203 // 8 * 8
    cosine, steps = cosine_matrix(), quantisation(LUMINANCE, quality)

    def coefficients(pixels: np.ndarray) -> torch.Tensor:
        whole = torch.from_numpy(pixels[:rows, :columns].astype(np.float64)) - 128
        return cosine @ whole.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-3, -2) @ cosine.mT

    exact, a, b = (coefficients(p) for p in (image, theirs, ours))
    other = ((a - b).abs() > steps / 2) & (steps > 4)  # at smaller steps the rounding of pixels hides which they took
    distance = ((exact / steps).abs() % 1 - 0.5).abs() * steps
    assert distance[other].numel() == 0 or float(distance[other].max()) < 1 / 8
    same = (~((a - b).abs() > steps / 2).flatten(2).any(-1))[..., None, None].expand_as(a)
    apart = torch.from_numpy(np.abs(theirs - ours)[:rows, :columns]).unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))
    assert int(apart.transpose(-3, -2)[same].max()) <= 1 + (quality > 90)
    assert float(same.double().mean()) > 0.9 or quality > 75
    assert (theirs == ours).mean() > 0.9 - 0.2 * (quality > 90)


@pytest.mark.parametrize("quality", [20, 50, 75])
def test_halves_are_rounded_as_pillow_does(quality):
    """Blocks a b b a a b b a have the coefficients 4(a + b) and 4(a − b), of which many are an odd half of a step.

    libjpeg finds these two without rounding, so every one must be rounded as it rounds; the inverse transform of its
    integers differs by a level at most.
    """
    low, high = np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 3), indexing="ij")
    block = np.where(np.array([0, 1, 1, 0, 0, 1, 1, 0]), low[..., None], high[..., None]).astype(
        np.uint8
    )  # a row of each block
    image = block.reshape(low.shape[0], -1).repeat(8, 0)
    theirs, _ = pillow(image, quality)
    assert np.abs(levels(O.JPEG(quality)(data(image))) - theirs).max() <= 1


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [5, 20, 50, 90])
def test_colour_is_pillows(quality, subsampling):
    """A photograph of odd size: what differs is, in the mean square, under a tenth of what compression loses.

    A coefficient within 1/8 of half a step q may be rounded the other way (the test above): a share of at most ¼/q,
    each of which moves its block by q, a mean square of q/4. Compression loses up to q²/12 a coefficient, so the ratio
    is 3/q at most: 0.1 for a typical q of 30. It falls with the quality, and measured it is 0.003 to 0.05.
    """
    image = photographs.chelsea()[20:171, 30:233]
    theirs, _ = pillow(image, quality, subsampling)
    ours = levels(O.JPEG(quality, subsampling)(data(image)))
    square = lambda a, b: float(((a.astype(np.float64) - b) ** 2).mean())
    assert square(ours, theirs) < 0.1 * square(image, theirs)
    assert (ours == theirs).mean() > (0.95 if quality <= 20 else 0.7)
    assert (np.abs(ours - theirs) <= 1).mean() > 0.93


def test_a_picture_of_a_picture():
    """Compression of what was compressed changes little: coefficients lie on their steps."""
    x = data(photographs.chelsea()[:64, :64])
    op = O.JPEG(30, "4:4:4")
    once = op(x)
    assert (op(once) - once).square().mean() < 0.1 * (once - x).square().mean()
    flat = torch.full((1, 3, 16, 16), 1 / 255, dtype=torch.float64)
    assert (op(flat) - flat).abs().max() < 0.06


def test_types_and_small_images():
    image = photographs.chelsea()[:17, :9]
    for subsampling in ("4:2:0", "4:4:4"):
        op = O.JPEG(40, subsampling)
        y, y32 = op(data(image)), op(data(image, torch.float32))
        assert y32.dtype == torch.float32
        assert np.array_equal(levels(y), levels(y32))
        assert ((y + 1) * 127.5 - ((y + 1) * 127.5).round()).abs().max() < 1e-10
        assert y.min() >= -1
        assert y.max() <= 1
    for size in ((1, 1), (2, 1), (3, 5)):
        assert O.JPEG(40)(torch.zeros(2, 3, *size)).shape == (2, 3, *size)


def test_gradients():
    """Straight through: of all roundings together, J = (its linear part), so ⟨J v⟩ is v for 4:4:4; without, nothing."""
    x = (0.5 * data(photographs.chelsea()[:16, :16])).requires_grad_()
    v = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (through,) = torch.autograd.grad((O.JPEG(50, "4:4:4")(x) * v).sum(), x)
    torch.testing.assert_close(through, v, rtol=0, atol=1e-6)  # the colours and back are those of JFIF, to 7 digits
    (halved,) = torch.autograd.grad((O.JPEG(50)(x) * v).sum(), x)
    assert halved.abs().max() > 0.1
    (none,) = torch.autograd.grad((O.JPEG(50, straight_through=False)(x) * v).sum(), x)
    assert not none.any()
    assert torch.equal(O.JPEG(50)(x), O.JPEG(50, straight_through=False)(x))
