"""A file of another program to a denoiser, by the name of the program."""

from __future__ import annotations

import os
from pathlib import Path

from ..._errors import UserError, unknown
from ...denoisers import NetworkDenoiser
from ...storage import files
from ...storage.untrusted import reading
from .. import pickles
from . import edm, lucidrains

FORMATS = ("lucidrains", "edm")
"""Programs whose checkpoints are read."""


def read(
    path: str | os.PathLike[str],
    source: str,
    *,
    key: str | None = None,
    run_code: bool = False,
    size: int | None = None,
    objective: str | None = None,
    theta: float = 10_000.0,
    precondition: str = "edm",
    sigma_data: float = 0.5,
) -> NetworkDenoiser:
    """The denoiser of a checkpoint of another program, as ``models.save`` takes it.

    The network is rebuilt by the shapes of its weights, and computes what the other program's does.

    Args:
        path: a file of ``torch.save`` or a safetensors file.
        source: ``lucidrains``, the package denoising-diffusion-pytorch; or ``edm``, the networks of EDM.
        key: which mapping of tensors, if not that of the moving average, else of the weights.
        run_code: unpickle what is more than tensors; see :func:`langevin.adapters.pickles.convert`.
        size: side of the images, where the weights do not tell it.
        objective: of lucidrains: ``pred_noise``, ``pred_x0`` or ``pred_v``; if None, what the weight of the loss tells.
        theta: of lucidrains: its ``sinusoidal_pos_emb_theta``.
        precondition: of edm: ``edm``, ``vp`` or ``ve``.
        sigma_data: of edm: σ_data of the precondition ``edm``.

    Raises:
        UserError: for a file that cannot be read, holds code or another network, or what is not told and not given.
    """
    file = Path(path).expanduser()
    if source not in FORMATS:
        raise unknown("program", source, FORMATS)
    if objective is not None and objective not in lucidrains.OBJECTIVES:
        raise unknown("objective", objective, lucidrains.OBJECTIVES)
    if size is not None and (type(size) is not int or size < 1):
        raise UserError(f"size must be a positive integer, got {size!r}")
    if file.suffix == ".safetensors":
        tensors = files.read_safetensors(file)
    else:
        keys = edm.KEYS if source == "edm" else lucidrains.KEYS
        tensors, _ = pickles.read(file, key=key, run_code=run_code, prefer=keys)
    with reading(file):
        if source == "edm":
            return edm.model(tensors, file, precondition=precondition, sigma_data=sigma_data)
        return lucidrains.model(tensors, file, size=size, objective=objective, theta=theta)
