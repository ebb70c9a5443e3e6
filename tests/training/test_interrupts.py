"""Ctrl-C and SIGTERM: heard at once whatever is computed, obeyed twice, and nothing is lost or half written."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langevin import models, training
from langevin.cli import entry
from langevin.storage import files
from langevin.training import Learner, OutputConfig, checkpoint, interrupts, loop, pictures
from langevin.training.logging import Bar
from langevin.training.loop import Run
from tiny_runs import points, same_files, tiny

OUTPUT = OutputConfig(log_every=3, validate_every=6, validate_on=20, sample_every=6, checkpoint_every=4)
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and what is drawn is not what is tested."""

    def snapshot(model: Any, path: Path, **named: Any) -> Path:
        files.replace(path, b"drawn")
        return path

    monkeypatch.setattr(pictures, "snapshot", snapshot)


def run(out: Path, **named: Any) -> Any:
    return training.train(tiny(output=OUTPUT), points(), out, device="cpu", **{"quiet": True, **named})


def press(times: int, number: int = signal.SIGINT) -> None:
    for _ in range(times):
        os.kill(os.getpid(), number)


def once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool], act: Callable[[], Any]):
    """Do something in a function, before its own work, the first time that ``when`` says so."""
    plain, done = getattr(owner, name), []

    def patched(*given: Any, **named: Any) -> Any:
        if not done and when(*given, **named):
            done.append(True)
            act()
        return plain(*given, **named)

    monkeypatch.setattr(owner, name, patched)


def at_step(number: int) -> Callable[..., bool]:
    return lambda *given, **named: named["number"] == number


class Native:
    """A computation of some length in one native call, which no signal breaks off and no handler interrupts.

    Ctrl-C is pressed ``times`` times while it goes on. ``ended`` is the time at which it returned.
    """

    def __init__(self, seconds: float, times: int) -> None:
        begun = time.perf_counter()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)
        self.iterations = int(20_000 * seconds / (time.perf_counter() - begun))
        self.times, self.ended = times, 0.0

    def __call__(self) -> None:
        def press_from_outside() -> None:
            for _ in range(self.times):
                time.sleep(0.1)
                press(1)

        threading.Thread(target=press_from_outside).start()
        try:
            hashlib.pbkdf2_hmac("sha256", b"", b"", self.iterations)
        finally:
            self.ended = time.monotonic()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, str]]:
    """What the run says, and when."""
    lines: list[tuple[float, str]] = []
    monkeypatch.setattr(loop, "opening", lambda *given: [])
    monkeypatch.setattr(Bar, "say", lambda self, text: lines.append((time.monotonic(), text)))
    return lines


def test_the_first_is_acknowledged_while_the_step_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[float, str]]
) -> None:
    """The step is one native call; the line comes before it returns, and the step is kept."""
    step = Native(seconds=2.0, times=1)
    once(monkeypatch, Learner, "step", at_step(6), step)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 6; the checkpoint of step 6 is whole"):
        run(tmp_path)
    when, text = said[0]  # on a slow machine the speed is said too, afterwards
    assert when < step.ended
    assert text.startswith("finishing this step; the checkpoint is written then (Ctrl-C again leaves now, the last")
    assert "of step 4 is kept" in text


def test_before_any_checkpoint_it_says_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[float, str]]
) -> None:
    once(monkeypatch, Learner, "step", at_step(2), lambda: press(1))
    with pytest.raises(KeyboardInterrupt, match="the checkpoint of step 2 is whole"):
        run(tmp_path)
    assert "(Ctrl-C again leaves now, no checkpoint is kept)" in said[0][1]


def test_the_second_leaves_a_computation_that_does_not_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends the process is called from outside while the native call goes on, with the way to go on."""
    monkeypatch.setattr(interrupts, "KICK", 0.05)
    monkeypatch.setattr(interrupts, "GRACE", 0.05)
    step, left = Native(seconds=3.0, times=2), []
    once(monkeypatch, Learner, "step", at_step(6), step)
    with pytest.raises(KeyboardInterrupt):  # the test's ``leave`` does not end the process
        run(tmp_path, leave=lambda text: left.append((time.monotonic(), text)))
    ((when, text),) = left
    assert when < step.ended
    assert text.startswith("stopped at step 6; the checkpoint of step 4 is whole; go on with: langevin train blobs")
    assert models.load(tmp_path).config["steps"] == 4


def test_a_library_waits_for_the_computation_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[float, str]]
) -> None:
    monkeypatch.setattr(interrupts, "KICK", 0.05)
    monkeypatch.setattr(interrupts, "GRACE", 0.05)
    step = Native(seconds=2.0, times=2)
    once(monkeypatch, Learner, "step", at_step(6), step)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 6; the checkpoint of step 4 is whole"):
        run(tmp_path)
    assert [text for when, text in said if when < step.ended][1:] == [
        "stopping as soon as the computation under way returns"
    ]


def test_two_signals_in_one_native_call_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python calls its handler once for both; the step is left all the same, within the grace."""
    left: list[str] = []
    once(monkeypatch, Learner, "step", at_step(6), Native(seconds=0.5, times=2))
    with pytest.raises(KeyboardInterrupt, match="stopped at step 6; the checkpoint of step 4 is whole"):
        run(tmp_path, leave=left.append)
    assert not left


