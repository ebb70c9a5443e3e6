"""Draw samples on a Ray cluster, a task a rank, and measure them.

    python examples/launch/ray_sample.py --ranks 8 -- MODEL -n 50000 --shard-size 1024 --out DIR

DIR must be one directory for all machines. A task that is lost is started again, and draws what it had not yet written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import ray


def rank(words: list[str], index: int, ranks: int) -> str:
    """Draw one rank's shards in a process of its own; what it said last."""
    line = [sys.executable, "-m", "langevin", "sample", *words, "--rank", f"{index}/{ranks}"]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


def main() -> None:
    """Start a task a rank, and wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=8, help="how many tasks share the work")
    parser.add_argument("--gpus", type=float, default=1, help="GPUs a task needs; 0 for CPUs")
    parser.add_argument("words", nargs="+", metavar="WORD", help="arguments of langevin sample, after --")
    asked = parser.parse_args()
    ray.init()
    task = ray.remote(num_gpus=asked.gpus, max_retries=5, retry_exceptions=False)(rank)
    for said in ray.get([task.remote(asked.words, index, asked.ranks) for index in range(asked.ranks)]):
        print(said)


if __name__ == "__main__":
    main()
