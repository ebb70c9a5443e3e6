"""The exact likelihood of a model: its probability flow, followed from data to a normal law."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import UserError, unknown
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser, gaussian_frame
from ..distributions import Noise, Stream
from ..numerics.frame import GaussianFrame
from ..processes import ScalarGaussian
from .adaptive import PAIRS, TORCHDIFFEQ, solve
from .bound import check_data
from .dequantise import DEQUANTISERS, Dequantiser, levels_of
from .flow import LOG_2PI, Flow, integrate
from .probes import PROBES, Probes
from .units import Measured, Units, error_of_mean

METHODS = ("remainder", *PAIRS, *TORCHDIFFEQ)
"""Ours on a fixed grid, and solvers that choose their steps by tolerances."""

MOST = 10**6
"""Evaluations, probes and draws at most: a standard error falls no further than float32 lets it."""

EXACTLY = 16
"""Events of up to this many coordinates get the exact divergence if nothing is said: it costs as many products."""


@dataclass(frozen=True, eq=False, repr=False)
class Exact(Measured):
    """log p(x) of each sample in nats, and how it was had; ``print`` says the mean.

    Attributes:
        log_prob: float64 ``(B,)``: of a density, or with dequantisation a lower bound on that of a probability.
        stderr: the standard error that probes and draws of dequantisation leave in each, ``(B,)``: 0 where nothing is
            random, not-a-number where one fixed probe or one draw does not tell.
        evaluations: of the denoiser, a sample.
        divergences: how often a divergence was taken, a sample; each costs a vector–Jacobian product a probe, or D.
        units: what nats are counted in.
        protocol: how it was measured, as plain JSON.
    """

    log_prob: Tensor
    stderr: Tensor
    evaluations: float
    divergences: float
    units: Units
    protocol: Mapping[str, Any]

    @property
    def nats(self) -> Tensor:
        """−log p(x), ``(B,)``."""
        return -self.log_prob

    def __str__(self) -> str:
        bits, count, p = self.bits_per_dim, len(self.nats), self.protocol
        error = error_of_mean(bits)
        how = f"{p['method']}, {self.evaluations:.0f} evaluations, {p['divergence']}"
        mean = f"log p {float(self.log_prob.mean()):.4f} ± {self.standard_error:.4f} nats"
        return (
            f"{mean}, {float(bits.mean()):.4f} ± {error:.4f} bits/dim\n"
            f"{count} samples; {p['unit']}; {how}; dequantisation: {p['dequantisation']}"
        )

    __repr__ = __str__


@register(
    "likelihood",
    "exact",
    title="Exact likelihood by the probability flow",
    arxiv="2011.13456",
    proof="exact: tests/likelihood/test_exact.py",
)
def exact(
    denoiser: Denoiser,
    x: Tensor,
    *,
    method: str = "remainder",
    evaluations: int | None = None,
    stride: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    divergence: Literal["exact", "hutchinson"] | None = None,
    probes: int = 1,
    probe: str = "rademacher",
    dequantise: str | Dequantiser | None = None,
    draws: int = 1,
    frame: GaussianFrame | None = None,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Exact:
    r"""log p(x) by the instantaneous change of variables (Song et al. 2021, arXiv:2011.13456 eq. 39), in nats.

    Beside the Gaussian with the data's mean and covariance, in z = (y − m)/S with y = x/α, S² = λ + σ², u = log σ/α:

    .. math::
        \log p(x) = \log N(z_∞; 0, I) - \sum \log S_0 - \int \Big( \mathrm{tr}\frac{∂\hat x_0}{∂y}
        - \sum \frac{λ}{S^2} \Big) du

    along dz/du = −Δ/S from the data to σ = ∞ (see docs/exact.md). Every method follows this same path, in a variable in
    which the integrands vanish at both ends: nothing is cut off, and there is no ε.

    ``remainder`` is ours: a fixed number of evaluations, one a step, each one forward pass of the network and, at every
    ``stride``-th, the vector–Jacobian products of the divergence. Probes are fresh at every evaluation. ``rk45`` and
    ``dop853`` choose steps for each sample; ``dopri5``, ``dopri8``, ``bosh3``, ``fehlberg2`` and ``adaptive_heun`` are
    torchdiffeq's, one sample at a time. These keep their probes along the path, as an adaptive step must. No result
    depends on ``batch``.

    Args:
        denoiser: of a scalar-Gaussian process; conditions are bound with ``denoiser.given(…)``.
        x: data ``(N, *shape)``, in the units of the model; on their levels if they are dequantised.
        method: one of the above.
        evaluations: the most that ``remainder`` takes, ≥ 8; 100 if not given with the exact divergence, else 60.
        stride: of ``remainder``: evaluations from one divergence to the next, ≥ 1; 2 if not given with the exact
            divergence, else 1.
        rtol, atol: tolerances of the other methods, > 0.
        divergence: ``exact``, by D products, or ``hutchinson``, by one for each probe; if not given, exact up to 16
            coordinates.
        probes: K ≥ 1.
        probe: law of a probe: ``rademacher`` (see ``Probes``: orthogonal along the path) or ``gaussian``.
        dequantise: None for the density at x itself; ``uniform``, ``normal`` (truncated, the process's own noise) or a
            law made by ``learn_dequantiser``: then log p is a lower bound on log P of the levels, the mean over draws
            of log p(x + u) − log q(u | x).
        draws: of the dequantisation, ≥ 1.
        frame: mean and covariance of the data; those that travel with the model, or an assumption, if not given. They
            decide how fast the result converges, not to what.
        seed: of probes and draws.
        batch: samples carried at a time.
        progress: called as ``progress(done, total)`` in samples (sample-evaluations of ``remainder``).

    Raises:
        UserError: for data that do not fit the model, a process without such a flow, and numbers out of range.
    """
    check_is_denoiser(denoiser)
    process = denoiser.process
    if not isinstance(process, ScalarGaussian):
        raise UserError(
            f"the exact likelihood needs a process x_t = αx_0 + σε, got {type(process).__name__}; likelihood.bound "
            "works on every process with a reverse step"
        )
    x = check_data(denoiser, x)
    size = math.prod(denoiser.shape)
    exactly = size <= EXACTLY if divergence is None else divergence == "exact"
    evaluations = (100 if exactly else 60) if evaluations is None else evaluations
    stride = (2 if exactly else 1) if stride is None else stride
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if divergence not in (None, "exact", "hutchinson"):
        raise UserError(f"divergence must be 'exact' or 'hutchinson', got {divergence!r}")
    if probe not in PROBES:
        raise UserError(f"probe must be one of {', '.join(PROBES)}, got {probe!r}")
    whole = {"evaluations": (evaluations, 8), "stride": (stride, 1), "probes": (probes, 1)}
    for name, (value, least) in {**whole, "draws": (draws, 1), "batch": (batch, 1)}.items():
        if type(value) is not int or value < least:
            raise UserError(f"{name} must be an integer of at least {least}, got {value!r}")
        if value > MOST and name != "batch":
            raise UserError(f"{name} must be at most {MOST}, got {value}")
    if stride > evaluations // 4:
        raise UserError(f"stride must be at most a quarter of the {evaluations} evaluations, got {stride}")
    for name, tolerance in (("rtol", rtol), ("atol", atol)):
        if not 0 < tolerance < math.inf:
            raise UserError(f"{name} must be a finite number > 0, got {tolerance}")
    law = _law(dequantise)
    bin_width = 0.0 if law is None else levels_of(denoiser, x)
    if law is None and draws != 1:
        raise UserError(f"draws are of the dequantisation; without one draws must be 1, got {draws}")
    frame = frame or gaussian_frame(denoiser) or _assumed(denoiser, process)
    if len(frame.mean) != size:
        raise UserError(
            f"frame must be of {size} coordinates for data of shape {denoiser.shape}, got {len(frame.mean)}"
        )
    t = torch.tensor(0.0 if law is None else law.time(process, bin_width), dtype=torch.float64)
    begin = -0.5 * float(process.log_snr(t))
    noise = Noise(seed, len(x))
    asked, taken, done = [0], 0, 0
    nodes = stride * ((evaluations + 1) // stride) - 1 if method == "remainder" else 1
    total = len(x) * draws * nodes
    log_probs, errors = [], []
    with torch.no_grad():
        for first in range(0, len(x), batch):
            rows = slice(first, min(first + batch, len(x)))
            flow = Flow(denoiser.rows(rows), frame, asked)
            part = noise.rows(rows).to(denoiser.device)
            clean = x[rows].to(denoiser.device)

            def told(count: int = len(clean)) -> None:
                nonlocal done
                done += count
                if progress is not None:
                    progress(done, total)

            found = []
            for k in range(draws):
                own = part.fold_in(k)
                dither = own.fold_in(Stream.DEQUANTISED)
                y, log_q = (clean, 0.0) if law is None else law.sample(clean, bin_width, math.exp(begin), dither)
                z, jacobian = flow.start(y, begin)
                drawn = None if exactly else Probes(own.fold_in(Stream.PROBES), size, probe)
                if method == "remainder":
                    z, change, error, count = integrate(
                        flow, z, begin, evaluations=nodes, stride=stride, probes=drawn, count=probes, told=told
                    )
                    taken += count * len(z)
                else:
                    fixed = None if drawn is None else torch.stack([drawn(j) for j in range(probes)])
                    z, each = solve(flow, z, begin, method, rtol, atol, fixed)
                    error = 0 * each[0] if exactly else each.mean(0) * math.nan
                    if len(each) > 1:
                        error = each.std(0) / math.sqrt(probes)
                    change = each.mean(0)
                    told()
                log_p = -0.5 * (z.square() + LOG_2PI).sum(1) + change + jacobian
                found.append((log_p - log_q, error))
            values, each_error = (torch.stack(v) for v in zip(*found))
            log_probs.append(values.mean(0).cpu())
            spread = values.std(0) / math.sqrt(draws) if draws > 1 else each_error[0] * (1 if law is None else math.nan)
            errors.append(spread.cpu())
    log_prob, samples = torch.cat(log_probs), len(x) * draws
    if not log_prob.isfinite().all():
        bad = int((~log_prob.isfinite()).sum())
        raise UserError(f"{bad} of {len(x)} likelihoods are not finite: the flow of this model runs away")
    units = Units.of(denoiser.data, tuple(x.shape[1:]), density=law is None)
    how = "exact divergence" if exactly else f"{probes} {probe} probe{'s' * (probes > 1)}"
    if not exactly:
        how += " an evaluation" if method == "remainder" else ", fixed along the path"
    protocol = {
        "method": f"probability flow, {method}",
        "evaluations": asked[0] / samples,
        "divergence": how,
        "tolerances": None if method == "remainder" else [rtol, atol],
        "dequantisation": "none" if law is None else f"{law.name}, mean of {draws} draw{'s' * (draws > 1)} (a bound)",
        "time": float(t),
        "frame": repr(frame),
        "seed": seed,
        "count": len(x),
        **units.protocol(),
    }
    divergences = taken / samples if method == "remainder" else asked[0] / samples
    return Exact(log_prob, torch.cat(errors), asked[0] / samples, divergences, units, protocol)


def _assumed(denoiser: Denoiser, process: ScalarGaussian) -> GaussianFrame:
    """What is assumed of data that a model does not describe; their mean the belief tells where there is only noise."""
    size = math.prod(denoiser.shape)
    t = torch.tensor(process.t_max, dtype=torch.float64)
    zero = torch.zeros(1, *denoiser.shape, dtype=torch.float64, device=denoiser.device)
    with torch.no_grad():
        mean = denoiser.rows(slice(0, 1))(zero, t).mean
    return replace(GaussianFrame.unknown(size), mean=mean.reshape(size))


def _law(dequantise: str | Dequantiser | None) -> Dequantiser | None:
    if not isinstance(dequantise, str):
        return dequantise
    if dequantise not in DEQUANTISERS:
        raise unknown("dequantisation", dequantise, DEQUANTISERS)
    made: Dequantiser = DEQUANTISERS[dequantise]()
    return made
