"""EDM's stochastic sampler: algorithm 2 written out on the same noise, its law, its refusals."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.samplers import State

F64 = torch.float64
WORLD = worlds.random_mixture(2, components=4, rms=0.7, seed=1)


def algorithm_2(denoise, sigmas, x, noise, churn, low, high, scale, heun):
    """Karras et al.'s algorithm 2, line by line, in σ."""
    steps = len(sigmas) - 1
    for i in range(steps):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= sigmas[i] <= high else 0.0
        raised = min(sigmas[i] + gamma * sigmas[i], float(sigmas[0]))
        x = x + math.sqrt(max(raised**2 - sigmas[i] ** 2, 0)) * scale * noise.step(i + 1).normal(x.shape[1:])
        d = (x - denoise(x, raised)) / raised
        y = x + (sigmas[i + 1] - raised) * d
        if sigmas[i + 1] != 0 and heun:
            e = (y - denoise(y, float(sigmas[i + 1]))) / sigmas[i + 1]
            y = x + (sigmas[i + 1] - raised) * (d + e) / 2
        x = y
    return x


@pytest.mark.parametrize("heun", [True, False])
@pytest.mark.parametrize("churn", [0.0, 3.0, 40.0])
@pytest.mark.parametrize("process", [processes.EDM(), processes.VP(), processes.RectifiedFlow()], ids=repr)
def test_algorithm_2(process, churn, heun):
    """On every process, in σ = σ_t/α_t: the same noise, the same steps.

    Times are found from σ to 1e-13, and an error at σ_max = 80 … 1000 shrinks on the way down: 1e-10 in all.
    """
    grid = samplers.grids.karras(process, 12)
    ratio = (process.sigma(grid) / process.alpha(grid)).tolist()
    start = WORLD.sample(32, 1, process=process, t=grid[0])
    denoiser, noise = WORLD.denoiser(process), Noise(4, 32)

    def denoise(y, sigma):
        t = process.time(torch.tensor(-2 * math.log(sigma), dtype=F64))
        return denoiser(process.alpha(t) * y, t).mean

    settings = (churn, 0.05, 50.0, 1.003)
    expected = algorithm_2(denoise, ratio, start / process.alpha(grid[0]), noise, *settings, heun)
    rule = (samplers.EDMHeun if heun else samplers.EDMEuler)(*settings)
    ours = langevin.sample(denoiser, rule, start=start, grid=grid, noise=noise)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)


def test_noise_put_in_is_the_processs_own():
    """From t to t̂ the state has the law q(x_t̂ | x_t): mean α̂/α x and its variance, over 40,000 draws."""
    process, n = processes.VP(), 40_000
    t = torch.tensor(0.3, dtype=F64)
    seen = []

    class Watch(samplers.Sampler):
        def step(self, state, s, denoiser, noise):
            seen.append(state)
            return state

    rule = samplers.Churn(Watch(), churn=0.3, s_noise=1.0)
    x = torch.full((n, 1), 0.7, dtype=F64)
    rule.step(State(x, t), t / 2, WORLD.denoiser(process), Noise(0, n))
    raised = seen[0].t
    assert abs(float(process.log_snr(t) - process.log_snr(raised)) - 2 * math.log(1.3)) < 1e-9
    law = process.transition(x[:1], t, raised)
    spread = float(process.sigma(raised) * torch.sqrt(-torch.expm1(process.log_snr(raised) - process.log_snr(t))))
    assert abs(float(seen[0].x.mean() - law.mean)) < 4 * spread / math.sqrt(n)
    assert abs(float(seen[0].x.var()) / spread**2 - 1) < 4 * math.sqrt(2 / n)


def test_where_it_churns():
    """Outside [low, high] and with churn = 0 times stay the grid's to the bit; γ ≤ √2 − 1; t_max is not passed."""
    process = processes.EDM()
    rule = samplers.EDMHeun(40.0, 0.05, 50.0)
    asked = lambda sigma, steps: samplers.Churn(rule.sampler, 40.0, 0.05, 50.0, 1.0, steps).raised(
        process, torch.as_tensor(sigma / 80, dtype=F64)
    )
    for sigma in (0.04, 51.0, 80.0):
        assert float(asked(sigma, 10)) == sigma / 80
    assert float(asked(1.0, 10)) * 80 == pytest.approx(math.sqrt(2), rel=1e-12)
    assert float(asked(1.0, 400)) * 80 == pytest.approx(1.1, rel=1e-12)
    assert float(samplers.EDMHeun(40.0, 0.05, 90.0).raised(process, torch.tensor(79 / 80, dtype=F64))) == 1.0
    each = asked(torch.tensor([0.04, 1.0], dtype=F64), 400) * 80
    torch.testing.assert_close(each, torch.tensor([0.04, 1.1], dtype=F64), rtol=1e-12, atol=0)
    grid = samplers.grids.karras(process, 7)
    assert rule.plan(process, grid).steps == 7
    still = samplers.EDMHeun(churn=0.0)
    x = WORLD.sample(4, 1, process=process, t=1.0)
    same = langevin.sample(WORLD.denoiser(process), still, start=x, grid=grid)
    assert same.equal(langevin.sample(WORLD.denoiser(process), samplers.RhoHeun(), start=x, grid=grid))


def test_refusals():
    """Each names the argument, what came, and what is accepted."""
    tokens = worlds.TokenTable(torch.full((3, 3), 1 / 9, dtype=F64)).denoiser(processes.Absorbing(3))
    cases = [
        (lambda: samplers.EDMHeun(churn=-1.0), "churn must be a finite number >= 0, got -1.0"),
        (lambda: samplers.EDMHeun(s_tmin=2.0, s_tmax=1.0), "s_tmin, s_tmax must satisfy"),
        (lambda: samplers.EDMEuler(s_noise=0.0), "s_noise must be"),
        (lambda: samplers.Churn(samplers.RhoHeun(), steps=0), "steps must be at least 1, got 0"),
        (lambda: langevin.sample(tokens, "edm-heun"), "churn needs"),
        (
            lambda: langevin.sample(
                WORLD.denoiser(processes.VP()), "edm-heun", start=torch.zeros(1, 2), grid=[0.1, 0.5]
            ),
            "churn must be 0 for a grid that goes up",
        ),
    ]
    for call, message in cases:
        with pytest.raises(UserError, match=message):
            call()
