"""Our samplers beside diffusers' schedulers: the same grid, noise and network.

The peers keep their tables and sigmas in float32, so each coefficient of theirs is off by up to 2⁻²⁴ relative and,
where 1 − ᾱ is formed by subtraction near the data, by 2⁻²⁴/(1 − ᾱ_1) = 6e-4 at worst. Where the table can be replaced
by a float64 one (DDPM, DDIM) we do so and ask for 1e-9; elsewhere float32 rounding over the steps is allowed.
"""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import langevin
from langevin import Noise, processes, samplers
from langevin.denoisers import AffineParameterization, NetworkDenoiser, convert, unit
from langevin.samplers import grids

diffusers = pytest.importorskip("diffusers")

TABLE = processes.DDPM()
N, SHAPE = 5, (3, 4, 4)


class Wave(nn.Module):
    """A smooth nonlinear ε-network in float64 that takes an index: any function will do to compare arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        size = math.prod(SHAPE)
        mix = torch.randn(size, size, generator=g, dtype=torch.float64) / size**0.5
        self.mix = nn.Parameter(mix, requires_grad=False)

    def forward(self, x: Tensor, index: Tensor, condition: object = None) -> Tensor:
        phase = index.to(torch.float64).reshape(-1, 1) / 300
        return torch.sin(x.flatten(1) @ self.mix + phase).reshape(x.shape)


NETWORK = Wave()
OURS = NetworkDenoiser(NETWORK, TABLE, AffineParameterization("eps", time="index", scale_input=False), SHAPE)


def start() -> Tensor:
    return Noise(3, N).normal(SHAPE)


def doubled(scheduler):
    """The peer with its table in float64."""
    betas = torch.tensor(TABLE.betas, dtype=torch.float64)
    scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.one = torch.ones((), dtype=torch.float64)
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    return scheduler


def walk(scheduler, x: Tensor, **options) -> Tensor:
    """The peer's loop on our network."""
    for i, t in enumerate(scheduler.timesteps):
        z = {"variance_noise": Noise(7, N, draw=i + 1).normal(SHAPE)} if options.get("noisy") else {}
        more = {"eta": options["eta"]} if "eta" in options else {}
        eps = NETWORK(x, t.reshape(1).double())
        x = scheduler.step(eps, t, x, **z, **more).prev_sample
    return x


def same_grid(scheduler) -> Tensor:
    return torch.cat(((scheduler.timesteps.double() + 1) / TABLE.steps, torch.zeros(1, dtype=torch.float64)))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_table_grids(spacing):
    """Sub-sequences of the table are those of the peer (Table 2 of arXiv:2305.08891)."""
    peer = diffusers.DDIMScheduler(timestep_spacing=spacing)
    for steps in (1, 7, 10, 50, 1000):
        if spacing == "linspace" and steps == 1:
            continue  # np.linspace(0, 999, 1) starts, and so ends, at the data: one step from index 0 is no sampler
        peer.set_timesteps(steps)
        ours = getattr(grids, spacing)(TABLE, steps)
        torch.testing.assert_close(ours, same_grid(peer), rtol=0, atol=1e-15)


