"""The way in: table of contents, exit codes, what errors look like."""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

import langevin
from langevin import UserError
from langevin.cli import entry, main


@pytest.fixture
def methods_that(monkeypatch: pytest.MonkeyPatch):
    """Let ``langevin methods`` do something else."""

    def put(work) -> None:
        monkeypatch.setattr("langevin.cli.methods.run", work)

    return put


def raising(error: BaseException):
    def work(options: object) -> None:
        raise error

    return work


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_is_a_table_of_contents(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    for command in ("demo", "train", "sample", "evaluate", "methods", "info"):
        assert f"\n  {command} " in text


def test_help_and_wrong_commands_do_not_wait_for_torch() -> None:
    code = (
        "import sys; from langevin.cli import main; main(['--help']); main(['smaple']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_help_of_every_command_is_printed_without_torch() -> None:
    """Help waits for the option classes and the parser alone: what the work needs is imported when it begins."""
    heavy = {"torch", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "safetensors", "huggingface_hub", "accelerate"}
    code = f"""
import contextlib, io, sys
from langevin.cli import entry
for command in entry.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert entry.main([command, "--help"]) == 0, command
    assert said.getvalue().startswith(f"usage: langevin {{command}}"), command
    assert not {heavy!r} & set(sys.modules), (command, {heavy!r} & set(sys.modules))
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_console_script_and_module_are_the_same_way_in() -> None:
    script = Path(sys.executable).with_name("langevin")
    for command in ([str(script)], [sys.executable, "-m", "langevin"]):
        done = subprocess.run([*command, "smaple"], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith("langevin: unknown command 'smaple'. Did you mean 'sample'?")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "own", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "100"}, {"KMP_BLOCKTIME": "0"}], ids=str
)
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch, methods_that
) -> None:
    seen: dict[str, str] = {}
    methods_that(lambda options: seen.update({k: v for k, v in os.environ.items() if k in entry.WAITING}))
    for name in entry.WAITING:
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back after the test
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    assert main(["methods"]) == 0
    assert seen == (own or {"OMP_WAIT_POLICY": "passive"})


def test_an_interrupt_amid_an_import_ends_the_command(tmp_path: Path) -> None:
    """Modules written in C swallow it and stay half imported: the command would fail later, with an error of theirs."""
    (tmp_path / "swallowing.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    sum(range(10))\n"
        "except KeyboardInterrupt:\n    pass\n"
    )
    code = (
        "import importlib, langevin.cli.methods as m; from langevin.cli import main; "
        "m.run = lambda options: importlib.import_module('swallowing'); raise SystemExit(main(['methods']))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    # A shell's background job, as the tests may be, hands on that interrupts are ignored.
    told = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, preexec_fn=told)
    assert (done.returncode, done.stdout) == (entry.INTERRUPTED, "")
    assert done.stderr == "langevin methods: stopped\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"langevin {langevin.__version__}\n"


def test_a_user_error_is_one_line_and_exit_code_2(methods_that, capsys) -> None:
    methods_that(raising(UserError("steps must be at least 1,\n   got 0")))
    assert main(["methods"]) == 2
    assert capsys.readouterr().err == "langevin methods: steps must be at least 1, got 0\n"


def test_ctrl_c_is_130_with_what_it_says(methods_that, capsys) -> None:
    methods_that(raising(KeyboardInterrupt("stopped at step 7; go on with: langevin train")))
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "langevin methods: stopped at step 7; go on with: langevin train\n"
    methods_that(raising(KeyboardInterrupt()))
    assert main(["methods"]) == 130
    assert capsys.readouterr().err == "langevin methods: stopped\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_full_or_closed_disk_is_a_message(methods_that, capsys, number: int) -> None:
    methods_that(raising(OSError(number, os.strerror(number), "out/samples.npz")))
    assert main(["methods"]) == 1
    said = capsys.readouterr().err
    assert os.strerror(number) in said
    assert "out/samples.npz" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("x"), OSError(errno.EIO, "x"), RuntimeError("bug")])
def test_any_other_error_is_a_bug_and_is_raised(methods_that, error: Exception) -> None:
    methods_that(raising(error))
    with pytest.raises(type(error)):
        main(["methods"])


def test_what_the_library_warns_of_is_a_line(methods_that, capsys) -> None:
    methods_that(lambda options: warnings.warn("photos: 3 files skipped", stacklevel=1))
    plain = warnings.showwarning
    assert main(["methods"]) == 0
    assert capsys.readouterr().err == "langevin methods: warning: photos: 3 files skipped\n"
    assert warnings.showwarning is plain


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "import sys; from langevin.cli import main; sys.exit(main(['methods', '--category', 'grids', '--json']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which ``langevin`` is this interpreter's; the exit code is that of its first command."""
    start = f'set -o pipefail; langevin() {{ {shlex.quote(sys.executable)} -m langevin "$@"; }}; '
    return subprocess.run(["bash", "-c", start + line], capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_help_to_a_full_disk_is_a_sentence() -> None:
    done = shell("langevin --help > /dev/full")
    said = "langevin: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


def test_help_to_a_reader_that_leaves_is_quiet() -> None:
    done = shell("langevin --help | :")
    assert done.stderr == ""


def test_a_closed_standard_output_is_none(methods_that, monkeypatch: pytest.MonkeyPatch) -> None:
    done = shell("langevin --help >&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = shell("langevin smaple 2>&-")  # and nothing of it is said on the other
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    methods_that(lambda options: print("said"))
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["methods"]) == 0


def test_what_moves_a_cursor_does_not_reach_standard_output(methods_that, capsys) -> None:
    """Escape sequences of seven and eight bits, a bell, a return over the line, and marks that turn letters round."""
    methods_that(lambda options: print("a\x1b[2Jb\x9b2Jc\x07d\re\u202ef\x00g\n\u00e9 σ 数"))
    assert main(["methods"]) == 0
    assert capsys.readouterr().out == "a\ufffd[2Jb\ufffd2Jc\ufffdd\ufffde\ufffdf\ufffdg\n\u00e9 σ 数\n"


def test_the_streams_are_as_they_were(methods_that) -> None:
    before = sys.stdout, sys.stderr
    methods_that(lambda options: None)
    assert main(["methods"]) == 0
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR])
def test_a_path_that_cannot_be_is_the_callers(methods_that, capsys, number: int) -> None:
    methods_that(raising(OSError(number, os.strerror(number), "x" * 300)))
    assert main(["methods"]) == 2
    said = capsys.readouterr().err
    assert said == f"langevin methods: {'x' * 200}: {os.strerror(number)}\n"


def test_a_terminal_without_greek_letters_goes_on() -> None:
    code = "from langevin.cli import entry; entry._contents = lambda: 'σ/α'; entry.main([])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout) == (0, "?/?\n")


def test_every_command_of_the_contents_is_there() -> None:
    for command in entry.COMMANDS:
        module = importlib.import_module(f"langevin.cli.{command}")
        assert callable(module.run)
        assert module.Options.__doc__
