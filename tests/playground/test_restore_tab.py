"""The tab of restoration: what is known stays, samples are the library's, files that are none are refused."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import langevin
from captioned import captioned
from langevin import UserError
from langevin.denoisers import NetworkDenoiser
from langevin.playground.jobs import Job
from langevin.playground.restore import LARGEST, TASKS, Restorations, is_of_pictures
from unpacking import unpacked

MODEL = captioned("unet", torch.float32)
TAB = Restorations({"small": MODEL})
PIXELS = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
HOLE = torch.zeros(8, 8, dtype=torch.uint8)
HOLE[2:6, 3:7] = 1


def packed(x: Tensor) -> dict[str, Any]:
    return {"shape": list(x.shape), "kind": "uint8", "data": base64.b64encode(x.numpy().tobytes()).decode()}


def asked(**arguments: Any) -> dict[str, Any]:
    plain = {"image": packed(PIXELS), "mask": base64.b64encode(HOLE.numpy().tobytes()).decode(), "steps": 6, "n": 2}
    return TAB.run(Job({**plain, **arguments}, lambda message: None))


def uploaded(content: bytes) -> Tensor:
    file = base64.b64encode(content).decode()
    return unpacked(TAB.picture(Job({"file": file}, lambda message: None))["image"])


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_what_is_known_stays_and_the_samples_are_the_librarys() -> None:
    found = asked()
    samples, known = unpacked(found["samples"]), HOLE == 0
    assert samples.shape == (2, 3, 8, 8)
    assert bool((samples[:, :, known] == PIXELS[:, known]).all())
    x = PIXELS.float() / 255 * 2 - 1
    operator = langevin.operators.Inpaint(known)
    truth = langevin.restore(MODEL, operator, operator(x[None]), 0.0, n=2, steps=6)
    assert int((samples.int() - ((truth + 1) * 127.5).round().clamp(0, 255).int()).abs().max()) <= 1
    assert found["largest_spread"] == pytest.approx(float(truth.std(0).mean(0).max()), rel=1e-4)
    mean = langevin.metrics.psnr(truth.mean(0, keepdim=True).clamp(-1, 1), x[None])
    assert found["psnr"] == pytest.approx(float(mean), rel=1e-4)


def test_an_edit_changes_what_is_painted_alone() -> None:
    found = asked(task="edit", strength=3.0, caption="a cat", scale=2.0)
    samples = unpacked(found["samples"])
    assert bool((samples[:, :, HOLE == 0] == PIXELS[:, HOLE == 0]).all())
    assert bool((samples[:, :, HOLE == 1] != PIXELS[:, HOLE == 1]).any())
    assert found["psnr"] is None
    assert found["command"].startswith("langevin edit picture.png --model small --mask mask.png --strength 3 ")
    everything = base64.b64encode(bytes([1] * 64)).decode()
    assert asked(task="edit", mask=everything)["samples"]["shape"] == [2, 3, 8, 8]


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("inpaint", "edit")])
def test_every_task(task: str) -> None:
    found = asked(task=task, n=1)
    assert found["samples"]["shape"] == [1, 3, 8, 8]
    assert found["largest_spread"] == 0
    smaller = {"super-resolution=2": [3, 4, 4], "super-resolution=4": [3, 2, 2], "colourise": [1, 8, 8]}
    assert f"--task {task} --simulate -n 1" in found["command"]
    assert found["before"]["shape"] == smaller.get(task, [3, 8, 8])


def test_models_that_are_offered() -> None:
    (about,) = TAB.choices()["models"]
    assert about["tasks"] == TASKS
    assert is_of_pictures(MODEL)
    assert not is_of_pictures(captioned("unet", torch.float32, image=3))


def test_a_picture_of_the_size_comes_as_it_is() -> None:
    pixels = PIXELS.permute(1, 2, 0).numpy()
    assert torch.equal(uploaded(png(pixels)), PIXELS)
    assert uploaded(png(np.zeros((40, 90), np.uint8))).shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"", "cannot be read as a picture"),
        (b"not a picture at all", "cannot be read as a picture"),
        (png(np.zeros((9, 9), np.uint8))[:45], "cannot be read as a picture"),
        (b"x" * (LARGEST + 1000), "file must be at most 32 MiB"),
    ],
)
def test_files_that_are_none(file: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        uploaded(file)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "inpiant"}, "Did you mean 'inpaint'"),
        ({"image": None}, "load or choose a picture first"),
        ({"image": {"shape": [3, 8, 8], "data": "AAAA"}}, "image must be 192 bytes, got 3"),
        ({"image": {"shape": [3, 8, 8], "data": "?"}}, "image must be base64"),
        ({"mask": None}, "mask must be base64"),
        ({"mask": "AAAA"}, "mask must be 64 bytes, got 3"),
        ({"mask": base64.b64encode(bytes(64)).decode()}, "paint over something first"),
        ({"mask": base64.b64encode(bytes([1] * 64)).decode()}, "everything is painted over"),
        ({"n": 17}, "n must be in 1…16"),
        ({"steps": 0}, "steps must be in 1…500"),
        ({"task": "edit", "strength": 1e6}, "strength must be in"),
        ({"label": 1}, "label"),
    ],
)
def test_bad_requests(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        asked(**arguments)


def test_a_model_without_data() -> None:
    bare: NetworkDenoiser = captioned("unet", torch.float32)
    with pytest.raises(UserError, match="upload a picture"):
        Restorations({"bare": bare}).picture(Job({}, lambda message: None))
