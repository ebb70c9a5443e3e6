"""What can be trained: denoisers, codecs, generators, normalizing flows, noisy classifiers.

A family resolves what a configuration leaves open, and makes the untrained model with its objective. A new one is a
subclass and a line of ``from_scratch.py``.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import nn, objectives, processes
from .._errors import UserError
from ..data import DataInfo
from ..denoisers import Generator, NoisyClassifier, NormalizingFlow, Parameterization, make_denoiser, time_range
from ..models.codec import Autoencoder
from ..objectives import Objective
from ..processes import Process, ScalarGaussian
from ..storage.untrusted import parse_json
from .config import Config, NetworkConfig, ObjectiveConfig, PredictionConfig, ProcessConfig
from .defaults import Defaults, defaults_of
from .model_types import default_process, model_type_of, rms

RESERVED = {"name", "shape", "times"}
"""What is no option of anything."""


@dataclass(frozen=True)
class ResolvedParts:
    """The parts of a configuration that depend on what is trained."""

    network: NetworkConfig
    process: ProcessConfig
    prediction: PredictionConfig
    objective: ObjectiveConfig


class Family(ABC):
    """One kind of model to train: how its configuration is resolved, and how the model and its objective are made."""

    def defaults(self, config: Config, data: DataInfo) -> Defaults:
        """The numbers of a run that suit the data."""
        return defaults_of(data)

    @abstractmethod
    def resolve(self, config: Config, data: DataInfo) -> ResolvedParts:
        """What was left open, chosen for the data.

        Raises:
            UserError: for a request that cannot be met.
        """

    @abstractmethod
    def model(self, config: Config, data: DataInfo) -> Any:
        """The untrained model of a resolved configuration."""

    def objective(self, config: Config) -> Objective:
        """The objective of a resolved configuration."""
        return objectives.create_objective({"name": config.objective.name, **config.objective.options})

    def build(self, config: Config, data: DataInfo) -> tuple[Any, Objective]:
        """The untrained model, prepared, and its objective.

        Weights come from torch's global generator, which the caller seeds.
        """
        objective, model = self.objective(config), self.model(config, data)
        objective.check(model)
        return objective.prepare(model), objective


class Denoisers(Family):
    """A denoiser on a process, of a kind of ``model_types``."""

    def resolve(self, config: Config, data: DataInfo) -> ResolvedParts:
        if config.objective.name in objectives.TIMELESS:
            raise UserError(f"objective {config.objective.name!r} learns a codec: give --network.name vae")
        name = config.process.name or default_process(data)
        kind = model_type_of(name)
        kind.check(name, data)
        process = ProcessConfig(name, kind.options(decode(config.process.options), data))
        config = replace(config, process=process)
        prediction = kind.prediction(config, data)
        objective = replace(config.objective, times_options=decode(config.objective.times_options))
        objective = kind.objective(objective, prediction)
        made = _network(config, kind.make_parameterization(prediction, data), data)
        return ResolvedParts(made, process, prediction, objective)

    def objective(self, config: Config) -> Objective:
        return timed(config)

    def model(self, config: Config, data: DataInfo) -> Any:
        process = _process(config)
        parameterization = model_type_of(str(config.process.name)).make_parameterization(config.prediction, data)
        parameterization.check(process)
        network = nn.create_network({"name": config.network.name, **config.network.options})
        network.check_shape(parameterization.network_shapes(process, data.shape)[0])
        variance = config.prediction.variance
        made = make_denoiser(network, process, parameterization, data.shape, variance=variance, data=data)
        _check_magnitude(process, data)
        return made


class Plain(Family):
    """A family without a process, a prediction and times: codecs, generators, normalizing flows."""

    name: str
    """The objective, if none is named."""
    what: str
    """What is trained, in words."""

    def check(self, config: Config, data: DataInfo) -> None:
        """Refuse settings that are of denoisers alone."""
        plain, o = Config(), config.objective
        for name, given in (("process", config.process), ("prediction", config.prediction)):
            if given != getattr(plain, name):
                raise UserError(f"--{name} is a setting of denoisers: {self.what}")
        if o.name not in (None, self.name) or o.times is not None or o.times_options:
            raise UserError(f"{self.what}: it is learned by objective {self.name!r}, which has no times")
        if data.tokens:
            raise UserError(f"{self.what}, for data of real numbers; got {data!r}")

    def resolve(self, config: Config, data: DataInfo) -> ResolvedParts:
        self.check(config, data)
        objective = replace(config.objective, name=self.name, options=decode(config.objective.options))
        return ResolvedParts(self.network(config, data), config.process, config.prediction, objective)

    @abstractmethod
    def network(self, config: Config, data: DataInfo) -> NetworkConfig:
        """The network, resolved."""


class Codecs(Plain):
    """An autoencoder."""

    name, what = "elbo", "network 'vae' is a codec"

    def network(self, config: Config, data: DataInfo) -> NetworkConfig:
        if not data.is_image:
            raise UserError(f"network {config.network.name!r} is for images, got data {data!r}")
        return _as_config(nn.default(data.shape, name=config.network.name, **decode(config.network.options)))

    def model(self, config: Config, data: DataInfo) -> Any:
        return Autoencoder(nn.create_network({"name": config.network.name, **config.network.options}), data)


class Generators(Plain):
    """The generator of a GAN, with the discriminator it learns from."""

    name, what = "gan", "objective 'gan' learns a generator"

    def resolve(self, config: Config, data: DataInfo) -> ResolvedParts:
        resolved = super().resolve(config, data)
        options: dict[str, Any] = dict(resolved.objective.options)
        asked = options.pop("discriminator", {})
        if not isinstance(asked, Mapping):
            raise UserError(f"objective.options discriminator must be a mapping of network settings, got {asked!r}")
        told: Any = resolved.network.options.get("conditions", {})
        options["discriminator"] = nn.default(
            data.shape, **{"name": scalars(data), "conditions": told, "out_channels": 1, "time_range": UNIT, **asked}
        )
        return replace(resolved, objective=replace(resolved.objective, options=options))

    def network(self, config: Config, data: DataInfo) -> NetworkConfig:
        options = {"time_range": UNIT, **decode(config.network.options)}
        sizes = conditions(options, data, config.network.name)
        return _as_config(nn.default(data.shape, sizes, name=config.network.name, **options))

    def objective(self, config: Config) -> Objective:
        options = {key: value for key, value in config.objective.options.items() if key != "discriminator"}
        return objectives.create_objective({"name": config.objective.name, **options})

    def model(self, config: Config, data: DataInfo) -> Any:
        network = nn.create_network({"name": config.network.name, **config.network.options})
        network.check_shape(data.shape)
        discriminator: Any = config.objective.options["discriminator"]
        network.discriminator = nn.create_network(discriminator)
        return Generator(network, data)


class NormalizingFlows(Plain):
    """A normalizing flow, by its likelihood."""

    name, what = "maximum-likelihood", "network 'coupling' is a normalizing flow"

    def network(self, config: Config, data: DataInfo) -> NetworkConfig:
        if len(data.shape) != 1:
            raise UserError(f"network 'coupling' is for points, got data {data!r}")
        if config.network.name not in (None, *nn.FLOWS):
            raise UserError(
                f"objective 'maximum-likelihood' learns a network with a density, {', '.join(nn.FLOWS)}, got "
                f"{config.network.name!r}"
            )
        options = decode(config.network.options)
        sizes = conditions(options, data, config.network.name or "coupling")
        return _as_config(nn.default(data.shape, sizes, name=config.network.name or "coupling", **options))

    def model(self, config: Config, data: DataInfo) -> Any:
        network = nn.create_network({"name": config.network.name, **config.network.options})
        network.check_shape(data.shape)
        return NormalizingFlow(network, data)


class OfNoisyData(Family):
    """What reads noisy data and makes none: resolved alike but for its network."""

    name: str
    """The objective."""
    what: str
    """What it learns, in words."""

    @abstractmethod
    def network(self, config: Config, data: DataInfo) -> NetworkConfig:
        """The network, resolved.

        Raises:
            UserError: for data or settings that it is not for.
        """

    @abstractmethod
    def make(self, network: Any, process: Process, config: Config, data: DataInfo) -> Any:
        """The model of a network."""

    def resolve(self, config: Config, data: DataInfo) -> ResolvedParts:
        network = self.network(config, data)
        if config.prediction != replace(PredictionConfig(), sigma_data=config.prediction.sigma_data):
            raise UserError(f"--prediction is a setting of denoisers: objective {self.name!r} learns {self.what}")
        name = config.process.name or "edm"
        options = decode(config.process.options)
        if not isinstance(processes.create_process({"name": name, **options}), ScalarGaussian):
            raise UserError(f"objective {self.name!r} needs a process x_t = αx_0 + σε, got {name!r}")
        prediction = replace(config.prediction, sigma_data=rms(config, data))
        o, law = config.objective, decode(config.objective.times_options)
        if o.times is None:  # from noise that hides nothing to noise that hides what is to be recognised
            law = {"mean": math.log(prediction.sigma_data or 1.0), "std": 1.5, **law}
        objective = replace(o, times=o.times or "log-normal", times_options=law, options=decode(o.options))
        return ResolvedParts(network, ProcessConfig(name, options), prediction, objective)

    def objective(self, config: Config) -> Objective:
        return timed(config)

    def model(self, config: Config, data: DataInfo) -> Any:
        network = nn.create_network({"name": config.network.name, **config.network.options})
        network.check_shape(data.shape)
        made = self.make(network, _process(config), config, data)
        _check_magnitude(made.process, data)
        return made


class Classifiers(OfNoisyData):
    """A classifier of noisy data."""

    name, what = "cross-entropy", "a classifier"

    def network(self, config: Config, data: DataInfo) -> NetworkConfig:
        if not data.classes or data.tokens:
            raise UserError(f"objective 'cross-entropy' learns the classes of real data, got data {data!r}")
        network = {"out_channels": len(data.classes), **decode(config.network.options)}
        if network["out_channels"] != len(data.classes):
            raise UserError(f"network.options out_channels must be the {len(data.classes)} classes of the data")
        if config.network.name not in (None, scalars(data)):
            raise UserError(
                f"network of a classifier of these data must be {scalars(data)}, got {config.network.name!r}"
            )
        return _as_config(nn.default(data.shape, name=scalars(data), **network))

    def make(self, network: Any, process: Process, config: Config, data: DataInfo) -> Any:
        return NoisyClassifier(network, process, data, float(config.prediction.sigma_data or 0.0))


UNIT = (0.0, 1.0)
"""Where the times lie that generators and discriminators are told."""


def scalars(data: DataInfo) -> str:
    """The network that makes a few numbers of an event."""
    if data.is_image:
        return "encoder"
    if len(data.shape) == 1:
        return "mlp"
    raise UserError(f"a classifier or discriminator is of points or images, got data {data!r}")


def conditions(options: dict[str, Any], data: DataInfo, network: str | None) -> Mapping[str, int]:
    """The conditions that a network is to take, taken out of its options: those of the data, or some of them.

    Raises:
        UserError: for others than those of the data, or one that a network of this name (None is the one that suits the
            data) cannot take, with both ways out.
    """
    known, sizes = data.condition_sizes, options.pop("conditions", data.condition_sizes)
    if not isinstance(sizes, Mapping) or any(size not in (0, known.get(name)) for name, size in sizes.items()):
        raise UserError(f"network.options conditions must be some of those of the data, {known}, got {sizes}")
    axes = 2 if data.tokens and len(data.shape) == 1 else len(data.shape)  # tokens come one-hot
    name = network or nn.SUITS.get(axes)
    if name not in nn.BACKBONES and name not in nn.FLOWS:  # refused further on, with what is accepted
        return sizes
    (takes, more), pictures = nn.takes(str(name)), options.get("pictures", {})
    takes = (
        *takes,
        *(key for key in more if isinstance(pictures, Mapping) and pictures.get(key, "beside") != "beside"),
    )
    left = [key for key, size in sizes.items() if size and key not in takes]
    if not left:
        return sizes
    encoded = json.dumps(dict.fromkeys((key for key in left if key in more), "encoder"))
    kept = json.dumps({key: size for key, size in sizes.items() if size and key in takes})
    read = f"--network.options pictures '{encoded}' to read by an encoder, or " if encoded != "{}" else ""
    some, too = (", ".join(takes), " too") if takes else ("no conditions", "")
    raise UserError(
        f"network {name!r} takes {some}, but data {data.name!r} have {', '.join(left)}{too}; give {read}"
        f"--network.options conditions '{kept}' to leave {'it' if len(left) == 1 else 'them'} out"
    )


def decode(options: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON where they are JSON, else as the text they are."""

    def value(text: Any) -> Any:
        try:
            return parse_json(text.encode()) if isinstance(text, str) else text
        except ValueError:
            return text

    for key in RESERVED & options.keys():
        raise UserError(f"options have no {key!r}: it has a setting of its own")
    return {key: value(text) for key, text in options.items()}


