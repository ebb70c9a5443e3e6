"""Each degradation against an independent closed form, and as a function of (seed, index, draw) alone.

It is one file, of more than 400 lines, since it has every degradation once and what they share.
"""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from langevin import data
from langevin._errors import UserError
from langevin.data import Degradation, Split
from langevin.data.degradations import DEGRADATIONS
from langevin.distributions import Noise


def images(count: int = 4, channels: int = 3, height: int = 8, width: int = 8) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.rand(count, channels, height, width, generator=g, dtype=torch.float64) * 2 - 1


def damaged(text: str, x: Tensor, seed: int = 0) -> dict[str, Tensor]:
    return Degradation.parse(text)(x, Noise(seed, len(x)))


# --- resize ---


def keys(d: float) -> float:
    """The cubic convolution kernel of Keys (1981, eq. 4), a = −1/2."""
    d = abs(d)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def shrinking(n: int, m: int) -> Tensor:
    """Rows of weights of m pixels made of n ≥ m: the kernel as wide as a new pixel, cut at the edge, of sum one."""
    zoom = n / m
    rows = [[keys((j + 0.5 - (i + 0.5) * zoom) / zoom) for j in range(n)] for i in range(m)]
    weights = torch.tensor(rows, dtype=torch.float64)
    return weights / weights.sum(1, keepdim=True)


def test_resize_is_bicubic_over_what_a_pixel_covers() -> None:
    x = 0.5 * images(height=8, width=16)
    made = damaged("resize=4", x)
    assert set(made) == {"image"}
    expected = shrinking(8, 4) @ x @ shrinking(16, 8).T
    assert made["image"].shape == (4, 3, 4, 8)  # the shorter side is told, the ratio kept
    # float64 throughout: 256 products of numbers below 1 a pixel.
    assert (made["image"] - expected).abs().max() <= 256 * 2**-52
    assert damaged("resize=4", x.transpose(2, 3))["image"].shape == (4, 3, 8, 4)


def test_resize_of_smooth_images_is_the_mean_of_areas() -> None:
    # Both are averages around the centre of the new pixel, with weights of sum one and mean zero (inside, where no
    # kernel is cut), so a line is the same to rounding, and a parabola of second derivative c differs by c/2 · |m − ¼|,
    # m the kernel's second moment and ¼ that of two pixels at ±½.
    row = torch.linspace(-0.7, 0.7, 32, dtype=torch.float64)
    area = lambda image: torch.nn.functional.avg_pool2d(image, 2)
    inside = lambda image: image[..., 2:-2, 2:-2]
    line = (row[:, None] + 0.3 * row[None]).mul(0.5)[None, None]
    assert (inside(damaged("resize=16", line)["image"]) - inside(area(line))).abs().max() <= 64 * 2**-52
    weights, at = shrinking(32, 16)[8], torch.arange(32) + 0.5 - 17
    second = float((weights * at**2).sum())
    curve = 0.001 * torch.arange(-16, 16, dtype=torch.float64).add(0.5).square()
    parabola = curve.expand(32, 32)[None, None]
    gap = inside(damaged("resize=16", parabola)["image"]) - inside(area(parabola))
    assert (gap - 0.001 * (second - 0.25)).abs().max() <= 64 * 2**-52


def test_resize_keeps_the_range() -> None:
    x = images(64, 1).sign()  # the kernel's lobes overshoot at edges
    assert (shrinking(8, 4) @ x @ shrinking(8, 4).T).abs().max() > 1
    assert damaged("resize=4", x)["image"].abs().max() == 1


# --- grey, blur, noise ---


def test_grey_is_the_luma() -> None:
    x = images()
    expected = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    made = damaged("grey", x)["image"]
    assert made.shape == (4, 1, 8, 8)
    assert (made[:, 0] - expected).abs().max() <= 3 * 2**-52
    assert (damaged("grey", torch.ones(1, 3, 4, 4))["image"] - 1).abs().max() <= 2**-22  # white stays white
    with pytest.raises(UserError, match="grey needs images in colour, got 1 channels"):
        damaged("grey", images(channels=1))


