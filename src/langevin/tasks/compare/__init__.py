"""Samplers side by side on one model or several, from the same noises."""

from .results import Advice, Cell, Comparison, Side
from .run import compare

__all__ = ["Advice", "Cell", "Comparison", "Side", "compare"]
