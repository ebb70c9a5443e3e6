"""The weights of the exponential multistep methods, and their variables, against quadrature."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from tests.support import thinned

from langevin import processes
from langevin.numerics.quadrature import lagrange
from langevin.samplers import Multistep
from langevin.samplers.linear.predictions import PREDICTIONS, VARIABLES

PROCESSES = [processes.VP(), processes.SubVP(), processes.EDM(), processes.RectifiedFlow(), processes.DDPM()]
TIMES = (0.5, 0.62, 0.71, 0.83)


def names(value):
    return type(value).__name__ if isinstance(value, processes.Process) else None


def place(process, variable, t):
    """The variable at t, by its definition."""
    at = torch.tensor(t, dtype=torch.float64)
    alpha, sigma = float(process.alpha(at)), float(process.sigma(at))
    return {
        "log-snr": lambda: 2 * math.log(alpha / sigma),
        "ratio": lambda: sigma / alpha,
        "angle": lambda: math.atan2(sigma, alpha),
        "sigma": lambda: sigma,
        "time": lambda: t,
    }[variable]()


@pytest.mark.parametrize("process", PROCESSES, ids=names)
@pytest.mark.parametrize("variable", VARIABLES)
def test_variables(process, variable):
    """Each is what its name says at the times of a process: to 1e-9, since u gives t back to 1e-16·|dt/du|·|u| at best
    and a table's inverse is a search."""
    times = torch.tensor([*TIMES, 0.2, 0.05], dtype=torch.float64)
    u = (torch.log(process.sigma(times)) - torch.log(process.alpha(times))).numpy()
    expected = [place(process, variable, t) for t in times.tolist()]
    np.testing.assert_allclose(VARIABLES[variable](process, u), expected, rtol=1e-9)


@pytest.mark.parametrize("process", thinned(PROCESSES, 2), ids=names)
@pytest.mark.parametrize(("prediction", "variable"), list(itertools.product(PREDICTIONS, VARIABLES)))
def test_weights_are_exact_integrals(process, prediction, variable):
    """Against adaptive quadrature of the definition over a long step, at order 4."""
    check_weights(process, Multistep(prediction, variable, 4), TIMES, 0.3)


@pytest.mark.parametrize("process", [processes.VP(), processes.RectifiedFlow()], ids=names)
@pytest.mark.parametrize("prediction", ["eps", "v", "flow"])
@pytest.mark.parametrize("variable", ["ratio", "angle", "sigma"])
def test_weights_of_the_last_step_are_exact_integrals(process, prediction, variable):
    """The same to clean data, where log σ/α has no end and the quadrature is over the angle."""
    check_weights(process, Multistep(prediction, variable, 3), TIMES[:3], 0.0)


@pytest.mark.parametrize(("prediction", "variable"), list(itertools.product(["x0", "v", "flow"], ["angle", "sigma"])))
def test_weights_of_a_step_from_noise_alone_are_exact_integrals(prediction, variable):
    """The same from α = 0: the corrector's step back to t = 1, whose value is one of the nodes."""
    sampler = Multistep(prediction, variable, 1, corrector=1)
    check_weights(processes.RectifiedFlow(), sampler, (0.8, 1.0), 0.8, start=1.0)