@pytest.mark.parametrize("std", [0.7, 2.0])
def test_blur_has_unit_gain_the_stated_std_and_reflects(std: float) -> None:
    flat = torch.full((1, 2, 16, 16), 0.3, dtype=torch.float64)
    assert (damaged(f"blur={std}", flat)["image"] - 0.3).abs().max() <= 64 * 2**-52

    point = torch.zeros(1, 1, 41, 31, dtype=torch.float64)
    point[0, 0, 20, 15] = 1
    spot = damaged(f"blur={std}", point)["image"][0, 0]
    assert spot.sum() == pytest.approx(1, abs=1e-14)
    # Cut at r = ⌈3σ⌉ pixels, at a = (r + ½)/σ or less: a normal law cut at ±a has variance 1 − 2aφ(a)/(2Φ(a) − 1), and
    # the sum over pixels differs from the integral by less than that of the pixels at the cut, 2φ(a − 1/(2σ))/σ·a².
    reach = math.ceil(3 * std)
    a, b = (reach + 0.5) / std, (reach - 0.5) / std
    phi = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    lost = 2 * a * phi(a) / math.erf(a / math.sqrt(2)) + 2 * phi(b) / std * a * a
    for axis, middle in ((1, 20), (0, 15)):
        profile = spot.sum(axis)
        at = torch.arange(len(profile)) - middle
        assert (profile * at).sum() == pytest.approx(0, abs=1e-13)
        assert 1 - lost <= float((profile * at**2).sum()) / std**2 <= 1

    x = images(2, 3, 9, 12)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    kernel /= kernel.sum()
    turn = lambda line: np.convolve(np.pad(line, reach, mode="reflect"), kernel, mode="valid")
    expected = np.apply_along_axis(turn, 2, np.apply_along_axis(turn, 3, x.numpy()))
    assert np.abs(damaged(f"blur={std}", x)["image"].numpy() - expected).max() <= 64 * 2**-52


def test_a_blur_wider_than_the_image_reaches_as_far_as_it() -> None:
    x = images(1, 1, 4, 6)
    made = damaged("blur=64", x)["image"]
    assert made.shape == x.shape
    assert x.min() <= made.min() <= made.max() <= x.max()


def test_noise_has_the_stated_std() -> None:
    x = images(256, 3, 16, 16)
    z = damaged("noise=0.25", x)["image"] - x
    n = z.numel()
    # The mean of n normal numbers has std σ/√n, their std one of σ/√(2n), products of neighbours of σ²/√n.
    assert abs(float(z.mean())) <= 5 * 0.25 / math.sqrt(n)
    assert abs(float(z.std()) - 0.25) <= 5 * 0.25 / math.sqrt(2 * n)
    for pair in ((z[1:], z[:-1]), (z[..., 1:], z[..., :-1]), (z[:, 1:], z[:, :-1])):
        product = pair[0] * pair[1]
        assert abs(float(product.mean())) <= 5 * 0.25**2 / math.sqrt(product.numel())
    assert torch.equal(damaged("noise=0", x)["image"], x)


def test_two_steps_of_noise_are_independent() -> None:
    x = images(256, 3, 16, 16)
    twice = damaged("noise=0.3,noise=0.4", x)["image"] - x
    assert abs(float(twice.std()) - 0.5) <= 5 * 0.5 / math.sqrt(2 * twice.numel())  # dependent ones would give 0.7


# --- box, jpeg ---


def test_box_hides_a_rectangle_of_that_share_anywhere() -> None:
    x = images(20_000, 1, 5, 6).abs() + 0.1  # no pixel is zero by itself
    made = damaged("box=0.4", x)
    tall, wide = 2, 2  # 0.4 · 5 and 0.4 · 6, rounded
    image, mask = made["image"], made["mask"]
    assert mask.shape == (20_000, 1, 5, 6)
    assert ((mask == 0) | (mask == 1)).all()
    assert torch.equal(image, x * mask)
    assert ((image == 0) == (mask == 0)).all()
    hidden = mask[:, 0] == 0
    assert (hidden.sum((1, 2)) == tall * wide).all()
    rows, columns = hidden.any(2), hidden.any(1)
    assert (rows.sum(1) == tall).all()
    assert (columns.sum(1) == wide).all()
    top, left = rows.int().argmax(1), columns.int().argmax(1)
    assert torch.equal(hidden, rows[:, :, None] & columns[:, None])
    assert all(rows[i, k : k + tall].all() for i, k in enumerate(top[:50].tolist()))
    # Pearson's statistic of N draws over k equally likely places has mean k − 1 and variance 2(k − 1) about.
    places = (5 - tall + 1) * (6 - wide + 1)
    counts = torch.bincount(top * 5 + left, minlength=places).double()
    assert len(counts) == places
    expected = len(x) / places
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(statistic - (places - 1)) <= 5 * math.sqrt(2 * (places - 1))


