"""The table "what works on what" of docs/diffusers.md, cell by cell: each command is typed on a model of each kind."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from langevin import data, models, nn, processes
from langevin.cli import main
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.models import Autoencoder, Latent

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import small_pipelines as small

PAGE = Path(__file__).parents[2] / "docs" / "diffusers.md"
KINDS = ("ddpm", "sd", "sdxl", "sd3", "dit", "ours")
"""The columns of the table: pipelines by their factory, and a latent model of this library."""

LABEL = {"dit": ["--label", "goldfish"], "ours": ["--label", "1"]}
CAPTIONS = ("sd", "sdxl", "sd3")
"""The pipelines that take captions."""

FEW = ["-n", 2, "--steps", 2]


def side(kind: str) -> int:
    return 8 if kind == "ddpm" else 16


COMMANDS: dict[str, Callable[[str], list[object]]] = {
    "sample": lambda m: ["sample", m, *FEW, "--out", f"{m}-s"],
    "replay": lambda m: ["replay", f"{m}-s/grid.png", "--out", f"{m}-again"],
    "guide": lambda m: ["guide", m, *FEW, "--out", f"{m}-g", *(["--given", "caption=a boat"] if m in CAPTIONS else [])],
    "tune": lambda m: ["tune", m, "--steps", 1, "-n", 1, "--minutes", 0.005],
    "calibrate": lambda m: ["calibrate", m, f"data{side(m)}", "-n", 16, "--times", 2],
    "evaluate": lambda m: ["evaluate", m, "--data", f"data{side(m)}", "-n", 8, "--steps", 1, "--out", f"{m}.json"],
    "compare": lambda m: ["compare", m, "--samplers", "ddim", "--steps", 1, "-n", 8, "--out", f"{m}-c"],
    "likelihood": lambda m: [
        *("likelihood", m, f"data{side(m)}", "-n", 1, "--evaluations", 8, "--out", f"{m}-l"),
        *(["--unconditional"] if m != "ddpm" else []),
    ],
    "restore": lambda m: [
        *("restore", f"{side(m)}.png", "--model", m, "--task", "inpaint", "--mask", f"mask{side(m)}.png"),
        *("--method", "dps", *FEW, "--out", f"{m}-r"),
    ],
    "restore, a larger picture": lambda m: [
        *("restore", "large.png", "--model", m, "--task", "blur=1", "--method", "dps", *FEW, "--out", f"{m}-rl"),
    ],
    "edit": lambda m: [
        *("edit", f"{side(m)}.png", "--model", m, "--mask", f"mask{side(m)}.png", "--steps", 3, "--out", f"{m}-e")
    ],
    "edit, a larger picture": lambda m: ["edit", "large.png", "--model", m, "--steps", 3, "--out", f"{m}-el"],
    "purify": lambda m: ["purify", f"{side(m)}.png", "--model", m, "--steps", 4, "--out", f"{m}-p"],
    "anomaly": lambda m: [
        *("anomaly", f"{side(m)}.png", "--model", m, "--steps", 4, "--out", f"{m}-a", *LABEL.get(m, []))
    ],
    "compress": lambda m: ["compress", f"{side(m)}.png", "-o", f"{m}.bin", "--model", m, "--step", 0.5],
    "publish": lambda m: ["publish", m, "--to", "somebody/something", "--out", f"{m}-card"],
}
"""What is typed for each row, for a model by the name of its directory."""


def table() -> dict[str, tuple[str, ...]]:
    """The cells of the page by row."""
    lines = PAGE.read_text(encoding="utf-8").partition("<!-- what works -->")[2].partition("<!-- /what works -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.strip().splitlines()[2:]]
    return {name.replace("`", ""): tuple(cells) for name, *cells in rows}


CELLS = table()


def picture(path: str, height: int, width: int, seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def ours() -> Latent:
    """A latent model with classes, by networks of this library."""
    dataset = data.load("data16")
    torch.manual_seed(0)
    codec = Autoencoder(nn.VAE(3, size=(16, 16), latent=2, width=8, blocks=1).eval(), dataset.info)
    codes = models.encode(dataset, codec)
    shape = codec.latent
    options = {"size": shape[1:], "width": 8, "multipliers": (1,), "blocks": 1, "attention": ()}
    network = nn.UNet(shape[0], conditions={"label": 2}, **options).eval()
    reading = AffineParameterization("edm", 0.5)
    return Latent(NetworkDenoiser(network, processes.EDM(), reading, shape, data=codes.info), codes.codec)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, data and a model of ours; ``model_of`` puts the pipelines there."""
    folder = tmp_path_factory.mktemp("what")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        for size in (8, 16):
            picture(f"{size}.png", size, size)
            mask = np.zeros((size, size), np.uint8)
            mask[2:6, 3:7] = 255
            Image.fromarray(mask).save(f"mask{size}.png")
            Path(f"data{size}").mkdir()
            for i in range(100):
                picture(f"data{size}/{i}.png", size, size, i)
        picture("large.png", 18, 20)
        models.save(ours(), folder / "ours")
    return folder


def model_of(kind: str, folder: Path) -> None:
    """See that the folder has the model of a kind."""
    if not (folder / kind).exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small.save(getattr(small, kind)(), folder / kind)


def test_the_table_has_every_row() -> None:
    assert CELLS.keys() == COMMANDS.keys()
    assert {len(cells) for cells in CELLS.values()} == {len(KINDS)}
    assert all(re.fullmatch(r"yes|no \(\d\)", cell) for cells in CELLS.values() for cell in cells)


LONG = {"tune": ("ddpm",), "calibrate": ("ddpm", "dit"), "compare": ("ddpm", "dit")}
DAILY = ("sample", "guide", "restore")


def is_long(row: str, kind: str) -> bool:
    """Whether a cell is left to the long run: those that take seconds, and of captions all but a few."""
    return kind in LONG.get(row, ()) or (kind in CAPTIONS and (row not in DAILY or kind != "sd"))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(row, kind, marks=[pytest.mark.slow] if is_long(row, kind) else [])
        for row in COMMANDS
        for kind in KINDS
    ],
)
def test_cell(
    row: str, kind: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the page says works does; what it says does not is one sentence, by the request and not by a bug."""
    monkeypatch.chdir(place)
    model_of(kind, place)
    if row == "replay":
        assert main([str(word) for word in COMMANDS["sample"](kind)]) == 0
    words = [str(word) for word in COMMANDS[row](kind)]
    capsys.readouterr()
    code, said = main(words), capsys.readouterr()
    if CELLS[row][KINDS.index(kind)] == "yes":
        assert code == 0, said.err
        return
    assert code == 2
    assert len(said.err.strip().splitlines()) == 1
    assert said.err.startswith(f"langevin {words[0]}: ")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if is_long("restore", kind) else []) for kind in KINDS]
)
def test_known_pixels_are_the_same_bytes(kind: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture that is restored where a mask is white, by any of them; what is white is made."""
    monkeypatch.chdir(place)
    model_of(kind, place)
    words = [*map(str, COMMANDS["restore"](kind)[:-1]), f"{kind}-known"]
    assert main(words) == 0
    given, made = (np.array(Image.open(name)) for name in (f"{side(kind)}.png", f"{kind}-known/{side(kind)}-0.png"))
    free = np.array(Image.open(f"mask{side(kind)}.png")) > 0
    assert np.array_equal(made[~free], given[~free])
    assert not np.array_equal(made[free], given[free])
