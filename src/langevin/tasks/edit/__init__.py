"""Images changed by a model: to a condition, inside a mask, from strokes, between two of them."""

from __future__ import annotations

from .base import EditMethod, Request
from .blend import Blend
from .diffedit import DiffEdit, DiffEditFast, contrast
from .editing import create_method, edit
from .interpolate import interpolate
from .sdedit import SDEdit

__all__ = [
    "Blend",
    "DiffEdit",
    "DiffEditFast",
    "EditMethod",
    "Request",
    "SDEdit",
    "contrast",
    "create_method",
    "edit",
    "interpolate",
]
