"""The league table of solvers of inverse problems: each against exact samples of the posterior."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, unknown
from ..._registry import methods as rows
from ...distributions import Noise
from ...generate import versions
from ...metrics.sliced import sliced_wasserstein
from ...operators import Measurement
from ...processes import VP
from ...storage import files
from ..own_files import module_of
from .common import Watched, for_codes
from .finished_settings import FinishedSettings
from .problems import OPERATORS, Setting
from .run import Method
from .scores import c2st, calibration

DIMS, STDS, EVALUATIONS = (16, 64), (0.05, 0.3), (20, 100)
"""Dimensions of the worlds, standard deviations of the noise, and evaluations of the table made in minutes; 1000
evaluations take more than an hour."""

REFERENCES = {"exact": 1, "smc": 20}
"""Solvers that reach the posterior itself: each is run once, in so many steps, and stands in every column."""


@dataclass(frozen=True)
class LeagueRow:
    """What a solver reached in one setting.

    Attributes:
        solver: its name.
        dim, operator, std: the setting.
        evaluations: of the denoiser a sample, as asked for; 0 of a reference.
        used: as counted: calls with all samples, or all particles of all samples.
        w2, w2_floor: sliced W2 to exact samples, and between two exact sets of the same size.
        c2st, c2st_floor: accuracy of a nearest-neighbour classifier between samples and exact ones, and between two
            exact sets; 0.5 is one law.
        calibration, calibration_floor: the largest distance of the ranks of the true x among the samples from uniform
            ones, and that of exact samples.
        coverage: share of true coordinates within the central half of the samples; 0.5 is right.
        seconds: of the solver.
        note: why there are no figures, if there are none.
    """

    solver: str
    dim: int
    operator: str
    std: float
    evaluations: int
    used: float = math.nan
    w2: float = math.nan
    w2_floor: float = math.nan
    c2st: float = math.nan
    c2st_floor: float = math.nan
    calibration: float = math.nan
    calibration_floor: float = math.nan
    coverage: float = math.nan
    seconds: float = math.nan
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row as plain numbers and text; None for a figure that is not there."""
        plain = lambda v: None if isinstance(v, float) and not math.isfinite(v) else v
        return {key: plain(value) for key, value in asdict(self).items()}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> LeagueRow:
        """The row that ``to_dict`` wrote."""
        figures: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
        return cls(**figures)


@dataclass(frozen=True)
class Sizes:
    """How much is drawn.

    Args:
        n: samples for one measurement, for W2 and C2ST.
        pairs: of data and measurement, for calibration.
        draws: samples a pair; of 8·i − 1 the central half is exact.
        floors: pairs of exact sets for each floor.
    """

    n: int = 128
    pairs: int = 32
    draws: int = 7
    floors: int = 8


