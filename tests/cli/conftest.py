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
