"""From what was asked of a training run to what is trained: what was left open is chosen for the data, and checked."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import nn, objectives, processes
from .._errors import UserError, unknown
from ..data import DataInfo
from ..denoisers import NetworkDenoiser, Parameterization, make_denoiser, time_range
from ..models.codec import Autoencoder
from ..objectives import Objective
from ..processes import Process, ScalarGaussian
from ..storage.untrusted import parse_json
from .budget import period
from .config import Config, NetworkConfig, ObjectiveConfig, PredictionConfig, ProcessConfig
from .model_types import default_process, model_type_of

LARGEST = 2**40
"""Steps, and numbers of steps, at most."""

RESERVED = {"name", "shape", "times"}
"""What is no option of anything."""

HIDDEN = 0.1
"""The share of samples that a condition is hidden from."""

BATCH = 2**24
"""Examples a step at most."""


@dataclass(frozen=True)
class _Suits:
    """What suits a kind of data."""

    batch: int
    lr: float
    steps: int | None
    warmup: int
    every: int | None


def _suits(data: DataInfo) -> _Suits:
    if data.tokens and not data.is_image:
        return _Suits(batch=128, lr=2e-3, steps=4000, warmup=100, every=1000)
    if not data.is_image:
        return _Suits(batch=512, lr=2e-3, steps=4000, warmup=100, every=1000)
    if max(data.shape[1:]) <= 16:
        return _Suits(batch=128, lr=2e-3, steps=1800, warmup=100, every=300)
    # How long follows the speed of the first steps (``budget.choose``): a step may take 10 ms or 10 s.
    return _Suits(batch=64 if max(data.shape[1:]) <= 64 else 32, lr=1e-3, steps=None, warmup=200, every=None)


def resolve_config(config: Config, data: DataInfo) -> Config:
    """The configuration with everything chosen that was left open, and checked.

    For images above 16 pixels the budget and the periods of output stay None unless they are given: ``train`` chooses
    them by the speed of the first steps (``budget.choose``), and a checkpoint holds what was chosen.

    Raises:
        UserError: for a value out of its range, named as it is on the command line.
    """
    suits = _suits(data)
    network, process, prediction, objective = (_codec if config.network.name in nn.CODECS else _denoiser)(config, data)
    budget, every = config.budget, suits.every
    if budget.steps is None and budget.minutes is None:
        budget = replace(budget, steps=suits.steps)
    if every is None and budget.steps is not None:
        every = min(1000, period(budget.steps))
    pick = lambda value, default: default if value is None else value
    settled = replace(
        config,
        batch=pick(config.batch, suits.batch),
        network=network,
        process=process,
        prediction=prediction,
        objective=replace(
            objective, options=_decode(config.objective.options), dropout=_dropout(config, network.options)
        ),
        optimiser=replace(
            config.optimiser,
            lr=pick(config.optimiser.lr, suits.lr),
            warmup=pick(config.optimiser.warmup, suits.warmup),
        ),
        budget=budget,
        output=replace(
            config.output,
            validate_every=pick(config.output.validate_every, every),
            sample_every=pick(config.output.sample_every, every),
            checkpoint_every=pick(config.output.checkpoint_every, every),
        ),
    )
    check(settled)
    return settled


_Settled = tuple[NetworkConfig, ProcessConfig, PredictionConfig, ObjectiveConfig]


def _denoiser(config: Config, data: DataInfo) -> _Settled:
    """What is trained as a denoiser."""
    if config.objective.name in objectives.TIMELESS:
        raise UserError(f"objective {config.objective.name!r} learns a codec: give --network.name vae")
    name = config.process.name or default_process(data)
    kind = model_type_of(name)
    kind.check(name, data)
    process = ProcessConfig(name, kind.options(_decode(config.process.options), data))
    config = replace(config, process=process)
    prediction = kind.prediction(config, data)
    objective = replace(config.objective, times_options=_decode(config.objective.times_options))
    objective = kind.objective(objective, prediction)
    return (
        NetworkConfig(*_network(config, kind.make_parameterization(prediction, data), data)),
        process,
        prediction,
        objective,
    )


def _codec(config: Config, data: DataInfo) -> _Settled:
    """What is trained as a codec: without a process, a prediction and times."""
    plain, o = Config(), config.objective
    for name, given in (("process", config.process), ("prediction", config.prediction)):
        if given != getattr(plain, name):
            raise UserError(f"--{name} is a setting of denoisers: network {config.network.name!r} is a codec")
    if o.name not in (None, *objectives.TIMELESS) or o.times is not None or o.times_options:
        raise UserError(f"network {config.network.name!r} is learned by objective 'elbo', which has no times")
    if not data.is_image or data.tokens:
        raise UserError(f"network {config.network.name!r} is for images, got data {data!r}")
    made = nn.default(data.shape, name=config.network.name, **_decode(config.network.options))
    network = NetworkConfig(str(made.pop("name")), made)
    return network, config.process, config.prediction, replace(o, name=o.name or "elbo")


def _network(config: Config, parameterization: Parameterization, data: DataInfo) -> tuple[str, dict[str, Any]]:
    options = _decode(config.network.options)
    process = _process(config)
    parameterization.check(process)
    known = time_range(parameterization.time, process)
    if known is not None:
        options.setdefault("time_range", known)
    known_sizes, sizes = data.condition_sizes, options.pop("conditions", data.condition_sizes)
    if not isinstance(sizes, Mapping) or any(size not in (0, known_sizes.get(name)) for name, size in sizes.items()):
        raise UserError(f"network.options conditions must be some of those of the data, {known_sizes}, got {sizes}")
    shape, channels = parameterization.network_shapes(process, data.shape)
    options.setdefault("out_channels", channels * (1 if config.prediction.variance is None else 2))
    made = nn.default(shape, sizes, name=config.network.name, **options)
    return str(made["name"]), {k: v for k, v in made.items() if k != "name"}


def _dropout(config: Config, network: Mapping[str, Any]) -> dict[str, float]:
    """The share of samples that each condition of the network is hidden from."""
    names = network.get("conditions", {})
    given = config.objective.dropout
    for name in given:
        if name not in names:
            raise unknown("condition (of objective.dropout)", name, names)
    return {name: given.get(name, HIDDEN) for name in names}


def _process(config: Config) -> Process:
    return processes.create_process({"name": config.process.name, **config.process.options})


def _decode(options: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON where they are JSON, else as the text they are."""

    def value(text: Any) -> Any:
        try:
            return parse_json(text.encode()) if isinstance(text, str) else text
        except ValueError:
            return text

    for key in RESERVED & options.keys():
        raise UserError(f"options have no {key!r}: it has a setting of its own")
    return {key: value(text) for key, text in options.items()}


