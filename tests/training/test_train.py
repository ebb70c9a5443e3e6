"""Runs: what they leave, and that what was interrupted ends as what was not."""

from __future__ import annotations

import csv
import json
import math
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from langevin import models, samplers, training
from langevin._errors import UserError
from langevin.data import Split
from langevin.objectives import DenoisingLoss
from langevin.training import BudgetConfig, EMAConfig, Learner, NetworkConfig, ObjectiveConfig, OutputConfig
from tiny_runs import points, same_files, tiny

TENSORS = ("model.safetensors", "ema.safetensors", "optimizer.safetensors")


def same_run(a: Path, b: Path) -> None:
    """Two runs have left the same files, byte for byte, but for the clock and what was asked of the second part."""
    same_files(a, b, but=("state.json", "config.json"))
    told = []
    for run in (a, b):
        states = [json.loads((p / "state.json").read_text()) for p in training.checkpoints(run)]
        made = json.loads((run / "config.json").read_text())
        for config in (made["training"]["config"], *(state["config"] for state in states)):
            for part in ("budget", "output"):
                config.pop(part)
        told.append([*states, made])
    assert told[0] == told[1]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Do something in the middle of a given step, once."""

    def plan(number: int, action: Callable[[], Any]) -> None:
        plain, done = Learner.step, []

        def step(self: Learner, *args: Any, **named: Any) -> Any:
            if named["number"] == number and not done:
                done.append(True)
                action()
            return plain(self, *args, **named)

        monkeypatch.setattr(Learner, "step", step)

    return plan


def test_what_a_run_leaves(tmp_path: Path) -> None:
    denoiser = training.train(tiny(), points(), tmp_path, quiet=True)
    assert {p.name for p in tmp_path.iterdir()} == {
        "checkpoints",
        "clock.json",
        "config.json",
        "data.safetensors",
        "metrics.csv",
        "model.safetensors",
    }
    assert [p.name for p in training.checkpoints(tmp_path)] == ["step-0000008", "step-0000012"]  # the last two
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [3, 6, 9, 12]
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True]
    assert all(float(row["loss"]) > 0 and row["skipped"] == "0" for row in rows)
    clock = json.loads((tmp_path / "clock.json").read_text())
    assert [row["step"] for row in clock["rows"]] == [3, 6, 9, 12]
    assert all(row["images_per_second"] > 0 and 0 < row["seconds"] <= clock["seconds"] for row in clock["rows"])
    last = training.checkpoints(tmp_path)[-1]
    assert {p.name for p in last.iterdir()} == {*TENSORS, "clock.json", "manifest.json", "state.json"}
    # The model is the moving average, not the last weights.
    model, average = load_file(tmp_path / "model.safetensors"), load_file(last / "ema.safetensors")
    raw = load_file(last / "model.safetensors")
    assert all(torch.equal(model[k], average[k]) for k in average)
    assert not all(torch.equal(model[k], raw[k]) for k in raw)
    assert denoiser.config["steps"] == 12
    assert denoiser.config["images"] == 96
    loaded = models.load(tmp_path)
    draw = lambda d: samplers.sample(d.given(label=1), n=5, steps=3, seed=0)
    assert torch.equal(draw(denoiser), draw(loaded))
    assert loaded.data == points().info


def test_skipped_files_are_listed_with_the_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = (("photos/a.png", "truncated"), ("photos/b\nc\udcff.png", "not a picture: “é”"))
    training.train(tiny(2), replace(points(), skipped=lost), tmp_path)
    said = "".join(capsys.readouterr())
    assert f"2 files were skipped: {tmp_path / 'skipped.txt'} has the reason for each" in said.replace("\n", " ")
    listed = (tmp_path / "skipped.txt").read_text(encoding="utf-8").splitlines()
    assert listed == ["photos/a.png: truncated", "photos/b\\nc\\udcff.png: not a picture: “é”"]


def test_it_learns(tmp_path: Path) -> None:
    config = tiny(150, batch=32, output=OutputConfig(validate_every=150, sample_every=0, validate_on=256))
    config = replace(config, optimiser=replace(config.optimiser, lr=5e-3, warmup=10))
    denoiser = training.train(config, points(900), tmp_path, quiet=True)
    # σ_d/S ≤ 1: an untrained network (zeros) has a loss near 1; knowing the blob takes away more than a third of it.
    assert denoiser.config["val_loss"] < 0.65
    for k in range(3):
        x = samplers.sample(denoiser.given(label=k), n=200, steps=8)
        centre = torch.tensor([math.cos(2.1 * k), math.sin(2.1 * k)])
        assert float((x.mean(0) - centre).norm()) < 0.3


def test_few_held_out_examples_are_asked_under_64_noises_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    loss = Learner.loss
    monkeypatch.setattr(
        Learner, "loss", lambda self, batch, *more: asked.append(len(batch["x"])) or loss(self, batch, *more)
    )
    data = points(90)
    few = replace(data, test=Split(data.test.batch(torch.arange(2))["x"], {"label": data.test.labels[:2]}))
    training.train(tiny(1, output=OutputConfig(validate_every=1, sample_every=0)), few, tmp_path, quiet=True)
    assert sum(asked) == 2 * 64


SETTINGS = {
    "plain": {},
    "everything": {
        "network": NetworkConfig("mlp", {"width": 16, "depth": 2, "dropout": 0.3}),  # type: ignore[dict-item]
        "objective": ObjectiveConfig(
            times="importance", times_options={"bins": "3", "terms": "2"}, dropout={"label": 0.3}
        ),
        "ema": EMAConfig("constant", half_life=50.0),
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("stop", [3, 8, 10])
def test_interrupted_is_bit_exact(
    tmp_path: Path, at_step: Callable[..., None], settings: dict[str, Any], stop: int
) -> None:
    """Ctrl-C in the middle of a step writes a checkpoint, and going on from it ends at the same bits (atol = 0)."""
    before = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    training.train(tiny(**settings), points(), tmp_path / "whole", quiet=True)
    at_step(stop, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {stop}.* step {stop} is whole.*--resume"):
        training.train(tiny(**settings), points(), tmp_path / "parts", quiet=True)
    assert training.checkpoints(tmp_path / "parts")[-1].name == f"step-{stop:07d}"
    assert models.load(tmp_path / "parts").config["steps"] == stop
    assert signal.getsignal(signal.SIGINT) is before
    training.train(tiny(**settings), points(), tmp_path / "parts", resume=True, quiet=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_longer_budget_is_bit_exact(tmp_path: Path) -> None:
    """A finished run goes on with a larger budget as if it had been asked for at once (constant learning rate)."""
    base = tiny(6)
    config = replace(base, optimiser=replace(base.optimiser, schedule="constant"))
    longer = replace(config, budget=BudgetConfig(steps=12))
    training.train(longer, points(), tmp_path / "whole", quiet=True)
    training.train(config, points(), tmp_path / "parts", quiet=True)
    training.train(longer, points(), tmp_path / "parts", resume=True, quiet=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_resuming_what_is_done_changes_nothing(tmp_path: Path) -> None:
    training.train(tiny(), points(), tmp_path, quiet=True)
    before = (tmp_path / "model.safetensors").read_bytes()
    training.train(tiny(), points(), tmp_path, resume=True, quiet=True)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_second_interrupt_does_not_wait(tmp_path: Path, at_step: Callable[..., None]) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(6, twice)
    with pytest.raises(KeyboardInterrupt, match="the checkpoint of step 4 is whole"):
        training.train(tiny(), points(), tmp_path, quiet=True)
    assert models.load(tmp_path).config["steps"] == 4


def test_interrupt_before_any_checkpoint(tmp_path: Path, at_step: Callable[..., None]) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(2, twice)
    with pytest.raises(KeyboardInterrupt, match="no checkpoint was written"):
        training.train(tiny(), points(), tmp_path, quiet=True)


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, at_step: Callable[..., None]) -> None:
    """Writes begin to fail part-way (a limit on the size of files): one sentence, and nothing half written."""
    training.train(tiny(), points(), tmp_path / "whole", quiet=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard)))
    try:
        with pytest.raises(UserError, match=r"stopped at step 8: .*the checkpoint of step 4 is whole.*--resume"):
            training.train(tiny(), points(), tmp_path / "parts", quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-0000004"]
    assert models.load(tmp_path / "parts").config["steps"] == 4
    training.train(tiny(), points(), tmp_path / "parts", resume=True, quiet=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_broken_metrics_file_is_rewritten(tmp_path: Path) -> None:
    """The rows are part of the checkpoint: a half-written line of a full disk does not survive a resume."""
    training.train(tiny(8), points(), tmp_path, quiet=True)
    before = (tmp_path / "metrics.csv").read_text()
    (tmp_path / "metrics.csv").write_text(before + "9,0.1")
    training.train(tiny(8), points(), tmp_path, resume=True, quiet=True)
    assert (tmp_path / "metrics.csv").read_text() == before


def poisoned(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    plain = DenoisingLoss.__call__

    def call(self: DenoisingLoss, denoiser: Any, x0: Any, condition: Any, noise: Any) -> torch.Tensor:
        loss = plain(self, denoiser, x0, condition, noise)
        return loss * math.nan if bad(noise.draw) and len(noise) == 8 else loss

    monkeypatch.setattr(DenoisingLoss, "__call__", call)


def test_a_step_that_is_not_finite_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, lambda draw: draw in (5, 12))
    seen: list[torch.Tensor] = []
    plain = Learner.step

    def step(self: Learner, *args: Any, **named: Any) -> Any:
        outcome = plain(self, *args, **named)
        seen.append(
            torch.cat([p.detach().flatten() for p in (*self.network.parameters(), *self.ema.network.parameters())])
        )
        return outcome

    monkeypatch.setattr(Learner, "step", step)
    denoiser = training.train(tiny(), points(), tmp_path, quiet=True)
    assert denoiser.config["skipped"] == 2
    assert torch.equal(seen[4], seen[3])  # step 5 changed nothing
    assert not torch.equal(seen[5], seen[4])
    assert torch.isfinite(seen[-1]).all()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert all(math.isfinite(float(row["loss"])) for row in rows)


def test_twenty_in_a_row_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(monkeypatch, lambda draw: draw > 6)
    with pytest.raises(UserError, match=r"20 steps in a row, up to step 26; lower --optimiser.lr"):
        training.train(tiny(100), points(), tmp_path, quiet=True)
    assert torch.isfinite(models.load(tmp_path).network.head.weight).all()  # type: ignore[union-attr, operator]


def test_out_that_holds_a_run(tmp_path: Path) -> None:
    training.train(tiny(4), points(), tmp_path, quiet=True)
    with pytest.raises(UserError, match="already holds a run; go on with --resume"):
        training.train(tiny(4), points(), tmp_path, quiet=True)
    with pytest.raises(UserError, match="no checkpoint to resume"):
        training.train(tiny(4), points(), tmp_path / "elsewhere", resume=True, quiet=True)
    assert not (tmp_path / "elsewhere").exists()


def test_resume_with_another_request(tmp_path: Path) -> None:
    """What differs from the run's own configuration is refused by name; what was not asked for is not."""
    training.train(tiny(4), points(), tmp_path, quiet=True)
    base = tiny(4)
    for other, words in [
        (replace(base, seed=5), "seed 0 -> 5"),
        (replace(base, optimiser=replace(base.optimiser, lr=0.5)), "optimiser.lr 0.002 -> 0.5"),
        (replace(base, network=NetworkConfig("mlp", {"width": "32"})), "network.options.width 16 -> 32"),
    ]:
        with pytest.raises(UserError, match=words):
            training.train(other, points(), tmp_path, resume=True, quiet=True)
    with pytest.raises(UserError, match=r"was trained on other data: classes \[.*those given have classes \[\]$"):
        training.train(base, points(classes=0), tmp_path, resume=True, quiet=True)
    # A bare request takes everything from the run, its budget too.
    assert training.train(training.Config(), points(), tmp_path, resume=True, quiet=True).config["steps"] == 4


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    training.train(tiny(8), points(), tmp_path, quiet=True)
    file = training.checkpoints(tmp_path)[-1] / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"optimizer\.safetensors is truncated"):
        training.train(tiny(12), points(), tmp_path, resume=True, quiet=True)
    state = training.checkpoints(tmp_path)[-1] / "state.json"
    state.write_text(state.read_text()[:-30])
    with pytest.raises(UserError, match=r"state\.json cannot be read"):
        training.train(tiny(12), points(), tmp_path, resume=True, quiet=True)


