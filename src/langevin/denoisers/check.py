"""Whether a network denoises at all, and if it does not, by which convention it would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError
from ..distributions import Noise
from ..processes import DDPM, ScalarGaussian, cosine_betas, linear_betas, require, scaled_linear_betas
from .base import Denoiser, check_is_denoiser
from .network import EvaluationCounter, NetworkDenoiser
from .parameterization import PREDICTIONS, TIME_INPUTS, AffineParameterization

RATIOS = (0.05, 0.15, 0.5, 1.5, 5.0)
"""Noise-to-signal ratios σ/α that are looked at, in units of the spread of the data."""

MOST, TRIED, BATCH = 256, 32, 64
"""Samples at most for the table and for each other convention, and how many go through a network at a time."""

MARGIN = 1.1
"""A mean squared error so many times that of the linear estimator is worse: its moments are those of the very samples,
which makes its own error a little too small."""

BETTER, BETTER_THAN_WORSE, BETTER_TABLE = 1.25, 1.05, 1.04
"""Another convention is named if its errors are so many times smaller: beside a denoiser that is better than the linear
estimator, beside one that is not, and of another table of β, which changes the network's input but little."""

ALIKE = 0.03
"""Logarithms of errors that differ by no more are alike."""


@dataclass(frozen=True)
class LevelErrors:
    """RMS errors of x̂_0 a coordinate at one noise level, of the denoiser and of what needs no network.

    Args:
        t: the time.
        ratio: σ/α there.
        denoiser: of the belief's mean.
        linear: of the linear estimator with the data's mean and variance in each coordinate: the best that a normal law
            of independent coordinates allows.
        rescaled: of x_t/α, the state itself.
        mean: of the mean of the data.
        worse: whether the denoiser is worse than the linear estimator, beyond chance.
    """

    t: float
    ratio: float
    denoiser: float
    linear: float
    rescaled: float
    mean: float
    worse: bool


@dataclass(frozen=True)
class DenoiserCheck:
    """What ``check_denoiser`` found; printed, a small table and what is wrong.

    Args:
        levels: the errors, from little noise to much.
        problems: a sentence for everything that looks wrong.
    """

    levels: tuple[LevelErrors, ...]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing looks wrong."""
        return not self.problems

    def __str__(self) -> str:
        head = "     t   sigma/alpha   denoiser   linear   x_t/alpha   data mean"
        lines = [
            f"{e.t:6.4f}   {e.ratio:11.4g}   {e.denoiser:8.4g}   {e.linear:6.4g}   {e.rescaled:9.4g}   {e.mean:9.4g}"
            + "   worse than linear" * e.worse
            for e in self.levels
        ]
        return "\n".join(
            ["RMS error of the predicted x_0, a coordinate:", head, *lines, *(self.problems or ("It denoises.",))]
        )


class _Reversed(nn.Module):
    """The network told ``end − time``."""

    def __init__(self, network: nn.Module, end: float) -> None:
        super().__init__()
        self.network, self.end, self.config = network, end, getattr(network, "config", {})

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        out: Tensor = self.network(x, self.end - time, condition)
        return out


@dataclass(frozen=True)
class _Look:
    """One noise level: the time, the states there and the linear estimator's squared errors ``(n,)``."""

    t: Tensor
    x_t: Tensor
    linear: Tensor


