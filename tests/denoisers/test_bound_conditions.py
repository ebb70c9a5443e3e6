"""Conditions of a denoiser: bound for all samples or one each, batched with and without, cut with the samples."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from conditioned import NAMES, SHAPES, conditions, untrained
from langevin import UserError
from langevin.denoisers import NetworkDenoiser, batched
from langevin.denoisers.conditions import absent, as_condition, asked_conditions, hide, rows_of
from langevin.nn.text import encode_text

N = 4


@pytest.fixture(scope="module")
def model() -> NetworkDenoiser:
    one = untrained()
    return NetworkDenoiser(one.network.double(), one.process, one.parameterization, one.shape, data=one.data)


def states() -> torch.Tensor:
    return torch.randn(N, 1, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-12 * b.abs().max())


def test_one_for_all_is_that_one_for_each(model: NetworkDenoiser) -> None:
    x, full = states(), conditions(N)
    for name in NAMES:
        one = full[name][0]
        alone, each = model.given({name: one}), model.given({name: torch.stack([one] * N)})
        assert close(alone(x, 0.4).mean, each(x, 0.4).mean)
        assert not close(alone(x, 0.4).mean, model(x, 0.4).mean)


@pytest.mark.parametrize("name", NAMES)
def test_absent_is_not_given(model: NetworkDenoiser, name: str) -> None:
    x, full = states(), conditions(N)
    bound = model.given(full)
    taken = bound.given({name: None})
    assert name not in taken.condition
    assert set(bound.condition) == set(NAMES)
    marked = bound.given({name: absent(bound.condition[name], N)})
    assert close(marked(x, 0.4).mean, taken(x, 0.4).mean)


def test_members_with_and_without_a_picture_share_a_call(model: NetworkDenoiser) -> None:
    x, full = states(), conditions(N)
    members: list[Any] = [
        model,
        model.given(image=full["image"]),
        model.given(image=full["image"][1], label=2),
        model.given(full),
        model.given(mask=full["mask"], caption=encode_text("a", 4)),
        model.given(hide_some(full)),
    ]
    before = model.counter.calls
    together = batched(members, x, 0.4)
    assert model.counter.calls - before == len(members)
    for member, belief in zip(members, together):
        assert close(belief.mean, member(x, 0.4).mean)
    assert not close(together[0].mean, together[1].mean)


def hide_some(full: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: hide(value, torch.arange(N) == i % N) for i, (name, value) in enumerate(full.items())}


def test_pictures_of_two_sizes_cannot_share_a_call(model: NetworkDenoiser) -> None:
    small, large = model.given(image=torch.zeros(1, 4, 4)), model.given(image=torch.zeros(1, 8, 8))
    with pytest.raises(UserError, match="image must have one shape for all that share a network"):
        batched([small, large], states(), 0.4)


def test_rows_cut_what_is_one_each(model: NetworkDenoiser) -> None:
    x, full = states(), conditions(N)
    each, mixed = model.given(full), model.given({**full, "image": full["image"][0]})
    for bound in (each, mixed):
        whole = bound(x, 0.4).mean
        for index in (slice(1, 3), slice(3, 4), torch.tensor([2, 0])):
            assert close(bound.rows(index)(x[index], 0.4).mean, whole[index])
    assert mixed.rows(slice(1, 3)).condition["image"].shape == (1, 1, 4, 4)
    assert mixed.rows(slice(1, 3)).condition["mask"].shape == (2, 1, 8, 8)
    assert rows_of(full, slice(1, 3))["caption"].shape == (2, 10)


def test_rows_beyond_what_was_given_are_refused(model: NetworkDenoiser) -> None:
    """Five pictures for eight samples, four at a time: the last must not become that of all four that follow."""
    bound = model.given(image=torch.zeros(5, 1, 4, 4))
    with pytest.raises(UserError, match="image was given for 5 samples, got a request for samples 4 to 7"):
        bound.rows(slice(4, 8))
    with pytest.raises(UserError, match="image was given for 4 samples, but the batch has 3"):
        model.given(image=torch.zeros(4, 1, 4, 4))(states()[:3], 0.4)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("image", torch.zeros(3, 4, 4), r"image must be \(B, 1, H, W\) or \(1, H, W\), got shape \(3, 4, 4\)"),
        ("image", torch.zeros(4, 4), r"image must be \(B, 1, H, W\) or \(1, H, W\), got shape \(4, 4\)"),
        ("image", "a.png", "image must hold numbers, got 'a.png'"),
        ("image", torch.full((1, 4, 4), math.inf), "'image' holds an infinity"),
        ("image", torch.tensor([0.0] * 15 + [math.nan]).view(1, 4, 4), "'image' is partly not-a-number"),
        ("vector", [1.0, math.nan], "'vector' is partly not-a-number"),
        ("vector", [1.0], r"vector must be \(B, 2\) or \(2,\), got shape \(1,\)"),
        ("mask", torch.zeros(3, 8, 8), r"mask must be \(B, 1, H, W\)"),
        ("caption", torch.zeros(11, dtype=torch.int64), "caption must be .* with at most 10 tokens, got shape"),
        ("caption", torch.zeros(4), "caption must hold integers"),
        ("caption", [257], r"caption must lie in \[0, 257\)"),
        ("caption", "a red bird", "caption must hold numbers, got 'a red bird'"),
        ("label", 3, r"label must lie in \[0, 3\)"),
        ("picture", torch.zeros(1, 4, 4), "condition 'picture' is not one this model takes"),
        ("imag", torch.zeros(1, 4, 4), "image"),
    ],
)
def test_what_cannot_be_bound(model: NetworkDenoiser, name: str, value: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        model.given({name: value})


def test_a_whole_row_of_not_a_numbers_is_absent_and_a_token_of_a_sequence_too() -> None:
    assert as_condition("vector", [[1.0, 2.0], [math.nan] * 2], 2, torch.device("cpu"), torch.float32).shape == (2, 2)
    sequence = torch.zeros(2, 3, 2)
    sequence[1, 2] = math.nan
    assert as_condition("sequence", sequence, 2, torch.device("cpu"), torch.float32).isnan().sum() == 2
    sequence[0, 1, 1] = math.nan
    with pytest.raises(UserError, match="'sequence' is partly not-a-number"):
        as_condition("sequence", sequence, 2, torch.device("cpu"), torch.float32)


def test_what_is_asked_for() -> None:
    sizes = {"label": 3, "image": 1}
    picture = torch.zeros(1, 4, 4)
    found = asked_conditions(sizes, 4, {"image": picture}, first=5)
    assert found["label"].tolist() == [2, 0, 1, 2]
    assert found["image"] is picture
    # A text says itself what is to be drawn: a class in turn beside it would say something else.
    for name, text in {"caption": torch.zeros(8, dtype=torch.int64), "sequence": torch.zeros(3, 2)}.items():
        told = {"label": 3, name: 2}
        assert asked_conditions(told, 4, {name: text}).keys() == {name}
        assert asked_conditions(told, 4, {name: text, "label": 1})["label"] == 1
        assert asked_conditions(told, 4, {name: None})["label"].tolist() == [0, 1, 2, 0]
    assert asked_conditions({"image": 1}, 4, {"image": None}) == {}
    assert asked_conditions({"image": 1}, 4) == {}
    with pytest.raises(UserError, match="vector was given, but this model takes label, image"):
        asked_conditions(sizes, 4, {"vector": [1.0]})
    with pytest.raises(UserError, match="image was given, but this model was trained without conditions"):
        asked_conditions({}, 4, {"image": picture})
    for count in (3, 5, 8):
        with pytest.raises(UserError, match=f"image must be one for all samples or 4, one each; got {count}"):
            asked_conditions(sizes, 4, {"image": torch.zeros(count, 1, 4, 4)})
    assert asked_conditions(sizes, 4, {"image": torch.zeros(1, 1, 4, 4)})["image"].shape == (1, 1, 4, 4)


def test_absent_and_hidden_have_marks_of_their_kind() -> None:
    for name, value in conditions(N).items():
        gone = absent(value, 7)
        assert gone.shape == (7, *value.shape[1:])
        assert gone.dtype == value.dtype
        assert (gone.isnan() if gone.is_floating_point() else gone == -1).all()
        some = hide(value, torch.tensor([True, False, False, True]))
        assert torch.equal(some[1:3], value[1:3])
        assert SHAPES[name] == tuple(value.shape[1:])
        assert (some[[0, 3]].isnan() if some.is_floating_point() else some[[0, 3]] == -1).all()
