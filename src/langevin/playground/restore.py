"""The tab *Restore*: what a hole or a damaged picture may have been, and a picture changed where it is painted."""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import data, training
from .._errors import UserError, shown
from ..data.images import Refused, decode
from ..metrics import psnr
from ..operators import Inpaint, Operator, create_operator, measure
from ..tasks.edit import edit
from ..tasks.restore import restore
from .generate import chosen, conditions
from .jobs import Job
from .messages import choice, number, packed, whole

if TYPE_CHECKING:
    from ..denoisers import NetworkDenoiser

TASKS = {
    "inpaint": "Fill what is painted over",
    "edit": "Change what is painted over",
    "super-resolution=2": "Shrink to half, then enlarge",
    "super-resolution=4": "Shrink to a quarter, then enlarge",
    "blur=1.5": "Blur, then sharpen",
    "colourise": "Make grey, then colour",
    "jpeg=10": "Compress (JPEG, quality 10), then repair",
    "random=0.3": "Hide seven pixels in ten, then fill",
    "uncrop=0.5": "Hide the border, then fill",
}
"""What can be done, by the name of the operator, with what it is called."""

EXACT = ("inpaint", "random=0.3", "uncrop=0.5")
"""Tasks in which pixels are known without noise."""

STD = 0.02
"""Standard deviation of the noise of the others, in units of the data, which lie in [−1, 1]."""

LARGEST = 32 * 2**20
"""Bytes of a picture's file at most."""

HELD_OUT = 200
"""Held-out pictures that are offered."""

MOST, STEPS = 16, 500
"""Samples and steps at most."""


class Restorations:
    """Restoration and editing with the models that a playground was started with.

    Args:
        models: by name.
    """

    def __init__(self, models: Mapping[str, NetworkDenoiser]) -> None:
        self.models = models

    def choices(self) -> dict[str, Any]:
        """What the tab offers: the models of grey and colour pictures, and what can be done with each."""
        found = []
        for name, model in self.models.items():
            if is_of_pictures(model):
                tasks = {key: text for key, text in TASKS.items() if _fits(key, tuple(model.output_shape))}
                found.append({"name": name, "tasks": tasks})
        return {"models": found, "most": {"n": MOST, "steps": STEPS, "bytes": LARGEST}}

    def picture(self, job: Job) -> dict[str, Any]:
        """A picture of the model's size: an uploaded one, or a held-out one of its data."""
        _, model = self._model(job)
        channels, height, width = model.output_shape
        if (file := job.arguments.get("file")) is not None:
            return {"image": packed(_uploaded(file, channels, height, width))}
        held = _held_out(model)
        index = whole(job.arguments, "index", 0, 0, 2**31) % len(held)
        low, high = training.value_range(model.output)
        return {"image": packed(training.as_bytes(held[index], low, high)), "index": index}

    def run(self, job: Job) -> dict[str, Any]:
        """Damage a picture, and draw what it may have been; or change it where it is painted."""
        name, model = self._model(job)
        shape = tuple(model.output_shape)
        task = choice(job.arguments, "task", "inpaint", [key for key in TASKS if _fits(key, shape)])
        low, high = training.value_range(model.output)
        x = picture_of(job.arguments.get("image"), shape).float() / 255 * (high - low) + low
        painted = _mask(job.arguments.get("mask"), shape, task == "inpaint") if task in ("inpaint", "edit") else None
        told = conditions(job.arguments, model)
        n = whole(job.arguments, "n", 4, 1, MOST)
        steps = whole(job.arguments, "steps", 20, 1, STEPS)
        seed = whole(job.arguments, "seed", 0, 0, 2**53 - 1)
        how: dict[str, Any] = {"n": n, "steps": steps, "seed": seed, "progress": job.progress}
        found = None
        if task == "edit":
            assert painted is not None
            how |= {"strength": number(job.arguments, "strength", 2.0, 0.01, 80.0)}
            how |= {"guidance_scale": number(job.arguments, "scale", 1.0, 0.0, 50.0)}
            before, made = torch.where(painted, low, x), edit(model, x, mask=painted, **how, **told)
        else:
            operator: Operator = Inpaint(~painted) if painted is not None else create_operator(task, shape, seed=seed)
            std = 0.0 if task in EXACT else STD
            y = measure(operator, x[None], std, seed).y
            before, made = y[0], restore(model.given(told) if told else model, operator, y, std, **how)
            found = float(psnr(made.mean(0, keepdim=True).clamp(low, high), x[None], low=low, high=high))
        job.check()
        spread = made.std(0).mean(0, keepdim=True) if len(made) > 1 else torch.zeros(1, *shape[1:])
        return {
            "before": packed(training.as_bytes(before, low, high)),
            "samples": packed(training.as_bytes(made, low, high)),
            "mean": packed(training.as_bytes(made.mean(0), low, high)),
            "spread": packed(training.as_bytes(spread, 0.0, max(float(spread.max()), 1e-6))),
            "largest_spread": float(spread.max()),
            "psnr": found,
            "command": command(name, task, n, steps, seed, how, told, model, job.arguments.get("caption")),
        }

    def _model(self, job: Job) -> tuple[str, NetworkDenoiser]:
        name, model = chosen(job.arguments, self.models)
        if not is_of_pictures(model):
            raise UserError(f"model {name} must be one of grey or colour pictures")
        return name, model


