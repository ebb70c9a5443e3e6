"""Four forms of a covariance against the matrix they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from langevin.distributions import Blocks, Dense, Diagonal, LowRank, Normal

B = 3
TOL = {"rtol": 1e-12, "atol": 1e-13}  # a few hundred roundings of numbers of order one


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positive(*shape, seed=0):
    return gaussian(*shape, seed=seed) ** 2 + 0.1


def definite(*batch, size, seed=0):
    root = gaussian(*batch, size, size, seed=seed)
    return root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)


def blocks(batch, k, data):
    return definite(batch, *data, size=k).movedim((-2, -1), (1, 2))


CASES = {
    "scalar": (Diagonal(torch.full((1, 1), 0.7, dtype=torch.float64)), (3,)),
    "scalar per sample": (Diagonal(positive(B, 1)), (3,)),
    "scalar per sample of images": (Diagonal(positive(B, 1, 1, 1)), (2, 3, 2)),
    "scalar per channel": (Diagonal(positive(1, 2, 1, 1)), (2, 3, 2)),
    "diagonal": (Diagonal(positive(B, 3)), (3,)),
    "diagonal, one for all": (Diagonal(positive(1, 2, 2)), (2, 2)),
    "dense": (Dense(definite(B, size=3)), (3,)),
    "dense, one for all": (Dense(definite(1, size=4)), (2, 2)),
    "low rank": (LowRank(positive(B, 3), gaussian(B, 2, 3)), (3,)),
    "low rank of images": (LowRank(positive(B, 1, 1, 1), gaussian(B, 2, 1, 2, 2)), (1, 2, 2)),
    "low rank, one for all": (LowRank(positive(1, 3), gaussian(1, 1, 3)), (3,)),
    "low rank, one factor": (LowRank(positive(B, 3), gaussian(1, 1, 3)), (3,)),
    "low rank, one variance": (LowRank(positive(1, 1), gaussian(B, 1, 3)), (3,)),
    "blocks": (Blocks(blocks(B, 2, (3,))), (2, 3)),
    "blocks of images": (Blocks(blocks(B, 2, (1, 2, 2))), (2, 1, 2, 2)),
    "blocks, one for all": (Blocks(definite(1, size=2)[..., None]), (2, 3)),
}
EACH = pytest.mark.parametrize(("cov", "shape"), CASES.values(), ids=CASES.keys())


def test_a_variance_without_a_batch_is_one_matrix():
    v = positive(2, 3)
    torch.testing.assert_close(Diagonal(v).dense((2, 3)), torch.diag(v.flatten())[None], rtol=0, atol=0)
    u = gaussian(1, 2, 2, 3)
    dense = torch.diag(v.flatten()) + u.flatten(2)[0].mT @ u.flatten(2)[0]
    torch.testing.assert_close(LowRank(v, u).dense((2, 3)), dense[None], **TOL)


def test_a_root_is_scaled_with_its_matrix():
    root = gaussian(B, 2, 2, 3)
    cov = Blocks(torch.einsum("bijn,bkjn->bikn", root, root), root).scale(torch.tensor([2.0, -3.0, 0.5]).double())
    torch.testing.assert_close(torch.einsum("bijn,bkjn->bikn", cov.root, cov.root), cov.matrix, **TOL)


class Basis:
    """Stands in for noise: sample i gets the i-th unit vector of all the normals that are asked for, folds included."""

    def __init__(self, total, first=0):
        self.total, self.first = total, first

    def __len__(self):
        return self.total

    def normal(self, shape):
        return torch.eye(self.total, dtype=torch.float64)[:, self.first : self.first + math.prod(shape)].reshape(
            -1, *shape
        )

    def fold_in(self, tag):
        return Basis(self.total, self.first + 100 * tag)


def matrix(cov, shape):
    """The dense matrices, written by hand for each form, (B, D, D)."""
    size = math.prod(shape)
    if isinstance(cov, Dense):
        result = cov.matrix
    elif isinstance(cov, Blocks):
        k, count = shape[0], math.prod(shape[1:])
        m = cov.matrix.expand(cov.matrix.shape[0], k, k, *shape[1:]).reshape(-1, k, k, count)
        result = torch.zeros(m.shape[0], k, count, k, count, dtype=torch.float64)
        for i in range(count):
            result[:, :, i, :, i] = m[..., i]
        result = result.reshape(-1, size, size)
    else:
        v = cov.variance.expand(-1, *shape).reshape(-1, size)
        result = torch.stack([torch.diag(row) for row in v])
        if isinstance(cov, LowRank):
            u = cov.factor.reshape(cov.factor.shape[0], -1, size)
            result = result + torch.einsum("bri,brj->bij", u, u)
    return result.expand(B, size, size)


@EACH
def test_forms_agree(cov, shape):
    """Dense, diagonal, a²C, C + vI and some rows are those of the matrix; coefficients are one, or one a sample."""
    truth, size = matrix(cov, shape), math.prod(shape)
    same = lambda c, m: torch.testing.assert_close(c.dense(shape).expand(m.shape[0], size, size), m, **TOL)
    same(cov, truth)
    diagonal = torch.diagonal(truth, dim1=1, dim2=2).reshape(B, *shape)
    torch.testing.assert_close(cov.diagonal(shape).expand(B, *shape), diagonal, **TOL)
    eye = torch.eye(size, dtype=torch.float64)
    per_sample = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    for a in (-3.0, torch.tensor(0.25, dtype=torch.float64), per_sample, per_sample.reshape(B, *[1] * len(shape))):
        each = torch.as_tensor(a, dtype=torch.float64).reshape(-1, 1, 1)
        same(cov.scale(a), each**2 * truth)
        same(cov.add(a**2), truth + each**2 * eye)
    for index in (slice(1, 3), torch.tensor([2, 0, 0, 1])):
        same(cov.rows(index), truth[index])


@EACH
def test_samples_have_the_covariance(cov, shape):
    """Exactly: with unit vectors for noise, Σ_i x_i x_iᵀ is the covariance of the sampler, each sample its own."""
    truth, size = matrix(cov, shape), math.prod(shape)
    for b in range(B):
        x = cov.rows(slice(b, b + 1)).sample(Basis(200), shape).reshape(-1, size)
        torch.testing.assert_close(x.mT @ x, truth[b], **TOL)


@pytest.mark.parametrize("name", ["dense", "blocks"])
def test_the_root_is_the_symmetric_one(name):
    """It alone does not depend on the signs and the order of eigenvectors, which differ from machine to machine."""
    cov, shape = CASES[name]
    size = math.prod(shape)
    root = cov.rows(slice(0, 1)).sample(Basis(size), shape).reshape(size, size)
    torch.testing.assert_close(root, root.T, **TOL)


@EACH
def test_log_prob(cov, shape):
    truth, r = matrix(cov, shape), gaussian(B, *shape, seed=5)
    for one in (cov, cov.scale(torch.tensor([1.0, 3.0, 0.1])).add(torch.tensor([0.0, 1.0, 2.0]))):
        dense = matrix(one, shape) if one is not cov else truth
        known = [stats.multivariate_normal(cov=dense[b]).logpdf(r[b].reshape(-1)) for b in range(B)]
        torch.testing.assert_close(one.log_prob(r), torch.tensor(known), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["diagonal", "dense", "low rank", "blocks"])
def test_directions_without_variance(form):
    """A zero eigenvalue is sampled without noise and without nan; repeated samples stay on the support."""
    c = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
    cov, shape = {
        "diagonal": (Diagonal(torch.tensor([[1.0, 0.0]], dtype=torch.float64)), (2,)),
        "dense": (Dense(c[None]), (2,)),
        "low rank": (LowRank(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[[1.0, 2.0]]]).double()), (2,)),
        "blocks": (Blocks(c.reshape(1, 2, 2, 1)), (2, 1)),
    }[form]
    x = cov.sample(Basis(200), shape).reshape(-1, 2)
    torch.testing.assert_close((x.mT @ x)[None], matrix(cov, shape)[:1], **TOL)
    direction = torch.tensor([0.0, 1.0] if form == "diagonal" else [2.0, -1.0], dtype=torch.float64)
    assert float((x @ direction).abs().max()) < 1e-7  # √ of the rounding 1e-16 of a zero eigenvalue


def test_variance_without_a_batch_axis():
    """(2,) for a batch of two broadcasts to the mean as it reads: it belongs to coordinates, not to samples."""
    mean = gaussian(2, 2)
    v = torch.tensor([1.0, 9.0], dtype=torch.float64)
    law = Normal(mean, v)
    a = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    moved = law.affine(a, torch.zeros_like(mean), a)
    torch.testing.assert_close(moved.cov.diagonal((2,)).expand(2, 2), a**2 * v + a, **TOL)
    torch.testing.assert_close(law.cov.rows(slice(0, 1)).diagonal((2,)).expand(1, 2), v[None], **TOL)
