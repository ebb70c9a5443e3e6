"""``langevin info``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Options:
    """Show what a model directory holds; without one, this environment and the registered names."""

    model: Annotated[Positional[str | None], arg(metavar="MODEL", help_behavior_hint="")] = None
    """A model directory, a name of `langevin models`, or owner/name on the Hub."""
    json: bool = False
    """As JSON, for machines."""


def run(options: Options) -> None:
    """Print it."""
    found = _environment() if options.model is None else _model(options.model)
    if options.json:
        text = json.dumps(found, indent=1, ensure_ascii=False)
        # A control character is written as its escape, so that the value stays what it is.
        print("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))
        return
    width = max(map(len, found)) + 2
    for name, value in found.items():
        print(f"{name:<{width}}{_text(value)}".replace("\n", "\ufffd"))  # a name may not begin a line of its own


def _environment() -> dict[str, Any]:
    from .._registry import CATEGORIES, methods
    from ..generate import machine, versions

    names = {category: [method.name for method in methods(category)] for category in CATEGORIES}
    return {
        "versions": versions(),
        "machine": machine(),
        **{category: found for category, found in names.items() if found},
    }


def _model(path: str) -> dict[str, Any]:
    from .. import models
    from ..adapters import loading
    from ..generate import versions

    model = loading.load(path, device="cpu")
    return {"model": path, **models.about(model), "versions": versions()}


def _text(value: Any) -> str:
    """A value in a line: a mapping as `key value` pairs, what is unset left out."""
    if isinstance(value, dict):
        pairs = ((key, item) for key, item in value.items() if item not in (None, {}, [], ""))
        return ", ".join(
            f"{key} {f'({_text(item)})' if isinstance(item, dict) else _text(item)}" for key, item in pairs
        )
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]" if len(value) <= 40 else f"{len(value)} values"
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
