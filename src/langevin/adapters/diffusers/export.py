"""Models of this library as pipelines of diffusers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from ..._errors import UserError, check_path
from ...data import DataInfo
from ...denoisers import AffineParameterization, NetworkDenoiser
from ...models import directory
from ...nn.unet2d import NARROW, UNet2D, as_diffusers
from ...processes import DDPM, RectifiedFlow, cosine_betas, linear_betas, scaled_linear_betas
from ...storage import files
from .directory import CONFIG, INDEX, LEARNED, OWN, OWN_MOMENTS, SCHEDULER, described
from .networks import Adapted

WRITTEN = "0.30.0"
"""The oldest version of diffusers that reads what is written."""

WEIGHTS = "diffusion_pytorch_model.safetensors"

WRITES = (f"unet/{WEIGHTS}", f"unet/{CONFIG}", f"scheduler/{SCHEDULER}", OWN, OWN_MOMENTS, INDEX)
"""The files of an export."""

TYPES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction", "flow": "flow_prediction"}
"""Our names of what a network predicts, and diffusers'."""

TRAIN = (
    "--network.name unet2d --process.name ddpm --prediction.name v --prediction.time index --prediction.no-scale-input"
)
"""Options of ``langevin train`` of a model that maps."""


def save(model: Any, path: str | os.PathLike[str]) -> None:
    """Write a model as a pipeline of diffusers, which ``DiffusionPipeline.from_pretrained`` reads.

    The network is a ``UNet2DModel`` with the same weights. A table of β gets a ``DDIMScheduler``, or a
    ``DDPMScheduler`` where the model learned its variances; rectified flow a ``FlowMatchEulerDiscreteScheduler``. What
    diffusers has no place for, the description of the data, lies in a folder ``langevin`` beside, which
    ``langevin.load`` reads again.

    Args:
        model: a denoiser of images by the network ``unet2d``, as ``langevin.load`` gives it.
        path: a new or empty directory, or one of an earlier export.

    Raises:
        UserError: for a model that does not map, naming the option that stands in the way, and for a directory that
            holds anything else.
    """
    check_path("path", path)
    check_target(Path(path), "path")
    files.publish(Path(path), contents(model))


