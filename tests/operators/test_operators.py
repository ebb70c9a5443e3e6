"""Every operator against its own matrix: adjoint, singular values, solutions, pseudo-inverse, types, batches."""

from __future__ import annotations

import math

import pytest
import torch
from operator_table import LINEAR, NONLINEAR, Row, f64

from langevin import UserError
from langevin import operators as O
from langevin._registry import methods
from langevin.operators import base

KNOWN = {name: row for name, row in LINEAR.items() if row.svd}
each = pytest.mark.parametrize("row", LINEAR.values(), ids=LINEAR)
each_known = pytest.mark.parametrize("row", KNOWN.values(), ids=KNOWN)
everything = pytest.mark.parametrize("row", [*LINEAR.values(), *NONLINEAR.values()], ids=[*LINEAR, *NONLINEAR])

CLOSE = {"rtol": 0, "atol": 1e-12}
"""Sums of up to some hundred products of numbers of size 1 in float64: 100·2⁻⁵³·√100 is 1e-13."""


def data(row: Row, n: int = 3, seed: int = 5) -> torch.Tensor:
    return f64(n, *row.shape, seed=seed)


def measurement(row: Row, n: int = 3, seed: int = 6) -> torch.Tensor:
    return f64(n, *row.operator.measured(row.shape), seed=seed)


def test_the_table_has_every_operator():
    made = {type(row.operator).__name__ for row in (*LINEAR.values(), *NONLINEAR.values())}
    made |= {cls.__name__ for row in (*LINEAR.values(), *NONLINEAR.values()) for cls in type(row.operator).__mro__}
    assert {m.make.__name__ for m in methods("operators")} <= made
    assert all(isinstance(row.operator, O.LinearOperator) for row in LINEAR.values())
    assert not any(isinstance(row.operator, O.LinearOperator) for row in NONLINEAR.values())


@each
def test_adjoint_by_dot_products(row):
    """⟨Ax, y⟩ = ⟨x, Aᵀy⟩, and Aᵀ as a matrix is the transpose of A."""
    x, y = data(row), measurement(row)
    left, right = row.operator(x) * y, x * row.operator.adjoint(y)
    torch.testing.assert_close(left.flatten(1).sum(1), right.flatten(1).sum(1), rtol=1e-13, atol=1e-12)
    a = row.operator.matrix(row.shape)
    eye = torch.eye(len(a), dtype=torch.float64).reshape(-1, *y.shape[1:])
    torch.testing.assert_close(row.operator.adjoint(eye).flatten(1), a, **CLOSE)


@each
def test_linear_and_shapes(row):
    x, op = data(row, 2), row.operator
    assert tuple(op(x).shape[1:]) == op.measured(row.shape)
    assert op.domain(op.measured(row.shape)) == row.shape
    torch.testing.assert_close(op(2 * x[:1] - 3 * x[1:]), 2 * op(x[:1]) - 3 * op(x[1:]), **CLOSE)
    torch.testing.assert_close(op(x).flatten(1), x.flatten(1) @ op.matrix(row.shape).mT, **CLOSE)


@each
def test_gradients_of_both(row):
    """∇½‖Ax‖² = AᵀAx and ∇½‖Aᵀy‖² = AAᵀy: the solvers differentiate through A, and some through Aᵀ."""
    a, op = row.operator.matrix(row.shape), row.operator
    x, y = data(row).requires_grad_(), measurement(row).requires_grad_()
    (gx,) = torch.autograd.grad(0.5 * op(x).square().sum(), x)
    torch.testing.assert_close(gx.flatten(1), x.flatten(1) @ a.mT @ a, rtol=1e-12, atol=1e-11)
    (gy,) = torch.autograd.grad(0.5 * op.adjoint(y).square().sum(), y)
    torch.testing.assert_close(gy.flatten(1), y.flatten(1) @ a @ a.mT, rtol=1e-12, atol=1e-11)


