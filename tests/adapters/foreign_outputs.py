"""Writes ``foreign_outputs.json``: what networks of other programs return, for weights and inputs that are a formula.

It needs the programs themselves, which no test does: the folder of ``training/networks.py`` of NVlabs/edm and of its
``torch_utils``, and the package denoising-diffusion-pytorch, on ``PYTHONPATH``:

    PYTHONPATH=EDM/training:EDM:src python tests/adapters/foreign_outputs.py
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = Path(__file__).with_name("foreign_outputs.json")

LEVELS = {"num_blocks": 1, "attn_resolutions": [4]}
SONG = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2], **LEVELS}
PLUSPLUS = {"embedding_type": "fourier", "channel_mult_noise": 2, "encoder_type": "residual"}
ADM = {
    "model_type": "DhariwalUNet",
    "model_channels": 32,
    "channel_mult": [1, 4],
    "num_blocks": 1,
    "attn_resolutions": [4],
}

CASES: list[dict[str, Any]] = [
    {
        "program": "lucidrains",
        "unet": {"dim": 8, "dim_mults": [1, 2]},
        "diffusion": {"timesteps": 20, "beta_schedule": "cosine", "objective": "pred_noise"},
        "at": [0, 7, 19],
    },
    {
        "program": "lucidrains",
        "unet": {"dim": 4, "init_dim": 6, "dim_mults": [1, 3], "channels": 1, "attn_heads": 2, "attn_dim_head": 4}
        | {"full_attn": [True, False], "self_condition": True, "sinusoidal_pos_emb_theta": 500},
        "diffusion": {"timesteps": 20, "beta_schedule": "sigmoid", "objective": "pred_v", "min_snr_loss_weight": True},
        "at": [0, 7, 19],
    },
    {
        "program": "edm",
        "precondition": "edm",
        "arguments": {**SONG, "label_dim": 3, "augment_dim": 2},
        "at": [0.1, 5.0],
    },
    {
        "program": "edm",
        "precondition": "ve",
        "arguments": {**SONG, **PLUSPLUS, "resample_filter": [1, 3, 3, 1]},
        "at": [0.1, 5.0],
    },
    {"program": "edm", "precondition": "vp", "arguments": {**ADM, "label_dim": 3}, "at": [0.3, 5.0]},
]
"""Configurations: of DDPM++ with classes, of NCSN++, of ADM, and two of the U-Net of lucidrains."""

VERSIONS = {
    "lucidrains": "denoising-diffusion-pytorch 2.3.4",
    "edm": "NVlabs/edm 0a2ff34f0b80415ace7af7311074bd2255da0d1e",
}

SIDE, BATCH = 8, 2
LABELS = [2, None]


def wave(shape: tuple[int, ...], phase: float, size: float) -> Tensor:
    """size · sin(0.7 i + 0.013 i² + phase) at place i, float32: whose frequency grows, so that few sums cancel."""
    count = torch.arange(math.prod(shape), dtype=torch.float64)
    return (size * torch.sin(count * (0.7 + 0.013 * count) + phase)).float().reshape(shape)


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights of a network by their names' order: waves; filters as they are defined."""
    made = {}
    for k, name in enumerate(sorted(shapes)):
        shape = tuple(shapes[name])
        if name.endswith("resample_filter"):
            taps = torch.tensor([1.0, 1.0] if shape[-1] == 2 else [1.0, 3.0, 3.0, 1.0])
            made[name] = (torch.outer(taps, taps) / taps.sum() ** 2).reshape(shape)
        else:
            gain = len(shape) == 1 or name.endswith(".g")
            made[name] = wave(shape, k, 8.0 if name.endswith("freqs") else 0.3) + 0.5 * gain
    return made


def images(channels: int, size: float) -> Tensor:
    """States ``(BATCH, channels, SIDE, SIDE)``."""
    return wave((BATCH, channels, SIDE, SIDE), 0.5, size)


def lucidrains(case: dict[str, Any]) -> dict[str, Any]:
    """Outputs of the U-Net, with the state dict's tables."""
    from denoising_diffusion_pytorch.denoising_diffusion_pytorch import GaussianDiffusion, Unet

    options = {key: tuple(v) if isinstance(v, list) else v for key, v in case["unet"].items()}
    network = Unet(**options).eval()
    diffusion = GaussianDiffusion(network, image_size=SIDE, **case["diffusion"])
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(weights(shapes))
    x = images(network.channels, 1.5)
    return {
        "shapes": shapes,
        "tables": {name: getattr(diffusion, name).tolist() for name in ("betas", "loss_weight")},
        "out": [network(x, torch.full((BATCH,), n)).flatten().tolist() for n in case["at"]],
    }


def edm(case: dict[str, Any]) -> dict[str, Any]:
    """Outputs of the preconditioned network at noise levels."""
    import networks  # type: ignore[import-not-found]

    kind = {"edm": networks.EDMPrecond, "vp": networks.VPPrecond, "ve": networks.VEPrecond}[case["precondition"]]
    network = kind(SIDE, 3, **case["arguments"]).eval()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(weights(shapes))
    count = case["arguments"].get("label_dim", 0)
    label = torch.zeros(BATCH, count)
    for row, k in enumerate(LABELS):
        if count and k is not None:
            label[row, k] = 1
    told = {"class_labels": label} if count else {}
    out = [network(images(3, 0.5 + s), torch.full((BATCH,), s), **told).flatten().tolist() for s in case["at"]]
    return {"shapes": shapes, "out": out}


if __name__ == "__main__":
    with torch.no_grad():
        made = [case | {"of": VERSIONS[case["program"]]} | globals()[case["program"]](case) for case in CASES]
    short = lambda value: float(f"{value:.7g}") if isinstance(value, float) else value
    for case in made:
        case["out"] = [[short(v) for v in row] for row in case["out"]]
    FILE.write_text(json.dumps(made, separators=(",", ":")) + "\n")
