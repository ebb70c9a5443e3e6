"""A file of another program to a denoiser, by the name of the program."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from ..._errors import UserError, nearest, unknown
from ...denoisers import NetworkDenoiser
from ...storage import files
from ...storage.untrusted import reading
from .. import pickles
from . import edm, lucidrains

FORMATS: dict[str, Any] = {"lucidrains": lucidrains, "edm": edm}
"""Programs whose checkpoints are read, each with ``KEYS``, where its file may have the weights, and ``model``."""


def read(
    path: str | os.PathLike[str], source: str, *, key: str | None = None, run_code: bool = False, **settings: Any
) -> NetworkDenoiser:
    """The denoiser of a checkpoint of another program, as ``models.save`` takes it.

    The network is rebuilt by the shapes of its weights, and computes what the other program's does.

    Args:
        path: a file of ``torch.save`` or a safetensors file.
        source: ``lucidrains``, the package denoising-diffusion-pytorch; or ``edm``, the networks of EDM.
        key: which mapping of tensors, if not that of the moving average, else of the weights.
        run_code: unpickle what is more than tensors; see :func:`langevin.adapters.pickles.convert`.
        settings: what the weights do not tell: ``size``, ``objective`` and ``theta`` of ``lucidrains.model``;
            ``precondition`` and ``sigma_data`` of ``edm.model``.

    Raises:
        UserError: for a file that cannot be read, holds code or another network, or what is not told and not given.
    """
    file = Path(path).expanduser()
    if source not in FORMATS:
        raise unknown("program", source, FORMATS)
    program = FORMATS[source]
    known = [p.name for p in inspect.signature(program.model).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        if name not in known:
            raise UserError(f"{source} has no setting {name!r}.{nearest(name, known)} It has {', '.join(known)}.")
    program.check(**settings)
    if file.suffix == ".safetensors":
        tensors = files.read_safetensors(file)
    else:
        tensors, _ = pickles.read(file, key=key, run_code=run_code, prefer=program.KEYS)
    with reading(file):
        made: NetworkDenoiser = program.model(tensors, file, **settings)
        return made
