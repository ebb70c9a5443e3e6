"""The codec: the reverse channel code against normal laws, rates against mutual information, files byte by byte."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import langevin
from langevin import Noise, models, processes, worlds
from langevin._errors import UserError
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.storage import untrusted
from langevin.tasks.compress import Levels, compress, container, decompress, images, rate_distortion, tree
from langevin.tasks.compress.chain import checked, fingerprint, plan
from support import oracle, thinned

SPREAD = 0.6


def normal(dim: int = 16) -> NetworkDenoiser:
    """The exact belief about N(0, SPREAD²) in ``dim`` coordinates, of data with 256 levels in ±4."""
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.full((1,), SPREAD**2))
    mean, cov = torch.zeros(dim, dtype=torch.float64), SPREAD**2 * torch.eye(dim, dtype=torch.float64)
    data = DataInfo("normal", (dim,), -4.0, 4.0, levels=256, mean=mean, cov=cov)
    return replace(oracle(world, processes.EDM(), "edm"), data=data)


def network(shape: tuple[int, ...] = (1, 8, 8), levels: int = 17, seed: int = 0) -> NetworkDenoiser:
    """A small network with random weights: it believes something, and what it believes is wrong."""
    torch.manual_seed(seed)
    net = langevin.nn.create_network(
        {"name": "unet", "channels": shape[0], "size": shape[1:], "width": 8, "multipliers": (1, 2), "attention": ()}
    ).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return NetworkDenoiser(
        net, processes.VP(), AffineParameterization("v", 0.7), shape, data=DataInfo("made", shape, levels=levels)
    )


def smooth(n: int, shape: tuple[int, ...], levels: int, seed: int = 0) -> Tensor:
    """Levels of images that are brighter in one corner, with some noise."""
    ramp = torch.linspace(0, 1, shape[1])[:, None] + torch.linspace(0, 1, shape[2])
    noise = torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))
    return ((ramp / 2 * 0.8 + 0.2 * noise) * (levels - 1)).round().long()


# The code of a sample.


def problem(n: int, rho: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """m ~ N(0, ρ) of q = N(m, 1) against p = N(0, 1 + ρ): m, u, v, and KL in bits."""
    m = Noise(5, 1).normal((n,))[0] * math.sqrt(rho)
    u, v = torch.ones(n, dtype=torch.float64), torch.full((n,), 1 + rho, dtype=torch.float64)
    return m, u, v, float(tree.information(m, u, v).sum())


def weight(m: Tensor, u: Tensor, v: Tensor, z: Tensor) -> float:
    """log₂ q/p of what was sent."""
    y = v.sqrt() * z
    return float((y**2 / v - (y - m) ** 2 / u + torch.log(v / u)).sum()) / (2 * math.log(2))


def test_information_is_the_divergence():
    p, q = (torch.distributions.Normal(m, s) for m, s in ((0.0, 1.3), (0.4, 0.7)))
    truth = float(torch.distributions.kl_divergence(q, p)) / math.log(2)
    mine = tree.information(*(torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.49, 1.69)))
    assert abs(float(mine) - truth) < 1e-6


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (7, 3), (64, 700), (5000, 40), (5000, 9000), (30, 360)])
def test_layout(count: int, wanted: int) -> None:
    """Every coordinate is in one block, the bits are enough, and what they are beyond is less than a choice a path."""
    layout = tree.Layout(count, wanted)
    first, size = layout.windows()
    covered = torch.cat([torch.arange(a, a + s) for a, s in zip(first.flatten().tolist(), size.flatten().tolist())])
    assert torch.equal(covered, torch.arange(count))
    assert wanted <= layout.total < wanted + layout.bits * layout.paths


@pytest.mark.parametrize(("n", "rho"), [(2500, 0.2), (600, 1.5)])
def test_sample_is_one_of_q(n: int, rho: float) -> None:
    """As many bits as the divergence give a y whose log q/p is nearly the divergence, and whose noise is normal.

    A beam of M paths loses a share of about 3.1/(ln M)² (the speed of a branching walk of M particles, Brunet and
    Derrida 1997, with the constant seen here), 3.8 % at 8192, and the end of a path some bits: 0.91 is asked. The noise
    y − m has variance 1 to 4 standard errors, √(2/n), a bias of twice the lost share of KL a coordinate allowed, and
    does not lean to m: that is the correlation's standard error, 1/√n, and the share of m that is lost.
    """
    m, u, v, bits = problem(n, rho)
    choices, z = tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(3, 1))
    layout = tree.Layout(n, math.ceil(bits))
    assert torch.equal(tree.receive(choices, layout, Noise(3, 1)), z)
    assert int(choices.min()) >= 0
    assert int(choices.max()) < 2**layout.bits
    assert weight(m, u, v, z) > 0.91 * bits
    rest = v.sqrt() * z - m
    lost = 2 * 0.09 * bits * math.log(2) / n
    assert abs(float(rest.square().mean()) - 1) < 4 * math.sqrt(2 / n) + lost
    assert abs(float(rest.mean())) < 4 / math.sqrt(n)
    assert abs(float((rest * m).mean()) / math.sqrt(rho)) < 4 / math.sqrt(n) + 0.09


def test_what_is_to_be_said_may_lie_anywhere():
    """All of it in a tenth of the coordinates, side by side: the shuffled order spreads it over the blocks."""
    m, u, v, _ = problem(2000, 0.3)
    m[200:] = 0
    m[:200] *= math.sqrt(10)
    bits = float(tree.information(m, u, v).sum())
    _, z = tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(3, 1))
    assert weight(m, u, v, z) > 0.82 * bits  # taken in a row they get 0.02 of it


def test_beam_is_what_makes_it_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """One path alone, the best candidate of each block by itself, gets much less out of the same bits."""
    m, u, v, bits = problem(1000, 0.5)
    found = []
    for beam in (1, 64, 2048):
        monkeypatch.setattr(tree, "BEAM", beam)
        _, z = tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(3, 1))
        found.append(weight(m, u, v, z) / bits)
    assert found[0] < 0.7 < found[1] < found[2]


def test_another_seed_is_another_code():
    m, u, v, bits = problem(200, 0.5)
    first, second = (tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(s, 1))[1] for s in (0, 1))
    assert not torch.allclose(first, second)
    one, two = (tree.Book(tree.Layout(200, 100), Noise(0, 1).step(i)) for i in (0, 1))
    assert not torch.allclose(one.table, two.table)
    assert not torch.equal(one.order, two.order)
    # Windows of one sequence: standard normal, to 4 standard errors of a mean and a variance.
    row = one.table[:, 0].double()
    assert abs(float(row.mean())) < 4 / 128
    assert abs(float(row.var()) - 1) < 4 * math.sqrt(2) / 128


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


# Files.


@pytest.fixture(scope="module")
def model() -> NetworkDenoiser:
    return network()


@pytest.fixture(scope="module")
def files(model: NetworkDenoiser) -> dict[str, bytes]:
    """A lossy and an exact file."""
    x = smooth(3, (1, 8, 8), 17)
    return {"lossy": compress(model, x, step=0.3).content, "exact": compress(model, x).content}


def sealed(content: bytes) -> bytes:
    """The content with a checksum that fits."""
    return content[:-8] + hashlib.blake2b(content[:-8], digest_size=8).digest()


def with_header(content: bytes, **changes: object) -> bytes:
    """The file with other header fields."""
    length = struct.unpack_from("<I", content, 6)[0]
    head = json.dumps({**json.loads(content[10 : 10 + length]), **changes}, separators=(",", ":")).encode()
    return sealed(content[:6] + struct.pack("<I", len(head)) + head + content[10 + length :])


@pytest.mark.parametrize("kind", ["lossy", "exact"])
def test_every_altered_byte_is_seen(files: dict[str, bytes], kind: str) -> None:
    content = files[kind]
    for i in range(len(content)):
        for flip in (0x01, 0x80):
            with pytest.raises(UserError):
                container.unpack(content[:i] + bytes([content[i] ^ flip]) + content[i + 1 :])


@pytest.mark.parametrize("kind", ["lossy", "exact"])
def test_every_cut_is_seen(files: dict[str, bytes], kind: str) -> None:
    for i in range(len(files[kind])):
        with pytest.raises(UserError):
            container.unpack(files[kind][:i])
    with pytest.raises(UserError):
        container.unpack(files[kind] + b"\0")


def test_sealed_alterations_never_crash(model: NetworkDenoiser, files: dict[str, bytes]) -> None:
    """Bytes altered and the checksum made to fit: a file is read or refused, nothing else happens."""
    content = files["exact"]
    rng = np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    for i in rng.permutation(len(content) - 8)[:90]:
        for value in (int(rng.integers(256)), ord("9")):
            altered = sealed(content[:i] + bytes([value]) + content[i + 1 :])
            try:
                container.unpack(altered)
                decompress(model, altered)
                outcomes["read"] += 1
            except UserError:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes


HUGE = 10**12
FORGED = [
    {"count": HUGE},
    {"count": 2**32},
    {"count": 0},
    {"count": 3.0},
    {"count": True},
    {"shape": [HUGE]},
    {"shape": []},
    {"shape": [2**20] * 50},
    {"shape": [1, 8]},
    {"levels": 1},
    {"seed": -1},
    {"times": [0.5]},
    {"times": [0.1, 0.5]},
    {"times": ["a", 0.1]},
    {"times": [1, 0]},
    {"bits": []},
    {"bits": [HUGE] * 3},
    {"bits": [0]},
    {"spread": [300]},
    {"spread": None},
    {"scales": [1]},
    {"residual": HUGE},
    {"residual": -4},
    {"items": [["a", 1]]},
    {"items": [[1, 8, 8]]},
    {"items": [["a", 0, 8]]},
    {"model": 7},
    {"extra": 1},
]


@pytest.mark.parametrize("changes", FORGED, ids=lambda c: "-".join(f"{k}={str(v)[:12]}" for k, v in c.items()))
def test_forged_headers(model: NetworkDenoiser, files: dict[str, bytes], changes: dict[str, object]) -> None:
    """No number of a header is used before the file's own length has confirmed it."""
    with pytest.raises(UserError):
        decompress(model, with_header(files["exact"], **changes))


