"""Exponential multistep methods: one implementation, of which the published names are settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..._errors import UserError, check_numbers, unknown
from ..._registry import register
from ...numerics.quadrature import SPARE, Array, gauss, lagrange, spread_nodes
from ...processes import ScalarGaussian
from .ddim import check_upwards
from .predictions import BOUNDED, PREDICTIONS, VARIABLES, Point
from .step import Correction, Linear, StepCoefficients

Start = Literal["plain", "corrected"]

RULES = ("exact", "midpoint", "linear", "flat")


@dataclass(frozen=True)
class Multistep(Linear[ScalarGaussian]):
    r"""A linear function of the belief, interpolated through the last values and integrated exactly.

    .. math:: x_s = \frac{n_s}{n_t} x_t + n_s \sum_j f_j \int_t^s l_j(v)\,dm

    with n, m of the :class:`Prediction` and l_j the Lagrange basis on the last ``order`` times in the variable v.
    Steps may have any length. The integral of the weight is in closed form (expm1, no differences), the mean of
    l_j under it by 16-node Gauss quadrature in log σ/α, which is exact to rounding for steps up to a factor e^{12}.
    Of values that stand together after a gap, less than an eighth of the step and of the gap apart, the newest alone is
    used (``spread_nodes``): an older value is taken instead of the others, of which three more than usual are kept.

    The order is lower at the ends: step i has i values behind it and uses min(order, i + 1) of them; with
    ``taper`` the last step is of order 1, the one before of order 2, and so on. Where the variable is infinite
    (log-SNR at clean data; log-SNR and ratio where α = 0) there is no polynomial: a step to or from there is of order
    1, and a value from there is not used again.

    Args:
        prediction: a key of ``PREDICTIONS``: x0, eps, v or flow.
        variable: a key of ``VARIABLES``: log-snr, ratio (σ/α), angle (its arctangent), sigma or time.
        order: values used, 1 to 4.
        rule: ``exact``; ``midpoint``: with two values the interpolant is taken at the middle of the step in log-SNR
            (DPM-Solver++(2M); UniPC's B2); ``linear``: with two values its slope is integrated without the weight
            (UniPC's B1); ``flat``: the interpolant is averaged over the step in v (Adams–Bashforth, PLMS).
        corrector: earlier values used beside the new one when a step's arrival is corrected, 0 (none) to 4. It takes
            no further evaluation: the value at the uncorrected arrival is kept (UniC, arXiv:2302.04867 alg. 1).
        reach: steps that are corrected at a time, 1 to 3: the last ``reach`` are integrated again.
        start: ``plain``, as published: the first step is of order 1, and the error it leaves of order 2 whatever
            ``order``. ``corrected``: until there are enough values, the whole way from the first state is integrated
            again with every new value, and at order 4 the second time is asked twice: the order is as claimed.
        eta: share of the reverse SDE's noise, 0 ≤ η; 1 is the reverse SDE (prediction x0 or eps).
        taper: whether the order falls towards the end of the grid.
    """

    prediction: Literal["x0", "eps", "v", "flow"] = "x0"
    variable: Literal["log-snr", "ratio", "angle", "sigma", "time"] = "log-snr"
    order: int = 2
    rule: Literal["exact", "midpoint", "linear", "flat"] = "exact"
    corrector: int = 0
    reach: int = 1
    start: Start = "plain"
    eta: float = 0.0
    taper: bool = False
    needs = ScalarGaussian, "a multistep solver"

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise unknown("prediction", self.prediction, PREDICTIONS)
        if self.variable not in VARIABLES:
            raise unknown("variable", self.variable, VARIABLES)
        if self.rule not in RULES:
            raise unknown("rule", self.rule, RULES)
        if isinstance(self.order, bool) or self.order not in (1, 2, 3, 4):
            raise UserError(f"order must be 1, 2, 3 or 4, got {self.order!r}")
        if isinstance(self.corrector, bool) or self.corrector not in (0, 1, 2, 3, 4):
            raise UserError(f"corrector must be 0 (none), 1, 2, 3 or 4, got {self.corrector!r}")
        check_numbers(eta=self.eta)
        if not 0.0 <= self.eta < math.inf:
            raise UserError(f"eta must be a finite number >= 0, got {self.eta}")
        if self.eta and PREDICTIONS[self.prediction].std is None:
            raise UserError(f"eta must be 0 for prediction {self.prediction!r}, got {self.eta}; x0 and eps take noise")
        if isinstance(self.reach, bool) or self.reach not in (1, 2, 3) or self.reach > max(1, self.corrector):
            raise UserError(f"reach must be 1, 2 or 3 and at most the corrector {self.corrector}, got {self.reach!r}")
        if self.start not in ("plain", "corrected"):
            raise UserError(f"start must be 'plain' or 'corrected', got {self.start!r}")
        if self.eta and (self.corrector or self.start == "corrected"):
            raise UserError("corrector must be 0 and start 'plain' with eta > 0: noise once added is not taken back")

    @property
    def history(self) -> int:
        used = max(self.order - 1, self.corrector)
        return used + SPARE if used else 0

    @property
    def kept(self) -> int:
        start = self.history - 1 if self.start == "corrected" and self.order > 2 else 0
        return max(self.reach if self.corrector else 0, start)

    def left(self, steps: int) -> Multistep:
        order = min(self.order, steps)
        return replace(self, order=order, corrector=min(self.corrector, steps + 1)) if self.taper else self

    def brownian_time(self, process: ScalarGaussian) -> Callable[[Tensor], Tensor]:
        exponent = self.eta**2 if self.prediction == "x0" else -1.0
        return lambda t: torch.exp(exponent * process.log_snr(t))

    def coefficients(self, process: ScalarGaussian, times: tuple[float, ...], s: float) -> StepCoefficients:
        values = torch.tensor([*times, s], dtype=torch.float64)
        alphas, sigmas = process.alpha(values).tolist(), process.sigma(values).tolist()
        *past, end = (Point(t, a, v) for t, a, v in zip((*times, s), alphas, sigmas))
        here = past[0]
        check_upwards(here.t, end.t, self.eta)
        if here.alpha == 0 and self.prediction == "eps":
            raise UserError("prediction 'eps' does not tell the data where α = 0: start the grid below t = 1")
        # f = a x + b x̂_0 = p x̂_0 + q ε̂ with ε̂ = (x − α x̂_0)/σ.
        p, q = PREDICTIONS[self.prediction].parts(here)
        read = None if (p, q) == (1.0, 0.0) else (q / here.sigma, p - q * here.alpha / here.sigma)
        if end.t == here.t:
            return StepCoefficients(1.0, (), 0.0, read)
        form = PREDICTIONS[self.prediction]
        std = form.std(here, end, self.eta) if self.eta and form.std else 0.0
        scale, weights = self._integral(process, here, end, past, self.order)
        return StepCoefficients(scale, weights, std, read, self._correction(process, past))

    def _correction(self, process: ScalarGaussian, past: list[Point]) -> Correction | None:
        """The steps that led here, integrated again now that the value here is known."""
        here = past[0]
        if self.start == "corrected" and 1 < len(past) <= self.history:
            # From the first state on the nodes of all: the error left is that of the values. The second one was asked
            # at a state of error h², which is one order short of what order 4 needs.
            count = len(self._spread(process, past[-1], here, past))
            if count < self.order:
                scale, weights = self._integral(process, past[-1], here, past, len(past))
                return Correction(scale, weights, len(past) - 1, self.order == 4 and count == 2)
        if not self.corrector or len(past) == 1:
            return None
        back = min(self.reach, len(past) - 1)
        return Correction(*self._integral(process, past[back], here, past, self.corrector + 1), back)

    def _integral(
        self, process: ScalarGaussian, start: Point, end: Point, past: list[Point], count: int
    ) -> tuple[float, tuple[float, ...]]:
        """n_s/n_t, and n_s ∫ l_j dm for each of the past values, of which ``count`` at most are used."""
        form = PREDICTIONS[self.prediction]
        scale, total = form.scale(start, end, self.eta), form.total(start, end, self.eta)
        known = [n for n in past[:count] if self._finite(n)]
        if len(known) < 2 or not self._finite(start) or (self.variable == "log-snr" and math.isinf(end.u)):
            return scale, tuple(total * (n.t == start.t) for n in past[:count])
        nodes = self._spread(process, start, end, past)[:count]
        finite = [n for n in nodes if self._finite(n)]
        if len(finite) < 2:
            return scale, tuple(total * (n.t == finite[0].t) for n in past[:count])
        weights = dict(zip((n.t for n in finite), self._shares(process, start, end, finite, total)))
        used = max(count, 1 + max(i for i, n in enumerate(past) if n.t in weights))
        return scale, tuple(float(weights.get(n.t, 0.0)) for n in past[:used])

    def _spread(self, process: ScalarGaussian, start: Point, end: Point, past: list[Point]) -> list[Point]:
        """The past values but those that stand close together after a gap; newest first."""
        if len(past) < 2:
            return past
        finite = [n for n in past if self._finite(n)]
        places = VARIABLES[self.variable](process, np.array([n.u for n in (start, end, *finite)])).tolist()
        beyond = [math.inf] * (len(past) - len(finite))  # α = 0: the first time of all
        return [past[i] for i in spread_nodes([*places[2:], *beyond], abs(places[1] - places[0]))]

    def _finite(self, p: Point) -> bool:
        """Whether the variable has a value there."""
        return math.isfinite(p.u) or (p.u < 0 and self.variable != "log-snr") or self.variable in BOUNDED

    def _shares(self, process: ScalarGaussian, start: Point, end: Point, nodes: list[Point], total: float) -> Array:
        """The weights of the nodes, which sum to ``total``."""
        variable = VARIABLES[self.variable]
        at = variable(process, np.array([n.u for n in nodes]))
        finite = math.isfinite(start.u - end.u)
        two = len(nodes) == 2 and finite and any(n.t == start.t for n in nodes)
        rule = "exact" if self.rule in ("midpoint", "linear") and not two else self.rule
        if rule == "midpoint":
            return total * lagrange(at, variable(process, np.array([(start.u + end.u) / 2])))[:, 0]
        if rule == "exact":
            return total * self._mean(process, start, end, at)
        first, last = variable(process, np.array([start.u, end.u])).tolist()
        points, weights = gauss(first, last, 4)  # exact for a cubic
        mean = lagrange(at, points) @ weights / weights.sum()
        if rule == "flat":
            return total * mean
        own = np.array([float(n.t == start.t) for n in nodes])
        plain = PREDICTIONS[self.prediction].weight(end, self.eta) * (end.u - start.u)
        return total * own + plain * (mean - own)

    def _mean(self, process: ScalarGaussian, start: Point, end: Point, at: Array) -> Array:
        """The mean of the Lagrange basis over the step, under dm."""
        if self.prediction == "x0" and end.sigma == 0:  # all of the weight 1/σ is at the end
            return lagrange(at, VARIABLES[self.variable](process, np.array([end.u])))[:, 0]
        if math.isfinite(start.u - end.u):
            u, weights = gauss(start.u, end.u)
        else:
            angle, weights = gauss(start.angle, end.angle)
            u = np.log(np.tan(angle))
            weights = weights * (np.tan(angle) + 1 / np.tan(angle))  # du/dangle
        finite = end.u if math.isfinite(end.u) else start.u
        weights = weights * PREDICTIONS[self.prediction].density(u - finite, u, self.eta)
        mean: Array = lagrange(at, VARIABLES[self.variable](process, u)) @ weights / weights.sum()
        return mean


_PROOF = (
    "exact: tests/laws, tests/samplers/test_multistep.py, tests/samplers/test_multistep_weights.py; "
    "parity: tests/samplers/test_parity_multistep.py"
)


register("samplers", "multistep", title="Exponential multistep", arxiv="2211.01095", proof=_PROOF)(Multistep)


@register("samplers", "dpmpp-2m", title="DPM-Solver++(2M)", arxiv="2211.01095", proof=_PROOF)
def DPMSolverPP(eta: float = 0.0, order: int = 2, start: Start = "plain") -> Multistep:
    r"""DPM-Solver++ multistep (Lu et al. 2022, arXiv:2211.01095, algorithm 2): x̂_0 a polynomial in log-SNR.

    At order 2 the published method takes the line through the last two values at the middle of the step; orders 3 and 4
    integrate the parabola and the cubic exactly.

    Args:
        eta: 0 for the ODE, 1 for the SDE form.
        order: 1 to 4.
        start: as of :class:`Multistep`; ``plain`` as published.
    """
    return Multistep("x0", "log-snr", order, "midpoint", start=start, eta=eta)


@register("samplers", "dpmpp-2m-sde", title="SDE-DPM-Solver++(2M)", arxiv="2211.01095", proof=_PROOF)
def DPMSolverPPSDE(order: int = 2) -> Multistep:
    """DPM-Solver++ multistep at η = 1."""
    return DPMSolverPP(eta=1.0, order=order)


@register("samplers", "dpmpp-3m", title="DPM-Solver++(3M)", arxiv="2211.01095", proof=_PROOF)
def DPMSolverPP3M(start: Start = "plain") -> Multistep:
    """DPM-Solver++ multistep of order 3. Widely used code halves the second difference here and is of order 2."""
    return DPMSolverPP(order=3, start=start)


@register("samplers", "dpmpp-3m-sde", title="SDE-DPM-Solver++(3M)", arxiv="2211.01095", proof=_PROOF)
def DPMSolverPP3MSDE() -> Multistep:
    """DPM-Solver++ multistep of order 3 at η = 1."""
    return DPMSolverPP(eta=1.0, order=3)


@register("samplers", "dpm-multistep", title="DPM-Solver, multistep", arxiv="2206.00927", proof=_PROOF)
def DPMSolverMultistep(order: int = 2, start: Start = "plain") -> Multistep:
    """DPM-Solver's noise prediction in log-SNR, multistep."""
    return Multistep("eps", "log-snr", order, "midpoint", start=start)


@register("samplers", "deis", title="DEIS, tAB", arxiv="2204.13902", proof=_PROOF)
def DEIS(order: int = 3, start: Start = "plain") -> Multistep:
    """DEIS tAB (Zhang & Chen 2022, arXiv:2204.13902 eq. 14–15): ε̂ a polynomial of degree order − 1 in t."""
    return Multistep("eps", "time", order, start=start)


@register("samplers", "deis-rho", title="DEIS, ρAB", arxiv="2204.13902", proof=_PROOF)
def DEISRho(order: int = 3, start: Start = "plain") -> Multistep:
    """DEIS ρAB (arXiv:2204.13902 §3.3): ε̂ a polynomial of degree order − 1 in ρ = σ/α."""
    return Multistep("eps", "ratio", order, start=start)


@register("samplers", "unipc", title="UniPC", arxiv="2302.04867", proof=_PROOF)
def UniPC(
    order: int = 2,
    prediction: Literal["x0", "eps"] = "x0",
    b: Literal["B1", "B2"] = "B2",
    corrector: bool = True,
    taper: bool = False,
    start: Start = "plain",
) -> Multistep:
    r"""UniPC (Zhao et al. 2023, arXiv:2302.04867 alg. 1–4): a predictor, and a corrector without evaluations.

    With all its equations solved UniP-p is the polynomial through p values integrated exactly, whatever B(h); B matters
    where the paper sets a_1 = ½ instead: UniP-2 and UniC-1.

    Args:
        order: p, 1 to 4.
        prediction: x0 or eps.
        b: B1(h) = h or B2(h) = e^h − 1.
        corrector: UniC-p after each step; without it this is UniP-p.
        taper: lower order in the last steps.
        start: as of :class:`Multistep`.
    """
    if b not in ("B1", "B2"):
        raise UserError(f"b must be 'B1' or 'B2', got {b!r}")
    rule: Literal["midpoint", "linear"] = "midpoint" if b == "B2" else "linear"
    return Multistep(prediction, "log-snr", order, rule, order if corrector else 0, start=start, taper=taper)


@register("samplers", "plms", title="PLMS", arxiv="2202.09778", proof=_PROOF)
def PLMS(order: int = 4) -> Multistep:
    """Pseudo linear multistep (Liu et al. 2022, arXiv:2202.09778 eq. 9, 12): Adams–Bashforth's ε̂ in a DDIM step."""
    return Multistep("eps", "time", order, "flat")
