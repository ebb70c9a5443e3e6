"""The Gaussian-remainder solver: exact on Gaussians, its grid, its orders and its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import Transform
from langevin.distributions import Dirac
from langevin.numerics.frame import GaussianFrame
from langevin.samplers import GaussianRemainder, Multistep
from langevin.samplers.gaussian.integrals import Remainder, stencil
from langevin.samplers.gaussian.noise_grid import KNOWN, PLANE, UNKNOWN, TimeWarp, time_warp
from laws.table import PROCESSES, mixture

F64 = torch.float64


def gaussian(dim=6, seed=0):
    """One normal component with variances over three decades, so that the flow is known in closed form."""
    noise = Noise(seed, dim)
    basis = torch.linalg.qr(noise.fold_in(1).normal((dim,)))[0]
    values = 10 ** torch.linspace(-2.5, 0.5, dim, dtype=F64)
    mean = noise.fold_in(2).normal(())
    return worlds.GaussianMixture(torch.ones(1), mean[None], (basis * values @ basis.mT)[None]), basis, values, mean


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("process", PROCESSES)
def test_gaussian_data_is_solved_in_closed_form(process, eta):
    """Whatever the grid: the mean goes with S^(1 + η²), the noise is what the posterior lacks; to rounding.

    From N(αm, α²C + σ²) both together are N(α_s m, α_s²C + σ_s²), which fixes both: with one deterministic start the
    state's conditional mean, and with the noise's variance the total. Rounding: 1e-16 times α²λ/σ² ≤ 1e6 in q.
    """
    q = PROCESSES[process]
    world, basis, values, mean = gaussian()
    denoiser, sampler = world.denoiser(q), GaussianRemainder(eta=eta)
    t, s = (torch.tensor(v, dtype=F64) for v in (q.t_max, 0.4 if q.t_min < 0.4 else 0.5))
    start = world.sample(4, 1, process=q, t=t)
    total = lambda at: torch.sqrt(q.alpha(at) ** 2 * values + q.sigma(at) ** 2)
    shrink = total(s) / total(t) * q.alpha(t) / q.alpha(s)
    carried = total(s) / total(t) * shrink ** (eta**2)
    expected = q.alpha(s) * mean + ((start - q.alpha(t) * mean) @ basis * carried) @ basis.mT
    for grid in ([t, s], [t, 0.5 * (t + s), s], [t, 0.9 * t + 0.1 * s, 0.3 * t + 0.7 * s, s]):
        noise = Noise(3, 4)
        *_, last = langevin.trajectory(denoiser, sampler, grid=[float(v) for v in grid], start=start, noise=noise)
        if eta == 0:
            torch.testing.assert_close(last.x, expected, rtol=1e-9, atol=1e-9)
    if eta:  # one step: what was added is the noise of this draw, times the spread that completes the marginal
        (_, last) = langevin.trajectory(denoiser, sampler, grid=[float(t), float(s)], start=start, noise=noise)
        spread = total(s) * torch.sqrt(1 - shrink ** (2 * eta**2))
        z = noise.step(1).normal((6,))
        torch.testing.assert_close(last.x - expected, (z @ basis * spread) @ basis.mT, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close((total(t) * carried) ** 2 + spread**2, total(s) ** 2)


def test_one_step_of_a_gaussian():
    """A single step of the own grid is one evaluation, and exact."""
    world, basis, values, mean = gaussian()
    q = processes.VP()
    x = langevin.sample(world.denoiser(q), n=5, steps=1, seed=2)
    start = q.prior((6,)).sample(Noise(2, 5).step(0))
    t = torch.tensor(1.0, dtype=F64)
    scale = torch.sqrt(values / (q.alpha(t) ** 2 * values + q.sigma(t) ** 2))
    expected = mean + ((start - q.alpha(t) * mean) @ basis * scale) @ basis.mT
    torch.testing.assert_close(x, expected, rtol=1e-8, atol=1e-8)


class Spy(Transform):
    """Counts."""

    def __call__(self, x_t, t):
        TIMES.append(float(t))
        return self.base(x_t, t)


TIMES: list[float] = []


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 50])
@pytest.mark.parametrize("process", PROCESSES)
def test_own_grid(process, steps):
    """``steps`` evaluations at times that fall strictly, none at noise alone, and 0 at the end."""
    q, world = PROCESSES[process], mixture(2)
    denoiser = Spy(world.denoiser(q))
    sampler = samplers.GaussianRemainder().for_model(denoiser)
    grid = samplers.check_grid(sampler.default_grid(q, steps))
    assert (grid.diff() < 0).all()
    assert grid[-1] == 0
    TIMES.clear()
    x = langevin.sample(denoiser, sampler, n=2, steps=steps)
    assert x.isfinite().all()
    assert len(TIMES) == steps
    assert grid[-1 - steps : -1].tolist() == TIMES
    largest = math.sqrt(float(torch.linalg.eigvalsh(world.cov)[-1]))
    pure = math.exp(-0.5 * float(q.log_snr(grid[0]))) > 8 * largest
    assert len(grid) == steps + (2 if pure else 1)


@pytest.mark.parametrize("density", [KNOWN, PLANE, UNKNOWN])
def test_the_time_warp(density):
    """Monotone from 0 to 1, inverted to 1e-9, and its slope the density as written."""
    values = torch.tensor([0.001, 0.02, 0.5, 3.0], dtype=F64).numpy()
    v = TimeWarp(values, density)
    u = torch.linspace(-60, 60, 2001, dtype=F64).numpy()
    at = v(u)
    assert (at[1:] > at[:-1]).all() or (at[1:] >= at[:-1]).all()
    assert at[0] < 1e-6
    assert abs(at[-1] - 1) < 1e-6
    inner = torch.linspace(-8, 5, 50, dtype=F64).numpy()
    assert abs(v.inverse(v(inner)) - inner).max() < 1e-9

    def slope_of(u):
        h = torch.as_tensor(u)[:, None] - torch.as_tensor(values).log() / 2
        h = h - density.shift[0] - density.shift[1] / v.effective
        terms = torch.as_tensor(values) * (torch.exp(density.above * h) + torch.exp(-density.below * h)) ** -2
        return terms.sum(1) ** (density.share / 2)

    slope = torch.as_tensor(v(inner + 1e-4) - v(inner - 1e-4)) / 2e-4
    ratio = slope / slope_of(inner)
    torch.testing.assert_close(ratio, ratio.mean().expand(50), rtol=1e-4, atol=0)


def test_encodes_and_decodes():
    """Up from t_min and down again on fine grids, back to the start to the method's error."""
    world, q = worlds.ring(), processes.VP()
    denoiser, x = world.denoiser(q), world.sample(8, 3)
    sampler = GaussianRemainder(prefix=False)
    grid = sampler.for_model(denoiser).default_grid(q, 60)[:-1]  # down to t_min, where the last evaluation is
    *_, up = langevin.trajectory(denoiser, sampler, grid=grid.flip(0), start=x)
    *_, down = langevin.trajectory(denoiser, sampler, grid=grid, start=up.x)
    assert (down.x - x).abs().median() < 1e-4


