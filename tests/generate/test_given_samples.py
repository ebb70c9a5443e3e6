"""Samples under conditions by name: what is given is used, one for all or one each, in any batch, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conditioned import conditions, untrained
from langevin import UserError
from langevin.denoisers import NetworkDenoiser
from langevin.generate import Recipe, generate

N = 6
RECIPE = Recipe(steps=2)


@pytest.fixture(scope="module")
def model() -> NetworkDenoiser:
    return untrained()


def double(model: NetworkDenoiser) -> NetworkDenoiser:
    return replace(model, network=model.network.double())


@pytest.mark.parametrize("name", ["caption", "image", "mask", "vector"])
def test_what_is_given_is_used(model: NetworkDenoiser, name: str) -> None:
    full = conditions(N)
    plain = generate(model, RECIPE, N)
    drawn = generate(model, RECIPE, N, given={name: full[name]})
    assert drawn.record["given"] == [name]
    assert drawn.record["label"] == (None if name == "caption" else "in turn")
    assert "given" not in plain.record
    assert ((drawn.x - plain.x).flatten(1).abs().amax(1) > 1e-4).all()
    assert torch.equal(generate(model, RECIPE, N, given={name: None}).x, plain.x)
    # The i-th is drawn under the i-th, and one for all is that one N times.
    other = full[name].clone()
    other[2] = full[name][3]
    moved = generate(model, RECIPE, N, given={name: other}).x
    assert (moved[2] - drawn.x[2]).abs().max() > 1e-4
    rest = [0, 1, 3, 4, 5]
    assert (moved[rest] - drawn.x[rest]).abs().max() < 1e-5
    one = generate(model, RECIPE, N, given={name: full[name][0]}).x
    assert torch.equal(one, generate(model, RECIPE, N, given={name: torch.stack([full[name][0]] * N)}).x)


def test_all_conditions_at_once_in_any_batch(model: NetworkDenoiser) -> None:
    full = conditions(N)
    whole = generate(model, RECIPE, N, given=full)
    assert whole.record["given"] == ["caption", "image", "mask", "vector"]
    assert whole.record["label"] == "given"
    assert whole.label is not None
    assert whole.label.tolist() == full["label"].tolist()
    for batch in (1, 4, 5):
        parts = generate(model, replace(RECIPE, batch=batch), N, given=full)
        assert (parts.x - whole.x).abs().max() < 1e-5  # sums of float32 in another order
        assert parts.evaluations == whole.evaluations == 2


def test_the_order_of_names_and_the_first_index(model: NetworkDenoiser) -> None:
    full = conditions(N)
    back = dict(reversed(full.items()))
    assert torch.equal(generate(model, RECIPE, N, given=back).x, generate(model, RECIPE, N, given=full).x)
    whole = generate(model, RECIPE, N, given=full).x
    part = generate(model, RECIPE, 2, given={name: value[3:5] for name, value in full.items()}, first=3).x
    assert (part - whole[3:5]).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_guidance_between_the_model_with_and_without(model: NetworkDenoiser, scale: float) -> None:
    full = conditions(N)
    drawn = generate(model, replace(RECIPE, guidance_scale=scale, steps=1, sampler="ddim"), N, given=full)
    assert drawn.evaluations == (2 if scale else 1)
    plain = generate(replace(model, condition={}), replace(RECIPE, steps=1, sampler="ddim"), N, given=full).x
    assert (drawn.x - plain).abs().max() > 1e-4


def test_a_condition_that_training_never_hid_is_on_both_sides() -> None:
    from langevin.training import ObjectiveConfig

    never = untrained(("image", "vector"), objective=ObjectiveConfig(dropout={"image": 0.0}))
    full = conditions(N, ("image", "vector"))
    guided = replace(RECIPE, guidance_scale=3.0)
    both = generate(never, guided, N, given=full)
    assert both.evaluations == 4
    with pytest.raises(UserError, match=r"objective.dropout image 0; use 1"):
        generate(never, guided, N, given={"image": full["image"]})
    with pytest.raises(UserError, match="needs a condition to guide by"):
        generate(never, guided, N)
    # uncond + w(cond − uncond) with the picture on both sides: exact in float64.
    never = double(never)
    from langevin.models.conditional import bind

    x, t = torch.randn(N, 1, 8, 8, dtype=torch.float64), 0.5
    without, with_vector = (never.given({**full, "vector": v})(x, t).mean for v in (None, full["vector"]))
    found = bind(never, full, 3.0)(x, t).mean
    assert (found - (without + 3 * (with_vector - without))).abs().max() <= 1e-12 * found.abs().max()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": torch.zeros(5, 1, 4, 4)}, "image must be one for all samples or 6, one each; got 5"),
        ({"image": torch.zeros(12, 1, 4, 4)}, "image must be one for all samples or 6, one each; got 12"),
        ({"caption": torch.full((7, 4), -1)}, "caption must be one for all samples or 6, one each; got 7"),
        ({"image": torch.zeros(3, 4, 4)}, "image must be"),
        ({"sequence": torch.zeros(3, 4)}, "sequence was given, but this model takes label, caption, image"),
        ({"vector": [1.0, float("nan")]}, "'vector' is partly not-a-number"),
        ({"label": [0, 1]}, "label must be an integer, or 6 of them"),
        ({"label": 7}, r"label must lie in \[0, 3\) \(-1 is none\), got \[7\]"),
    ],
)
@pytest.mark.parametrize("batch", [4, 256])
def test_what_cannot_be_drawn(model: NetworkDenoiser, given: dict, said: str, batch: int) -> None:
    """Before any work: no evaluation is spent."""
    before = model.counter.calls
    with pytest.raises(UserError, match=said):
        generate(model, replace(RECIPE, batch=batch), N, given=given)
    assert model.counter.calls == before


def test_a_model_without_conditions_is_given_none() -> None:
    plain = untrained(())
    with pytest.raises(UserError, match="image was given, but this model was trained without conditions"):
        generate(plain, RECIPE, 2, given={"image": torch.zeros(1, 4, 4)})
    assert generate(plain, RECIPE, 2).label is None