def is_of_pictures(model: NetworkDenoiser) -> bool:
    """Whether a model draws grey or colour pictures in one stage, given nothing that must be a picture itself."""
    shape = tuple(model.output_shape)
    told = {"image", "mask"} & set(model.condition_sizes)
    return len(model.stages) == 1 and len(shape) == 3 and shape[0] in (1, 3) and not told and _is_real(model)


def command(
    name: str,
    task: str,
    n: int,
    steps: int,
    seed: int,
    how: Mapping[str, Any],
    told: Mapping[str, Any],
    model: NetworkDenoiser,
    caption: str | None,
) -> str:
    """The command that does the same to ``picture.png``, with ``mask.png``, both of which the page saves."""
    words = ["langevin", "edit" if task == "edit" else "restore", "picture.png", "--model", name]
    words += ["--mask", "mask.png"] if task in ("inpaint", "edit") else []
    if task == "edit":
        words += ["--strength", f"{how['strength']:g}", "--guidance-scale", f"{how['guidance_scale']:g}"]
    else:
        words += ["--task", task, *(["--simulate"] if task != "inpaint" else [])]
    words += ["-n", str(n), "--steps", str(steps), "--seed", str(seed)]
    words += [] if "label" not in told else ["--label", model.class_names[told["label"]]]
    return shlex.join(words + ([] if caption is None else ["--given", f"caption={caption}"]))


def _is_real(model: NetworkDenoiser) -> bool:
    return model.output is None or not model.output.tokens


def _fits(task: str, shape: tuple[int, ...]) -> bool:
    """Whether a task can be set to pictures of a shape."""
    if task in ("inpaint", "edit"):
        return True
    try:
        create_operator(task, shape).measured(shape)
    except UserError:
        return False
    return True


def _decoded(text: object, name: str, most: int) -> bytes:
    """Base64 of a request as bytes."""
    if not isinstance(text, str):
        raise UserError(f"{name} must be base64 of bytes, got {shown(text)}")
    if len(text) > 4 * most // 3 + 4:
        raise UserError(f"{name} must be at most {most // 2**20} MiB")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise UserError(f"{name} must be base64 of bytes") from None


def _uploaded(file: object, channels: int, height: int, width: int) -> Tensor:
    """A picture's file at a model's size, uint8 ``(C, H, W)``: its central square."""
    try:
        pixels = decode(_decoded(file, "file", LARGEST), min(height, width), channels, False)
    except Refused as error:
        raise UserError(f"file cannot be read as a picture: {error}") from None
    found = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    if found.shape[1:] != (height, width):
        found = torch.nn.functional.interpolate(found[None].float(), (height, width), mode="area")[0].round().byte()
    return found.contiguous()


def picture_of(array: object, shape: tuple[int, ...]) -> Tensor:
    """A picture of a request, uint8 ``(C, H, W)``."""
    if not isinstance(array, Mapping) or array.get("shape") != list(shape):
        raise UserError(f"image must be pixels of shape {list(shape)}: load or choose a picture first")
    held = _decoded(array.get("data"), "image", LARGEST)
    count = shape[0] * shape[1] * shape[2]
    if len(held) != count:
        raise UserError(f"image must be {count} bytes, got {len(held)}")
    return torch.frombuffer(bytearray(held), dtype=torch.uint8).reshape(shape)


def _mask(text: object, shape: tuple[int, ...], known: bool) -> Tensor:
    """Where a picture is painted over, bool ``(H, W)``: somewhere, and not everywhere if some must be ``known``."""
    held = _decoded(text, "mask", LARGEST)
    if len(held) != shape[1] * shape[2]:
        raise UserError(f"mask must be {shape[1] * shape[2]} bytes, got {len(held)}")
    found = torch.frombuffer(bytearray(held), dtype=torch.uint8).reshape(shape[1:]) > 0
    if not bool(found.any()):
        raise UserError("paint over something first: what is painted is made anew")
    if known and bool(found.all()):
        raise UserError("everything is painted over: nothing is known to go by")
    return found


@lru_cache(4)
def _held_out(model: NetworkDenoiser) -> Tensor:
    """Held-out pictures of a model's data."""
    source = None if model.output is None else model.output.source
    if not source:
        raise UserError("this model does not say which data it is of: upload a picture")
    held = data.load(**{**source, "limit": min(source.get("limit") or HELD_OUT, HELD_OUT)}).test
    return held.plain(torch.arange(len(held)))["x"]