def test_a_whole_box_hides_everything_and_a_small_one_a_pixel() -> None:
    x = images() + 2
    assert not damaged("box=1", x)["mask"].any()
    assert (damaged("box=0.01", x)["mask"] == 0).flatten(1).sum(1).tolist() == [1] * 4


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_that_of_pillow(channels: int) -> None:
    pixels = torch.randint(0, 256, (3, channels, 16, 24), generator=torch.Generator().manual_seed(0))
    made = damaged("jpeg=30", pixels / 127.5 - 1)["image"]
    for image, before in zip(made, pixels.byte()):
        array = before.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array if channels == 3 else array[:, :, 0]).save(buffer, "JPEG", quality=30)
        again = np.array(Image.open(buffer)).reshape(16, 24, channels).transpose(2, 0, 1)
        assert torch.equal(image, torch.from_numpy(again) / 127.5 - 1)
        assert (again != before.numpy()).any()
    worse = damaged("jpeg=1", pixels / 127.5 - 1)["image"]
    assert (worse - made).abs().max() > 0
    with pytest.raises(UserError, match="jpeg needs images of 1 or 3 channels, got 4"):
        damaged("jpeg=30", images(channels=4))


def test_uncrop_shows_what_a_box_of_that_share_would_hide() -> None:
    x = images(500, 1, 5, 6).abs() + 0.1
    made, hidden = damaged("uncrop=0.4", x), damaged("box=0.4", x)
    assert torch.equal(made["mask"], 1 - hidden["mask"])
    assert torch.equal(made["image"], x * made["mask"])


# --- ranges and alternatives ---


def test_a_range_draws_each_example_its_own_number() -> None:
    x = torch.zeros(4000, 1, 16, 16, dtype=torch.float64)
    std = damaged("noise=0.1..0.3", x)["image"].flatten(1).std(1)
    # The std of 256 normal numbers has relative error 1/√512; five of them beyond the ends hold all but a few in 10⁶.
    assert (std > 0.1 * (1 - 5 / math.sqrt(512))).all()
    assert (std < 0.3 * (1 + 5 / math.sqrt(512))).all()
    # A uniform law on [a, b] has mean (a + b)/2 and variance (b − a)²/12; the noise of the estimate adds E σ²/512.
    spread = math.sqrt(0.2**2 / 12 + (0.2**2 + 0.2**2 / 12) / 512)
    assert abs(float(std.mean()) - 0.2) <= 5 * spread / math.sqrt(4000)
    assert float(std.std()) == pytest.approx(spread, rel=5 / math.sqrt(2 * 4000))


def test_a_range_of_whole_numbers_has_both_ends() -> None:
    x = images(64, 3, 8, 8)
    found = damaged("jpeg=5..7", x)["image"]
    each = torch.stack([damaged(f"jpeg={q}", x)["image"] for q in (5, 6, 7)])
    same = (each == found).flatten(2).all(2)  # (qualities, pictures)
    assert same.any(0).all()
    assert same.any(1).all()


def test_alternatives_are_drawn_equally_and_done_as_alone() -> None:
    x = images(3000, 3, 8, 8)
    made = damaged("grey|uncrop=0.5|blur=1", x)
    assert made["image"].shape == x.shape
    assert made["mask"].shape == (3000, 1, 8, 8)
    grey = (damaged("grey", x)["image"].expand_as(x) == made["image"]).flatten(1).all(1)
    alone = damaged("uncrop=0.5", x)
    uncropped = (alone["image"] == made["image"]).flatten(1).all(1)
    blurred = (damaged("blur=1", x)["image"] == made["image"]).flatten(1).all(1)
    assert (grey.int() + uncropped.int() + blurred.int() == 1).all()
    assert torch.equal(made["mask"][uncropped], alone["mask"][uncropped])
    assert (made["mask"][~uncropped] == 1).all()
    for share in (grey, uncropped, blurred):  # each a Bernoulli mean of p = ⅓
        assert abs(float(share.double().mean()) - 1 / 3) <= 5 * math.sqrt(2 / 9 / 3000)
    some = torch.tensor([5, 17, 2])
    again = Degradation.parse("grey|uncrop=0.5|blur=1")(x[some], Noise(0, 3000).rows(some))
    assert all(torch.equal(again[name], made[name][some]) for name in made)


def test_greys_alone_stay_of_one_channel() -> None:
    assert Degradation.parse("grey|grey,noise=0.1").shapes((3, 8, 8)) == {"image": (1, 8, 8)}
    assert Degradation.parse("grey|jpeg=5").shapes((3, 8, 8)) == {"image": (3, 8, 8)}


# --- one after the other; text ---


