"""The codec: rates against mutual information, exact files, and what cannot be coded."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_codec import network, replace_data, smooth
from torch import Tensor

import langevin
from langevin import Noise, processes, worlds
from langevin._errors import UserError
from langevin.data import DataInfo
from langevin.denoisers import NetworkDenoiser
from langevin.tasks.compress import Levels, compress, decompress, rate_distortion
from langevin.tasks.compress.chain import checked, plan
from support import oracle, thinned

SPREAD = 0.6


def normal(dim: int = 16) -> NetworkDenoiser:
    """The exact belief about N(0, SPREAD²) in ``dim`` coordinates, of data with 256 levels in ±4."""
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.full((1,), SPREAD**2))
    mean, cov = torch.zeros(dim, dtype=torch.float64), SPREAD**2 * torch.eye(dim, dtype=torch.float64)
    data = DataInfo("normal", (dim,), -4.0, 4.0, levels=256, mean=mean, cov=cov)
    return replace(oracle(world, processes.EDM(), "edm"), data=data)


# Rates.


def test_rate_and_distortion_of_a_normal_world():
    r"""Σ KL over any chain is I(x_t; x_0) = ½ log₂(1 + α²c²/σ²) a coordinate, and the error is the posterior variance.

    The belief is exact but for its variance, which a byte holds to 4.5 % (a KL of 0.0005 nats a coordinate and step at
    most, 2e-4 on average over uniform rounding); the rest is Monte Carlo, of which the standard error is measured.
    """
    model, n = normal(), 400
    x0 = Noise(1, n).normal((16,)) * SPREAD
    curve = rate_distortion(model, x0.clamp(-4, 4), end=0.2 / 80)
    for i in range(0, len(curve.times), 3):
        sigma = 80 * float(curve.times[i])
        rate = 8 * math.log2(1 + (SPREAD / sigma) ** 2)
        bits = curve.bits[i]
        assert abs(float(bits.mean()) - rate) < 4 * float(bits.std()) / math.sqrt(n) + 16 * i * 3e-4
        posterior = (SPREAD * sigma) ** 2 / (SPREAD**2 + sigma**2)
        assert abs(float(curve.error[i].mean()) / posterior - 1) < 4 * math.sqrt(2 / (16 * n))
    assert (curve.bits.diff(dim=0).mean(1) > 0).all()
    # Fine noise, wide levels: what is left is the entropy of a level, h − log₂ width = ½ log₂ 2πe c² + log₂ 255/8.
    # A normal cut into levels of width w is that to 1e-3; the floor of the law costs 0.002/ln 2 bits a coordinate.
    entropy = 16 * (0.5 * math.log2(2 * math.pi * math.e * SPREAD**2) + math.log2(255 / 8))
    total = curve.total[-1]
    slack = 16 * (len(curve.times) * 3e-4 + 0.02)
    assert abs(float(total.mean()) - entropy) < 4 * float(total.std()) / math.sqrt(n) + slack
    assert "lossless bits/dim" in str(curve)


@pytest.mark.parametrize("n", [160, pytest.param(1500, marks=pytest.mark.slow)])
def test_bytes_are_those_of_mutual_information(n: int) -> None:
    """A file of normal data has ½ log₂(1 + c²/σ²) bits a coordinate and little more, and the noise it should.

    The reference is what the divergences of this very data and exact samples sum to, itself within 4 standard errors of
    the closed form: the density of information of a coordinate has a variance below 1 nat². Beyond it the beam loses
    3.8 % (see above; 4.2 allows for the constant of another ρ) and every path its end: the best of 2^K stays
    ½ log₂(2π V) below K where the weight of a sample has the variance V, some hundred bits² a step, hence 5 bits, and 2
    of rounding.
    """
    model, sigma = normal(), 0.3
    scale = Levels.of(checked(model))
    levels = scale.nearest(Noise(1, n).normal((16,)) * SPREAD)
    x0 = scale.values(levels)
    made = compress(model, levels, step=sigma / 80)
    ideal = float(rate_distortion(model, x0, end=sigma / 80, seed=2).bits[-1].sum())
    closed = 0.5 * math.log2(1 + (SPREAD / sigma) ** 2) * levels.numel()
    assert abs(ideal - closed) < 4 * math.sqrt(levels.numel()) / math.log(2)
    ends = sum(layout.paths for layout in made.header.layouts())
    assert 0.98 * ideal < 8 * made.payload < 1.042 * ideal + 7 * ends
    assert n < 1000 or 8 * made.payload < 1.05 * ideal
    received = decompress(model, made.content)
    error = (received.x - x0) / sigma
    assert abs(float(error.square().mean()) - 1) < 4 * math.sqrt(2 / error.numel()) + 0.03
    # Its posterior mean has the error of the posterior, c²σ²/(c² + σ²), as little as normal noise allows.
    posterior = (SPREAD * sigma) ** 2 / (SPREAD**2 + sigma**2)
    mean = scale.values(received.decode("mean"))
    assert abs(float((mean - x0).square().mean()) / posterior - 1) < 4 * math.sqrt(2 / error.numel()) + 0.05


def test_decoders_of_a_normal_world():
    """The mean errs by c²σ²/(c² + σ²), ancestral sampling by twice that, the flow by less (arXiv:2206.08889 §3)."""
    model, n, sigma = normal(), 400, 0.4
    x0 = (Noise(1, n).normal((16,)) * SPREAD).clamp(-4, 4)
    steps = plan(model, sigma / 80, x0.numel())
    x = steps.process.marginal(x0, steps.times[-1]).sample(Noise(2, n))
    c2, s2 = SPREAD**2, sigma**2
    posterior = c2 * s2 / (c2 + s2)
    # The flow multiplies by c/√(c² + σ²): error (1 − k)²c² + k²σ².
    k = math.sqrt(c2 / (c2 + s2))
    expected = {"mean": posterior, "ancestral": 2 * posterior, "flow": (1 - k) ** 2 * c2 + k**2 * s2}
    for name, decoder in langevin.tasks.compress.DECODERS.items():
        error = float((decoder(steps, x, 0, None) - x0).square().mean())
        # Ancestral sampling from point beliefs is short of variance by the size of its steps: 7.6 octaves in 64.
        slack = 0.12 if name == "ancestral" else 0.02
        assert abs(error / expected[name] - 1) < 4 * math.sqrt(2 / x0.numel()) + slack, name


def test_first_state_has_the_moments_of_the_data():
    """p of the first state is N(α m, α² v + σ²), m and v the data's own, a coordinate each."""
    mean, variance = torch.linspace(-0.5, 0.5, 64).double(), torch.linspace(0.1, 0.4, 64).double()
    made = network()
    steps = plan(replace(made, data=replace_data(made.data, mean=mean, cov=variance)), 0.1, 64)
    alpha, sigma = (float(f(steps.times[0])) for f in (steps.process.alpha, steps.process.sigma))
    got = steps.first(3)
    torch.testing.assert_close(got[0].flatten(1), (alpha * mean).expand(3, 64))
    torch.testing.assert_close(got[1].flatten(1), (alpha**2 * variance + sigma**2).expand(3, 64))