def test_refusals_say_what_is_wrong(model: NetworkDenoiser, files: dict[str, bytes]) -> None:
    content = files["lossy"]
    cases = {
        "no file of `langevin compress`": b"\x89PNG\r\n\x1a\n" + bytes(100),
        "cut short": content[:30],
        "format 9": content[:5] + b"\x09" + content[6:],
        "checksum": content[:-10] + bytes([content[-10] ^ 1]) + content[-9:],
        "says 2 bytes of payload, it has": with_header(content, residual=1, bits=[1], spread=[]),
    }
    for phrase, bad in cases.items():
        with pytest.raises(UserError, match=phrase):
            decompress(model, bad)
    with pytest.raises(UserError, match=f"another model: fingerprint {fingerprint(model)}, this one has"):
        decompress(network(seed=1), content)


def test_fingerprint_is_of_what_is_computed_with(model: NetworkDenoiser) -> None:
    assert fingerprint(replace(model, config={"steps": 3})) == fingerprint(model)
    others = [
        network(seed=1),
        replace(model, process=processes.VP(0.1, 19.0)),
        replace(model, parameterization=AffineParameterization("v", 0.71)),
        replace(model, data=replace_data(model.data, levels=18)),
        replace(model, data=replace_data(model.data, mean=torch.ones(64).double(), cov=torch.ones(64).double())),
    ]
    assert len({fingerprint(m) for m in (model, *others)}) == 6


