"""Draw samples on a Ray cluster, a task a part, and measure them.

    python examples/launch/ray_sample.py --parts 8 -- MODEL -n 50000 --shard-size 1024 --out DIR

DIR must be one directory for all machines. A task that is lost is started again, and draws what it had not yet written.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import ray


def part(words: list[str], index: int, parts: int) -> str:
    """Draw one part's shards in a process of its own; what it said last."""
    line = [sys.executable, "-m", "langevin", "sample", *words, "--part", f"{index}/{parts}"]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    return done.stdout.strip()


def main() -> None:
    """Start a task a part, and wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=8, help="how many tasks share the work")
    parser.add_argument("--gpus", type=float, default=1, help="GPUs a task needs; 0 for CPUs")
    parser.add_argument("words", nargs="+", metavar="WORD", help="arguments of langevin sample, after --")
    asked = parser.parse_args()
    ray.init()
    task = ray.remote(num_gpus=asked.gpus, max_retries=5, retry_exceptions=False)(part)
    for said in ray.get([task.remote(asked.words, index, asked.parts) for index in range(asked.parts)]):
        print(said)


if __name__ == "__main__":
    main()
