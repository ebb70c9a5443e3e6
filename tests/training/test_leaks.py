"""A long run does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process from /proc")
def test_20_000_steps() -> None:
    """Resident memory grows by less than 0.05 MB in 1000 steps, by three standard errors of its slope.

    The rows of metrics.csv and of the clock that a run keeps are 0.01 MB of it; 100 floats a step would be 0.4.
    """
    words = [sys.executable, "-c", "import json, leaks; print(json.dumps(leaks.run()))"]
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "benchmarks")))
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(found)
    assert found["MB per 1000 steps"] - 3 * found["standard error"] < 0.05
    assert found["standard error"] < 0.05
