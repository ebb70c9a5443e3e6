"""The bound in continuous time: closed on a Gaussian, and the same for every schedule with the same ends."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from langevin import UserError, worlds
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.likelihood import vdm_bound
from langevin.objectives.vdm import VDM
from langevin.processes import EDM, VE, VP, Absorbing, Learned, Learning, MonotoneNetwork, ScalarGaussian
from langevin.processes.cubic import MonotoneCubic

MIXTURE = worlds.random_mixture(3, components=4, rms=0.7, seed=5)


def bent(low: float, high: float, seed: int) -> Learning:
    """A schedule with wild but smooth insides."""
    network = MonotoneNetwork(low, high, width=16).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network.inner.fill_(10.0)  # no bend that the quadrature would miss
        network.shift.copy_(-10 * torch.linspace(0, 1, 16))
        network.outer += 2 * torch.randn(16, generator=generator)
        network.shift += 2 * torch.randn(16, generator=generator)
    return Learning(network)


def test_invariant_to_the_interior() -> None:
    """Five schedules with the same ends, one of another scale: the integral along a line of noise is one number.

    Gauss–Legendre on 128 nodes is converged to 1e-9 here; 1e-6 nats is what is asked.
    """
    ve = VE(0.02, 20.0)
    low, high = (-float(ve.log_snr(t)) for t in (ve.t_min, ve.t_max))
    schedules: list[ScalarGaussian] = [Learned((low, high)), ve, *(bent(low, high, seed) for seed in (1, 2, 3))]
    x = MIXTURE.sample(32, 3)
    found = [vdm_bound(MIXTURE.denoiser(p), x, nodes=128) for p in schedules]
    inside = torch.stack([f.diffusion + f.reconstruction for f in found])
    assert float((inside - inside[0]).abs().max()) < 1e-6
    # The schedules do differ: at some time the log-SNRs of any two are apart.
    with torch.no_grad():
        inner = torch.stack([p.log_snr(torch.linspace(0.1, 0.9, 9, dtype=torch.float64)) for p in schedules])
    apart = (inner[:, None] - inner).abs().amax(-1) + torch.eye(len(schedules))
    assert float(apart.min()) > 0.1
    # And the ends do matter: twice the noise at t_min is another bound.
    other = vdm_bound(MIXTURE.denoiser(Learned((low + math.log(4), high))), x, nodes=128)
    assert float((other.diffusion + other.reconstruction - inside[0]).abs().max()) > 1e-3


def test_gaussian_in_closed_form() -> None:
    """E over data and noise: ½ ∫ D r(γ) dγ with r = s²/(e^γ + s²), and the two ends; more draws, less error."""
    std, dim, low, high = 0.5, 4, -7.0, 4.0
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.full((1,), std**2))
    x = world.sample(4000, 1)
    found = vdm_bound(world.denoiser(Learned((low, high))), x, nodes=32)
    rest = lambda g: g - math.log(math.exp(g) + std**2)
    known = dim * ((rest(high) - rest(low)) / 2 + (math.log(2 * math.pi * math.e) + low) / 2)
    alpha2, sigma2 = 1 / (1 + math.exp(high)), 1 / (1 + math.exp(-high))
    known += dim * (sigma2 + alpha2 * std**2 - 1 - math.log(sigma2)) / 2
    error = float(found.nats.std()) / len(x) ** 0.5
    assert abs(float(found.nats.mean()) - known) < 4.5 * error


def test_a_bound_on_the_entropy_that_is_nearly_tight() -> None:
    """Its mean lies above that of −log p by what the two ends leave; never below by more than Monte Carlo."""
    x = MIXTURE.sample(1500, 2)
    found = vdm_bound(MIXTURE.denoiser(Learned((-11.0, 6.0))), x, nodes=48)
    gap = found.nats + MIXTURE.log_prob(x)
    error = float(gap.std()) / len(x) ** 0.5
    assert -4.5 * error < float(gap.mean()) < 4.5 * error + 0.02


def test_units_levels_and_batches() -> None:
    world = worlds.Empirical(torch.tensor([[-1.0, 0.5], [1.0, 0.0]], dtype=torch.float64))

    class Known(type(world.denoiser(VP()))):  # type: ignore[misc]
        data = DataInfo("five", (2,), levels=5)

    denoiser = Known(world, Learned((-9.0, 5.0)))
    x = world.sample(40, 0)
    # The two data are told apart over a short range of λ only: more nodes than a smooth law needs.
    found = vdm_bound(denoiser, x, nodes=96, batch=40)
    part = vdm_bound(denoiser, x, nodes=96, batch=7)
    torch.testing.assert_close(found.nats, part.nats, rtol=1e-12, atol=1e-12)
    assert float(found.reconstruction.max()) < 1e-6  # σ_0 = 0.011 against bins of 0.5
    bits = found.bits_per_dim * 2
    # The truth is one bit for the choice of datum; the noise of a line moves single values, the mean by 1/√40 of it.
    assert float(bits.mean()) == pytest.approx(
        1 + float(found.prior.mean()) / math.log(2), abs=4.5 * float(bits.std()) / 40**0.5
    )
    assert found.protocol["levels"] == 5
    assert found.protocol["of"] == "probability"
    assert "bits/dim" in str(found)
    assert vdm_bound(denoiser, x[:1], nodes=2, draws=3).protocol["draws"] == 3


def test_a_schedule_under_way_and_its_table_agree() -> None:
    """What the objective says of a batch is the same bound: its mean against the quadrature's, for one denoiser."""
    parameterization = AffineParameterization("x0", sigma_data=0.7)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.8, dtype=torch.float64))

        def forward(self, x: torch.Tensor, time: torch.Tensor, condition: object) -> torch.Tensor:
            return self.weight * torch.tanh(x) * torch.sigmoid(2 - 2 * time)[:, None]

    made = VDM().prepare(NetworkDenoiser(Network(), Learned((-5.0, 3.0)), parameterization, (3,)))
    x = MIXTURE.sample(4000, 9)
    from langevin import Noise

    with torch.no_grad():
        loss = VDM()(made, x, None, Noise(4, 4000))
    left = VDM().finish(made)
    exact = vdm_bound(replace(left, data=None), x, nodes=64).nats / 3  # type: ignore[type-var]
    error = math.sqrt(float(loss.var() + exact.var()) / 4000)
    assert abs(float(loss.mean() - exact.mean())) < 4.5 * error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(3, 2)}, r"shape \(N, 3\), got \(3, 2\)"),
        ({"x": torch.full((2, 3), torch.nan)}, "not finite"),
        ({"nodes": 0}, "nodes must be at least 1, got 0"),
        ({"denoiser": worlds.Empirical(torch.tensor([[0], [1]])).denoiser(Absorbing(2))}, "in continuous time needs"),
    ],
)
def test_refusals(change: dict, words: str) -> None:
    arguments = {"denoiser": MIXTURE.denoiser(EDM()), "x": torch.zeros(2, 3), **change}
    with pytest.raises(UserError, match=words):
        vdm_bound(arguments.pop("denoiser"), arguments.pop("x"), **arguments)


