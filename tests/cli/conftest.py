"""A command line run in this process, and one tiny trained model for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from said import Said

from langevin.cli import main

SMALL = ["--batch", "8", "--network.name", "unet", "--network.options", "width", "8"]
QUIET = ["--output.validate-on", "16", "--output.sample-every", "0"]


@pytest.fixture
def langevin(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """``langevin("sample", model, "-n", 8)``: the real way in, without a process of its own."""

    def run(*words: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net of 27,000 parameters after three steps on digits."""
    out = tmp_path_factory.mktemp("cli") / "digits"
    assert main(["train", "digits", "--out", str(out), "--steps", "3", *SMALL, *QUIET]) == 0
    return out


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contrastive encoder of digits with captions after three steps, on the process of ``model``."""
    import numpy as np
    import torch

    from langevin import data
    from langevin.nn import encode_texts

    place = tmp_path_factory.mktemp("encoder")
    x, label = data.load("digits").train.batch(torch.arange(64)).values()
    words = encode_texts([f"a {int(k)}" for k in label], 8).numpy()
    np.savez(place / "told.npz", x=((x[:, 0] + 1) * 127.5).round().byte().numpy(), caption=words)
    small = ["--batch", "8", "--network.options", "image", '{"width": 8}', "text", '{"width": 16, "depth": 1}']
    words = ["train", str(place / "told.npz"), "--objective.name", "contrastive", "--out", str(place / "run")]
    assert main([*words, "--steps", "3", *small, *QUIET]) == 0
    return place / "run"
