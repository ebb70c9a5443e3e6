"""How long a demo will take, from a few steps on this machine that are thrown away."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .. import metrics, training
from .._duration import duration
from ..data import Dataset
from ..distributions import Noise
from ..metrics import Features
from ..training import Config, Learner
from ..training.learner import precision
from .comparisons import Trial

TRIED = 4
"""Steps and calls that are timed; one more of each comes before, which makes room in memory."""


@dataclass(frozen=True)
class Forecast:
    """Seconds that are expected.

    Args:
        training: of the steps that are left.
        sampling: of all samplers.
        measuring: of all measures.
    """

    training: float
    sampling: float
    measuring: float

    def __str__(self) -> str:
        """A sentence, with the hour at which it will be done."""
        whole = self.training + self.sampling + self.measuring
        done = time.strftime("%H:%M", time.localtime(time.time() + whole))
        parts = [("training", self.training), ("sampling", self.sampling), ("measuring", self.measuring)]
        told = ", ".join(f"{duration(math.ceil(seconds))} of {name}" for name, seconds in parts if seconds)
        return f"this will take about {duration(math.ceil(whole))} ({told}): done at {done}"


def forecast(
    config: Config,
    trials: Sequence[Trial],
    samples: int,
    dataset: Dataset,
    features: Sequence[str | Features],
    *,
    batch: int,
    device: str | None = None,
    spent: float = 0.0,
) -> Forecast:
    """Time a few steps of training, calls of the network, and the measures of one sampler.

    Args:
        config: of the training run.
        trials: the samplers that are compared.
        samples: drawn by each, apart from its share.
        dataset: labelled, with a held-out split.
        features: of the measures.
        batch: samples carried at a time.
        device: where the network computes.
        spent: the share of the training's budget that is spent already, in [0, 1].
    """
    config = training.resolve_config(config, dataset.info)
    size, budget = int(config.batch or 0), config.budget
    with torch.random.fork_rng():
        denoiser, objective = training.build(config, dataset.info)
    place = training.ProcessGroup.join(device).device
    denoiser.network.to(place)
    kind = precision(config.precision, place, denoiser.shape)
    learner = Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=size, precision=kind)
    rows = dataset.train.batch(torch.arange(size) % len(dataset.train))
    step = _seconds(lambda n: learner.step(rows, Noise(0, size, draw=n), number=n, rate=0.0))
    asked = denoiser.given(label=torch.arange(batch) % len(dataset.info.classes))
    x = torch.zeros(batch, *denoiser.shape, device=place)
    with torch.no_grad():
        call = _seconds(lambda n: asked(x, denoiser.process.t_max / n))
    calls = sum(trial.count(samples) / batch * trial.evaluations for trial in trials)
    real = dataset.train.batch(torch.arange(samples) % len(dataset.train))
    begun = time.monotonic()
    metrics.evaluate(real["x"], real.get("label"), dataset, features=features, progress=False)
    measured = time.monotonic() - begun
    seconds = 60.0 * budget.minutes if budget.minutes is not None else step * (budget.steps or 0)
    return Forecast((1 - spent) * seconds, calls * call, len(trials) * measured)


def _seconds(work: Callable[[int], object]) -> float:
    """The median over a few calls of ``work(n)``, n = 1, 2, …, without the first."""
    taken = []
    for n in range(1, TRIED + 2):
        begun = time.perf_counter()
        work(n)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])
