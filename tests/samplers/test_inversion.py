"""Encoding, decoding and interpolation of latents."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, NetworkDenoiser

F64 = torch.float64
WORLD = worlds.random_mixture(4, components=3, rms=0.7, seed=3)


@pytest.mark.parametrize(("rule", "order"), [(None, 1), (samplers.RhoHeun(), 2)])
@pytest.mark.parametrize("process", [processes.VP(), processes.EDM(sigma_min=0.01)], ids=lambda p: type(p).__name__)
def test_round_trip(process, rule, order):
    """Data → latent → data: the median error falls at the order of the sampler (± 0.25 over a doubling).

    The ends add an error of the size of σ³ at t_min, 1e-6, below what the steps leave here.
    """
    x = WORLD.sample(32, 5)
    denoiser, gaps = WORLD.denoiser(process), []
    for steps in (100, 200):
        z = samplers.encode(denoiser, x, steps=steps, sampler=rule)
        back = samplers.decode(denoiser, z, steps=steps, sampler=rule)
        gaps.append(float((back - x).abs().median()))
    assert abs(math.log2(gaps[0] / gaps[-1]) - order) < 0.25, gaps
    assert gaps[-1] < 0.03


def test_latents_are_noise():
    """The latents of 4,000 samples are the process's law at t_max: mean 0 and covariance I within 4.5 sd of an entry.

    With second-order steps their own error, 1e-3, is far below the 0.016 of an entry of the covariance.
    """
    process, n = processes.VP(), 4000
    z = samplers.encode(WORLD.denoiser(process), WORLD.sample(n, 5), steps=60, sampler=samplers.RhoHeun())
    assert z.mean(0).abs().max() < 4.5 / math.sqrt(n) + 0.005
    assert (torch.cov(z.T) - torch.eye(4, dtype=F64)).abs().max() < 4.5 * math.sqrt(2 / n) + 0.005


def test_encode_first_stretch():
    """It inverts the last step of ``decode`` to O(σ⁴): on N(0, c) what comes back is x (1 − q²), q = σ²/(α² c + σ²).

    By hand: up, α x (1 + q); down, α c/(α² c + σ²) times it, which is (1 − q)(1 + q) x. Without the noise, x (1 − q).
    The stretch between 0.02 and 0.0199 goes up and down by order 4 and leaves nothing.
    """
    process, c = processes.VP(), 0.5
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), c))
    x = torch.tensor([[0.3], [-1.2]], dtype=F64)
    settings = {"grid": [0.02, 0.0199, 0.0], "sampler": samplers.RhoRK4()}
    back = samplers.decode(world.denoiser(process), samplers.encode(world.denoiser(process), x, **settings), **settings)
    t = torch.tensor(0.0199, dtype=F64)
    q = process.sigma2(t) / (process.alpha(t) ** 2 * c + process.sigma2(t))
    torch.testing.assert_close(back, x * (1 - q**2), rtol=1e-12, atol=0)


def test_same_samples_as_the_loop():
    """``decode`` is the loop: what ``sample`` draws from these latents."""
    process = processes.VP()
    z = Noise(0, 4).normal((4,))
    grid = samplers.grids.log_snr(process, 20)
    ours = samplers.decode(WORLD.denoiser(process), z, steps=20)
    assert ours.equal(langevin.sample(WORLD.denoiser(process), samplers.DPMSolver(1), start=z, grid=grid))
    torch.testing.assert_close(ours, langevin.sample(WORLD.denoiser(process), samplers.DDIM(), start=z, grid=grid))


def test_slerp():
    """Equal to the published formula by arccos, of the norm of its ends on a sphere, linear between equal latents."""
    a, b = Noise(0, 5).normal((3, 4)), Noise(1, 5).normal((3, 4))
    share = torch.linspace(0.1, 0.9, 5, dtype=F64)
    u, v = a.flatten(1), b.flatten(1)
    theta = torch.arccos((u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)))
    first, second = torch.sin((1 - share) * theta) / torch.sin(theta), torch.sin(share * theta) / torch.sin(theta)
    expected = first[:, None, None] * a + second[:, None, None] * b
    torch.testing.assert_close(samplers.slerp(a, b, share), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(samplers.slerp(a, b, 0.0), a)
    torch.testing.assert_close(samplers.slerp(a, b, 1.0), b)
    unit = b / v.norm(dim=1)[:, None, None] * u.norm(dim=1)[:, None, None]
    middle = samplers.slerp(a, unit, 0.3).flatten(1).norm(dim=1)
    torch.testing.assert_close(middle, u.norm(dim=1))
    near = a + 1e-9 * b
    # arccos of 1 − 1e-18 is 0 in float64; the weights are those of the linear path to 1e-18
    torch.testing.assert_close(samplers.slerp(a, near, 0.25), a + 0.25e-9 * b, rtol=0, atol=1e-15)
    assert samplers.slerp(a, a, 0.4).equal(a) or torch.allclose(samplers.slerp(a, a, 0.4), a, rtol=1e-15)


def test_a_width_of_the_batch():
    """A share a sample stays with its sample when the batch is as large as the width."""
    a, b, share = Noise(0, 3).normal((3,)), Noise(1, 3).normal((3,)), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    for path in (samplers.slerp, samplers.lerp):
        whole = path(a, b, share)
        torch.testing.assert_close(whole[0], a[0])
        torch.testing.assert_close(whole[2], b[2])
        torch.testing.assert_close(whole[1], path(a[1:2], b[1:2], 0.5)[0])


def test_lerp():
    a, b = Noise(0, 2).normal((3,)), Noise(1, 2).normal((3,))
    torch.testing.assert_close(samplers.lerp(a, b, 0.25), 0.75 * a + 0.25 * b, rtol=0, atol=1e-15)


def test_refusals():
    gaussian = WORLD.denoiser(processes.VP())
    tokens = worlds.TokenTable(torch.full((3, 3), 1 / 9, dtype=F64)).denoiser(processes.Absorbing(3))
    a = torch.ones(2, 3, dtype=F64)
    cases = [
        (lambda: samplers.encode(gaussian, a, steps=1), "steps must be an integer of at least 2, got 1"),
        (lambda: samplers.encode(gaussian, a, grid=[0.1, 0.5]), "grid must decrease to 0"),
        (lambda: samplers.encode(gaussian, a, grid=[0.5, 0.0]), "in two steps or more"),
        (lambda: samplers.encode(tokens, a), "encode needs"),
        (lambda: samplers.slerp(a, a[:1], 0.5), "one shape"),
        (lambda: samplers.slerp(a, -a, 0.5), "opposite"),
        (lambda: samplers.slerp(a, 0 * a, 0.5), "must not be 0"),
        (lambda: samplers.lerp(a, a, torch.zeros(3)), "share must have shape"),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32,) * 2, (torch.bfloat16, torch.float32), (F64, F64)])
def test_latents_have_the_dtype_of_the_network(dtype, expected):
    """As in the sampling loop: float32 at least, whatever the dtype of the data."""
    network = langevin.nn.create_network(langevin.nn.default((2,))).to(dtype)
    denoiser = NetworkDenoiser(network, processes.VP(), AffineParameterization("edm"), (2,))
    for data in (torch.zeros(3, 2), torch.zeros(3, 2, dtype=F64)):
        z = samplers.encode(denoiser, data, steps=3)
        assert z.dtype == expected
        assert samplers.decode(denoiser, z, steps=3).dtype == expected
