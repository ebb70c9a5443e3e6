"""What is written about a run: samples with their record, and the demo with its report."""

from .demo import Job, demo, demo_config
from .drawing import Drawn, Recipe, classes, draw
from .environment import machine, versions
from .findings import Findings, Row
from .progress import Bar
from .shards import REQUEST, Part, Request, Shards, fill, model_digest
from .trials import HEADLINE, TRIALS, Trial

__all__ = [
    "HEADLINE",
    "REQUEST",
    "TRIALS",
    "Bar",
    "Drawn",
    "Findings",
    "Job",
    "Part",
    "Recipe",
    "Request",
    "Row",
    "Shards",
    "Trial",
    "classes",
    "demo",
    "demo_config",
    "draw",
    "fill",
    "machine",
    "model_digest",
    "versions",
]
