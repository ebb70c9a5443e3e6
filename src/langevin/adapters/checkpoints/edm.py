"""State dicts of EDM: ``SongUNet`` and ``DhariwalUNet`` under its preconditioning (arXiv:2206.00364)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, unknown
from ...data import DataInfo
from ...denoisers import AffineParameterization, NetworkDenoiser, make_denoiser
from ...models.load_network import filled
from ...processes import EDM, VE, VP, Process
from .weights import as_float32, below, shape_of

KEYS = ("ema", "net", "model", "state_dict", "")
"""Where a file may have the state dict, the preferred first."""

RENAMED = (
    (r"^map_layer0\.", "conditioning.time_in."),
    (r"^map_layer1\.", "conditioning.time_out."),
    (r"^map_noise\.freqs$", "conditioning.frequencies"),
    (r"^dec\.\d+x\d+_aux_norm\.", "out_norm."),
    (r"^dec\.\d+x\d+_aux_conv\.", "out_conv."),
)
"""Layers that have another name here; every other layer has the same."""


@dataclass(frozen=True)
class Precondition:
    """A row of table 1 of EDM: how its network is asked, and read.

    Attributes:
        process: the noising.
        prediction: what the network predicts.
        time: what it is told, a row of ``TIME_INPUTS``, then scaled and shifted.
        sign: of its output.
    """

    process: Process
    prediction: str
    time: str
    scale: float = 1.0
    shift: float = 0.0
    sign: float = 1.0


PRECONDITIONS = {
    "edm": Precondition(EDM(), "edm", "log_sigma"),
    "vp": Precondition(VP(), "eps", "t", scale=999.0),
    "ve": Precondition(
        VE(sigma_min=0.02, sigma_max=100.0), "eps", "log_sigma", scale=4.0, shift=-math.log(2), sign=-1.0
    ),
}
"""c_noise is ¼ ln σ (edm), 999 t (vp) and ln ½σ (ve); the network of ve predicts −ε."""


def check(precondition: str = "edm", sigma_data: float = 0.5) -> None:
    """Refuse settings of ``model`` before the file is read."""
    if precondition not in PRECONDITIONS:
        raise unknown("precondition", precondition, PRECONDITIONS)


def model(
    tensors: Mapping[str, Tensor], file: Path, *, precondition: str = "edm", sigma_data: float = 0.5
) -> NetworkDenoiser:
    """The denoiser of a state dict of ``EDMPrecond``, ``VPPrecond`` or ``VEPrecond``, or of the U-Net in one.

    What is learned of augmentation labels is left out: a sample has none.

    Args:
        tensors: by name.
        file: for messages.
        precondition: ``edm``, ``vp`` or ``ve``; the weights do not tell.
        sigma_data: σ_data of ``edm``.

    Raises:
        UserError: for tensors of another network.
    """
    row = PRECONDITIONS[precondition]
    mark = r"enc\.(\d+)x\2_conv\.weight"
    prefix, given = below(tensors, mark, file, "U-Net of EDM")
    if f"{prefix.removesuffix('model.')}u" in tensors:
        raise UserError(f"{file} is of iDDPMPrecond, whose table of noise levels (u) is not read; edm, vp and ve are")
    if other := [name for name in given if re.search(r"_aux_(skip|up|down)\.|_aux_skip", name)]:
        raise UserError(f"{file} has {other[0]}: encoders and decoders of the type skip are not read")
    size = next(int(match[2]) for name in given if (match := re.fullmatch(f"(){mark}", name)))
    taps = [given[name] for name in given if name.endswith(".resample_filter")]
    weights = {
        name: value
        for name, value in given.items()
        if not name.endswith(".resample_filter") and "map_augment" not in name
    }
    for pattern, name in RENAMED:
        weights = {re.sub(pattern, name, key): value for key, value in weights.items()}
    adm = "out_norm.weight" in given
    classes = _classes(weights, adm)
    config = {
        **_config(weights, size, adm, file),
        "taps": _taps(taps, file),
        "conditions": {"label": classes} if classes else {},
        "scale": row.scale,
        "shift": row.shift,
    }
    for name in ("out_conv.weight", "out_conv.bias"):
        if name in weights:
            weights[name] = row.sign * weights[name]
    network = filled(config, as_float32(weights), file)
    shape = (config["channels"], size, size)
    return make_denoiser(
        network,
        row.process,
        AffineParameterization(row.prediction, sigma_data, row.time, scale_input=row.prediction == "edm"),
        shape,
        data=DataInfo(file.stem or "images", shape, classes=tuple(str(k) for k in range(classes))),
        config={"converted": "edm"},
    )


def _classes(weights: dict[str, Tensor], adm: bool) -> int:
    """How many classes there are; their layer becomes a table, whose last row is no class.

    A class is told as a row of the identity, of ``SongUNet`` times the root of their number, and none as zeros.
    """
    layer, bias = weights.pop("map_label.weight", None), weights.pop("map_label.bias", None)
    if layer is None or layer.ndim != 2:
        return 0
    count = layer.shape[1]
    table = layer.float().T * (1.0 if adm else count**0.5)
    table = torch.cat([table, table.new_zeros(1, layer.shape[0])])
    weights["conditioning.label.weight"] = table if bias is None else table + bias.float()
    return count


def _taps(filters: list[Tensor], file: Path) -> list[int]:
    """The filter that changes sizes, in whole numbers, of their outer product over the square of their sum."""
    if not filters:
        return [1, 1]
    line = filters[0].double().reshape(filters[0].shape[-2:])[0]
    taps = [round(v) for v in (line / line[0]).tolist()]
    whole = torch.outer(torch.tensor(taps).double(), torch.tensor(taps).double()) / sum(taps) ** 2
    if any(f.shape[-2:] != whole.shape or not torch.allclose(f.double().squeeze(), whole) for f in filters):
        raise UserError(f"{file} has a resample_filter that is not of whole numbers, which is not read")
    return taps


def _config(weights: Mapping[str, Tensor], size: int, adm: bool, file: Path) -> dict[str, Any]:
    """The configuration of the network that has these shapes."""
    sides = sorted({int(m[1]) for name in weights if (m := re.match(r"enc\.(\d+)x\1_block0\.", name))}, reverse=True)
    first, channels = shape_of(weights, f"enc.{size}x{size}_conv.weight", 4, file)[:2]
    embedding, features = shape_of(weights, "conditioning.time_in.weight", 2, file)
    width = features if adm else first
    wide = [shape_of(weights, f"enc.{side}x{side}_block0.norm1.weight", 1, file)[0] for side in sides]
    if any(channels % width for channels in wide):
        raise UserError(f"{file}: the channels of its levels, {wide}, are not multiples of {width}")
    return {
        "name": "edm-unet",
        "channels": channels,
        "out_channels": shape_of(weights, "out_conv.weight", 4, file)[0],
        "size": size,
        "style": "adm" if adm else "song",
        "width": width,
        "multipliers": [channels // width for channels in wide],
        "blocks": sum(f"enc.{size}x{size}_block{i}.norm0.weight" in weights for i in range(64)),
        "attention": [side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in weights],
        "embedding": embedding,
        "features": features,
        "random": "conditioning.frequencies" in weights,
        "pyramid": any("_aux_residual" in name for name in weights),
    }