def test_a_corrector_between_steps():
    """The history is of values, not of states: a state that a corrector moved is where the next step starts."""
    world, q = mixture(2), processes.VP()
    sampler = GaussianRemainder().then(samplers.Langevin(1, 0.05))
    x = langevin.sample(world.denoiser(q), sampler, n=400, steps=30, seed=1)
    assert world.log_prob(x).mean() > world.log_prob(world.sample(4000)).mean() - 0.3


def test_leaves_infinite_noise():
    """Where α(1) = 0 a first step without a question starts from t = 1 itself."""
    world, q = mixture(2), processes.RectifiedFlow()
    start = q.prior((2,)).sample(Noise(0, 6))
    ends = []
    for first in (1.0, 1 - 1e-6):
        grid = [first, 0.8, 0.6, 0.4, 0.2, 0.1, 0.0]
        ends.append([*langevin.trajectory(world.denoiser(q), GaussianRemainder(), grid=grid, start=start)][-1].x)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="below t = 1"):
        list(langevin.trajectory(world.denoiser(q), GaussianRemainder(prefix=False), grid=[1.0, 0.5], start=start))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 0}, "order must be an integer from 1 to 4, got 0"),
        ({"order": 5}, "got 5"),
        ({"eta": -1.0}, "eta must be a finite number >= 0"),
        ({"eta": float("nan")}, "eta must be"),
        ({"frame": 3}, "frame must be a GaussianFrame"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        GaussianRemainder(**settings)


def test_the_plane_has_a_time_warp_of_its_own(monkeypatch):
    """On planar mixtures its constants leave less error than the general ones: 0.6 of it at 10 evaluations, over many.

    Here over four worlds: the geometric mean of ratios that scatter by a factor of 1.5, below 1 by one and a half
    standard errors (1.5^0.5 = 1.22, and 0.6 · 1.22^1.5 = 0.8).
    """
    from langevin.samplers.gaussian import noise_grid as room

    process, ratios = processes.EDM(), []
    for seed in range(4):
        world = worlds.random_mixture(2, components=5, rms=0.6, seed=seed)
        start = process.prior((2,)).sample(Noise(seed, 256))
        reference = langevin.sample(world.denoiser(process), start=start, steps=200, batch=256)
        errors = []
        for constants in (room.PLANE, room.KNOWN):
            monkeypatch.setattr(room, "PLANE", constants)
            for kept in (room.time_warp, room._times):
                kept.cache_clear()
            x = langevin.sample(world.denoiser(process), start=start, steps=10, batch=256)
            errors.append(float((x - reference).norm(dim=1).median()))
        monkeypatch.undo()
        ratios.append(errors[0] / errors[1])
    room.time_warp.cache_clear(), room._times.cache_clear()
    assert math.exp(sum(map(math.log, ratios)) / 4) < 0.8, ratios


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", ["vp", "edm", "flow"])
def test_directions_all_alike_are_one_number(name, eta):
    """One variance for all takes a step by one number; with one of them 1e-12 larger it takes one for each direction.

    On the grid, off it, with a mean. The two differ by the 1e-12, times what a path magnifies (up to 1e4 on a mixture).
    """
    denoiser, mean = mixture(2).denoiser(PROCESSES[name]), torch.tensor([0.3, -0.2], dtype=F64)
    near = torch.tensor([0.5, 0.5 * (1 + 1e-12)], dtype=F64)
    plain, along = (
        GaussianRemainder(GaussianFrame(mean, v, spectral=False), eta=eta) for v in (torch.full((2,), 0.5), near)
    )
    assert plain.frame.isotropic
    assert not along.frame.isotropic
    grid = plain.default_grid(denoiser.process, 9)
    start, noise = Noise(1, 5).normal((2,)) * denoiser.process.sigma(grid[0]), Noise(2, 5)
    known = [
        [s.x for s in langevin.trajectory(denoiser, each, grid=grid, start=start, noise=noise)]
        for each in (plain, along)
    ]
    torch.testing.assert_close(known[0], known[1], rtol=1e-8, atol=1e-8)
    for each in (plain, along):
        state = langevin.samplers.State(start, grid[0])
        for i, s in enumerate(grid[1:], 1):
            state = each.step(state, s, denoiser, noise.step(i))
        torch.testing.assert_close(state.x, known[0][-1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_with_noise_the_order_is_two_at_most(order):
    world = worlds.random_mixture(3, components=3, rms=0.7, seed=2)
    draw = lambda k: langevin.sample(
        world.denoiser(processes.VP()), samplers.GaussianRemainder(order=k, eta=1.0), n=4, steps=6
    )
    assert torch.equal(draw(order), draw(min(order, 2)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_lower_orders_are_not_blended(order):
    frame = GaussianFrame(torch.zeros(3), torch.ones(3, dtype=torch.float64))
    rest = Remainder(frame, order, 0.0, time_warp(frame).density.weight)
    assert rest._orders(time_warp(frame), 0.1) == [(order, 1.0)]


def test_constants_of_a_warp_go_by_what_is_known():
    """The plane's for one or two directions, others for more, and others again for a standard deviation alone."""
    known = lambda size: GaussianFrame(torch.zeros(size), torch.linspace(0.1, 1, size, dtype=torch.float64))
    assert [time_warp(known(n)).density for n in (1, 2, 3)] == [PLANE] * 2 + [KNOWN]
    assert time_warp(GaussianFrame.unknown(3)).density == UNKNOWN


def test_times_of_their_own_are_refused():
    """Values are remembered at times that all samples share."""
    process = processes.EDM()
    x, t = torch.ones(2, 2, dtype=F64), torch.tensor([0.5, 0.4], dtype=F64)
    for sampler in (GaussianRemainder(), Multistep()):
        with pytest.raises(UserError, match=r"t and s must be one time for all samples with .* such as DDIM"):
            sampler.step(langevin.samplers.State(x, t), t / 2, mixture(2).denoiser(process), Noise(0, 2))


def test_images_stay_images():
    """States of a solver along directions have the shape of the event at every step, as the network takes it."""
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 8), torch.diag(torch.arange(1.0, 9))[None])
    flat = world.denoiser(processes.EDM())

    @dataclass(frozen=True, eq=False)
    class Images(Transform):
        shape = (2, 2, 2)

        def __call__(self, x_t, t):
            assert x_t.shape[1:] == (2, 2, 2)
            return Dirac(self.base(x_t.flatten(1), t).mean.reshape(x_t.shape))

    moments = GaussianFrame(torch.zeros(8, dtype=F64), torch.arange(1.0, 9, dtype=F64))
    start, sampler = 80 * Noise(0, 3).normal((2, 2, 2)), GaussianRemainder(moments)
    grid = [80.0 / 80.0, 0.1, 0.01, 0.0]
    states = list(langevin.trajectory(Images(flat), sampler, grid=grid, start=start, noise=Noise(0, 3)))
    plain = list(langevin.trajectory(flat, sampler, grid=grid, start=start.flatten(1), noise=Noise(0, 3)))
    for image, point in zip(states, plain):
        assert image.x.shape == (3, 2, 2, 2)
        torch.testing.assert_close(image.x.flatten(1), point.x)


def test_which_nodes_an_interval_is_integrated_on():
    """Two nodes beyond the interval's start once they are known, ``order`` in all; at the beginning the first ones."""
    stencils = {
        (0, 0, 1): (0, 0), (3, 9, 1): (3, 3),
        (0, 0, 2): (0, 0), (0, 5, 2): (0, 1), (3, 9, 2): (3, 4), (3, 3, 2): (2, 3),
        (0, 9, 3): (0, 2), (3, 9, 3): (3, 5), (3, 4, 3): (2, 4), (3, 3, 3): (1, 3),
        (0, 2, 4): (0, 2), (0, 9, 4): (0, 3), (1, 9, 4): (0, 3), (3, 9, 4): (2, 5),
        (3, 4, 4): (1, 4), (3, 3, 4): (0, 3),
    }  # fmt: skip
    for (interval, newest, order), nodes in stencils.items():
        assert stencil(interval, newest, order) == nodes, (interval, newest, order)


def test_the_belief_of_a_step_that_asks_nothing():
    """The Gaussian's own: m + αλ/(α²λ + σ²) (x − αm) along each direction."""
    process, frame = processes.EDM(), GaussianFrame(torch.tensor([0.3, -0.2]), torch.tensor([0.5, 0.1]))
    t = torch.tensor(process.t_max, dtype=F64)
    x = Noise(1, 3).normal((2,)) * process.sigma(t)
    sampler = GaussianRemainder(frame)
    grid = sampler.default_grid(process, 5)
    state = sampler.step(samplers.State(x, grid[0]), grid[1], mixture(2).denoiser(process), Noise(0, 3))
    gain = frame.variances / (frame.variances + process.sigma(t) ** 2)
    torch.testing.assert_close(state.belief.mean, frame.mean + gain * (x - frame.mean), rtol=1e-12, atol=1e-12)


def test_order_4_is_blended_with_order_3_where_steps_are_long():
    """Shares of orders 3 and 4 by the gap between nodes: 4 alone on fine grids, 3 alone on coarse ones."""
    frame = GaussianFrame(torch.zeros(3), torch.tensor([1.0, 0.3, 0.1]))
    warp = time_warp(frame)
    rest = Remainder(frame, 4, 0.0, warp.density.weight)
    begin, extent = warp.density.blend
    gap = lambda n: 1 / (n + warp.head + warp.tail(10))
    assert rest._orders(warp, gap(begin - 1)) == [(3, 1.0)]
    assert rest._orders(warp, gap(begin + extent + 1)) == [(4, 1.0)]
    ((three, most), (four, some)) = rest._orders(warp, gap(begin + extent / 4))
    assert (three, four) == (3, 4)
    assert (most, some) == (pytest.approx(0.75), pytest.approx(0.25))
    # Every interval takes the shares of its own gap in the time warp.
    told = []

    class Told(Remainder):
        def _orders(self, v, gap):
            told.append(gap)
            return super()._orders(v, gap)

    places = np.array([1.0, 0.8, 0.3, 0.0, -0.2])
    Told(frame, 4, 0.0, rest.weight).gains(np.exp(places), None, math.exp(-0.5))
    assert told == pytest.approx(np.abs(np.diff(warp(np.array([*places, -0.5])))).tolist(), rel=1e-12)
