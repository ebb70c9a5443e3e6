"""The command line: ``langevin demo | train | sample | tune | evaluate | methods | info``."""

from .entry import main

__all__ = ["main"]