@each_known
def test_singular_values(row):
    """A = U S Vᵀ with V orthonormal, U orthonormal where s > 0, and the values those of the dense matrix."""
    op, size = row.operator, math.prod(row.shape)
    known, a = op.svd(row.shape), op.matrix(row.shape)
    eye = torch.eye(size, dtype=torch.float64)
    assert tuple(known.back(eye).shape[1:]) == row.shape
    assert tuple(known.measured_back(eye).shape[1:]) == op.measured(row.shape)
    v = known.back(eye).flatten(1)  # a vector a row
    torch.testing.assert_close(v @ v.mT, eye, **CLOSE)
    torch.testing.assert_close(known.to(v.reshape(-1, *row.shape)), eye, **CLOSE)
    x = data(row)
    torch.testing.assert_close(known.measured_back(known.values * known.to(x)), op(x), **CLOSE)
    seen = known.values > 0
    u = known.measured_back(eye).flatten(1)
    torch.testing.assert_close(u @ u.mT, torch.diag(seen.to(u)), **CLOSE)
    y = measurement(row)
    torch.testing.assert_close(known.measured_to(y), y.flatten(1) @ u.mT, **CLOSE)
    assert known.values.shape == (size,)
    assert (known.values >= 0).all()
    dense = torch.linalg.svdvals(a)
    wanted = torch.nn.functional.pad(dense, (0, size - len(dense))) if size > len(dense) else dense[:size]
    torch.testing.assert_close(known.values.sort(descending=True).values, wanted, **CLOSE)


def test_which_have_singular_values():
    """The others have none, and say so."""
    for name, row in LINEAR.items():
        assert (row.operator.svd(row.shape) is not None) == row.svd, name


@each
def test_solve(row):
    """(a A Aᵀ + b I)⁻¹v for numbers and for one pair a sample; b of 1 and of 1e-6."""
    op, v = row.operator, measurement(row)
    matrix = op.matrix(row.shape)
    gram, eye = matrix @ matrix.mT, torch.eye(len(matrix), dtype=torch.float64)
    for a, b in ((1.5, 0.3), (torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.1, 0.5]))):
        full = lambda c: torch.as_tensor(c, dtype=torch.float64).expand(3)[:, None, None]
        wanted = torch.linalg.solve(full(a) * gram + full(b) * eye, v.flatten(1)[..., None])[..., 0]
        got = op.solve(v, a, b)
        assert got.shape == v.shape
        torch.testing.assert_close(got.flatten(1), wanted, rtol=1e-10, atol=1e-11)


def test_solve_with_little_noise_in_float32():
    """Where A reaches every measurement, rounding is not divided by a small b as if it lay outside the range."""
    seen = []
    for name, row in KNOWN.items():
        op, a = row.operator, row.operator.matrix(row.shape)
        if torch.linalg.matrix_rank(a) < len(a) or float(torch.linalg.cond(a)) > 30:
            continue
        seen.append(name)
        v = op(data(row))
        wanted = torch.linalg.solve(a @ a.mT + 1e-6 * torch.eye(len(a)), v.flatten(1)[..., None])[..., 0]
        got = op.solve(v.float(), 1.0, 1e-6).flatten(1).double()
        # The condition of AAᵀ, at most 900, times the rounding 6e-8 of numbers that are as large as the solution.
        assert (got - wanted).norm() < 900 * 6e-8 * wanted.norm(), name
    assert {"super-resolution-2", "bicubic-2", "gaussian-zero", "colourise", "compressed-sensing"} <= set(seen)


@each
def test_pseudo_inverse(row):
    """The four conditions of Moore and Penrose, and the dense pseudo-inverse."""
    op = row.operator
    a = op.matrix(row.shape)
    rows = torch.eye(len(a), dtype=torch.float64).reshape(-1, *op.measured(row.shape))
    got = op.pseudo_inverse(rows, **({} if row.svd else {"tolerance": 1e-13})).flatten(1).mT
    # Rounding times the condition of A; by conjugate gradients that of AᵀA.
    values = torch.linalg.svdvals(a)
    condition = float(values[0] / values[values > 1e-6 * values[0]][-1])
    error = 1e-13 * max(condition, 10) if row.svd else 1e-12 * max(condition, 10) ** 2
    scale = float(torch.linalg.matrix_norm(got, 2)) * max(1, float(values[0]))
    for left, right in (
        (a @ got @ a, a),
        (got @ a @ got, got),
        ((a @ got).mT, a @ got),
        ((got @ a).mT, got @ a),
        (got, torch.linalg.pinv(a, rtol=1e-6)),
    ):
        torch.testing.assert_close(left, right, rtol=0, atol=error * max(scale, 1))


