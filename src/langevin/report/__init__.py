"""What is written about a run: the demo with its report."""

from .comparisons import HEADLINE, TRIALS, Trial
from .demo import Job, demo, demo_config
from .progress import Bar
from .results import Results, Row

__all__ = ["HEADLINE", "TRIALS", "Bar", "Job", "Results", "Row", "Trial", "demo", "demo_config"]
