"""Networks under every condition at once: what is absent is absent, what is there is read, sample by sample."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from langevin import UserError
from langevin.denoisers.conditions import KINDS, absent, hide
from langevin.nn import create_network, default
from langevin.nn.conditioning import resized
from langevin.nn.layers import Attention, waves
from langevin.nn.text import encode_texts

SIZES = {"label": 4, "caption": 12, "image": 2, "mask": 1, "vector": 3, "sequence": 2}
TEXT = {"width": 16, "depth": 1, "heads": 2}
CONFIGS: dict[str, dict] = {
    "unet": {"name": "unet", "size": (12, 8), "width": 16, "multipliers": (1, 2), "blocks": (1, 2), "attention": (4,)},
    "dit": {"name": "dit", "patch": 2, "width": 32, "depth": 2, "heads": 4},
}
for config in CONFIGS.values():
    config |= {"channels": 3, "conditions": SIZES, "text": TEXT}
KINDS_OF = ["unet", "dit", "unet-energy", "dit-energy"]
KEYS = list(KINDS)
BATCH, EVENT = 4, (3, 12, 8)


def awake(name: str, **options):
    """A float64 network that no longer returns zeros: every parameter moved by the same seeded noise."""
    kind, _, energy = name.partition("-")
    torch.manual_seed(0)
    network = create_network(CONFIGS[kind] | options | ({"energy": True} if energy else {}))
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.double().eval()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(batch: int = BATCH) -> tuple[Tensor, Tensor]:
    return normal(batch, *EVENT), torch.linspace(-2, 2, batch, dtype=torch.float64)


def conditions(batch: int = BATCH) -> dict[str, Tensor]:
    return {
        "label": torch.arange(batch) % 4,
        "caption": encode_texts([f"{i} red é"[: 2 + i] for i in range(batch)], 12),
        "image": normal(batch, 2, 12, 8, seed=2),
        "mask": (normal(batch, 1, 12, 8, seed=3) > 0).double(),
        "vector": normal(batch, 3, seed=4),
        "sequence": normal(batch, 5, 2, seed=5),
    }


def gap(a: Tensor, b: Tensor) -> Tensor:
    """The largest difference of each sample, over the size of all."""
    return (a - b).flatten(1).abs().amax(1) / a.abs().amax()


SAME, OTHER = 1e-12, 1e-5
"""Sums of float64 in another order; and what a condition changes at least."""


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", KINDS_OF)
def test_absence_is_one_thing_however_it_is_said(name: str, key: str) -> None:
    network, (x, t), full = awake(name), inputs(), conditions()
    lacking = {k: v for k, v in full.items() if k != key}
    hidden = torch.tensor([False, True, False, True])
    missing, given = network(x, t, lacking), network(x, t, full)
    for marked in (lacking | {key: absent(full[key], BATCH)}, lacking | {key: hide(full[key], torch.ones(4) > 0)}):
        network.check_condition(marked, BATCH)
        assert gap(network(x, t, marked), missing).max() <= SAME
    some = network(x, t, full | {key: hide(full[key], hidden)})
    assert gap(some, missing)[hidden].max() <= SAME
    assert gap(some, given)[~hidden].max() <= SAME
    assert gap(given, missing).min() >= OTHER
    # The value of what is there matters, not only that it is there.
    assert gap(given, network(x, t, full | {key: full[key].roll(1, 0)})).max() >= OTHER


@pytest.mark.parametrize("name", KINDS_OF)
def test_no_conditions_at_all(name: str) -> None:
    network, (x, t), full = awake(name), inputs(), conditions()
    nothing = network(x, t)
    assert nothing.isfinite().all()
    assert torch.equal(nothing, network(x, t, {}))
    assert gap(nothing, network(x, t, {k: absent(v, BATCH) for k, v in full.items()})).max() <= SAME


@pytest.mark.parametrize("name", KINDS_OF)
def test_samples_do_not_see_each_other(name: str) -> None:
    """With some of each condition absent, in a batch as large as the image is wide."""
    network, (x, t), full = awake(name), inputs(8), conditions(8)
    mixed = {key: hide(value, (torch.arange(8) + i) % 3 == 0) for i, (key, value) in enumerate(full.items())}
    together = network(x, t, mixed)
    for i in range(8):
        alone = network(x[i : i + 1], t[i : i + 1], {k: v[i : i + 1] for k, v in mixed.items()})
        assert (alone[0] - together[i]).abs().max() <= SAME * together.abs().max()


@pytest.mark.parametrize("key", ["image", "mask"])
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_nothing_of_an_absent_picture_leaks(name: str, key: str) -> None:
    """A row that is partly not-a-number is refused where conditions enter, and taken as absent, whole, in a loop."""
    network, (x, t), full = awake(name), inputs(), conditions()
    spoiled = full[key].clone()
    spoiled[1, 0, 3, 2] = math.nan
    with pytest.raises(UserError, match=f"condition '{key}' is partly not-a-number"):
        network.check_condition({key: spoiled}, BATCH)
    hidden = torch.arange(4) == 1
    assert gap(network(x, t, full | {key: spoiled}), network(x, t, full | {key: hide(full[key], hidden)})).max() == 0
    # Nor does what stands in the other rows: neither values nor gradients are spoiled.
    marked = {k: absent(v, BATCH) for k, v in full.items()}
    network(x, t, marked).square().sum().backward()
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.weight.grad is not None
    assert first.weight.grad.isfinite().all()
    assert first.weight.grad[:, 3:].abs().sum() == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("key", ["image", "mask"])
@pytest.mark.parametrize("name", KINDS_OF)
def test_the_presence_plane_tells_a_black_picture_from_none(name: str, key: str) -> None:
    network, (x, t), full = awake(name), inputs(), conditions()
    lacking = {k: v for k, v in full.items() if k != key}
    zero = network(x, t, lacking | {key: torch.zeros_like(full[key])})
    assert gap(zero, network(x, t, lacking)).min() >= OTHER


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_planes_lie_beside_x_exactly(name: str) -> None:
    """What the first layer is given, in float64 to the bit."""
    network, (x, t), full = awake(name), inputs(), conditions()
    seen: list[Tensor] = []
    network.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    hidden = torch.tensor([False, False, True, False])
    network(x, t, full | {"image": hide(full["image"], hidden)})
    network(x, t, {"mask": full["mask"]})
    here = (~hidden).double().view(4, 1, 1, 1)
    ones = torch.ones(4, 1, 12, 8, dtype=torch.float64)
    assert torch.equal(seen[0], torch.cat([x, full["image"] * here, here * ones, full["mask"], ones], 1))
    assert torch.equal(seen[1], torch.cat([x, full["image"] * 0, 0 * ones, full["mask"], ones], 1))


def test_waves_of_x_leave_the_pictures_beside_it() -> None:
    network, (x, t), full = awake("unet", fourier=(1, 2)), inputs(), conditions()
    seen: list[Tensor] = []
    network.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(x, t, full)
    ones = torch.ones(4, 1, 12, 8, dtype=torch.float64)
    assert torch.equal(seen[0][:, -5:], torch.cat([full["image"], ones, full["mask"], ones], 1))
    assert torch.equal(seen[0][:, :-5], waves(x, (1, 2)))


@pytest.mark.parametrize("size", [(6, 4), (24, 16), (5, 9), (12, 3), (1, 1)])
@pytest.mark.parametrize("name", KINDS_OF)
def test_a_picture_of_another_size_is_brought_to_that_of_x(name: str, size: tuple[int, int]) -> None:
    network, (x, t), full = awake(name), inputs(), conditions()
    small = normal(BATCH, 2, *size, seed=6)
    first = F.interpolate(small, (12, 8), mode="bilinear", antialias=True)
    assert (first - resized(small, (12, 8))).abs().max() <= 1e-14
    a, b = (network(x, t, full | {"image": image}) for image in (small, first))
    assert gap(a, b).max() <= SAME


def test_bringing_to_a_size_keeps_means_and_lines() -> None:
    """Weights of sum one: a flat picture stays flat. Shrinking by two averages around each new pixel: a line stays."""
    flat = torch.full((1, 1, 5, 7), 0.3, dtype=torch.float64)
    assert (resized(flat, (12, 8)) - 0.3).abs().max() <= 1e-15
    line = torch.arange(16, dtype=torch.float64).expand(1, 1, 4, 16)
    inside = resized(line, (2, 8))[..., 1:-1]
    assert (inside - (2 * torch.arange(1, 7) + 0.5)).abs().max() <= 1e-13
    assert torch.equal(resized(line, (4, 16)), line)


@pytest.mark.parametrize("name", KINDS_OF)
def test_padding_of_captions_and_sequences_changes_nothing(name: str) -> None:
    network, (x, t), full = awake(name), inputs(), conditions()
    texts = ["a", "red", None, ""]
    short, long = (network(x, t, full | {"caption": encode_texts(texts, length)}) for length in (4, 12))
    assert gap(short, long).max() <= SAME
    padding = torch.full((BATCH, 4, 2), math.nan, dtype=torch.float64)
    padded = full | {"sequence": torch.cat([full["sequence"], padding], 1)}
    assert gap(network(x, t, padded), network(x, t, full)).max() <= SAME
    # The empty caption is one: it is told from none.
    empty, none = (network(x, t, full | {"caption": encode_texts([text] * 4, 12)}) for text in ("", None))
    assert gap(empty, none).min() >= OTHER
    # The order of a caption's letters matters.
    one, two = (network(x, t, full | {"caption": encode_texts([text] * 4, 12)}) for text in ("ab", "ba"))
    assert gap(one, two).min() >= OTHER


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_captions_are_read_place_by_place(name: str) -> None:
    """By attention, not in the mean alone: with the keys and values of its tokens gone, something is lost."""
    network, (x, t) = awake(name), inputs()
    out = [network(x, t, {"caption": encode_texts([text] * 4, 12)}) for text in ("ab", "xyz")]
    for layer in [m for m in network.modules() if isinstance(m, Attention)]:
        layer.kv.weight.data.zero_()
    mean = [network(x, t, {"caption": encode_texts([text] * 4, 12)}) for text in ("ab", "xyz")]
    assert gap(out[0] - out[1], mean[0] - mean[1]).min() >= OTHER


@pytest.mark.parametrize("name", KINDS_OF)
def test_every_parameter_learns(name: str) -> None:
    network, (x, t), full = awake(name).train(), inputs(), conditions()
    mixed = {key: hide(value, torch.arange(4) == i % 4) for i, (key, value) in enumerate(full.items())}
    network(x, t, mixed).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", KINDS_OF)
def test_config_round_trip(name: str) -> None:
    network, (x, t), full = awake(name), inputs(), conditions()
    config = json.loads(json.dumps(network.config))
    again = create_network(config).double().eval()
    again.load_state_dict(network.state_dict())
    assert again.config == network.config
    assert dict(again.conditions) == SIZES
    assert config["conditions"] == SIZES
    assert config["text"] == TEXT
    assert torch.equal(again(x, t, full), network(x, t, full))


@pytest.mark.parametrize("name", ["unet-energy", "dit-energy"])
def test_an_energy_network_is_the_gradient_of_its_potential_under_conditions(name: str) -> None:
    network, (x, t), full = awake(name), inputs(), conditions()
    mixed = {key: hide(value, torch.arange(4) == i % 4) for i, (key, value) in enumerate(full.items())}
    slope, direction, h = network(x, t, mixed), normal(BATCH, *EVENT, seed=9), 1e-5
    up, down = (network.potential(x + s * h * direction, t, mixed) for s in (1, -1))
    along = (slope * direction).flatten(1).sum(1)
    # A central difference errs by h²/6 of a third derivative, and by rounding, 1e-16/h, of the potential's size.
    assert ((up - down) / (2 * h) - along).abs().max() <= 1e-7 * along.abs().max()


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_float32_and_bfloat16_agree_with_float64(name: str) -> None:
    """30 units of rounding of the output's size, as for the other conditions (test_backbones)."""
    for dtype, unit in ((torch.float32, 2**-24), (torch.bfloat16, 2**-9)):
        network, (x, t), full = awake(name).to(dtype).double(), inputs(), conditions()
        x = x.to(dtype).double()
        full = {k: v.to(dtype).double() if v.is_floating_point() else v for k, v in full.items()}
        full["image"] = full["image"][..., :6, :4]
        low = {k: v.to(dtype) if v.is_floating_point() else v for k, v in full.items()}
        out = copy.deepcopy(network).to(dtype)(x.to(dtype), t.float(), low)
        truth = network(x, t, full)
        assert out.dtype == dtype
        assert (out.double() - truth).abs().max() <= 30 * unit * truth.abs().max()


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_conditions_of_another_dtype_than_the_network(name: str) -> None:
    """Labels and captions in any integers; pictures in float32 for a float64 network."""
    network, (x, t), full = awake(name), inputs(), conditions()
    low = {k: v.float() if v.is_floating_point() else v.to(torch.int16) for k, v in full.items()}
    high = {k: v.double() if v.is_floating_point() else v for k, v in low.items()}
    assert gap(network(x, t, low), network(x, t, high | {"label": full["label"]})).max() <= 1e-6


