"""What `import langevin` costs beside `import torch`, and what the command line's help costs.

    python benchmarks/import_time.py [--record]

Fresh interpreters, interleaved, wall time of the import statement alone; medians and their ratio. `langevin.sample` is
what a user touches first, so the folders behind it are imported in a third row. The help of a command needs no torch.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from rich.table import Table

from record import show

STATEMENTS = {
    "import torch": "import torch",
    "import torch, langevin": "import torch, langevin",
    "…and langevin.sample, .worlds": "import torch, langevin; langevin.sample, langevin.worlds",
    "langevin --help": "from langevin.cli import main; main(['--help'])",
    "langevin train --help": "from langevin.cli import main; main(['train', '--help'])",
    "langevin sample --help": "from langevin.cli import main; main(['sample', '--help'])",
}


def seconds(statement: str) -> float:
    """Wall time of a statement in a new interpreter."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return float(said.splitlines()[-1])


def main(rounds: int = 9) -> None:
    """Print the table."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for name in STATEMENTS:
        seconds(STATEMENTS[name])
    for _ in range(rounds):
        for name, statement in STATEMENTS.items():
            times[name].append(seconds(statement))
    base = statistics.median(times["import torch"])
    rows = Table("statement", "median s", "ratio")
    for name, values in times.items():
        rows.add_row(name, f"{statistics.median(values):.3f}", f"{statistics.median(values) / base:.3f}")
    show("import", rows)


if __name__ == "__main__":
    main()
