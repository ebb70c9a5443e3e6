"""Every law against scipy and closed forms: density, moments, samples, affine images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from langevin import Noise
from langevin.distributions import (
    Categorical,
    Compound,
    Dense,
    Diagonal,
    Dirac,
    FiniteSet,
    GaussianMixture,
    LowRank,
    Normal,
    PoissonBridge,
    PoissonMixture,
    ScaledBeta,
    ShiftedGamma,
)

B = 3
TOL = {"rtol": 1e-12, "atol": 1e-13}


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(*shape, seed=0):
    return gaussian(*shape, seed=seed) ** 2 + 0.1


def simplex(*shape, seed=0):
    return torch.softmax(gaussian(*shape, seed=seed), -1)


def rotations(k, d):
    return torch.linalg.qr(gaussian(k, d, d, seed=9))[0]


SMALL = torch.tensor(0.4, dtype=torch.float64)

LAWS = {
    "dirac": Dirac(gaussian(B, 2)),
    "normal": Normal(gaussian(B, 2), positive(B, 2)),
    "normal, one variance": Normal(gaussian(B, 2), 0.3),
    "normal, dense": Normal(gaussian(B, 2), Dense(torch.tensor([[[1.0, 0.9], [0.9, 1.0]]], dtype=torch.float64))),
    "normal, low rank": Normal(gaussian(B, 2), LowRank(positive(B, 1), gaussian(B, 1, 2))),
    "mixture": GaussianMixture(simplex(B, 3).log(), 2 * gaussian(B, 3, 2), rotations(3, 2), positive(B, 3, 2)),
    "finite set": FiniteSet(gaussian(4, 2, seed=3), simplex(B, 4).log()),
    "gamma": ShiftedGamma(gaussian(B, 2), positive(B, 2), positive(B, 1, seed=2)),
    "gamma, one shape": ShiftedGamma(gaussian(B, 2), torch.tensor(0.5).double(), torch.tensor(3.0).double()),
    "beta": ScaledBeta(gaussian(B, 2), positive(B, 2), positive(B, 1), torch.tensor(1.7).double()),
    "poisson mixture": PoissonMixture(gaussian(B, 2), positive(B, 1), positive(B, 2), positive(B, 1, seed=2), 40),
    "poisson bridge": PoissonBridge(
        gaussian(B, 2), gaussian(B, 2, seed=1), SMALL, 2 * SMALL, positive(B, 1, seed=4), SMALL, 4 * SMALL, 40
    ),
}
EACH = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
N = 20_000


def row(law, b):
    """Row b of a law, as a batch of one."""
    one = object.__new__(type(law))
    for key, value in law.__dict__.items():
        if key == "covariance":
            value = value.rows(slice(b, b + 1))
        elif key not in ("basis", "points", "terms") and value.ndim and value.shape[0] == B:
            value = value[b : b + 1]
        object.__setattr__(one, key, value)
    return one


def sample(law, b, n=N, seed=0):
    """n draws of row b."""
    return row(law, b).sample(Noise(seed, n))


def assert_moments(x, mean, cov, sd=5.0):
    """Mean and covariance of draws within sd standard deviations of their own Monte-Carlo errors."""
    x = x.flatten(1).to(torch.float64)
    n = x.shape[0]
    r = x - mean.reshape(1, -1)
    products = torch.einsum("ni,nj->nij", r, r)
    assert ((x.mean(0) - mean.reshape(-1)).abs() <= sd * x.std(0) / math.sqrt(n) + 1e-12).all()
    assert ((products.mean(0) - cov).abs() <= sd * products.std(0) / math.sqrt(n) + 1e-12).all()


@EACH
def test_samples_have_the_moments(law):
    for b in (0, 2):
        mean = law.mean.expand(B, 2)[b]
        cov = law.cov.dense((2,)).expand(B, 2, 2)[b]
        assert_moments(sample(law, b), mean, cov)


@EACH
def test_rows_of_a_batch_are_their_own(law):
    """Row b of a batch is what row b alone gives to sample b: parameters do not leak along the batch."""
    x = law.sample(Noise(1, B))
    assert x.shape == (B, 2)
    for b in range(B):
        assert torch.equal(x[b], law.sample(Noise(1, torch.full((B,), b)))[b])
        assert torch.equal(x[b], row(law, b).sample(Noise(1, torch.tensor([b])))[0])


@EACH
def test_affine(law):
    """Under x ↦ a x + s + N(0, v I): mean a m + s, covariance a² C + v I; a, s, v one a sample or one for all."""
    a = torch.tensor([[0.5], [-2.0], [1.0]], dtype=torch.float64)
    v = torch.tensor([[0.3], [0.0], [2.0]], dtype=torch.float64)
    s = gaussian(B, 2, seed=7)
    eye = torch.eye(2, dtype=torch.float64)
    for scale, variance in ((a, v), (a[0, 0], v[0, 0])):
        mean = scale * law.mean + s
        cov = (scale[..., None] ** 2 * law.cov.dense((2,)) + variance[..., None] * eye).expand(B, 2, 2)
        image = law.affine(scale, s, variance)
        if isinstance(image, Compound):
            for b in (0, 1):
                at = lambda c, b=b: c if c.ndim == 0 else c[b : b + 1]
                image = row(law, b).affine(at(scale), at(s), at(variance))
                assert_moments(image.sample(Noise(5, N)), mean[b], cov[b])
            # what "mean and covariance" take of such a law is closed again
            image = Normal(law.mean, law.cov).affine(scale, s, variance)
        torch.testing.assert_close(image.mean, mean, **TOL)
        torch.testing.assert_close(image.cov.dense((2,)).expand(B, 2, 2), cov, **TOL)


def test_normal_log_prob():
    law, x = LAWS["normal, dense"], gaussian(B, 2, seed=4)
    known = [stats.multivariate_normal(law.mean[b], law.cov.matrix[0]).logpdf(x[b]) for b in range(B)]
    torch.testing.assert_close(law.log_prob(x), torch.tensor(known), **TOL)


def test_mixture_log_prob_and_affine():
    law, x = LAWS["mixture"], gaussian(B, 2, seed=4)
    a, s, v = 0.5, gaussian(B, 2, seed=7), 0.25
    image = law.affine(torch.tensor(a).double(), s, torch.tensor(v).double())
    for b in range(B):
        plain, moved = [], []
        for k in range(3):
            c = law.basis[k] @ torch.diag(law.variances[b, k]) @ law.basis[k].T
            w, m = math.exp(law.log_weights[b, k]), law.means[b, k]
            plain.append(w * stats.multivariate_normal(m, c).pdf(x[b]))
            moved.append(w * stats.multivariate_normal(a * m + s[b], a**2 * c + v * torch.eye(2)).pdf(x[b]))
        assert float(law.log_prob(x)[b]) == pytest.approx(math.log(sum(plain)), abs=1e-12)
        assert float(image.log_prob(x)[b]) == pytest.approx(math.log(sum(moved)), abs=1e-12)


def projected_cdf(law, u, a=1.0, s=0.0, v=0.0):
    """The cdf of uᵀ(a x + s + N(0, v)) for a mixture of one row: Σ w_k Φ."""
    spread = torch.sqrt(a**2 * (torch.einsum("kij,i->kj", law.basis, u) ** 2 * law.variances[0]).sum(-1) + v).numpy()
    centre, w = (a * law.means[0] @ u + s).numpy(), law.log_weights[0].exp().numpy()
    return lambda x: (w * stats.norm.cdf((np.asarray(x)[:, None] - centre) / spread)).sum(-1)


def test_mixture_samples_have_the_law():
    """KS of a projection: p < 1e-4 once in ten thousand seeds."""
    law, u = LAWS["mixture"], torch.tensor([0.6, 0.8], dtype=torch.float64)
    for b in (0, 1):
        x = sample(law, b) @ u
        assert stats.kstest(x.numpy(), projected_cdf(row(law, b), u)).pvalue > 1e-4


def test_compound_is_the_convolution():
    """Compound(mixture, x ↦ N(x/2 + 1, 0.04)) has the law of the closed affine image (KS of a projection)."""
    base, u = row(LAWS["mixture"], 0), torch.tensor([1.0, 0.0], dtype=torch.float64)
    x = Compound(base, lambda x: Normal(0.5 * x + 1, 0.04)).sample(Noise(8, N)) @ u
    assert stats.kstest(x.numpy(), projected_cdf(base, u, 0.5, 1.0, 0.04)).pvalue > 1e-4


def test_compound_draws_are_independent():
    """The inner draw and the kernel's are independent: Var(X + Z) is 2, not 4, of unit normals; nested 3, not 9."""
    unit = Normal(torch.zeros(1, 1, dtype=torch.float64), 1.0)
    one = Compound(unit, lambda x: Normal(x, 1.0))
    two = Compound(one, lambda x: Normal(x, 1.0))
    for law, var in ((one, 2.0), (two, 3.0)):
        x = law.sample(Noise(2, N))
        assert abs(float(x.var()) - var) < 5 * var * math.sqrt(2 / N)


