"""Each weight against the closed form of its paper, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from langevin import objectives, processes
from langevin._errors import UserError
from langevin.denoisers import PREDICTIONS, AffineParameterization, Denoiser, NetworkDenoiser
from langevin.distributions import Noise
from langevin.objectives.weights import WEIGHTS

PROCESSES = [
    processes.VP(),
    processes.SubVP(),
    processes.VE(),
    processes.EDM(),
    processes.RectifiedFlow(),
    processes.Cosine(),
    processes.DDPM(),
]
IDS = [type(p).__name__ for p in PROCESSES]
T = torch.tensor([0.0313, 0.2003, 0.5171, 0.7777, 0.9501], dtype=torch.float64)


class Fixed(nn.Module):
    """A network whose output is what it was given."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = nn.Parameter(out)

    def forward(self, x: Tensor, time: Tensor, condition: object) -> Tensor:
        return self.out


def made(process: processes.ScalarGaussian, prediction: str = "x0", out: Tensor | None = None) -> NetworkDenoiser:
    out = torch.zeros(1, 3, dtype=torch.float64) if out is None else out
    return NetworkDenoiser(Fixed(out), process, AffineParameterization(prediction, sigma_data=0.7), (3,))


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_simple_is_the_error_of_the_target(process: processes.ScalarGaussian, prediction: str) -> None:
    """w·|x̂_0 − x_0|² = |net − (p x_0 + q ε)|² with the target typed in from each paper."""
    if prediction in ("eps", "score") and isinstance(process, (processes.RectifiedFlow, processes.Cosine)):
        pytest.skip("refused: alpha(1) = 0")
    noise = Noise(3, 16)
    out, x0 = noise.step(7).normal((3,)), noise.step(8).normal((3,))
    denoiser = made(process, prediction, out)
    objective = objectives.create_objective({"name": "simple", "times": {"name": "uniform", "low": 0.05, "high": 0.95}})
    loss = objective(denoiser, x0, None, noise)

    t = objective.times.quantile(process, objective.times.uniform(noise))  # type: ignore[attr-defined]
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    eps = (process.marginal(x0, t).sample(noise) - alpha * x0) / sigma
    h = 1e-6
    slope = lambda f: ((f(t + h) - f(t - h)) / (2 * h))[:, None]
    std, total = 0.7, torch.sqrt(sigma**2 + alpha**2 * 0.7**2)
    skip = std**2 * alpha / total**2  # EDM's c_skip on x_t, its target is (x_0 − c_skip x_t)/c_out
    target = {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "flow": slope(process.alpha) * x0 + slope(process.sigma) * eps,
        "score": -eps / sigma,
        "edm": (x0 - skip * (alpha * x0 + sigma * eps)) / (std * sigma / total),
    }[prediction]
    plain = (out - target).square().mean(1)
    # The finite difference of flow is good to h² ~ 1e-12, elsewhere rounding grows by σ/α and its inverse, < 1e4 here.
    close = 1e-6 if prediction == "flow" else 1e-9
    smooth = torch.ones_like(t, dtype=torch.bool)
    if prediction == "flow" and isinstance(process, processes.DDPM):  # interpolated: no slope at the knots
        smooth = (t * 1000 - (t * 1000).round()).abs() > 2e-3
    torch.testing.assert_close(loss[smooth], plain[smooth], rtol=close, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_score_weights(process: processes.ScalarGaussian) -> None:
    """With the score error (α/σ²)·(x_0 error): σ²·that² is dsm, ½g²·that² is likelihood."""
    alpha, sigma, denoiser = process.alpha(T), process.sigma(T), made(process)
    torch.testing.assert_close(WEIGHTS["dsm"](denoiser, T), sigma**2 * (alpha / sigma**2) ** 2, rtol=1e-12, atol=0)
    g2 = process.diffusion2(T)
    torch.testing.assert_close(WEIGHTS["likelihood"](denoiser, T), g2 / 2 * (alpha / sigma**2) ** 2, rtol=1e-9, atol=0)


def test_likelihood_of_vp_by_hand() -> None:
    """g² = β(t) = 0.1 + 19.9 t, typed in."""
    process = processes.VP()
    alpha, sigma = process.alpha(T), process.sigma(T)
    expected = (0.1 + 19.9 * T) / 2 * alpha**2 / sigma**4
    torch.testing.assert_close(WEIGHTS["likelihood"](made(process), T), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_edm_weight(process: processes.ScalarGaussian) -> None:
    """(s² + σ_d²)/(s σ_d)² in s = σ/α; and for EDM's own prediction it is the network's own target."""
    s = process.sigma(T) / process.alpha(T)
    own = made(process, "edm")
    torch.testing.assert_close(WEIGHTS["edm"](own, T), (s**2 + 0.7**2) / (s * 0.7) ** 2, rtol=1e-12, atol=0)
    torch.testing.assert_close(WEIGHTS["edm"](own, T), WEIGHTS["simple"](own, T), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        WEIGHTS["edm"](own, T, sigma_data=0.5), (s**2 + 0.5**2) / (s * 0.5) ** 2, rtol=1e-12, atol=0
    )


def test_min_snr() -> None:
    """min(SNR, γ)·|x_0 error|²; on ε-prediction it is min(1, γ/SNR)·|ε error|² (the paper's table)."""
    process = processes.VP()
    snr = (process.alpha(T) / process.sigma(T)) ** 2
    assert (snr > 5).any()
    assert (snr < 5).any()
    weight = WEIGHTS["min-snr"](made(process), T)
    torch.testing.assert_close(weight, torch.minimum(snr, torch.full_like(snr, 5.0)), rtol=1e-12, atol=0)
    relative = weight / WEIGHTS["simple"](made(process, "eps"), T)
    torch.testing.assert_close(relative, torch.minimum(torch.ones_like(snr), 5 / snr), rtol=1e-12, atol=0)
    assert WEIGHTS["min-snr"](made(process), T, gamma=1.0).max() <= 1


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
@pytest.mark.parametrize("name", [w for w in WEIGHTS if w != "hsm"])
def test_finite_at_the_ends(process: processes.ScalarGaussian, name: str) -> None:
    """No 0·∞: finite from t_min to 1, where rectified flow and the cosine have α = 0."""
    ends = torch.tensor([process.t_min, 1.0], dtype=torch.float64)
    weight = WEIGHTS[name](made(process), ends)
    assert torch.isfinite(weight).all()
    assert (weight >= 0).all()


def test_what_a_weight_needs_is_named() -> None:
    class Bare(Denoiser):
        process, shape = processes.VP(), (3,)

        def __call__(self, x_t, t):
            raise NotImplementedError

    with pytest.raises(UserError, match="no network; use 'x0'"):
        WEIGHTS["simple"](Bare(), T)
    with pytest.raises(UserError, match="sigma_data"):
        WEIGHTS["edm"](Bare(), T)
    Bare.process = processes.GammaNoise()
    with pytest.raises(UserError, match="weight 'dsm' needs a process"):
        WEIGHTS["dsm"](Bare(), T)