def check_denoiser(denoiser: Denoiser, data: Tensor, *, seed: int = 0) -> DenoiserCheck:
    r"""Whether a denoiser denoises: its error of x̂_0 on clean data at several noise levels, beside trivial predictions.

    A network that is read by a wrong convention draws wrong samples without a word; this finds it. A denoiser must not
    be worse than the linear estimator :math:`m + α v (x_t - α m)/(α^2 v + σ^2)` with the mean m and the variance v of
    each coordinate of the data. Where the denoiser is a network's, its output is also read by every other convention of
    time, scale of the input and prediction, and the one that denoises is named. It takes about a hundred evaluations
    on 32 samples each.

    ::

        print(langevin.check_denoiser(model, x0))

    Args:
        denoiser: on a scalar-Gaussian process; conditions may be bound, one a sample of ``data``.
        data: clean samples ``(n, *shape)``, n ≥ 8, as the network was trained on; the first 256 are used.
        seed: of the noise.

    Raises:
        UserError: for data of another shape, or a process that is not x_t = αx_0 + σε.
    """
    check_is_denoiser(denoiser)
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "check_denoiser")
    x0 = _clean(data, denoiser.shape)
    problems = []
    if isinstance(denoiser, NetworkDenoiser) and noisy_mode(denoiser.network):
        problems.append(
            "The network is in training mode, in which dropout or batch statistics change what it returns: call eval()."
        )
    noise = Noise(seed, len(x0))
    with torch.no_grad():
        looks = _looks(process, x0, noise)
        levels = []
        for look in looks:
            square = _squares(denoiser, look, x0)
            alpha, sigma = process.alpha(look.t), process.sigma(look.t)
            apart = square - MARGIN * look.linear
            worse = not float(apart.mean()) <= 3 * float(apart.std()) / math.sqrt(len(x0))
            squares = (square, look.linear, _square(look.x_t / alpha - x0), _square(x0 - x0.mean(0)))
            own, linear, rescaled, mean = (float(v.mean().sqrt()) for v in squares)
            levels.append(LevelErrors(float(look.t), float(sigma / alpha), own, linear, rescaled, mean, worse))
        problems += _problems(denoiser, process, x0, noise, levels)
    return DenoiserCheck(tuple(levels), tuple(problems))


def _clean(data: Any, shape: tuple[int, ...]) -> Tensor:
    try:
        x0 = torch.as_tensor(data)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"data must be a tensor of clean samples (n, *shape), got {type(data).__name__}") from None
    if x0.shape[1:] != shape or len(x0) < 8:
        raise UserError(f"data must be at least 8 clean samples of shape {shape}, got shape {tuple(x0.shape)}")
    x0 = x0[:MOST].detach().to("cpu", torch.float64)
    if not x0.isfinite().all() or not float(x0.var(0).mean()) > 0:
        raise UserError("data must be finite and not all alike")
    return x0


def noisy_mode(network: nn.Module) -> bool:
    """Whether a network is in training mode with layers that make what it returns depend on it."""
    drops = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    return any(m.training and isinstance(m, drops) and getattr(m, "p", 1) > 0 for m in network.modules())


def _looks(process: ScalarGaussian, x0: Tensor, noise: Noise) -> list[_Look]:
    mean, variance = x0.mean(0), x0.var(0)
    spread = float(variance.mean().sqrt())
    ratios = torch.tensor(RATIOS, dtype=torch.float64) * spread
    times = process.time(-2 * torch.log(ratios)).clamp(process.t_min, process.t_max)
    if isinstance(process, DDPM):  # a table knows its knots best, and a network may know nothing else
        times = (times * process.steps).round().clamp_min(1) / process.steps
    looks = []
    for i, t in enumerate(times.unique()):
        alpha, sigma = process.alpha(t), process.sigma(t)
        x_t = alpha * x0 + sigma * noise.step(i).normal(tuple(x0.shape[1:]))
        gain = alpha * variance / (alpha**2 * variance + sigma**2)
        looks.append(_Look(t, x_t, _square(mean + gain * (x_t - alpha * mean) - x0)))
    return looks


def _square(error: Tensor) -> Tensor:
    """The mean square a coordinate of each sample, ``(n,)``."""
    return error.flatten(1).square().mean(1)


def _mean(denoiser: Denoiser, look: _Look, count: int) -> Tensor:
    """x̂_0 of the first ``count`` states, in parts."""
    parts = []
    for first in range(0, count, BATCH):
        rows = slice(first, min(first + BATCH, count))
        parts.append(denoiser.rows(rows)(look.x_t[rows].to(denoiser.device), look.t).mean)
    return torch.cat(parts).to("cpu", torch.float64)


