"""The exact flow against densities that are known."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_dequantise import gridded
from torch import nn

import langevin
from langevin import Noise, likelihood, processes, worlds
from langevin.denoisers import gaussian_frame
from langevin.likelihood.flow import Flow, Nodes, time_warps
from langevin.likelihood.probes import Probes
from langevin.numerics.frame import GaussianFrame
from langevin.samplers import estimate_moments
from support import oracle, thinned

MIXTURES = [worlds.random_mixture(64, components=8, rank=16, rms=0.5, seed=seed) for seed in range(4)]
EDM = processes.EDM()


def errors(world, n, process=EDM, seed=1000, **settings):
    x = world.sample(n, seed)
    found = likelihood.exact(world.denoiser(process), x, **settings)
    return found.log_prob - world.log_prob(x), found


@pytest.mark.parametrize("process", [EDM, processes.VP(), processes.RectifiedFlow(), processes.DDPM()], ids=repr)
@pytest.mark.parametrize("dim", [2, 16])
def test_exact_on_mixtures(dim, process):
    """Within 1e-3 nats a point at the default 100 evaluations, on any process: all have the one flow in (y, σ)."""
    world = worlds.ring() if dim == 2 else worlds.random_mixture(16, components=8, rank=4, seed=0)
    error, found = errors(world, 32, process)
    assert error.abs().max() < 1e-3
    assert found.evaluations == 99
    assert found.divergences == 49
    assert not found.stderr.any()


@pytest.mark.parametrize("world", thinned(MIXTURES, 4), ids=str)
def test_80_forwards_and_40_divergences(world):
    """The promise is 0.0105 nats a point; seen 0.0010 to 0.0024 over 256 points (max of single points 0.5)."""
    error, found = errors(world, 12, evaluations=80, divergence="exact")
    assert found.evaluations <= 80
    assert found.divergences <= 40
    assert error.abs().mean() < 0.0105


@pytest.mark.slow
@pytest.mark.parametrize("world", MIXTURES, ids=str)
def test_promises_on_256_points(world):
    for evaluations, stride, bound in ((60, 1, 0.0105), (80, 2, 0.0105), (100, 2, 0.0017)):
        error, found = errors(world, 256, evaluations=evaluations, stride=stride, divergence="exact")
        assert found.evaluations <= evaluations
        assert found.divergences <= evaluations / stride
        assert error.abs().mean() < bound


@pytest.mark.parametrize("world", MIXTURES, ids=str)
def test_one_probe_an_evaluation(world):
    """At most 1.3 nats with 60 evaluations (independent probes: 2.0), unbiased, and no larger than it says.

    The mean of 256 errors of at most e has a standard error of e/16. Errors over the standard errors told have a mean
    square of 1 at most (χ² of 256: 4 standard deviations are 0.35).
    """
    error, found = errors(world, 256, divergence="hutchinson", evaluations=60)
    assert found.evaluations == found.divergences == 60
    assert error.abs().mean() < 1.3
    assert abs(float(error.mean())) < 4 * float(error.std()) / 16
    assert (error / found.stderr).square().mean() < 1.35


@pytest.mark.parametrize(("dim", "probes", "stride"), [(64, 1, 1), (64, 4, 1), (20, 1, 1), (20, 1, 2)])
def test_the_error_of_orthogonal_probes_is_told(dim, probes, stride):
    """Over points and seeds, the RMS error told is 0.8 to 1.7 times the true one.

    The true one is known to 4/√(2·128) = 0.25 of itself. The estimate is a sum of squares fitted to noisy products and
    takes a part of their noise for variance, up to the variance itself: √2, and 0.25 more. The standard error of
    independent probes is 2.1, 5 and 2.5 times the true one here.
    """
    world = worlds.random_mixture(dim, components=8, rank=dim // 4, rms=0.5, seed=0)
    settings = {"evaluations": 60 * stride, "probes": probes, "stride": stride}
    error, found = errors(world, 128, divergence="hutchinson", **settings)
    true, told = (float(v.square().mean().sqrt()) for v in (error, found.stderr))
    assert 0.8 < told / true < 1.7, (told, true)


@pytest.mark.parametrize("probes", [1, 2])
def test_normal_probes_are_unbiased_within_their_standard_error(probes):
    """The error over its standard error has variance 1 (independent probes), within 4·√(2/512) and the estimate's own
    40 degrees of freedom (1/20 of the variance; 1/10 from the second differences of one probe, which share terms)."""
    error, found = errors(MIXTURES[0], 512, divergence="hutchinson", probe="gaussian", probes=probes, evaluations=40)
    z = error / found.stderr
    assert abs(float(z.mean())) < 4 / math.sqrt(512)
    assert 0.7 < float(z.square().mean()) < 1.4


@pytest.mark.parametrize("method", ["rk45", "dop853", "dopri5"])
def test_tolerances(method):
    """A solver's error falls with its tolerance, and every sample takes its own steps."""
    world = worlds.ring()
    count = 1 if method == "dopri5" else 8
    loose, _ = errors(world, count, method=method, rtol=1e-3, atol=1e-3)
    tight, found = errors(world, count, method=method, rtol=1e-6, atol=1e-6)
    assert tight.abs().max() < 1e-4
    assert tight.abs().max() < loose.abs().max() / 10
    assert found.divergences == found.evaluations