def test_draws_are_averaged() -> None:
    """More lines of noise change the terms by their chance alone: a few percent over 64 examples."""
    world = worlds.ring()
    x = world.sample(64, 1)
    one, four = (vdm_bound(world.denoiser(VP()), x, nodes=16, draws=k) for k in (1, 4))
    for name in ("diffusion", "reconstruction"):
        first, second = (float(getattr(found, name).mean()) for found in (one, four))
        assert second == pytest.approx(first, rel=0.15), name


def test_a_schedule_begins_as_a_line_with_bends_of_all_widths():
    """γ̃ of the untrained network: weight 1 of the line, 1/K of each sigmoid, steepness 5·2^(k mod 6)."""
    network = MonotoneNetwork(-6.0, 6.0, width=12).double()
    softplus = torch.nn.functional.softplus
    one, share, steep = (softplus(p) for p in (network.line, network.outer, network.inner))
    torch.testing.assert_close(one, torch.ones_like(one), rtol=1e-6, atol=0)  # made in float32
    torch.testing.assert_close(share, torch.full_like(share, 1 / 12), rtol=1e-6, atol=0)
    torch.testing.assert_close(steep, 5 * 2.0 ** (torch.arange(12) % 6).to(steep), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_monotone_cubic_is_inverted_to_rounding(sign):
    """x of y(x), from either side of the first guess: to 1e-12 of a knot, the rounding of y over its least slope."""
    rise = sign * (0.05 + torch.rand(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2)
    curve, x = MonotoneCubic(0.3, rise), torch.linspace(0, 40, 1999, dtype=torch.float64)
    torch.testing.assert_close(curve.inverse(curve(x)), x, rtol=0, atol=1e-12)
    for one in x[5::97]:  # alone, where nobody else's steps go on for it
        torch.testing.assert_close(curve.inverse(curve(one)), one, rtol=0, atol=1e-12)
