"""Counter-based noise: the published generator, a pure function of its address, and the laws it claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

import langevin.distributions.noise as noise_module
from langevin import Noise, UserError
from langevin.distributions import philox

KNOWN = [  # Random123 kat_vectors, philox4x32-10: counter, key, result
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(w, 16) for w in text.split()]


def reference(counter, key):
    """Philox4x32-10 in Python's own integers."""
    c, k, low = list(counter), [key & 0xFFFFFFFF, key >> 32], 0xFFFFFFFF
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(q >> 32) ^ c[1] ^ k[0], q & low, (p >> 32) ^ c[3] ^ k[1], p & low]
        k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
    return c


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_known_answers(counter, key, result):
    low, high = words(key)
    out = philox(tuple(torch.tensor(w) for w in words(counter)), low | high << 32)
    assert [int(w) for w in out] == words(result)
    assert reference(words(counter), low | high << 32) == words(result)


def test_philox_equals_integer_arithmetic():
    """On 200 random counters, as one tensor: 64-bit products that wrap have the right bits."""
    rng = np.random.default_rng(0)
    counters = torch.as_tensor(rng.integers(0, 2**32, (4, 200)))
    key = 0xFEDCBA9876543210
    before = counters.clone()
    out = torch.stack(philox(tuple(counters), key))
    assert torch.equal(counters, before)
    assert out.T.tolist() == [reference(c, key) for c in counters.T.tolist()]


