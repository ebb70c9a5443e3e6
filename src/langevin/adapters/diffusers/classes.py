"""Which scheduler of diffusers a config is of."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ..._errors import UserError, nearest
from .scheduler_config import ACCEPTED, EDMS, FLOWS, TABLES, accepted, kind_of

DEFAULTED = "_use_default_values"
"""The key under which diffusers notes which settings of a config were not given."""

PLAIN = {"table": "DDIMScheduler", "flow": "FlowMatchEulerDiscreteScheduler", "edm": "EDMEulerScheduler"}
"""The plainest scheduler of each kind."""

OWN = ("sampler", "grid", "moments", "guidance_scale", "return_unused_kwargs")
"""Keywords of ``Scheduler.from_config`` that are no settings."""


def named(config: Mapping[str, Any], made: bool = False) -> dict[str, Any]:
    """A config with the name of its class, which diffusers writes when it saves or loads one, not when it makes one.

    The config of a scheduler that was made has each setting of its class: the class is the accepted one that has these
    and no others, but for what another accepted scheduler left behind; of several, one with the defaults that were
    used, then the first. A config by hand is of the class of its kind that has most of its keys.

    Args:
        config: with a name or without.
        made: whether it is the config of a scheduler, rather than one by hand.

    Raises:
        UserError: for the settings of no accepted class.
    """
    if config.get("_class_name") is not None:
        return dict(config)
    keys = {key for key in config if not key.startswith("_")}
    known = {name: values for name in ACCEPTED if (values := defaults(name)) is not None}
    if made or DEFAULTED in config:
        used = set(config.get(DEFAULTED, ()))
        equal = [name for name in known if known[name].keys() == keys] or _begun(config, known)
        if not equal:
            raise UserError(
                f"config must be of an accepted scheduler, and no such class has just these settings: "
                f"{', '.join(sorted(keys))}. {accepted()}"
            )
        found = max(equal, key=lambda name: sum(config[key] == known[name][key] for key in used & keys))
        return {**config, "_class_name": found}
    for key in sorted(keys):
        if not any(key in values for values in known.values()):
            raise UserError(f"{_strange(key, known)} {accepted()}")
    kind = kind_of(config)
    fitting = {"table": (*TABLES, *FLOWS), "flow": (*FLOWS, *TABLES), "edm": EDMS}[kind]

    def fits(name: str) -> tuple[int, bool]:
        return -len(keys ^ known[name].keys()), name == PLAIN[kind]

    found = max((name for name in fitting if name in known), key=fits) if keys else PLAIN[kind]
    return {**config, "_class_name": found}


def _begun(config: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The accepted classes with whose settings, all and in order, a config begins, if others' accepted settings follow.

    A scheduler of diffusers that is made of another one's config keeps what it does not take behind its own settings.
    """
    keys = [key for key in config if not key.startswith("_")]
    every = {key for values in known.values() for key in values}
    begun = [name for name, values in known.items() if keys[: len(values)] == list(values) and every >= set(keys)]
    most = max((len(known[name]) for name in begun), default=0)
    return [name for name in begun if len(known[name]) == most]


def check_changes(changes: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse a keyword that is no setting of an accepted scheduler and no key of the config, with the nearest name.

    Raises:
        UserError: with the keyword.
    """
    known = {name: values for name in ACCEPTED if (values := defaults(name)) is not None}
    for key in changes:
        if not (key.startswith("_") or key in config or any(key in values for values in known.values())):
            raise UserError(_strange(key, known))


def _strange(key: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    settings = {other for values in known.values() for other in values}
    near = nearest(key, OWN[:4]) or nearest(key, sorted(settings))
    return f"unknown keyword {key!r}.{near} Known: {', '.join(OWN[:4])}, and the settings of accepted schedulers."


def native_class(config: Mapping[str, Any]) -> type:
    """The class of diffusers that a config names; of one without a name, the one it is of.

    Raises:
        UserError: for a class that is not accepted, or that the diffusers that is installed cannot make.
    """
    kind_of(config)
    name = named(config)["_class_name"]
    library = importlib.import_module("diffusers")
    if not hasattr(library, name):
        raise UserError(f"the diffusers that is installed has no {name}; a newer one has")
    if defaults(name) is None:
        raise UserError(f"{name} needs the package torchsde, which is not installed: pip install torchsde")
    found = getattr(library, name)
    assert isinstance(found, type)
    return found


def native_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the defaults of its own class."""
    native: Any = native_class(config)
    values = defaults(native.__name__) or {}
    used = [key for key in config.get(DEFAULTED, ()) if key in config and config[key] == values.get(key)]
    given = {key: value for key, value in config.items() if key != DEFAULTED}  # one that was changed since is given
    return {**native.from_config({**given, DEFAULTED: used}).config, "_class_name": native.__name__}


def defaults(name: str) -> dict[str, Any] | None:
    """The settings of an accepted scheduler and their defaults; None where diffusers cannot make it here."""
    native = getattr(importlib.import_module("diffusers"), name, None)
    if native is None:
        return None
    found = dict(list(inspect.signature(native.__init__).parameters.items())[1:])
    stands_in = any(p.kind is p.VAR_KEYWORD for p in found.values())  # for a class whose packages are missing
    return None if stands_in else {key: p.default for key, p in found.items()}
