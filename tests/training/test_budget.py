"""How long a run trains if nobody says: chosen once by the data and the speed, said, and kept."""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from langevin import models, nn, training
from langevin.data import DataInfo, Dataset, Split
from langevin.training import BudgetConfig, Config, NetworkConfig, OutputConfig, budget, resolve
from langevin.training import logging as reports
from langevin.training.logging import Bar
from tiny_runs import interrupted, points, same_files, tiny


def photos(count: int = 20, side: int = 18, held: int = 4) -> Dataset:
    """Noise in the shape of photographs."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(0, 256, (count + held, 3, side, side), generator=generator, dtype=torch.uint8)
    info = DataInfo(
        name="photos", shape=(3, side, side), levels=256, mean=torch.zeros(3 * side**2, dtype=torch.float64)
    )
    info = replace(info, cov=torch.ones(3 * side**2, dtype=torch.float64))
    return Dataset(info, Split(x[:count]), Split(x[count:]))


def asked(**changes: Any) -> Config:
    """Nothing about how long, and a network of milliseconds."""
    output = OutputConfig(log_every=2, validate_every=6, validate_on=8, sample_every=0, checkpoint_every=5)
    return replace(
        Config(batch=4, network=NetworkConfig("unet", {"width": 8, "multipliers": [1], "blocks": 1})),
        output=output,
        **changes,
    )  # type: ignore[dict-item]


def chosen(side: int, examples: int, seconds: float, **given: Any) -> Config:
    resolved = training.resolve_config(Config(**given), photos(side=side).info)
    return budget.choose(resolved, (3, side, side), examples, seconds)


# Seconds a step of the default network and batch on two idle cores of 2020 and on a large GPU.
CORES = {32: 1.0, 64: 1.6, 128: 3.5}
GPU = {32: 0.012, 64: 0.016, 128: 0.02}
HOUR = 3600


@pytest.mark.parametrize("side", [32, 64, 128])
def test_defaults_follow_the_data_and_the_speed(side: int) -> None:
    """5 to 100,000 images, on two cores and on a GPU: more images more steps, a GPU more than cores, never too long."""
    longest = {32: 1, 64: 3, 128: 8}[side] * HOUR
    before: list[int] = [0, 0]
    for examples in (5, 50, 200, 5000, 100_000):
        steps = [int(chosen(side, examples, speed[side]).budget.steps or 0) for speed in (CORES, GPU)]
        assert steps[0] <= steps[1] <= budget.useful_steps(examples)
        assert all(n >= old for n, old in zip(steps, before))
        assert min(steps) >= budget.FEWEST
        if examples <= 1000:
            assert steps[0] * CORES[side] <= longest
        assert steps[0] * CORES[side] <= 24 * HOUR
        before = steps
    assert before[1] > 4 * before[0]  # of 100,000 images a GPU sees many times more


def test_two_hundred_photos() -> None:
    """The hour at 32 pixels is well spent, and so are the three at 64."""
    for side, hours in ((32, 1), (64, 3)):
        config = chosen(side, 189, CORES[side])
        took = int(config.budget.steps or 0) * CORES[side]
        assert 0.6 * hours * HOUR < took < 0.95 * hours * HOUR
        every = config.output.checkpoint_every
        assert every is not None
        assert every * CORES[side] <= budget.CHECKPOINT
        assert 10 <= int(config.budget.steps or 0) / int(config.output.sample_every or 0) <= 30
    assert chosen(32, 189, GPU[32]).budget.steps == 4800  # 5000 (189/200)^0.6 = 4834, two digits of it


def test_a_slow_machine_still_learns_something() -> None:
    assert chosen(128, 200, 600.0).budget.steps == budget.FEWEST


def test_what_is_asked_for_is_obeyed() -> None:
    """Whatever the speed; the periods of output that are left open follow, what is given stays."""
    for seconds in (0.01, 100.0):
        assert chosen(64, 200, seconds, budget=BudgetConfig(steps=321)).budget == BudgetConfig(steps=321)
        assert chosen(64, 200, seconds, budget=BudgetConfig(minutes=7)).budget == BudgetConfig(minutes=7)
    # 7 minutes of 1 s: 420 steps, a tenth of which is 42.
    config = chosen(64, 200, 1.0, budget=BudgetConfig(minutes=7), output=OutputConfig(sample_every=0))
    assert (config.output.validate_every, config.output.sample_every, config.output.checkpoint_every) == (20, 0, 20)
    # With steps nothing is left to the clock: two runs of one request write the same files.
    resolved = training.resolve_config(Config(budget=BudgetConfig(steps=321)), photos(side=64).info)
    assert not budget.is_open(resolved)
    assert resolved.output.validate_every == 20
    assert (
        training.resolve_config(Config(budget=BudgetConfig(steps=10**6)), photos().info).output.checkpoint_every == 1000
    )


def test_small_data_keep_their_figures() -> None:
    """Points and images of up to 16 pixels have a number of steps that no clock decides."""
    small = DataInfo(name="small", shape=(1, 8, 8), mean=torch.zeros(64).double(), cov=torch.ones(64).double())
    for info in (points().info, small):
        assert not budget.is_open(training.resolve_config(Config(), info))


def test_the_speed_is_a_median_of_enough_steps() -> None:
    marks = [0.0, 3.0, 4.0, 9.0]  # 3 s, 1 s and 5 s
    assert budget.measured([]) is None
    assert budget.measured(marks[:3]) is None
    assert budget.measured(marks) == 3.0
    assert budget.measured([0.0, 15.0]) is None
    assert budget.measured([0.0, 15.0, 31.0]) == 15.5
    quick = [0.01 * n for n in range(52)]
    assert budget.measured(quick[:50]) is None
    assert budget.measured(quick) == pytest.approx(0.01)


def test_round_periods() -> None:
    for steps, tenth in ((1, 1), (9, 1), (20, 2), (59, 5), (2900, 200), (4800, 200), (5000, 500), (208_000, 20_000)):
        assert budget.period(steps) == tenth


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget of a dozen steps, chosen after three: FEWEST = 12 at a speed of an hour a step."""
    monkeypatch.setattr(budget, "FEWEST", 12)
    monkeypatch.setattr(budget, "measured", lambda marks: 3600.0 if len(marks) == 3 else None)


