"""A model of every condition, saved and loaded: the same answers, the same description."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conditioned import NAMES, SHAPES, conditions, saved, untrained
from langevin import UserError, models


def test_round_trip(tmp_path: Path) -> None:
    model = untrained()
    loaded = models.load(saved(tmp_path / "m", model), device="cpu")
    assert loaded.data == model.data
    assert {name: tuple(shape) for name, shape in loaded.data.conditions.items()} == SHAPES
    assert dict(loaded.condition_sizes) == dict(model.condition_sizes)
    assert loaded.conditions() == NAMES
    x, full = torch.randn(3, 1, 8, 8), conditions(3)
    for given in ({}, full, {"caption": full["caption"]}, {"image": full["image"], "mask": full["mask"]}):
        assert torch.equal(loaded.given(given)(x, 0.3).mean, model.given(given)(x, 0.3).mean)
    assert not torch.equal(loaded.given(full)(x, 0.3).mean, loaded(x, 0.3).mean)


def test_settings_of_the_text_encoder_travel(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    assert config["network"]["text"] == {"width": 16, "depth": 1, "heads": 2}
    assert config["network"]["conditions"] == {"label": 3, "caption": 10, "image": 1, "mask": 1, "vector": 2}
    assert config["data"]["conditions"] == {name: list(shape) for name, shape in SHAPES.items() if name != "label"}


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("network", "conditions", "image"), 2, "model.safetensors|stem"),
        (("network", "conditions", "picture"), 2, "unknown condition 'picture'"),
        (("network", "conditions", "image"), "one", "conditions.image must be an integer"),
        (("network", "text", "depth"), 10**6, "depth must be an integer from 1 to 256"),
        (("data", "conditions", "image"), [4], r"conditions.image must be a shape \(C, H, W\)"),
        (("data", "conditions", "image"), [1, 4, -4], "conditions.image must be a tuple of positive integers"),
        (("data", "conditions", "image"), [2**14, 2**14, 2], "at most 268435456 numbers"),
        (("data", "conditions", "smell"), [4], "unknown condition 'smell'"),
        (("data", "conditions"), [4], "conditions"),
    ],
)
def test_a_damaged_directory_is_refused(tmp_path: Path, place: tuple[str, ...], value: object, said: str) -> None:
    folder = saved(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        models.load(folder, device="cpu")