@pytest.mark.parametrize(
    "settings", [{}, {"divergence": "hutchinson", "probe": "gaussian"}, {"method": "rk45"}], ids=str
)
def test_no_sample_depends_on_the_batch(settings):
    """Bit-equal states would need bit-equal matrix products; over 99 steps rounding stays below 1e-10."""
    world = worlds.ring()
    x = world.sample(3, 1)
    labels = torch.tensor([0, 1, 2])
    denoiser = world.denoiser(EDM).given(label=labels)
    whole = likelihood.exact(denoiser, x, **settings)
    parts = likelihood.exact(denoiser, x, batch=2, **settings)
    assert torch.allclose(whole.log_prob, parts.log_prob, rtol=0, atol=1e-9)
    assert torch.allclose(whole.stderr, parts.stderr, rtol=0, atol=1e-9, equal_nan=True)


class Counted(nn.Module):
    """A network that counts its passes forward and back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, {}
        self.forwards = self.backwards = 0

    def forward(self, x, time, condition=None):
        self.forwards += 1
        out = self.inner(x, time, condition)
        if out.requires_grad:
            out.register_hook(self._back)
        return out

    def _back(self, grad):
        self.backwards += 1


def test_one_forward_and_one_product_an_evaluation():
    world = worlds.ring()
    model = oracle(world, EDM, "edm")
    network = Counted(model.network)
    model = replace(model, network=network, data=world)
    found = likelihood.exact(model, world.sample(4, 0), divergence="hutchinson", evaluations=20)
    assert (network.forwards, network.backwards) == (20, 20)
    assert found.evaluations == model.counter.calls == 20
    network.forwards = network.backwards = 0
    found = likelihood.exact(model, world.sample(4, 0), evaluations=40)
    assert (network.forwards, network.backwards) == (39, 2 * 19)  # D products each, and no second pass forward
    assert (found.evaluations, found.divergences) == (39, 19)


def test_without_moments():
    """A spread alone, what estimation finds, or nothing but what one evaluation at pure noise tells: one density."""
    world = worlds.random_mixture(16, components=8, rank=4, seed=0)
    x, denoiser = world.sample(8, 0), world.denoiser(EDM)
    guesses = {
        "variances": GaussianFrame.from_covariance(world.mean, world.cov.diagonal()),
        "estimated": estimate_moments(denoiser, n=128),
    }
    for name, moments in guesses.items():
        error = likelihood.exact(denoiser, x, frame=moments).log_prob - world.log_prob(x)
        assert error.abs().max() < 1e-3, name
    # A network is not asked below σ = 0.002: Δ goes on like σ², wrong by (σ/s)⁴/4 in the 12 directions of s = 0.0136.
    model = oracle(world, EDM, "edm")
    assert gaussian_frame(model) is None
    assert (likelihood.exact(model, x).log_prob - world.log_prob(x)).abs().max() < 1e-3 + 12 / 4 * (0.002 / 0.0136) ** 4


def test_labels_of_samples_without_a_description_of_the_data():
    """What is assumed of unknown data is asked of one sample, which has one of the labels."""
    world = worlds.ring()
    asked = lambda x, sigma, label: world.denoiser(EDM)(x.double(), EDM.time(-2 * sigma.double().log())).mean.to(x)
    model = langevin.denoiser(asked, process=EDM, prediction="x0", shape=(2,), classes=2)
    x, label = world.sample(3, 0), torch.tensor([0, 1, 0])
    plain = likelihood.exact(model.given(label=1), x, evaluations=40)
    torch.testing.assert_close(likelihood.exact(model.given(label=label), x, evaluations=40).nats, plain.nats)


def test_a_network_is_not_asked_outside_its_range():
    """Below t_min Δ goes on like σ²: an error of (σ(t_min)/s)⁴ of the D/2 nats there, s = 0.1 the finest scale.

    EDM's t_min is at σ = 0.002, so that is 2e-7 · D; what is seen is the integrator's."""
    world = worlds.ring()
    asked = []

    class Watched(langevin.denoisers.Transform):
        def __call__(self, x_t, t):
            asked.append(float(t))
            return self.base(x_t, t)

    x = world.sample(16, 0)
    found = likelihood.exact(Watched(world.denoiser(EDM)), x, frame=gaussian_frame(world.denoiser(EDM)))
    assert min(asked) >= EDM.t_min * (1 - 1e-9)
    assert max(asked) <= EDM.t_max
    assert (found.log_prob - world.log_prob(x)).abs().max() < 1e-3


@pytest.mark.parametrize("stochastic", [False, True])
def test_clock(stochastic):
    clock, _ = time_warps(gaussian_frame(MIXTURES[0].denoiser(EDM)), stochastic)
    u = np.linspace(-12, 8, 4001)
    assert np.allclose(clock.inverse(clock(u)), u, atol=1e-6)
    assert np.allclose(np.gradient(clock(u), u)[1:-1], clock.slope(u)[1:-1], rtol=1e-3)
    assert np.isclose(clock(np.array([60.0]))[0], clock.whole)


@pytest.mark.parametrize("begin", [-math.inf, -5.0, 0.3])
def test_nodes_run_from_the_beginning_to_the_end(begin):
    """u rises with s from the beginning on, du/ds is its slope, and steps of v add up to all that is left of it."""
    clock, stiff = time_warps(gaussian_frame(MIXTURES[0].denoiser(EDM)), False)
    nodes = np.linspace(0, 1, 4001)[1:-1]
    grid = Nodes.make(clock, stiff, begin, nodes)
    assert (np.diff(grid.u) > 0).all()
    assert grid.u[0] > begin
    middle = slice(100, -100)
    np.testing.assert_allclose(np.gradient(grid.u, nodes)[middle], grid.rate[middle], rtol=1e-2)
    left = clock.whole - (0.0 if math.isinf(begin) else float(clock(np.array([begin]))[0]))
    np.testing.assert_allclose((grid.rate * clock.slope(grid.u)).sum() / 4000, left, rtol=1e-3)


def test_divergence_is_the_trace():
    """Of f in z, by finite differences; a probe's mean square share is the same trace."""
    world = MIXTURES[0]
    flow = Flow(world.denoiser(EDM), gaussian_frame(world.denoiser(EDM)))
    z, u = Noise(0, 2).normal((64,)), torch.tensor(-1.5, dtype=torch.float64)
    _, div = flow.both(z, u, None)
    h = 1e-5 * torch.eye(64, dtype=torch.float64)
    slope = torch.stack([(flow(z + h[i], u) - flow(z - h[i], u))[:, i] for i in range(64)]).sum(0) / 2e-5
    assert torch.allclose(div, slope, rtol=1e-6)
    probes = Probes(Noise(1, 2), 64, "rademacher")
    _, each = flow.both(z, u, [probes(j) for j in range(64)])
    assert torch.allclose(each.mean(0), div, rtol=1e-10)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "euler"}, "unknown method 'euler'"),
        ({"evaluations": 3}, "evaluations must be an integer of at least 8, got 3"),
        ({"stride": 0}, "stride must be an integer of at least 1"),
        ({"stride": 50}, "stride must be at most a quarter of the 100"),
        ({"probes": 0}, "probes must be an integer of at least 1, got 0"),
        ({"probe": "sobol"}, "probe must be one of rademacher, gaussian"),
        ({"divergence": "skilling"}, "divergence must be 'exact' or 'hutchinson'"),
        ({"rtol": 0.0}, "rtol must be a finite number > 0, got 0"),
        ({"atol": -1e-5}, "atol must be a finite number > 0"),
        ({"atol": math.nan}, "atol must be a finite number > 0"),
        ({"dequantise": "gauss"}, "unknown dequantisation 'gauss'"),
        ({"dequantise": "uniform"}, "dequantise is for data with levels"),
        ({"draws": 2}, "draws are of the dequantisation"),
        ({"frame": GaussianFrame.unknown(3)}, "frame must be of"),
    ],
)
def test_refusals(settings, said):
    world = worlds.ring()
    with pytest.raises(langevin.UserError, match=said):
        likelihood.exact(world.denoiser(EDM), world.sample(2, 0), **settings)


