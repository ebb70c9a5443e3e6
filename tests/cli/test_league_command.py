"""``langevin league``: what it says before it works, and that it goes on where it was stopped."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from said import Run

from langevin.tasks.restore import Setting
from langevin.tasks.restore.finished_settings import FinishedSettings
from langevin.tasks.restore.league import LeagueRow, Problem, Sizes, league
from langevin.tasks.restore.methods import pigdm
from langevin.tasks.restore.run import Method

SMALL = ["--dims", 16, "--stds", 0.3, "--evaluations", 4, 6, "--n", 16, "--pairs", 4]
WORDS = [*SMALL, "--operators", "inpainting", "averages", "random", "--solver", "pigdm", "ddrm", "--workers", 1]


def table(out: Path) -> list[dict[str, str]]:
    """The rows without how long they took."""
    with open(out / "league.csv", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Operators and solvers of the rows that are made; the third setting is interrupted while ``stop`` is in it."""
    made: list[tuple[str, str]] = []
    plain = Problem.judge

    def judge(self: Problem, name: str, solver: Method, evaluations: int) -> LeagueRow:
        if self.setting.operator == "random" and ("stop", "stop") in made:
            raise KeyboardInterrupt
        made.append((self.setting.operator, name))
        return plain(self, name, solver, evaluations)

    monkeypatch.setattr(Problem, "judge", judge)
    return made


def test_it_goes_on(langevin: Run, tmp_path: Path, judged: list[tuple[str, str]]) -> None:
    """Stopped in the third setting, the first two are not made again, and the table is that of one call."""
    out = tmp_path / "out"
    judged.append(("stop", "stop"))
    assert langevin("league", *WORDS, "--out", out).code == 130
    assert len(list((out / "settings").glob("*.json"))) == 2
    assert not (out / "league.csv").exists()
    judged.clear()
    said = langevin("league", *WORDS, "--out", out)
    assert said.code == 0, said.err
    first = "3 settings (world, operator, noise), each with 2 solvers at 4 and 6 evaluations a sample; 2 were there\n"
    assert said.out.startswith(first)
    assert judged == [("random", "pigdm")] * 2 + [("random", "ddrm")] * 2
    judged.clear()
    said = langevin("league", *WORDS, "--out", tmp_path / "whole")
    assert said.code == 0, said.err
    assert "were there" not in said.out
    assert len(judged) == 12
    assert table(out) == table(tmp_path / "whole")
    assert [row["operator"] for row in table(out)] == ["inpainting"] * 4 + ["averages"] * 4 + ["random"] * 4
    record = json.loads((out / "league.json").read_text())
    assert record["solvers"] == {"pigdm": "registered", "ddrm": "registered"}
    assert (record["evaluations"], record["settings_kept"]) == ([4, 6], 2)


def test_what_is_kept_is_of_one_request(langevin: Run, tmp_path: Path, judged: list[tuple[str, str]]) -> None:
    """Another seed, other evaluations, and a solver's file that was changed are made anew; so is a damaged file."""
    out, mine = tmp_path / "out", tmp_path / "mine.py"
    text = (
        "from langevin.tasks.restore.methods import pigdm\n\n\n"
        "def mine(denoiser, measurement, *, noise, steps):\n"
        "    return pigdm(denoiser, measurement, noise=noise, steps=steps)\n"
    )
    mine.write_text(text)
    words = ["league", *SMALL, "--operators", "averages", "--solver", "ddrm", f"{mine}:mine", "--out", out]

    def made(*more: object) -> int:
        judged.clear()
        said = langevin(*words, "--workers", 1, *more)
        assert said.code == 0, said.err
        assert ("; 1 were there" in said.out) == (not judged)
        return len(judged)

    assert made() == 4
    assert made() == 0
    assert made("--seed", 1) == 4
    assert made("--evaluations", 4) == 2
    assert made("--n", 17) == 4
    assert made() == 0
    mine.write_text(text.replace("steps=steps", "steps=steps, sigma_data=1.0"))
    assert made() == 4
    mine.write_text(text)
    assert made() == 0
    for file in (out / "settings").glob("*.json"):
        file.write_text("{")
    assert made() == 4


MODULE = sys.modules[Problem.__module__]
FIRST, SECOND = Setting(16, "averages", 0.3), Setting(16, "inpainting", 0.3)
SIZES = Sizes(n=16, pairs=4)