def check_weights(process, sampler, times, s, start=None):
    """n_s ∫ l_j dm of the nodes at ``times``, from times[0] (or, of a correction, from ``start``) to s.

    The reference differentiates nothing: it takes m and the variable as functions of σ/α and integrates over m, by
    Gauss–Kronrod to 1e-11; both are float64, so 1e-8 of the largest weight is generous.
    """
    prediction, variable = sampler.prediction, sampler.variable
    at = lambda t: torch.tensor(t, dtype=torch.float64)
    rho = lambda t: float(process.sigma(at(t)) / process.alpha(at(t)))
    measure = {
        "x0": lambda r: 1 / r,
        "eps": lambda r: r,
        "v": math.atan,
        "flow": lambda r: r / (1 + r) if r < math.inf else 1.0,
    }[prediction]
    back = {
        "x0": lambda m: 1 / m,
        "eps": lambda m: m,
        "v": math.tan,
        "flow": lambda m: m / (1 - m),
    }[prediction]
    e, g = float(process.alpha(at(s))), float(process.sigma(at(s)))
    norm = {"x0": g, "eps": e, "v": math.hypot(e, g), "flow": e + g}[prediction]
    # σ of a ratio r by its time; the ratio itself is log-SNR's −½ logarithm
    time = lambda r: float(process.time(at(-2 * math.log(r))))
    read = {
        "log-snr": lambda r: -2 * math.log(r),
        "ratio": lambda r: r,
        "angle": math.atan,
        "sigma": lambda r: float(process.sigma(at(time(r)))),
        "time": time,
    }[variable]
    nodes = np.array([place(process, variable, t) for t in times])
    row = sampler.coefficients(process, times, s if start is None else 0.5 * s)
    ours = (row if start is None else row.correct).weights
    begin = times[0] if start is None else start
    assert len(ours) == len(times)
    for j, weight in enumerate(ours):
        basis = lambda m, j=j: lagrange(nodes, np.array([read(back(m))]))[j, 0]
        exact, _ = scipy.integrate.quad(
            basis, measure(rho(begin)), measure(rho(s)), epsabs=1e-12, epsrel=1e-11, limit=400
        )
        assert weight == pytest.approx(norm * exact, abs=1e-8 * max(abs(w) for w in ours))


@pytest.mark.parametrize("process", PROCESSES[:4], ids=names)
@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("eta", [0.3, 0.7, 1.0])
def test_a_share_of_the_noise_is_the_integral_of_the_sde(process, prediction, eta):
    """At any η the step is the exact solution of the reverse SDE while the prediction stands still.

    With f x dt + ½(1 + η²) g² ε̂/σ dt + η g dw, and n the factor by which x goes while the prediction is 0 (α for ε̂, and
    σ e^{η² log σ/α} for x̂_0, as ε̂ = (x − α x̂_0)/σ pulls), the noise has the variance n_s² ∫ η² g²/n² dt and the
    prediction the weight n_s ∫ ½(1 + η²) g²/(σ n) dt, with −α/σ before x̂_0. By adaptive quadrature in t, where g² comes
    from the process: 1e-7.
    """
    t, s = 0.62, 0.31
    at = lambda v: torch.tensor(v, dtype=torch.float64)
    alpha, sigma = (lambda v, f=f: float(f(at(v))) for f in (process.alpha, process.sigma))
    g2 = lambda v: float(process.diffusion2(at(v)))
    n = alpha if prediction == "eps" else lambda v: sigma(v) * (sigma(v) / alpha(v)) ** (eta**2)
    of = (lambda v: 1 / sigma(v)) if prediction == "eps" else lambda v: -alpha(v) / sigma(v) ** 2
    variance, _ = scipy.integrate.quad(lambda v: eta**2 * g2(v) / n(v) ** 2, s, t, epsrel=1e-10)
    weight, _ = scipy.integrate.quad(lambda v: -(1 + eta**2) / 2 * g2(v) * of(v) / n(v), s, t, epsrel=1e-10)
    row = Multistep(prediction, "log-snr", 1, eta=eta).coefficients(process, (t,), s)
    assert row.scale == pytest.approx(n(s) / n(t), rel=1e-7)
    assert row.weights == (pytest.approx(n(s) * weight, rel=1e-7),)
    assert row.std == pytest.approx(n(s) * math.sqrt(variance), rel=1e-7)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_tiny_steps_lose_nothing(prediction):
    """At steps of 1e-9 in log σ the weights keep their digits: the total is n_s dm/du·h to first order in h.

    Nodes 1e-9 apart are themselves known to 1e-16/1e-9 = 1e-7, which is what the shares may be off by; their sum is
    exact.
    """
    process = processes.EDM()
    times = tuple(0.01 * math.exp(k * 1e-9) for k in range(3))
    s = 0.01 * math.exp(-1e-9)
    row = Multistep(prediction, "log-snr", 3).coefficients(process, times, s)
    sigma = 80 * 0.01
    slope = {"x0": -1.0, "eps": sigma, "v": sigma / math.hypot(1, sigma), "flow": sigma / (1 + sigma)}[prediction]
    assert sum(row.weights) == pytest.approx(slope * (math.log(s) - math.log(times[0])), rel=1e-6)
    # Adams–Bashforth of order 3, as the weight is constant over so short a step.
    shares = np.array(row.weights) / sum(row.weights)
    np.testing.assert_allclose(shares, [23 / 12, -16 / 12, 5 / 12], rtol=1e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=names)