@dataclass(frozen=True, eq=False)
class Problem:
    """A setting with its measurements, its exact samples and its floors."""

    setting: Setting
    sizes: Sizes
    seed: int
    y: Tensor = field(init=False)
    x: Tensor = field(init=False)
    truth: Tensor = field(init=False)
    w2_floor: float = field(init=False)
    c2st_floor: float = field(init=False)
    calibration_floor: float = field(init=False)

    def __post_init__(self) -> None:
        own, sizes, seed = self.setting, self.sizes, 1000 * self.seed
        put = lambda name, value: object.__setattr__(self, name, value)
        x, y = own.measurements(1 + sizes.pairs, seed)
        put("x", x)
        put("y", y)
        sets = [own.truth(y[:1], Noise(seed + 10 + i, sizes.n)) for i in range(2 * sizes.floors)]
        put("truth", own.truth(y[:1], Noise(seed + 9, sizes.n)))
        put("w2_floor", _mean(sliced_wasserstein(a, b) for a, b in zip(sets[::2], sets[1::2])))
        put("c2st_floor", _mean(c2st(a, b) for a, b in zip(sets[::2], sets[1::2])))
        exact = [own.truth(y[1 + i : 2 + i], Noise(seed + 100 + i, sizes.draws)) for i in range(sizes.pairs)]
        put("calibration_floor", calibration(torch.stack(exact), x[1:])[0])

    @property
    def measurement(self) -> Measurement:
        """One row a sample: n of the first y, then ``draws`` of each other."""
        many = torch.cat((self.y[:1].expand(self.sizes.n, -1), self.y[1:].repeat_interleave(self.sizes.draws, 0)))
        return Measurement(self.setting.a, many, self.setting.std)

    def judge(self, name: str, solver: Method, evaluations: int) -> LeagueRow:
        """The solver's figures; of a reference if ``evaluations`` is 0."""
        own, sizes = self.setting, self.sizes
        measurement, calls = self.measurement, [0]
        noise = Noise(self.seed, len(measurement.y))

        def count() -> None:
            calls[0] += 1

        denoiser = Watched(own.world.denoiser(VP()), count)
        begun, note, x = time.monotonic(), "", None
        try:
            with torch.no_grad():
                x = solver(denoiser, measurement, noise=noise, steps=evaluations or REFERENCES[name])
        except UserError as error:
            note = str(error)
        except (torch.linalg.LinAlgError, ArithmeticError) as error:
            note = f"failed: {error}"
        seconds = time.monotonic() - begun
        if x is not None and not bool(x.isfinite().all()):
            x, note = None, "diverged"
        row = LeagueRow(
            name,
            own.dim,
            own.operator,
            own.std,
            evaluations,
            float(calls[0]),
            w2_floor=self.w2_floor,
            c2st_floor=self.c2st_floor,
            calibration_floor=self.calibration_floor,
            seconds=seconds,
            note=note,
        )
        if x is None:
            return row
        x = x.to(torch.float64)
        first, rest = x[: sizes.n], x[sizes.n :].reshape(sizes.pairs, sizes.draws, -1)
        distance, coverage = calibration(rest, self.x[1:])
        w2, accuracy = sliced_wasserstein(first, self.truth), c2st(first, self.truth)
        return replace(row, w2=w2, c2st=accuracy, calibration=distance, coverage=coverage)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def settings(
    dims: Sequence[int] = DIMS, operators: Sequence[str] = tuple(OPERATORS), stds: Sequence[float] = STDS
) -> list[Setting]:
    """The problems of the table."""
    return [Setting(dim, operator, std) for dim in dims for operator in operators for std in stds]


def league(
    solvers: Mapping[str, Method] | Sequence[str] | None = None,
    *,
    problems: Sequence[Setting] | None = None,
    evaluations: Sequence[int] = EVALUATIONS,
    sizes: Sizes | None = None,
    seed: int = 0,
    workers: int = 1,
    folder: Path | None = None,
    progress: Callable[[int, int, LeagueRow], None] | None = None,
) -> list[LeagueRow]:
    """Every solver in every setting at every number of evaluations.

    Args:
        solvers: functions ``method(denoiser, measurement, *, noise, steps) -> x`` by name; or names of registered ones
            (category ``inverse``), ``FILE.py:FUNCTION`` and ``"all"``, in a list; all if not given.
        problems: the settings; all if not given.
        evaluations: of the denoiser a sample.
        sizes: how much is drawn.
        seed: of data, noise and exact samples.
        workers: processes that work on a setting each; more than 1 for solvers by name.
        folder: where finished settings are kept as they come, and taken from if an earlier call of this request kept
            them; for solvers by name.
        progress: called as ``progress(done, total, row)`` of the rows that are still to be made.
    """
    problems = list(dict.fromkeys(settings() if problems is None else problems))
    sizes = sizes or Sizes()
    for count in evaluations:
        check_integer("evaluations", count, 1)
    check_integer("workers", workers, 1)
    names = ["all"] if solvers is None else solvers
    known = solvers_named(names) if not isinstance(names, Mapping) else dict(names)
    if isinstance(names, Mapping) and (workers > 1 or folder is not None):
        what = "workers must be 1" if workers > 1 else "folder must not be given"
        raise UserError(f"{what} for solvers that are functions; give their names or FILE.py:FUNCTION")
    kept = None if folder is None else finished_settings(folder, names, known, evaluations, sizes, seed)
    there = [] if kept is None else [(setting, kept.read(setting)) for setting in problems]
    found = {setting: [LeagueRow.of(row) for row in rows] for setting, rows in there if rows is not None}
    left = [setting for setting in problems if setting not in found]
    total, done = len(left) * rows_of_setting(known, evaluations), 0

    def take(row: LeagueRow) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, row)

    def finish(setting: Setting, rows: list[LeagueRow]) -> None:
        found[setting] = rows
        if kept is not None:
            kept.write(setting, [row.to_dict() for row in rows])

    if workers == 1 or len(left) < 2:
        for setting in left:
            rows = []
            for row in judged(setting, known, evaluations, sizes, seed):
                rows.append(row)
                take(row)
            finish(setting, rows)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(left)), context, _as_worker) as pool:
            jobs = {pool.submit(_judged, setting, list(names), evaluations, sizes, seed): setting for setting in left}
            try:
                for job in as_completed(jobs):
                    finish(jobs[job], job.result())
                    for row in job.result():
                        take(row)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [row for setting in problems for row in found[setting]]


