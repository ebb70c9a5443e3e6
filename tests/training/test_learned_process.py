"""A process that learns goes through the one trainer: averaged, kept, resumed, and left as a table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from langevin import models, samplers, training
from langevin._errors import UserError
from langevin.processes import Learned
from langevin.training import ObjectiveConfig, OptimiserConfig, PredictionConfig, ProcessConfig
from tiny_runs import points, tiny

GAMMA = {"gamma": "[-6, 3]"}


def config(steps: int = 12) -> training.Config:
    return replace(tiny(steps), process=ProcessConfig("learned", GAMMA), objective=ObjectiveConfig("vdm"), seed=3)  # type: ignore[arg-type]


def test_a_run(tmp_path: Path) -> None:
    made = training.train(config(), points(), tmp_path / "run", device="cpu", quiet=True)
    assert isinstance(made.process, Learned)
    assert len(made.process.gamma) == 513
    assert made.process.gamma[0] != -6.0  # the ends have learned too
    assert made.process.gamma[-1] != 3.0
    loaded = models.load(tmp_path / "run", device="cpu")
    assert loaded.process == made.process
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert not [name for name in weights if name.startswith("schedule")]
    kept = load_file(tmp_path / "run" / "checkpoints" / "step-0000012" / "model.safetensors")
    averaged = load_file(tmp_path / "run" / "checkpoints" / "step-0000012" / "ema.safetensors")
    assert {"schedule.low", "schedule.shift"} <= kept.keys() & averaged.keys()
    assert not torch.equal(kept["schedule.shift"], averaged["schedule.shift"])
    # What is saved is the average's schedule, not the last step's.
    assert made.process.gamma[0] == pytest.approx(10 * float(averaged["schedule.low"]), abs=1e-12)
    for sampler in (samplers.Ancestral(), samplers.DPMSolverPP()):
        x = samplers.sample(loaded, sampler, n=4, steps=5, seed=0)
        assert x.isfinite().all()
        assert torch.equal(x, samplers.sample(made, sampler, n=4, steps=5, seed=0))
    resolved = json.loads((tmp_path / "run" / "config.json").read_text())["training"]["config"]
    assert resolved["objective"]["times"] == "uniform"


def test_resumed_as_if_never_stopped(tmp_path: Path) -> None:
    """Bit for bit, schedule and table included."""
    for_validation = lambda steps: replace(config(steps), optimiser=OptimiserConfig(schedule="constant"))
    whole = training.train(for_validation(8), points(), tmp_path / "one", device="cpu", quiet=True)
    training.train(for_validation(4), points(), tmp_path / "two", device="cpu", quiet=True)
    again = training.train(for_validation(8), points(), tmp_path / "two", resume=True, device="cpu", quiet=True)
    assert again.process == whole.process
    for name in ("model", "ema", "optimizer"):
        one, two = (
            load_file(tmp_path / run / f"checkpoints/step-0000008/{name}.safetensors") for run in ("one", "two")
        )
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_refused_before_any_work(tmp_path: Path) -> None:
    for changes, words in (
        ({"process": ProcessConfig("vp")}, "learns the process 'learned'"),
        ({"prediction": PredictionConfig(time="time")}, "told log_sigma"),
        ({"objective": ObjectiveConfig("vdm", times="log-normal")}, "uniform from t_min to 1"),
    ):
        with pytest.raises(UserError, match=words):
            training.train(replace(config(), **changes), points(), tmp_path / "run", device="cpu", quiet=True)
        assert not (tmp_path / "run").exists()
