"""Optimal variances of a trained model: Γ and heads, kept in the model directory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import nn
from .._errors import UserError, check_integer, unknown
from ..data import Dataset
from ..denoisers import (
    VARIANCE_HEADS,
    AffineParameterization,
    Calibration,
    Denoiser,
    NetworkDenoiser,
    VarianceHead,
    calibrate,
)
from ..models.codes import Codes, encode
from ..models.learned import place, stamp
from ..models.parts import Latent
from ..models.variances import save_calibration, save_head
from ..objectives import LogNormal, SecondMoment, Stratified
from ..storage import files
from ..training import checkpoint
from ..training.checkpoint import Progress
from ..training.config import (
    BudgetConfig,
    Config,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    OutputConfig,
    ProcessConfig,
)
from ..training.distributed import ProcessGroup
from ..training.learner import Learner
from ..training.loop import Run


def of_states(model: NetworkDenoiser | Latent, dataset: Dataset) -> tuple[Any, Dataset]:
    """The denoiser that is calibrated, and the data it is calibrated on: of a latent model, encoded by its codec."""
    if model.autoencoder is None or isinstance(dataset.train, Codes):
        return model.belief_of, dataset
    return model.belief_of, encode(dataset, model.autoencoder)


def calibrate_model(
    model: NetworkDenoiser | Latent,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    *,
    times: int = 32,
    n: int | None = None,
    seed: int = 0,
    batch: int = 256,
    made: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Calibration, Path]:
    """Estimate Γ of a model on the training split, and write ``calibration.json`` whole or not at all.

    A model directory is loaded with it, and ``denoisers.with_variance(model, "analytic")`` uses it. Of a latent model
    it is Γ of the denoiser of codes, on data that its codec encodes. See ``tune_model`` for where the file lies.

    Args:
        model: as ``langevin.load`` gives it.
        dataset: of the shape of the model, or of the codes of a latent one (``models.encode``).
        folder: the directory that the model was loaded from.
        times, n, seed, batch, progress: see ``denoisers.calibrate``; n is 2048 if not given.
        made: kept in the file beside what ``calibrate`` says of itself.

    Returns:
        What was found, and the file.
    """
    where = place(Path(folder), model)
    own, dataset = of_states(model, dataset)
    n = 2048 if n is None else n
    count = max(1, min(n, len(dataset.train)))
    index = torch.arange(count) * len(dataset.train) // count
    condition = dataset.train.batch(index, seed=seed)
    x0 = condition.pop("x")
    low, high = dataset.info.low, dataset.info.high
    with files.lock(where):
        found = calibrate(
            own, x0, condition, times=times, n=n, seed=seed, batch=batch, low=low, high=high, progress=progress
        )
        record = {"data": dataset.info.name, **stamp(own), **found.made, **(made or {})}
        found = replace(found, made=record)
        return found, save_calibration(found, where)


def head_config(model: Denoiser, std: float, *, steps: int, seed: int, batch: int) -> Config:
    """What a head is trained with: a network a quarter as wide as one for the data, its times about the data's size."""
    shape = model.shape
    channels = 3 * shape[0]
    options: dict[str, Any] = {"out_channels": shape[0], "width": 64}
    if len(shape) == 3:
        options["width"] = 16
    made = nn.default((channels, *shape[1:]), **options)
    quarter = max(1, steps // 4)
    law: dict[str, Any] = {"mean": math.log(std) - 1, "std": 1.6}
    return Config(
        seed=seed,
        batch=batch,
        precision="float32",
        network=NetworkConfig(str(made.pop("name")), made),
        process=ProcessConfig(str(model.process.to_dict()["name"])),
        objective=ObjectiveConfig(
            "second-moment",
            times="log-normal",
            times_options=law,
        ),
        optimiser=OptimiserConfig(lr=2e-3, warmup=min(100, quarter)),
        budget=BudgetConfig(steps=steps),
        output=OutputConfig(
            log_every=50, validate_every=quarter, validate_on=1024, sample_every=0, checkpoint_every=quarter, keep=1
        ),
    )


class _HeadRun(Run):
    """A run whose outcome is a head."""

    def _model(self) -> Any:
        """The head itself, of codes too: it is not decoded."""
        return replace(self.learner.average, config=self._made())

    def _keep(self) -> None:
        save_head(self._model(), self.out)

    def _resume(self) -> str:
        """A sentence that says how the run is gone on with."""
        return "no checkpoint was written yet." if self.saved is None else "ask for it again to go on."


def train_head(
    kind: str,
    model: NetworkDenoiser | Latent,
    dataset: Dataset,
    folder: str | os.PathLike[str],
    *,
    steps: int = 2000,
    seed: int = 0,
    batch: int = 128,
    quiet: bool = False,
) -> VarianceHead:
    """Train a head beside a frozen model, and leave it in ``folder/kind``, which ``langevin.load`` reads.

    It is trained as models are, with checkpoints: a run that was stopped goes on when it is asked for again with the
    same settings, and begins anew with others or after the model was trained on.

    Args:
        kind: ``sn`` or ``npr``.
        model: gives the mean; never changed.
        dataset: the training split is learned; as of ``calibrate_model``.
        folder: the directory that the model was loaded from.
        steps: optimiser steps.
        seed: of the weights, of the order of the data and of all noise.
        batch: examples a step.
        quiet: say nothing.

    Returns:
        The belief of the averaged weights.

    Raises:
        UserError: for a request that cannot be met, before any work.
    """
    if kind not in VARIANCE_HEADS:
        raise unknown("head", kind, VARIANCE_HEADS)
    for name, number in (("steps", steps), ("batch", batch)):
        check_integer(name, number, 1)
    where = place(Path(folder), model)
    model, dataset = of_states(model, dataset)
    if dataset.info.mean is None:
        raise UserError(f"the moments of data {dataset.info.name!r} are unknown; a head needs them")
    info, out = dataset.info, where / kind
    reading = model.parameterization
    std = float(reading.sigma_data if isinstance(reading, AffineParameterization) else 0) or info.std
    config = head_config(model, std, steps=steps, seed=seed, batch=batch)
    team = ProcessGroup.join(model.device)
    used = [team.device] if team.device.type == "cuda" else []
    locked = files.lock(where) if team.first else nullcontext()
    with locked, torch.random.fork_rng(used):
        torch.manual_seed(seed)
        network = nn.create_network({"name": config.network.name, **config.network.options}).to(team.device)
        head = VARIANCE_HEADS[kind](model, network, std, info.low, info.high)
        objective = SecondMoment(Stratified(LogNormal(math.log(std) - 1, 1.6)))
        learner = Learner(
            head,  # type: ignore[arg-type]
            objective,
            optimiser=config.optimiser,
            ema=config.ema,
            batch=batch,
            team=team,
        )
        last = next(iter(checkpoint.found(out)[::-1]), None)
        if last is not None and (checkpoint.read_state(last)["config"] != config.to_dict() or _stale(out, model)):
            with files.lock(out):
                files.remove(out)
            last = None
        progress = Progress() if last is None else checkpoint.restore(last, learner)
        run = _HeadRun(config, dataset, out, team, learner, progress, quiet)
        done: Any = run.go()
        return replace(done, network=done.network.eval())


def _stale(out: Path, model: Denoiser) -> bool:
    """Whether the head in a directory was begun beside a model of another number of steps."""
    file = files.place(out, "config.json")
    now = stamp(model)
    return not file.exists() or any(files.read_json(file).get(name) != now[name] for name in now)