def _squares(denoiser: Denoiser, look: _Look, x0: Tensor) -> Tensor:
    return _square(_mean(denoiser, look, len(x0)) - x0)


def _problems(
    denoiser: Denoiser, process: ScalarGaussian, x0: Tensor, noise: Noise, levels: list[LevelErrors]
) -> Iterator[str]:
    """What looks wrong."""
    some = x0[:TRIED]
    looks = _first(_looks(process, x0, noise))
    bad = [e for e in levels if e.worse]
    plain = isinstance(denoiser, NetworkDenoiser) and isinstance(denoiser.parameterization, AffineParameterization)
    if plain:
        assert isinstance(denoiser, NetworkDenoiser)
        now = _score(denoiser, looks, some)
        others = list(_others(denoiser, process, looks, some))
        least = min((other.score for other in others), default=math.inf)
        # A denoiser that is right may lose a little to another guess by chance, one that is worse than linear not.
        if least < now - math.log(BETTER_THAN_WORSE if bad else BETTER):
            # Of conventions that are as good as each other, the one that changes least is meant.
            other = min((o for o in others if o.score < least + ALIKE), key=lambda o: o.changes)
            smaller = (
                f"the error becomes {math.exp(now - other.score):.2g} times smaller"
                if now < math.inf
                else "it denoises"
            )
            yield f"{other.sentence}, {smaller}."
            return
        if now == math.inf:
            broken = ", ".join(f"{e.ratio:.3g}" for e in levels if not math.isfinite(e.denoiser))
            yield f"At sigma/alpha = {broken} the network returns numbers that are not finite."
            return
        if _constant([_mean(_raw(denoiser), look, len(some)) for look in looks]):
            yield "The network returns the same whatever state it is given: it looks untrained."
            return
        better = []
        for sentence, changed, samples, gain in _elsewhere(denoiser, x0, bool(bad)):
            elsewhere = require(changed.process, ScalarGaussian, "a check")
            score = _score(changed, _first(_looks(elsewhere, samples, noise)), samples[:TRIED])
            if score < min(math.log(MARGIN) / 2, now - math.log(gain)):
                better.append((score, sentence))
        if better:
            yield min(better)[1]
            return
    if bad:
        where = ", ".join(f"{e.ratio:.3g}" for e in bad)
        tried = (
            "no other convention of time, scale of the input or prediction mends it" if plain else "the belief is off"
        )
        yield (
            f"At sigma/alpha = {where} it is worse than the linear estimator, and {tried}: is the network trained, "
            f"is this {type(process).__name__} that of its training, and are the data scaled as in its training?"
        )


def _constant(outputs: list[Tensor]) -> bool:
    return all(float((out - out[:1]).abs().max()) < 1e-6 for out in outputs)


def _raw(denoiser: NetworkDenoiser, **settings: Any) -> NetworkDenoiser:
    """A denoiser whose mean is the output of the network itself, asked as ``settings`` say."""
    parameterization = denoiser.parameterization
    assert isinstance(parameterization, AffineParameterization)
    return replace(
        denoiser, parameterization=replace(parameterization, prediction="x0", **settings), counter=EvaluationCounter()
    )


def _first(looks: list[_Look]) -> list[_Look]:
    return [replace(look, x_t=look.x_t[:TRIED], linear=look.linear[:TRIED]) for look in looks]


@dataclass(frozen=True)
class _Other:
    """Another convention: its score, how many settings it changes, and the beginning of a sentence."""

    score: float
    changes: int
    sentence: str


def _score(denoiser: Denoiser, looks: list[_Look], x0: Tensor) -> float:
    """The mean of log(error / error of the linear estimator); +∞ if an answer is not finite."""
    scores = [torch.log(_squares(denoiser, look, x0).mean() / look.linear.mean()) / 2 for look in looks]
    score = float(torch.stack(scores).mean())
    return score if math.isfinite(score) else math.inf