@pytest.mark.parametrize(("prediction", "variable"), list(itertools.product(PREDICTIONS, VARIABLES)))
@pytest.mark.parametrize("order", [2, 4])
def test_ends(process, prediction, variable, order):
    """A step to clean data, and one from t = 1 where α may be 0: finite weights, and the constant is still exact."""
    row = Multistep(prediction, variable, order).coefficients(process, TIMES[:order], 0.0)
    assert all(math.isfinite(w) for w in (row.scale, *row.weights))
    size = sum(abs(w) for w in row.weights)  # far from its nodes a cubic's basis is large, and rounds as such
    if prediction == "x0":
        assert (row.scale, sum(row.weights)) == (0.0, pytest.approx(1.0, abs=1e-12 * size))
    if process == processes.RectifiedFlow() and prediction == "eps":
        with pytest.raises(ValueError, match="does not tell the data where α = 0"):
            Multistep(prediction, variable, order).coefficients(process, (1.0,), 0.9)
        return
    row = Multistep(prediction, variable, order).coefficients(process, (0.9, 1.0), 0.8)
    assert all(math.isfinite(w) for w in (row.scale, *row.weights))


@pytest.mark.parametrize("prediction", ["x0", "eps"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_weights_with_noise_are_exact_integrals(prediction, eta):
    """Of values linear in u the step takes the mean under e^{−(1+η²)u} (x0) or e^u (eps), by adaptive quadrature."""
    process, times, s = processes.VP(), (0.6, 0.7), 0.4
    rule = Multistep(prediction, "log-snr", 2, eta=eta).coefficients(process, times, s)
    (total,) = Multistep(prediction, "log-snr", 1, eta=eta).coefficients(process, times[:1], s).weights
    first, second, end = (-place(process, "log-snr", t) / 2 for t in (*times, s))
    density = {"x0": lambda u: math.exp(-(1 + eta**2) * (u - end)), "eps": lambda u: math.exp(u - end)}[prediction]
    integral = lambda f: scipy.integrate.quad(f, first, end, epsabs=1e-13, epsrel=1e-12)[0]
    share = integral(lambda u: density(u) * (u - second) / (first - second)) / integral(density)
    assert rule.weights == pytest.approx((total * share, total * (1 - share)), rel=1e-8)


@pytest.mark.parametrize("variable", ["ratio", "angle", "sigma", "time"])
def test_at_clean_data_x0_is_extrapolated_to_the_end(variable):
    """dm = du/σ² has all of its mass at σ = 0: the weights are the Lagrange basis there."""
    process, times = processes.VP(), (0.3, 0.5)
    rule = Multistep("x0", variable, 2).coefficients(process, times, 0.0)
    first, second, end = (place(process, variable, t) if t else 0.0 for t in (*times, 0.0))
    share = (end - second) / (first - second)
    assert rule.scale == pytest.approx(0, abs=1e-12)
    assert rule.weights == pytest.approx((share, 1 - share), rel=1e-9)


def test_of_a_cluster_after_a_gap_the_newest_alone_is_used():
    """All that is left of two values that stand together is the newer one: a step of order 1 from it."""
    process, times, s = processes.VP(), (0.5, 0.5 + 1e-13), 0.3
    rule = Multistep("x0", order=2).coefficients(process, times, s)
    first = Multistep("x0", order=1).coefficients(process, times[:1], s)
    assert (rule.scale, rule.weights[0]) == (first.scale, first.weights[0])
    assert rule.weights[0] > 0
    assert not any(rule.weights[1:])
