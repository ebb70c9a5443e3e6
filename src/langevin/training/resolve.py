"""From what was asked of a training run to what is trained: what was left open is chosen for the data, and checked."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._errors import UserError
from ..data import DataInfo
from ..denoisers import NetworkDenoiser
from ..objectives import Objective
from .budget import period
from .config import Config
from .families import decode
from .pretrained import family_of
from .snapshots import DTYPES, MOST

LARGEST = 2**40
"""Steps, and numbers of steps, at most."""

HIDDEN = 0.1
"""The share of samples that a condition is hidden from."""

BATCH = 2**24
"""Examples a step at most."""


def resolve_config(config: Config, data: DataInfo, base: NetworkDenoiser | None = None) -> Config:
    """The configuration with everything chosen that was left open, and checked.

    For images above 16 pixels the budget and the periods of output stay None unless they are given: ``train`` chooses
    them by the speed of the first steps (``budget.choose``), and a checkpoint holds what was chosen.

    Args:
        config: what is asked.
        data: what is trained on.
        base: the pretrained denoiser, of a run that goes on from one.

    Raises:
        UserError: for a value out of its range, named as it is on the command line.
    """
    family = family_of(config, base)
    defaults, chosen = family.defaults(config, data), family.resolve(config, data)
    budget, every = config.budget, defaults.every
    if budget.steps is None and budget.minutes is None:
        budget = replace(budget, steps=defaults.steps)
    if every is None and budget.steps is not None:
        every = min(1000, period(budget.steps))
    pick = lambda value, default: default if value is None else value
    resolved = replace(
        config,
        batch=pick(config.batch, defaults.batch),
        network=chosen.network,
        process=chosen.process,
        prediction=chosen.prediction,
        objective=replace(
            chosen.objective,
            options=decode(chosen.objective.options),
            dropout=_dropout(config, chosen.network.options),
        ),
        optimiser=replace(
            config.optimiser,
            lr=pick(config.optimiser.lr, defaults.lr),
            warmup=pick(config.optimiser.warmup, defaults.warmup),
        ),
        budget=budget,
        output=replace(
            config.output,
            validate_every=pick(config.output.validate_every, every),
            sample_every=pick(config.output.sample_every, every),
            checkpoint_every=pick(config.output.checkpoint_every, every),
        ),
    )
    check(resolved)
    return resolved


def _dropout(config: Config, network: Mapping[str, Any]) -> dict[str, float]:
    """The share of samples that each condition of the network is hidden from."""
    names = network.get("conditions", {})
    given = config.objective.dropout
    for name in given:
        if name not in names:
            told = ", ".join(names) or "no condition"
            raise UserError(f"objective.dropout {name!r} is of no condition of this network, which takes {told}")
    picture = given.get("image", HIDDEN)  # a mask says something of its picture alone
    return {name: given.get(name, picture if name == "mask" else HIDDEN) for name in names}


def check(config: Config) -> None:
    """Refuse a resolved configuration with a value out of its range.

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
    need(o.name in ("adamw", "muon"), "optimiser.name", o.name, "adamw or muon")
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
    need(whole(e.snapshots, 0, MOST), "ema.snapshots", e.snapshots, f"an integer from 0 (none) to {MOST}")
    need(e.snapshot_precision in DTYPES, "ema.snapshot-precision", e.snapshot_precision, " or ".join(DTYPES))
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


def build(config: Config, data: DataInfo, base: NetworkDenoiser | None = None) -> tuple[Any, Objective]:
    """The untrained model (a denoiser, a codec, a generator, …) and the objective of a resolved configuration.

    Weights come from torch's global generator, which the caller seeds.

    Raises:
        UserError: for an unknown name or setting, and for a process, prediction or size that do not go together.
    """
    return family_of(config, base).build(config, data)


def check_memory(config: Config, data: DataInfo) -> None:
    """Refuse a configuration whose batch does not fit into memory while its network learns data of such a shape.

    Raises:
        UserError: with both numbers; or as ``resolve_config`` and ``build``.
    """
    resolved = resolve_config(config, data)
    denoiser, _ = build(resolved, data)
    if isinstance(denoiser, NetworkDenoiser):
        assert resolved.batch is not None
        denoiser.check_memory(-(-resolved.batch // resolved.work.accumulate), learning=True)


def changed(asked: Config, resolved: Config, data: DataInfo, base: NetworkDenoiser | None = None) -> list[str]:
    """The settings a configuration names that differ from a resolved one, save those a run may be continued with.

    What stands at its default was not asked for. A budget, output and the division of the work may change from one part
    of a run to the next.
    """
    plain, given, kept = Config().to_dict(), asked.to_dict(), resolved.to_dict()
    try:
        same = resolve_config(
            asked, data, base
        ).to_dict()  # as a network writes its options: blocks 1 may stand for [1, 1]
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
            for k, v in decode(value).items():
                if kept[key].get(k) not in (v, same[key].get(k)):
                    found.append(f"{name}.{k} {kept[key].get(k)!r} -> {v!r}")
        elif isinstance(value, Mapping):
            found += _differ(plain[key], value, same[key], kept[key], f"{name}.")
        elif value != plain[key] and value != kept[key]:
            found.append(f"{name} {kept[key]!r} -> {value!r}")
    return found
