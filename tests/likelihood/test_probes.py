"""Probes of a divergence: signs that are orthogonal along the path, and what is told of their error."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise
from langevin.likelihood.flow import orthogonal_error
from langevin.likelihood.probes import Probes


@pytest.mark.parametrize("dim", [4, 8])
def test_whole_blocks_of_probes_of_a_constant_matrix_have_no_error(dim):
    """Var = 2 Σ O_ii − 2/(P−1) Σ_{i≠j of a block} O_ij is 0 there: what is left, 0.16 at most of the
    error of independent probes, is of O's fit to one draw of the probes. With P + 1 for P − 1 it would be 0.6."""
    draw = torch.Generator().manual_seed(0)
    half = torch.randn(dim, dim, generator=draw, dtype=torch.float64)
    matrix, probes = half + half.T, Probes(Noise(0, 3), dim, "rademacher")
    signs = torch.stack([probes(j) for j in range(4 * probes.order)])
    error = lambda some: orthogonal_error(some, some @ matrix, probes.order)
    plain = (2 * (matrix**2 - torch.diag(matrix.diagonal() ** 2)).sum() * len(signs)).sqrt()  # of independent probes
    assert (error(signs) < 0.3 * plain).all()
    assert (error(signs[: probes.order // 2]) > 0.1 * plain / math.sqrt(8)).all()


@pytest.mark.parametrize("dim", [2, 5, 64])
def test_signs_are_orthogonal_along_the_path(dim):
    """Σ over a block of εεᵀ = P·I exactly, each is a sign vector, and no sample has another's."""
    probes = Probes(Noise(0, 3), dim, "rademacher")
    order = probes.order
    block = torch.stack([probes(j) for j in range(order)])
    assert torch.equal(block.abs(), torch.ones_like(block))
    assert torch.equal(torch.einsum("jbi,jbk->bik", block, block), order * torch.eye(dim).double().expand(3, -1, -1))
    if dim == 64:
        assert not torch.equal(block[0, 0], block[0, 1])
        again = torch.stack([probes(order + j) for j in range(order)])
        assert not torch.equal(block, again)


def test_one_sign_vector_is_unbiased():
    """E εεᵀ = I over seeds, each entry within 5 standard errors of 4000 samples."""
    e = Probes(Noise(7, 4000), 6, "rademacher")(3)
    assert (e.mT @ e / 4000 - torch.eye(6)).abs().max() < 5 / math.sqrt(4000)


def test_probes_take_other_rows_in_every_sample():
    """Probes 0 and 1 of a sample, multiplied, are a row of the Hadamard matrix: an odd one of four, by chance.

    Of 200 samples each of the 4 odd rows of order 8 gets a quarter: 50 within 5·√(200·3/16).
    """
    probes = Probes(Noise(0, 200), 8, "rademacher")
    rows, counts = (probes(0) * probes(1)).unique(dim=0, return_counts=True)
    first = (probes(2) * probes(0)).unique(dim=0)
    assert len(rows) > 2
    assert len(first) > 1
    assert counts.max() < 150
