"""Published ways to train, as configurations made for data."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

from .._errors import unknown
from ..data import Dataset
from ..processes import NoiseLevels
from .config import Config, EMAConfig, ObjectiveConfig, PredictionConfig, ProcessConfig
from .resolve import resolve_config

SHELLS = 16
"""Coordinates above which an event shows by itself how noisy it is: its noise lies on a thin shell."""


def _finest(dataset: Dataset) -> float:
    """σ_L: 0.01 for images in [0, 1], here a hundredth of the range, or of two standard deviations without one."""
    info = dataset.info
    return 0.01 * (2 * info.std if info.low is None or info.high is None else info.high - info.low)


def _levels(levels: NoiseLevels, prediction: PredictionConfig, batch: int | None) -> Config:
    start = levels.process()
    options: dict[str, Any] = {"first": levels.first, "last": levels.last, "count": levels.count}
    scales: dict[str, Any] = {"sigma_min": start.sigma_min, "sigma_max": start.sigma_max}
    ema = EMAConfig() if batch is None else EMAConfig("constant", half_life=batch * math.log(2) / 0.001)
    return Config(
        process=ProcessConfig("ve", scales),
        prediction=prediction,
        objective=ObjectiveConfig("dsm", times="levels", times_options=options),
        ema=ema,
    )


def ncsn(dataset: Dataset, batch: int) -> Config:
    """Noise-conditional score networks (arXiv:1907.05600 §5): ten levels from the range of the data to σ_L.

    The network gives the score itself and is told the level; the loss is denoising score matching with λ = σ².
    """
    last = _finest(dataset)
    return _levels(NoiseLevels(100 * last, last, 10), PredictionConfig("score", scale_input=False), None)


def ncsnv2(dataset: Dataset, batch: int) -> Config:
    """NCSN with the five techniques of arXiv:2006.09011.

    σ_1 is the largest distance between two events (1), the levels overlap by ``level_ratio`` (2), the score is
    s(x)/σ with a network that is not told the level (3), and the weights' moving average keeps 0.999 a step (5); the
    step of technique 4 is the sampler's, ``annealed-langevin``. In 16 coordinates or less a point does not show how
    noisy it is, and the network is told the level after all.
    """

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\rlargest distance: {done}/{total}", end="\n" if done == total else "", file=sys.stderr)

    x = dataset.train.all()["x"]
    levels = NoiseLevels.of(x, _finest(dataset), progress=progress if x.numel() > 10**7 else None)
    blind = math.prod(dataset.info.shape) > SHELLS
    prediction = PredictionConfig("eps", time="none", scale_input=False) if blind else PredictionConfig("eps")
    return _levels(levels, prediction, batch)


RECIPES: dict[str, Callable[[Dataset, int], Config]] = {"ncsn": ncsn, "ncsnv2": ncsnv2}
"""Recipes by name: a data set and the size of a batch in, what the paper chose out."""


def recipe(name: str, dataset: Dataset, config: Config | None = None) -> Config:
    """The configuration of a published recipe for data, under what ``config`` asks for itself.

    Args:
        name: ``ncsn`` or ``ncsnv2``.
        dataset: its training split is what levels are found from.
        config: what differs from ``Config()`` is kept.

    Raises:
        UserError: for an unknown name.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    asked = Config() if config is None else config
    batch = asked.batch or resolve_config(Config(), dataset.info).batch
    assert batch is not None
    made: Config = _under(asked, RECIPES[name](dataset, batch), Config())
    return made


def _under(asked: Any, given: Any, plain: Any) -> Any:
    """What was asked where it is not the default, else what was given."""
    if dataclasses.is_dataclass(asked) and not isinstance(asked, type):
        names = [f.name for f in dataclasses.fields(given)]
        parts = {n: _under(getattr(asked, n), getattr(given, n), getattr(plain, n)) for n in names}
        return dataclasses.replace(asked, **parts)
    if isinstance(asked, dict) and isinstance(given, dict):
        return {**given, **asked}
    return given if asked == plain else asked
