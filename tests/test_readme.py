"""What README and docs print runs as printed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNS = [
    "digits --out runs/digits",
    "digits --network.name vae --out runs/vae",
    "mixture --network.options energy true --out runs/energy",
    "digits --ema.snapshots 16 --out runs/ema",
    'glyphs --limit 64 --size 16 --network.options conditions {"caption":104} --out runs/glyphs',
]
"""Trainings that pages print, and go on from."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.S | re.M)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A directory in which the demo and other runs of the pages have been run, in a quick form."""
    place = tmp_path_factory.mktemp("readme")
    from langevin.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["demo", "--quick"]) in (0, None)
        for run in RUNS:
            assert main(["train", *run.split(), "--steps", "2"]) in (0, None)
    return place


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_runs_as_printed(page, demo, monkeypatch):
    """Every block of Python, one after the other, in a directory where the demo and ``RUNS`` have been run."""
    monkeypatch.chdir(demo)
    names = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


def test_the_check_of_a_network_prints_what_the_page_shows(capsys):
    page = ROOT / "docs" / "own-network.md"
    names = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    shown = re.findall(r"^```\n(RMS error.*?)^```", page.read_text(), flags=re.S | re.M)
    # Rounding of another machine may turn a last digit of the table, not the words.
    words = lambda text: re.sub(r"[\d.]+", "#", text)
    assert len(shown) == 1
    assert words(capsys.readouterr().out).endswith(words(shown[0]))


def test_commands_exist():
    """Every `make` target and every `langevin` command and option that a page prints is one."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    langevin = shutil.which("langevin", path=str(Path(sys.executable).parent))
    assert langevin
    helps: dict[str, str] = {}
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"^make ([a-z-]+)$", text, flags=re.M)) <= targets
        for command, rest in re.findall(r"^(?:\$ )?langevin ([a-z]+)(.*)$", text, flags=re.M):
            if command not in helps:
                done = subprocess.run([langevin, command, "--help"], capture_output=True, text=True)
                assert done.returncode == 0, command
                helps[command] = done.stdout
            for option in re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest):
                assert option in helps[command], (page.name, command, option)


def test_links_lead_somewhere():
    """Relative links and pictures are there."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_ways_of_the_demo_are_counted():
    """README says in how many ways the demo samples: as many as the report has rows."""
    from langevin.report.comparisons import TRIALS

    words = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    (said,) = re.findall(r"samples it in (\w+) ways", " ".join((ROOT / "README.md").read_text().split()))
    assert words.index(said) + 2 == len(TRIALS)


def test_methods_page_is_of_the_registry():
    """docs/methods.md is what `make docs` would write."""
    sys.path.insert(0, str(ROOT / "docs"))
    import make

    assert (ROOT / "docs" / "methods.md").read_text() == make.methods_table()