def test_bad_data_and_processes():
    model, points, _ = gridded()
    for x, said in (
        (points[:, :1], r"x must be a tensor of shape \(N, 2\)"),
        (points / 0, "x must be finite"),
        (points * 2, r"x must lie in \[-1, 1\], the range of the data"),
    ):
        with pytest.raises(langevin.UserError, match=said):
            likelihood.exact(model, x)
    with pytest.raises(langevin.UserError, match="x must stand on the 9 levels"):
        likelihood.exact(model, points * 0.9, dequantise="normal")
    phase = worlds.ring().denoiser(processes.create_process({"name": "phase-space"}))
    with pytest.raises(langevin.UserError, match=r"likelihood\.bound"):
        likelihood.exact(phase, torch.zeros(2, 2))


class Runaway(langevin.denoisers.Transform):
    """A denoiser whose answers on one side are not numbers."""

    def __call__(self, x_t, t):
        belief = self.base(x_t, t)
        return langevin.distributions.Dirac(belief.mean * torch.where(x_t[:, :1] > 0, torch.inf, 1.0))


def test_a_flow_that_runs_away_is_said_by_count():
    world = worlds.ring()
    x = torch.tensor([[0.5, 0.5], [-0.5, 0.5]], dtype=torch.float64)
    with pytest.raises(langevin.UserError, match="of 2 likelihoods are not finite"):
        likelihood.exact(Runaway(world.denoiser(EDM)), x, evaluations=9, divergence="exact")