def test_gamma_against_scipy():
    law = LAWS["gamma"]
    x = law.sample(Noise(0, B)) + torch.tensor([[0.0, 0.0], [0.1, 0.2], [0.0, 0.0]])
    k = law.concentration.expand(B, 2)
    edge = law.loc - law.scale * k
    known = stats.gamma.logpdf(x, k, loc=edge, scale=law.scale).sum(-1)
    torch.testing.assert_close(law.log_prob(x), torch.as_tensor(known), rtol=1e-12, atol=1e-11)
    assert law.log_prob(edge - 0.1).tolist() == [-math.inf] * B
    draws = sample(law, 1)[:, 0]
    frozen = stats.gamma(float(k[1, 0]), float(edge[1, 0]), float(law.scale[1, 0]))
    assert stats.kstest(draws, frozen.cdf).pvalue > 1e-4


@pytest.mark.parametrize("k", [0.0, 1e-4, 0.3, 1.0, 3.0])
def test_gamma_at_its_edge(k):
    """x within its rounding of the edge has the mean density of that cell: P(G < edge) over its width, 1 at k = 0.

    Found: −∞ there, at a point of infinite density, and a belief of nan where most of G is below the rounding of x.
    """
    edge, scale = torch.tensor([[3.0]], dtype=torch.float64), 0.5
    law = ShiftedGamma(edge + scale * k, *torch.tensor([scale, k], dtype=torch.float64))
    width = 4 * 2**-52 * (3 + scale * k)
    for x in (edge, edge * (1 + 2**-52), edge * (1 - 2**-52)):
        mass = math.exp(float(law.log_prob(x)) + math.log(width))
        assert mass == pytest.approx(special.gammainc(k, width / scale) if k else 1.0, rel=1e-9)
    assert float(law.log_prob(edge - 1e-12)) == -math.inf
    beyond = float(law.log_prob(edge + 1e-12))
    assert math.isfinite(beyond) == (k > 0)


