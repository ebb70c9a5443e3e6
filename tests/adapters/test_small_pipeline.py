"""The pipeline of diffusers that ``benchmarks/small_pipeline.py`` trains is read here, and learns on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import langevin

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from benchmarks.small_pipeline import Budget, train


@pytest.mark.slow
def test_it_trains_and_is_read(tmp_path: Path) -> None:
    """A few steps: the losses fall below those of no prediction at all (1 for ε), and captions are told apart."""
    figures = train(tmp_path / "sd", Budget(codec=40, unet=120))
    assert figures["loss"] < 0.9
    model = langevin.load(tmp_path / "sd", device="cpu")
    assert tuple(model.output.shape) == (3, 16, 16)
    drawn = [
        langevin.sample(model.given(caption=text), n=2, steps=4, seed=0)
        for text in ("a large red letter B on white", "a small blue digit 7 on black")
    ]
    assert drawn[0].isfinite().all()
    assert not torch.equal(*drawn)