@everything
def test_types_and_batches(row):
    """float32 in, float32 out and near float64; every sample by itself; the same data give the same measurement."""
    op, x = row.operator, data(row)
    y = op(x)
    assert y.dtype == torch.float64
    assert op(x.float()).dtype == torch.float32
    if not isinstance(op, O.JPEG):  # whose steps tell 1e-7 from 0: test_jpeg.py
        torch.testing.assert_close(op(x.float()).double(), y, rtol=1e-4, atol=1e-5)
    for i in range(len(x)):
        torch.testing.assert_close(op(x[i : i + 1]), y[i : i + 1], rtol=1e-14, atol=1e-14)
    if isinstance(op, O.LinearOperator):
        back = op.adjoint(y.float())
        assert back.dtype == torch.float32
        torch.testing.assert_close(back.double(), op.adjoint(y), rtol=1e-4, atol=1e-4)
        known = op.svd(row.shape)
        if known is not None:
            assert known.to(x.float()).dtype == known.measured_to(y.float()).dtype == torch.float32
            assert known.back(known.to(x.float())).dtype == torch.float32
            assert known.measured_back(known.to(x.float())).dtype == torch.float32
        assert (
            op.solve(y.float(), 1.0, 0.5).dtype == op.pseudo_inverse(y.float(), tolerance=1e-3).dtype == torch.float32
        )


@everything
def test_wrong_data_are_refused(row):
    """Data of another shape, and measurements of another: a sentence that names x, mask, factor, y …"""
    op = row.operator
    wrong = (*row.shape, 2) if isinstance(op, (O.Saturate, O.Nonlinear)) else (*row.shape[:-1], row.shape[-1] + 1, 2, 2)
    y = measurement(row, 1)
    op.check(row.shape, y)
    with pytest.raises(UserError, match="y must be measurements"):
        op.check(row.shape, y[..., None])
    with pytest.raises(UserError, match="y must be measurements"):
        op.check(row.shape, None)
    if not isinstance(op, (O.Saturate, O.Nonlinear)):
        with pytest.raises(UserError, match=r"\b(x|mask|factor|y|coils) must"):
            op.measured(wrong)
        with pytest.raises(UserError, match=r"\b(x|mask|factor|y|coils) must"):
            op(f64(2, *wrong))


@everything
def test_it_describes_itself(row):
    text = repr(row.operator)
    assert 4 < len(text) < 120
    assert "object at" not in text
    assert "tensor" not in text


def test_no_batch_is_refused():
    with pytest.raises(UserError, match="y must be"):
        O.SuperResolution(2).pseudo_inverse(torch.ones(3))


def test_chain_is_linear_if_both_are():
    blur, small, cut = O.gaussian_blur(1.0), O.SuperResolution(2), O.Saturate()
    assert isinstance(small @ blur, O.LinearChain)
    assert isinstance(O.Chain(blur, small), O.LinearOperator)
    assert not isinstance(cut @ blur, O.LinearOperator)
    x = f64(2, 1, 8, 8)
    assert torch.equal((small @ blur)(x), small(blur(x)))
    assert torch.equal((cut @ small @ blur)(x), cut(small(blur(x))))
    with pytest.raises(TypeError):
        small @ 3
    with pytest.raises(UserError, match="second must be"):
        O.Chain(blur, None)


def test_a_batch_as_long_as_the_image():
    """Nothing is broadcast along the wrong axis."""
    for row in LINEAR.values():
        x = data(row, row.shape[-1])
        assert torch.allclose(row.operator(x)[1:2], row.operator(x[1:2]), rtol=1e-13, atol=1e-13)
        y = row.operator(x)
        a = torch.linspace(0.5, 1, len(x), dtype=torch.float64)
        torch.testing.assert_close(
            row.operator.solve(y, a, a)[1:2],
            row.operator.solve(y[1:2], float(a[1]), float(a[1])),
            rtol=1e-9,
            atol=1e-11,
        )