def rows_of_setting(solvers: Iterable[str], evaluations: Sequence[int]) -> int:
    """How many rows a setting has."""
    return sum(1 if name in REFERENCES else len(evaluations) for name in solvers)


def finished_settings(
    folder: Path, names: Iterable[str], solvers: Iterable[str], evaluations: Sequence[int], sizes: Sizes, seed: int
) -> FinishedSettings:
    """The finished settings of a request: of these solvers, one's own with the checksums of their files, and versions.

    Args:
        folder: where they are.
        names: of the solvers as they were given, some of them ``FILE.py:FUNCTION``.
        solvers: their names.
        evaluations, sizes, seed: see ``league``.
    """
    own = {name: path for path, _, name in (text.rpartition(":") for text in names if ".py:" in text)}
    checksum = lambda path: files.digest(files.read(Path(path)))["sha256"]
    what = {name: checksum(own[name]) if name in own else "registered" for name in solvers}
    request = {"solvers": what, "evaluations": list(evaluations), "sizes": asdict(sizes), "seed": seed}
    return FinishedSettings(folder, {**request, "versions": versions()})


def judged(
    setting: Setting, solvers: Mapping[str, Method], evaluations: Sequence[int], sizes: Sizes, seed: int
) -> Iterator[LeagueRow]:
    """The rows of one setting."""
    problem = Problem(setting, sizes, seed)
    for name, solver in solvers.items():
        for count in (0,) if name in REFERENCES else evaluations:
            yield problem.judge(name, solver, count)


def _judged(
    setting: Setting, names: Sequence[str], evaluations: Sequence[int], sizes: Sizes, seed: int
) -> list[LeagueRow]:
    return list(judged(setting, solvers_named(names), evaluations, sizes, seed))


def _as_worker() -> None:
    """One thread; ends at once when the user interrupts, and with the process whose worker this is."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def solvers_named(names: Sequence[str]) -> dict[str, Method]:
    """Solvers by their names, by ``FILE.py:FUNCTION``, or ``"all"`` registered ones; a function alone joins all.

    Raises:
        UserError: for a name that is not known, with the nearest.
    """
    registered = {row.name: row.make for row in rows("inverse") if not for_codes(row.make)}
    found: dict[str, Method] = {}
    if all(".py:" in name for name in names):
        found.update(registered)
    for name in names:
        if ".py:" in name:
            own, solver = load_solver(name)
            found[own] = solver
        elif name == "all":
            found.update(registered)
        elif name in registered:
            found[name] = registered[name]
        elif any(row.name == name for row in rows("inverse")):
            raise UserError(
                f"solver {name!r} is for latent models, and the league's problems are of the data themselves"
            )
        else:
            raise unknown("solver", name, [*registered, "all"])
    return found


def load_solver(text: str) -> tuple[str, Method]:
    """A solver of one's own, ``FILE.py:FUNCTION``: its name and the function. The file is run.

    Raises:
        UserError: for what is no such text, a file or a function that is not there.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name:
        raise UserError(f"solver must be FILE.py:FUNCTION, got {text!r}")
    module = module_of(path, "solver")
    made = getattr(module, name, None)
    if not callable(made):
        raise UserError(f"solver must be a function of {path!r}, got {name!r}, which is not one")
    return name, made