def test_beta_against_scipy():
    law = LAWS["beta"]
    a, b = law.a.expand(B, 2), law.b.expand(B, 2)
    low = law.loc - law.scale * a / (a + b)
    x = low + law.scale * torch.tensor([0.2, 0.9], dtype=torch.float64)
    known = stats.beta.logpdf(x, a, b, loc=low, scale=law.scale).sum(-1)
    torch.testing.assert_close(law.log_prob(x), torch.as_tensor(known), rtol=1e-12, atol=1e-11)
    assert law.log_prob(low - 0.1).tolist() == [-math.inf] * B
    draws = sample(law, 1)[:, 1]
    frozen = stats.beta(float(a[1, 1]), float(b[1, 1]), float(low[1, 1]), float(law.scale[1, 1]))
    assert stats.kstest(draws, frozen.cdf).pvalue > 1e-4


@pytest.mark.parametrize(("a", "b", "at"), [(0.0, 2.0, 0.0), (2.0, 0.0, 1.0), (0.0, 0.0, 0.0)])
def test_beta_limits(a, b, at):
    """a = 0 or b = 0 is a point at an end; all of a split is at 0 when there is nothing to split."""
    law = ScaledBeta(torch.full((1, 2), at).double(), torch.ones(1, 2).double(), torch.tensor(a), torch.tensor(b))
    assert torch.equal(law.sample(Noise(0, 4)), torch.full((4, 2), at, dtype=torch.float64))


@pytest.mark.parametrize(("a", "b"), [(0.01, 0.02), (1e5, 3e5), (1e6, 1e-2)])
def test_beta_extremes(a, b):
    """The split of extreme concentrations, in which G_a and G_b themselves under- or overflow the difference."""
    mean = torch.tensor([[a / (a + b)]], dtype=torch.float64)
    law = ScaledBeta(mean, torch.ones(1, 1).double(), torch.tensor(a).double(), torch.tensor(b).double())
    y = law.sample(Noise(0, N))[:, 0].numpy()
    # Float64 keeps y and 1 − y to 1e-16, for they are seen from the mean: compare where the cdf is resolved
    cdf = stats.beta(a, b).cdf
    grid = np.quantile(y, [0.1, 0.3, 0.5, 0.7, 0.9])
    inside = (grid > 1e-14) & (grid < 1 - 1e-14)
    empirical = (y[:, None] <= grid).mean(0)
    assert inside.any()
    assert np.abs(empirical - cdf(grid))[inside].max() < 5 * 0.5 / math.sqrt(N)


def test_finite_set():
    law = LAWS["finite set"]
    assert torch.allclose(law.log_prob(law.points[[1, 1, 3]]), law.log_weights[range(3), [1, 1, 3]])
    assert law.log_prob(gaussian(B, 2, seed=11)).tolist() == [-math.inf] * B
    x = sample(law, 2)
    share = torch.stack([(x == p).all(-1).double().mean() for p in law.points])
    p = law.log_weights[2].exp()
    assert ((share - p).abs() < 5 * torch.sqrt(p * (1 - p) / N)).all()


def test_finite_set_marginals():
    tokens = torch.tensor([[0, 1], [2, 1], [2, 0]])
    law = FiniteSet(tokens, simplex(B, 3).log())
    probs, w = law.marginals(4).probs, law.log_weights.exp()
    assert probs.shape == (B, 2, 4)
    expected = torch.zeros(B, 2, 4, dtype=torch.float64)
    for n in range(3):
        for i in range(2):
            expected[:, i, tokens[n, i]] += w[:, n]
    torch.testing.assert_close(probs, expected, **TOL)