def run(out: Path, config: Config | None = None, **named: Any) -> Any:
    return training.train(config or asked(), photos(), out, device="cpu", **{"quiet": True, **named})


def held(out: Path) -> list[Any]:
    """The budget in each checkpoint and in the model."""
    states = [json.loads((p / "state.json").read_text())["config"] for p in training.checkpoints(out)]
    return [config["budget"] for config in (*states, models.load(out).config["config"])]


def test_the_chosen_budget_is_kept(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in any step after the choice and resumed at another speed, a run ends with the same files."""
    run(tmp_path / "whole")
    assert held(tmp_path / "whole")[-1] == {"steps": 12, "minutes": None}
    for step in (3, 6, 11):
        with interrupted(step):
            run(tmp_path / "parts")
        assert held(tmp_path / "parts")[-1] == {"steps": 12, "minutes": None}
        with monkeypatch.context() as patch:
            patch.setattr(budget, "FEWEST", 40)  # what would be chosen now
            run(tmp_path / "parts", resume=True)
        same_files(tmp_path / "whole", tmp_path / "parts")
        shutil.rmtree(tmp_path / "parts")


def test_interrupted_before_the_choice(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint holds an open budget, and the run that goes on measures for itself."""
    with interrupted(1):
        run(tmp_path)
    assert held(tmp_path) == 2 * [{"steps": None, "minutes": None}]
    assert run(tmp_path, resume=True).config["steps"] == 12


def test_it_may_be_given_anew(tmp_path: Path, quick: None) -> None:
    with interrupted(5):
        run(tmp_path)
    assert run(tmp_path, asked(budget=BudgetConfig(steps=7)), resume=True).config["steps"] == 7


def test_the_steps_before_the_choice_do_not_depend_on_it(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 steps or 40: those in which the speed is measured are the same, for none of the budget is spent in them."""
    for name, fewest in (("short", 12), ("long", 40)):
        with monkeypatch.context() as patch, interrupted(3):
            patch.setattr(budget, "FEWEST", fewest)
            run(tmp_path / name)
    files = [training.checkpoints(tmp_path / name)[-1] / "model.safetensors" for name in ("short", "long")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert [b["steps"] for b in (held(tmp_path / "short")[-1], held(tmp_path / "long")[-1])] == [12, 40]


def test_a_run_shorter_than_the_measure(tmp_path: Path) -> None:
    """Minutes that are over before the speed is known: what is written at the end is written."""
    made = run(tmp_path, asked(budget=BudgetConfig(minutes=1e-4)))
    assert made.config["steps"] >= 1
    assert made.config["val_loss"] is not None


def test_what_is_said(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first step what is trained on what; after the measure how long, until when, and how to change it."""
    said: list[str] = []
    monkeypatch.setattr(Bar, "say", lambda self, text: said.append(text))
    now = time.mktime((2026, 11, 27, 22, 50, 0, 0, 0, -1))
    monkeypatch.setattr(reports.time, "time", lambda: now)
    run(tmp_path, quiet=False)
    count = sum(p.numel() for p in models.load(tmp_path).network.parameters())
    assert said[0] == "photos: 24 images of 18 x 18 in colour: 20 to train on, 4 held out; no classes"
    assert said[1].startswith(f"network unet of {count:,} parameters; 4 examples a step, ")
    assert said[1].endswith(" 1 thread" if (threads := torch.get_num_threads()) == 1 else f" {threads} threads")
    assert said[2].startswith("20 images are few: expect the model to repeat them")
    assert said[3].startswith("4 held out are too few to measure samples against: langevin evaluate needs 8")
    assert said[4].startswith("images are not mirrored; --flip")
    # 9 steps of an hour are left, and 7 % for what is not a step: 9.7 hours from 22:50 on, a quarter of it for less.
    forecast = next(line for line in said[5:] if not line.startswith("step "))
    assert forecast.startswith(
        "12 steps, 1 h 00 min each: 9 h 41 min in all, done at 08:30 tomorrow (for less --minutes 145, "
    )
    assert forecast.endswith("for more --steps 24)")
    assert re.fullmatch(r"12 steps in .* s, held-out loss .*: the model is in .*", said[-1])


def test_the_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports.time, "time", lambda: time.mktime((2026, 11, 27, 22, 50, 0, 0, 0, -1)))
    line = lambda left, steps, free: reports.forecast(steps, 0, 0.0, left, 0.05, free)
    assert line(600, 100, False) == "100 steps, 20 a second: 10 min 00 s in all, done at 23:00"
    assert line(4200, None, True) == "about 84,000 steps, 20 a second: 1 h 10 min in all, done at 00:00 tomorrow"
    assert line(86_400 * 3, 100, False).endswith("done at 22:50 on Monday, 30 November")
    assert line(20, 400, True).endswith("in all, done at 22:50 (for more --steps 800)")


def test_classes_points_and_many_images() -> None:
    """No advice for those whom it does not concern."""
    network = nn.create_network({"name": "mlp", "channels": 2, "width": 8, "depth": 1})
    config = training.resolve_config(tiny(), points().info)
    lines = reports.opening(points(), network, config, torch.device("cpu"), 1)
    assert lines[0] == "blobs: 90 points of 2: 60 to train on, 30 held out; 3 classes"
    assert len(lines) == 2
    many = photos(count=1000, held=8)
    assert len(reports.opening(many, network, config, torch.device("cpu"), 2)) == 2
    assert "on 2 processes (cpu" in reports.opening(many, network, config, torch.device("cpu"), 2)[1]


def test_the_default_network_of_64_pixels_is_not_four_times_that_of_32() -> None:
    """A thin level above it: the multiplications of convolutions, counted, are less than twice as many."""

    def work(side: int) -> float:
        network = nn.create_network(nn.default((3, side, side)))
        count = [0.0]

        def add(module: torch.nn.Conv2d, given: Any, made: torch.Tensor) -> None:
            count[0] += made[0].numel() * module.weight[0].numel()

        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(add)
        network(torch.zeros(1, 3, side, side), torch.zeros(1), {})
        return count[0]

    assert work(32) < work(64) < 2 * work(32)


def test_an_open_period_is_no_number() -> None:
    """Only what the speed decides may be open in a resolved configuration."""
    resolved = training.resolve_config(Config(), photos().info)
    with pytest.raises(ValueError, match=r"output\.log-every"):
        resolve.check(replace(resolved, output=replace(resolved.output, log_every=None)))  # type: ignore[arg-type]
