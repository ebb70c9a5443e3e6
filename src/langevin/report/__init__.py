"""What is written about a run: samples with their record, and the demo with its report."""

from .demo import Job, demo
from .drawing import Drawn, Recipe, classes, draw
from .environment import machine, versions
from .findings import Findings, Row
from .progress import Bar
from .trials import HEADLINE, TRIALS, Trial

__all__ = [
    "HEADLINE",
    "TRIALS",
    "Bar",
    "Drawn",
    "Findings",
    "Job",
    "Recipe",
    "Row",
    "Trial",
    "classes",
    "demo",
    "draw",
    "machine",
    "versions",
]
