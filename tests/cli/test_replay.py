"""``langevin replay``: the same bytes from what a picture says, and what differs where they cannot be had."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import langevin
from langevin import models
from langevin._errors import UserError
from langevin.cli import edit, main, purify, restore, sample
from langevin.cli.parse import parse
from langevin.cli.words import words_of
from langevin.generate import Provenance
from langevin.storage import png


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of 8×8 pictures with labels, untrained, and a picture and a mask."""
    root = tmp_path_factory.mktemp("replay")
    data = langevin.data.load("digits").info
    torch.manual_seed(0)
    network = langevin.nn.UNet(
        1, size=(8, 8), width=8, multipliers=(1,), blocks=1, attention=(), conditions={"label": 10}
    )
    parameterization = langevin.denoisers.AffineParameterization("edm")
    model = langevin.denoisers.NetworkDenoiser(
        network.eval(), langevin.processes.Cosine(), parameterization, (1, 8, 8), data=data
    )
    models.save(model, root / "model")
    rows = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    Image.fromarray(rows).save(root / "photo.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:6] = 255
    Image.fromarray(mask).save(root / "mask.png")
    return root


def drawn_again(file: Path, *words: str) -> tuple[int, dict[str, object]]:
    out = file.parents[1] / "again"
    code = main(["replay", str(file), "--out", str(out), *words])
    return code, json.loads((out / f"{file.stem}.json").read_text())


def test_a_sample_comes_back_from_its_own_batch(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample 5 of 8 in batches of 3: the same bytes, with the two others of its batch; alone the same to a level."""
    monkeypatch.chdir(place)
    command = "sample model -n 8 --batch 3 --steps 3 --images --out s --seed 7 --sampler ddpm"
    assert main(command.split()) == 0
    file = place / "s/images/00005-5.png"
    code, found = drawn_again(file)
    assert code == 0
    assert found["same_bytes"] is True
    assert (place / "s/again/00005-5.png").read_bytes() == file.read_bytes()
    assert Provenance.of(file).index == 5
    # Alone the network adds in another order: rounding of float32, which can turn a pixel by one of 255 levels.
    code, found = drawn_again(file, "--alone")
    assert found["same_pixels"] or found["largest_difference"] == 1
    assert drawn_again(place / "s/grid.png")[1]["same_bytes"] is True


@pytest.mark.parametrize(
    "words",
    [
        "edit photo.png --strength 1.0 --mask mask.png --label 3 --steps 4 -n 2",
        "restore photo.png --task inpaint --mask mask.png --steps 4 -n 2",
        "purify photo.png --steps 4",
    ],
    ids=["edit", "restore", "purify"],
)
def test_pictures_of_other_commands_come_back(place: Path, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results, the pictures about them and the strip, with the files they were made of."""
    monkeypatch.chdir(place)
    name = words.split()[0]
    assert main([*words.split(), "--model", "model", "--out", f"{name}/out"]) == 0
    files = sorted((place / name / "out").glob("*.png"))
    assert len(files) > 1
    if "mask" in words:  # a mask that has moved is found where it is said to be
        os.rename("mask.png", "elsewhere.png")
        assert main(["replay", str(files[0]), "--out", str(place / "again")]) == 2
        assert main(["replay", str(files[0]), "--out", str(place / "again"), "--moved", "mask.png=elsewhere.png"]) == 0
        os.rename("elsewhere.png", "mask.png")
    for file in files:
        assert drawn_again(file)[1]["same_bytes"] is True, file
    said = Provenance.of(files[0])
    assert set(said.inputs) == {"photo.png"} | ({"mask.png"} if "mask" in words else set())


def test_samples_of_a_diffusers_pipeline_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """What `sample` takes, replay takes; a picture of another version of diffusers is told from this one's."""
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = diffusers.UNet2DModel(sample_size=8, norm_num_groups=4, block_out_channels=(8, 8), **blocks)
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained("pipeline")
    assert main(["sample", "pipeline", "-n", "2", "--steps", "2", "--images", "--out", "s"]) == 0
    file = tmp_path / "s/images/00001.png"
    assert drawn_again(file)[1]["same_bytes"] is True
    said = json.loads(str(png.text_of(file, "langevin")))
    assert said["versions"]["diffusers"] == diffusers.__version__
    said["versions"] |= {"diffusers": "0.1"}
    file.write_bytes(png.with_text(file.read_bytes(), "langevin", json.dumps(said)))
    capsys.readouterr()
    code, found = drawn_again(file)
    assert (code, found["same_bytes"], found["versions"]) == (0, False, {"diffusers": ["0.1", diffusers.__version__]})
    assert f"the same pixels (diffusers 0.1 then, {diffusers.__version__} now)" in capsys.readouterr().out


def test_versions_of_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What every model needs is a dash; what models of others need is not named."""
    from langevin.generate import environment

    def nothing(package: str) -> str:
        raise environment.metadata.PackageNotFoundError(package)

    assert set(environment.PACKAGES) <= environment._versions.__wrapped__().keys()
    monkeypatch.setattr(environment.metadata, "version", nothing)
    found = environment._versions.__wrapped__()
    assert found.keys() == {"langevin", "python", *environment.PACKAGES}
    assert {found[package] for package in environment.PACKAGES} == {"-"}


def test_a_picture_says_what_was_chosen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed, sampler, grid, steps and the sample's own class, though none of them was asked for."""
    monkeypatch.chdir(place)
    assert main(["sample", "model", "-n", "3", "--images", "--out", "chosen"]) == 0
    said = Provenance.of(place / "chosen/images/00002-2.png").settings
    assert said["label"] == "2"
    assert (said["seed"], said["sampler"], said["grid"], said["n"]) == (0, "default", "default", 3)
    assert said["steps"] == json.loads((place / "chosen/sample.json").read_text())["steps"]
    assert Provenance.of(place / "chosen/grid.png").settings["label"] == "in turn"
    command = ["restore", "photo.png", "--model", "model", "--task", "inpaint", "--mask", "mask.png"]
    assert main([*command, "--steps", "3", "-n", "1", "--out", "r"]) == 0
    said = Provenance.of(place / "r/photo.png").settings
    assert (said["task"], said["steps"], said["method"], said["std"]) == ("inpaint", 3, "pigdm", 0.0)


def test_without_metadata_nothing_is_said(place: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The same pixels, and a file that is told to say nothing."""
    monkeypatch.chdir(place)
    for out, more in (("a", []), ("b", ["--no-metadata"])):
        assert main(["sample", "model", "-n", "2", "--steps", "2", "--out", out, *more]) == 0
    assert png.text_of("b/grid.png", "langevin") is None
    assert np.array_equal(np.array(Image.open("a/grid.png")), np.array(Image.open("b/grid.png")))
    assert main(["replay", "b/grid.png"]) == 2
    assert "does not say how it was made" in capsys.readouterr().err


def test_what_differs_is_said(place: Path, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    """Another model or input is refused before any work; changed pixels and other versions are told."""
    monkeypatch.chdir(place)
    assert main(["edit", "photo.png", "--model", "model", "--strength", "1", "--steps", "3", "--out", "e"]) == 0
    assert main(["replay", "e/photo.png", "--model", "model", "--out", str(tmp_path)]) == 0
    picture = Image.open("e/photo.png")
    pixels = np.array(picture)
    pixels[0, 0] ^= 64
    said = png.text_of("e/photo.png", "langevin")
    Image.fromarray(pixels).save(tmp_path / "changed.png")
    content = png.with_text((tmp_path / "changed.png").read_bytes(), "langevin", str(said).replace("2.13", "2.12"))
    (tmp_path / "changed.png").write_bytes(content)
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "changed.png"), "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "1 pixels differ, by at most 64 of 255 levels" in told
    assert "have been changed since it was written" in told
    assert ("torch 2.12" in told) == ("2.13" in str(said))
    # The picture it was made of is another now; where it lies now can be said.
    os.rename("photo.png", tmp_path / "photo.png")
    assert main(["replay", "e/photo.png", "--out", str(tmp_path)]) == 2
    assert "--moved photo.png=NEW says where it is" in capsys.readouterr().err
    assert (
        main(["replay", "e/photo.png", "--out", str(tmp_path), "--moved", f"photo.png={tmp_path / 'photo.png'}"]) == 0
    )
    assert (
        main(["replay", "e/photo.png", "--out", str(tmp_path), "--moved", f"other.png={tmp_path / 'photo.png'}"]) == 2
    )
    assert main(["replay", "e/photo.png", "--out", str(tmp_path), "--model", "nowhere"]) == 2
    assert "--model says where the model is now" in capsys.readouterr().err
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("photo.png")
    capsys.readouterr()
    assert main(["replay", "e/photo.png", "--out", str(tmp_path)]) == 2
    assert "photo.png is another file than made the picture" in capsys.readouterr().err
    os.replace(tmp_path / "photo.png", "photo.png")
    other = models.load(place / "model")
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    models.save(other, tmp_path / "other")
    assert main(["replay", "e/photo.png", "--out", str(tmp_path), "--model", str(tmp_path / "other")]) == 2
    assert "is another one than made the picture" in capsys.readouterr().err


def test_the_nearest_example_and_bits(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest training scan of a training scan is itself; its bits are those of the library."""
    monkeypatch.chdir(place)
    assert main(["sample", "model", "-n", "2", "--steps", "2", "--images", "--out", "n"]) == 0
    file = place / "n/images/00001-1.png"
    dataset = langevin.data.load("digits")
    x = dataset.train.batch(torch.tensor([11]))["x"]
    pixels = ((x[0, 0] + 1) * 127.5).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file.with_name("scan.png"))
    told = png.with_text(file.with_name("scan.png").read_bytes(), "langevin", str(png.text_of(file, "langevin")))
    file.write_bytes(told)
    _, found = drawn_again(file, "--nearest", "--bits")
    assert found["nearest_index"] == 11
    # 8 bits hold a scan's 17 levels to half of 1/127.5 a pixel.
    assert found["nearest_distance"] < 0.5 / 127.5
    model = models.load(place / "model")
    exactly = langevin.likelihood.exact(model, x, dequantise="normal")
    assert found["bits_per_dimension"] == pytest.approx(float(exactly.bits_per_dim), rel=1e-5)
    assert (place / "n/again/00001-1-nearest.png").is_file()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (sample, "m -n 3 --label 7 --given a=b --given c=d --sampler ddim --sampler-options eta 0.5 --images --seed 3"),
        (sample, "m --guidance-scale -1.5 --steps 3"),
        (edit, "in.png --model m --strength 2 --mask k.png --method blend --method-options repeats 3 --source-label 1"),
        (restore, "in --model m --task super-resolution=2 --std 0.1 --simulate --method-options inner 3 eta 0.1"),
        (purify, "in --model m --sampler ddim"),
    ],
)
def test_words_are_read_back(command, words: str) -> None:
    options = parse("langevin", command.Options, words.split())
    assert parse("langevin", command.Options, words_of(options)) == options