@pytest.mark.slow
def test_almost_nothing_about_many():
    """At t = 1 nothing is to be said, and a bit an event is sent: what a reader holds is bounded by the file's size."""
    model = normal(2)
    levels = Levels.of(checked(model)).nearest(Noise(1, 3000).normal((2,)) * SPREAD)
    made = compress(model, levels, step=1.0)
    assert made.payload == 375
    assert decompress(model, made.content).x.shape == (3000, 2)


def test_quality_is_reached():
    model = normal()
    scale = Levels.of(checked(model))
    levels = scale.nearest(Noise(1, 64).normal((16,)) * SPREAD)
    made = compress(model, levels, quality=26)
    reached = scale.psnr(scale.values(decompress(model, made.content).decode("flow")), scale.values(levels))
    # Seven halvings of 19 octaves leave an eighth of one, 0.9 dB at most; the code's own noise is good to some tenths.
    assert 25.6 < reached < 27.2


# Exact files.


@pytest.mark.parametrize(("shape", "levels", "n"), [((1, 8, 8), 17, 20), ((3, 8, 8), 256, 2)])
def test_exact_whatever_the_model(shape: tuple[int, ...], levels: int, n: int) -> None:
    model = network(shape, levels)
    x = smooth(n, shape, levels)
    x[0] = torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(1))  # and what nothing expects
    made = compress(model, x)
    assert torch.equal(decompress(model, made.content).decode(), x)
    # The residual is the entropy of its law, and 32-bit words filled up.
    assert made.residual / 8 <= made.header.residual < made.residual / 8 * 1.002 + 8


