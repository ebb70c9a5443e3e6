"""Checkpoints of other programs: a model computes what the program's own network does, by outputs it left in a file.

``foreign_outputs.json`` has them, with the version of each program; ``foreign_outputs.py`` wrote it. A network is some
forty layers of float32 sums, whose order differs by machine and by code: 2e-6 of the largest output was seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_outputs import BATCH, CASES, FILE, LABELS, SIDE, images, weights
from safetensors.torch import save_file
from torch import Tensor

import langevin
from langevin import UserError, models
from langevin.adapters.checkpoints import read
from langevin.cli import main
from langevin.nn import EDMUNet, LucidrainsUNet

HELD: list[dict[str, Any]] = json.loads(FILE.read_text())
BY = {"lucidrains": HELD[:2], "edm": HELD[2:]}
CLOSE = 1e-5


def trainer(case: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as lucidrains' ``Trainer`` writes it; the average alone has the weights."""
    tables = {name: torch.tensor(values) for name, values in case["tables"].items()}
    diffusion = {**tables, **{f"model.{name}": v for name, v in weights(case["shapes"]).items()}}
    ema = {
        f"{part}.{name}": v * (part == "ema_model")
        for part in ("online_model", "ema_model")
        for name, v in diffusion.items()
    }
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}
    return {
        "step": 3,
        "model": {name: v * 0 for name, v in diffusion.items()},
        "opt": moments,
        "ema": {"initted": torch.tensor(True), **ema},
        "version": "2.3.4",
    }


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def distance(got: Tensor, want: list[float]) -> float:
    """The largest difference, over the largest number wanted."""
    wanted = torch.tensor(want)
    return float((got.flatten() - wanted).abs().max() / wanted.abs().max())


def test_the_file_is_that_of_the_script() -> None:
    asked = [{key: case[key] for key in case.keys() - {"of", "shapes", "tables", "out"}} for case in HELD]
    assert asked == json.loads(json.dumps(CASES))


@pytest.mark.parametrize("case", BY["lucidrains"], ids=["plain", "everything"])
def test_lucidrains(tmp_path: Path, case: dict[str, Any]) -> None:
    """The average of a trainer's checkpoint, read with the defaults, saved and loaded."""
    theta = case["unet"].get("sinusoidal_pos_emb_theta", 10_000)
    made = read(saved(tmp_path / "model-1.pt", trainer(case)), "lucidrains", size=SIDE, theta=theta)
    models.save(made, tmp_path / "model")
    model = langevin.load(tmp_path / "model", device="cpu")
    channels = case["unet"].get("channels", 3)
    assert type(model.network) is LucidrainsUNet
    assert model.shape == (channels, SIDE, SIDE)
    assert model.parameterization.prediction == {"pred_noise": "eps", "pred_v": "v"}[case["diffusion"]["objective"]]
    assert model.process.betas == tuple(torch.tensor(case["tables"]["betas"]).double().tolist())
    x = images(channels, 1.5)
    with torch.no_grad():
        for n, out in zip(case["at"], case["out"]):
            assert distance(model.network(x, torch.full((BATCH,), float(n))), out) < CLOSE
            # The network is asked by the denoiser as the program asks it: at the knot n + 1 of the table.
            t = torch.tensor((n + 1) / 20, dtype=torch.float64)
            net = torch.tensor(out).reshape(x.shape)
            alpha, sigma = (float(f(t)) for f in (model.process.alpha, model.process.sigma))
            x0 = (x - sigma * net) / alpha if n and model.parameterization.prediction == "eps" else None
            x0 = alpha * x - sigma * net if model.parameterization.prediction == "v" else x0
            if x0 is not None:
                assert distance(model(x, t).mean, x0.flatten().tolist()) < CLOSE


def test_the_average_is_taken_before_the_weights(tmp_path: Path) -> None:
    """Of a mapping that has both under prefixes, and of a checkpoint that has a mapping of each."""
    tables = {name: torch.tensor(values) for name, values in BY["lucidrains"][0]["tables"].items()}
    plain = weights(BY["lucidrains"][0]["shapes"])
    part = lambda prefix, factor: (
        {f"{prefix}{n}": v for n, v in tables.items()} | {f"{prefix}model.{n}": factor * v for n, v in plain.items()}
    )
    flat = {**part("", 3.0), **part("a_copy_of_the_ema.", 2.0)}
    apart = {"model": part("", 3.0), "ema": part("ema_model.", 2.0)}
    for held in (flat, apart):
        made = read(saved(tmp_path / "w.pt", held), "lucidrains", size=SIDE)
        assert torch.equal(made.network.init_conv.weight, 2.0 * plain["init_conv.weight"])
    made = read(saved(tmp_path / "w.pt", apart), "lucidrains", size=SIDE, key="model")
    assert torch.equal(made.network.init_conv.weight, 3.0 * plain["init_conv.weight"])


