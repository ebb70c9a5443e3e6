"""Training on data that are streamed: the same run however it is interrupted, divided or read ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from langevin import data, models, training
from langevin._errors import UserError
from langevin.data.order import permutation
from langevin.data.streaming import BUFFER, HELD
from langevin.training import NetworkConfig, OutputConfig
from langevin.training.loader import InOrder, Loader
from streamed import anew, write
from tiny_runs import interrupted, killed, same_files, tiny

pytest.importorskip("datasets")

STEPS, BATCH = 7, 400
CONFIG = replace(
    tiny(
        STEPS, network=NetworkConfig("unet", {"width": 8, "multipliers": [1], "blocks": 1, "conditions": {"label": 2}})
    ),  # type: ignore[dict-item]
    batch=BATCH,
)
COUNT = 2 * 1174
"""Rows to train on: the steps read all of an epoch, and of the next its beginning, across blocks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    write(folder / "data", "train", (HELD + COUNT // 2, COUNT // 2))
    return folder


@pytest.fixture(scope="module")
def opened(folder: Path) -> data.Dataset:
    return data.load(f"hf:{folder}", streaming=True)


def run(dataset: data.Dataset, out: Path, **named: bool) -> None:
    training.train(CONFIG, anew(dataset), out, device="cpu", quiet=True, **named)


def test_interrupted_and_resumed(opened: data.Dataset, folder: Path, tmp_path: Path) -> None:
    assert BUFFER < COUNT < STEPS * BATCH < 2 * COUNT
    run(opened, tmp_path / "whole")
    with interrupted(3):
        run(opened, tmp_path / "parts")
    with killed(4):  # of what is left
        run(opened, tmp_path / "parts", resume=True)
    assert training.checkpoints(tmp_path / "parts")[-1].name == "step-0000004"
    run(opened, tmp_path / "parts", resume=True)
    same_files(tmp_path / "whole", tmp_path / "parts")
    assert models.load(tmp_path / "whole").data.source == {"source": f"hf:{folder}", "streaming": True}


def test_each_process_has_its_rows_and_workers_change_nothing(opened: data.Dataset) -> None:
    whole = Loader(anew(opened).stream, InOrder(), BATCH, slice(0, BATCH), seed=5)
    shares = [
        Loader(anew(opened).stream, InOrder(), BATCH, rows, seed=5) for rows in (slice(0, 250), slice(250, BATCH))
    ]
    ahead = Loader(anew(opened).stream, InOrder(), BATCH, slice(0, BATCH), seed=5, workers=2)
    for step in (2, 6):  # the second across two blocks and two epochs
        batch = whole[step]
        for name, value in batch.items():
            assert torch.equal(torch.cat([share[step][name] for share in shares]), value)
        read = ahead[step]
        assert all(torch.equal(read[name], batch[name]) for name in batch)
    ahead.close()


def test_it_says_what_it_reads_and_goes_on_after_the_network_fails(
    opened: data.Dataset, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, asked = anew(opened), replace(CONFIG, output=OutputConfig(sample_every=0, checkpoint_every=1))

    def broken(rows: Iterable[Any]) -> Iterator[Any]:
        yield from rows
        raise RuntimeError("connection reset")

    # The shard that comes second breaks after the first block, which is trained on.
    failing, last = anew(dataset), int(permutation(2, asked.seed, 0)[1])
    rows = [list(shard) for shard in dataset.stream.shards]
    failing.stream.shards = [broken(rows[k][:-200]) if k == last else rows[k] for k in (0, 1)]
    told = r"hf:\S+ cannot be read on: connection reset; .*: langevin train hf:\S+ --streaming --out \S+ --resume"
    with pytest.raises(UserError, match=told):
        training.train(asked, failing, tmp_path, device="cpu")
    said = capsys.readouterr().err
    assert "images of 4 x 4 in colour, streamed, 1,024 held out; 2 classes, told caption;" in said
    assert "range, mean and covariance are those of the first 2,048" in said
    changed = replace(dataset, info=replace(dataset.info, source={"source": f"hf:{folder}"}), stream=None)
    with pytest.raises(UserError, match="trained on data made otherwise: streaming True"):
        training.train(asked, changed, tmp_path, device="cpu", resume=True)
    training.train(asked, dataset, tmp_path, device="cpu", quiet=True, resume=True)