def test_conjugate_gradients_each_sample_by_itself():
    """Samples that are solved at different times, one of 0, in both types; derivatives are finite."""
    matrix = f64(6, 6) @ f64(6, 6).mT + torch.eye(6)
    v = torch.stack((f64(6), torch.zeros(6, dtype=torch.float64), matrix[0]))
    x = O.conjugate_gradients(lambda u: u @ matrix, v)
    torch.testing.assert_close(x @ matrix, v, rtol=0, atol=1e-12)
    assert not x[1].any()
    v32 = v.float().requires_grad_()
    solved = O.conjugate_gradients(lambda u: u @ matrix.float(), v32)
    (gradient,) = torch.autograd.grad(solved.sum(), v32)
    assert solved.isfinite().all()
    assert gradient.isfinite().all()
    nowhere = O.conjugate_gradients(lambda u: u * 0, v)  # nothing is reached, and nothing is divided by 0
    assert not nowhere.any()
    with pytest.raises(UserError, match="iterations"):
        O.conjugate_gradients(lambda u: u, v, iterations=0)


REFUSED = {
    "mask-zero": (lambda: O.Inpaint(torch.zeros(4, 4)), "mask must let some pixel"),
    "mask-grey": (lambda: O.Inpaint(torch.full((4, 4), 0.5)), "mask must hold 0 and 1"),
    "mask-list": (lambda: O.Inpaint([[1]]), "mask must be a tensor"),
    "matrix-zero": (lambda: O.Matrix(torch.zeros(2, 2)), "matrix must be finite"),
    "matrix-nan": (lambda: O.Matrix(torch.full((2, 2), math.nan)), "matrix must be finite"),
    "matrix-shape": (lambda: O.Matrix(torch.ones(2, 6), (2, 2)), "shape must hold 6"),
    "measurements": (lambda: O.compressed_sensing((4,), 0), "measurements must be"),
    "rows": (lambda: O.Separable(torch.zeros(2, 2), torch.ones(2, 2)), "rows must be finite"),
    "columns": (lambda: O.Separable(torch.ones(2, 2), torch.ones(2)), "columns must be a floating matrix"),
    "factor": (lambda: O.SuperResolution(0.9), "factor must be >= 1"),
    "factor-nan": (lambda: O.SuperResolution(math.nan), "factor must be a finite"),
    "factor-divides": (lambda: O.SuperResolution(3).measured((1, 8, 9)), r"size must be given .* size=\(8, 9\)"),
    "factor-exceeds": (lambda: O.SuperResolution(8)(torch.ones(1, 1, 4, 4)), "factor must be at most"),
    "factor-of-size": (lambda: O.SuperResolution(8, size=(4, 9)), "factor must be at most"),
    "size": (lambda: O.SuperResolution(2, size=7), r"size must be \(height, width\)"),
    "size-0": (lambda: O.SuperResolution(2, size=(7, 0)), "size must be an integer of at least 1"),
    "size-of-x": (lambda: O.SuperResolution(2, size=(7, 9))(torch.ones(1, 1, 8, 9)), "x must be images of 7 × 9"),
    "size-of-y": (lambda: O.SuperResolution(2, size=(7, 9)).domain((1, 3, 5)), "y must be measurements of 4 × 5"),
    "kernel": (lambda: O.SuperResolution(2, "bilinear"), "unknown kernel"),
    "blur-zero": (lambda: O.Blur(torch.tensor([[1.0, -1.0]])), "kernel must not sum to 0"),
    "blur-all-zero": (lambda: O.Blur(torch.zeros(3, 3)), "kernel must not sum to 0"),
    "blur-nan": (lambda: O.Blur(torch.full((3, 3), math.nan)), "kernel must be finite"),
    "blur-line": (lambda: O.Blur(torch.ones(3)), "kernel must be a floating tensor"),
    "boundary": (lambda: O.Blur(torch.ones(3, 3), "mirror"), "unknown boundary"),
    "std": (lambda: O.gaussian_blur(0.0), "std must be > 0"),
    "length": (lambda: O.motion_blur(-1.0), "length must be > 0"),
    "weights": (lambda: O.Colourise((0, 0, 0)), "weights must not all be 0"),
    "weights-two": (lambda: O.Colourise((1, 1)), "weights must be three"),
    "grey": (lambda: O.Colourise()(torch.ones(1, 1, 4, 4)), "x must be images"),
    "fourier-mask": (lambda: O.Fourier(torch.zeros(8)), "mask must let some frequency"),
    "fourier-values": (lambda: O.Fourier(torch.full((8,), 2.0)), "mask must hold 0 and 1"),
    "fourier-size": (lambda: O.Fourier(torch.ones(8)).measured((1, 8, 6)), "mask must have the size"),
    "coils": (lambda: O.Fourier(torch.ones(8), torch.ones(2, 8, 8)), "coils must be complex"),
    "coils-zero": (lambda: O.Fourier(torch.ones(8), torch.zeros(2, 8, 8).cfloat()), "coils must be finite"),
    "coils-size": (lambda: O.Fourier(torch.ones(6), O.coil_maps(2, (8, 8))), "mask must have the size of the coils"),
    "coils-image": (
        lambda: O.Fourier(torch.ones(8), O.coil_maps(2, (8, 8)))(torch.ones(1, 1, 6, 8)),
        "coils must have the size",
    ),
    "channels": (lambda: O.Fourier(torch.ones(8), channels=3), "channels must be"),
    "angles": (lambda: O.Radon([]), "angles must be"),
    "angles-none": (lambda: O.Radon(0), "angles must be"),
    "angles-nan": (lambda: O.Radon([0.0, math.nan]), "angles must be"),
    "angles-text": (lambda: O.Radon(["a"]), "angles must be"),
    "square": (lambda: O.Radon(4)(torch.ones(1, 1, 4, 6)), "x must be images square"),
    "radon-size": (lambda: O.Radon(4, size=8)(torch.ones(1, 1, 6, 6)), "x must be images of 8"),
    "detectors": (lambda: O.Radon(4, detectors=8), "size must be given"),
    "quality": (lambda: O.JPEG(0), "quality must be"),
    "quality-half": (lambda: O.JPEG(20.5), "quality must be"),
    "subsampling": (lambda: O.JPEG(20, "4:1:1"), "unknown subsampling"),
    "jpeg-channels": (lambda: O.JPEG(20)(torch.ones(1, 2, 8, 8)), "x must be images"),
    "dense": (lambda: O.Dense(O.Saturate(), (4,)), "operator must be a linear operator"),
    "reshaped": (lambda: O.Reshaped("blur", (1, 4, 4)), "operator must be an operator"),
    "reshaped-shape": (lambda: O.Reshaped(O.SuperResolution(2), (16,)), "x must be images"),
    "noise": (lambda: O.measure(O.Saturate(), torch.ones(1, 2), -1.0), "std must be >= 0"),
    "gain": (lambda: O.PoissonNoise(0.0), "gain must be > 0"),
    "y-nan": (lambda: O.Measurement(O.Saturate(), torch.full((1, 2), math.nan), 0.1), "y must be finite"),
    "y-int": (lambda: O.Measurement(O.Saturate(), torch.ones(1, 2, dtype=torch.int64), 0.1), "y must be a floating"),
    "operator": (lambda: O.Measurement(abs, torch.ones(1, 2), 0.1), "operator must be"),
    "linear": (lambda: O.Measurement(O.Saturate(), torch.ones(1, 2), 0.1).linear, "operator must be linear"),
    "gaussian": (
        lambda: O.Measurement(O.Saturate(), torch.ones(1, 2), O.PoissonNoise(3.0)).std,
        "noise must be Gaussian",
    ),
    "no-density": (
        lambda: O.Measurement(O.Saturate(), torch.ones(1, 2), 0.0).log_prob(torch.ones(1, 2)),
        "std must be > 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_degenerate_operators_are_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        call()


def test_base_adjoint_is_the_transpose():
    """The adjoint that an operator gets without writing one."""
    row = LINEAR["radon"]
    torch.testing.assert_close(
        base.LinearOperator.adjoint(row.operator, measurement(row)), row.operator.adjoint(measurement(row)), **CLOSE
    )