@BOTH
@pytest.mark.parametrize(("owner", "name"), [(Run, "_validate"), (Run, "_picture")], ids=["validating", "drawing"])
def test_amid_what_a_step_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int):
    """One signal: this step is the last, not the next. Two: the checkpoint before it stands. Both go on to the same."""
    run(tmp_path / "whole")
    for times, kept in ((1, 6), (2, 4)):
        out = tmp_path / str(times)
        with monkeypatch.context() as patch:
            once(patch, owner, name, lambda *given: True, lambda times=times: press(times, number))
            with pytest.raises(KeyboardInterrupt, match=f"stopped at step 6; the checkpoint of step {kept} is whole"):
                run(out)
        assert models.load(out).config["steps"] == kept
        run(out, resume=True)
        same_files(tmp_path / "whole", out)


@BOTH
@pytest.mark.parametrize("times", [1, 2])
def test_a_checkpoint_that_is_being_written_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, number: int
) -> None:
    run(tmp_path / "whole")
    out = tmp_path / "parts"
    with monkeypatch.context() as patch:
        once(patch, checkpoint, "save", lambda *given: True, lambda: press(times, number))
        with pytest.raises(KeyboardInterrupt, match="stopped at step 4; the checkpoint of step 4 is whole"):
            run(out)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-0000004"]
    assert models.load(out).config["steps"] == 4  # the model beside it was written too
    run(out, resume=True)
    same_files(tmp_path / "whole", out)


def test_leaving_waits_for_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two signals while a checkpoint takes longer than the grace: nobody ends the process under it."""
    monkeypatch.setattr(interrupts, "KICK", 0.01)
    monkeypatch.setattr(interrupts, "GRACE", 0.01)
    left: list[str] = []
    once(monkeypatch, checkpoint, "save", lambda *given: True, Native(seconds=1.0, times=2))
    with pytest.raises(KeyboardInterrupt, match="the checkpoint of step 4 is whole"):
        run(tmp_path, leave=left.append)
    assert not left
    assert models.load(tmp_path).config["steps"] == 4


def test_between_micro_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second signal leaves in the part of the batch under way."""
    seen, plain = [0], Learner._backward

    def backward(self: Learner, *given: Any) -> Any:
        seen[0] += 1
        if seen[0] == 3 * 4 + 2:  # step 5, its second part of three
            press(2)
        return plain(self, *given)

    monkeypatch.setattr(Learner, "_backward", backward)
    config = tiny(output=OUTPUT, work=training.ParallelConfig(accumulate=3))
    with pytest.raises(KeyboardInterrupt, match="stopped at step 5; the checkpoint of step 4 is whole"):
        training.train(config, points(), tmp_path, quiet=True)
    assert seen[0] == 3 * 4 + 2


def test_the_signals_are_given_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    run(tmp_path)
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "langevin-signals" not in [thread.name for thread in threading.enumerate()]


def test_a_launcher_is_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[tuple[float, str]]) -> None:
    """It passes on the signal that its processes have had of the terminal: a second one is no wish."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    once(monkeypatch, Learner, "step", at_step(6), lambda: press(2))
    with pytest.raises(KeyboardInterrupt, match="stopped at step 6; the checkpoint of step 6 is whole"):
        run(tmp_path)
    assert [text for _, text in said] == ["finishing this step; the checkpoint is written then"]


def test_what_the_command_does_to_leave(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    entry.abandon("langevin train")("stopped at step 6; the checkpoint of step 4 is whole")
    assert codes == [entry.INTERRUPTED]
    assert capsys.readouterr().err == "langevin train: stopped at step 6; the checkpoint of step 4 is whole\n"
