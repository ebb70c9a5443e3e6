"""``langevin completion``: the script is one that the shell takes, and it completes what is typed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from langevin.cli import main

TYPED = {
    "langevin sam": {"sample"},
    "langevin train --ema.": {
        "--ema.kind",
        "--ema.width",
        "--ema.half-life",
        "--ema.snapshots",
        "--ema.snapshot-precision",
    },
    "langevin train digits --out runs/x --precision bf": {"bfloat16"},
    "langevin sample runs/digits --guidance-s": {"--guidance-scale"},
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_choices(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    ask = [
        f'COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; COMPREPLY=(); "$name"; echo "${{COMPREPLY[*]}}"'
        for line in TYPED
    ]
    # As Tab does: the function that the script has entered for the program, asked with the words of the line.
    entered = 'name=$(complete -p langevin | sed -E "s/.*-F ([^ ]+) .*/\\1/")'
    done = subprocess.run(
        ["bash", "-c", "\n".join([f"source {script}", entered, *ask])], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert [set(line.split()) for line in done.stdout.splitlines()] == list(TYPED.values())


def test_zsh_gets_a_script_that_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    from langevin.cli.entry import COMMANDS

    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef langevin")
    for command in COMMANDS:
        assert command in script


def test_another_shell_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "bash" in said.err
