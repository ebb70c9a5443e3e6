"""How long the commands take that compare samplers and audit those of others.

    langevin demo
    python benchmarks/commands.py runs/demo/model --record     # half an hour, of which the last row takes most

Each is run once, as a user runs it, in a process of its own and on all cores; let the machine be idle. ``compare`` is
of six samplers at four numbers of evaluations, with all its samples and its report; ``audit`` of one scheduler of
diffusers, and of all that the installed release has.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

import record

SAMPLERS = "default dpmpp-2m unipc deis heun ddim"
COMMANDS = {
    "compare": f"compare {{model}} --samplers {SAMPLERS} --steps 5 8 12 20 --out {{out}}/compare",
    "audit of one": "audit diffusers:DPMSolverMultistepScheduler --json {out}/audit.json",
    "audit of all": "audit diffusers --out {out}/state",
}


def main() -> None:
    """Run and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--record", action="store_true", help="keep the table for the documentation")
    options = parser.parse_args()
    table = Table("command", "seconds", "exit code")
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for name in options.only:
        with tempfile.TemporaryDirectory() as out:
            command = COMMANDS[name].format(model=Path(options.model), out=out)
            begun = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "langevin", *shlex.split(command)], env=env, stdout=subprocess.DEVNULL
            )
            seconds = time.perf_counter() - begun
        shown = COMMANDS[name].format(model=options.model, out="DIR")
        table.add_row(f"`langevin {shown}`", f"{seconds:.0f}", str(done.returncode))
        print(f"{name}: {seconds:.0f} s", flush=True)
    record.show("commands", table, width=150)


if __name__ == "__main__":
    main()
