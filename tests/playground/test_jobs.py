"""Jobs of a page: one a slot, cancelled by the next, by a word, or by the page's going."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from langevin import UserError
from langevin.playground.jobs import Cancelled, Desk, Job, Watched
from langevin.processes import VP
from langevin.worlds import ring

Said = list[dict[str, Any]]


def at_desk(act: Callable[[Desk, Said], Any], **operations: Callable[[Job], dict[str, Any]]) -> Said:
    """What a page hears while ``act`` happens, until all work has ended."""
    said: Said = []

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            desk = Desk(operations, pool, said.append)
            await asyncio.get_running_loop().run_in_executor(None, act, desk, said)
            await asyncio.get_running_loop().run_in_executor(None, pool.shutdown)
        await asyncio.sleep(0)

    asyncio.run(main())
    return said


def test_a_result_belongs_to_its_request() -> None:
    twice = lambda job: {"twice": 2 * job.arguments["x"]}
    said = at_desk(lambda desk, _: desk.take({"id": 7, "op": "twice", "arguments": {"x": 4}}), twice=twice)
    assert said == [{"id": 7, "event": "result", "twice": 8}]


@pytest.mark.parametrize(
    "message", [{"id": 1, "op": "none"}, {"id": 1, "op": 5}, {"id": 1, "op": "ok", "arguments": 3}]
)
def test_what_is_no_request_is_answered(message: dict[str, Any]) -> None:
    (said,) = at_desk(lambda desk, _: desk.take(message), ok=lambda job: {})
    assert said["event"] == "error"
    assert said["id"] == 1


@pytest.mark.parametrize("message", [None, 3, "text", []])
def test_noise_is_passed_over(message: object) -> None:
    assert at_desk(lambda desk, _: desk.take(message), ok=lambda job: {}) == []


def test_an_error_is_said_and_a_bug_is_named() -> None:
    def refuse(job: Job) -> dict[str, Any]:
        raise UserError("steps must be in 1…200, got 0")

    def fail(job: Job) -> dict[str, Any]:
        raise KeyError("x")

    (said,) = at_desk(lambda desk, _: desk.take({"id": 1, "op": "refuse"}), refuse=refuse)
    assert said == {"id": 1, "event": "error", "message": "steps must be in 1…200, got 0"}
    (said,) = at_desk(lambda desk, _: desk.take({"id": 1, "op": "fail"}), fail=fail)
    assert "a bug of langevin: KeyError" in said["message"]


class Long:
    """Work that goes on until it is cancelled, and says when it has begun and ended."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> dict[str, Any]:
        self.begun.set()
        try:
            while True:
                job.check()
        finally:
            self.ended.set()


@pytest.mark.parametrize("how", ["cancel", "next", "close"])
def test_work_that_nobody_waits_for_ends(how: str) -> None:
    work = Long()

    def act(desk: Desk, said: Said) -> None:
        desk.take({"id": 1, "op": "work"})
        assert work.begun.wait(10)
        if how == "cancel":
            desk.take({"cancel": "work"})
        elif how == "next":
            desk.take({"id": 2, "op": "ok", "slot": "work"})
        else:
            desk.close()
        assert work.ended.wait(10)

    said = at_desk(act, work=work, ok=lambda job: {})
    assert [message["id"] for message in said] == ([2] if how == "next" else [])


def test_other_slots_go_on() -> None:
    work = Long()

    def act(desk: Desk, said: Said) -> None:
        desk.take({"id": 1, "op": "work", "slot": "a"})
        assert work.begun.wait(10)
        desk.take({"id": 2, "op": "ok", "slot": "b"})
        assert not work.ended.wait(0.2)
        desk.close()

    assert [message["id"] for message in at_desk(act, work=work, ok=lambda job: {})] == [2]


def test_a_sampler_stops_at_its_next_evaluation() -> None:
    job = Job({}, lambda message: None)
    denoiser = Watched(ring().denoiser(VP()), job)
    x = ring().sample(4)
    assert denoiser(x, 0.5).mean.shape == (4, 2)
    job.cancel()
    with pytest.raises(Cancelled):
        denoiser(x, 0.5)
    assert denoiser.calls == 1
