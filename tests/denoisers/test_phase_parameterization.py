"""Networks on phase space: every row against the score by differentiation, the objective against its paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from langevin import Noise, UserError, objectives, processes, worlds
from langevin.denoisers import (
    PHASE_PREDICTIONS,
    AffineParameterization,
    NetworkDenoiser,
    PhaseParameterization,
    convert,
)
from langevin.denoisers.network import batched
from langevin.nn import MLP

F64 = torch.float64
PROCESSES = {"paper": processes.PhaseSpace(), "short": processes.PhaseSpace(3.0, 0.5)}
EACH = pytest.mark.parametrize("name", PROCESSES)
T = torch.tensor([1e-3, 0.03, 0.3, 1.0], dtype=F64)


class Says(nn.Module):
    """A network that answers with what it was given and remembers what it was asked."""

    def __init__(self, out, dtype=F64):
        super().__init__()
        self.config = {}
        self.out, self.anchor = out, nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, x, time, condition):
        self.asked = x, time
        return (self.out + self.anchor).to(x.dtype)


def denoiser(network, process, prediction="eps", shape=(2,), **settings):
    return NetworkDenoiser(network, process, PhaseParameterization(prediction, sigma_data=0.7, **settings), shape)


def random(network):
    """The network with no weight at 0."""
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) / 4)
    return network


def normal_score(process, z, t, std):
    """∇_v log of x_0 ~ N(0, std²) after noise, from the dense covariance."""
    k = process.gain(t)
    total = std**2 * k[..., :, None] * k[..., None, :] + process.cov(t)
    return -torch.einsum("bij,bjd->bid", torch.linalg.inv(total), z)[:, 1]


@EACH
@pytest.mark.parametrize("prediction", PHASE_PREDICTIONS)
def test_every_row_is_read_back(name, prediction):
    """The answer of each row, made of ∇_v log p_t by differentiation and the normal law's own, is E[x_0 | x_t, v_t].

    ε̂_v = −L_vv ∇_v log p_t, with L_vv² = Σ_vv − Σ_xv²/Σ_xx from the rounded Σ_t: 1e-14 of itself at these times, and
    x̂_0 has 1/κ_v ≤ 400 times the rounding of ε_v.
    """
    process, world = PROCESSES[name], worlds.random_mixture(2, components=3, seed=3)
    z = torch.cat([world.sample(1, i, process=process, t=t) for i, t in enumerate(T)]).requires_grad_()
    (gradient,) = torch.autograd.grad(world.log_prob(z, process, T).sum(), z)
    z, score = z.detach(), gradient[:, 1]
    sigma = process.cov(T)
    size = torch.sqrt(sigma[:, 1, 1] - sigma[:, 0, 1] ** 2 / sigma[:, 0, 0])[:, None]
    prior = normal_score(process, z, T, 0.7)
    k = process.gain(T)
    precision = torch.einsum("bi,bij,bj->b", k, torch.linalg.inv(sigma), k)
    spread = 1 / torch.sqrt(precision + 0.7**-2)
    whole = 0.7**2 * torch.einsum("bi,bij,bjd->bd", k, torch.linalg.inv(0.7**2 * k[:, :, None] * k[:, None] + sigma), z)
    exact = world.denoiser(process)(z, T).mean
    net = {
        "eps": -size * score,
        "score": score,
        "mixed": -size * (score - prior),
        "edm": (exact - whole) / spread[:, None],
    }[prediction]
    got = denoiser(Says(net), process, prediction)(z, T).mean
    torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-9)
    for i, t in enumerate(T.tolist()):  # one time for all, kept in a table of its own
        alone = denoiser(Says(net[i : i + 1]), process, prediction)
        for _ in range(2):
            torch.testing.assert_close(alone(z[i : i + 1], t).mean, got[i : i + 1], rtol=1e-12, atol=1e-12)
        assert alone.counter.calls == 2


@EACH
def test_hybrid_score_matching(name):
    """The loss is |ε̂_v − ε_v|²/D with (x_t, v_t) = K x_0 + L ε of dense linear algebra, by ``simple`` and by ``hsm``.

    So it is λ|s_v − ∇_v log q(x_t, v_t | x_0)|² with λ = L_vv², v_0 integrated out. That score is −(Σ⁻¹ r)_v.
    """
    process, noise = PROCESSES[name], Noise(3, 64)
    x0, out = noise.step(8).normal((2,)), noise.step(7).normal((2,))
    times = {"name": "uniform", "low": 1e-3}
    law = objectives.create_objective({"name": "simple", "times": times})
    t = law.times.quantile(process, law.times.uniform(noise))
    z = process.marginal(x0, t).sample(noise)
    sigma = process.cov(t)
    score = -torch.linalg.solve(sigma, z - process.gain(t)[:, :, None] * x0[:, None])[:, 1]
    variance = sigma[:, 1, 1] - sigma[:, 0, 1] ** 2 / sigma[:, 0, 0]
    predicted = -out / torch.sqrt(variance)[:, None]
    expected = variance * ((predicted - score) ** 2).mean(1)
    for weight in ("simple", "hsm"):
        loss = objectives.create_objective({"name": weight, "times": times})(
            denoiser(Says(out), process), x0, None, noise
        )
        torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-8)
    with pytest.raises(UserError, match="weight 'hsm' is that of a velocity, which VP"):
        objectives.create_objective("hsm").check(worlds.ring().denoiser(processes.VP()))


@pytest.mark.parametrize("prediction", PHASE_PREDICTIONS)
def test_hybrid_score_matching_finds_the_belief(prediction):
    """Moving the exact belief by ±h raises the loss: the slope at 0 vanishes within 4.5 standard errors."""
    process, world, noise = processes.PhaseSpace(), worlds.random_mixture(2, components=3, seed=3), Noise(5, 8000)

    class Moved(NetworkDenoiser):
        def __call__(self, x_t, t):
            belief = world.denoiser(process)(x_t, t)
            bump = 0.3 * torch.sin(2 * process.observe(x_t, t).y) * torch.exp(-process.log_snr(t)).clamp_max(1)[:, None]
            return type("Belief", (), {"mean": belief.mean + self.config["height"] * bump})()

    def loss(height):
        parameterization = PhaseParameterization(prediction, sigma_data=0.7)
        moved = Moved(Says(0.0), process, parameterization, (2,), config={"height": height})
        return objectives.create_objective("simple")(moved, world.sample(noise), None, noise)

    slope = loss(1.0) - loss(-1.0)
    assert abs(float(slope.mean())) < 4.5 * float(slope.std()) / math.sqrt(8000)
    assert float((loss(1.0) + loss(-1.0) - 2 * loss(0.0)).mean()) > 0
    off = loss(1.5) - loss(-0.5)
    assert float(off.mean()) > 4.5 * float(off.std()) / math.sqrt(8000)


def test_what_the_network_is_asked():
    """Positions then velocities along the first axis of the data, of unit variance for data of RMS σ_d; ¼ log r."""
    process, noise, n = processes.PhaseSpace(), Noise(0, 20_000), 20_000
    says = Says(torch.zeros(1, 2, 1, 2, dtype=F64).expand(n, 2, 1, 2))
    for t in (1e-3, 0.1, 1.0):
        z = process.marginal(0.7 * noise.step(1).normal((2, 1, 2)), t).sample(noise)
        denoiser(says, process, shape=(2, 1, 2))(z, t)
        assert torch.equal(says.asked[0], z.flatten(1, 2))  # unless asked or EDM's, a network sees the state itself
        denoiser(says, process, shape=(2, 1, 2), scale_input=True)(z, t)
        x, label = says.asked
        assert x.shape == (n, 4, 1, 2)
        # the variance of a normal law's mean square has a relative standard error of √(2/n), 1e-2 here
        torch.testing.assert_close(x.square().mean(0), torch.ones(4, 1, 2, dtype=F64), rtol=0, atol=0.05)
        torch.testing.assert_close(x[:, 2:] / x[:, 2:].std(), z[:, 1] / z[:, 1].std(), rtol=1e-9, atol=1e-9)
        seen = process.observe(z, t)
        torch.testing.assert_close(label[0], torch.log(seen.r) / 4, rtol=1e-6, atol=1e-6, check_dtype=False)


def test_float32():
    """x̂_0 of a float32 network and state within rounding: 2⁻²⁴ of ε_v, 1/κ_v = 370 times that at t = 1."""
    process = processes.PhaseSpace()
    network = random(MLP(4, 2, width=16, depth=1))
    for prediction in PHASE_PREDICTIONS:
        for t in (1e-3, 0.1, 1.0):
            z = process.marginal(torch.ones(8, 2, dtype=F64), t).sample(Noise(0, 8))
            double = denoiser(network.double(), process, prediction)(z, t).mean
            single = denoiser(network.float(), process, prediction)(z.float(), t).mean
            assert single.dtype == torch.float32
            # 30 roundings in the network, times the largest factor that leads from its answer to x̂_0, and those of z
            c, d = PhaseParameterization(prediction, sigma_data=0.7).mean(process, torch.tensor(t, dtype=F64))
            assert (single - double).abs().max() < 2.0**-24 * (
                30 * d.abs() + 4 * (c.abs() * z.abs().amax((0, 2))).sum()
            )


def test_a_time_a_sample_and_several_conditions():
    """B equal to the width; conditions of the network are bound, counted and asked in one call."""
    process = processes.PhaseSpace()
    network = random(MLP(4, 2, width=16, depth=1, conditions={"label": 3})).double()
    model = denoiser(network, process, "mixed")
    z, t = process.prior((2,)).sample(Noise(0, 2)), torch.tensor([0.2, 0.9], dtype=F64)
    both = model.given(label=torch.tensor([0, 2]))
    for i, label in enumerate((0, 2)):
        alone = model.given(label=label)(z[i : i + 1], t[i]).mean
        torch.testing.assert_close(both(z, t).mean[i : i + 1], alone, rtol=1e-9, atol=1e-9)
    one, other = batched([model.given(label=0), model.given(label=1)], z, t)
    torch.testing.assert_close(one.mean, model.given(label=0)(z, t).mean)
    torch.testing.assert_close(other.mean, model.given(label=1)(z, t).mean)
    assert not torch.equal(one.mean, other.mean)


@EACH
def test_any_network_serves_phase_space(name):
    """(x, v) says of x_0 what y = x_0 + rε says, so a belief of scalar noise is converted to phase space exactly."""
    process, world = PROCESSES[name], worlds.random_mixture(2, components=3, seed=3)
    z = torch.cat([world.sample(1, i, process=process, t=t) for i, t in enumerate(T)])
    exact = world.denoiser(process)(z, T)
    for source in (processes.EDM(sigma_max=300.0), processes.RectifiedFlow()):  # the paper's r ends at 248
        got = convert(world.denoiser(source), process)(z, T)
        torch.testing.assert_close(got.mean, exact.mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(got.cov.matrix, exact.cov.matrix, rtol=1e-7, atol=1e-8)


def test_refusals():
    process = processes.PhaseSpace()
    with pytest.raises(UserError, match="needs PhaseSpace, got VP"):
        denoiser(Says(0.0), processes.VP())
    with pytest.raises(UserError, match="unknown prediction 'v'"):
        PhaseParameterization("v")
    with pytest.raises(UserError, match="time 'sigma' is for processes"):
        PhaseParameterization(time="sigma")
    with pytest.raises(UserError, match="sigma_data must be > 0, got 0"):
        PhaseParameterization(sigma_data=0.0)
    with pytest.raises(UserError, match=r"network must return \(2,\) a sample, got \(4,\)"):
        denoiser(Says(torch.zeros(3, 4)), process)(torch.zeros(3, 2, 2), 0.5)
    with pytest.raises(UserError, match="unknown variance 'range'"):
        NetworkDenoiser(Says(0.0), process, PhaseParameterization(), (2,), variance="range")
    with pytest.raises(UserError, match="needs a process x_t = αx_0"):
        NetworkDenoiser(Says(0.0), process, AffineParameterization(), (2,))


@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)])
def test_faces_are_the_shape_of_what_goes_in(shape):
    """And of channels that come out as many as the data have."""
    process, parameterization = PROCESSES["short"], PhaseParameterization("eps")
    x, t = torch.zeros(2, 2, *shape, dtype=F64), torch.tensor(0.3, dtype=F64)
    inside, channels = parameterization.network_shapes(process, shape)
    assert parameterization.precondition(process, x, parameterization.inputs(process, t, t)).shape == (2, *inside)
    assert channels == shape[0]
