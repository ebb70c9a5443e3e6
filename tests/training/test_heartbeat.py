"""Binomial diffusion of 2015: the heartbeat, learned by a belief a position, to the bound its paper printed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from langevin import data, likelihood, samplers, training
from langevin.denoisers import Denoiser, independent
from langevin.processes import Uniform
from langevin.training import BudgetConfig, Config, NetworkConfig, OptimiserConfig, OutputConfig, ProcessConfig
from langevin.worlds import Empirical

PHASES = torch.eye(5, dtype=torch.int64).repeat(1, 4)


def bits(denoiser: Denoiser, steps: int, draws: int) -> tuple[float, float]:
    """The bound of the five sequences and its standard error: every step of the grid, each sequence ``draws`` times."""
    found = likelihood.bound(denoiser, PHASES.repeat(draws, 1), steps=steps)
    return float(found.nats.mean()) / math.log(2), found.standard_error / math.log(2)


def test_the_best_of_a_belief_a_position() -> None:
    """The exact belief: above log₂ 5 for any number of steps, and nearer with more of them."""
    denoiser = independent(Empirical(PHASES).denoiser(Uniform(2)))
    few, many = (bits(denoiser, steps, draws=100) for steps in (4, 64))
    assert many[0] - 4 * many[1] < few[0] - 0.5
    assert many[0] > math.log2(5) - 4 * many[1]


@pytest.mark.slow
def test_heartbeat(tmp_path: Path) -> None:
    """At most 2.414 bits a sequence (arXiv:1503.03585 §3.1.2); log₂ 5 = 2.322 is the truth. Samples beat."""
    config = Config(
        batch=128,
        network=NetworkConfig("transformer", {"width": 32, "depth": 2}),  # type: ignore[dict-item]
        process=ProcessConfig("uniform", {"schedule": "cosine"}),
        optimiser=OptimiserConfig(lr=5e-3),
        budget=BudgetConfig(steps=2200),
        output=OutputConfig(validate_every=0, sample_every=0, checkpoint_every=0),
    )
    denoiser = training.train(config, data.load("heartbeat"), tmp_path, quiet=True)
    found, error = bits(denoiser, 1000, draws=40)
    best = bits(independent(Empirical(PHASES).denoiser(denoiser.process)), 1000, draws=40)
    x = samplers.sample(denoiser, n=500, steps=200)
    beats = (x[:, None] == PHASES).all(-1).any(-1).double().mean()
    print(
        f"{found:.4f} ± {error:.4f} bits a sequence, exact belief {best[0]:.4f}, samples that beat {float(beats):.3f}"
    )
    assert found <= 2.414
    assert beats > 0.9
