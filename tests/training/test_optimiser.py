"""Muon and AdamW against their equations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from langevin import UserError, data, training
from langevin.training.config import OptimiserConfig
from langevin.training.optimiser import Optimiser
from tiny_runs import tiny

RATE, DECAY = 0.01, 0.1


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.Flatten(), nn.Linear(5, 7), nn.Linear(7, 1, bias=False)
    )


def gradients(made: nn.Module, step: int) -> None:
    g = torch.Generator().manual_seed(step)
    for p in made.parameters():
        p.grad = torch.randn(p.shape, generator=g)


def newton_schulz(g: torch.Tensor) -> torch.Tensor:
    """Five steps X ← aX + bXXᵀX + c(XXᵀ)²X from X = G/‖G‖, in float64 by singular values: p(s) = as + bs³ + cs⁵."""
    u, s, v = torch.linalg.svd(g.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    return u * s @ v


def test_a_step_of_muon_is_its_equation() -> None:
    """Two steps by hand in float64.

    The optimiser's own are in bfloat16, of 8 bits: errors of 5 products of matrices, each up to 2⁻⁸ of values near 1,
    and their growth by p'(s) ≤ 3.4 a step where s is small, stay below a tenth.
    """
    made, momentum = network(), {}
    optimiser = Optimiser(made, OptimiserConfig("muon", lr=1.0, weight_decay=DECAY))
    for step in (1, 2):
        before = {n: p.detach().clone() for n, p in made.named_parameters()}
        gradients(made, step)
        optimiser.step(RATE)
        for name in ("0.weight", "3.weight"):
            p = dict(made.named_parameters())[name]
            g = p.grad.flatten(1).double()
            momentum[name] = 0.95 * momentum.get(name, 0) + 0.05 * g
            move = newton_schulz(0.05 * g + 0.95 * momentum[name])
            moved = ((1 - RATE * DECAY) * before[name] - p.detach()).flatten(1).double() / (
                0.2 * RATE * math.sqrt(max(move.shape))
            )
            torch.testing.assert_close(moved, move, rtol=0, atol=0.1)
            assert (moved - move).norm() < 0.03 * move.norm()


def test_all_else_moves_as_under_adamw() -> None:
    """Biases, gains, and a matrix of one row."""
    made, plain = network(), network()
    optimiser = Optimiser(made, OptimiserConfig("muon", lr=1.0, weight_decay=DECAY))
    adam = torch.optim.AdamW(plain.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=DECAY)
    for step in (1, 2, 3):
        gradients(made, step)
        gradients(plain, step)
        optimiser.step(RATE)
        adam.step()
    same = [n for (n, p), q in zip(made.named_parameters(), plain.parameters()) if torch.equal(p, q)]
    assert same == ["0.bias", "1.weight", "1.bias", "3.bias", "4.weight"]


def test_adamw_is_torch_s() -> None:
    made, plain = network(), network()
    optimiser = Optimiser(made, OptimiserConfig(lr=1.0, weight_decay=DECAY), betas=(0.5, 0.9))
    adam = torch.optim.AdamW(plain.parameters(), lr=RATE, betas=(0.5, 0.9), weight_decay=DECAY, fused=True)
    for step in (1, 2, 3):
        gradients(made, step)
        gradients(plain, step)
        optimiser.step(RATE)
        adam.step()
    assert all(torch.equal(p, q) for p, q in zip(made.parameters(), plain.parameters()))
    optimiser.zero_grad()
    assert all(p.grad is None for p in made.parameters())


def test_a_frozen_weight_stays() -> None:
    made = network()
    made[3].requires_grad_(False)
    before = made[3].weight.clone()
    optimiser = Optimiser(made, OptimiserConfig("muon", lr=1.0))
    gradients(made, 1)
    optimiser.step(RATE)
    assert torch.equal(made[3].weight, before)
    assert all(made[3].weight is not p for p in optimiser.parameters)


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="muon needs a linear or convolutional layer"):
        Optimiser(nn.LayerNorm(3), OptimiserConfig("muon", lr=1.0))
    wrong = tiny(2, optimiser=OptimiserConfig("sgd"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"optimiser\.name must be adamw or muon, got 'sgd'"):
        training.train(wrong, data.load("moons"), tmp_path / "run", quiet=True)
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UserError, match=r"muon needs torch 2\.9 or later, this is"):
        Optimiser(network(), OptimiserConfig("muon", lr=1.0))
