"""Checkpoints of other programs as models of this library: their networks are rebuilt, and their weights put in."""

from .reading import FORMATS, read

__all__ = ["FORMATS", "read"]
