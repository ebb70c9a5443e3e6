"""What is to be audited, found by its name: a scheduler, a sampler, a guider or a denoiser."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Mapping
from typing import Any

from ..._errors import UserError, nearest, shown, unknown
from ..._registry import methods
from ...denoisers import Denoiser
from ...processes import Process, create_process
from ...samplers import Sampler, create_sampler
from ...worlds import World
from ..own_files import module_of
from .belief import Believer, world_named
from .conventions import SPECIAL, Unreadable
from .drive import Driven, setting
from .guider import Guidance, Guider, Ours
from .ours import Sampling
from .subject import Subject

KINDS = ("scheduler", "sampler", "guider", "denoiser")
"""What can be audited."""

Thing = Subject | Guidance | Believer

FORM = "diffusers:CLASS, langevin:NAME, MODULE:NAME or FILE.py:NAME, options in brackets, as in diffusers:CLASS(a=1)"


def load(
    thing: object,
    *,
    options: Mapping[str, Any] | None = None,
    kind: str | None = None,
    process: str | Process = "vp",
    prediction: str = "x0",
    time: str | None = None,
    world: str | World = "audit",
) -> Thing:
    """What is to be audited, by name or itself. A file or module that is named is run.

    Args:
        thing: ``diffusers:DEISMultistepScheduler``, ``langevin:dpmpp-2m``, ``FILE.py:function``, ``package:Name``;
            with options as in ``diffusers:DPMSolverMultistepScheduler(use_karras_sigmas=True)``; or the thing itself: a
            sampler, a scheduler or a guider or a class of them, a denoiser, a function.
        options: more of them.
        kind: one of ``KINDS``, where it cannot be seen: a function of three arguments is a sampler, of two a denoiser.
        process: of samplers and networks, by its registered name or itself; a denoiser of this library has its own.
        prediction, time: how a denoiser is read (:func:`langevin.denoiser`).
        world: of a denoiser: audit, ring, random-2, random-16, or a world itself.

    Raises:
        UserError: for what cannot be found, made, or audited, with the reason.
    """
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    law = process if isinstance(process, Process) else create_process(process)
    if not isinstance(thing, str):
        title, made, given = titled(thing), thing, dict(options or {})
    else:
        where, name, found = parts(thing)
        title, given = thing, {**found, **(options or {})}
        if options:
            title = f"{where}:{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
        if where == "langevin":
            return of_kind(title, ours(title, name, given, law), kind)
        made = attribute(where, name)
    try:
        what = kind or kind_of(made)
    except ImportError as error:  # diffusers stands in for classes whose packages are missing
        raise UserError(f"{title} cannot be audited: {' '.join(str(error).split()):.200}") from None
    if what == "scheduler":
        return scheduler(title, made, given)
    if what == "guider":
        return guider(title, made, given)
    made = called(title, made, given)
    if what == "denoiser":
        conventions = {"prediction": prediction, "time": time}
        own = made.process if isinstance(made, Denoiser) else law
        return Believer(title, made, own, conventions, world_named(world))  # type: ignore[arg-type]
    if what == "sampler":
        sampler, function = (made, None) if isinstance(made, Sampler) else (None, made)
        return Sampling(title, law, sampler, function)  # type: ignore[arg-type]
    raise UserError(
        f"thing must be {FORM}, or itself a scheduler (with set_timesteps and step), a sampler, a guider or a "
        f"denoiser, got {shown(thing)}, which is none that can be told; say which by kind: {', '.join(KINDS)}"
    )


def titled(made: Any) -> str:
    """What a thing is called that was not named: a function or a class by its name, a short one by its ``repr``."""
    named: str | None = getattr(made, "__qualname__", None)
    text = named or repr(made)
    return text if len(text) <= 80 and "\n" not in text else type(made).__name__


def of_kind(title: str, found: Thing, kind: str | None) -> Thing:
    """A sampler or guidance of this library, which is of its kind and no other."""
    own = "sampler" if isinstance(found, Sampling) else "guider"
    if kind not in (None, own):
        raise UserError(f"kind must be {own} for {title}, which is one, or not be given; got {kind!r}")
    return found


def parts(thing: str) -> tuple[str, str, dict[str, Any]]:
    """Place, name and options of a text.

    Raises:
        UserError: for a text of another form.
    """
    found = re.fullmatch(r"(?P<where>[^()]+):(?P<name>[^:()]+?)\s*(\((?P<options>.*)\))?", thing.strip(), re.S)
    if not found:
        raise UserError(f"thing must be {FORM}, got {thing!r}")
    return found["where"], found["name"], keywords(thing, found["options"] or "")


def keywords(thing: str, text: str) -> dict[str, Any]:
    """``a=1, b='x'`` as a mapping: literals alone."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (ValueError, SyntaxError):
        raise UserError(
            f"options must be name=value pairs of plain values, as in (use_karras_sigmas=True), got {thing!r}"
        ) from None


