"""Ctrl-C and SIGTERM during a run: acknowledged at once, and obeyed twice."""

from __future__ import annotations

import _thread
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

KICK = 0.2
"""Seconds after a second signal in which its own handler should have stopped the run."""

GRACE = 1.0
"""Seconds after that in which a computation may return before the process is ended under it."""

_DONE = b"\0"


class Interrupts:
    """The signals a run has seen.

    The first asks for an end after the step under way. The second does not wait: it raises ``KeyboardInterrupt``, but
    never while a checkpoint is being written (``shielded``). Python runs its handlers between two of its own
    instructions, so a signal that comes while a step computes for minutes would not be heard before the step is over.
    A thread therefore listens to the bytes that the interpreter writes for each signal as it arrives
    (``signal.set_wakeup_fd``): it acknowledges the first, and after the second, should the main thread not come back,
    calls ``leave``.

    Attributes:
        seen: whether a signal came.

    Args:
        patient: a second signal is not obeyed, for it may be the first one that a launcher passed on.
        acknowledge: called once, in another thread, when the first signal comes.
        leave: called in another thread after a second signal if the main thread is still in a computation ``GRACE``
            seconds later and no checkpoint is being written. It may end the process.
    """

    def __init__(self, patient: bool, acknowledge: Callable[[], None], leave: Callable[[], None]) -> None:
        self.patient, self.acknowledge, self.leave = patient, acknowledge, leave
        self._handled = self._arrived = 0
        self._raised = self._writing = False
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @property
    def seen(self) -> bool:
        """Whether a signal came."""
        return max(self._handled, self._arrived) > 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Take the signals over; outside the main thread, where Python has none, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        listener = threading.Thread(target=self._listen, args=(ours,), name="langevin-signals", daemon=True)
        listener.start()
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            self._ended.set()
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            with contextlib.suppress(OSError):
                theirs.send(_DONE)
            listener.join(10)
            theirs.close()

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A block that a second signal does not break off: it is obeyed when the block ends."""
        self._obey()
        self._writing = True  # before the lock: what is raised between the two would never give it back
        try:
            with self._lock:
                yield
        finally:
            self._writing = False
        self._obey()

    def _obey(self) -> None:
        if max(self._handled, self._arrived) > 1 and not (self.patient or self._writing or self._raised):
            self._raised = True
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._handled += 1
        self._obey()

    def _listen(self, ours: socket.socket) -> None:
        with ours:
            while (bytes_ := ours.recv(1)) not in (b"", _DONE):
                if bytes_[0] not in SIGNALS:
                    continue
                self._arrived += 1
                if self._arrived == 1:
                    self.acknowledge()
                elif self._arrived == 2 and not self.patient:
                    self._insist()

    def _insist(self) -> None:
        """See to it that a second signal is obeyed."""
        with self._lock:  # a checkpoint that is being written is finished first, and no other begun
            if self._ended.wait(KICK):
                return
            _thread.interrupt_main()  # two signals in one native call make one call of the handler
            if not self._ended.wait(GRACE):
                self.leave()