REFUSED = [
    ({"name": "mlp", "conditions": {"image": 3}}, "unknown condition 'image'"),
    ({"name": "mlp", "conditions": {"caption": 8}}, "unknown condition 'caption'"),
    ({"name": "transformer", "conditions": {"mask": 1}}, "unknown condition 'mask'"),
    ({"name": "dit", "conditions": {"picture": 3}}, "unknown condition 'picture'"),
    ({"name": "dit", "conditions": {"imgae": 3}}, "Did you mean 'image'"),
    ({"name": "dit", "conditions": {"image": -1}}, "conditions.image must be an integer from 0"),
    ({"name": "dit", "conditions": {"image": 2.0}}, "conditions.image must be an integer"),
    ({"name": "dit", "conditions": {"caption": 5000}}, "conditions.caption must be an integer from 0 to 4096"),
    ({"name": "dit", "conditions": ["image"]}, "conditions must be a mapping"),
    ({"name": "dit", "text": {"width": 8}}, "text is for networks that take the condition caption"),
    ({"name": "dit", "conditions": {"caption": 8}, "text": {"wide": 8}}, "unknown option of text 'wide'"),
    ({"name": "dit", "conditions": {"caption": 8}, "text": {"length": 8}}, "unknown option of text 'length'"),
    ({"name": "dit", "conditions": {"caption": 8}, "text": {"heads": 3, "width": 8}}, "heads must divide width"),
    ({"name": "unet", "attention": (), "conditions": {"caption": 4}}, "captions are read by attention"),
]


