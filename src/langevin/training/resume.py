"""What a run goes on from: a new configuration, resolved, or the last checkpoint, held against what is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .._errors import UserError, shown
from ..data import DataInfo
from ..denoisers import NetworkDenoiser
from ..models import location
from ..storage import files
from . import checkpoint
from .config import Config
from .resolve import changed, check, resolve_config

HELD = (location.CONFIG, "model_index.json")
"""Files that say that a directory holds a model already, of this library or of diffusers."""

MADE = ("degrade", "text_encoder", "codec", "streaming")
"""What makes examples of a source: another one of these, and they are other data."""


def plan(
    config: Config, data: DataInfo, out: Path, resume: bool, base: NetworkDenoiser | None = None
) -> tuple[Config, Path | None]:
    """The resolved configuration, and the checkpoint to go on from, if there is one.

    A run that is resumed keeps its configuration; the budget, the output and the division of the work may be asked for
    anew, and anything else that is asked for must agree.

    Args:
        config: what is asked.
        data: what is trained on.
        out: the directory of the run.
        resume: go on from its last checkpoint.
        base: the pretrained denoiser, of a run that goes on from one.

    Raises:
        UserError: for a directory that holds a run or none, other data, or another configuration.
    """
    there = checkpoint.found(out)
    if not resume:
        if there or any((out / name).exists() for name in HELD):
            raise UserError(f"{out} already holds a run; go on with --resume, or choose another --out")
        return resolve_config(config, data, base), None
    if not there:
        raise UserError(f"{out} holds no checkpoint to resume from; train without --resume")
    state = checkpoint.read_state(there[-1])
    file = there[-1] / checkpoint.STATE
    try:
        kept = Config.from_dict(state["config"])
        check(kept)
        if lost := _lacks(kept.to_dict(), state["config"]):
            raise UserError(f"the configuration lacks {', '.join(lost)}")
    except (UserError, TypeError) as error:
        raise UserError(f"{file}: {error}") from None
    if base is None and kept.pretrained:
        raise UserError(f"{out} went on from the model {kept.start.model!r}: give it again (--from {kept.start.model})")
    if base is not None and config.start.weights != kept.start.weights:
        began = "random weights" if not kept.pretrained else f"the model {kept.start.model!r}"
        raise UserError(f"{out} went on from {began}, whose weights are not those of the model given (--from)")
    if base is None:
        checkpoint.weighs(there[-1], kept)
    known, given = state["data"], data.to_dict()
    other = [key for key in {**known, **given} if key != "source" and known.get(key) != given.get(key)]
    if other:
        were, are = (", ".join(f"{key} {shown(d.get(key))}" for key in other) for d in (known, given))
        raise UserError(f"{out} was trained on other data: {were} ({file}); those given have {are}")
    files.only(file, state["data"], set(data.to_dict()))
    made = [key for key in MADE if known.get("source", {}).get(key) != data.source.get(key)]
    if made:
        were, are = (", ".join(f"{key} {shown(d.get(key))}" for key in made) for d in (known["source"], data.source))
        raise UserError(f"{out} was trained on data made otherwise: {were} ({file}); those given have {are}")
    if differ := changed(config, kept, data, base):
        raise UserError(f"{out} is resumed with its own configuration, but another is asked for: {'; '.join(differ)}")
    plain = Config()
    anew = lambda asked, default: {k: v for k, v in vars(asked).items() if v != getattr(default, k)}
    kept = replace(
        kept,
        budget=kept.budget if config.budget == plain.budget else config.budget,
        output=replace(kept.output, **anew(config.output, plain.output)),
        work=replace(kept.work, **anew(config.work, plain.work)),
    )
    check(kept)
    return kept, there[-1]


def _lacks(whole: Mapping[str, Any], given: Mapping[str, Any], where: str = "") -> list[str]:
    """The settings of a configuration that were taken from the defaults, and not given."""
    lost = [where + key for key in whole if key not in given]
    inner = [
        key for key in whole.keys() & given.keys() if isinstance(whole[key], dict) and isinstance(given[key], dict)
    ]
    return lost + [name for key in sorted(inner) for name in _lacks(whole[key], given[key], f"{where}{key}.")]