def test_categorical():
    probs = simplex(B, 2, 4)
    law = Categorical(probs)
    x = torch.tensor([[0, 3], [1, 1], [2, 0]])
    known = [sum(math.log(probs[b, i, x[b, i]]) for i in range(2)) for b in range(B)]
    torch.testing.assert_close(law.log_prob(x), torch.tensor(known, dtype=torch.float64), **TOL)
    draws = sample(law, 1)
    assert draws.shape == (N, 2)
    assert draws.dtype == torch.int64
    share = torch.nn.functional.one_hot(draws, 4).double().mean(0)
    assert ((share - probs[1]).abs() < 5 * torch.sqrt(probs[1] * (1 - probs[1]) / N)).all()
    both = (draws[:, 0] == 0) & (draws[:, 1] == 0)
    p = float(probs[1, 0, 0] * probs[1, 1, 0])
    assert abs(float(both.double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / N)


class Extreme:
    """Noise whose uniforms are the first or the last of the 2³² cells."""

    def __init__(self, u):
        self.u = u

    def __len__(self):
        return 2

    def uniform(self, shape):
        return torch.full((2, *shape), self.u, dtype=torch.float64)

    def normal(self, shape):
        return torch.zeros(2, *shape, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("u", [2.0**-33, 1 - 2.0**-33])
def test_what_is_impossible_is_never_drawn(u, dtype):
    """States of probability 0 at either end, at the ends of the uniform numbers, in float32 too.

    In float32 the last uniform rounds to 1; found: it drew the last state, a mask that had probability 0.
    """
    p = torch.tensor([[0.0, 0.3, 0.7, 0.0]], dtype=dtype)
    noise = Extreme(u)
    expected = 1 if u < 0.5 else 2
    assert Categorical(p[:, None]).sample(noise).flatten().tolist() == [expected] * 2
    assert FiniteSet(torch.arange(4)[:, None], p.log()).sample(noise).flatten().tolist() == [expected] * 2
    mixture = GaussianMixture(
        p.log(), torch.arange(4, dtype=dtype)[None, :, None], torch.ones(4, 1, 1, dtype=dtype), p[..., None]
    )
    assert mixture.sample(noise).flatten().tolist() == [expected] * 2


def test_many_classes_in_float32():
    """65,536 classes in float32: the share of each half is right to its Monte-Carlo error."""
    p = torch.full((1, 1, 2**16), 2.0**-16, dtype=torch.float32)
    x = Categorical(p).sample(Noise(0, 400))
    share = float((x >= 2**15).double().mean())
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(400)


@EACH
def test_a_batch_of_one_stands_for_all(law):
    """Parameters of a batch of one broadcast to the noise's batch."""
    x = sample(law, 0, n=5)
    assert x.shape == (5, 2)
    assert x.isfinite().all()


def test_dtype_follows_the_parameters():
    for law in (
        Normal(torch.zeros(1, 2), 1.0),
        Normal(torch.zeros(1, 2), Dense(torch.eye(2)[None])),
        Normal(torch.zeros(1, 2), LowRank(torch.ones(1, 2), torch.ones(1, 1, 2))),
        ShiftedGamma(torch.zeros(1, 2), torch.tensor(1.0), torch.tensor(2.0)),
        ScaledBeta(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor(1.0), torch.tensor(2.0)),
        GaussianMixture(torch.zeros(1, 1), torch.zeros(1, 1, 2), torch.eye(2)[None], torch.ones(1, 1, 2)),
        Dirac(torch.zeros(1, 2)),
    ):
        assert law.sample(Noise(0, 3)).dtype == torch.float32, law


def test_gradients_reach_the_parameters():
    """Samples of a normal law are differentiable in its mean and variance (reparameterised)."""
    mean = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    var = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    x = Normal(mean, Diagonal(var)).sample(Noise(0, 2))
    x.sum().backward()
    assert torch.equal(mean.grad, torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(var.grad, Noise(0, 2).normal((2,)) / 2, **TOL)


def test_what_a_law_lacks_is_named():
    compound = Compound(Dirac(torch.zeros(1, 2)), lambda x: Normal(x, 1.0))
    with pytest.raises(TypeError, match="Compound has no known density"):
        compound.log_prob(torch.zeros(1, 2))
    with pytest.raises(TypeError, match="Compound has no known mean"):
        _ = compound.mean
    with pytest.raises(TypeError, match="Categorical has no known covariance"):
        _ = Categorical(torch.ones(1, 1, 1)).cov
    assert repr(Dirac(torch.zeros(1, 2))) == "Dirac(point=(1, 2))"