@pytest.mark.parametrize(("config", "says"), REFUSED)
def test_configurations_are_refused(config: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_network(config)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("image", torch.zeros(4, 3, 12, 8), r"'image' must be real numbers of shape \(4, 2, any, any\), got"),
        ("image", torch.zeros(3, 2, 12, 8), r"'image' must be real numbers of shape \(4, 2, any, any\), got"),
        ("image", torch.zeros(4, 2, 12), "'image' must be real numbers"),
        ("image", torch.zeros(4, 2, 12, 8, dtype=torch.int64), "'image' must be real numbers"),
        ("image", torch.full((4, 2, 12, 8), math.inf), "'image' holds an infinity"),
        ("mask", torch.zeros(4, 2, 12, 8), r"'mask' must be real numbers of shape \(4, 1, any, any\)"),
        ("caption", torch.zeros(4, 13, dtype=torch.int64), "caption must have at most 12 tokens, got 13"),
        ("caption", torch.zeros(4, 12), "'caption' must be integers"),
        ("caption", torch.full((4, 12), 257), r"caption must lie in \[0, 257\) \(-1 is none\), got \[257\]"),
        ("caption", torch.full((4, 12), -2), r"caption must lie in .*, got \[-2\]"),
        ("vector", torch.zeros(4, 4), r"'vector' must be real numbers of shape \(4, 3\)"),
        ("sequence", torch.zeros(4, 5, 3), r"'sequence' must be real numbers of shape \(4, any, 2\)"),
        ("label", torch.full((4,), 4), r"label must lie in \[0, 4\)"),
        ("picture", torch.zeros(4, 2, 12, 8), "unknown condition 'picture'"),
    ],
)
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_conditions_are_refused(name: str, key: str, value: Tensor, says: str) -> None:
    with pytest.raises(UserError, match=says):
        awake(name).check_condition({key: value}, BATCH)