def test_how_many_are_made_at_a_time_does_not_matter():
    """To the bit: blocks of a few are made by Python, some more by NumPy, many by torch."""
    for size in (1, 2, 5, 64):
        many = Noise(11, 1200, draw=4)
        assert len(many) * -(-size // 4) > noise_module.SMALL
        for index in ([0], [3, 700, 1199], list(range(100, 117)), []):
            few = many.rows(torch.tensor(index, dtype=torch.int64))
            for kind in ("normal", "uniform"):
                assert torch.equal(getattr(few, kind)((size,)), getattr(many, kind)((size,))[few.sample])


def test_address_of_a_number():
    """Word i of (position // 4, draw, sample, use) under the seed: what a stored seed means may never change."""
    noise = Noise(2**63 + 5, torch.tensor([9, 2**32 - 1]), draw=3)
    u, z = noise.uniform((6,)), noise.normal((6,))
    for row, sample in enumerate((9, 2**32 - 1)):
        for use, got in ((0, u), (1, z)):
            bits = [w for block in (0, 1) for w in reference((block, 3, sample, use), 2**63 + 5)]
            unit = [(w + 0.5) / 2**32 for w in bits]
            if use:
                pairs = zip(unit[0::2], unit[1::2])
                polar = [(math.sqrt(-2 * math.log(a)), 2 * math.pi * b) for a, b in pairs]
                unit = [v for r, phi in polar for v in (r * math.cos(phi), r * math.sin(phi))]
            # log, cos and sin of torch and of C may differ by an ulp; |z| < 7
            np.testing.assert_allclose(got[row], unit[:6], rtol=0, atol=8 * 2**-52 if use else 0)


def test_splitmix_known_answers():
    """The published sequence of seed 1234567, and the start 2⁶⁴ − 1, whose sum wraps, in Python's own integers."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    out = noise_module.splitmix(torch.tensor([1234567, -1]), 5)
    assert [v % 2**64 for v in out[0].tolist()] == known
    assert [v % 2**64 for v in out[1].tolist()] == [mixed(2**64 - 1, i) for i in range(1, 6)]


def mixed(start, i):
    """Word i of SplitMix64."""
    low = 2**64 - 1
    z = (start + i * 0x9E3779B97F4A7C15) & low
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & low
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & low
    return z ^ z >> 31


def test_address_of_a_number_of_a_stream():
    """The start is two words of Philox, a word of SplitMix64 from there makes two numbers.

    In float32: half an ulp a rounding, of a radius below 7 (four) and an angle below 2π that moves it by as much (two).
    """
    samples = torch.tensor([9, 2**32 - 1])
    z = noise_module.stream(noise_module.starts(samples, 3, 2, 77), 5)
    assert z.shape == (2, 5)
    for row, sample in enumerate(samples.tolist()):
        low, high, *_ = reference((0, 3, sample, 2), 77)
        for pair in range(2):
            word = mixed(low | high << 32, pair + 1)
            r = math.sqrt(-2 * math.log(((word & 0xFFFFFFFF) + 0.5) / 2**32))
            # the upper half as a signed number: the same angle
            phi = 2 * math.pi * (word >> 32) / 2**32
            expected = r * math.cos(phi), r * math.sin(phi)
            np.testing.assert_allclose(z[row, 2 * pair : 2 * pair + 2], expected, rtol=0, atol=7 * (4 + 2 * 7) * 2**-25)


def test_streams_are_normal_and_independent():
    """Along a stream, across streams of neighbouring samples and nodes: Kolmogorov–Smirnov, moments, correlations.

    Of n = 400,000 numbers a row; a correlation has the standard deviation 1/√n, and 5 of them are passed by the eight
    with probability 1 − 5e-6. Kolmogorov's distance is above 2.2/√n with probability 1.2e-4.
    """
    n = 400_000
    make = lambda sample, word, use: noise_module.stream(
        noise_module.starts(torch.arange(sample, sample + 100), word, use, 5), n // 100
    )
    z = make(0, 1, 2)
    rows = [make(1, 1, 2), make(0, 2, 2), make(0, 1, 3), z.roll(1, 1), z.roll(2, 1), z.roll(1, 0)]
    found = [float((z * other).mean()) for other in rows[1:]] + [float((z**2 * rows[3] ** 2).mean() - 1) / 2]
    found.append(float((z[:, 0::2] * z[:, 1::2]).mean()) / math.sqrt(2))
    assert torch.equal(rows[0][:-1], z[1:])
    assert max(map(abs, found)) < 5 / math.sqrt(n)
    assert stats.kstest(z.reshape(-1).numpy(), "norm").statistic < 2.2 / math.sqrt(n)
    assert abs(float((z**4).mean()) - 3) < 5 * math.sqrt(96 / n)


def draws(noise):
    """One of everything, each (B, …)."""
    k = torch.tensor([0.03, 0.7, 5.0, 0.0, 200.0], dtype=torch.float64)
    return [noise.uniform((5,)), noise.normal((5,)), noise.normal((2, 3)), noise.log_gamma(k, (5,))]


def test_batches_do_not_matter():
    """To the bit: any split, order, subset and repetition of samples, before and after fold and at."""
    index = torch.tensor([5, 0, 11, 5])
    for change in (
        lambda n: n,
        lambda n: n.step(4),
        lambda n: n.fold_in(2),
        lambda n: n.fold_in(2**40 + 1).step(7).fold_in(0),
    ):
        whole = draws(change(Noise(3, 12)))
        for part in (slice(0, 5), slice(5, 12), index):
            cut = draws(change(Noise(3, 12).rows(part)))
            alone = draws(change(Noise(3, torch.arange(12)[part])))
            later = draws(change(Noise(3, 12)).rows(part))
            for all_, a, b, c in zip(whole, cut, alone, later):
                assert torch.equal(all_[part], a)
                assert torch.equal(all_[part], b)
                assert torch.equal(all_[part], c)


def test_positions_do_not_matter():
    """A number depends on its position in the flattened event, not on the event's size."""
    noise = Noise(0, 3)
    for size in (1, 2, 3, 4, 5, 9):
        assert torch.equal(noise.normal((9,))[:, :size], noise.normal((size,)))
    assert torch.equal(noise.normal((2, 4, 3)), noise.normal((24,)).reshape(3, 2, 4, 3))
    assert noise.normal(()).shape == (3,)
    assert noise.uniform((0,)).shape == (3, 0)
    assert len(Noise(0, 0)) == 0


def test_streams_are_uncorrelated():
    """Seeds, draws, folds, positions, neighbours and uses: correlations of values and of squares.

    The correlation of N independent pairs has the standard deviation 1/√N; 30 streams make 435 pairs, twice. A bound
    of 5.5/√N is passed by all with probability 1 − 870·4e-8.
    """
    count = 2**15
    base = Noise(1, count)
    normal = lambda n: n.normal((1,))[:, 0]
    probit = lambda n: torch.special.ndtri(n.uniform((1,))[:, 0])
    streams = [normal(base), probit(base), *base.normal((9,))[:, 1:].T]
    streams += [normal(Noise(seed, count)) for seed in (0, 2, 2**32 + 1, 2**63)]
    streams += [normal(base.step(d)) for d in (1, 2, 3)] + [probit(base.step(1))]
    streams += [normal(base.fold_in(tag)) for tag in (0, 1, 2, 2**32)] + [probit(base.fold_in(0))]
    streams += [normal(base.fold_in(1).fold_in(0)), normal(base.fold_in(0).fold_in(1)), normal(base.step(1).fold_in(0))]
    streams += [normal(Noise(1, torch.arange(shift, shift + count))) for shift in (1, 2, 4, 2**31)]
    values = torch.stack(streams)
    assert values.shape[0] == 30
    for rows in (values, values**2):
        apart = torch.corrcoef(rows) - torch.eye(30)
        assert float(apart.abs().max()) < 5.5 / math.sqrt(count)


def ks(x, cdf):
    """The p-value of Kolmogorov–Smirnov: under the truth it is below 1e-4 once in ten thousand seeds."""
    return stats.kstest(np.asarray(x).reshape(-1), cdf).pvalue


def test_uniform_law():
    u = Noise(4, 5000).uniform((8,))
    assert ks(u, stats.uniform.cdf) > 1e-4
    assert 0 < float(u.min()) < float(u.max()) < 1


def test_normal_law():
    """KS, four moments and the tail. The mean of z^k over n has the variance (E z^2k − (E z^k)²)/n."""
    z = Noise(4, 50_000).normal((8,)).reshape(-1)
    n = z.numel()
    assert ks(z[:40_000], stats.norm.cdf) > 1e-4
    for k in (1, 2, 3, 4):
        truth, spread = stats.norm.moment(k), math.sqrt(stats.norm.moment(2 * k) - stats.norm.moment(k) ** 2)
        assert abs(float((z**k).mean()) - truth) < 4 * spread / math.sqrt(n)
    beyond = int((z.abs() > 4).sum())
    expected = n * 2 * stats.norm.sf(4)  # 25, Poisson
    assert abs(beyond - expected) < 4 * math.sqrt(expected)
    assert float(z.abs().max()) < 6.8


def log_gamma_cdf(k):
    def cdf(x):
        # P(k, e^x) = e^{kx}/Γ(k+1) (1 − O(e^x)): for k = 0.01 a part of G itself underflows
        low = k * x - special.gammaln(k + 1)
        return np.where(x < -40, np.exp(np.minimum(low, 0)), special.gammainc(k, np.exp(np.clip(x, -700, 700))))

    return cdf


@pytest.mark.parametrize("k", [0.01, 0.1, 0.5, 1.0, 2.5, 30.0, 1e3, 1e6])
def test_log_gamma_law(k):
    """KS, and E log G = ψ(k), Var log G = ψ'(k) to four standard deviations of their estimates."""
    x = Noise(6, 20_000).log_gamma(torch.tensor(k, dtype=torch.float64), (1,))[:, 0].numpy()
    assert ks(x, log_gamma_cdf(k)) > 1e-4
    mean, var = special.digamma(k), special.polygamma(1, k)
    fourth = special.polygamma(3, k) + 3 * var**2
    assert abs(x.mean() - mean) < 4 * math.sqrt(var / x.size)
    assert abs(((x - mean) ** 2).mean() - var) < 4 * math.sqrt((fourth - var**2) / x.size)


def test_log_gamma_uses_every_stream_once(monkeypatch):
    """A try's normal and uniform share a key, under two uses; no key serves twice, the boost's neither."""
    tags, fold_in = [], Noise.fold_in
    monkeypatch.setattr(Noise, "fold_in", lambda noise, tag: tags.append(tag) or fold_in(noise, tag))
    Noise(0, 1000).log_gamma(torch.tensor(0.3, dtype=torch.float64), (2,))
    assert len(tags) > 2
    assert len(set(tags)) == len(tags)


def test_log_gamma_at_zero():
    assert torch.equal(Noise(0, 2).log_gamma(torch.zeros(3), (3,)), torch.full((2, 3), -torch.inf, dtype=torch.float64))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "0", None])
def test_refuses_a_seed(seed):
    with pytest.raises(UserError, match="seed must be an integer in"):
        Noise(seed, 2)


@pytest.mark.parametrize(
    "sample", [torch.zeros(2), torch.zeros(2, 2, dtype=torch.int64), torch.tensor([-1]), torch.tensor([2**32]), -1]
)
def test_refuses_samples(sample):
    with pytest.raises(UserError, match="sample must"):
        Noise(0, sample)


@pytest.mark.parametrize("draw", [-1, 2**32, 0.5])
def test_refuses_a_draw(draw):
    with pytest.raises(UserError, match="draw must be an integer in"):
        Noise(0, 1).step(draw)


def test_fold_is_stable():
    """Keys of folded streams are part of what a seed means: pinned, and all different."""
    assert Noise(1, 1, 2).fold_in(3).seed == 0x2AC504B0B232B819
    keys = {Noise(s, 1, d).fold_in(tag).seed for s in (0, 1, 12) for d in (0, 1, 21) for tag in (0, 1, 2, 2**32)}
    assert len(keys) == 36


def test_largest_addresses():
    assert Noise(2**64 - 1, torch.tensor([2**32 - 1]), 2**32 - 1).fold_in(2**64 - 1).normal((3,)).isfinite().all()
