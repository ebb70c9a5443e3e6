"""The kinds of models the trainer knows: which processes each is for, and what is chosen where a run leaves it open."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from .._errors import UserError
from .._registry import lookup
from ..data import DataInfo
from ..denoisers import (
    AffineParameterization,
    LevelParameterization,
    LevyParameterization,
    Parameterization,
    PhaseParameterization,
    TokenParameterization,
)
from ..processes import Chain, LevyNoise, PhaseSpace, Process, ScalarGaussian
from .config import Config, ObjectiveConfig, PredictionConfig


def rms(config: Config, data: DataInfo) -> float:
    """The RMS of the data a coordinate, as given or measured."""
    given = config.prediction.sigma_data
    if given is None:
        if data.mean is None:
            raise UserError(f"prediction.sigma-data must be given: the moments of data {data.name!r} are unknown")
        given = math.sqrt(float(data.variance.mean()) + float((data.mean**2).mean()))
    if not 0 < given < math.inf:
        raise UserError(f"prediction.sigma-data must be a number > 0, got {given}")
    return given


class Kind(ABC):
    """A kind of model. A new one is a subclass and a row of ``MODEL_TYPES``.

    Attributes:
        process: the processes it is for.
        parameterization: how its networks are read.
        default: the process taken when none is named.
    """

    process: ClassVar[type[Process]]
    parameterization: ClassVar[type[Parameterization]]
    default: ClassVar[str]

    @abstractmethod
    def check(self, process: str, data: DataInfo) -> None:
        """Refuse data that a process of this kind is not for."""

    def options(self, options: Mapping[str, Any], data: DataInfo) -> dict[str, Any]:
        """The settings of the process, with what the data say."""
        return dict(options)

    @abstractmethod
    def prediction(self, config: Config, data: DataInfo) -> PredictionConfig:
        """What the network is asked for, resolved."""

    @abstractmethod
    def objective(self, config: ObjectiveConfig, prediction: PredictionConfig) -> ObjectiveConfig:
        """What is made small and at which times, resolved but for the decoding of options."""

    @abstractmethod
    def make_parameterization(self, prediction: PredictionConfig, data: DataInfo) -> Parameterization:
        """The parameterization of a resolved prediction."""


class Real(Kind):
    """Real data under x_t = αx_0 + σε."""

    process: ClassVar[type[Process]] = ScalarGaussian
    parameterization: ClassVar[type[Parameterization]] = AffineParameterization
    default = "edm"

    def check(self, process: str, data: DataInfo) -> None:
        if data.tokens:
            chains = "a chain such as absorbing or uniform"
            raise UserError(f"process.name must be {chains} for the tokens of {data.name!r}, got {process!r}")

    def prediction(self, config: Config, data: DataInfo) -> PredictionConfig:
        name = config.prediction.name or ("flow" if config.process.name == "flow" else "edm")
        return replace(
            config.prediction, name=name, time=config.prediction.time or "log_sigma", sigma_data=rms(config, data)
        )

    def objective(self, config: ObjectiveConfig, prediction: PredictionConfig) -> ObjectiveConfig:
        times = config.times
        options: dict[str, Any] = dict(config.times_options)
        if prediction.name == "levels":
            return replace(config, name=config.name or "likelihood", times=times or "likelihood-importance")
        if times is None:
            # A bound is an integral over all times, not over those of another law.
            own = {"likelihood": "likelihood-importance", "vdm": "uniform"}.get(str(config.name))
            times = own or ("log-normal" if prediction.name == "edm" else "uniform")
            if times == "log-normal" and "mean" not in options:
                # The published −1.2 is for data of RMS ½; noise matters in proportion to the data.
                options["mean"] = -1.2 + math.log((prediction.sigma_data or 0.5) / 0.5)
        return replace(config, name=config.name or "simple", times=times, times_options=options)

    def make_parameterization(self, prediction: PredictionConfig, data: DataInfo) -> Parameterization:
        std = float(prediction.sigma_data or 0.0)
        if prediction.name == "levels":
            if data.levels is None or data.low is None or data.high is None:
                raise UserError(f"prediction 'levels' needs data with levels, which {data.name!r} are not")
            return LevelParameterization("levels", data.levels, data.low, data.high, std, str(prediction.time))
        made: Callable[..., Parameterization] = self.parameterization
        return made(str(prediction.name), std, str(prediction.time), prediction.scale_input)


class Phase(Real):
    """Real data with a velocity."""

    process = PhaseSpace
    parameterization = PhaseParameterization
    default = "phase-space"


class Levy(Real):
    """Real data under noise of other shapes than normal."""

    process = LevyNoise
    parameterization = LevyParameterization
    default = "gamma"


class Tokens(Kind):
    """Tokens under a chain."""

    process = Chain
    parameterization = TokenParameterization
    default = "absorbing"

    def check(self, process: str, data: DataInfo) -> None:
        if not data.tokens:
            got = f"got {process!r}, a chain on tokens"
            raise UserError(f"process.name must be one of real numbers, such as edm, for the data {data.name!r}, {got}")

    def options(self, options: Mapping[str, Any], data: DataInfo) -> dict[str, Any]:
        count = len(data.tokens)
        if options.get("classes", count) != count:
            raise UserError(f"process.options classes must be that of the data, {count}, got {options['classes']}")
        return {**options, "classes": count}

    def prediction(self, config: Config, data: DataInfo) -> PredictionConfig:
        asked = config.prediction
        if asked.sigma_data is not None or not asked.scale_input:
            raise UserError("prediction.sigma-data and prediction.scale-input are settings of real data, not of tokens")
        return replace(
            asked, name=asked.name or TokenParameterization.prediction, time=asked.time or TokenParameterization.time
        )

    def objective(self, config: ObjectiveConfig, prediction: PredictionConfig) -> ObjectiveConfig:
        options: dict[str, Any] = dict(config.times_options)
        if config.times is None:
            options.setdefault("low", 1e-9)
        return replace(config, name=config.name or "d3pm", times=config.times or "uniform", times_options=options)

    def make_parameterization(self, prediction: PredictionConfig, data: DataInfo) -> TokenParameterization:
        return TokenParameterization(str(prediction.name), str(prediction.time))


class OnLevels(Real):
    """Real data of a few levels, whose belief is a law of these: ``Real`` with the prediction ``levels``."""

    parameterization = LevelParameterization


MODEL_TYPES: dict[str, Kind] = {
    kind.parameterization.kind: kind for kind in (Real(), Tokens(), Phase(), Levy(), OnLevels())
}
"""The kinds of models, by the name a model directory calls them."""


def default_process(data: DataInfo) -> str:
    """The process taken when none is named: that of the first kind that takes the data."""
    return MODEL_TYPES["tokens" if data.tokens else "denoiser"].default


def model_type_of(process: str) -> Kind:
    """The kind of model a registered process is trained with."""
    made = lookup("processes", process).make
    for kind in MODEL_TYPES.values():
        if isinstance(made, type) and issubclass(made, kind.process):
            return kind
    known = "x_t = αx_0 + σε, Lévy noise, phase space or a chain on tokens"
    raise UserError(f"training needs a process {known}, got {process!r}")