def replace_data(data: DataInfo, **changes: object) -> DataInfo:
    return DataInfo(**{"name": data.name, "shape": data.shape, "levels": data.levels, **changes})  # type: ignore[arg-type]


READ = """
import hashlib, sys
from langevin import models
from langevin.tasks.compress import decompress
model = models.load(sys.argv[1], device="cpu")
for name in sys.argv[2:]:
    received = decompress(model, open(name, "rb").read())
    for part in (received.x, received.decode("flow"), received.decode("ancestral")):
        print(hashlib.sha256(part.numpy().tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_another_process_reads_the_same_bits(model: NetworkDenoiser, files: dict[str, bytes], tmp_path: Path) -> None:
    models.save(model, tmp_path / "model")
    names = []
    for kind, content in files.items():
        (tmp_path / kind).write_bytes(content)
        names.append(str(tmp_path / kind))
    words = [sys.executable, "-c", READ, str(tmp_path / "model"), *names]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    mine = []
    for content in files.values():
        received = decompress(model, content)
        for part in (received.x, received.decode("flow"), received.decode("ancestral")):
            mine.append(hashlib.sha256(part.numpy().tobytes()).hexdigest())
    assert told == mine


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


# Images.


def picture(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_images_of_any_size_are_tiled(tmp_path: Path) -> None:
    model = network((3, 8, 8), 256)
    sizes = {"a.png": (21, 13), "below/b.png": (8, 8), "below/c.png": (1, 30)}
    for name, size in sizes.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(*size, 3)).save(tmp_path / "in" / name)
    levels, items = images.read(str(tmp_path / "in"), checked(model), exact=True)
    assert items == tuple((name, *size) for name, size in sizes.items())
    assert levels.shape == (3 * 2 + 1 + 4, 3, 8, 8)
    images.write(tmp_path / "out", levels, items, checked(model))
    for name, size in sizes.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / name)), picture(*size, 3))


def test_levels_of_digits_are_eight_bits(tmp_path: Path) -> None:
    data = network().data
    levels = smooth(4, (1, 8, 8), 17)
    images.write(tmp_path / "out", levels, (), data)
    back, items = images.read(str(tmp_path / "out"), data, exact=True)
    assert torch.equal(back, levels)
    assert [name for name, *_ in items] == [f"{i:05d}.png" for i in range(4)]
    images.write(tmp_path / "x.npy", levels, (), data)
    assert np.array_equal(np.load(tmp_path / "x.npy"), levels.numpy())
    between = tmp_path / "between.png"
    Image.fromarray(picture(8, 8, 1)[..., 0]).save(between)
    with pytest.raises(UserError, match="pixels between the 17 levels"):
        images.read(str(between), data, exact=True)
    assert images.read(str(between), data, exact=False)[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("mode", "lost"), [("RGBA", "an alpha channel"), ("LA", "an alpha channel"), ("I;16", "8 bits")]
)
def test_what_eight_bits_cannot_hold_is_not_called_exact(tmp_path: Path, mode: str, lost: str) -> None:
    grey = Image.fromarray(picture(8, 8, 1)[..., 0])
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    (deep if mode == "I;16" else grey.convert(mode)).save(tmp_path / "x.png")
    data = checked(network((1, 8, 8), 256))
    with pytest.raises(UserError, match=f"x.png has .*{lost}.*cannot bring back exactly"):
        images.read(str(tmp_path / "x.png"), data, exact=True)
    assert images.read(str(tmp_path / "x.png"), data, exact=False)[0].shape == (1, 1, 8, 8)


TOGETHER = [
    ["a.png", "a.jpg", "a.jpg.png"],
    ["a.png", "A.png", "b/a.png"],
    ["\u00e9.png", "e\u0301.png", "stra\u00dfe.png", "STRASSE.png"],
    ["x/1.png", "X/1.png", "x.png.png"],
]


@pytest.mark.parametrize("names", TOGETHER)
def test_names_that_are_alike_are_written_apart(tmp_path: Path, names: list[str]) -> None:
    """Every image has a file, and on a disk that knows no case too: the names differ without it."""
    levels = smooth(len(names), (1, 8, 8), 17)
    images.write(tmp_path / "out", levels, [(name, 8, 8) for name in names], network().data)
    written = [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in written}) == len(names)
    for name, place, level in zip(names, images.places(names), levels):
        pixels = np.asarray(Image.open(tmp_path / "out" / place))
        assert np.array_equal(np.rint(pixels / 255 * 16), level[0].numpy()), name


@pytest.mark.parametrize(
    ("names", "phrase"),
    [
        (["a.png", "b.png", "a.png"], "'a.png' and 'a.png' would be written to one file"),
        (["a.png", "A.png", "a.PNG"], "'a.png' and 'a.PNG' would be written to one file"),
        (["B.png/x.png", "b.jpg"], "'b.jpg' is an image and a folder"),
    ],
)
def test_names_that_cannot_be_written_apart(tmp_path: Path, names: list[str], phrase: str) -> None:
    levels, items = smooth(len(names), (1, 8, 8), 17), [(name, 8, 8) for name in names]
    with pytest.raises(UserError, match=f"the file contradicts itself: {phrase}"):
        images.write(tmp_path / "out", levels, items, network().data)
    assert not (tmp_path / "out").exists()


def test_pictures_are_held_against_memory_before_they_are_coded(tmp_path: Path, monkeypatch: Any) -> None:
    for i in range(4):
        Image.fromarray(picture(32, 32, 3, i)).save(tmp_path / f"{i}.png")
    data = network((3, 8, 8), 256).data
    images.read(str(tmp_path), data, exact=True)
    monkeypatch.setattr(untrusted, "memory", lambda: 2**19)
    monkeypatch.setattr(images, "decode", None)
    with pytest.raises(UserError, match="its pictures, coded together, would take 576 KiB of memory"):
        images.read(str(tmp_path), data, exact=True)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "", "c:a.png", "a\\b.png"])
def test_names_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="no name inside a folder"):
        images.write(tmp_path / "out", smooth(1, (1, 8, 8), 17), [(name, 8, 8)], network().data)
    assert not (tmp_path / "out").exists()


def test_places_that_do_not_suit(tmp_path: Path) -> None:
    data, levels = network().data, smooth(2, (1, 8, 8), 17)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, phrase in (("x.png", "a folder for 2 images"), ("x.jpg", "a .png or .npy"), ("full", "exists")):
        with pytest.raises(UserError, match=phrase):
            images.write(tmp_path / out, levels, (), data)
    with pytest.raises(UserError, match="its images are 1 tiles, it holds 2"):
        images.write(tmp_path / "new", levels, [("a.png", 8, 8)], data)
