"""Benchmarks of editing and guidance on digits: what they count by definition is what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import langevin
from langevin import processes, worlds
from langevin.tasks.edit import create_method

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import edit
import task_guidance


def drawn(*rows: str) -> torch.Tensor:
    """A picture of 8 × 8: # is ink, all else is paper."""
    lines = [*rows, *[""] * (8 - len(rows))]
    return torch.tensor([[[1.0 if cell == "#" else -1.0 for cell in line.ljust(8)] for line in lines]])


def test_holes_are_enclosed_by_ink():
    """A ring has one hole, of two pixels; a gap in its side opens it, a gap at its corner does not; paper that reaches
    the picture's edge is no hole."""
    ring = drawn(" ####", " #  #", " ####")
    open_side = drawn(" ####", " #   ", " ####")
    open_corner = drawn("  ###", " #  #", " ####")
    at_the_edge = drawn("#  #", "####")
    found = task_guidance.holes(torch.stack([ring, open_side, open_corner, at_the_edge]))
    hole = torch.zeros(8, 8)
    hole[1, 2:4] = 1
    assert torch.equal(found, torch.stack([hole, torch.zeros(8, 8), hole, torch.zeros(8, 8)])[:, None])


@pytest.mark.parametrize("slope", [0.0, 0.5, -0.25])
def test_slant_is_the_shear(slope):
    """Every row has one unit of ink, shared by two pixels so that its mean lies at 3 + slope·(rows above the lowest):
    the regression is the slope. In float32 the moments, below 50, are off by 4e-6, over the rows' variance of 21/4."""
    x = torch.full((1, 1, 8, 8), -1.0)
    for row in range(8):
        at = 3 + slope * (7 - row)
        left = int(at)
        x[0, 0, row, left] += 2 * (1 - (at - left))
        x[0, 0, row, left + 1] += 2 * (at - left)
    assert float(task_guidance.slant(x)) == pytest.approx(slope, abs=1e-5)
    assert float(task_guidance.slant(x.flip(-1))) == pytest.approx(-slope, abs=1e-5)


def test_every_other_class_is_asked():
    label = torch.arange(10).repeat_interleave(9)
    asked = edit.others(label, 10)
    assert set(zip(label.tolist(), asked.tolist())) == {(a, b) for a in range(10) for b in range(10) if a != b}


def test_the_mask_of_a_method_is_seen():
    """A method that is watched edits as it does, and its mask is kept; what lies outside counts as unchanged."""
    pictures = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model, box = worlds.Empirical(pictures).denoiser(processes.VP()), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    box[..., 2:6] = True
    image, told = -pictures, {"mask": box, "strength": 5.0, "steps": 8}  # other pictures than the model knows
    method = edit.Watched(create_method("blend"))
    made = langevin.edit(model, image, method=method, **told)
    assert torch.equal(made, langevin.edit(model, image, method="blend", **told))
    assert torch.equal(method.free.expand_as(image), box.expand_as(image))
    assert edit.change(made, image, ~box) == "0"
    assert float(edit.change(made, image, box)) > 0
