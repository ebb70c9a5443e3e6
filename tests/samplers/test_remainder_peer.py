"""The Gaussian-remainder solver ahead of the strongest fixed peer: errors at the end of the path, as ratios."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, processes, samplers, worlds
from langevin.denoisers import Transform
from langevin.denoisers.frames import FLOOR
from langevin.distributions import Dirac
from langevin.numerics.frame import GaussianFrame
from langevin.samplers import GaussianRemainder, Multistep
from support import oracle

F64 = torch.float64


def peer(denoiser, start, steps):
    """Adams–Bashforth of order 4 in noise prediction, exponential, uniform in log σ/α: the strongest fixed peer."""
    grid = samplers.grids.log_snr(denoiser.process, steps)
    return list(langevin.trajectory(denoiser, Multistep("eps", "log-snr", 4), grid=grid, start=start))[-1].x


def own(denoiser, start, steps, **settings):
    """The default on its own grid."""
    sampler = GaussianRemainder(**settings).for_model(denoiser)
    grid = sampler.default_grid(denoiser.process, steps)
    return list(langevin.trajectory(denoiser, sampler, grid=grid, start=start))[-1].x


def path(denoiser, start):
    """The end of the flow: y/√(1 + σ²) in log σ, where nothing is stiff, to 1e-9 a step and down to σ/α = 1e-5."""
    from scipy.integrate import solve_ivp

    q = denoiser.process
    ends = [-0.5 * float(q.log_snr(q.t_max)), math.log(1e-5)]
    scale = lambda u: math.sqrt(1 + math.exp(2 * u))

    def slope(u, flat):
        t = q.time(torch.tensor(-2 * u, dtype=F64))
        y = torch.as_tensor(flat).reshape(start.shape) * scale(u)
        mean = denoiser(q.alpha(t) * y, t).mean
        return ((y - mean - y / (1 + math.exp(-2 * u))) / scale(u)).reshape(-1).numpy()

    first = (start / q.alpha(torch.tensor(q.t_max, dtype=F64)) / scale(ends[0])).reshape(-1).numpy()
    solution = solve_ivp(slope, ends, first, method="DOP853", rtol=1e-9, atol=1e-10)
    return torch.as_tensor(solution.y[:, -1]).reshape(start.shape) * scale(ends[1])


def compare(world, process, counts, seed, n):
    """For each number of evaluations the median and the RMS error at the end of the path, relative to the peer's."""
    denoiser = world.denoiser(process)
    start = process.prior(world.shape).sample(Noise(seed, n))
    truth, result = path(denoiser, start), []
    for steps in counts:
        ours, theirs = ((f(denoiser, start, steps) - truth).square().mean(1).sqrt() for f in (own, peer))
        rms = lambda e: float(e.square().mean().sqrt())
        result.append((float(ours.median() / theirs.median()), rms(ours) / rms(theirs)))
    return torch.tensor(result, dtype=F64)


def check_ratios(world, process, bounds, seeds, n):
    """The mean over seeds of both ratios lies below the bounds, at every number of evaluations."""
    found = torch.stack([compare(world, process, bounds, seed, n) for seed in seeds]).mean(0)
    assert (found < torch.tensor(list(bounds.values()), dtype=F64)).all(), found


def test_ahead_of_the_peer():
    """A plane ring and a 16-D mixture: at most a third of the peer's median error, where a half-built solver is above.

    Seen 0.04 and 0.09 on the ring, 0.2 in 16 dimensions.
    """
    check_ratios(worlds.ring(), processes.EDM(), {8: (0.1, 0.3), 15: (0.2, 0.4)}, (1,), 96)
    check_ratios(worlds.random_mixture(16, 4, 4, seed=4), processes.DDPM(), {10: (0.35, 0.7)}, (1,), 48)


def finer(world, factor):
    """The same means with components so many times finer, at the same RMS."""
    covariances = torch.einsum("kij,kj,klj->kil", world.basis, world.values, world.basis)
    fine = worlds.GaussianMixture(world.log_weights.exp(), world.means, covariances / factor**2)
    scale = 0.5 / torch.sqrt((torch.trace(fine.cov) + (fine.mean**2).sum()) / world.shape[0])
    return worlds.GaussianMixture(world.log_weights.exp(), scale * world.means, scale**2 * covariances / factor**2)


