"""``langevin play``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from .._errors import UserError

NEEDED = ("starlette", "uvicorn", "websockets")
"""Packages of the extra ``play``."""


@dataclass(frozen=True)
class Options:
    """Play with exact worlds and trained models on a local web page.

    The page asks nothing of other machines and works without a network. Ctrl-C ends it; what still runs for a page
    ends when the page is closed.

    Examples: `langevin play` for worlds alone; `langevin play runs/one runs/two` to draw samples of these models, to
    restore and edit pictures with them, and to compare samplers on them.
    """

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="[MODEL ...]", help_behavior_hint="")] = ()
    """Model directories, names that `langevin models` lists, or owner/name on the Hub; several, or none."""
    port: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """Port to listen on, 0 for any that is free; the first free one from 7878 on if not given."""
    host: Annotated[str, arg(metavar="ADDRESS")] = "127.0.0.1"
    """Address to listen on. Any but the loopback can be reached by others, who may then draw samples here: there is no
    password."""
    no_browser: bool = False
    """Print the address, and open no browser."""


def run(options: Options) -> None:
    """Load, serve."""
    if options.port is not None and not 0 <= options.port < 2**16:
        raise UserError(f"port must be in 0…65535, got {options.port}")
    if lacking := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"the playground needs {', '.join(lacking)}: pip install 'langevin[play]'")
    if doubled := [name for name in options.models if options.models.count(name) > 1]:
        raise UserError(f"model {doubled[0]} was given twice")
    from ..playground import serve

    serve(options.models, host=options.host, port=options.port, browser=not options.no_browser)
