"""The kinds of models the trainer knows: which processes each is for, and what is chosen where a run leaves it open."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from .._errors import UserError
from .._registry import lookup
from ..data import Data
from ..denoisers import LevelReading, PhaseReading, Reader, Reading, TokenReading
from ..processes import Chain, PhaseSpace, Process, ScalarGaussian
from .config import Config, ObjectiveConfig, PredictionConfig


class Kind(ABC):
    """A kind of model. A new one is a subclass and a row of ``KINDS``.

    Attributes:
        process: the processes it is for.
        reading: how its networks are read.
        default: the process taken when none is named.
    """

    process: ClassVar[type[Process]]
    reading: ClassVar[type[Reader]]
    default: ClassVar[str]

    @abstractmethod
    def check(self, process: str, data: Data) -> None:
        """Refuse data that a process of this kind is not for."""

    def options(self, options: Mapping[str, Any], data: Data) -> dict[str, Any]:
        """The settings of the process, with what the data say."""
        return dict(options)

    @abstractmethod
    def prediction(self, config: Config, data: Data) -> PredictionConfig:
        """What the network is asked for, settled."""

    @abstractmethod
    def objective(self, config: ObjectiveConfig, prediction: PredictionConfig) -> ObjectiveConfig:
        """What is made small and at which times, settled but for the decoding of options."""

    @abstractmethod
    def reader(self, prediction: PredictionConfig, data: Data) -> Reader:
        """The reading of a settled prediction."""


class Real(Kind):
    """Real data under x_t = αx_0 + σε."""

    process: ClassVar[type[Process]] = ScalarGaussian  # type: ignore[type-abstract]
    reading: ClassVar[type[Reader]] = Reading
    default = "edm"

    def check(self, process: str, data: Data) -> None:
        if data.tokens:
            chains = "a chain such as absorbing or uniform"
            raise UserError(f"process.name must be {chains} for the tokens of {data.name!r}, got {process!r}")

    def prediction(self, config: Config, data: Data) -> PredictionConfig:
        rms = config.prediction.data_std
        if rms is None:
            if data.mean is None:
                raise UserError(f"prediction.data-std must be given: the moments of data {data.name!r} are unknown")
            rms = math.sqrt(float(data.variance.mean()) + float((data.mean**2).mean()))
        if not 0 < rms < math.inf:
            raise UserError(f"prediction.data-std must be a number > 0, got {rms}")
        name = config.prediction.name or ("flow" if config.process.name == "flow" else "edm")
        return replace(config.prediction, name=name, time=config.prediction.time or "log_sigma", data_std=rms)

    def objective(self, config: ObjectiveConfig, prediction: PredictionConfig) -> ObjectiveConfig:
        times, options = config.times, dict(config.times_options)
        if prediction.name == "levels":
            return replace(config, name=config.name or "likelihood", times=times or "likelihood-importance")
        if times is None:
            # A bound is an integral over all times, not over those of another law.
            own = {"likelihood": "likelihood-importance", "vdm": "uniform"}.get(str(config.name))
            times = own or ("log-normal" if prediction.name == "edm" else "uniform")
            if times == "log-normal" and "mean" not in options:
                # The published −1.2 is for data of RMS ½; noise matters in proportion to the data.
                options["mean"] = -1.2 + math.log((prediction.data_std or 0.5) / 0.5)  # type: ignore[assignment]
        return replace(config, name=config.name or "simple", times=times, times_options=options)

    def reader(self, prediction: PredictionConfig, data: Data) -> Reader:
        std = float(prediction.data_std or 0.0)
        if prediction.name == "levels":
            if data.levels is None or data.low is None or data.high is None:
                raise UserError(f"prediction 'levels' needs data with levels, which {data.name!r} are not")
            return LevelReading("levels", data.levels, data.low, data.high, std, str(prediction.time))
        made: Callable[..., Reader] = self.reading
        return made(str(prediction.name), std, str(prediction.time), prediction.scale_input)


class Phase(Real):
    """Real data with a velocity."""

    process = PhaseSpace
    reading = PhaseReading
    default = "phase-space"


class Tokens(Kind):
    """Tokens under a chain."""

    process = Chain
    reading = TokenReading
    default = "absorbing"

    def check(self, process: str, data: Data) -> None:
        if not data.tokens:
            got = f"got {process!r}, a chain on tokens"
            raise UserError(f"process.name must be one of real numbers, such as edm, for the data {data.name!r}, {got}")

    def options(self, options: Mapping[str, Any], data: Data) -> dict[str, Any]:
        count = len(data.tokens)
        if options.get("classes", count) != count:
            raise UserError(f"process.options classes must be that of the data, {count}, got {options['classes']}")
        return {**options, "classes": count}

    def prediction(self, config: Config, data: Data) -> PredictionConfig:
        asked = config.prediction
        if asked.data_std is not None or not asked.scale_input:
            raise UserError("prediction.data-std and prediction.scale-input are settings of real data, not of tokens")
        return replace(asked, name=asked.name or TokenReading.prediction, time=asked.time or TokenReading.time)

    def objective(self, config: ObjectiveConfig, prediction: PredictionConfig) -> ObjectiveConfig:
        options = dict(config.times_options)
        if config.times is None:
            options.setdefault("low", 1e-9)  # type: ignore[arg-type]
        return replace(config, name=config.name or "d3pm", times=config.times or "uniform", times_options=options)

    def reader(self, prediction: PredictionConfig, data: Data) -> TokenReading:
        return TokenReading(str(prediction.name), str(prediction.time))


class OnLevels(Real):
    """Real data of a few levels, whose belief is a law of these: ``Real`` with the prediction ``levels``."""

    reading = LevelReading


KINDS: dict[str, Kind] = {kind.reading.kind: kind for kind in (Real(), Tokens(), Phase(), OnLevels())}
"""The kinds of models, by the name a model directory calls them."""


def default_process(data: Data) -> str:
    """The process taken when none is named: that of the first kind that takes the data."""
    return KINDS["tokens" if data.tokens else "denoiser"].default


def kind_of(process: str) -> Kind:
    """The kind of model a registered process is trained with."""
    made = lookup("processes", process).make
    for kind in KINDS.values():
        if isinstance(made, type) and issubclass(made, kind.process):
            return kind
    raise UserError(f"training needs a process x_t = αx_0 + σε, phase space or a chain on tokens, got {process!r}")
