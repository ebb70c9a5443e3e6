"""The command line: one module a command; ``entry`` finds it by its name."""

from .entry import main

__all__ = ["main"]
