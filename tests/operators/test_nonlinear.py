"""Operators that are not linear: derivatives, amplitudes, saturation."""

from __future__ import annotations

import pytest
import torch
from operator_table import NONLINEAR, f64

from langevin import UserError
from langevin import operators as O

SMOOTH = [name for name, row in NONLINEAR.items() if "jpeg" not in name]


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name):
    """Against differences; away from corners almost surely."""
    row = NONLINEAR[name]
    x = f64(2, *row.shape, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(row.operator, (x,))


def test_phase_is_numpys_amplitude_and_forgets_signs():
    x = f64(2, 1, 4, 6)
    wanted = torch.from_numpy(abs(__import__("numpy").fft.fft2(x.numpy(), s=(8, 12), norm="ortho")))
    op = O.Phase()
    torch.testing.assert_close(op(x), wanted, rtol=0, atol=1e-14)
    torch.testing.assert_close(op(-x), op(x), rtol=0, atol=1e-14)
    torch.testing.assert_close(op(x.flip(-1, -2)), op(x), rtol=0, atol=1e-13)
    torch.testing.assert_close(op(x).square().sum(), x.square().sum())
    zero = torch.zeros(1, 1, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(op(zero).sum(), zero)
    assert gradient.isfinite().all()


def test_saturate():
    x = torch.tensor([[-0.9, -0.1, 0.3, 0.5, 2.0]], dtype=torch.float64)
    assert O.Saturate(2)(x).tolist() == [[-1, -0.2, 0.6, 1, 1]]


def test_nonlinear_checks_what_the_function_returns():
    square = O.Nonlinear(torch.square)
    assert square.measured((3, 4)) == (3, 4)
    x = f64(2, 3, 4)
    assert torch.equal(square(x), x**2)
    assert O.Nonlinear(lambda x: x.mean((1, 2))[:, None], (1,))(x).shape == (2, 1)
    with pytest.raises(UserError, match="function must return measurements of shape"):
        O.Nonlinear(lambda x: x.sum(), (1,))(x)
    with pytest.raises(UserError, match="function must take"):
        O.Nonlinear(3)
    for wrong in (O.Phase, O.Saturate):
        with pytest.raises(UserError, match=r"(oversampling|gain) must be"):
            wrong(0.0)
        with pytest.raises(UserError, match=r"(oversampling|gain) must be"):
            wrong("2")