def _as_config(made: Mapping[str, Any]) -> NetworkConfig:
    return NetworkConfig(str(made["name"]), {key: value for key, value in made.items() if key != "name"})


def timed(config: Config) -> Objective:
    """An objective at times of a law."""
    times: dict[str, Any] = {"name": config.objective.times, **config.objective.times_options}
    if config.objective.stratified:
        times = {"name": "stratified", "of": times}
    return objectives.create_objective({"name": config.objective.name, "times": times, **config.objective.options})


def _network(config: Config, parameterization: Parameterization, data: DataInfo) -> NetworkConfig:
    options = decode(config.network.options)
    process = _process(config)
    parameterization.check(process)
    known = time_range(parameterization.time, process)
    if known is not None:
        options.setdefault("time_range", known)
    if config.network.name in nn.ENCODERS:
        raise UserError(f"network {config.network.name!r} returns a few numbers, not an image: it is no denoiser")
    sizes = conditions(options, data, config.network.name)
    shape, channels = parameterization.network_shapes(process, data.shape)
    options.setdefault("out_channels", channels * (1 if config.prediction.variance is None else 2))
    return _as_config(nn.default(shape, sizes, name=config.network.name, **options))


def _process(config: Config) -> Process:
    return processes.create_process({"name": config.process.name, **config.process.options})


