"""The way in: which command, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, ModuleType
from typing import Any, TextIO, cast

from .._errors import UserError, nearest
from ..storage.untrusted import reason

COMMANDS = {
    "demo": "Train on real digits, sample, measure, and write a report: start here.",
    "train": "Train a model on a data set, a folder of images, an array file, or Hub data.",
    "sample": "Draw samples of a trained model.",
    "disco": "Draw pictures led to prompts by a contrastive encoder, through cut-outs: Disco Diffusion.",
    "guide": "Draw samples under guidance: by a class, a caption or a picture, a classifier, a worse model.",
    "cascade": "Put models together that draw one after the other: small pictures, then larger ones.",
    "play": "Play with exact worlds and trained models on a local web page.",
    "tune": "Learn a solver for a model and a number of evaluations.",
    "calibrate": "Learn the optimal variances of a model's reverse steps.",
    "evaluate": "Measure a model against held-out data.",
    "compare": "Compare samplers on a model from the same noises: a report, and what to take.",
    "likelihood": "Bits a dimension of held-out data: the exact likelihood, the bound, or both.",
    "restore": "Restore damaged images: fill holes, enlarge, sharpen, colour; several samples and their spread.",
    "edit": "Change images by a model: inside a mask, to a class, from strokes, word by word.",
    "purify": "Take small adversarial changes out of images: noise, and back by a model.",
    "anomaly": "Show where images differ from what a model knows as healthy.",
    "replay": "Draw a picture again from what its file says of it, and compare.",
    "publish": "Write a model with its card as a repository of the Hub, and push it.",
    "compress": "Code images with a model into a file, exactly or to a quality.",
    "decompress": "Images out of a file of `langevin compress`.",
    "league": "Solvers of inverse problems against exact posteriors: one table.",
    "convert": "Foreign weights (.pt, .pth, .ckpt, .pkl) to safetensors or a model, without running code in them.",
    "export": "Write a model as a pipeline of diffusers.",
    "data": "What data there are by name; fetch a set, show a sheet of it.",
    "models": "Models that come with langevin, by name: list them, print a card.",
    "methods": "List every method: its paper, its place in the code, its proof.",
    "audit": "Put any scheduler, sampler, guider or denoiser on exact worlds: is it right?",
    "info": "Show what a model directory holds, or this environment.",
    "completion": "Print a script that completes command lines with the Tab key, for bash or zsh.",
}
"""Commands with the line that the table of contents gives them; each is a module beside this one."""

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""The settings of OpenMP that say how a thread waits."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_GIVEN_BY_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}

_GIVEN_BY_THE_CALLER = {errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: its words after the program's name; those of this process if not given.

    Returns:
        The exit code: 0; 2 for a request that cannot be met, said in one line on standard error; 1 if an audit proves
        something wrong, the disk is full or refuses, or the reader of a pipe has left; 130 after Ctrl-C. Any other
        error is a bug and is raised.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words else ""
    prog = f"langevin {name}" if name in COMMANDS else "langevin"
    with streams(), _interrupts(prog):
        try:
            code = _main(prog, words)
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # the reader of a pipe has left, as in `langevin methods | head`
            _give_up(sys.stdout)
            return 1
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _GIVEN_BY_THE_CALLER and error.filename is not None:
                _complain(prog, f"{os.fsdecode(error.filename):.200}: {reason}")
                return 2
            if error.errno not in _GIVEN_BY_THE_MACHINE:
                raise
            if error.filename is not None:
                _complain(prog, f"{os.fsdecode(error.filename)}: {reason}")
                return 1
            _give_up(sys.stdout)  # everything else that is written says where
            _complain(prog, f"standard output cannot be written: {reason}")
            return 1


def _main(prog: str, words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_contents())
        return 0
    if words[0] in ("-V", "--version"):
        from .._version import __version__

        print(f"langevin {__version__}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        _complain("langevin", f"unknown {kind} {name!r}.{nearest(name, COMMANDS)} Known: {', '.join(COMMANDS)}.")
        return 2
    _wait_passively()
    try:
        with warnings.catch_warnings():
            _speak(prog)
            return _run(prog, importlib.import_module(f".{name}", __package__), rest)
    except UserError as error:
        _complain(prog, str(error))
        return 1 if isinstance(error, OSError) else 2  # files.DiskError is both
    except KeyboardInterrupt as stop:
        _complain(prog, str(stop) or "stopped")
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        _complain(prog, f"memory ran out ({reason(error)}); a smaller --batch takes less")
        return 1


@contextlib.contextmanager
def _interrupts(prog: str) -> Iterator[None]:
    """Ctrl-C while a module is being imported ends the process at once.

    Modules written in C swallow the exception and leave themselves half imported, which fails later with an error of
    their own. Nothing is being written then; elsewhere Ctrl-C is a ``KeyboardInterrupt`` as ever.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code.co_filename == importing:
                _complain(prog, "stopped")
                os._exit(INTERRUPTED)
            frame = frame.f_back
        raise KeyboardInterrupt

    importing = "<frozen importlib._bootstrap>"
    own = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not own or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had: Python's, a GPU's, or that of torch on a CPU, a plain one."""
    named = type(error).__name__ in ("MemoryError", "_ArrayMemoryError", "OutOfMemoryError")
    return named or "DefaultCPUAllocator" in str(error)


def _wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user has said how they wait.

    By default they spin, and beside any busy process each waits for one that is not scheduled: training falls to a
    quarter (`python benchmarks/load.py`). OpenMP reads its settings when torch is loaded, which is
    later.
    """
    if not any(name in os.environ for name in WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"


def _run(prog: str, command: ModuleType, words: list[str]) -> int:
    from .parse import parse

    options = parse(prog, command.Options, words)
    if options is None:
        return 0
    # Names and records of a model directory are somebody else's; help, which may have colours, is not.
    with contextlib.redirect_stdout(cast("TextIO", Printable(sys.stdout))):
        code = command.run(options)  # most commands return nothing; a verdict is a code
        sys.stdout.flush()
    return code if isinstance(code, int) else 0


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """Let both streams be there (a shell closes one by ``>&-``), and take any character."""
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:
                void = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                redirect = contextlib.redirect_stdout if name == "stdout" else contextlib.redirect_stderr
                stack.enter_context(redirect(void))
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without σ shows ?, and goes on
        yield


def _give_up(stream: TextIO) -> None:
    """Let what is still to be flushed as Python ends go nowhere: it could only fail again."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Printable:
    """A stream without the characters that move a terminal's cursor, colour it, or hide text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write what can be printed, and a replacement for each character that cannot."""
        self._stream.write(printable(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def printable(text: str) -> str:
    """A text with U+FFFD in the place of every control character but the ends of lines."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _contents() -> str:
    """``langevin --help``."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "langevin: diffusion models, each method proven against exact truth.",
            "",
            "usage: langevin COMMAND ...",
            "",
            *lines,
            "",
            "`langevin COMMAND --help` lists the options of a command.",
            "",
            "  langevin train digits --out runs/digits --minutes 2",
            "  langevin sample runs/digits -n 64 --label 3 --out samples",
            "  langevin evaluate runs/digits",
        ]
    )


def abandon(prog: str) -> Callable[[str], None]:
    """What ends this process, whatever it computes, with a sentence and the exit code of Ctrl-C."""

    def leave(text: str) -> None:
        _complain(prog, text)
        os._exit(INTERRUPTED)

    return leave


def _complain(prog: str, text: str) -> None:
    # A name in somebody else's file may hold what moves a terminal's cursor.
    with contextlib.suppress(OSError):  # standard error may be full or closed too: the exit code is left
        print(f"{prog}: {printable(' '.join(text.split()))}", file=sys.stderr, flush=True)


def _speak(prog: str) -> None:
    """Let what the library warns of be a line like any other, without the place in the code."""
    plain = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, UserWarning):
            _complain(prog, f"warning: {message}")
        else:
            plain(message, category, filename, lineno, file, line)

    warnings.showwarning = show
