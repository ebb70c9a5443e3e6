"""The Gaussian frame: an orthonormal change of coordinates, its mean and scale, floors of variances."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise, UserError
from langevin.numerics.frame import Coordinates, Cosines, Directions, GaussianFrame, Leading

F64 = torch.float64


def bases() -> dict:
    matrix = torch.linalg.qr(Noise(1, 12).normal((12,)))[0]
    return {
        "coordinates": Coordinates(),
        "directions": Directions(matrix),
        "leading": Leading(matrix[:, :3]),
        "cosines": Cosines((3, 2, 2)),
        "colours": Cosines((3, 2, 2), torch.linalg.qr(Noise(2, 3).normal((3,)))[0]),
    }


@pytest.mark.parametrize("name", bases())
def test_there_and_back(name):
    """c = Vᵀ(x − s m) of events of any shape and dtype, x = V c + s m; lengths stay; the same on its own device."""
    basis, mean = bases()[name], torch.linspace(-1, 1, 12, dtype=F64)
    made = GaussianFrame(mean, torch.arange(1.0, 13.0), basis)
    for frame in (made, made.on(torch.device("cpu"))):
        x = Noise(3, 5).normal((3, 4))
        for scale in (1.0, 0.25, torch.tensor(0.5, dtype=F64)):
            c = frame.to(x, scale)
            torch.testing.assert_close(frame.back(c, scale), x.flatten(1), rtol=0, atol=1e-13)
            apart = x.flatten(1) - scale * mean
            torch.testing.assert_close(c.square().sum(1), apart.square().sum(1), rtol=1e-13, atol=0)
        assert frame.to(x.float()).dtype == F64


def test_variances_belong_to_their_directions():
    """Along its own directions a covariance is diagonal, with the frame's variances."""
    cov = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, 0.2], [0.0, 0.2, 0.5]], dtype=F64)
    frame = GaussianFrame.from_covariance(torch.zeros(3), cov)
    torch.testing.assert_close(frame.to(frame.to(cov).T).T.diagonal(), frame.variances, rtol=0, atol=1e-12)
    assert frame.std == pytest.approx(math.sqrt(3.5 / 3))
    assert frame.largest == pytest.approx(math.sqrt(float(torch.linalg.eigvalsh(cov)[-1])))
    assert frame.spectral
    plain = GaussianFrame.from_covariance(torch.zeros(3), cov.diagonal())
    assert not plain.spectral
    torch.testing.assert_close(plain.variances, cov.diagonal())


def test_isotropic_needs_no_basis():
    assert GaussianFrame.unknown(4).isotropic
    frame = GaussianFrame(torch.zeros(12), torch.full((12,), 2.0), bases()["directions"])
    assert isinstance(frame.basis, Coordinates)
    assert not GaussianFrame(torch.zeros(2), torch.tensor([1.0, 1.0 + 1e-12], dtype=F64)).isotropic


def test_floors():
    frame = GaussianFrame(torch.zeros(3), torch.tensor([1.0, 0.5, 0.0]), floor=1e-4)
    assert frame.variances.tolist() == pytest.approx([1.0, 0.5, 0.5e-4])
    assert frame.floor_variances(1e-6) is frame
    assert frame.floor_variances(0.1).variances.tolist() == pytest.approx([1.0, 0.5, 0.1 * 0.50001666], rel=1e-5)


@pytest.mark.parametrize(
    ("mean", "variances", "message"),
    [
        (torch.zeros(2), torch.ones(3), r"must be \(D,\)"),
        (torch.zeros(2), torch.tensor([1.0, -1.0]), "variances >= 0"),
        (torch.tensor([0.0, math.nan]), torch.ones(2), "finite"),
        (torch.zeros(2), torch.zeros(2), "not all be 0"),
    ],
)
def test_refusals(mean, variances, message):
    with pytest.raises(UserError, match=message):
        GaussianFrame(mean, variances)


def test_leading_directions_and_the_rest():
    """The change of basis is orthonormal, the leading directions are its first; moments add up."""
    columns = torch.linalg.qr(Noise(2, 700).normal((5,)))[0]
    basis = Leading(columns)
    x = Noise(3, 4).normal((700,))
    c = basis.to(x)
    torch.testing.assert_close(c[:, :5].abs(), (x @ columns).abs(), rtol=0, atol=1e-12)
    torch.testing.assert_close(c.square().sum(1), x.square().sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(basis.back(c), x, rtol=0, atol=1e-12)
    spectrum = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.1], dtype=F64)
    found = GaussianFrame.from_leading(torch.zeros(700, dtype=F64), spectrum, columns)
    assert found.spectral
    torch.testing.assert_close(found.variances.sum(), spectrum[:5].sum() + 695 * 0.1)
