"""The sampling service: a recipe resolved once, samples drawn by it, and shards of them that survive kills."""

from .environment import machine, versions
from .samples import Recipe, Samples, classes, draw
from .shards import REQUEST, Part, Request, Shards, fill, model_digest

__all__ = [
    "REQUEST",
    "Part",
    "Recipe",
    "Request",
    "Samples",
    "Shards",
    "classes",
    "draw",
    "fill",
    "machine",
    "model_digest",
    "versions",
]
