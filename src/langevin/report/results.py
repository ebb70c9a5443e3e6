"""What a demo found: everything its report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..data import Dataset
from ..denoisers import NetworkDenoiser
from ..generate.samples import Samples
from .comparisons import Trial


@dataclass(frozen=True)
class TrialResult:
    """A trial with what it drew and how that measured (as ``metrics.evaluate`` gives it)."""

    trial: Trial
    drawn: Samples
    measures: dict[str, dict[str, Any]]

    def value(self, measure: str, of: str = "value") -> float | None:
        """A number of a measure; None where there is none."""
        found = self.measures.get(measure, {}).get(of)
        return None if found is None else float(found)

    def interval(self, measure: str) -> tuple[float, float] | None:
        """The 95 % interval of a measure; None where there is none."""
        found = self.measures.get(measure, {}).get("interval")
        return None if found is None else (float(found[0]), float(found[1]))

    def note(self, measure: str) -> str | None:
        """What has to be said beside a measure."""
        found = self.measures.get(measure, {}).get("note")
        return None if found is None else str(found)

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON."""
        about = {"id": self.trial.id, "title": self.trial.title, "note": self.trial.note}
        return {**about, "run": self.drawn.record, "measures": self.measures}


@dataclass(frozen=True)
class Neighbours:
    """Samples against the training data.

    Args:
        index: nearest training example of each sample, int64 ``(N,)``.
        samples: Euclidean distance to it, ``(N,)``.
        heldout: distance of each held-out example to its nearest training example, ``(M,)``.
    """

    index: Tensor
    samples: Tensor
    heldout: Tensor


@dataclass(frozen=True)
class Strip:
    """How samples came about.

    Args:
        times: of the columns, ``(n + 1,)``, from noise to data.
        states: x_t over the standard deviation of x_t, times that of the data: ``(n + 1, K, *shape)``.
        beliefs: the mean of the belief held at x_t, ``(n + 1, K, *shape)``; at the last time the sample itself.
        levels: σ/α of the columns, ``(n + 1,)``.
    """

    times: Tensor
    states: Tensor
    beliefs: Tensor
    levels: Tensor


@dataclass(frozen=True)
class Results:
    """A demo, done.

    Args:
        dataset: what was learned, and what was held out.
        model: what was trained.
        place: the directory of the model, as it is typed.
        reused: whether the model was there before.
        losses: rows of metrics.csv: step, loss, val_loss.
        rows: of the table.
        headline: the row that the report opens with.
        neighbours: of the headline's samples.
        strip: of a few of the headline's samples.
        seconds: on the clock: training, sampling, measuring, total.
        environment: versions and machine.
        quick: whether it was a trial run, too short for its figures to mean anything.
    """

    dataset: Dataset
    model: NetworkDenoiser
    place: str
    reused: bool
    losses: list[dict[str, float | None]]
    rows: list[TrialResult]
    headline: TrialResult
    neighbours: Neighbours
    strip: Strip
    seconds: dict[str, float]
    environment: dict[str, Any]
    quick: bool = False

    def to_dict(self) -> dict[str, Any]:
        """All figures with their protocols, as plain JSON."""
        info = self.dataset.info
        return {
            "kind": "demo",
            "data": {**info.to_dict(), "train": len(self.dataset.train), "test": len(self.dataset.test)},
            "model": {
                "path": self.place,
                "trained_before": self.reused,
                "parameters": sum(p.numel() for p in self.model.network.parameters()),
                "process": self.model.process.to_dict(),
                "training": dict(self.model.config),
            },
            "quick": self.quick,
            "headline": self.headline.trial.id,
            "rows": [row.to_dict() for row in self.rows],
            "losses": self.losses,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "environment": self.environment,
        }
