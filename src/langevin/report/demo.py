"""The main job: train on digits, sample in several ways, measure each, and report."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import data, metrics, models, training
from .._duration import duration
from .._errors import UserError
from ..data import Dataset
from ..denoisers import NetworkDenoiser
from ..generate.environment import machine, versions
from ..generate.samples import generate
from ..metrics import Features
from ..storage import files
from ..training import BudgetConfig, Config, NetworkConfig, ObjectiveConfig, OutputConfig
from . import details
from .comparisons import HEADLINE, TRIALS, Trial
from .forecast import forecast
from .page import page
from .progress import Bar
from .results import Results, TrialResult

MODEL, PAGE, FIGURES = "model", "report.html", "report.json"

BATCH = 200
"""Samples carried at a time: a tenth faster than 100 or 400 on a core with AVX2, the network being small."""


STEPS = 2500
"""Of training: enough that nearly every digit reads as asked, too few to copy the scans."""


def demo_config(seed: int = 0, steps: int | None = None, minutes: float | None = None) -> Config:
    """The training run of the demo: half the default width and half its batch, an eighth of the cost a step.

    Args:
        seed: of the run.
        steps: of training; 2500 if neither is given.
        minutes: of training, instead of steps.
    """
    return Config(
        seed=seed,
        batch=64,
        network=NetworkConfig("unet", {"width": "32"}),
        # Fewer hidden labels than by default: the demo samples without guidance.
        objective=ObjectiveConfig(dropout={"label": 0.05}),
        budget=BudgetConfig(STEPS if steps is None and minutes is None else steps, minutes),
        output=OutputConfig(validate_every=500, sample_every=500),
    )


@dataclass(frozen=True)
class Job:
    """What a demo is asked for.

    Args:
        config: of the training run.
        samples: drawn by each trial, apart from its share; at least 100.
        seed: of the samples and of the measures.
        trials: the samplers to compare, with the headline among them.
        fresh: train anew, whatever is there.
        device: where the network computes; a CUDA device if there is one, else the CPU, if not given.
        quick: whether it is a trial run, whose figures the report then says not to read.
    """

    config: Config = field(default_factory=demo_config)
    samples: int = 2000
    seed: int = 0
    trials: tuple[Trial, ...] = TRIALS
    fresh: bool = False
    device: str | None = None
    quick: bool = False


def demo(
    job: Job,
    out: str | os.PathLike[str],
    say: Callable[[str], None] = print,
    leave: Callable[[str], None] | None = None,
) -> Results:
    """Train a class-conditional model on digits, sample it in several ways, measure each against held-out scans.

    ``out`` gets ``report.html``, ``report.json`` and the model directory ``model/``. A model that is there already and
    was trained as asked is used again; one that was interrupted is trained on.

    Args:
        job: what is asked for.
        out: a directory, made if it does not exist.
        say: told what is being done, a line at a time.
        leave: what a second Ctrl-C does while a step is being computed; see ``training.train``.

    Raises:
        UserError: for a request that cannot be met, before any work, one while another process writes in ``out`` among
            them; if the disk is full or refuses.
        KeyboardInterrupt: after Ctrl-C, with a sentence that says how to go on.
    """
    if job.samples < 100:
        raise UserError(f"samples must be at least 100, got {job.samples}")
    if HEADLINE not in [trial.id for trial in job.trials]:
        raise UserError(f"trials must hold the headline {HEADLINE!r}, got {[trial.id for trial in job.trials]}")
    with files.lock(Path(out)):
        return _made(job, Path(out), say, leave)


def _made(job: Job, folder: Path, say: Callable[[str], None], leave: Callable[[str], None] | None) -> Results:
    begun = time.monotonic()
    dataset = data.load("digits")
    # Fitted once: every row of the table is measured by the same classifier.
    features = ("pixels", metrics.feature_space("classifier", dataset, seed=job.seed))
    model, reused = _model(job, dataset, folder / MODEL, features, say, leave)
    trained = time.monotonic() - begun
    rows = [_row(trial, job, model, dataset, features, say) for trial in job.trials]
    headline = next(row for row in rows if row.trial.id == HEADLINE)
    say("a closer look at single samples, and the report")
    found = Results(
        dataset=dataset,
        model=model,
        place=str(folder / MODEL),
        reused=reused,
        losses=_losses(folder / MODEL / "metrics.csv"),
        rows=rows,
        headline=headline,
        neighbours=details.neighbours(headline.drawn.x, dataset),
        strip=details.strip(model, [2, 5, 8], steps=headline.drawn.record["steps"], seed=job.seed),
        seconds={
            "training": trained,
            "sampling": sum(row.drawn.seconds for row in rows),
            "total": time.monotonic() - begun,
        },
        quick=job.quick,
        environment={"versions": versions(), "machine": machine(), "date": time.strftime("%Y-%m-%d %H:%M")},
    )
    told = page(found).encode()
    figures = {**found.to_dict(), "files": {PAGE: files.digest(told)}}
    files.publish(folder, {PAGE: told, FIGURES: files.as_json(figures)})
    return found


def _model(
    job: Job,
    dataset: Dataset,
    folder: Path,
    features: Sequence[str | Features],
    say: Callable[[str], None],
    leave: Callable[[str], None] | None,
) -> tuple[NetworkDenoiser, bool]:
    """The trained model, and whether it was there before."""
    asked, spent = training.resolve_config(job.config, dataset.info), 0.0
    if job.fresh and (training.checkpoints(folder) or (folder / "config.json").exists()):
        with files.lock(folder):
            files.remove(folder)
    if files.place(folder, "config.json").exists():
        model = models.load(folder, device=job.device)
        if differ := _differ(asked, model):
            raise UserError(
                f"{folder} holds a model trained with other settings ({', '.join(differ)}); "
                "train anew with --fresh, or choose another --out"
            )
        spent = _spent(model)
        if spent >= 1:
            made = model.config
            say(f"using the model in {folder}: {made['steps']} steps, {duration(made['seconds'])}; --fresh trains anew")
            return model, True
    going_on = bool(training.checkpoints(folder))
    say(f"{'going on with training' if going_on else 'training'} on {len(dataset.train)} scans of digits")
    about = (job.config, job.trials, job.samples, dataset, features)
    say(str(forecast(*about, batch=BATCH, device=job.device, spent=spent)))
    try:
        return training.train(job.config, dataset, folder, resume=going_on, device=job.device, leave=leave), False
    except KeyboardInterrupt as stop:
        where = str(stop).partition(";")[0] or "stopped"
        raise KeyboardInterrupt(f"{where}; the same command goes on from the last checkpoint") from None


def _differ(asked: Config, model: NetworkDenoiser) -> list[str]:
    """The parts of a resolved configuration that differ from the one a model was trained with."""
    kept, wanted = dict(model.config.get("config", {})), asked.to_dict()
    if wanted["precision"] == "auto":
        wanted["precision"] = kept.get("precision")
    return [part for part in wanted if wanted[part] != kept.get(part) and part not in ("output", "work")]


def _spent(model: NetworkDenoiser) -> float:
    """The share of its budget that a model's training has spent."""
    made, budget = model.config, model.config["config"]["budget"]
    if budget["steps"] is not None:
        return float(made["steps"] / budget["steps"])
    return float(made["seconds"] / (60 * budget["minutes"]))


def _row(
    trial: Trial,
    job: Job,
    model: NetworkDenoiser,
    dataset: Dataset,
    features: Sequence[str | Features],
    say: Callable[[str], None],
) -> TrialResult:
    recipe = replace(trial.recipe, seed=job.seed, batch=BATCH)
    count = trial.count(job.samples)
    with Bar(f"sampling: {trial.title}, {recipe.steps} steps") as bar:
        drawn = generate(model, recipe, count, progress=bar)
    measures = metrics.evaluate(drawn.x, drawn.label, dataset, seed=job.seed, features=features, progress=False)
    row = TrialResult(trial, drawn, measures)
    agreement = row.value("label-agreement")
    read = "" if agreement is None else f", {agreement:.1%} read as asked"
    say(f"{trial.title} with {drawn.evaluations} evaluations: {count} samples in {duration(drawn.seconds)}{read}")
    return row


def _losses(path: Path) -> list[dict[str, float | None]]:
    """Rows of metrics.csv."""
    number = lambda cell: float(cell) if cell else None
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: number(row[key]) for key in ("step", "loss", "val_loss")} for row in csv.DictReader(file)]