PROCESSES = {"cosine": processes.Cosine(), "flow": processes.RectifiedFlow(), "vp": processes.VP()}


def drawn(name: str, levels: int) -> Tensor:
    """Levels ``(1, 1, 8, 8)``: flat, extreme, random or handwritten."""
    place = torch.arange(8)[:, None] + torch.arange(8)
    if name.startswith("digit"):
        x = langevin.data.load("digits").test.all()["x"][int(name.removeprefix("digit"))]
        return Levels(-1.0, 1.0, levels).nearest(x)[None]
    made = {
        "white": torch.full((8, 8), levels - 1),
        "black": torch.zeros(8, 8),
        "grey": torch.full((8, 8), levels // 2),
        "checker": place % 2 * (levels - 1),
        "ramp": place * (levels - 1) // 14,
        "dot": (place == 0) * (levels - 1),
        "noise": torch.randint(0, levels, (8, 8), generator=torch.Generator().manual_seed(0)),
        "halves": torch.randint(0, 2, (8, 8), generator=torch.Generator().manual_seed(1)) * (levels - 1),
    }
    return made[name].long()[None, None]


@pytest.mark.parametrize(
    ("process", "name"),
    thinned(
        [
            *(("cosine", name) for name in ("white", "black", "grey", "checker", "ramp", "dot", "noise", "halves")),
            *((process, name) for process in ("flow", "vp") for name in ("white", "checker", "noise", "digit3")),
            *(("cosine", f"digit{i}") for i in (0, 7)),
        ],
        3,
    ),
)
def test_every_picture_comes_back(process: str, name: str) -> None:
    """Also one about which the belief of the network is so wrong that no step is worth sending."""
    model = replace(network(), process=PROCESSES[process])
    levels = drawn(name, 17)
    assert torch.equal(decompress(model, compress(model, levels).content).decode(), levels)


@pytest.mark.parametrize("process", PROCESSES)
def test_no_step_has_no_length(process: str) -> None:
    """From the first time to itself, or to a rounding of it, is no step; from it to a later one are steps that fall.

    A thousandth of a step is well above the millionth that is left out, and what rounding can make, 1e-13.
    """
    model = replace(network(), process=PROCESSES[process])
    first = float(plan(model, 0.01, 64).times[0])
    for near in (first, math.nextafter(first, 0), math.nextafter(math.nextafter(first, 0), 0), 1.0):
        assert len(plan(model, near, 64)) == 1
    later = model.process.time(model.process.log_snr(torch.tensor(first).double()) + 1e-3 * 2 * math.log(2))
    for step in (float(later), 0.3, 1e-3):
        assert (plan(model, step, 64).times.diff() < 0).all()
    assert len(plan(model, float(later), 64)) == 2
    still = replace_data(model.data, mean=torch.zeros(64).double(), cov=torch.zeros(64).double())
    assert len(plan(replace(model, data=still), 0.1, 64)) == 1


def test_law_of_pixels():
    """Counts of all levels sum to what the code length divides by, edges and floor included."""
    scale = Levels(-1.0, 1.0, 17)
    mean = torch.tensor([-1.3, -1.0, -0.97, 0.0, 0.51, 1.0, 1.2])[:, None]
    place, row = scale._place(mean)
    assert torch.equal(row.sort().values, row)
    assert int(row.max()) < 16
    for width in (0, 20, 60):
        counts = scale._counts(place[:, None], torch.tensor(width), torch.arange(17))
        total = 2 ** -scale._length(place[:, None], torch.tensor(width), torch.arange(17))
        assert (counts >= 1).all()
        assert torch.equal(counts, counts.round())
        # 17 roundings to whole counts, half a count each.
        torch.testing.assert_close(total.sum(1), torch.ones(7, dtype=torch.float64), atol=9 / 2**16, rtol=0)


def test_rounding_of_another_machine_changes_nothing():
    """A prediction that differs by less than half a part of the grid has the same law to the last count."""
    scale, levels = Levels(-1.0, 1.0, 17), smooth(40, (1, 8, 8), 17)
    mean = scale.values(levels) + 0.3 * Noise(0, 40).normal((1, 8, 8))
    mean = scale.low + scale.width * ((mean - scale.low) / scale.width * 64).round() / 64
    words, scales, _ = scale.encode(mean, levels)
    for shift in (1e-4, -1e-4):
        assert torch.equal(scale.decode(mean + shift * scale.width, words, scales), levels)


@pytest.mark.slow
def test_all_digits_come_back():
    model = network()
    levels = Levels.of(checked(model)).nearest(langevin.data.load("digits").test.all()["x"])
    assert len(levels) == 359
    assert torch.equal(decompress(model, compress(model, levels).content).decode(), levels)


# Both ends.


@pytest.fixture(scope="module")
def model() -> NetworkDenoiser:
    return network()


def test_the_sender_and_the_receiver_have_the_same_sample(model: NetworkDenoiser) -> None:
    """More images than a batch, so that the last one is filled up: each step of both sides asks the same batches."""
    x = smooth(70, (1, 8, 8), 17)
    made = compress(model, x, step=0.5)
    again = compress(model, x, step=0.5)
    assert made.content == again.content
    one, two = (decompress(model, made.content).x for _ in range(2))
    assert torch.equal(one, two)


# What cannot be coded.


def test_bad_requests(model: NetworkDenoiser) -> None:
    x = smooth(2, (1, 8, 8), 17)
    cases = [
        ({"levels": x.float()}, r"levels must be integers \(N, 1, 8, 8\), got torch.float32"),
        ({"levels": x[:, :, :4]}, r"levels must be integers \(N, 1, 8, 8\)"),
        ({"levels": x[:0]}, "levels must be integers"),
        ({"levels": x + 17}, r"levels must lie in 0…16, got 1"),
        ({"step": 0.0}, r"step must be a time in \(0, 1\]"),
        ({"step": 1.5}, r"step must be a time in \(0, 1\]"),
        ({"step": math.nan}, r"step must be a time in \(0, 1\]"),
        ({"quality": -3.0}, "quality must be a PSNR"),
        ({"quality": math.nan}, "quality must be a PSNR"),
        ({"quality": math.inf}, "quality must be a PSNR"),
        ({"step": 0.2, "quality": 20.0}, "step or quality, not both"),
        ({"seed": -1, "step": 0.2}, "seed must be"),
    ]
    for changes, phrase in cases:
        with pytest.raises(UserError, match=phrase):
            compress(model, **{"levels": x, **changes})  # type: ignore[arg-type]
    colour = network((3, 8, 8), 256)
    with pytest.raises(UserError, match="quality must be a PSNR that this model reaches, at most"):
        compress(colour, smooth(1, (3, 8, 8), 256), quality=99)
    with pytest.raises(UserError, match="continuous"):
        compress(replace(model, data=replace_data(model.data, levels=None)), x)
    with pytest.raises(UserError, match=r"decoder 'flwo'.*Did you mean 'flow'"):
        decompress(model, compress(model, x, step=0.5).content).decode("flwo")
    with pytest.raises(UserError, match="x0 must lie in"):
        rate_distortion(model, torch.full((2, 1, 8, 8), 1.5))