@pytest.mark.parametrize("shape", [(3, 12, 8), (1, 8, 8), (3, 32, 32)])
def test_a_default_network_takes_what_the_data_have(shape: tuple[int, ...]) -> None:
    for name in ("unet", "dit"):
        config = default(shape, {"image": 3, "caption": 9, "mask": 1}, name=name)
        network = create_network(config).double().eval()
        x = normal(2, *shape)
        given = {"image": normal(2, 3, 4, 4), "caption": encode_texts(["a", None], 9), "mask": normal(2, 1, 4, 4)}
        assert torch.equal(network(x, torch.zeros(2).double(), given), torch.zeros_like(x))
    with pytest.raises(UserError, match="unknown condition 'image'"):
        default((2,), {"image": 3})


def test_a_default_unet_that_reads_tokens_has_attention() -> None:
    """Sides that halve to 25 have none by default, and would be refused."""
    assert default((3, 100, 100))["attention"] == []
    assert default((3, 100, 100), {"caption": 9})["attention"] == [25]
    assert default((3, 100, 100), {"sequence": 2, "label": 3})["attention"] == [25]
    assert default((3, 100, 100), {"caption": 0, "label": 3})["attention"] == []
    for shape in ((3, 32, 32), (1, 8, 8)):
        assert default(shape, {"caption": 9})["attention"] == default(shape)["attention"]
    with pytest.raises(UserError, match="give at least one attention size"):
        default((3, 134, 134), {"caption": 9})  # 67 pixels are 4,489 places
    assert default((3, 134, 134), {"caption": 9}, attention=(67,))["attention"] == [67]
