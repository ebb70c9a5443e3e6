"""Where a run is shown while it goes, beside ``metrics.csv``: TensorBoard, Weights & Biases."""

from __future__ import annotations

import html
import importlib.util
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .._errors import UserError
from ..storage import files
from ..storage.untrusted import reading

if TYPE_CHECKING:
    from .config import OutputConfig

PROJECT = "langevin"
"""Of Weights & Biases, where neither the configuration nor ``WANDB_PROJECT`` names another."""


class Logger(Protocol):
    """What is told of a run while it goes. Only the process of rank 0 has one."""

    def settings(self, values: Mapping[str, Any]) -> None:
        """The resolved configuration; a later one, of which a part was still to be chosen, takes its place."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of a step, by name."""

    def picture(self, path: Path, step: int) -> None:
        """A saved picture (``.png``), or text (``.txt``), of samples."""

    def close(self) -> None:
        """Finish what was written."""


class TensorBoard:
    """Event files in ``out/tensorboard``.

    Args:
        out: the run's directory.
        step: of the checkpoint the run goes on from, 0 for a new one; what is there of later steps is purged.
    """

    def __init__(self, out: Path, step: int, output: OutputConfig, quiet: bool) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)

    def settings(self, values: Mapping[str, Any]) -> None:
        self._writer.add_text("config", _code(files.as_json(dict(values)).decode()), 0)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, path: Path, step: int) -> None:
        if path.suffix == ".txt":
            return self._writer.add_text("samples", _code(path.read_text(encoding="utf-8")), step)
        import numpy as np
        from PIL import Image

        self._writer.add_image("samples", np.asarray(Image.open(path)), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, whose files lie in ``out/wandb``; ``WANDB_MODE=offline`` sends nothing.

    Its id is kept in ``out/wandb/id.txt``, so that a run that is resumed goes on as the same one. Steps that are done
    again after a kill have the same numbers as before, and are not logged twice.

    Args:
        out: the run's directory.
        step: of the checkpoint the run goes on from, 0 for a new one.
        output: names the project.
        quiet: say nothing.

    Raises:
        UserError: if W&B cannot be reached or has no key of the user.
    """

    ID = "id.txt"

    def __init__(self, out: Path, step: int, output: OutputConfig, quiet: bool) -> None:
        import wandb

        place = out / "wandb" / self.ID
        known = _id(place) if step and place.exists() else None
        name = known or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        files.make(place.parent)
        try:
            self._run = wandb.init(
                project=output.wandb_project or os.environ.get("WANDB_PROJECT") or PROJECT,
                name=os.environ.get("WANDB_NAME") or out.resolve().name,
                id=name,
                resume="allow" if known else None,
                reinit="create_new",  # the program around this one may have a run of its own
                dir=str(out),
                # A bar is drawn over and over, and its numbers are all in the run without it.
                settings=wandb.Settings(silent=quiet, console="off"),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"output.wandb cannot begin a run: {reason}; log in with wandb login, or set WANDB_MODE=offline"
            ) from None
        files.replace(place, f"{name}\n".encode())

    def settings(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._log(values, step)

    def picture(self, path: Path, step: int) -> None:
        import wandb

        if path.suffix == ".txt":
            text = html.escape(path.read_text(encoding="utf-8"))
            return self._log({"samples": wandb.Html(f"<pre>{text}</pre>", inject=False)}, step)
        self._log({"samples": wandb.Image(str(path))}, step)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        if step >= self._run.step:  # else this row was logged before the kill that the run goes on from
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def _id(path: Path) -> str:
    """The id of the run of W&B that a directory belongs to."""
    with reading(path):
        name = path.read_text(encoding="ascii").strip()
    if not re.fullmatch(r"[\w-]{1,64}", name):
        raise UserError(f"{path} must hold the id of a run of Weights & Biases, letters and digits; got {name[:40]!r}")
    return name


def _code(text: str) -> str:
    """Text as a block of code of Markdown, which TensorBoard shows as it is."""
    return "    " + text.replace("\n", "\n    ")


LOGGERS: dict[str, type[TensorBoard] | type[WeightsAndBiases]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
"""By the name of the setting of ``OutputConfig`` that asks for each, which is that of the package it needs."""


def check(output: OutputConfig) -> None:
    """Refuse what is not installed, before any work."""
    for name in LOGGERS:
        # A folder called wandb, which W&B makes in the directory it is run in, is found as a package without a file.
        spec = importlib.util.find_spec(name) if getattr(output, name) else None
        if getattr(output, name) and (spec is None or spec.origin is None):
            raise UserError(f'output.{name} needs the package {name}: pip install "langevin[log]"')


def opened(out: Path, step: int, output: OutputConfig, quiet: bool) -> list[Logger]:
    """The loggers that are asked for."""
    return [kind(out, step, output, quiet) for name, kind in LOGGERS.items() if getattr(output, name)]