def _others(denoiser: NetworkDenoiser, process: ScalarGaussian, looks: list[_Look], x0: Tensor) -> Iterator[_Other]:
    """The other conventions that denoise.

    One set of outputs is read as every prediction, since the prediction does not change what the network is asked.
    """
    own = denoiser.parameterization
    assert isinstance(own, AffineParameterization)
    steps = process.steps if isinstance(process, DDPM) else 1000
    ends = {"t": 1.0, "time": 1000.0, "index": steps - 1.0}
    index = own.time if own.time == "nearest-index" else "index"  # a table of embeddings takes whole numbers alone
    times = [index if name == "index" else name for name in TIME_INPUTS if name not in ("nearest-index", "none")]
    for time, turned in [*((name, False) for name in times), *((index if n == "index" else n, True) for n in ends)]:
        network = denoiser.network
        if turned:
            network = _Reversed(network, ends["index" if time == index else time])
        for scaled in (False, True):
            asked = _raw(replace(denoiser, network=network), time=time, scale_input=scaled)
            try:
                outputs = [_mean(asked, look, len(x0)) for look in looks]
            except Exception:  # what a network makes of another convention's numbers may be anything
                continue
            if _constant(outputs):  # read as EDM's, a network that returns 0 is the linear estimator
                continue
            for prediction in PREDICTIONS:
                parameterization = replace(own, prediction=prediction, time=time, scale_input=scaled)
                for sign in (1.0, -1.0):
                    if parameterization == own and sign == 1.0 and not turned:
                        continue
                    ratios = []
                    for look, out in zip(looks, outputs):
                        c, d = parameterization.mean(process, look.t)
                        square = _square(c * look.x_t + sign * d * out - x0)
                        ratios.append(square.mean() / look.linear.mean())
                    ratio = torch.stack(ratios)
                    if bool(ratio.isfinite().all()) and float(ratio.max()) <= MARGIN:
                        yield _other(float(torch.log(ratio).mean() / 2), own, parameterization, turned, sign)


def _other(
    score: float, own: AffineParameterization, other: AffineParameterization, turned: bool, sign: float
) -> _Other:
    names, settings = [], []
    if other.prediction != own.prediction or sign < 0:
        names.append("the kind of prediction")
    if other.time != own.time or turned:
        names.append("the time convention")
    if other.scale_input != own.scale_input:
        names.append("the scaling of the input")
    for name in ("prediction", "time", "scale_input"):
        if getattr(other, name) != getattr(own, name):
            settings.append(f"{name}={getattr(other, name)!r} in place of {getattr(own, name)!r}")
    if turned:
        settings.append("the time told in reverse, its end less the time")
    if sign < 0:
        settings.append("the sign of the output turned")
    what = " and ".join(", ".join(names).rsplit(", ", 1)) if len(names) > 1 else names[0]
    verb = "look" if len(names) > 1 else "looks"
    sentence = f"{what[0].upper()}{what[1:]} {verb} wrong: with {' and '.join(settings)}"
    return _Other(score, len(settings), sentence)


def _elsewhere(
    denoiser: NetworkDenoiser, x0: Tensor, bad: bool
) -> Iterator[tuple[str, NetworkDenoiser, Tensor, float]]:
    """The same network on data of another range, if it is bad on these, and with other tables of β."""
    process, low, high = denoiser.process, float(x0.min()), float(x0.max())
    if bad:
        sentence = (
            f"The range of the data looks wrong: scaled from [{low:.3g}, {high:.3g}] to [-1, 1] they are denoised."
        )
        yield sentence, denoiser, 2 * (x0 - low) / (high - low) - 1, BETTER_THAN_WORSE
    if isinstance(process, DDPM):
        for betas in (linear_betas, scaled_linear_betas, cosine_betas):
            other = DDPM(betas(process.steps))
            if other != process:
                sentence = (
                    f"The process looks wrong: with DDPM({betas.__name__}({process.steps})) the error is smaller."
                )
                yield sentence, replace(denoiser, process=other, counter=EvaluationCounter()), x0, BETTER_TABLE