def attribute(where: str, name: str) -> Any:
    """What a module or a file has under a name.

    Raises:
        UserError: for what is not there or does not run.
    """
    module = module_of(where, "thing") if where.endswith(".py") else imported(where)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except (AttributeError, ImportError, RuntimeError) as error:
            if where == "diffusers" and (guiders := getattr(module, "guiders", None)) and hasattr(guiders, name):
                return getattr(guiders, name)
            known = [n for n in dir(module) if not n.startswith("_")]
            why = "" if isinstance(error, AttributeError) else f" ({error})"
            raise UserError(f"{where} has no {name!r}{why}.{nearest(name, known)}") from None
    return found


def imported(where: str) -> Any:
    """A module by its import path."""
    try:
        return importlib.import_module(where)
    except ImportError as error:
        hint = "; install it: pip install 'langevin[diffusers]'" if where.split(".")[0] == "diffusers" else ""
        raise UserError(f"thing must be in a module that can be imported, got {where!r}: {error}{hint}") from None
    except Exception as error:  # whatever somebody's module raises
        raise UserError(f"{where!r} cannot be imported: {type(error).__name__}: {error}") from error


def kind_of(made: Any) -> str | None:
    """What something is, as far as it shows."""
    if hasattr(made, "set_timesteps") and hasattr(made, "step"):
        return "scheduler"
    if hasattr(made, "set_state") and hasattr(made, "forward"):
        return "guider"
    if isinstance(made, Sampler) or (isinstance(made, type) and issubclass(made, Sampler)):
        return "sampler"
    if isinstance(made, Denoiser):
        return "denoiser"
    if not callable(made):
        return None
    try:
        words = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return None
    count = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in words)
    return {3: "sampler", 2: "denoiser"}.get(count)


def called(thing: str, made: Any, options: Mapping[str, Any]) -> Any:
    """A class made with its options; anything else as it is, bound to them."""
    if not isinstance(made, type):
        if options:
            if isinstance(made, (Sampler, Denoiser)):
                raise UserError(f"options are for names and classes, got {dict(options)} for {thing}, which is made")
            from functools import partial

            return partial(made, **options)
        return made
    try:
        return made(**options)
    except Exception as error:  # whatever somebody's class raises
        raise unmakeable(thing, error) from error


def unmakeable(thing: str, error: Exception) -> UserError:
    """The error for a thing whose class raises one."""
    said = " ".join(str(error).split()).replace(".__init__()", "")
    return UserError(f"{thing} cannot be made: {type(error).__name__}: {said:.200}")


def scheduler(thing: str, made: Any, options: Mapping[str, Any]) -> Driven:
    """A class of schedulers, or a scheduler, whose like is made again for every run."""
    if isinstance(made, type):
        make = lambda **more: made(**{**options, **more})
    elif hasattr(made, "from_config") and setting(made, "num_train_timesteps") is not None:
        make = lambda **more: type(made).from_config({**dict(made.config), **options, **more})
    elif hasattr(made, "set_timesteps"):
        raise UserError(f"thing must be a class of schedulers, or one with from_config and its config, got {thing}")
    else:
        make = lambda **more: made(**{**options, **more})
    name = getattr(made, "__name__", type(made).__name__)
    if why := SPECIAL.get(name):
        raise UserError(f"{thing} cannot be audited: {why}")
    try:
        return Driven(thing, make)
    except Unreadable as error:
        raise UserError(f"{thing} cannot be audited: {error}") from None
    except UserError:
        raise
    except Exception as error:  # whatever a foreign class raises
        raise unmakeable(thing, error) from error


def guider(thing: str, made: Any, options: Mapping[str, Any]) -> Guider:
    """A class of guiders, or a guider, whose like is made again for every question."""
    make = lambda **more: made(**{**options, **more})
    if not isinstance(made, type) and hasattr(made, "set_state"):
        if not hasattr(made, "from_config") or not isinstance(getattr(made, "config", None), Mapping):
            raise UserError(f"thing must be a class of guiders, or one with from_config and its config, got {thing}")
        make = lambda **more: type(made).from_config({**dict(made.config), **options, **more})
    try:
        return Guider(thing, make)
    except UserError:
        raise
    except Exception as error:  # whatever a foreign class raises
        raise unmakeable(thing, error) from error


def ours(thing: str, name: str, options: Mapping[str, Any], process: Process) -> Thing:
    """A registered sampler or guidance."""
    samplers, guidances = ({row.name: row for row in methods(kind)} for kind in ("samplers", "guidance"))
    if name in samplers:
        if "measurement" in inspect.signature(samplers[name].make).parameters:
            raise UserError(
                f"{thing} cannot be audited: it draws given a measurement. Use langevin restore --method {name}; "
                "langevin league judges it"
            )
        return Sampling(thing, process, create_sampler(name, **options))  # type: ignore[arg-type]
    if name in guidances:
        function = guidances[name].make
        takes = inspect.signature(function).parameters
        if "guidance_scale" not in takes or not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            raise UserError(f"{thing} cannot be audited: it takes no condition by name, or no guidance_scale")
        return Ours(thing, lambda denoiser, **given: function(denoiser, **{**options, **given}))
    raise unknown("sampler or guidance", name, [*samplers, *guidances])