def check(config: Config) -> None:
    """Refuse a settled configuration with a value out of its range.

    Raises:
        UserError: that names the setting as it is called on the command line.
    """

    def need(ok: bool, name: str, value: object, accepted: str) -> None:
        if not ok:
            raise UserError(f"{name} must be {accepted}, got {value!r}")

    whole = lambda v, low, high=LARGEST: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high
    real = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    o, e, b, out = config.optimiser, config.ema, config.budget, config.output
    need(whole(config.seed, 0, 2**64 - 1), "seed", config.seed, "an integer in [0, 2**64)")
    need(whole(config.batch, 1), "batch", config.batch, "an integer of at least 1")
    need(whole(config.batch, 1, BATCH), "batch", config.batch, f"at most {BATCH}")
    named = ("auto", "float32", "bfloat16", "float16")
    need(config.precision in named, "precision", config.precision, "auto, float32, bfloat16 or float16")
    hidden, told = set(config.objective.dropout), set(config.network.options.get("conditions", {}))
    need(hidden == told, "objective.dropout", sorted(hidden), f"of the conditions of the network, {sorted(told)}")
    for name, drop in config.objective.dropout.items():
        need(real(drop) and 0 <= drop <= 1, f"objective.dropout {name}", drop, "in [0, 1]")
    need(real(o.lr) and typing.cast(float, o.lr) > 0, "optimiser.lr", o.lr, "a number > 0")
    need(all(real(v) and 0 <= v < 1 for v in o.betas), "optimiser.betas", o.betas, "two numbers in [0, 1)")
    need(real(o.weight_decay) and o.weight_decay >= 0, "optimiser.weight-decay", o.weight_decay, "a number >= 0")
    need(whole(o.warmup, 0), "optimiser.warmup", o.warmup, "an integer of at least 0")
    need(o.schedule in ("constant", "cosine"), "optimiser.schedule", o.schedule, "constant or cosine")
    clips = o.clip is None or (real(o.clip) and o.clip > 0)
    need(clips, "optimiser.clip", o.clip, "a number > 0, or None")
    need(e.kind in ("power", "constant"), "ema.kind", e.kind, "power or constant")
    need(real(e.width) and 0 < e.width <= 0.28, "ema.width", e.width, "in (0, 0.28]")
    need(real(e.half_life) and e.half_life > 0, "ema.half-life", e.half_life, "a number of images > 0")
    need(b.steps is None or b.minutes is None, "budget", f"{b.steps} steps and {b.minutes} minutes", "one of the two")
    need(b.steps is None or whole(b.steps, 1), "budget.steps", b.steps, "an integer of at least 1")
    need(b.minutes is None or (real(b.minutes) and b.minutes > 0), "budget.minutes", b.minutes, "a number > 0")
    for name in ("log_every", "validate_every", "sample_every", "checkpoint_every"):
        value = getattr(out, name)
        left_open = value is None and name != "log_every"  # until the speed is known
        need(left_open or whole(value, 0), f"output.{name.replace('_', '-')}", value, "a number of steps, 0 for never")
    need(whole(config.work.accumulate, 1), "accumulate", config.work.accumulate, "an integer of at least 1")
    need(whole(config.work.workers, 0), "workers", config.work.workers, "a number of threads, 0 for none")
    need(isinstance(config.work.shard_weights, bool), "shard-weights", config.work.shard_weights, "true or false")
    need(whole(out.validate_on, 1), "output.validate-on", out.validate_on, "an integer of at least 1")
    need(whole(out.keep, 1), "output.keep", out.keep, "an integer of at least 1")


