"""Inverse problems on latent models, against what is exact: a codec that is a matrix, and codes that are normal.

Where the decoder is a matrix S, y = A(S z) + n is a linear problem for the codes, whose posterior is known.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

import langevin
from langevin import UserError, denoisers, processes, samplers, worlds
from langevin._registry import methods
from langevin.data import DataInfo
from langevin.operators import Decoded, Inpaint, Matrix, Measurement, PoissonNoise, Saturate, measure
from langevin.samplers import PSLD
from langevin.samplers.inverse.latent import glued
from langevin.tasks.restore import codec_residual, default_method, on_states
from langevin.tasks.restore.common import for_codes
from linear_codec import Problem, linear_codec, orthonormal
from support import sliced_w2, thinned, w2_floor

D, K = 8, 4
MASK = torch.tensor([1.0, 0, 1, 1, 0, 0, 1, 1])
A = Inpaint(MASK)
WORLD = worlds.random_mixture(K, components=3, rms=1.0, seed=3)
SKEW = orthonormal(D, K) @ torch.tensor([[1.0, 0.3, 0, 0], [0, 1, 0, -0.4], [0, 0, 0.7, 0], [0, 0, 0.2, 1.2]]).double()
MODEL = Problem(WORLD, SKEW).model
INNER = Matrix(MASK.double()[:, None] * SKEW)
"""The same measurement, of the codes themselves."""


LATENT = [row.name for row in methods("inverse") if for_codes(row.make)]
"""Methods of latent models alone."""


def measured(std: float, n: int = 1) -> torch.Tensor:
    return measure(INNER, WORLD.sample(n, 5), std, seed=2).y


def test_what_is_measured_of_decoded_codes_is_a_matrix_here() -> None:
    operator = on_states(MODEL, A)
    assert isinstance(operator, Decoded)
    assert operator.measured((K,)) == (D,)
    z = WORLD.sample(3).requires_grad_()
    torch.testing.assert_close(operator(z), INNER(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.encode(operator.decode(z)), z, rtol=0, atol=1e-12)
    v = WORLD.sample(3, 1) @ SKEW.mT
    (back,) = torch.autograd.grad(operator(z), z, v)
    torch.testing.assert_close(back, INNER.adjoint(v), rtol=0, atol=1e-12)
    with pytest.raises(UserError, match=r"x must be codes of shape \(4,\)"):
        operator.measured((D,))
    plain = Matrix(torch.eye(K).double())
    assert on_states(WORLD.denoiser(processes.VP()), plain) is plain


@pytest.mark.parametrize("name", ["dps", "dps-squared", "ldps", "dps-likelihood"])
def test_codes_are_drawn_as_by_the_matrix(name: str) -> None:
    """Methods that ask for a derivative alone: the images are the decoded draws of the linear problem of the codes.

    The two differ by the order of sums of float64, 1e-15, which twenty steps may enlarge.
    """
    y, more = measured(0.3, 2), {"n": 3, "steps": 20, "seed": 4}
    direct = "dps" if name == "ldps" else name
    z = langevin.restore(WORLD.denoiser(processes.VP()), INNER, y, 0.3, method=direct, **more)
    x = langevin.restore(MODEL, A, y, 0.3, method=name, **more)
    assert x.shape == (2, 3, D)
    torch.testing.assert_close(x, z @ SKEW.mT, rtol=1e-6, atol=1e-9)
    # What is read through another denoiser, as through guidance, is decoded too.
    again = langevin.restore(denoisers.clamp(MODEL, -1e3, 1e3), A, y, 0.3, method=name, **more)
    assert again.shape == x.shape


@pytest.mark.parametrize("std", thinned([0.1, 0.5], 2))
def test_smc_draws_the_posterior(std: float) -> None:
    """The images are decoded codes of the posterior: with 256 particles their codes are at the floor, as data are."""
    y, n = measured(std), 250
    truth = WORLD.posterior(INNER, y, std)
    x = langevin.restore(MODEL, A, y, std, method="smc", n=n, steps=16, batch=n, particles=256)
    z = x @ torch.linalg.pinv(SKEW).mT
    torch.testing.assert_close(z @ SKEW.mT, x, rtol=0, atol=1e-9)
    assert sliced_w2(z, truth.sample(n, 9)) < w2_floor(truth, n)


def normal(c: float = 0.8) -> Problem:
    """Codes N(0, c² I) and a codec of orthonormal columns."""
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, K), c**2 * torch.eye(K)[None])
    return Problem(world, orthonormal(D, K))


def law(h: torch.Tensor, y: torch.Tensor, c: float, times: torch.Tensor, zeta: float, gamma: float) -> tuple:
    """Mean and variance of PSLD's samples, squared norms, in the singular coordinates of A D.

    With ẑ_0 = κ z_t, a step is z_s = a ẑ_0 + b z_t + noise − 2κ(ζh + γh³)(h ẑ_0 − y): all of it linear.
    """
    process = processes.VP()
    mean, var = torch.zeros_like(h), torch.full_like(h, float(process.sigma(times[0]) ** 2))
    for t, s in itertools.pairwise(times):
        kappa = process.alpha(t) * c**2 / (process.alpha(t) ** 2 * c**2 + process.sigma(t) ** 2)
        a, b, noise = process.bridge_coefficients(t, s)
        pull = 2 * kappa * (zeta * h + gamma * h**3)
        slope = b + kappa * (a - pull * h)
        mean, var = slope * mean + pull * y, slope**2 * var + noise
    return mean, var


@pytest.mark.parametrize(("zeta", "gamma"), [(0.3, 0.0), (0.2, 0.3), (0.0, 0.4)])
def test_psld_has_the_law_of_its_equation(zeta: float, gamma: float) -> None:
    """4000 samples in 30 steps: means to five standard errors, variances (of relative error √(2/n)) too."""
    n, c = 4000, 0.8
    p = normal(c)
    u, h, vt = torch.linalg.svd(MASK.double()[:, None] * p.matrix, full_matrices=False)
    z = p.world.sample(1, 5)
    y = A(z @ p.matrix.mT)
    times = samplers.grids.karras(p.process, 30)
    rule = PSLD(Measurement(on_states(p.model, A), y, 0.0), zeta, gamma, norm="squared")
    x = langevin.sample(p.world.denoiser(p.process), rule, n=n, grid=times, batch=n)
    found = x @ vt.mT
    mean, var = law(h, (y @ u)[0], c, times, zeta, gamma)
    assert ((found.mean(0) - mean).abs() < 5 * torch.sqrt(var / n)).all()
    assert ((found.var(0) / var - 1).abs() < 5 * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_psld_recovers_a_code_that_is_determined(gamma: float) -> None:
    """Without noise and with A D of full column rank the posterior is one image; PSLD comes to it on fine grids.

    The recovery of the paper, for its linear model. h² is between 0.1 and 1 here, so that 0 < ζh² + γh⁴ < 1. What is
    left is what the recursion above says, the noise of the last steps: the root of a mean square of 64 numbers is off
    by at most four times √(1/128), and it falls with their length, from 50 steps to 800 by a factor of more than 5.
    """
    p = normal()
    u, h, vt = torch.linalg.svd(MASK.double()[:, None] * p.matrix, full_matrices=False)
    assert float(h.min()) ** 2 > 0.1
    z = p.world.sample(1, 5)
    x = z @ p.matrix.mT
    far = []
    for steps in (50, 800):
        more = {"n": 16, "steps": steps, "zeta": 0.5, "gamma": gamma, "norm": "squared"}
        found = langevin.restore(p.model, A, A(x), 0.0, put_back=False, method="psld", **more)
        far.append(float((found - x).square().sum(1).mean().sqrt()))
        mean, var = law(h, (A(x) @ u)[0], 0.8, samplers.grids.karras(p.process, steps), 0.5, gamma)
        expected = float(((mean - (z @ vt.mT)[0]) ** 2 + var).sum().sqrt())
        assert far[-1] == pytest.approx(expected, rel=4 / 128**0.5)
    assert far[1] < far[0] / 5
    assert far[1] < 0.005


def test_the_glue_is_nothing_for_a_code_of_the_image() -> None:
    """At the true code both terms are 0, and so is the gradient; elsewhere the unsquared norms have length 1."""
    p = normal()
    z = p.world.sample(2, 5)
    operator = on_states(p.model, A)
    m = Measurement(operator, A(z @ p.matrix.mT), 0.0)
    for norm in ("squared", "unsquared"):
        rule = PSLD(m, 1.0, 1.0, norm)
        assert float(rule.distance(m, z).max()) < 1e-12
        at = (z + 0.1).requires_grad_()
        d = rule.distance(m, at)
        residual = (A(z @ p.matrix.mT) - operator(at)).flatten(1)
        glue = (residual @ p.matrix).norm(dim=1)
        expected = residual.norm(dim=1) + glue if norm == "unsquared" else residual.norm(dim=1) ** 2 + glue**2
        torch.testing.assert_close(d, expected, rtol=1e-9, atol=0)
    # Of any image: what was measured goes into its place before it is encoded.
    x, whole = p.world.sample(2, 6) @ p.matrix.mT + 0.3, p.world.sample(2, 7) @ p.matrix.mT
    filled = torch.where(MASK.bool(), whole, x)
    torch.testing.assert_close(glued(operator, A(whole), z, x), z - filled @ p.matrix, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["ldps", "psld", "dps", "dps-squared", "diffpir"])
def test_known_pixels_come_back(name: str) -> None:
    """Without noise, to the bit, though the decoder cannot make them; a sample is the same in any batch."""
    x0 = torch.randn(2, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = lambda batch: langevin.restore(MODEL, A, A(x0), 0.0, method=name, n=3, steps=6, batch=batch)
    x = run(64)
    known = MASK.bool()
    assert torch.equal(x[..., known], x0[:, None, known].expand(2, 3, -1))
    assert not torch.equal(x[..., ~known], x0[:, None, ~known].expand(2, 3, -1))
    torch.testing.assert_close(run(2), x, rtol=1e-9, atol=1e-9)
    bare = langevin.restore(MODEL, A, A(x0), 0.0, put_back=False, method=name, n=3, steps=6)
    assert not torch.equal(bare[..., known], x[..., known])


def test_decoded_images_are_clipped_and_can_come_back() -> None:
    """As images are that are read; the derivative is that without the clip, so that no pixel is stuck at an end."""
    codec = linear_codec(SKEW)
    operator = Decoded(A, replace(codec, data=DataInfo("linear", (D,), -0.1, 0.1)))
    z = WORLD.sample(3).requires_grad_()
    x = operator.decode(z)
    torch.testing.assert_close(x, (z @ SKEW.mT).clamp(-0.1, 0.1), rtol=0, atol=1e-12)
    v = WORLD.sample(3, 1) @ SKEW.mT
    (back,) = torch.autograd.grad(operator(z), z, v)
    torch.testing.assert_close(back, INNER.adjoint(v), rtol=0, atol=1e-12)


def test_the_method_that_is_taken() -> None:
    assert default_method(on_states(MODEL, A)) == "ldps"
    assert default_method(on_states(MODEL, A), PoissonNoise(50)) == "daps"


def test_what_the_codec_loses() -> None:
    """For orthonormal columns D(E(x)) is the projection on their span; of what they span nothing is lost."""
    p = normal()
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    span = x @ p.matrix @ p.matrix.mT
    lost = float((MASK * (x - span)).square().mean().sqrt())
    assert codec_residual(p.model, A, x) == pytest.approx(lost, rel=1e-9)
    assert codec_residual(p.model, A, span) < 1e-12


def test_rows_of_latent_models() -> None:
    """Those that tests/tasks/test_restore.py leaves out are tested here, by every noise process."""
    assert LATENT == ["ldps", "psld"]
    for process in (processes.VP(), processes.EDM(), processes.RectifiedFlow()):
        model = Problem(WORLD, SKEW, process).model
        for name in LATENT:
            assert langevin.restore(model, A, measured(0.1), 0.1, method=name, n=2, steps=8).isfinite().all()


def test_refusals() -> None:
    y = measured(0.1)
    linear = [row.name for row in methods("inverse") if row.name in ("pigdm", "repaint", "exact")]
    for name in linear:
        with pytest.raises(UserError, match=rf"since its decoder is not, got '{name}'; those that do: ldps, psld, dps"):
            langevin.restore(MODEL, A, y, method=name)
    for name in LATENT:
        with pytest.raises(UserError, match=rf"method '{name}' is for latent models, got a model of the data"):
            langevin.restore(WORLD.denoiser(processes.VP()), INNER, y, method=name)
    with pytest.raises(UserError, match=r"operator must be linear in the data for method 'psld'.*got Saturate"):
        langevin.restore(MODEL, Saturate(2.0), y, method="psld")
    assert langevin.restore(MODEL, Saturate(2.0), y, method="ldps", n=1, steps=3).shape == (1, D)
    m = Measurement(INNER, y, 0.1)
    with pytest.raises(UserError, match="operator must be of decoded codes"):
        PSLD(m)
    coded = Measurement(on_states(MODEL, A), y, 0.1)
    for more, phrase in (
        ({"zeta": -1.0}, "zeta"),
        ({"gamma": -1.0}, "gamma"),
        ({"norm": "l1"}, "norm"),
        ({"eta": 2.0}, "eta"),
    ):
        with pytest.raises(UserError, match=phrase):
            PSLD(coded, **more)
    with pytest.raises(UserError, match="y must be measurements"):
        langevin.restore(MODEL, A, torch.zeros(1, K))