TOO_SMALL, TOO_LARGE = 0.1, 10.0
"""Spread of the data over the least noise, at least: below, the last step of a sampler is wider than the data. Their
root mean square over the most noise, at most: NCSN's published levels, where Langevin steps start, are half of it."""


def _check_magnitude(process: Process, data: DataInfo) -> None:
    """Refuse data that are all the same, far too large for the most noise to cover, or far too small for the least.

    A state is α x_0 + σ ε. At t = 1 little may be left of the data, at the end the noise that is left must not be far
    wider than the data.
    """
    if data.mean is None or data.cov is None or data.tokens:
        return
    std, size = data.std, math.sqrt(float(data.variance.mean() + data.mean.square().mean()))
    if std <= 1e-7 * size:  # what float32 tells apart
        raise UserError(f"the training examples of data {data.name!r} are all the same: there is nothing to learn")
    if not isinstance(process, ScalarGaussian):
        return
    ends = torch.tensor([process.t_min, 1.0], dtype=torch.float64)
    low, high = (process.sigma(ends) / process.alpha(ends)).tolist()
    larger = size > TOO_LARGE * high
    if larger or std < TOO_SMALL * low:
        raise UserError(
            f"data {data.name!r} are far {'larger' if larger else 'smaller'} than the noise of {process}: their "
            f"root mean square is {size:.3g}, their standard deviation {std:.3g}, the noise goes from {low:.3g} to "
            f"{high:.3g}; scale the data to a mean of about 0 and a standard deviation of about 1"
        )