def test_what_is_told_of_a_run():
    """The protocol says how the divergence was taken; progress counts samples times nodes up to all of them."""
    world, seen = worlds.ring(), []
    x = world.sample(5, 1)
    ask = lambda **settings: likelihood.exact(world.denoiser(EDM), x, batch=2, **settings).protocol["divergence"]
    assert ask(evaluations=9, divergence="exact", progress=lambda *at: seen.append(at)) == "exact divergence"
    assert ask(evaluations=9, divergence="hutchinson", probes=2) == "2 rademacher probes an evaluation"
    loose = {"method": "rk45", "rtol": 0.1, "atol": 0.1}
    assert ask(divergence="hutchinson", **loose) == "1 rademacher probe, fixed along the path"
    total = seen[0][1]
    assert total % 5 == 0
    assert {whole for _, whole in seen} == {total}
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert done[-1] == total


def test_the_error_told_of_one_probe_on_white_noise():
    """Second differences of white noise have 6 times its variance, so that the error of the sum is √n; of n = 20,000
    values it is known to √(35/36n)/… < 1 %: five times that."""
    from langevin.likelihood.flow import _error

    n = 20_000
    told = float(_error(langevin.Noise(5, n).normal(())[:, None, None])[0])
    assert told == pytest.approx(math.sqrt(n), rel=0.05)


@pytest.mark.parametrize("probes", [1, 4])
def test_probes_of_an_adaptive_method_are_averaged(monkeypatch, probes):
    """change = mean over probes of their integrals, and its standard error their standard deviation over √K."""
    world, each = worlds.ring(), torch.tensor([[1.0, 2.0], [3.0, 2.5], [0.5, 2.0], [2.0, 9.0]], dtype=torch.float64)
    x = world.sample(2, 1)
    monkeypatch.setattr(sys.modules["langevin.likelihood.exact"], "solve", lambda flow, z, *rest: (z, each[:probes]))
    ask = lambda: likelihood.exact(world.denoiser(EDM), x, method="rk45", divergence="hutchinson", probes=probes)
    found = ask()
    each_now = each[:probes].mean(0)
    expected = each[:probes].std(0) / math.sqrt(probes) if probes > 1 else torch.full((2,), math.nan).double()
    torch.testing.assert_close(found.stderr, expected, rtol=1e-12, atol=0, equal_nan=True)
    monkeypatch.setattr(
        sys.modules["langevin.likelihood.exact"], "solve", lambda flow, z, *rest: (z, 0 * each[:probes])
    )
    torch.testing.assert_close(found.log_prob - ask().log_prob, each_now, rtol=1e-12, atol=1e-12)


def test_an_exact_divergence_of_an_adaptive_method_has_no_error():
    world = worlds.ring()
    found = likelihood.exact(world.denoiser(EDM), world.sample(2, 1), method="rk45", divergence="exact", rtol=0.1)
    assert found.stderr.tolist() == [0, 0]


def test_every_evaluation_is_counted():
    """As many as the denoiser itself was asked for, a sample."""
    world, asked = worlds.ring(), []

    class Counted(langevin.denoisers.Transform):
        def __call__(self, x_t, t):
            asked.append(len(x_t))
            return self.base(x_t, t)

    for settings in ({"evaluations": 20}, {"method": "rk45", "rtol": 0.1}):
        asked.clear()
        watched, frame = Counted(world.denoiser(EDM)), gaussian_frame(world.denoiser(EDM))
        found = likelihood.exact(watched, world.sample(3, 1), frame=frame, divergence="exact", **settings)
        assert found.evaluations == pytest.approx(sum(asked) / 3, rel=1e-12)
        assert found.protocol["evaluations"] == found.evaluations


def test_two_probes_of_an_adaptive_method_have_an_error():
    """Of K probes fixed along the path, their spread over √K."""
    world = worlds.random_mixture(3, components=2, rms=0.7, seed=3)
    x = world.sample(4, 2)
    found = likelihood.exact(world.denoiser(EDM), x, method="rk45", divergence="hutchinson", probes=2)
    assert found.stderr.isfinite().all()
    assert (found.stderr > 0).all()
