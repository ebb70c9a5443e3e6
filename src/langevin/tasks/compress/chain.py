"""The steps in which a noisy sample is sent, as both sides compute them."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..._errors import UserError
from ...data import DataInfo
from ...denoisers import Denoiser, NetworkDenoiser
from ...distributions import Diagonal, Distribution, Normal
from ...processes import ScalarGaussian
from ...storage import files
from .pixels import Levels

BATCH = 64
"""Images the network sees at a time, part of the format: in float32 its last bit depends on the batch."""

START = 6.0
"""σ/α of the first state that is sent, in units of the data's RMS spread: a digit costs a bit there."""

NEGLIGIBLE = 1e-6
"""Share of a step that is left out: times and log-SNRs are computed from each other, to rounding."""

DENSITY = 4
"""Steps an octave of σ/α at most: fewer for little data, since a step costs three or four bits of its own."""


def checked(model: NetworkDenoiser) -> DataInfo:
    """The data of a model that can code.

    Raises:
        UserError: for a latent model, one without levels, one with a condition bound, or of a process that is not
            scalar-Gaussian.
    """
    if isinstance(model, Denoiser) and model.autoencoder is not None:
        raise UserError(
            "model must be of the images themselves to code them, got a latent one: exact coding needs a probability "
            "of every level, and a latent model says of an image what its decoder, which loses detail, makes of codes"
        )
    if not isinstance(model, NetworkDenoiser) or not isinstance(model.process, ScalarGaussian):
        raise UserError(
            f"coding needs a network on a process x_t = αx_0 + σε, got {type(model).__name__} on "
            f"{type(model.process).__name__}"
        )
    if model.condition:
        raise UserError(f"coding uses the model without a condition, but {', '.join(model.condition)} is given")
    data = model.data
    if not isinstance(data, DataInfo):
        raise UserError("coding needs a model that says what its data are; this one does not")
    Levels.of(data)
    return data


def moments(data: DataInfo) -> tuple[Tensor, Tensor]:
    """Mean and variance of each coordinate, float64 ``(D,)``: the data's own, or those of all levels alike."""
    if data.mean is not None and data.cov is not None:
        return data.mean, data.variance
    levels = Levels.of(data)
    flat = torch.ones(data.dim, dtype=torch.float64)
    return flat * (levels.low + levels.high) / 2, flat * levels.span**2 / 12


def fingerprint(model: NetworkDenoiser) -> str:
    """16 hexadecimal digits of what a receiver computes with: weights, process, parameterization, levels, moments."""
    data = checked(model)
    about = [
        model.process.to_dict(),
        {"kind": model.parameterization.kind, **vars(model.parameterization)},
        model.variance,
        list(model.shape),
        asdict(Levels.of(data)),
    ]
    known = dict(zip(("data/mean", "data/variance"), moments(data)))
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8)
    for name, value in sorted({**model.network.state_dict(), **known}.items()):
        digest.update(files.as_safetensors({name: value}))
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Chain:
    """The steps from the first state that is sent to the last.

    Args:
        model: on the CPU, in the dtype it is to be asked in.
        times: decreasing, float64 ``(S + 1,)``.
    """

    model: NetworkDenoiser
    times: Tensor

    def __len__(self) -> int:
        return len(self.times)

    @property
    def process(self) -> ScalarGaussian:
        """The model's."""
        assert isinstance(self.model.process, ScalarGaussian)
        return self.model.process

    @cached_property
    def levels(self) -> Levels:
        """The data's."""
        return Levels.of(checked(self.model))

    def mean(self, x: Tensor, t: Tensor) -> Tensor:
        """x̂_0, float64, asked in batches of a fixed size."""
        with torch.no_grad():
            return torch.cat([self.model(part, t).mean.double() for part in x.split(BATCH)])

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Mean and variances of p of the first state: normal with the data's own, noised."""
        mean, known = moments(checked(self.model))
        shape, t = (1, *self.model.shape), self.times[0]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        law = Normal(
            (alpha * mean.reshape(shape)).expand(count, *self.model.shape),
            Diagonal(alpha**2 * known.reshape(shape) + sigma**2),
        )
        return _parts(law)

    def reverse(self, x: Tensor, mean: Tensor, byte: int, i: int) -> tuple[Tensor, Tensor]:
        """Mean and variances of p(x_s | x_t) of step i ≥ 1 under the belief N(mean, variance(byte))."""
        belief = Normal(mean, self.variance(byte))
        return _parts(self.process.reverse(x, belief, self.times[i - 1], self.times[i]))

    def forward(self, x: Tensor | None, x0: Tensor, i: int) -> Distribution:
        """q of state i given the data: the marginal at the start, then the bridge."""
        if x is None:
            return self.process.marginal(x0, self.times[0])
        return self.process.bridge(x, x0, self.times[i - 1], self.times[i])

    def variance(self, byte: int) -> float:
        """The belief variance that a byte of the header stands for: (high − low)²·2^(−byte/8)."""
        return float(self.levels.span**2 * 2.0 ** (-byte / 8))

    def byte(self, variance: float) -> int:
        """The byte nearest to a belief variance."""
        return min(255, max(0, round(-8 * math.log2(max(variance, 1e-300) / self.levels.span**2))))


def _parts(law: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and variances of a diagonal normal law, each as large as the batch."""
    mean = law.mean
    return mean, law.cov.diagonal(tuple(mean.shape[1:])).expand_as(mean)


def gap(p: tuple[Tensor, Tensor], q: Distribution) -> tuple[Tensor, Tensor, Tensor]:
    """Of q = N(m_q, u) against p = N(m_p, v): m_q − m_p, u and v, each as large as the batch."""
    mean, u = _parts(q)
    return mean - p[0], u, p[1]


def plan(model: NetworkDenoiser, step: float, count: int, *, exact: bool = False) -> Chain:
    """The chain from START times the data's spread down to the time ``step``.

    Args:
        model: any that :func:`checked` passes.
        step: t in (0, 1].
        count: coordinates of all events; more of them allow more steps.
        exact: ask the network in float64, whose rounding differs between machines by too little to matter.
    """
    data = checked(model)
    if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= 1:
        raise UserError(f"step must be a time in (0, 1] (0 is data, 1 is noise), got {step!r}")
    process = model.process
    assert isinstance(process, ScalarGaussian)
    spread = math.sqrt(float(moments(data)[1].mean()))
    noisy, end = (float(process.log_snr(t)) for t in (1.0, step))
    # Data of no spread are known beforehand, and one state is sent; so it is where the first is the last.
    begin = min(max(-2 * math.log(START * spread), noisy), end) if spread > 0 else end
    octaves = 0.0 if begin == end else (end - begin) / (2 * math.log(2))
    # A step of no length, from a time to itself, would have a law without variance on both sides, 0/0.
    steps = math.ceil(octaves * min(DENSITY, max(1, round((count / 64) ** 0.25))) - NEGLIGIBLE)
    return between(model, float(process.time(begin)), float(step), steps, exact=exact)


def between(model: NetworkDenoiser, first: float, last: float, steps: int, *, exact: bool) -> Chain:
    """The chain of this many steps uniform in log-SNR; with none it is the last time alone."""
    process = model.process
    assert isinstance(process, ScalarGaussian)
    network = copy.deepcopy(model.network).cpu().eval()
    model = replace(model, network=network.double() if exact else network.float())
    begin, end = process.log_snr(first), process.log_snr(last)
    times = process.time(begin + (end - begin) * torch.linspace(0, 1, steps + 1, dtype=torch.float64))
    times[0], times[-1] = first, last
    return Chain(model, times)