def without_seconds(rows: list[LeagueRow]) -> list[dict[str, object]]:
    return [{key: value for key, value in row.to_dict().items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_stand_as_they_were_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    """In the order of settings and solvers, whichever was finished first; progress counts what is still to be made."""
    monkeypatch.setattr(MODULE, "ProcessPoolExecutor", lambda count, context, begin: ThreadPoolExecutor(count))
    told: list[tuple[int, int, str]] = []

    def ask(problems: list[Setting], solvers: list[str]) -> list[LeagueRow]:
        told.clear()
        return league(
            solvers,
            problems=problems,
            evaluations=(4,),
            sizes=SIZES,
            folder=tmp_path,
            workers=workers,
            progress=lambda done, total, row: told.append((done, total, row.operator)),
        )

    ask([SECOND], ["pigdm", "ddrm"])
    assert told == [(1, 2, "inpainting"), (2, 2, "inpainting")]
    third = Setting(16, "random", 0.3)
    rows = ask([FIRST, SECOND, third], ["pigdm", "ddrm"])
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(operator for *_, operator in told) == ["averages", "averages", "random", "random"]
    names = ["averages", "averages", "inpainting", "inpainting", "random", "random"]
    assert [(row.operator, row.solver) for row in rows] == list(zip(names, ["pigdm", "ddrm"] * 3))
    assert [row.solver for row in ask([FIRST], ["ddrm", "pigdm"])] == ["ddrm", "pigdm"]
    plain = league(["pigdm", "ddrm"], problems=[FIRST, SECOND, third], evaluations=(4,), sizes=SIZES)
    assert without_seconds(rows) == without_seconds(plain)


def test_other_versions_are_another_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[LeagueRow] = []
    for version in ("1", "1", "2"):
        monkeypatch.setattr(MODULE, "versions", lambda v=version: {"torch": v})
        add = lambda done, total, row: told.append(row)
        league(["ddrm"], problems=[FIRST], evaluations=(4,), sizes=SIZES, folder=tmp_path, progress=add)
    assert len(told) == 2


def test_a_figure_that_is_not_there_is_none_again(tmp_path: Path) -> None:
    """A solver that is not defined has no figures, after its setting was kept as well: NaN, and a note says why."""
    magnitudes = Setting(16, "magnitudes", 0.3)
    ask = lambda: league(["pigdm"], problems=[magnitudes], evaluations=(4,), sizes=SIZES, folder=tmp_path)
    ((made,), (kept,)) = ask(), ask()
    assert "linear" in made.note
    assert math.isnan(made.w2)
    assert math.isnan(kept.w2)
    assert kept.to_dict() == made.to_dict()


def test_a_file_of_another_request_is_not_taken(tmp_path: Path) -> None:
    """Nor one under the right name, as two requests whose checksums begin alike would have, nor one without rows."""
    kept, other = FinishedSettings(tmp_path, {"seed": 0}), FinishedSettings(tmp_path, {"seed": 1})
    kept.write(FIRST, [{"solver": "ddrm"}])
    assert kept.read(FIRST) == [{"solver": "ddrm"}]
    assert other.read(FIRST) is None
    kept.path(FIRST).rename(other.path(FIRST))
    assert other.read(FIRST) is None
    kept.path(FIRST).write_text(json.dumps({"request": kept.asked(FIRST), "rows": None}))
    assert kept.read(FIRST) is None
    near = Setting(FIRST.dim, FIRST.operator, FIRST.std + 1e-9)
    assert kept.path(near) != kept.path(FIRST)  # the name has six digits of the noise, its checksum all of them


def test_functions_have_no_checksum(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must not be given for solvers that are functions"):
        league({"mine": pigdm}, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_call_goes_on(langevin: Run, tmp_path: Path, number: signal.Signals) -> None:
    """With workers: a signal to the call, after which no process of it is left, and the same call goes on."""
    out = tmp_path / "out"
    words = [str(w) for w in ("league", *WORDS[:-2], "--workers", 2, "--out", out)]
    words[words.index("4") : words.index("6") + 1] = ["40", "60"]
    call = subprocess.Popen([sys.executable, "-m", "langevin", *words], stdout=subprocess.PIPE, start_new_session=True)
    end = time.monotonic() + 900
    while not list((out / "settings").glob("[0-9]*.json")):  # and no file that is being written
        assert time.monotonic() < end
        assert call.poll() is None, "it was done before it could be stopped"
        time.sleep(0.02)
    if number == signal.SIGINT:
        os.killpg(call.pid, number)  # as a terminal does
    else:
        call.kill()
    call.wait(300)
    while time.monotonic() < end:
        try:
            os.killpg(call.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(call.pid, signal.SIGKILL)
        pytest.fail("workers outlived the call")
    assert not (out / "league.csv").exists()
    said = langevin(*words)
    assert said.code == 0, said.err
    assert "; 1 were there" in said.out or "; 2 were there" in said.out
    assert len(table(out)) == 12
