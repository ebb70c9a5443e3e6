"""What cannot be taken is refused before any work, in a sentence that names the argument."""

from __future__ import annotations

import math
import re

import pytest
import torch

from langevin import UserError
from langevin.nn import MLP, DiT, UNet, create_network, default


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"name": "u-net"},
            r"unknown network 'u-net'. Did you mean 'unet'\? Known: coupling, dit, dual-encoder, edm-unet, encoder",
        ),
        ({}, "unknown network 'None'"),
        ({"name": "unet", "widht": 8}, r"unknown option of unet 'widht'. Did you mean 'width'\?"),
        ({"name": "mlp", "sequence": 8}, "unknown option of mlp 'sequence'"),
        ({"name": "unet", "width": 20}, "width must be a multiple of 8 from 8 to 4096, got 20"),
        ({"name": "unet", "width": "32"}, "width must be .* got '32'"),
        ({"name": "unet", "width": True}, "width must be .* got True"),
        ({"name": "unet", "multipliers": ()}, "multipliers must be a list of 1 to 10 integers"),
        ({"name": "unet", "multipliers": 4}, "multipliers must be a list of 1 to 10 integers, got 4"),
        ({"name": "unet", "multipliers": (1, 0)}, r"multipliers\[1\] must be an integer from 1 to 64, got 0"),
        ({"name": "unet", "blocks": (1, 2)}, r"blocks must be a number or one a level \(4\), got \(1, 2\)"),
        ({"name": "unet", "blocks": 0}, "blocks.* must be an integer from 1"),
        ({"name": "unet", "attention": (5,)}, r"attention must name sizes of the levels, \[32, 16, 8, 4\], got \(5,\)"),
        (
            {"name": "unet", "attention": (), "conditions": {"sequence": 4}},
            "sequences and captions are read by attention",
        ),
        ({"name": "unet", "size": (30, 30)}, "image 30x30 cannot be halved 3 times: sizes must be divisible by 8"),
        ({"name": "unet", "size": 32}, "size must be a list of 2 integers, got 32"),
        ({"name": "unet", "size": (32,)}, "size must be a list of 2"),
        ({"name": "unet", "dropout": 1.0}, r"dropout must be a number in \[0, 1\), got 1.0"),
        ({"name": "unet", "conditions": {"label": -1}}, "conditions.label must be an integer from 0"),
        ({"name": "unet", "time_range": (1, 1)}, "time_range must be two finite numbers, the lower first"),
        ({"name": "unet", "time_range": (0, math.nan)}, "time_range must be two finite numbers"),
        ({"name": "unet", "time_range": 3}, "time_range must be two finite numbers"),
        ({"name": "dit", "heads": 5}, "heads must divide width = 192, got 5"),
        ({"name": "dit", "width": 6}, "width must be a multiple of 4"),
        ({"name": "mlp", "channels": 0}, "channels must be an integer from 1"),
        ({"name": "edm-unet", "style": "ncsn"}, "style must be song or adm, got 'ncsn'"),
        ({"name": "edm-unet", "taps": (1, 3, 3)}, "taps must be a list of 2 to 8 integers"),
        ({"name": "edm-unet", "random": 1}, "random must be true or false, got 1"),
        ({"name": "edm-unet", "scale": math.inf}, "scale must be a finite number, got inf"),
        (
            {"name": "edm-unet", "attention": (5,)},
            r"attention must name sizes of the levels, \[32, 16, 8\], got \(5,\)",
        ),
        ({"name": "edm-unet", "width": 20, "multipliers": (1, 7)}, "channels of a block, .* must be divisible by"),
        ({"name": "edm-unet", "size": 30}, "image 30x30 cannot be halved 2 times"),
        ({"name": "lucidrains", "full": (True, False)}, "full must be a list of 3 times true or false"),
        ({"name": "lucidrains", "conditions": {"label": 3}}, "lucidrains takes no conditions"),
        ({"name": "lucidrains", "theta": 1}, "theta must be a number > 1, got 1"),
        ({"name": "lucidrains", "head": (8, 8)}, "head must be a list of 3 integers"),
        ({"name": "mlp", "depth": 10**9}, "depth must be an integer from 1 to 256"),
        ({"name": "unet", "width": 4096, "multipliers": (64,) * 4}, "parameters, at most 1e"),
    ],
)
def test_configurations(config, says):
    with pytest.raises(UserError, match=says):
        create_network(config)


