"""Records of benchmarks: what a run printed, with its command, day, machine and versions, for the tables of the docs.

A benchmark shows its table with ``show``; run with ``--record`` it also writes benchmarks/records/NAME.json, and
`make figures` prints that into the docs, between ``<!-- figures: NAME -->`` and ``<!-- /figures -->``. By hand:

    python benchmarks/record.py      # make every table of the docs again, and say which records are older than the code
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "benchmarks" / "records"
BLOCK = re.compile(r"(<!-- figures: ([a-z0-9-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)


def digest(script: str) -> str:
    """Of a benchmark and of the library, as they are: figures recorded under another one may be out of date."""
    found = hashlib.sha256()
    for path in [ROOT / script, *sorted((ROOT / "src").rglob("*.py"))]:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def script_of(command: str) -> str:
    """The benchmark that a command runs."""
    return next(word for word in shlex.split(command) if word.startswith("benchmarks/"))


def show(name: str, table: Table, width: int = 120) -> None:
    """Print a table; record it if the command line says ``--record``."""
    Console(width=width).print(table)
    if "--record" in sys.argv:
        print(f"recorded as {write(name, table).name}; `make figures` prints it into the docs")


def write(name: str, table: Table) -> Path:
    """The record of a table that this process made."""
    from langevin.generate import machine, versions

    words = [word for word in sys.argv[1:] if word != "--record"]
    script = str(Path(sys.argv[0]).resolve().relative_to(ROOT))
    record = {
        "command": shlex.join(["python", script, *words]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "digest": digest(script),
        "columns": [str(column.header) for column in table.columns],
        "rows": [list(row) for row in zip(*(map(str, column.cells) for column in table.columns))],
    }
    RECORDS.mkdir(exist_ok=True)
    path = RECORDS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read(name: str) -> dict[str, Any]:
    """A record by its name."""
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def markdown(record: dict[str, Any]) -> str:
    """The table of a record as the docs show it."""
    line = lambda cells: "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|\n"
    rule = "|" + "---|" * len(record["columns"]) + "\n"
    return line(record["columns"]) + rule + "".join(map(line, record["rows"]))


def filled(text: str) -> str:
    """A page with every block of figures made again from its record."""
    return BLOCK.sub(lambda m: m[1] + markdown(read(m[2])) + m[3], text)


def main() -> None:
    """Make every table again, and say what may be out of date."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: tables made again")
        for _, name, _ in BLOCK.findall(text):
            record = read(name)
            if record["digest"] is None:  # of the time before records were kept
                print(f"{name}: copied out of the docs, where it stood since {record['date']}; {record['command']}")
            elif record["digest"] != digest(script_of(record["command"])):
                print(f"{name}: of {record['date']}, older than the code; {record['command']} --record")


if __name__ == "__main__":
    main()
