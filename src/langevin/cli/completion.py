"""``langevin completion``."""

from __future__ import annotations

import contextlib
import importlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Options:
    """Print a script that completes commands, options and their choices with the Tab key.

    For bash, now and in every new shell: langevin completion bash > ~/.langevin-completion, and the line
    "source ~/.langevin-completion" at the end of ~/.bashrc. For zsh: langevin completion zsh > DIR/_langevin, where DIR
    is a folder of $fpath.
    """

    shell: Annotated[Positional[Literal["bash", "zsh"]], arg(metavar="bash|zsh")]
    """The shell it is for."""


def run(options: Options) -> None:
    """Print the script."""
    from .entry import COMMANDS

    kinds = tuple(
        Annotated[importlib.import_module(f".{name}", __package__).Options, tyro.conf.subcommand(name)]
        for name in COMMANDS
    )
    every: Any = Union[kinds]  # noqa: UP007 -- a union of what is known when it runs
    with contextlib.suppress(SystemExit):
        tyro.cli(
            every,
            prog="langevin",
            args=["--tyro-print-completion", options.shell],
            config=(tyro.conf.FlagCreatePairsOff,),
        )