@pytest.mark.parametrize(
    ("network", "shape", "says"),
    [
        (
            UNet(1, size=(8, 8), width=8, multipliers=(1, 1, 1), attention=()),
            (1, 30, 30),
            "image 30x30 cannot be halved 2 times: sizes must be divisible by 4",
        ),
        (UNet(1, size=(8, 8), width=8, multipliers=(1, 1), attention=()), (1, 8, 7), "image 8x7 cannot be halved once"),
        (
            UNet(1, size=(8, 8), width=8, multipliers=(1,), attention=()),
            (3, 8, 8),
            r"shape must be \(1, height, width\)",
        ),
        (DiT(3, patch=4, width=8, depth=1, heads=1), (3, 30, 32), "image 30x32 cannot be cut into patches of 4"),
        (DiT(3, patch=4, width=8, depth=1, heads=1), (3, 32), r"shape must be \(3, height, width\)"),
        (MLP(2, width=8, depth=1), (3,), r"shape must be \(2,\) for this network, a point, got \(3,\)"),
    ],
)
def test_shapes(network, shape, says):
    with pytest.raises(UserError, match=says):
        network.check_shape(shape)
    with pytest.raises(UserError, match=says):
        network(torch.zeros(2, *shape), torch.zeros(2))


def test_time_is_one_for_each_sample():
    network = MLP(2, width=8, depth=1)
    for time in [torch.zeros(()), torch.zeros(3), torch.zeros(2, 1)]:
        with pytest.raises(UserError, match=r"time must have shape \(2,\)"):
            network(torch.zeros(2, 2), time)


NETWORK = UNet(
    1, size=(4, 4), width=8, multipliers=(1,), attention=(4,), conditions={"label": 3, "vector": 2, "sequence": 4}
)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"lable": torch.zeros(2)}, "unknown condition 'lable'. Did you mean 'label'"),
        ({"label": torch.zeros(2)}, "condition 'label' must be integers of shape (2), got (2,) torch.float32"),
        ({"label": torch.zeros(3, dtype=torch.int64)}, "condition 'label' must be integers of shape (2), got (3,)"),
        ({"vector": torch.zeros(2, 3)}, "condition 'vector' must be real numbers of shape (2, 2), got (2, 3)"),
        ({"sequence": torch.zeros(2, 4)}, "condition 'sequence' must be real numbers of shape (2, any, 4), got (2, 4)"),
    ],
)
def test_conditions_by_shape(condition, says):
    with pytest.raises(UserError, match=re.escape(says)):
        NETWORK.check_condition(condition, 2)
    with pytest.raises(UserError, match=re.escape(says)):
        NETWORK(torch.zeros(2, 1, 4, 4), torch.zeros(2), condition)


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ({"label": torch.tensor([0, 3])}, "label must lie in [0, 3) (-1 is none), got [3]"),
        ({"label": torch.tensor([-2, 0])}, "label must lie in [0, 3) (-1 is none), got [-2]"),
        ({"vector": torch.tensor([[0.0, math.nan], [0.0, 0.0]])}, "condition 'vector' is partly not-a-number"),
        ({"vector": torch.tensor([[0.0, math.inf], [0.0, 0.0]])}, "condition 'vector' holds an infinity"),
        ({"sequence": torch.tensor([0.0, math.nan, 0.0, 0.0]).expand(2, 1, 4)}, "condition 'sequence' is partly not"),
    ],
)
def test_conditions_by_value(condition, says):
    with pytest.raises(UserError, match=re.escape(says)):
        NETWORK.check_condition(condition, 2)


def test_good_conditions_pass():
    nan = torch.tensor([math.nan])
    NETWORK.check_condition(
        {
            "label": torch.tensor([-1, 2]),
            "vector": torch.stack([nan.expand(2), torch.zeros(2)]),
            "sequence": torch.cat([nan.expand(2, 3, 4), torch.zeros(2, 1, 4)], 1),
        },
        2,
    )
    NETWORK.check_condition({}, 2)


def test_a_network_without_conditions_says_so():
    with pytest.raises(UserError, match="condition 'label' was given to a network that takes none"):
        MLP(2, width=8, depth=1).check_condition({"label": torch.zeros(1, dtype=torch.int64)}, 1)


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ((3, 3, 3, 32), {}, r"shape must be \(D,\) for points, \(features, length\) for .*, got \(3, 3, 3, 32\)"),
        ((0,), {}, "shape must be"),
        ((1, 8, 8), {"name": "mlp"}, "shape must be"),
        ((4,), {"name": "unet"}, "shape must be"),
        ((4,), {"name": "resnet"}, "unknown network 'resnet'"),
        ((1, 8, 8), {"wdith": 8}, "Did you mean 'width'"),
        ((1, 30, 30), {"multipliers": (1, 1, 1)}, "image 30x30 cannot be halved 2 times"),
    ],
)
def test_defaults(shape, options, says):
    with pytest.raises(UserError, match=says):
        default(shape, **options)


@pytest.mark.parametrize(
    "shape",
    [(1,), (2,), (300,), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 48), (3, 7, 7), (1, 30, 30), (3, 256, 256)],
)
def test_default_takes_its_shape(shape):
    config = default(shape, {"label": 3})
    network = create_network(config)
    assert network.config == config
    network.check_shape(shape)
    assert config["name"] == ("mlp" if len(shape) == 1 else "unet")


def test_default_is_overridden():
    assert default((3, 32, 32), dropout=0.1, width=64)["width"] == 64
    assert default((3, 32, 32), name="dit")["patch"] == 4
    assert default((3, 30, 30), name="dit")["patch"] == 2
