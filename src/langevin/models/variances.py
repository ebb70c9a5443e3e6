"""The files of optimal variances in a model directory: ``calibration.json``, and a directory a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import nn
from .._errors import UserError
from ..denoisers import VARIANCE_HEADS, Calibration, Denoiser, NetworkDenoiser, VarianceHead, config_of
from ..storage import files
from ..storage.untrusted import reading, typed
from .learned import is_current, stamp
from .load_network import load_network
from .timing import timeless

CONFIG, WEIGHTS = "config.json", "model.safetensors"
CALIBRATION = "calibration.json"
"""Γ in a model directory; a head is a directory of its name."""

VERSION = 2
"""Of both formats; a reader refuses what it does not know."""

BYTES = 2**20
"""Size of ``calibration.json`` beyond which it is refused."""


def save_calibration(found: Calibration, folder: Path) -> Path:
    """Write ``calibration.json``, whole or not at all."""
    file = folder / CALIBRATION
    files.replace(file, files.as_json({"langevin": VERSION, "kind": "calibration", **found.to_dict()}))
    return file


def _calibration(file: Path) -> Calibration:
    """The calibration of a file, checked."""
    values = files.read_json(file, most=BYTES)
    knots = {"log_snr", "gamma", "stderr", "error"}
    files.only(file, values, {"langevin", "kind", "low", "high", "made"} | knots)
    if values.pop("langevin") != VERSION or values.pop("kind") != "calibration":
        raise UserError(f"{file}: not a calibration this version of langevin reads")
    if not isinstance(values["made"], dict):
        raise UserError(f"{file}: made must be a JSON object")
    try:
        lists = {name: typed(Sequence[float], values.pop(name), name) for name in sorted(knots)}
        bounds = {name: typed(float | None, values.pop(name), name) for name in ("low", "high")}
        tensors: dict[str, Any] = {name: torch.tensor(value, dtype=torch.float64) for name, value in lists.items()}
        return Calibration(**tensors, **bounds, **values)
    except UserError as error:
        raise UserError(f"{file}: {error} (remove it, or calibrate again)") from None


def save_head(head: VarianceHead, folder: Path) -> None:
    """Write a head's directory, all of the old or all of the new."""
    network = config_of(head.network)
    if "name" not in network:
        raise UserError(f"only networks made by langevin.nn can be saved, got {type(head.network).__name__}")
    weights = files.as_safetensors(head.network.state_dict())
    config = {
        "langevin": VERSION,
        "kind": "variance-head",
        "files": {WEIGHTS: files.digest(weights)},
        "head": head.kind,
        "network": dict(network),
        "sigma_data": head.sigma_data,
        "low": head.low,
        "high": head.high,
        **stamp(head.base),
        "training": timeless(head.config),
    }
    files.publish(folder, {WEIGHTS: weights, CONFIG: files.as_json(config)})


def _head(folder: Path, model: NetworkDenoiser) -> VarianceHead | None:
    """The head of a directory, checked; None, with a warning, for one of a model that has changed since."""
    file = folder / CONFIG
    config = {"files": {}, **files.read_json(files.place(folder, CONFIG))}
    keys = {"langevin", "kind", "head", "network", "sigma_data", "low", "high", "trained_steps", "training", "files"}
    files.only(file, config, {*keys, "weights", "shape"} if "weights" in config else keys)
    if config["langevin"] != VERSION or config["kind"] != "variance-head" or str(config["head"]) not in VARIANCE_HEADS:
        raise UserError(f"{file}: not a head this version of langevin reads")
    if not is_current(folder, config, stamp(model), "calibrate again"):
        return None
    with reading(file):
        held = files.digests(file, config["files"], {WEIGHTS})
        std = typed(float, config["sigma_data"], "sigma_data")
        low, high = (typed(float | None, config[name], name) for name in ("low", "high"))
        typed(dict, config["training"], "training")
        outline = nn.outline(config["network"])
        if config["network"]["name"] in (*nn.CODECS, *nn.FLOWS, *nn.ENCODERS):
            raise UserError(f"network {config['network']['name']!r} is no head")
        outline.check_shape((3 * model.shape[0], *model.shape[1:]))
    network = load_network(files.place(folder, WEIGHTS), config["network"])
    files.agree(folder, held)
    with reading(file):
        head = VARIANCE_HEADS[config["head"]](model, network, std, low, high, config=config["training"])
    network.eval().to(model.device)
    return head


def variances_of(folder: Path, model: NetworkDenoiser) -> dict[str, Callable[[Denoiser], Denoiser]]:
    """The variances in a model directory, by name.

    One that was learned before the model was trained on is left out, with a warning.

    Raises:
        UserError: for a file that is not one, naming it.
    """
    read: dict[str, Callable[[Denoiser], Denoiser]] = {}
    file = folder / CALIBRATION
    if file.exists():
        found = _calibration(file)
        if is_current(file, found.made, stamp(model), "calibrate again"):
            read |= {"analytic": found, "residual": found.residual()}
    for kind in VARIANCE_HEADS:
        if files.place(folder / kind, CONFIG).exists():
            head = _head(folder / kind, model)
            if head is not None:
                read[kind] = head.onto
    return read
