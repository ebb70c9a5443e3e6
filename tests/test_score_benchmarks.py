"""The benchmarks of score matching measure distance from the truth: the truth is at none."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from langevin import processes, worlds

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import levels
import scores


def test_the_truth_has_no_error():
    world = worlds.ring(8, 2**0.5, scores.RING_STD)
    assert max(scores.errors(world.denoiser(processes.VE(0.05, 5.0)), 200)) < 1e-20
    wrong = worlds.ring(8, 1.6, scores.RING_STD)
    assert min(scores.errors(wrong.denoiser(processes.VE(0.05, 5.0)), 200)) > 1e-3
    t = torch.tensor(0.3, dtype=torch.float64)
    assert levels.error(levels.WORLD.denoiser(processes.VE(0.01, 20.0)), levels.square(200, 1), t) < 1e-20
    assert levels.share(levels.WORLD.means) == 0.5
