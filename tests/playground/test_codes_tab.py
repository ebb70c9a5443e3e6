"""The tab Likelihood: its figures are the library's, its lines of Python find them, its files hold the picture."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import langevin
from langevin import UserError, training
from langevin.cli.entry import main
from langevin.denoisers import NetworkDenoiser
from langevin.likelihood import exact
from langevin.playground import codes
from langevin.playground.jobs import Cancelled, Job
from langevin.tasks.compress import Levels, rate_distortion
from unpacking import unpacked


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, NetworkDenoiser]:
    folder = tmp_path_factory.mktemp("codes") / "digits"
    words = (
        "train digits --steps 20 --batch 32 --network.name unet --network.options width 8 multipliers [1] blocks [1]"
    )
    assert main([*words.split(), "attention", "[]", "--out", str(folder)]) == 0
    return str(folder), langevin.load(str(folder))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    """A held-out digit, as the page has it."""
    held = langevin.data.load("digits").test.plain(torch.tensor([7]))["x"][0]
    return training.as_bytes(held, -1.0, 1.0)


def packed(x: Tensor) -> dict[str, Any]:
    return {"shape": list(x.shape), "kind": "uint8", "data": base64.b64encode(x.numpy().tobytes()).decode()}


def asked(model: tuple[str, NetworkDenoiser], pixels: Tensor, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    said: list[dict[str, Any]] = []
    name, loaded = model
    arguments = {"model": name, "image": packed(pixels), **more}
    result = codes.Codes({name: loaded}).run(Job(arguments, said.append))
    (curve,) = [message for message in said if message["event"] == "curve"]
    return curve, dict(result)


def test_the_figures_are_the_library_s(model: tuple[str, NetworkDenoiser], pixels: Tensor) -> None:
    curve, found = asked(model, pixels, seed=3)
    _, loaded = model
    levels = Levels.of(loaded.data)
    x = levels.values(levels.nearest(pixels[None].double() / 255 * 2 - 1))
    want = rate_distortion(loaded, x, seed=3)
    assert curve["bits"] == pytest.approx((want.bits[:, 0] / 64).tolist())
    assert curve["psnr"] == pytest.approx(want.psnr.tolist())
    assert curve["bound"] == pytest.approx(float(want.total.min()) / 64)
    assert curve["bound"] - curve["levels_bits"] == pytest.approx(curve["bits"][curve["best"]])
    flow = exact(loaded, x.float(), dequantise="uniform", evaluations=codes.EVALUATIONS, seed=3)
    assert found["exact"] == pytest.approx(float(flow.bits_per_dim[0]))
    assert torch.equal(unpacked(curve["picture"]), pixels)
    assert unpacked(curve["estimates"]).shape == (len(want.times), 1, 8, 8)
    # At the end the noise is a twentieth of a level: the receiver has the picture.
    last = unpacked(curve["estimates"])[-1].double() / 255 * 2 - 1
    assert torch.equal(levels.nearest(last), levels.nearest(x[0]))


def test_bits_by_halvings_add_up(model: tuple[str, NetworkDenoiser], pixels: Tensor) -> None:
    """Their sum over the steps, each so many halvings long, is what is sent after the first state."""
    curve, _ = asked(model, pixels)
    sigma = torch.tensor(curve["sigma"], dtype=torch.float64)
    total = (torch.tensor(curve["density"], dtype=torch.float64) * (sigma[:-1] / sigma[1:]).log2()).sum()
    assert float(total) == pytest.approx(curve["bits"][-1] - curve["bits"][0])


def test_the_files_hold_the_picture(model: tuple[str, NetworkDenoiser], pixels: Tensor, tmp_path: Path) -> None:
    """Ours by the command that is printed, which makes as many bytes; PNG and WebP by what Pillow reads back."""
    pytest.importorskip("constriction")
    _, found = asked(model, pixels)
    sizes = {file["name"]: file["bytes"] for file in found["files"]}
    assert list(sizes) == ["langevin compress", "PNG, exact", "WebP, exact"]
    Image.fromarray(pixels[0].numpy()).save(tmp_path / "picture.png")
    words = [word.replace("picture", f"{tmp_path}/picture") for word in shlex.split(found["command"])]
    assert main(words[1:]) == 0
    assert main(["decompress", f"{tmp_path}/picture.lng", "-o", str(tmp_path / "out"), "--model", model[0]]) == 0
    (out,) = (tmp_path / "out").glob("*.png")
    assert np.array_equal(np.asarray(Image.open(out)), pixels[0].numpy())
    # The command's file holds the picture's name and size too.
    assert 0 < (tmp_path / "picture.lng").stat().st_size - sizes["langevin compress"] < 40
    for kind in ("PNG", "WebP"):
        options = {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100, "method": 6}}[kind]
        Image.fromarray(pixels[0].numpy()).save(tmp_path / f"plain.{kind}", kind, **options)
        assert (tmp_path / f"plain.{kind}").stat().st_size == sizes[f"{kind}, exact"]
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"plain.{kind}").convert("L")), pixels[0].numpy())


def test_the_lines_of_python_find_the_same(
    model: tuple[str, NetworkDenoiser],
    pixels: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    curve, found = asked(model, pixels)
    Image.fromarray(pixels[0].numpy()).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    exec(found["python"], {})
    said = capsys.readouterr().out
    assert f"{curve['bits'][-1]:9.4f}" in said
    assert f"{found['exact']:.4f}" in said


def test_without_the_coder_the_rest_is_there(
    model: tuple[str, NetworkDenoiser], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise UserError("exact files need constriction: pip install 'langevin[compress]'")

    monkeypatch.setattr(codes, "coder", missing)
    _, found = asked(model, pixels)
    assert found["files"][0] == {"name": "langevin compress", "missing": str(missing.__code__.co_consts[1])}
    assert [file["name"] for file in found["files"][1:]] == ["PNG, exact", "WebP, exact"]


def test_models_that_cannot_code_are_not_offered(model: tuple[str, NetworkDenoiser], tmp_path: Path) -> None:
    words = "train moons --steps 2 --batch 8 --network.name mlp --network.options width 8 depth 1 --out"
    assert main([*words.split(), str(tmp_path / "moons")]) == 0
    tab = codes.Codes({"moons": langevin.load(str(tmp_path / "moons")), model[0]: model[1]})
    assert [each["name"] for each in tab.choices()["models"]] == [model[0]]
    with pytest.raises(UserError, match="model moons must be one of pictures with levels"):
        tab.run(Job({"model": "moons"}, lambda message: None))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"image": None}, "load or choose a picture first"), ({"seed": -1}, "seed must be in 0…2147483647")],
)
def test_what_is_refused(
    model: tuple[str, NetworkDenoiser], pixels: Tensor, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        asked(model, pixels, **arguments)


def test_it_ends_when_nobody_waits(model: tuple[str, NetworkDenoiser], pixels: Tensor) -> None:
    name, loaded = model
    job = Job({"model": name, "image": packed(pixels)}, lambda message: job.cancel())
    with pytest.raises(Cancelled):
        codes.Codes({name: loaded}).run(job)