def test_a_text_in_a_png(tmp_path: Path) -> None:
    """Any characters come back, a second text takes the place of the first, and the pixels stay; damage is said."""
    file = tmp_path / "a.png"
    Image.new("RGB", (3, 2), (1, 2, 3)).save(file)
    text = 'σ/α, \u4e2d\u6587, "quotes"'
    once = png.with_text(file.read_bytes(), "langevin", text)
    assert png.with_text(once, "langevin", text) == once
    file.write_bytes(png.with_text(once, "langevin", "other"))
    assert png.text_of(file, "langevin") == "other"
    assert Image.open(file).text["langevin"] == "other"
    file.write_bytes(once)
    assert png.text_of(file, "langevin") == text
    assert png.text_of(file, "other") is None
    assert Image.open(file).getpixel((2, 1)) == (1, 2, 3)
    file.write_bytes(once[:-20])
    with pytest.raises(UserError, match="cut off or damaged"):
        png.text_of(file, "other")
    file.write_bytes(b"GIF89a")
    with pytest.raises(UserError, match="is no PNG file"):
        png.text_of(file, "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "train"}, "pictures of 'train' cannot be replayed"),
        ({"langevin": 99}, "another version of langevin"),
        ({"words": ["--help"]}, "which ask for help"),
        ({"words": ["model", "--nonsense"]}, "unknown option '--nonsense'"),
        ({"index": 50}, "which cannot be"),
        ({"file": "../../photo.png", "index": None}, "does not write"),
        ({"model": 3}, "provenance.model must be text"),
        ({"more": 1}, "has no 'more'"),
    ],
)
def test_what_somebody_else_wrote_is_checked(
    place: Path, change: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    assert main(["sample", "model", "-n", "2", "--steps", "2", "--images", "--out", str(tmp_path)]) == 0
    file = tmp_path / "images/00001-1.png"
    said = {**json.loads(str(png.text_of(file, "langevin"))), **change}
    file.write_bytes(png.with_text(file.read_bytes(), "langevin", json.dumps(said)))
    assert main(["replay", str(file), "--out", str(tmp_path / "again")]) == 2
    assert message in capsys.readouterr().err
