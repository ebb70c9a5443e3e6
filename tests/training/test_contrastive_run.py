"""What a run of a contrastive encoder measures: on whole batches, and what share of held-out pairs is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from langevin import training
from langevin.distributions import Noise, Stream
from langevin.objectives import create_objective
from langevin.training import Learner, NetworkConfig, ObjectiveConfig, OutputConfig
from langevin.training.loader import Order
from tiny_runs import captioned, tiny

CONFIG = tiny(
    4,
    network=NetworkConfig("dual-encoder", {"image": {"width": 16, "depth": 1}, "text": {"width": 16, "depth": 1}}),
    objective=ObjectiveConfig("contrastive"),
    output=OutputConfig(validate_every=4, validate_on=20, sample_every=0, checkpoint_every=0),
)


def test_it_is_measured_on_whole_batches_and_says_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 pairs asked for, batches of 8: two of them, since a smaller one would be an easier question."""
    sizes: list[int] = []
    loss = Learner.loss

    def counted(self: Learner, batch: Any, noise: Noise) -> torch.Tensor:
        sizes.append(len(batch["x"]))
        return loss(self, batch, noise)

    monkeypatch.setattr(Learner, "loss", counted)
    dataset = captioned()
    model = training.train(CONFIG, dataset, tmp_path, device="cpu")
    assert sizes == [8, 8]
    order, noise = Order(len(dataset.test), 0), Noise(0, 16).fold_in(Stream.VALIDATION)
    made = create_objective(model.config["objective"]).for_validation()
    found, right = [], []
    for rows in (slice(0, 8), slice(8, 16)):
        held = dataset.test.batch(order.permutation(0)[torch.arange(rows.start, rows.stop) % len(dataset.test)])
        told = {"caption": held["caption"]}
        with torch.no_grad():
            found.append(made(model, held["x"], told, noise.rows(rows)))
            right.append(made.accuracy(model, held["x"], told, noise.rows(rows)))
    assert model.config["val_loss"] == pytest.approx(float(torch.cat(found).mean()), abs=1e-6)
    share = 100 * float(torch.cat(right).mean())
    assert f"{share:.1f} % right" in capsys.readouterr().err


def test_a_batch_of_fewer_pairs_than_it_has_room_for(tmp_path: Path) -> None:
    """Fewer pairs asked for than a batch: they are one batch of their own."""
    config = replace(CONFIG, output=replace(CONFIG.output, validate_on=5))
    model = training.train(config, captioned(), tmp_path, device="cpu", quiet=True)
    assert model.config["val_loss"] > 0