@pytest.mark.slow
@pytest.mark.parametrize("process", [processes.EDM(), processes.DDPM()], ids=["edm", "ddpm"])
def test_ahead_of_the_peer_everywhere(process):
    """Evaluations 5 to 50, means over four seeds, in the plane and in 64 dimensions, ordinary and fine components.

    In the plane at most 0.15 of the peer's median error and 0.3 of its RMS, 0.08 and 0.15 from 20 evaluations on; in 64
    dimensions 0.42 of the median, 0.1 from 30 on; with components four times finer no worse anywhere.
    """
    flips = math.inf  # in 64 dimensions the RMS is that of the one or two samples of 96 that land in another component
    few, all_of = (5, 8, 10, 15), (5, 8, 10, 15, 20, 30, 50)
    plane = dict.fromkeys(few, (0.15, 0.3)) | dict.fromkeys((20, 30, 50), (0.08, 0.15))
    check_ratios(worlds.ring(), process, plane, range(41, 45), 512)
    space = dict.fromkeys(few, (0.42, flips)) | {20: (0.18, flips), 30: (0.1, flips), 50: (0.1, flips)}
    check_ratios(worlds.random_mixture(64, 8, 16, seed=7), process, space, range(4), 96)
    fine = dict.fromkeys(all_of, (1.0, flips))
    check_ratios(finer(worlds.random_mixture(64, 8, 16, seed=7), 4), process, fine, range(4), 96)


def test_with_nothing_known():
    """A model without moments: still ahead of the peer's median, in the plane and in 16 dimensions."""
    for world, steps in ((worlds.ring(), 8), (worlds.random_mixture(16, 4, 4, seed=4), 10)):
        denoiser = oracle(world, processes.EDM(), "edm")
        start = processes.EDM().prior(world.shape).sample(Noise(1, 48))
        truth = path(world.denoiser(processes.EDM()), start)
        ours, theirs = ((f(denoiser, start, steps) - truth).square().mean(1).median() for f in (own, peer))
        assert ours < theirs


class Off(Transform):
    """A belief that errs by 2 % of the data's size everywhere, smoothly."""

    def __call__(self, x_t, t):
        t = torch.as_tensor(t, dtype=F64)
        q = self.process
        y = x_t / torch.sqrt(q.alpha(t) ** 2 + q.sigma(t) ** 2)
        return Dirac(self.base(x_t, t).mean + 0.02 * torch.sin(y.roll(1, -1)))


def test_directions_without_variance_and_a_network_that_errs():
    """Half of the directions hold nothing, and the network says a little there: five evaluations stay ahead.

    Seen 0.28 of the peer's error; with a floor of 1e-6 instead of 1e-2 of the mean variance 0.42, and on a network
    trained on scans of digits, of whose 64 pixels some never change, 8 times as much as with the floor.
    """
    thin = worlds.random_mixture(4, components=4, rms=0.8, seed=3)
    means = torch.cat((thin.means, torch.zeros(4, 4, dtype=F64)), 1)
    covariances = torch.zeros(4, 8, 8, dtype=F64)
    covariances[:, :4, :4] = torch.einsum("kij,kj,klj->kil", thin.basis, thin.values, thin.basis)
    world = worlds.GaussianMixture(thin.log_weights.exp(), means, covariances)
    process = processes.EDM()
    denoiser = Off(world.denoiser(process))
    start = process.prior(world.shape).sample(Noise(5, 64))
    # Both end in the belief at t_min: so does the truth, by the same peer on 400 steps.
    truth = peer(denoiser, start, 400)
    moments = GaussianFrame.from_covariance(world.mean, world.cov, FLOOR)
    ours, theirs = (
        (end - truth).square().mean(1).sqrt().median()
        for end in (own(denoiser, start, 5, frame=moments), peer(denoiser, start, 5))
    )
    assert ours < 0.35 * theirs, (ours, theirs)
