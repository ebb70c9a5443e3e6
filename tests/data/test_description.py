"""The description survives JSON and safetensors, and refuses contradictions."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from langevin import data
from langevin._errors import UserError
from langevin.data import Data


@pytest.mark.parametrize("name", ["digits", "moons", "mixture"])
def test_round_trip(name: str) -> None:
    info = data.load(name).info
    again = Data.from_dict(json.loads(json.dumps(info.to_dict())), load(save(info.tensors())))
    assert again == info
    assert hash(again) == hash(info)
    assert again.mean.dtype == again.cov.dtype == torch.float64


def test_equality_sees_every_field() -> None:
    info = data.load("digits", limit=50).info
    for change in ({"name": "x"}, {"levels": None}, {"classes": ()}, {"mean": info.mean + 1}, {"cov": None}):
        assert replace(info, **change) != info
    assert info != "digits"


def test_short_repr() -> None:
    info = Data("photos", (3, 32, 32), levels=256, cov=torch.full((3072,), 0.25).double())
    assert repr(info) == "Data('photos', shape=(3, 32, 32), range=[-1, 1], levels=256, spread=0.5)"


def test_spread_is_root_mean_variance_and_refuses_to_guess() -> None:
    cov = torch.tensor([[1.0, 0.9], [0.9, 3.0]], dtype=torch.float64)
    assert Data("p", (2,), None, None, cov=cov).spread == pytest.approx(2**0.5)
    with pytest.raises(UserError, match="'p' is unknown"):
        _ = Data("p", (2,)).spread


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": ()}, "shape"),
        ({"shape": (0,)}, "shape"),
        ({"low": None}, "low and high"),
        ({"low": 1.0}, "low must be below"),
        ({"levels": 1}, "levels"),
        ({"low": None, "high": None, "levels": 256}, "levels"),
        ({"classes": ("a", "a")}, "classes"),
        ({"mean": torch.zeros(3)}, "mean"),
        ({"cov": torch.zeros(2, 3)}, "cov"),
    ],
)
def test_contradictions(fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Data(**{"name": "x", "shape": (2,), **fields})


@pytest.mark.parametrize("values", [{"name": "x"}, {"name": "x", "shape": [2], "colour": 1}, [1]])
def test_foreign_dictionaries(values: object) -> None:
    with pytest.raises(UserError, match="data description"):
        Data.from_dict(values)  # type: ignore[arg-type]
