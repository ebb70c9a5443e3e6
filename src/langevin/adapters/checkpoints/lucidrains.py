"""Checkpoints of the package denoising-diffusion-pytorch: a ``Unet`` inside ``GaussianDiffusion``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, unknown
from ...data import DataInfo
from ...denoisers import AffineParameterization, NetworkDenoiser, make_denoiser
from ...models.load_network import filled
from ...processes import DDPM
from .weights import as_float32, below, shape_of

KEYS = ("ema", "model", "")
"""Where a checkpoint of its ``Trainer`` has the diffusion, the preferred first; it may be given alone."""

OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}
"""Its names of what the network predicts, and ours."""

LIMIT = 5.0
"""Of the SNR in its min-SNR weight, by default."""

RENAMED = (
    (r"^time_mlp\.1\.", "conditioning.time_in."),
    (r"^time_mlp\.3\.", "conditioning.time_out."),
    (r"\.mlp\.1\.", ".scale_shift."),
)
"""Layers that have another name here; every other layer has the same."""


def check(size: int | None = None, objective: str | None = None, theta: float = 10_000.0) -> None:
    """Refuse settings of ``model`` before the file is read."""
    if size is None:
        raise UserError("size must be given: a U-Net of lucidrains takes images of any size, and its file names none")
    if type(size) is not int or size < 1:
        raise UserError(f"size must be a positive integer, got {size!r}")
    if objective is not None and objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)


def model(
    tensors: Mapping[str, Tensor], file: Path, *, size: int, objective: str | None = None, theta: float = 10_000.0
) -> NetworkDenoiser:
    """The denoiser of a state dict of ``GaussianDiffusion``, of its ``Trainer``'s average, or of its ``Unet`` in one.

    The table of β is that of the state dict. What the network predicts is told by the weight of the loss, which is kept
    beside it. Data are in [−1, 1], as ``auto_normalize`` makes them of images in [0, 1]. A network with
    self-conditioning is told that there is no estimate yet, as in half of its training.

    Args:
        tensors: by name.
        file: for messages.
        size: side of its images.
        objective: ``pred_noise``, ``pred_x0`` or ``pred_v``; if None, what the weight of the loss tells.
        theta: its ``sinusoidal_pos_emb_theta``.

    Raises:
        UserError: for tensors of another network, or what they do not tell and was not given.
    """
    prefix, weights = below(tensors, r"init_conv\.weight", file, "Unet of denoising-diffusion-pytorch")
    if "time_mlp.0.weights" in weights:
        raise UserError(f"{file} has learned or random sinusoids (time_mlp.0.weights), which are not read")
    outer = prefix.removesuffix("model.")
    betas = tensors.get(f"{outer}betas")
    if betas is None or betas.ndim != 1:
        raise UserError(
            f"{file} has no table betas beside {prefix}init_conv.weight; give the state dict of the diffusion"
        )
    for pattern, name in RENAMED:
        weights = {re.sub(pattern, name, key): value for key, value in weights.items()}
    channels, given = (
        shape_of(weights, "final_conv.weight", 4, file)[0],
        shape_of(weights, "init_conv.weight", 4, file)[1],
    )
    variance = channels == 2 * given
    if given == 2 * channels:  # the estimate comes first; it is zero where there is none
        weights["init_conv.weight"] = weights["init_conv.weight"][:, channels:].contiguous()
        given = channels
    network = filled(_config(weights, given, channels, theta, file), as_float32(weights), file)
    if objective is None:
        objective = _objective(tensors.get(f"{outer}loss_weight"), betas)
    if objective is None:
        raise UserError(
            f"objective must be given, one of {', '.join(OBJECTIVES)}: the weight of the loss does not tell"
        )
    return make_denoiser(
        network,
        DDPM(betas.double().tolist()),
        AffineParameterization(OBJECTIVES[objective], time="index"),
        (given, size, size),
        variance="range" if variance else None,
        data=DataInfo(file.stem or "images", (given, size, size)),
        config={"converted": "lucidrains"},
    )


def _config(weights: Mapping[str, Tensor], channels: int, out: int, theta: float, file: Path) -> dict[str, Any]:
    """The configuration of the network that has these shapes."""
    levels = 1 + max((int(m[1]) for key in weights if (m := re.match(r"downs\.(\d{1,2})\.", key))), default=0)
    ends = [shape_of(weights, f"downs.{i}.3{'.1' * (i < levels - 1)}.weight", 4, file)[0] for i in range(levels)]
    memories = [shape_of(weights, f"downs.{i}.2.mem_kv", 4, file) for i in range(levels)]
    full = [f"downs.{i}.2.to_out.weight" in weights for i in range(levels)]
    heads = [memory[1] for memory in memories]
    inner = [shape_of(weights, f"downs.{i}.2.to_qkv.weight", 4, file)[0] for i in range(levels)]
    return {
        "name": "lucidrains",
        "channels": channels,
        "out_channels": out,
        "width": shape_of(weights, "conditioning.time_in.weight", 2, file)[1],
        "widths": [shape_of(weights, "init_conv.weight", 4, file)[0], *ends],
        "full": full,
        "heads": heads,
        "head": [size // (3 * count) for size, count in zip(inner, heads)],
        "memory": memories[0][2 if full[0] else 3],
        "theta": theta,
    }


def _objective(weight: Tensor | None, betas: Tensor) -> str | None:
    """What the network predicts, by the weight of its loss at each step: that of the error of ε, x_0 or v."""
    if weight is None or weight.shape != betas.shape:
        return None
    kept = torch.cumprod(1 - betas.double(), 0)
    snr = kept / (1 - kept)
    for name, target in (("pred_noise", snr), ("pred_x0", torch.ones_like(snr)), ("pred_v", snr + 1)):
        for shown in (snr, snr.clamp(max=LIMIT)):
            # β is kept in float32, and so is the weight: what they are made of is good to 1e-7 a step.
            if torch.allclose(weight.double(), shown / target, rtol=1e-3, atol=1e-6):
                return name
    return None
