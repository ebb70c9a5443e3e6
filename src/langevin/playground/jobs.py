"""Work of a page: in threads, with progress, and cancelled when its page goes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .._errors import UserError
from ..denoisers import Transform
from ..distributions import Distribution
from ..samplers.tolerance import Count

log = logging.getLogger(__name__)

PAUSE = 0.1
"""Seconds between two words on how far the work is."""

Message = dict[str, Any]
"""What goes to a page, as plain JSON."""


class Cancelled(Exception):
    """Raised inside of work that nobody waits for any more."""


class Job:
    """One request of a page: what it asks for, a way to speak to the page, and whether it is still wanted.

    Args:
        arguments: of the request, as they came.
        send: takes a message from any thread.
    """

    def __init__(self, arguments: Mapping[str, Any], send: Callable[[Message], None]) -> None:
        self.arguments, self._send, self._stop = arguments, send, threading.Event()
        self._said = time.monotonic()

    def cancel(self) -> None:
        """Let the work end at its next step."""
        self._stop.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._stop.is_set()

    def check(self) -> None:
        """Go on only if the work is still wanted.

        Raises:
            Cancelled: if it is not.
        """
        if self.cancelled:
            raise Cancelled

    def progress(self, done: int, total: int) -> None:
        """Say how far the work is, and stop it if it is not wanted any more."""
        self.check()
        if (now := time.monotonic()) - self._said >= PAUSE:
            self._said = now
            self.send("progress", done=done, total=total)

    def send(self, event: str, **more: Any) -> None:
        """A message to the page, unless the job is cancelled."""
        if not self.cancelled:
            self._send({"event": event, **more})


@dataclass(frozen=True, eq=False)
class Watched(Transform):
    """The same belief, counted, and asked only as long as its job is wanted: a sampler stops at its next evaluation."""

    job: Job
    count: Count = field(default_factory=Count)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        self.job.check()
        self.count.calls += 1
        return self.base(x_t, t)

    @property
    def calls(self) -> int:
        """Evaluations until now."""
        return self.count.calls


Work = Callable[[Job], Mapping[str, Any]]
"""What an operation does: its result is sent as the event ``result``."""


class Desk:
    """The jobs of one page: one at a time in each slot, where a new one takes the place of the one before.

    Args:
        operations: work by its name.
        pool: threads, shared by all pages.
        send: takes the page's messages, in the loop's own thread.
    """

    def __init__(
        self, operations: Mapping[str, Work], pool: ThreadPoolExecutor, send: Callable[[Message], None]
    ) -> None:
        self._operations, self._pool, self._out = operations, pool, send
        self._running: dict[str, Job] = {}
        self._loop = asyncio.get_running_loop()

    def take(self, message: Any) -> None:
        """A message of the page: ``{"id", "op", "arguments", "slot"}``, or ``{"cancel": slot}``."""
        if not isinstance(message, dict):
            return
        if "cancel" in message:
            if (job := self._running.pop(str(message["cancel"]), None)) is not None:
                job.cancel()
            return
        number, name = message.get("id"), message.get("op")
        slot = str(message.get("slot", name))
        arguments = message.get("arguments", {})
        if not isinstance(name, str) or name not in self._operations or not isinstance(arguments, dict):
            self._out({"id": number, "event": "error", "message": f"there is no operation {name!r}"})
            return
        if (before := self._running.get(slot)) is not None:
            before.cancel()
        job = Job(arguments, lambda made: self._later({"id": number, **made}))
        self._running[slot] = job
        self._pool.submit(self._work, name, job)

    def close(self) -> None:
        """Cancel everything: the page has gone."""
        for job in self._running.values():
            job.cancel()
        self._running.clear()

    def _later(self, message: Message) -> None:
        with contextlib.suppress(RuntimeError):  # the server has stopped
            self._loop.call_soon_threadsafe(self._out, message)

    def _work(self, name: str, job: Job) -> None:
        """In a thread of the pool."""
        try:
            job.check()
            job.send("result", **self._operations[name](job))
        except Cancelled:
            pass
        except UserError as error:
            job.send("error", message=str(error))
        except Exception as error:
            log.exception("playground: %s failed", name)
            job.send("error", message=f"this is a bug of langevin: {type(error).__name__}: {error}")