@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm(variance, steps):
    """DDPM with both fixed variances, in float64 on the same noise. Rounding: 1e-16 × steps × 1/√ᾱ_N (157) ≈ 2e-11."""
    peer = doubled(diffusers.DDPMScheduler(variance_type=variance, clip_sample=False, timestep_spacing="trailing"))
    peer.set_timesteps(steps)
    draws = iter(range(1, steps + 1))
    module = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    with mock.patch(module, side_effect=lambda *a, **k: Noise(7, N, draw=next(draws)).normal(SHAPE)):
        theirs = walk(peer, start())
    rule = samplers.DDPM() if variance == "fixed_small" else samplers.DDPMLarge()
    if steps < 1000 and variance == "fixed_large":
        # The peer leaves the noise out of the step from index 0 only, not of the last step: on a sub-sequence whose
        # last index is above 0 it returns a sample, where DDPM's algorithm 2 returns the mean.
        rule = samplers.Ancestral(belief=unit, final="sample")
    ours = langevin.sample(OURS, rule, start=start(), grid=same_grid(peer), seed=7)
    # The peer clamps β̃ at 1e-20, which is 1e-10 in the standard deviation, at the one step where it is 0.
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_ddim(eta, steps):
    """DDIM at every η where the peer's stride N//n is the grid's own (leading spacing of a divisor)."""
    peer = doubled(diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="leading"))
    peer.set_timesteps(steps)
    theirs = walk(peer, start(), eta=eta, noisy=eta > 0)
    ours = langevin.sample(OURS, samplers.DDIM(eta), start=start(), grid=same_grid(peer), seed=7)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_ddim_stride_of_the_peer_is_wrong():
    """Where N//n is not the grid's stride (linspace), the peer steps to a time it then does not ask at.

    Proven on an exact world, against the exact flow from the same noise: on 600 indices of 1000 the peer strides by 1
    where the grid strides by 1.67. Its error is of the size of the data; ours is what a first-order solver has in 600
    steps, a hundred times less.
    """
    world = langevin.worlds.random_mixture(2, components=3, rms=0.7, seed=1)
    exact = world.denoiser(TABLE)
    peer = doubled(diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="linspace"))
    peer.set_timesteps(600)
    x = first = world.sample(64, process=TABLE, t=1.0)
    for t in peer.timesteps:
        time = (t.double() + 1) / TABLE.steps
        x = peer.step(TABLE.noise(x, exact(x, time), time), t, x).prev_sample
    ours = langevin.sample(exact, samplers.DDIM(), start=first, grid=same_grid(peer))
    # DPM-Solver++(2M) on a finer grid is the truth here: its own error is below 1e-4.
    fine = samplers.grids.log_snr(TABLE, 2000)
    truth = langevin.sample(exact, samplers.DPMSolverPP(), start=first, grid=fine)
    wrong, right = float((x - truth).norm(dim=1).median()), float((ours - truth).norm(dim=1).median())
    assert wrong > 0.1
    assert right < wrong / 20


@pytest.mark.parametrize("sde", [False, True])
@pytest.mark.parametrize("steps", [2, 10, 25])
def test_dpm_solver_pp_2m(sde, steps):
    """DPM-Solver++(2M) and its SDE form.

    The peer rounds σ/α to float32: each λ is off by 2⁻²⁴, weights by as much times the ratio of two steps (≤ 4), and an
    error made at t grows by at most 1/√ᾱ_N = 157: 157 · 4 · steps · 2⁻²⁴ ≈ 1e-3 at worst; the median element must
    do four times better.
    """
    kind = "sde-dpmsolver++" if sde else "dpmsolver++"
    peer = diffusers.DPMSolverMultistepScheduler(
        algorithm_type=kind, solver_order=2, lower_order_final=False, timestep_spacing="trailing"
    )
    peer.set_timesteps(steps)
    theirs = walk(peer, start(), noisy=sde)
    rule = samplers.DPMSolverPPSDE() if sde else samplers.DPMSolverPP()
    ours = langevin.sample(OURS, rule, start=start(), grid=same_grid(peer), seed=7)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-3, atol=1e-3)
    assert (ours - theirs).abs().median() < 157 * 2**-24 * steps


def test_heun():
    """Heun in σ (EDM's algorithm 1 without churn), our table's network converted to the process of EDM.

    The peer's sigmas are float32, and the flow takes x ≈ σ_max z to the data: 2 · steps · 2⁻²⁴ · σ_max (157) ≈ 4e-4.
    """
    peer = diffusers.HeunDiscreteScheduler(
        num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing"
    )
    peer.set_timesteps(12)
    sigmas = torch.cat((peer.sigmas[:1], peer.sigmas[1:-1:2], peer.sigmas[-1:])).double()
    edm = processes.EDM(sigma_min=1e-3, sigma_max=float(sigmas[0]))
    x = theirs = start() * sigmas[0]
    for t in peer.timesteps:
        sigma = peer.sigmas[peer.step_index if peer.step_index is not None else 0].double()
        eps = NETWORK(theirs / torch.sqrt(sigma**2 + 1), t.reshape(1).double())
        theirs = peer.step(eps, t, theirs).prev_sample
    times = sigmas / sigmas[0]
    ours = langevin.sample(convert(OURS, edm), samplers.Heun(), start=x, grid=times)
    torch.testing.assert_close(ours, theirs.double(), rtol=1e-3, atol=1e-3)
    assert (ours - theirs).abs().median() < 157 * 2**-24 * 24
