"""The tab *Likelihood*: what a picture costs under a model, level by level, and how it comes out of its code."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import training
from .._errors import UserError
from ..likelihood import exact
from ..processes import ScalarGaussian
from ..tasks.compress import Levels, RateDistortion, compress, rate_distortion
from ..tasks.compress.chain import checked
from ..tasks.compress.pixels import coder
from .generate import chosen
from .jobs import Job
from .messages import packed, whole
from .restore import LARGEST, is_of_pictures, picture_of

if TYPE_CHECKING:
    from ..denoisers import NetworkDenoiser

EVALUATIONS = 60
"""Of the exact likelihood at most."""


class Codes:
    """Likelihoods and codes under the models that a playground was started with.

    Args:
        models: by name.
    """

    def __init__(self, models: Mapping[str, NetworkDenoiser]) -> None:
        self.models = models

    def choices(self) -> dict[str, Any]:
        """What the tab offers: the models of pictures with levels, on scalar Gaussian noise."""
        return {
            "models": [{"name": name} for name, model in self.models.items() if can_code(model)],
            "most": {"bytes": LARGEST},
        }

    def run(self, job: Job) -> dict[str, Any]:
        """What a picture costs at each noise level (the event ``curve``), then its likelihood and its files."""
        name, model = chosen(job.arguments, self.models)
        if not can_code(model):
            raise UserError(f"model {name} must be one of pictures with levels, on scalar Gaussian noise")
        seed = whole(job.arguments, "seed", 0, 0, 2**31 - 1)
        levels = Levels.of(checked(model))
        at = levels.nearest(_values(job.arguments.get("image"), model, levels))[None]
        x0 = levels.values(at)
        with torch.no_grad():
            curve = rate_distortion(model, x0, seed=seed, progress=job.progress)
        job.check()
        assert isinstance(model.process, ScalarGaussian)
        process, dim = model.process, x0.numel()
        sigma = process.sigma(curve.times) / process.alpha(curve.times)
        low, high = levels.low, levels.high
        best = int(curve.total[:, 0].argmin())
        job.send(
            "curve",
            sigma=sigma.tolist(),
            bits=(curve.bits[:, 0] / dim).tolist(),
            density=density(curve, sigma),
            psnr=psnr(curve, levels).tolist(),
            best=best,
            bound=float(curve.total[best, 0]) / dim,
            levels_bits=float(curve.residual[best, 0]) / dim,
            dim=dim,
            picture=packed(training.as_bytes(x0[0], low, high)),
            estimates=packed(training.as_bytes(curve.estimates[:, 0].clamp(low, high), low, high)),
            raw=dim,
        )
        found = exact(
            model, x0.float(), dequantise="uniform", evaluations=EVALUATIONS, seed=seed, progress=job.progress
        )
        job.check()
        return {
            "exact": float(found.bits_per_dim[0]),
            "files": files(model, at, x0, levels, seed, job),
            "command": shlex.join(["langevin", "compress", "picture.png", "-o", "picture.lng", "--model", name]),
            "python": python(name, seed),
        }


def can_code(model: NetworkDenoiser) -> bool:
    """Whether a model is of grey or colour pictures with levels, on scalar Gaussian noise."""
    if not is_of_pictures(model):
        return False
    try:
        checked(model)
    except UserError:
        return False
    return True


def density(curve: RateDistortion, sigma: Tensor) -> list[float]:
    """Bits a coordinate for each halving of the noise level, on the way to each time but the first."""
    halvings = (sigma[:-1] / sigma[1:]).log2()
    found: list[float] = (curve.bits[:, 0].diff() / halvings / curve.estimates[0, 0].numel()).tolist()
    return found


def psnr(curve: RateDistortion, levels: Levels) -> Tensor:
    """PSNR of x̂_0 in dB at each time."""
    return 10 * torch.log10(levels.span**2 / curve.error[:, 0].clamp_min(1e-12))


def files(model: NetworkDenoiser, at: Tensor, x0: Tensor, levels: Levels, seed: int, job: Job) -> list[dict[str, Any]]:
    """Sizes of files that hold the picture exactly, in bytes: ours, and those of PNG and WebP."""
    found: list[dict[str, Any]] = []
    try:
        coder()
        made = compress(model, at, seed=seed, progress=job.progress)
        found.append({"name": "langevin compress", "bytes": len(made.content), "payload": made.payload})
    except UserError as error:
        found.append({"name": "langevin compress", "missing": str(error)})
    image = training.as_bytes(x0[0], levels.low, levels.high).movedim(0, -1).squeeze(-1).numpy()
    for kind, options in (("PNG", {"optimize": True}), ("WebP", {"lossless": True, "quality": 100, "method": 6})):
        job.check()
        found.append({"name": f"{kind}, exact", "bytes": len(_written(image, kind, options))})
    return found


def _written(pixels: Any, kind: str, options: Mapping[str, Any]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def _values(array: object, model: NetworkDenoiser, levels: Levels) -> Tensor:
    """A picture of a request in units of the model, float64."""
    return picture_of(array, tuple(model.shape)).double() / 255 * levels.span + levels.low


def python(name: str, seed: int) -> str:
    """The lines that find the same."""
    return "\n".join(
        [
            "import langevin",
            "from langevin.tasks.compress import Levels, images, rate_distortion",
            "",
            f'model = langevin.load("{name}")',
            'levels, _ = images.read("picture.png", model.data, exact=False)',
            "x = Levels.of(model.data).values(levels)",
            f"print(rate_distortion(model, x, seed={seed}))",
            f'print(langevin.likelihood.exact(model, x.float(), dequantise="uniform", evaluations={EVALUATIONS}, '
            f"seed={seed}))",
        ]
    )