def test_steps_follow_each_other() -> None:
    x = 0.5 * images()
    expected = damaged("resize=4", damaged("grey", x)["image"])["image"]
    assert torch.equal(damaged("grey,resize=4", x)["image"], expected)
    both = damaged("box=0.5,resize=4", x)
    assert both["image"].shape[2:] == (4, 4)
    assert both["mask"].shape[2:] == (8, 8)  # a network brings each to the size of x


@pytest.mark.parametrize(
    "text",
    [
        "grey",
        "resize=16",
        "resize=16,noise=0.1",
        "noise=0.12345678901234567",
        "box=0.5,blur=2.5,jpeg=75",
        "noise=1e-09",
        "noise=0..0.2,uncrop=0.5",
        "grey|uncrop=0.5|jpeg=5..30",
    ],
)
def test_text_round_trip(text: str) -> None:
    one = Degradation.parse(text)
    assert Degradation.parse(str(one)) == one
    assert str(Degradation.parse(str(one))) == str(one)
    assert str(Degradation.parse(text.replace(",", " , "))) == str(one)
    assert "resize=16" in str(one) or "resize" not in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "degradation"),
        ("blurr=2", r"unknown degradation 'blurr'.*blur"),
        ("noise", r"noise needs a number"),
        ("noise=", r"noise needs a number"),
        ("noise=much", r"noise takes a number or a range such as 1..2, got 'much'"),
        ("noise=-1", r"noise must be a number in \[0, 10\], got -1"),
        ("noise=nan", r"noise must be a number in \[0, 10\], got nan"),
        ("noise=inf", r"noise must be a number in \[0, 10\], got inf"),
        ("resize=0", r"resize must be an integer in \[1, 16384\], got 0"),
        ("resize=2.5", r"resize must be an integer in \[1, 16384\], got 2.5"),
        ("blur=0", r"blur must be a number in \[0.05, 64\], got 0"),
        ("box=1.5", r"box must be a number in \[0.01, 1\], got 1.5"),
        ("jpeg=0", r"jpeg must be an integer in \[1, 100\], got 0"),
        ("grey=1", r"grey takes no number, got '1'"),
        ("box=0.5,box=0.5", r"box.*once"),
        ("box=0.5,uncrop=0.5", r"box or uncrop can be given once"),
        ("noise=0.2..0.1", r"noise takes a range from low to high, got 0.2..0.1"),
        ("noise=0.1..", r"noise takes a number or a range such as 1..2, got '0.1..'"),
        ("noise=..0.1..0.2", r"noise takes a number or a range such as 1..2, got '..0.1..0.2'"),
        ("noise=0..11", r"noise must be a number in \[0, 10\], got 11"),
        ("jpeg=5.5..9", r"jpeg must be an integer in \[1, 100\], got 5.5"),
        ("blur=1..2", r"blur takes one number for all pictures, got 1..2"),
        ("resize=4..6", r"resize takes one number for all pictures, got 4..6"),
        ("noise=1|", "unknown degradation ''"),
    ],
)
def test_bad_text_is_refused(text: str, reason: str) -> None:
    for call in (lambda: Degradation.parse(text), lambda: data.load("digits", degrade=text)):
        with pytest.raises(UserError, match=reason):
            call()


def test_bad_use_is_refused() -> None:
    sizes = r"gives pictures of \(8, 8\) and of \(4, 4\) pixels; alternatives must give one size"
    with pytest.raises(UserError, match=sizes):
        data.load("digits", degrade="noise=1|resize=4")
    for name, degrade in (("moons", "noise=1"), ("words", "noise=1"), ("digits-17", "noise=1"), ("digits", "grey")):
        with pytest.raises(UserError, match="degrad"):
            data.load(name, degrade=degrade)
    with pytest.raises(UserError, match="degrade must be text"):
        data.load("digits", degrade=3)  # type: ignore[arg-type]
    x = torch.zeros(4, 1, 8, 8)
    with pytest.raises(UserError, match="degrade makes the condition 'image', which these data have already"):
        Split(x, {"image": x}, degrade=Degradation.parse("noise=1"))


def test_a_mask_of_the_data_and_one_of_a_box_are_refused_together(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((20, 1, 8, 8), np.uint8), mask=np.ones((20, 8, 8), np.float32))
    with pytest.raises(UserError, match="degrade makes the condition 'mask', which these data have already"):
        data.load(tmp_path / "a.npz", degrade="box=0.5")
    both = data.load(tmp_path / "a.npz", degrade="resize=4")
    assert dict(both.info.conditions) == {"image": (1, 4, 4), "mask": (1, 8, 8)}


# --- in a data set ---

DAMAGE = "box=0.5,noise=0.2"