def build(config: Config, data: DataInfo) -> tuple[Any, Objective]:
    """The untrained denoiser (or ``Autoencoder``) and the objective of a settled configuration.

    Weights come from torch's global generator, which the caller seeds.

    Raises:
        UserError: for an unknown name or setting, and for a process, prediction or size that do not go together.
    """
    if config.network.name in nn.CODECS:
        codec: Any = Autoencoder(nn.create_network({"name": config.network.name, **config.network.options}), data)
        objective = objectives.create_objective({"name": config.objective.name, **config.objective.options})
        objective.check(codec)
        return objective.prepare(codec), objective
    process = _process(config)
    parameterization = model_type_of(str(config.process.name)).make_parameterization(config.prediction, data)
    parameterization.check(process)
    times: dict[str, Any] = {"name": config.objective.times, **config.objective.times_options}
    if config.objective.stratified:
        times = {"name": "stratified", "of": times}
    objective = objectives.create_objective({"name": config.objective.name, "times": times, **config.objective.options})
    network = nn.create_network({"name": config.network.name, **config.network.options})
    network.check_shape(parameterization.network_shapes(process, data.shape)[0])
    variance = config.prediction.variance
    denoiser = make_denoiser(network, process, parameterization, data.shape, variance=variance, data=data)
    objective.check(denoiser)
    _check_magnitude(process, data)
    return objective.prepare(denoiser), objective


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


def check_memory(config: Config, data: DataInfo) -> None:
    """Refuse a configuration whose batch does not fit into memory while its network learns data of such a shape.

    Raises:
        UserError: with both numbers; or as ``resolve_config`` and ``build``.
    """
    settled = resolve_config(config, data)
    denoiser, _ = build(settled, data)
    if isinstance(denoiser, NetworkDenoiser):
        assert settled.batch is not None
        denoiser.check_memory(-(-settled.batch // settled.work.accumulate), learning=True)


def changed(asked: Config, settled: Config, data: DataInfo) -> list[str]:
    """The settings a configuration names that differ from a settled one, save those a run may be continued with.

    What stands at its default was not asked for. A budget, output and the division of the work may change from one part
    of a run to the next.
    """
    plain, given, kept = Config().to_dict(), asked.to_dict(), settled.to_dict()
    try:
        same = resolve_config(asked, data).to_dict()  # as a network writes its options: blocks 1 may stand for [1, 1]
    except UserError:
        same = given
    for part in ("budget", "output", "work"):
        plain.pop(part), given.pop(part), kept.pop(part)
    return _differ(plain, given, same, kept, "")


def _differ(
    plain: Mapping[str, Any], given: Mapping[str, Any], same: Mapping[str, Any], kept: Mapping[str, Any], where: str
) -> list[str]:
    found = []
    for key, value in given.items():
        name = f"{where}{key.replace('_', '-')}"
        if key in ("options", "dropout") or key.endswith("_options"):
            for k, v in _decode(value).items():
                if kept[key].get(k) not in (v, same[key].get(k)):
                    found.append(f"{name}.{k} {kept[key].get(k)!r} -> {v!r}")
        elif isinstance(value, Mapping):
            found += _differ(plain[key], value, same[key], kept[key], f"{name}.")
        elif value != plain[key] and value != kept[key]:
            found.append(f"{name} {kept[key]!r} -> {value!r}")
    return found
