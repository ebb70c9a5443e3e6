"""One affine formula reads every network: against the papers' own formulas, on every process."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from langevin import UserError, processes
from langevin.denoisers import PREDICTIONS, TIME_INPUTS, AffineParameterization, time_range
from support import AFFINE as PROCESSES

BLIND = {("flow", "eps"), ("flow", "score"), ("cosine", "eps"), ("cosine", "score")}
"""Pairs in which the output at t = 1 is x_t itself and says nothing about the data."""
PAIRS = [(name, row) for name in PROCESSES for row in PREDICTIONS if (name, row) not in BLIND]
EACH = pytest.mark.parametrize(("name", "prediction"), PAIRS)
T = torch.tensor([1e-4, 0.013, 0.2, 0.5, 0.77, 0.987, 1.0], dtype=torch.float64)
ULP = 2.0**-52


def level(name, t=T):
    return PROCESSES[name].alpha(t), PROCESSES[name].sigma(t)


@EACH
def test_reads_back_what_the_network_was_asked_for(name, prediction):
    """c·x_t + d·(p x_0 + q ε) = x_0, to the rounding of its two terms."""
    process, parameterization = PROCESSES[name], AffineParameterization(prediction, sigma_data=0.6)
    alpha, sigma = level(name)
    x0, eps = 0.37, -1.4
    p, q = parameterization.coefficients(process, T)
    c, d = parameterization.mean(process, T)
    state, net = alpha * x0 + sigma * eps, p * x0 + q * eps
    size = (c * state).abs() + (d * net).abs() + 1
    # c and d divide by αq − σp, whose two terms may cancel too
    cancel = ((alpha * q).abs() + (sigma * p).abs()) / (alpha * q - sigma * p).abs()
    assert ((c * state + d * net - x0).abs() <= 8 * ULP * size * cancel).all()


@EACH
def test_finite_at_both_ends(name, prediction):
    """At t = 0 the state is the datum whatever a network says (σ' of a root is infinite there); at t = 1 it is read."""
    process, parameterization = PROCESSES[name], AffineParameterization(prediction)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    c, d = parameterization.mean(process, ends)
    assert (float(c[0]), float(d[0])) == (1.0, 0.0)
    assert c.isfinite().all()
    assert d.isfinite().all()
    assert abs(float(d[1])) > 0
    scale = parameterization.input_scale(process, ends)
    assert scale.isfinite().all()


@EACH
def test_weight_is_that_of_the_networks_own_error(name, prediction):
    """|net error|² = w |x_0 error|², with x_0 error = d · net error."""
    process, parameterization = PROCESSES[name], AffineParameterization(prediction, sigma_data=0.6)
    _, d = parameterization.mean(process, T)
    torch.testing.assert_close(parameterization.weight(process, T) * d**2, torch.ones_like(T), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_published_weights(name):
    """On |x_0 error|²: ε (α/σ)², v (σ + α²/σ)², flow (α' − σ'α/σ)², score with λ = σ² (α/σ)², x_0 1, EDM 1/c_out²."""
    process = PROCESSES[name]
    alpha, sigma = level(name)
    rate = lambda f: process.rate(f, T)
    known = {
        "eps": (alpha / sigma) ** 2,
        "x0": torch.ones_like(T),
        "v": (sigma + alpha**2 / sigma) ** 2,
        "flow": (rate(process.alpha) - rate(process.sigma) * alpha / sigma) ** 2,
        "score": (alpha / sigma) ** 2 / sigma**2,
        # λ c_out² = 1 with c_out = σσ_d/S at α = 1; α² is the change of variables x_t/α
        "edm": (sigma**2 + alpha**2 * 0.36) / (0.36 * sigma**2),
    }
    assert known.keys() == PREDICTIONS.keys()
    for prediction, weight in known.items():
        got = AffineParameterization(prediction, sigma_data=0.6).weight(process, T)
        torch.testing.assert_close(got, weight, rtol=1e-9, atol=0)


def test_edm_is_table_1():
    """c_skip, c_out, c_in and c_noise of arXiv:2206.00364 at σ = 80 t; unit variance in and out at every process."""
    process, parameterization = processes.EDM(), AffineParameterization("edm", sigma_data=0.5)
    sigma = 80 * T
    total = torch.sqrt(sigma**2 + 0.25)
    c, d = parameterization.mean(process, T)
    torch.testing.assert_close(c, 0.25 / total**2, rtol=1e-12, atol=0)
    torch.testing.assert_close(d, sigma * 0.5 / total, rtol=1e-12, atol=0)
    torch.testing.assert_close(parameterization.input_scale(process, T), 1 / total, rtol=1e-12, atol=0)
    torch.testing.assert_close(TIME_INPUTS["log_sigma"](process, T), torch.log(sigma) / 4, rtol=1e-12, atol=1e-15)
    for name, other in PROCESSES.items():
        alpha, noise = level(name)
        p, q = AffineParameterization("edm", sigma_data=0.7).coefficients(other, T)
        torch.testing.assert_close(p**2 * 0.49 + q**2, torch.ones_like(T), rtol=1e-12, atol=0)
        scale = AffineParameterization("edm", sigma_data=0.7).input_scale(other, T)
        torch.testing.assert_close((alpha**2 * 0.49 + noise**2) * scale**2, torch.ones_like(T), rtol=1e-12, atol=0)


def test_published_readings():
    """ε: (x − σε)/α; v: αx − σv at α² + σ² = 1; flow: x − t v; score: (x + σ² s)/α."""
    alpha, sigma = level("vp")
    known = {"eps": (1 / alpha, -sigma / alpha), "v": (alpha, -sigma), "score": (1 / alpha, sigma**2 / alpha)}
    for prediction, (c, d) in known.items():
        got = AffineParameterization(prediction).mean(processes.VP(), T)
        torch.testing.assert_close(got[0], c, rtol=1e-12, atol=0)
        torch.testing.assert_close(got[1], d, rtol=1e-12, atol=0)
    c, d = AffineParameterization("flow").mean(processes.RectifiedFlow(), T)
    torch.testing.assert_close(c, torch.ones_like(T), rtol=1e-12, atol=0)
    torch.testing.assert_close(d, -T, rtol=1e-12, atol=0)


def test_time_inputs():
    """The index n − 1 of a table's knot n, 1000 t, and ¼ log σ/α within ±4."""
    ddpm = processes.DDPM()
    knots = torch.arange(0, 1001, dtype=torch.float64) / 1000
    index = TIME_INPUTS["index"](ddpm, knots)
    torch.testing.assert_close(index, (torch.arange(0.0, 1001.0).double() - 1).clamp_min(0), rtol=0, atol=1e-9)
    assert torch.equal(TIME_INPUTS["time"](ddpm, T), 1000 * T)
    five = PROCESSES["ddpm-own"]
    assert TIME_INPUTS["index"](five, torch.tensor([0.2, 1.0], dtype=torch.float64)).tolist() == [0.0, 4.0]
    alpha, sigma = level("vp")
    got = TIME_INPUTS["log_sigma"](processes.VP(), T)
    torch.testing.assert_close(got, torch.log(sigma / alpha) / 4, rtol=1e-12, atol=1e-15)
    ends = TIME_INPUTS["log_sigma"](processes.RectifiedFlow(), torch.tensor([0.0, 1.0]).double())
    assert ends.tolist() == [-4.0, 4.0]


@pytest.mark.parametrize("process", [processes.VP(), processes.EDM()], ids=str)
@pytest.mark.parametrize("time", ["t", "time", "index", "nearest-index", "sigma", "log_snr"])
def test_ranges_hold_the_labels_and_no_more(time, process):
    """The least and the largest label over all times, which a network's features are laid over."""
    assert not TIME_INPUTS["none"](process, torch.linspace(0, 1, 3)).any()
    low, high = time_range(time, process)
    labels = TIME_INPUTS[time](process, torch.linspace(0, 1, 1001, dtype=torch.float64))
    seen = labels[labels.isfinite()]
    size = max(abs(high), abs(low)) if math.isfinite(high - low) else math.inf
    assert low <= float(seen.min()) + 1e-9
    assert high >= float(seen.max()) - 1e-9
    if math.isfinite(size):
        assert float(seen.max() - seen.min()) > 0.95 * (high - low)


def test_unscaled_input():
    assert torch.equal(AffineParameterization(scale_input=False).input_scale(processes.VE(), T), torch.ones_like(T))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_only_edms_networks_are_scaled_unless_asked(prediction):
    """A standard network sees x_t itself: scaled, a DDPM network gives other samples without a word."""
    process, scaled = processes.DDPM(), prediction == "edm"
    assert AffineParameterization(prediction).scale_input is scaled
    assert AffineParameterization(prediction, time="index") == AffineParameterization(
        prediction, time="index", scale_input=scaled
    )
    ones = torch.equal(AffineParameterization(prediction).input_scale(process, T), torch.ones_like(T))
    assert ones is not scaled
    assert replace(AffineParameterization(prediction, scale_input=True), time="t").scale_input is True


def test_labels_of_other_conventions():
    """t, σ(t), log-SNR and whole numbers of a table; finite at both ends, where a network may be asked too."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for process in PROCESSES.values():
        for name, label in TIME_INPUTS.items():
            assert label(process, ends).isfinite().all(), (name, process)
        torch.testing.assert_close(TIME_INPUTS["t"](process, T), T, rtol=0, atol=0)
        inner = T.clamp(process.t_min, process.t_max)
        torch.testing.assert_close(TIME_INPUTS["sigma"](process, inner), process.sigma(inner), rtol=1e-12, atol=0)
        torch.testing.assert_close(TIME_INPUTS["log_snr"](process, T), process.log_snr(inner), rtol=1e-12, atol=1e-12)
    ddpm, between = processes.DDPM(), torch.tensor([0.0, 0.0016, 0.4324, 1.0], dtype=torch.float64)
    assert TIME_INPUTS["nearest-index"](ddpm, between).tolist() == [0.0, 1.0, 431.0, 999.0]
    # A network that cuts what is behind the point must get its own knot: 0.432·1000 − 1 may be 430.99…
    knots = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert TIME_INPUTS["index"](ddpm, knots).long().tolist() == list(range(1000))
    for name in ("sigma", "log_snr"):
        low, high = time_range(name, processes.EDM())
        assert low < high
    assert (time_range("t", ddpm), time_range("nearest-index", ddpm)) == ([0.0, 1.0], [0.0, 999.0])
    assert time_range("log_sigma", ddpm) is None


@pytest.mark.parametrize(("name", "prediction"), sorted(BLIND))
def test_refuses_a_blind_pair(name, prediction):
    with pytest.raises(UserError, match=f"prediction '{prediction}' cannot be read at t = 1 of .* use v, flow, x0"):
        AffineParameterization(prediction).check(PROCESSES[name])


@EACH
def test_accepts_the_others(name, prediction):
    AffineParameterization(prediction).check(PROCESSES[name])


REFUSED = [
    (lambda: AffineParameterization("epsilon"), "unknown prediction 'epsilon'. Did you mean 'eps'"),
    (lambda: AffineParameterization(time="indx"), "unknown time input 'indx'. Did you mean 'index'"),
    (lambda: AffineParameterization(sigma_data=0.0), "sigma_data must be > 0, got 0.0"),
    (lambda: AffineParameterization(sigma_data=math.nan), "sigma_data must be > 0, got nan"),
    (lambda: AffineParameterization(sigma_data=math.inf), "sigma_data must be > 0"),
    (lambda: AffineParameterization(sigma_data=1e308), r"sigma_data must be > 0, got 1e\+308 \(1e-100 to 1e100\)"),
    (
        lambda: AffineParameterization("x0").check(processes.PhaseSpace()),
        "prediction 'x0' needs a process .* got PhaseSpace",
    ),
    (lambda: TIME_INPUTS["sigma"](processes.Absorbing(3), T), "time 'sigma' needs a process .* got Absorbing"),
    (lambda: TIME_INPUTS["log_snr"](processes.Absorbing(3), T), "time 'log_snr' needs a process .* got Absorbing"),
    (
        lambda: AffineParameterization("x0").check(processes.Absorbing(3)),
        "prediction 'x0' needs a process .* got Absorbing",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call()
