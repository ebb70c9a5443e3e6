"""The dual encoder: vectors of length 1 whatever the padding, made again from its configuration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from langevin import nn
from langevin._errors import UserError
from langevin.nn.text import encode_texts

IMAGE = {"name": "encoder", "channels": 3, "size": [8, 8], "width": 8, "multipliers": [1, 2]}
CAPTION = {"caption": 24, "width": 16, "depth": 1, "heads": 2}


def network(**changes: Any) -> nn.DualEncoder:
    torch.manual_seed(0)
    return nn.DualEncoder(**{"embedding": 12, "image": IMAGE, "text": CAPTION, **changes}).eval()


@pytest.mark.parametrize("text", [CAPTION, {"sequence": 5, "width": 16}], ids=["caption", "sequence"])
@pytest.mark.parametrize("image", [IMAGE, {"name": "mlp", "channels": 4, "width": 8}], ids=["encoder", "mlp"])
def test_it_is_made_again_from_its_configuration(text: dict[str, Any], image: dict[str, Any]) -> None:
    first = network(text=text, image=image)
    again = nn.create_network(first.config)
    assert again.config == first.config
    again.load_state_dict(first.state_dict())
    x = torch.randn(3, *((3, 8, 8) if image is IMAGE else (4,)))
    told = encode_texts(["a", "bcd", ""], 24) if text is CAPTION else torch.randn(3, 2, 5)
    time = torch.zeros(3)
    assert torch.equal(again.eval().encode_image(x, time), first.encode_image(x, time))
    for vector in (first.encode_image(x, time), first.encode_text(told)):
        assert vector.shape == (3, 12)
        torch.testing.assert_close(vector.norm(dim=1), torch.ones(3))  # an untrained one has directions too


@pytest.mark.parametrize("reads", ["caption", "sequence"])
def test_padding_changes_nothing_and_what_is_absent_has_no_direction(reads: str) -> None:
    """The mean is over what is there: in float32 sums of another order differ by some 1e-7."""
    torch.manual_seed(1)
    if reads == "caption":
        made, short = network(), encode_texts(["red A", "b", None], 24)
        longer = encode_texts(["red A", "b", None, "a much longer one"], 24)
    else:
        made, short = network(text={"sequence": 5}), torch.randn(3, 2, 5)
        short[1, 1:], short[2] = math.nan, math.nan
        longer = torch.cat([torch.cat([short, torch.full((3, 4, 5), math.nan)], 1), torch.randn(1, 6, 5)])
    alone, beside = made.encode_text(short), made.encode_text(longer)
    torch.testing.assert_close(alone, beside[:3], rtol=0, atol=1e-6)
    assert (alone[2] == 0).all()
    torch.testing.assert_close(alone[:2].norm(dim=1), torch.ones(2))


def test_the_map_is_what_the_mean_is_taken_of() -> None:
    made = network()
    x, time = torch.randn(2, 3, 8, 8), torch.zeros(2)
    features = made.feature_map(x, time)
    assert features.shape == (2, 16, 4, 4)
    head: Any = made.image.head
    vector = torch.nn.functional.normalize(head(features.mean((2, 3))), dim=1)
    torch.testing.assert_close(vector, made.encode_image(x, time))
    with pytest.raises(UserError, match="this one reads points"):
        network(image={"name": "mlp", "channels": 4}).feature_map(torch.randn(1, 4), torch.zeros(1))


def test_the_scale_is_bounded_and_can_come_down_again() -> None:
    made = network()
    assert float(made.scale.detach()) == pytest.approx(1 / 0.07, rel=1e-6)
    with torch.no_grad():
        made.log_scale.fill_(math.log(500.0))
    made.scale.backward()
    assert float(made.scale.detach()) == pytest.approx(100, rel=1e-5)
    assert float(made.log_scale.grad) == pytest.approx(100, rel=1e-5)  # d exp(s)/ds where exp(s) is 100


def test_a_caption_that_is_too_long_is_cut_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="longer than the 23 bytes"):
        tokens = network().tokenize(["x" * 24])
    assert torch.equal(tokens, encode_texts(["x" * 23], 24))
    with pytest.raises(UserError, match="reads features of captions"):
        network(text={"sequence": 5}).tokenize(["a"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": {"name": "dit"}}, "unknown network of image 'dit'"),
        ({"image": {**IMAGE, "widht": 8}}, "Did you mean 'width'"),
        ({"text": {}}, "text must say caption"),
        ({"text": {"caption": 8, "sequence": 4}}, "text must say caption"),
        ({"text": {"caption": 8, "dpeth": 4}}, "Did you mean 'depth'"),
        ({"text": {"sequence": 8, "depth": 4}}, "unknown option of text"),
        ({"embedding": 0}, "embedding must be"),
    ],
)
def test_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        network(**changes)


def test_what_it_reads_is_checked() -> None:
    made = network()
    for wrong in (torch.zeros(2, 3), torch.zeros(2, 30, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)):
        with pytest.raises(UserError, match="caption must be integers"):
            made.encode_text(wrong)
    with pytest.raises(UserError, match="sequence must be real numbers"):
        network(text={"sequence": 5}).encode_text(torch.zeros(2, 3, 4))
