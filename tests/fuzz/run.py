"""Feed the readers damaged files: ``python tests/fuzz/run.py --minutes 10 [READER ...]`` prints a table.

Every reader has its own worker process, which is limited in address space. Files are made by atheris (guided by the
coverage of this package) and by hypothesis (JSON of other types in every place), where these are installed, and by
fixed mutations without them. What crashes a reader is written to ``tests/fuzz/corpus/READER``; it is read again at
every later run, and by the tests. ``--quick N`` takes N fixed mutations a reader instead, for the tests.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]

LARGEST = 4096
"""Bytes of a file that is kept for what it reached."""

Row = tuple[str, int, int]
"""A reader, files it was fed, and crashes."""


def _keep(name: str, content: bytes, why: str = "crash") -> None:
    import fuzzing

    path = fuzzing.CORPUS / name / f"{why}-{hashlib.sha256(content).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def quick(names: list[str], count: int) -> list[Row]:
    """The corpus and a fixed sequence of mutations; what crashes is told on standard error, and not kept."""
    import fuzzing

    rows, known = [], fuzzing.readers()
    fuzzing.restrain()
    for name in names or known:
        reader = known[name]
        contents = [*reader.seeds, *(path.read_bytes() for path in fuzzing.corpus(name))]
        for seed in reader.seeds:
            assert fuzzing.ask(reader, seed) == "accepted", f"{name}: a good file is refused"
        contents += fuzzing.mutations(reader, count)
        wrong = [(content, why) for content in contents if (why := fuzzing.check(reader, content))]
        for content, why in wrong:
            print(f"{name}: {why[:300]}\n    {content[:400]!r}", file=sys.stderr)
        rows.append((name, len(contents), len(wrong)))
    return rows


def _mutating(name: str, seconds: float, seed: int) -> tuple[int, dict[str, bytes]]:
    """Mutations, drawn until the time is over."""
    import fuzzing

    reader = fuzzing.readers()[name]
    fuzzing.restrain()
    begun, done, crashes = time.monotonic(), 0, {}
    draw = random.Random(seed)
    while time.monotonic() - begun < seconds:
        for content in fuzzing.mutations(reader, 200, draw.randrange(2**32)):
            done += 1
            if (why := fuzzing.check(reader, content)) is not None:
                crashes.setdefault(_shape(why), content)
            if time.monotonic() - begun > seconds:
                break
    return done, crashes


def _typing(name: str, seconds: float, seed: int) -> tuple[int, dict[str, bytes]]:
    """JSON of any kind put into every place of a good file, drawn by hypothesis."""
    import fuzzing
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    reader = fuzzing.readers()[name]
    fuzzing.restrain()
    goods = [json.loads(content) for content in reader.seeds]
    leaf = st.none() | st.booleans() | st.text(max_size=8) | st.floats(allow_nan=False, allow_infinity=False)
    leaf |= st.integers(-(2**64) + 1, 2**64 - 1) | st.sampled_from(_words(goods))
    anything = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner)
    )

    @st.composite
    def changed(draw: Any) -> Any:
        value = json.loads(json.dumps(draw(st.sampled_from(goods))))
        for _ in range(draw(st.integers(1, 4))):
            here = value
            while True:
                keys = list(here) if isinstance(here, dict) else list(range(len(here)))
                if not keys:
                    break
                key = draw(st.sampled_from(keys))
                if isinstance(here[key], (dict, list)) and here[key] and draw(st.integers(0, 3)):
                    here = here[key]
                    continue
                if isinstance(here, dict) and draw(st.integers(0, 9)) == 0:
                    here[draw(st.text(max_size=6))] = here.pop(key)
                else:
                    here[key] = draw(anything)
                break
        return value

    begun, count, crashes = time.monotonic(), [0], {}

    while time.monotonic() - begun < seconds:
        seed += 1

        @seeded(seed)
        @settings(
            max_examples=500,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.target],
            suppress_health_check=list(HealthCheck),
        )
        @given(changed())
        def one(value: Any) -> None:
            if time.monotonic() - begun > seconds:
                return
            content = json.dumps(value).encode()
            count[0] += 1
            if (why := fuzzing.check(reader, content)) is not None:
                crashes.setdefault(_shape(why), content)

        one()
    return count[0], crashes


def _words(values: Any) -> list[Any]:
    """Keys and texts of JSON values, to be put elsewhere."""
    if isinstance(values, dict):
        return sorted({*values, *(w for v in values.values() for w in _words(v))})
    if isinstance(values, list):
        return sorted({w for v in values for w in _words(v)})
    return [values] if isinstance(values, str) else []


def _guided(name: str, seconds: float, seed: int) -> tuple[int, dict[str, bytes]]:
    """Atheris: mutations kept where they reach new lines of this package, or of what it reads with."""
    import atheris

    include = ["langevin", "zipfile", "json", "PIL"]
    with atheris.instrument_imports(include=include):
        import damage
        import fuzzing
    reader = fuzzing.readers()[name]
    crashes: dict[str, bytes] = {}
    count, told = [0], [0.0]

    def one(content: bytes) -> None:
        count[0] += 1
        why = fuzzing.check(reader, content)
        if why is not None:
            crashes.setdefault(_shape(why), content)
        if why is not None or time.monotonic() - told[0] > 1:
            _tell(count[0], crashes)  # libFuzzer ends the process, and says nothing first
            told[0] = time.monotonic()

    def change(content: bytes, most: int, drawn: int) -> bytes:
        draw = random.Random(drawn)
        if draw.random() < 0.5:
            content = damage.mutate(content, draw, reader.seeds)
        else:
            content = atheris.Mutate(content, min(most, len(content) + 64))
        return (reader.seal(content) if draw.random() < 0.5 else content)[:most]

    held = tempfile.mkdtemp(prefix="atheris-")
    for k, content in enumerate([*reader.seeds, *(path.read_bytes() for path in fuzzing.corpus(name))]):
        Path(held, f"seed-{k}").write_bytes(content)
    limits = [
        f"-max_total_time={int(seconds)}",
        f"-seed={seed + 1}",
        "-max_len=20000",
        "-timeout=60",
        "-rss_limit_mb=0",
    ]
    atheris.Setup([sys.argv[0], held, *limits, "-verbosity=0", f"-artifact_prefix={held}/"], one, custom_mutator=change)
    fuzzing.restrain()
    atheris.Fuzz()
    return count[0], crashes


ENGINES = {"mutations": _mutating, "hypothesis": _typing, "atheris": _guided}


def _shape(why: str) -> str:
    """What a crash is called: its message without numbers and names."""
    return re.sub(r"'[^']*'|[\d.]+|/\S+", "_", why)[:120]


def _tell(done: int, crashes: dict[str, bytes]) -> None:
    print(json.dumps({"done": done, "crashes": {why: content.hex() for why, content in crashes.items()}}), flush=True)


def worker(engine: str, name: str, seconds: float, seed: int, grow: int = 0) -> tuple[int, dict[str, str]]:
    """One engine on one reader in a process of its own; a process that dies is a crash.

    With ``grow``, as many of the files that reached new lines are kept in the corpus.
    """
    with tempfile.TemporaryDirectory(prefix="langevin-fuzz-") as folder:
        found = _worked(engine, name, seconds, seed, folder)
        paths = [p for p in Path(folder).glob("atheris-*/*") if not p.name.startswith("seed-")]
        new = sorted((p.read_bytes() for p in paths if p.stat().st_size <= LARGEST), key=len)
        for content in new[:: max(1, len(new) // max(grow, 1))][:grow]:
            _keep(name, content, "found")
    return found


def _worked(engine: str, name: str, seconds: float, seed: int, folder: str) -> tuple[int, dict[str, str]]:
    words = [sys.executable, __file__, "--worker", engine, "--seconds", str(seconds), "--seed", str(seed), name]
    env = {**os.environ, "TMPDIR": folder}
    with tempfile.TemporaryFile("w+") as said:
        try:
            made = subprocess.run(words, stdout=subprocess.PIPE, stderr=said, text=True, timeout=seconds + 300, env=env)
            lines = [line for line in made.stdout.splitlines() if line.startswith('{"done"')]
            ended = f"ended with {made.returncode}"
        except subprocess.TimeoutExpired:
            lines, ended = [], "did not end"
        said.seek(0)
        tail = said.read()[-2000:]
    if not lines:
        return 0, {f"the worker {ended}: {tail}": ""}
    found = json.loads(lines[-1])
    return found["done"], found["crashes"]


def run(
    minutes: float, names: list[str] | None = None, seed: int = 0, grow: int = 0, jobs: int | None = None
) -> list[Row]:
    """Every reader for so many minutes, shared by the engines that are installed; crashes are kept in the corpus.

    As many readers at a time as there are cores, unless ``jobs`` says how many.
    """
    import fuzzing

    known = fuzzing.readers()
    installed = [engine for engine in ("atheris", "hypothesis") if importlib.util.find_spec(engine) is not None]

    def one(name: str) -> Row:
        engines = [e for e in installed if e != "hypothesis" or known[name].json] or ["mutations"]
        done, crashed = 0, 0
        for engine in engines:
            count, crashes = worker(engine, name, 60 * minutes / len(engines), seed, grow)
            done, crashed = done + count, crashed + len(crashes)
            for why, content in crashes.items():
                print(f"{name} ({engine}): {why}", file=sys.stderr, flush=True)
                if content:
                    _keep(name, bytes.fromhex(content))
        print(f"{name:<16} {'+'.join(engines):<22} {done:>9} files  {crashed} crashes", flush=True)
        return name, done, crashed

    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        return list(pool.map(one, names or known))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("readers", nargs="*", help="readers, all if none is named")
    options.add_argument("--minutes", type=float, default=10, help="a reader")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--grow", type=int, default=0, help="files that reached new lines to keep, a reader")
    options.add_argument("--jobs", type=int, help="readers at a time, the number of cores if not given")
    options.add_argument("--quick", type=int, help="so many fixed mutations a reader, as JSON")
    options.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    options.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    asked = options.parse_args()
    if asked.worker:
        _tell(*ENGINES[asked.worker](asked.readers[0], asked.seconds, asked.seed))
        return 0
    if asked.quick is not None:
        rows = quick(asked.readers, asked.quick)
        print(json.dumps(rows))
    else:
        rows = run(asked.minutes, asked.readers, asked.seed, asked.grow, asked.jobs)
        print(f"{sum(row[1] for row in rows)} files, {sum(row[2] for row in rows)} crashes")
    return int(any(row[2] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
