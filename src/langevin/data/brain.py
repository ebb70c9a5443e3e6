"""Slices of a brain: the ICBM152 template that ships with nilearn."""

from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Noise
from ..numerics.streams import Stream
from .dataset import Dataset, Examples, Options, assemble, subset
from .entry import Entry
from .packages import package

MEMBER = "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
SLICES = (15, 145)
"""Axial slices that show the brain: from, to."""

PERIOD, HELD_OUT, APART = 15, 7, 2
"""Of every 15 slices the eighth is held out; two on either side of it, which are much like it, are in neither split."""

VARIATIONS = 24
"""Training images a slice: turned by up to 10°, scaled by 0.9 to 1.1 and moved by up to 4 % of the side."""

FIELD = 0.82
"""The share of the volume's longer side that an image shows."""

SEED = 0


@register(
    "data",
    "brain-mri",
    title="Brain MRI: axial slices of the ICBM152 T1 template, grey (fetched)",
    proof="data: tests/data/test_fetched.py",
    about=Entry(2_040, 9, (1, 64, 64), "BSD"),
)
def brain_mri(options: Options | None = None) -> Dataset:
    """Axial slices of the ICBM152 T1 template (Fonov et al. 2011): `langevin data get nilearn` fetches the volume.

    One brain, the mean of 152, so this is data to try a method on, not a study. 64×64 pixels unless ``size`` says
    otherwise (at most 192), x from −1 (nothing) to 1 (the brightest voxel). 2,040 training images are 85 slices in 24
    poses each; 9 slices are held out, in the pose they have, with two slices on either side of each left out of both.
    """
    options = options or Options()
    size = options.size or 64
    if options.channels not in (None, 1) or options.crop != "center" or not 16 <= size <= 192:
        raise UserError("brain-mri: images are grey and whole, with a size of 16 to 192; got other options.")
    volume = nifti(package("nilearn").read(MEMBER))
    where = np.arange(*SLICES)
    distance = np.abs(where % PERIOD - HELD_OUT)
    train, test = (torch.from_numpy(volume[where[mask]]) for mask in (distance > APART, distance == 0))
    poses = Noise(SEED, len(train) * VARIATIONS).fold_in(Stream.POSE).uniform((4,))
    parts = [
        subset(Examples(posed(train.repeat_interleave(VARIATIONS, 0), poses, size)), options.limit),
        subset(Examples(posed(test, torch.full((len(test), 4), 0.5), size)), options.limit),
    ]
    return assemble("brain-mri", parts, options)


def nifti(content: bytes) -> np.ndarray:
    """The voxels of a gzipped NIfTI-1 file of bytes, uint8 ``(z, y, x)``, z upwards and y from front to back.

    Raises:
        UserError: for anything else.
    """
    raw = gzip.decompress(content)
    if len(raw) < 352 or raw[344:347] != b"n+1" or struct.unpack("<h", raw[70:72])[0] != 2:
        raise UserError("the volume must be a NIfTI-1 file of unsigned bytes")
    x, y, z = struct.unpack("<3h", raw[42:48])
    start = int(struct.unpack("<f", raw[108:112])[0])
    if len(raw) != start + x * y * z:
        raise UserError(f"the volume must hold {x * y * z} bytes, got {len(raw) - start}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(z, y, x)[:, ::-1].copy()


def posed(slices: Tensor, poses: Tensor, size: int) -> Tensor:
    """Slices in a pose, ``(N, 1, size, size)`` in [−1, 1]; a pose of ½, ½, ½, ½ is the one they have.

    Args:
        slices: uint8 ``(N, H, W)``.
        poses: numbers in (0, 1), ``(N, 4)``: the turn, the scale and the two shifts.
        size: side of the images.
    """
    height, width = slices.shape[1:]
    side = max(height, width)
    pad = ((side - width) // 2, side - width - (side - width) // 2, (side - height) // 2, 0)
    pad = (*pad[:3], side - height - pad[2])
    angle = (2 * poses[:, 0] - 1) * math.radians(10)
    scale = (1 + 0.1 * (2 * poses[:, 1] - 1)) / FIELD
    shift = 0.08 * (2 * poses[:, 2:] - 1)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    affine = torch.stack((cos, -sin, shift[:, 0], sin, cos, shift[:, 1]), 1).reshape(-1, 2, 3).float()
    made = []
    for some, theta in zip(slices.split(256), affine.split(256)):
        x = torch.nn.functional.pad(some[:, None].float(), pad)
        grid = torch.nn.functional.affine_grid(theta, list(x.shape), align_corners=False)
        x = torch.nn.functional.grid_sample(x, grid, align_corners=False)
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
        made.append(x / 127.5 - 1)
    return torch.cat(made).clamp(-1, 1)
