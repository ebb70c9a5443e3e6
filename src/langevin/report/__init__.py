"""What is written about a run: the demo with its report."""

from .comparisons import HEADLINE, TRIALS, Trial
from .demo import Job, demo, demo_config
from .progress import Bar
from .results import Results, TrialResult

__all__ = ["HEADLINE", "TRIALS", "Bar", "Job", "Results", "Trial", "TrialResult", "demo", "demo_config"]