def check_target(folder: Path, name: str) -> None:
    """Refuse a directory that an export would overwrite or mix with what it holds.

    A directory of an earlier export has its description and nothing that an export does not write, but for a README.md
    and hidden files.

    Raises:
        UserError: with the argument's name, the directory and what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{name} must be a directory, got {folder}, which is a file")
    tops = {file.partition("/")[0] for file in WRITES}
    kept = [path for path in sorted(folder.glob("*")) if not path.name.startswith(".") and path.name != "README.md"]
    inner = [inside for path in kept if path.is_dir() and path.name in tops for inside in sorted(path.rglob("*"))]
    found = [path.relative_to(folder).as_posix() for path in (*kept, *inner)]
    learned = lambda file: any(fnmatch(file, name) or fnmatch(f"{file}/", name) for name in LEARNED)
    strange = [file for file in found if file not in WRITES and file not in tops and not learned(file)]
    if found and not strange and not _is_own(folder / OWN):
        strange = [found[0]]
    if strange:
        raise UserError(
            f"{name} must be a new or empty directory, or one of an earlier export, got {folder}: "
            f"{strange[0]} is not of an export of this library"
        )


def _is_own(file: Path) -> bool:
    """Whether a file is the description that an export writes."""
    try:
        values = files.read_json(file)
    except (UserError, OSError):
        return False
    return values.get("langevin") == 1 and values.get("kind") == "diffusers"


def contents(model: Any) -> dict[str, bytes]:
    """What the directory of a pipeline holds, by file.

    Raises:
        UserError: as ``save``.
    """
    if isinstance(getattr(model, "network", None), Adapted):  # it is of a pipeline already
        return directory.contents(model)
    check(model)
    config, weights = as_diffusers(model.network)
    variance = "learned_range" if model.variance else "fixed_small"
    scheduler = _scheduler(model, variance)
    pipeline = "DDIMPipeline" if scheduler["_class_name"] == "DDIMScheduler" else "DDPMPipeline"
    classes = model.condition_sizes.get("label")
    index = {
        "_class_name": pipeline,
        "_diffusers_version": WRITTEN,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    version = {"_diffusers_version": WRITTEN}
    return {
        f"unet/{WEIGHTS}": files.as_safetensors(weights),
        f"unet/{CONFIG}": files.as_json({**config, **version}),
        f"scheduler/{SCHEDULER}": files.as_json({**scheduler, **version}),
        **described(classes, model.data),
        INDEX: files.as_json(index),
    }


def check(model: Any) -> None:
    """Refuse a model that no pipeline of diffusers computes, with what stands in the way."""
    why = _obstacle(model)
    if why is not None:
        how = f"To train one that can: langevin train DATA {TRAIN}"
        raise UserError(f"this model cannot become a pipeline of diffusers: {why}. {how}")


def _obstacle(model: Any) -> str | None:
    """What of a model stands in the way of a pipeline, or None."""
    if not isinstance(model, NetworkDenoiser):
        what = getattr(model, "kind", type(model).__name__)
        return f"it is a {what}, of which diffusers has no network with the blocks of this library"
    network, parameterization = model.network, model.parameterization
    name = getattr(network, "config", {}).get("name", type(network).__name__)
    if not isinstance(network, UNet2D):
        more = ", which reads the time by other waves than DiTTransformer2DModel" if name == "dit" else ""
        return f"--network.name {name}{more} maps onto none of its networks"
    if network.energy:
        return "--network.options energy true makes its output a gradient"
    if not isinstance(parameterization, AffineParameterization) or parameterization.prediction not in TYPES:
        return f"--prediction.name {parameterization.prediction} is read by none of its schedulers with these networks"
    if parameterization.scale_input:
        return "--prediction.scale-input divides the input by its standard deviation, which its pipelines do not"
    if not isinstance(model.process, (DDPM, RectifiedFlow)):
        return f"--process {type(model.process).__name__} is neither a table of β (ddpm) nor a rectified flow (flow)"
    flow = isinstance(model.process, RectifiedFlow)
    if (parameterization.prediction == "flow") != flow:
        name = parameterization.prediction
        return f"--prediction.name {name} on the process {model.process} is read by no scheduler of its"
    low, high = network.config["time_range"]
    told = {"index": low == 0 and high - low >= NARROW} if not flow else {"time": low == 0 and high - low >= NARROW}
    told |= {"t": (low, high) == (0, 1)} if flow else {}
    if not told.get(parameterization.time):
        known = " or ".join(told)
        return f"--prediction.time {parameterization.time} is not what its pipelines tell a network ({known})"
    if model.variance not in (None, "range") or (model.variance and parameterization.prediction != "eps"):
        name = parameterization.prediction
        return f"--prediction.variance {model.variance} is read by none of its schedulers with {name}"
    data = model.data
    if data is not None and (data.low, data.high) != (-1.0, 1.0):
        return f"its data lie in [{data.low}, {data.high}], pipelines make images of [-1, 1]"
    return None


def _scheduler(model: NetworkDenoiser, variance: str) -> dict[str, Any]:
    """The configuration of a scheduler that fits, as its own algorithm is published: nothing is clipped."""
    process = model.process
    if isinstance(process, RectifiedFlow):
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
    assert isinstance(process, DDPM)
    common = {
        "num_train_timesteps": process.steps,
        "prediction_type": TYPES[model.parameterization.prediction],
        "clip_sample": False,
        "timestep_spacing": "trailing",
        **_table(process),
    }
    if variance == "learned_range":
        return {"_class_name": "DDPMScheduler", "variance_type": variance, **common}
    return {"_class_name": "DDIMScheduler", "set_alpha_to_one": True, "steps_offset": 0, **common}


def _table(process: DDPM) -> Mapping[str, Any]:
    """β by the name of a published table where it is one, else number by number."""
    betas, n = process.betas, process.steps
    ends = {"beta_start": betas[0], "beta_end": betas[-1]}
    named = {
        "linear": lambda: linear_betas(n, betas[0], betas[-1]),
        "scaled_linear": lambda: scaled_linear_betas(n, betas[0], betas[-1]),
        "squaredcos_cap_v2": lambda: cosine_betas(n),
    }
    for name, made in named.items():
        if all(math.isclose(a, b, rel_tol=1e-12) for a, b in zip(made(), betas)):
            return {"beta_schedule": name, "trained_betas": None, **ends}
    return {"trained_betas": list(betas)}


def read_own(folder: Path) -> tuple[int | None, DataInfo | None]:
    """The class that stands for none and the description of the data, as ``save`` wrote them; None where it did not.

    Raises:
        UserError: for a file that is not one of these, naming it.
    """
    file = folder / OWN
    if not file.is_file():
        return None, None
    values = files.read_json(file)
    files.only(file, values, {"langevin", "kind", "null_label", "data"})
    null, data = values["null_label"], values["data"]
    if values["langevin"] != 1 or values["kind"] != "diffusers" or not (null is None or type(null) is int):
        raise UserError(f"{file}: not a description this version of langevin reads")
    if data is None:
        return null, None
    moments: dict[str, torch.Tensor] = {}
    if (folder / OWN_MOMENTS).is_file():
        moments = files.read_safetensors(folder / OWN_MOMENTS)
    return null, DataInfo.from_dict(data, moments)
