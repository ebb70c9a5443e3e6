"""Several processes under ``accelerate launch``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_learned_process import config
from tiny_runs import points, tiny

from langevin import training
from langevin.training import ObjectiveConfig

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_learned_process import config
from tiny_runs import points, tiny
from langevin import training
from langevin.training import ObjectiveConfig

config = tiny(12, objective=ObjectiveConfig(times="importance", times_options={{"bins": "3", "terms": "2"}}))
training.train(config, points(), {out!r}, device="cpu", quiet=True)
"""


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """The same batches, noise, times and loss history; gradients summed in another order."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), out=str(tmp_path / "two")))
    # --multi_gpu is what makes accelerate start several processes by torchrun; on a machine without GPUs they use gloo.
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    port = ["--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), *port, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    config = tiny(12, objective=ObjectiveConfig(times="importance", times_options={"bins": "3", "terms": "2"}))  # type: ignore[dict-item]
    training.train(config, points(), tmp_path / "one", device="cpu", quiet=True)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        # Adam divides by |g|: rounding of 1e-7 in g moves a step of 2e-3 by 1e-7 of it where g is not near zero, and
        # by all of it where it is; 12 steps of at most 2e-3 are averaged. Another batch or noise moves 1e-3 and more.
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)
    assert training.load(tmp_path / "two", device="cpu").config["processes"] == 2
    rows = [(tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("one", "two")]
    for a, b in zip(*rows):
        assert a.split(",")[0] == b.split(",")[0]
        if a.split(",")[0] != "step":
            assert float(a.split(",")[1]) == pytest.approx(float(b.split(",")[1]), rel=1e-4)


LEARNED = """
import sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_learned_process import config
from tiny_runs import points
from langevin import training

training.train(config(6), points(), {out!r}, device="cpu", quiet=True)
"""


@pytest.mark.slow
def test_two_processes_learn_one_schedule(tmp_path: Path) -> None:
    """Its gradients are averaged with the network's, of which it is a part, though no forward pass of it uses them."""
    script = tmp_path / "script.py"
    script.write_text(LEARNED.format(tests=str(Path(__file__).parent), out=str(tmp_path / "two")))
    options = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    port = ["--main_process_port", "0"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options.split(), *port, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = training.train(config(6), points(), tmp_path / "one", device="cpu", quiet=True)
    both = training.load(tmp_path / "two", device="cpu")
    # As above: gradients in another order, divided by their size. Half of each batch alone moves it by 6e-4.
    torch.testing.assert_close(torch.tensor(both.process.gamma), torch.tensor(alone.process.gamma), rtol=0, atol=5e-5)
