"""Images changed by a model: to a condition, inside a mask, from strokes, word by word, between two of them."""

from __future__ import annotations

from .alignment import Alignment, align
from .base import EditMethod, Request
from .blend import Blend
from .diffedit import DiffEdit, DiffEditFast, contrast
from .editing import create_method, edit
from .interpolate import interpolate
from .null_text import null_text, with_null
from .prompt_to_prompt import Edited, PromptToPrompt, prompt_to_prompt
from .sdedit import SDEdit

__all__ = [
    "Alignment",
    "Blend",
    "DiffEdit",
    "DiffEditFast",
    "EditMethod",
    "Edited",
    "PromptToPrompt",
    "Request",
    "SDEdit",
    "align",
    "contrast",
    "create_method",
    "edit",
    "interpolate",
    "null_text",
    "prompt_to_prompt",
    "with_null",
]
