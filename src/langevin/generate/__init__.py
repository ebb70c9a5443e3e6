"""The sampling service: a recipe resolved once, samples drawn by it, and shards of them that survive kills."""

from .environment import machine, versions
from .provenance import Provenance
from .request import REQUEST, Rank, Request
from .samples import Recipe, Samples, generate, in_process, plan, within
from .shards import Shards, fill, model_digest

__all__ = [
    "REQUEST",
    "Provenance",
    "Rank",
    "Recipe",
    "Request",
    "Samples",
    "Shards",
    "fill",
    "generate",
    "in_process",
    "machine",
    "model_digest",
    "plan",
    "versions",
    "within",
]
