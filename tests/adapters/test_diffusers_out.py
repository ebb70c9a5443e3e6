"""Models of this library as pipelines of diffusers, and back: the same images to float32 rounding."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import langevin
from langevin import UserError, models, processes
from langevin.adapters import diffusers as adapter
from langevin.cli import main
from langevin.data import DataInfo
from langevin.denoisers import AffineParameterization, NetworkDenoiser, time_range
from langevin.nn import create_network

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import small_pipelines as small

SHAPE, STEPS = (2, 8, 8), 5
CLOSE = 5e-5
"""An error at the first step grows by 1/α there, 157 for the linear table: 157 · 5 · 2⁻²⁴, as in test_diffusers_in."""


def made(
    process: processes.ScalarGaussian,
    prediction: str,
    time: str,
    variance: str | None = None,
    data: DataInfo | None = None,
    scale_input: bool = False,
    **options: Any,
) -> NetworkDenoiser:
    torch.manual_seed(0)
    config = {"name": "unet2d", "channels": 2, "size": (8, 8), "width": 16, "multipliers": (1, 2), "head": 8}
    config |= {"out_channels": 4 if variance else 2, "time_range": time_range(time, process) or (-3.0, 3.0), **options}
    network = create_network({"conditions": {}, **config}).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    info = DataInfo("toys", SHAPE, classes=tuple("abc") if options.get("conditions") else ())
    reading = AffineParameterization(prediction, 0.5, time, scale_input)
    return NetworkDenoiser(network, process, reading, SHAPE, variance, data or info)


DDPM = processes.DDPM()
CASES: dict[str, tuple[Any, ...]] = {
    "eps, linear": (DDPM, "eps", "index"),
    "v, cosine": (processes.DDPM(processes.cosine_betas(100)), "v", "index"),
    "x0, a table of its own": (processes.DDPM((0.1, 0.2, 0.4, 0.3, 0.5)), "x0", "index"),
    "v, zero terminal SNR": (processes.DDPM(processes.zero_terminal_snr(processes.linear_betas(100))), "v", "index"),
    "flow, 1000 t": (processes.RectifiedFlow(), "flow", "time"),
    "flow, t": (processes.RectifiedFlow(), "flow", "t"),
    "learned variance": (DDPM, "eps", "index", "range"),
}


def drawn(n: int = 3) -> Tensor:
    return torch.randn((n, *SHAPE), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("case", list(CASES))
def test_round_trip(case: str, tmp_path: Path) -> None:
    """Ours, the pipeline as diffusers loads and runs it, and the pipeline as we load it."""
    import diffusers

    model = made(*CASES[case])
    adapter.save(model, tmp_path / "pipe")
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "pipe", use_safetensors=True)
    again = langevin.load(tmp_path / "pipe", device="cpu")
    assert again.data == model.data
    torch.testing.assert_close(
        torch.tensor(getattr(again.process, "betas", ())), torch.tensor(getattr(model.process, "betas", ()))
    )
    grid = adapter.native_grid(again, STEPS)
    assert float(grid[0]) == 1.0  # a pipeline begins where there is nothing but noise
    rule = "euler" if isinstance(model.process, processes.RectifiedFlow) else "ddim"
    ours, back = (langevin.sample(m, rule, start=drawn(), grid=grid) for m in (model, again))
    scale = float(ours.abs().max())
    torch.testing.assert_close(back, ours, rtol=0, atol=CLOSE * scale)
    if case == "learned variance":  # the pipeline is stochastic: its scheduler takes the network's second half
        assert type(pipe.scheduler).__name__ == "DDPMScheduler"
        assert again.variance == "range"
        assert pipe(num_inference_steps=2, batch_size=1, output_type="np").images.shape == (1, 8, 8, 2)
        return
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        batch_size=3, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(5), output_type="np"
    ).images
    wanted = torch.tensor(theirs).permute(0, 3, 1, 2) * 2 - 1
    torch.testing.assert_close(ours.clamp(-1, 1), wanted, rtol=0, atol=CLOSE)


EVERYDAY = ("ddpm", "sd", "sdxl", "dit", "flux")
RARE = ("sd_v", "sd3", "pixart", "pixart_sigma", "ldm", "ldm_kl", "score_sde_ve")


def images_of(pipe: Any, name: str) -> Tensor:
    """Two images of a pipeline with its own scheduler, from the noises of one seed, under guidance if it guides."""
    how: dict[str, Any] = {"num_inference_steps": STEPS, "generator": torch.Generator().manual_seed(5)}
    if name == "dit":
        how |= {"class_labels": [1, 7], "guidance_scale": 3.0}
    elif hasattr(pipe, "tokenizer"):
        how |= {"prompt": ["a red apple on the sea", "a blue boat"], "guidance_scale": 3.0, "height": 16, "width": 16}
    else:
        how |= {"batch_size": 2}
    if name.startswith("pixart"):
        how |= {"use_resolution_binning": False, "clean_caption": False}
    return torch.tensor(small.quiet(pipe)(**how, output_type="np").images)


@pytest.mark.parametrize("name", [*EVERYDAY, *(pytest.param(name, marks=pytest.mark.slow) for name in RARE)])
def test_pipeline_to_ours_to_pipeline(name: str, tmp_path: Path) -> None:
    """What diffusers saved, as a model here, written again: diffusers draws the same images, and we the same.

    Weights are the same to the bit and so is the arithmetic, but for sums that are taken in another order where memory
    lies otherwise: float32 rounding, as above.
    """
    import diffusers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers advises on settings that are meant as they are
        pipe = getattr(small, name)()
    small.save(pipe, tmp_path / "theirs")
    more = {"size": 16} if name == "flux" else {}
    model = adapter.load(tmp_path / "theirs", device="cpu", **more)
    adapter.save(model, tmp_path / "ours")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "ours", use_safetensors=True)
    assert type(again) is type(pipe)
    assert type(again.scheduler) is type(pipe.scheduler)
    first, second = images_of(pipe, name), images_of(again, name)
    assert float(first.std()) > 0.01
    torch.testing.assert_close(second, first, rtol=0, atol=CLOSE)
    back = adapter.load(tmp_path / "ours", device="cpu", **more)
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(5))
    one, two = (langevin.sample(m, start=x, steps=2) for m in (model, back))
    torch.testing.assert_close(two, one, rtol=0, atol=CLOSE * float(one.abs().max()))


def test_classes(tmp_path: Path) -> None:
    """The class that stands for none, and the names, come back."""
    model = made(DDPM, "eps", "index", conditions={"label": 3})
    adapter.save(model, tmp_path)
    again = langevin.load(tmp_path, device="cpu")
    assert again.condition_sizes == {"label": 3}
    assert again.data.classes == ("a", "b", "c")
    x = drawn()
    with torch.no_grad():
        for label in (torch.tensor([0, -1, 2]), None):
            first, second = (m if label is None else m.given(label=label) for m in (model, again))
            torch.testing.assert_close(first(x, 0.5).mean, second(x, 0.5).mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"prediction": "edm", "time": "log_sigma", "process": processes.EDM()}, "--prediction.name edm"),
        ({"scale_input": True}, "--prediction.scale-input"),
        ({"time": "log_sigma"}, "--prediction.time log_sigma"),
        ({"process": processes.VP(), "time": "time"}, "--process VP is neither a table of β"),
        ({"process": processes.RectifiedFlow(), "prediction": "v", "time": "time"}, "--prediction.name v on"),
        ({"variance": "posterior"}, "--prediction.variance posterior"),
        ({"energy": True}, "--network.options energy true"),
        ({"data": DataInfo("own", SHAPE, low=0.0, high=1.0)}, r"its data lie in \[0.0, 1.0\]"),
    ],
)
def test_what_stands_in_the_way(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    """The option is named, and the options that map."""
    asked = {"process": DDPM, "prediction": "eps", "time": "index", **changes}
    with pytest.raises(UserError, match=why) as told:
        adapter.save(made(**asked), tmp_path / "out")
    assert "To train one that can: langevin train DATA --network.name unet2d" in str(told.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ({"name": "unet", "channels": 2, "size": (8, 8), "multipliers": (1, 2)}, "--network.name unet maps onto none"),
        ({"name": "dit", "channels": 2, "depth": 1}, "--network.name dit, which reads the time by other waves"),
    ],
)
def test_networks_that_do_not_map(network: dict[str, Any], why: str, tmp_path: Path) -> None:
    model = NetworkDenoiser(create_network(network), DDPM, AffineParameterization("eps", 0.5, "index"), SHAPE)
    with pytest.raises(UserError, match=why):
        adapter.save(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model directory becomes a pipeline, which other commands read again; what is somebody else's stays."""
    models.save(made(DDPM, "v", "index"), tmp_path / "model")
    out = tmp_path / "pipe"
    assert main(["export", str(tmp_path / "model"), "--to", "diffusers", "--out", str(out)]) == 0
    assert "DiffusionPipeline.from_pretrained" in capsys.readouterr().out
    assert json.loads((out / "model_index.json").read_text())["_class_name"] == "DDIMPipeline"
    assert main(["export", str(tmp_path / "model"), "--out", str(out)]) == 0  # again, over the earlier one
    assert main(["info", str(out)]) == 0
    assert "UNet2DModel" in capsys.readouterr().out
    drawn_to = tmp_path / "samples"
    assert main(["sample", str(out), "-n", "2", "--steps", "2", "--device", "cpu", "--out", str(drawn_to)]) == 0
    assert (drawn_to / "samples.npz").exists()
    capsys.readouterr()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert main(["export", str(tmp_path / "model"), "--out", str(tmp_path / "full")]) == 2
    assert "out must be a new or empty directory" in capsys.readouterr().err
    assert main(["export", str(out), "--out", str(tmp_path / "again")]) == 2
    assert "is a pipeline of diffusers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "less"),
    [("", "langevin"), ("unet/letter.txt", ""), ("vae/config.json", ""), ("letter.txt", ""), ("letter.txt", "all")],
)
def test_what_is_somebody_elses_stays(more: str, less: str, tmp_path: Path) -> None:
    """Another pipeline, and a directory that mixes files with ours, are refused before anything is written."""
    folder = tmp_path / "pipe"
    adapter.save(made(DDPM, "v", "index"), folder)
    if less:  # without our description it is as diffusers writes one
        shutil.rmtree(folder if less == "all" else folder / less)
    if more:
        (folder / more).parent.mkdir(exist_ok=True)
        (folder / more).write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(UserError, match=r"path must be a new or empty directory.*pipe: .* is not of an export") as told:
        adapter.save(made(DDPM, "v", "index"), folder)
    assert f": {more.partition('/')[0]}" in str(told.value)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    """With a card and hidden files beside it, which stay; so is an empty directory; a file is none."""
    (tmp_path / "pipe").mkdir()
    for _ in range(2):
        adapter.save(made(DDPM, "v", "index"), tmp_path / "pipe")
        (tmp_path / "pipe" / "README.md").write_text("a card")
        (tmp_path / "pipe" / ".gitattributes").write_text("")
    assert (tmp_path / "pipe" / "README.md").read_text() == "a card"
    with pytest.raises(UserError, match=r"path must be a directory, got .*README.md, which is a file"):
        adapter.save(made(DDPM, "v", "index"), tmp_path / "pipe" / "README.md")


def test_damaged_description(tmp_path: Path) -> None:
    adapter.save(made(DDPM, "eps", "index", conditions={"label": 3}), tmp_path)
    file = tmp_path / "langevin" / "description.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "null_label": 7}))
    with pytest.raises(UserError, match="null_label 7 is not the last of 4"):
        langevin.load(tmp_path)
    file.write_text(json.dumps({**values, "langevin": 9}))
    with pytest.raises(UserError, match="not a description this version"):
        langevin.load(tmp_path)