def test_budget_in_minutes(tmp_path: Path) -> None:
    config = replace(tiny(), budget=BudgetConfig(minutes=0.03))
    denoiser = training.train(config, points(), tmp_path, quiet=True)
    assert 1.8 <= denoiser.config["seconds"] < 4
    assert denoiser.config["steps"] > 10


def test_seed_and_nothing_else(tmp_path: Path) -> None:
    """The same seed gives the same weights whatever the global generator held, and leaves that as it was."""
    torch.manual_seed(1)
    training.train(tiny(3), points(), tmp_path / "a", quiet=True)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    training.train(tiny(3), points(), tmp_path / "b", quiet=True)
    assert torch.equal(torch.get_rng_state(), before)
    training.train(tiny(3, seed=1), points(), tmp_path / "c", quiet=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_validation_is_the_same_every_time(tmp_path: Path) -> None:
    """With a learning rate that moves nothing, every validation gives the same number to the last bit."""
    config = tiny()
    config = replace(
        config,
        optimiser=replace(config.optimiser, lr=1e-30),
        objective=ObjectiveConfig(times="importance", times_options={"bins": "2", "terms": "1"}),
        output=replace(config.output, validate_every=2),
    )
    training.train(config, points(), tmp_path, quiet=True)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    values = {row["val_loss"] for row in rows if row["val_loss"]}
    assert len(values) == 1
    assert len({row["loss"] for row in rows}) > 1


def test_label_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share p of labels is hidden, by sample and step; validation sees all of them."""
    seen: list[torch.Tensor] = []
    plain = DenoisingLoss.__call__

    def call(self: DenoisingLoss, denoiser: Any, x0: Any, condition: Any, noise: Any) -> torch.Tensor:
        if noise.draw > 0:
            seen.append(condition["label"])
        else:
            assert (condition["label"] >= 0).all()
        return plain(self, denoiser, x0, condition, noise)

    monkeypatch.setattr(DenoisingLoss, "__call__", call)
    config = tiny(40, batch=50, objective=ObjectiveConfig(dropout={"label": 0.2}))
    training.train(config, points(), tmp_path, quiet=True)
    share = float((torch.cat(seen) == -1).double().mean())
    assert abs(share - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)
    assert len({tuple((s == -1).tolist()) for s in seen}) > 30


def test_data_without_labels(tmp_path: Path) -> None:
    denoiser = training.train(tiny(4), points(classes=0), tmp_path, quiet=True)
    assert denoiser.conditions() == ()


def test_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training.train(tiny(4), points(), tmp_path)
    said = capsys.readouterr()
    assert said.out == ""
    assert "step 1/4  loss" in said.err
    assert "images/s" in said.err


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    config = tiny(4, output=OutputConfig(sample_every=2, validate_every=0, checkpoint_every=0))
    training.train(config, points(), tmp_path, quiet=True)
    names = sorted(p.name for p in (tmp_path / "pictures").iterdir())
    assert names == ["step-0000002.png", "step-0000004.png"]
    assert Image.open(tmp_path / "pictures" / names[0]).size == (600, 600)
