"""The description survives JSON and safetensors, and refuses contradictions."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save

from langevin import data
from langevin._errors import UserError
from langevin.data import DataInfo


@pytest.mark.parametrize("name", ["digits", "moons", "mixture"])
def test_round_trip(name: str) -> None:
    info = data.load(name).info
    again = DataInfo.from_dict(json.loads(json.dumps(info.to_dict())), load(save(info.tensors())))
    assert again == info
    assert hash(again) == hash(info)
    assert again.mean.dtype == again.cov.dtype == torch.float64


def test_equality_sees_every_field() -> None:
    info = data.load("digits", limit=50).info
    for change in ({"name": "x"}, {"levels": None}, {"classes": ()}, {"mean": info.mean + 1}, {"cov": None}):
        assert replace(info, **change) != info
    assert info != "digits"


def test_short_repr() -> None:
    info = DataInfo("photos", (3, 32, 32), levels=256, cov=torch.full((3072,), 0.25).double())
    assert repr(info) == "DataInfo('photos', shape=(3, 32, 32), range=[-1, 1], levels=256, std=0.5)"


def test_std_is_root_mean_variance_and_refuses_to_guess() -> None:
    cov = torch.tensor([[1.0, 0.9], [0.9, 3.0]], dtype=torch.float64)
    assert DataInfo("p", (2,), None, None, cov=cov).std == pytest.approx(2**0.5)
    with pytest.raises(UserError, match="'p' is unknown"):
        _ = DataInfo("p", (2,)).std


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
        ({"high": 1e39}, r"low and high must lie in ±1e\+12; got -1.0 and 1e\+39"),
        ({"low": -math.inf}, "low and high must lie in"),
        ({"mean": torch.tensor([0.0, math.nan])}, "mean must hold finite numbers"),
        ({"cov": torch.tensor([1.0, -1.0])}, "cov must hold variances, which are not negative; got -1"),
        ({"cov": torch.tensor([[1.0, 0.5], [0.4, 1.0]])}, "cov must be symmetric"),
        ({"cov": torch.tensor([[1.0, 2.0], [2.0, 1.0]])}, "cov must be positive semi-definite"),
        ({"cov": torch.tensor([[-1.0, 0.0], [0.0, -1.0]])}, "cov must be positive semi-definite"),
        (
            {"class_mean": torch.zeros(1, 2), "class_cov": torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])},
            "class_cov must be positive semi-definite",
        ),
        ({"directions": torch.ones(2, 1), "spectrum": torch.ones(2)}, "directions must be orthonormal"),
        ({"directions": torch.eye(2)[:, :1], "spectrum": torch.tensor([1.0, -1.0])}, "spectrum must hold variances"),
    ],
)
def test_contradictions(fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        DataInfo(**{"name": "x", "shape": (2,), **fields})


def test_covariances_with_rounding() -> None:
    """Zero, of one direction alone, and kept in float32: eigenvalues a rounding below zero are no contradiction."""
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for cov in (torch.zeros(512, 512).double(), x[:1].T @ x[:1], (x.T @ x).float().double(), 1e-20 * x.T @ x):
        assert DataInfo("x", (512,), cov=cov).cov is cov


@pytest.mark.parametrize("values", [{"name": "x"}, {"name": "x", "shape": [2], "colour": 1}, [1]])
def test_foreign_dictionaries(values: object) -> None:
    with pytest.raises(UserError, match="data description"):
        DataInfo.from_dict(values)  # type: ignore[arg-type]
