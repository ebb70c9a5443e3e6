"""What is refused of a configuration and its data before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import langevin
from langevin import UserError, nn, training
from langevin.storage import untrusted
from langevin.training import BudgetConfig, Config, NetworkConfig, OutputConfig


def scaled(scale: float, shift: float, tmp_path: Path) -> langevin.data.Dataset:
    x = np.random.default_rng(0).standard_normal((40, 2)) * scale + shift
    np.save(tmp_path / "points.npy", x.astype(np.float32))
    return langevin.data.load(tmp_path / "points.npy")


@pytest.mark.parametrize(
    ("scale", "shift", "said"),
    [
        (
            1e20,
            0.0,
            r"'points' are far larger than the noise of EDM.*root mean square is .*e\+(19|20).*from 0.002 to 80",
        ),
        (1e3, 0.0, "far larger"),
        (1.0, 1e3, "far larger"),  # the noise hides the mean no more than the spread
        (1e-6, 0.0, "far smaller"),
        (0.0, 0.3, "'points' are all the same: there is nothing to learn"),
    ],
)
def test_data_no_noise_is_made_for_are_refused(scale: float, shift: float, said: str, tmp_path: Path) -> None:
    """After 60 steps samples of data of spread 1000 had a spread of 81, those of 1e-6 one of 4e-5."""
    with pytest.raises(UserError, match=said):
        training.train(
            Config(budget=BudgetConfig(steps=1)), scaled(scale, shift, tmp_path), tmp_path / "run", quiet=True
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("scale", "shift"), [(20.0, 0.0), (1e-3, 0.0), (1.0, 20.0)])
def test_data_within_the_noise_are_trained_on(scale: float, shift: float, tmp_path: Path) -> None:
    config = Config(budget=BudgetConfig(steps=1), output=OutputConfig(validate_on=4, sample_every=0))
    training.train(config, scaled(scale, shift, tmp_path), tmp_path / "run", quiet=True)


def test_a_batch_that_memory_does_not_hold_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    """A transformer of images of 64 × 64 in patches of one pixel keeps gigabytes of 512 for gradients."""
    x = np.random.default_rng(0).uniform(-1, 1, (4, 1, 64, 64)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    data = langevin.data.load(tmp_path / "x.npy")
    monkeypatch.setattr(untrusted, "memory", lambda: 2**31)
    config = Config(batch=512, network=NetworkConfig("dit", {"patch": 1, "depth": 2}), budget=BudgetConfig(steps=1))
    with pytest.raises(UserError, match=r"512 × \(1, 64, 64\) in the network with its gradients would take .* GiB"):
        training.train(config, data, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_default_network_for_the_largest_images() -> None:
    """It halves them nine times, which is as often as it can be told to."""
    made = nn.default((1, 8192, 8192))
    assert len(made["multipliers"]) == 10