def test_every_degradation_is_tried_here() -> None:
    assert set(DEGRADATIONS) == {"resize", "grey", "blur", "noise", "box", "uncrop", "jpeg"}


@pytest.mark.parametrize(
    ("degrade", "shapes"),
    [
        ("resize=4", {"image": (1, 4, 4)}),
        ("noise=0.1", {"image": (1, 8, 8)}),
        ("box=0.5", {"image": (1, 8, 8), "mask": (1, 8, 8)}),
        ("box=0.5,resize=2", {"image": (1, 2, 2), "mask": (1, 8, 8)}),
        ("noise=0.1|uncrop=0.5", {"image": (1, 8, 8), "mask": (1, 8, 8)}),
    ],
)
def test_the_description_has_the_shapes_of_what_is_made(degrade: str, shapes: dict) -> None:
    made = data.load("digits", degrade=degrade)
    assert dict(made.info.conditions) == {"label": (), **shapes}
    for split in (made.train, made.test):
        for batch in (split.batch(torch.tensor([1, 5, 2])), split.plain(torch.tensor([1, 5, 2]))):
            assert {k: tuple(v.shape[1:]) for k, v in batch.items() if k in shapes} == shapes
            assert all(v.dtype == torch.float32 for k, v in batch.items() if k != "label")
    assert made.info.source["degrade"] == degrade
    assert data.load(**made.info.source).info == made.info


def test_damage_leaves_x_and_its_moments_as_they_are() -> None:
    plain, made = data.load("digits", flip=True), data.load("digits", flip=True, degrade=DAMAGE)
    for name, value in plain.info.tensors().items():
        assert torch.equal(value, made.info.tensors()[name]), name
    rows = torch.arange(64)
    assert torch.equal(plain.train.batch(rows, seed=3, draw=2)["x"], made.train.batch(rows, seed=3, draw=2)["x"])
    assert torch.equal(plain.test.all()["x"], made.test.all()["x"])


def test_damage_is_a_function_of_seed_index_and_draw_alone() -> None:
    split = data.load("digits", flip=True, degrade=DAMAGE).train
    rows = torch.tensor([7, 3, 200, 3])
    one = split.batch(rows, seed=5, draw=9)
    split.batch(torch.arange(50), seed=1, draw=1)
    again = split.batch(rows, seed=5, draw=9)
    single = split.batch(torch.tensor([200]), seed=5, draw=9)
    for name in ("image", "mask"):
        assert torch.equal(one[name], again[name])
        assert torch.equal(one[name][2:3], single[name])
        assert torch.equal(one[name][1], one[name][3])
        for other in ({"seed": 6, "draw": 9}, {"seed": 5, "draw": 10}):
            assert not torch.equal(one[name], split.batch(rows, **other)[name])
    same = split.batch(torch.tensor([3, 4, 5, 6]), seed=5, draw=9)
    assert not torch.equal(same["image"][0] - same["x"][0], same["image"][1] - same["x"][1])
    held = data.load("digits", degrade=DAMAGE).test
    assert torch.equal(held.plain(rows)["image"], held.plain(rows)["image"])


def test_a_mirrored_example_is_mirrored_with_its_pictures() -> None:
    x = images(64, 1).float()
    beside = {"image": images(64, 2, 5, 7).float(), "mask": (images(64, 1) > 0).float(), "vector": x[:, 0, 0]}
    split = Split(x, beside, flip=True)
    rows = torch.arange(64)
    batch = split.batch(rows, seed=1)
    turned = (batch["x"] != x).flatten(1).any(1)
    assert 16 < int(turned.sum()) < 48
    for name, value in {"x": x, **beside}.items():
        mirrored = value if name == "vector" else torch.where(turned.view(-1, 1, 1, 1), value.flip(-1), value)
        assert torch.equal(batch[name], mirrored), name
        assert torch.equal(split.plain(rows)[name], value), name


def test_damage_is_done_to_the_mirrored_image_and_the_window() -> None:
    g = torch.Generator().manual_seed(0)
    x = [torch.randint(0, 256, (3, 8, 8 + i % 3), generator=g, dtype=torch.uint8) for i in range(30)]
    split = Split(x, flip=True, crop=6, degrade=Degradation.parse("grey"))
    batch = split.batch(torch.arange(30), seed=4)
    assert torch.equal(batch["image"], damaged("grey", batch["x"])["image"])
    assert batch["image"].shape == (30, 1, 6, 6)


def test_a_picture_in_bytes_is_scaled_as_x() -> None:
    x = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8)
    batch = Split(x, {"image": x}).all()
    assert torch.equal(batch["image"], batch["x"])
    assert batch["image"].dtype == torch.float32