@pytest.mark.parametrize("case", BY["edm"], ids=["ddpm++", "ncsn++", "adm"])
def test_edm(tmp_path: Path, case: dict[str, Any]) -> None:
    """The preconditioned network at noise levels, with a class and without."""
    made = read(saved(tmp_path / "e.pt", weights(case["shapes"])), "edm", precondition=case["precondition"])
    models.save(made, tmp_path / "model")
    model = langevin.load(tmp_path / "model", device="cpu")
    count = case["arguments"].get("label_dim", 0)
    assert type(model.network) is EDMUNet
    assert (model.shape, model.condition_sizes.get("label", 0)) == ((3, SIDE, SIDE), count)
    told = model.given(label=torch.tensor([-1 if k is None else k for k in LABELS])) if count else model
    # c_noise of vp is 999 t, computed in float32 by the program: at 999 that is good to 3e-5, and so are its waves.
    close = 1e-4 if case["precondition"] == "vp" else CLOSE
    for level, out in zip(case["at"], case["out"]):
        t = model.process.time(-2 * torch.tensor(level, dtype=torch.float64).log())
        with torch.no_grad():
            x0 = told(images(3, 0.5 + level) * float(model.process.alpha(t)), t).mean
        assert distance(x0, out) < close


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Converted, and sampled from as any other model; a safetensors file will do."""
    case, out = HELD[2], str(tmp_path / "m")
    save_file(weights(case["shapes"]), tmp_path / "edm.safetensors")
    assert main(["convert", str(tmp_path / "edm.safetensors"), "--from", "edm", "--out", out]) == 0
    said = capsys.readouterr().out
    assert "network edm-unet of" in said
    assert "for images of 3 x 8 x 8, of 3 classes; prediction edm, process EDM." in said
    given = ["--label", "2", "--steps", "4", "-n", "2", "--device", "cpu"]
    assert main(["sample", out, "--out", str(tmp_path / "s"), *given]) == 0
    assert main(["info", out]) == 0
    assert main(["convert", str(tmp_path / "edm.safetensors"), "--from", "edm", "--out", out, "--size", "8"]) == 2
    assert "size is for --from lucidrains, got 8" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "edm.safetensors"), "--from", "edm", "--out", f"{out}.safetensors"]) == 2
    assert "out must be a directory for the model" in capsys.readouterr().err
    assert '"converted": "edm"' in (tmp_path / "m" / "config.json").read_text()


def test_refusals(tmp_path: Path) -> None:
    first, second = BY["lucidrains"][0], BY["edm"][0]
    plain, song = weights(first["shapes"]), weights(second["shapes"])
    tables = {name: torch.tensor(values) for name, values in first["tables"].items()}

    def refused(match: str, value: Any, source: str, **given: Any) -> None:
        with pytest.raises(UserError, match=match):
            read(saved(tmp_path / "w.pt", value), source, **given)

    whole = {**tables, **{f"model.{name}": v for name, v in plain.items()}}
    refused("size must be given", whole, "lucidrains")
    refused("has no table betas beside init_conv.weight", plain, "lucidrains", size=SIDE)
    without = {name: v for name, v in whole.items() if name != "loss_weight"}
    refused("objective must be given, one of pred_noise, pred_x0, pred_v", without, "lucidrains", size=SIDE)
    assert read(saved(tmp_path / "w.pt", without), "lucidrains", size=SIDE, objective="pred_x0")
    refused(
        "learned or random sinusoids", {**whole, "model.time_mlp.0.weights": torch.ones(4)}, "lucidrains", size=SIDE
    )
    refused(r"holds no Unet of denoising-diffusion-pytorch", song, "lucidrains", size=SIDE)
    refused(r"holds no U-Net of EDM", whole, "edm")
    lost = {name: v for name, v in whole.items() if name != "model.ups.0.0.block1.proj.bias"}
    refused(r"missing: ups\.0\.0\.block1\.proj\.bias", lost, "lucidrains", size=SIDE)
    refused("unknown: enc.8x8_extra", {**song, "model.enc.8x8_extra": torch.ones(2)}, "edm")
    refused("table of noise levels", {**song, "u": torch.ones(2)}, "edm")
    refused("type skip are not read", {**song, "model.enc.4x4_aux_skip.weight": torch.ones(2)}, "edm")
    refused("not finite", {**song, "model.map_layer0.bias": song["model.map_layer0.bias"] * float("nan")}, "edm")
    refused("unknown program 'emd'. Did you mean 'edm'", song, "emd")
    refused("unknown precondition", song, "edm", precondition="iddpm")
