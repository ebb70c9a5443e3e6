"""Pictures that an encoder reads: what is absent is absent, each sample its own, and a mapping is learned."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import langevin
from langevin import UserError, data, nn, training
from langevin.denoisers.conditions import absent, hide
from langevin.denoisers.footprint import footprint
from langevin.nn import create_network
from langevin.nn.picture import PictureEncoder

SMALL = {"size": 8, "width": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": {"channels": 3, "width": 16, "depth": 2},
    "transformer": {"channels": 3, "length": 5, "width": 16, "depth": 1, "heads": 2},
    "unet": {"channels": 3, "size": (8, 8), "width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)},
    "dit": {"channels": 3, "patch": 2, "width": 16, "depth": 1, "heads": 2},
    "encoder": {"channels": 3, "out_channels": 4, "size": (8, 8), "width": 8, "multipliers": (1, 2)},
}
EVENTS = {"mlp": (3,), "transformer": (3, 5), "unet": (3, 8, 8), "dit": (3, 8, 8), "encoder": (3, 8, 8)}
NAMES = [*CONFIGS, "mlp-energy", "transformer-energy", "unet-energy", "dit-energy"]
SIZES = {"label": 4, "image": 2, "mask": 1}
BATCH = 4
SAME, OTHER = 1e-12, 1e-5
"""Sums of float64 in another order; and what a condition changes at least."""


def awake(name: str, **options: Any) -> Any:
    """A float64 network that no longer returns zeros: every parameter moved by the same seeded noise."""
    kind, _, energy = name.partition("-")
    torch.manual_seed(0)
    told = {"conditions": SIZES, "pictures": {"image": SMALL, "mask": SMALL}}
    network = create_network({"name": kind, **CONFIGS[kind], **told, **options, "energy": bool(energy)})
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.double().eval()


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(name: str, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    return normal(batch, *EVENTS[name.partition("-")[0]]), torch.linspace(-2, 2, batch, dtype=torch.float64)


def conditions(batch: int = BATCH) -> dict[str, Tensor]:
    return {
        "label": torch.arange(batch) % 4,
        "image": normal(batch, 2, 8, 8, seed=2),
        "mask": (normal(batch, 1, 8, 8, seed=3) > 0).double(),
    }


def gap(a: Tensor, b: Tensor) -> Tensor:
    """The largest difference of each sample, over the size of all."""
    return (a - b).flatten(1).abs().amax(1) / a.abs().amax()


@pytest.mark.parametrize("key", ["image", "mask"])
@pytest.mark.parametrize("name", NAMES)
def test_absence_is_one_thing_however_it_is_said(name: str, key: str) -> None:
    network, (x, t), full = awake(name), inputs(name), conditions()
    lacking = {k: v for k, v in full.items() if k != key}
    hidden = torch.tensor([False, True, False, True])
    missing, given = network(x, t, lacking), network(x, t, full)
    for marked in (lacking | {key: absent(full[key], BATCH)}, lacking | {key: hide(full[key], torch.ones(4) > 0)}):
        network.check_condition(marked, BATCH)
        assert torch.equal(network(x, t, marked), missing)
    some = network(x, t, full | {key: hide(full[key], hidden)})
    assert gap(some, missing)[hidden].max() <= SAME
    assert gap(some, given)[~hidden].max() <= SAME
    assert gap(given, missing).min() >= OTHER
    # What the picture shows matters, and a black one is told from none.
    assert gap(given, network(x, t, full | {key: full[key].roll(1, 0)})).max() >= OTHER
    assert gap(network(x, t, full | {key: torch.zeros_like(full[key])}), missing).min() >= OTHER
    # So does where it shows it, and how bright it is, which a mean over places and a norm would forget.
    shifted, brighter = full[key].roll(2, 3), full[key] + 0.5
    assert gap(given, network(x, t, full | {key: shifted})).min() >= OTHER
    assert gap(given, network(x, t, full | {key: brighter})).min() >= OTHER


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_see_each_other(name: str) -> None:
    """With some of each condition absent, in a batch as large as the image is wide."""
    network, (x, t), full = awake(name), inputs(name, 8), conditions(8)
    mixed = {key: hide(value, (torch.arange(8) + i) % 3 == 0) for i, (key, value) in enumerate(full.items())}
    together = network(x, t, mixed)
    for i in range(8):
        alone = network(x[i : i + 1], t[i : i + 1], {k: v[i : i + 1] for k, v in mixed.items()})
        assert (alone[0] - together[i]).abs().max() <= SAME * together.abs().max()


@pytest.mark.parametrize("name", ["mlp", "unet"])
def test_nothing_of_an_absent_picture_leaks(name: str) -> None:
    """A row that is partly not-a-number is refused where conditions enter, and taken as absent, whole, in a loop."""
    network, (x, t), full = awake(name).train(), inputs(name), conditions()
    spoiled = full["image"].clone()
    spoiled[1, 0, 3, 2] = math.nan
    with pytest.raises(UserError, match="condition 'image' is partly not-a-number"):
        network.check_condition({"image": spoiled}, BATCH)
    hidden = torch.arange(4) == 1
    hid = network(x, t, full | {"image": hide(full["image"], hidden)})
    assert torch.equal(network(x, t, full | {"image": spoiled}), hid)
    network(x, t, full | {"image": absent(full["image"], BATCH)}).square().sum().backward()
    gone = network.conditioning.encoders["image"].parameters()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in gone)
    assert network.conditioning.no_picture["image"].grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name: str) -> None:
    network, (x, t), full = awake(name).train(), inputs(name), conditions()
    mixed = {key: hide(value, torch.arange(4) == i) for i, (key, value) in enumerate(full.items())}
    network(x, t, mixed).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NAMES)
def test_config_round_trip(name: str) -> None:
    network, (x, t), full = awake(name), inputs(name), conditions()
    config = json.loads(json.dumps(network.config))
    assert config["pictures"] == {"image": SMALL, "mask": SMALL}
    assert dict(network.conditions) == config["conditions"] == SIZES
    again = create_network(config).double().eval()
    again.load_state_dict(network.state_dict())
    assert again.config == network.config
    assert torch.equal(again(x, t, full), network(x, t, full))


@pytest.mark.parametrize("name", ["unet", "dit", "encoder"])
def test_beside_is_what_it_was_and_encoded_pictures_lie_beside_nothing(name: str) -> None:
    """The same weights of a seed, whether the default is said or not; one kind of picture beside, one encoded."""
    plain, said = awake(name, pictures={}), awake(name, pictures={"mask": "beside", "image": "beside"})
    (x, t), full = inputs(name), conditions()
    assert "pictures" not in plain.config
    assert plain.state_dict().keys() == said.state_dict().keys()
    assert torch.equal(plain(x, t, full), said(x, t, full))
    assert [n.conditioning.planes for n in (plain, awake(name))] == [5, 0]
    mixed = awake(name, pictures={"image": "encoder"})
    assert mixed.conditioning.planes == 2
    seen: list[Tensor] = []
    mixed.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mixed(x, t, full)
    assert torch.equal(seen[0], torch.cat([x, full["mask"], torch.ones(4, 1, 8, 8, dtype=torch.float64)], 1))


@pytest.mark.parametrize("name", ["mlp-energy", "unet-energy"])
def test_an_energy_network_is_the_gradient_of_its_potential(name: str) -> None:
    network, (x, t), full = awake(name), inputs(name), conditions()
    slope, direction, h = network(x, t, full), normal(*x.shape, seed=9), 1e-5
    up, down = (network.potential(x + s * h * direction, t, full) for s in (1, -1))
    along = (slope * direction).flatten(1).sum(1)
    # A central difference errs by h²/6 of a third derivative, and by rounding, 1e-16/h, of the potential's size.
    assert ((up - down) / (2 * h) - along).abs().max() <= 1e-7 * along.abs().max()


@pytest.mark.parametrize("name", ["mlp", "dit"])
def test_footprint_counts_the_encoder(name: str) -> None:
    """On the meta device, forward and backward: a stem of 16 channels of 32x32 is 128 KiB a sample in float64."""
    network = awake(name, pictures={"image": "encoder", "mask": "encoder"})
    (x, t), full = inputs(name), conditions()
    lacking = {k: v for k, v in full.items() if k == "label"}
    for learning in (False, True):
        held = footprint(network, x, t, full, learning=learning)
        assert held >= 8 * BATCH * 16 * 32 * 32
        assert held > footprint(network, x, t, lacking, learning=learning)
    assert footprint(network, x, t, full, learning=True) > footprint(network, x, t, full)


def test_pictures_of_any_size_are_brought_to_one() -> None:
    """A flat picture is the same one at every size; a mirrored one is another."""
    torch.manual_seed(0)
    encoder = PictureEncoder(2, 6, **SMALL).double()
    with torch.no_grad():
        flat = [encoder(torch.full((1, 2, *size), 0.3, dtype=torch.float64)) for size in ((8, 8), (1, 1), (5, 40))]
    assert max(float((f - flat[0]).abs().max()) for f in flat) <= SAME
    picture = normal(3, 2, 8, 8)
    assert encoder(picture).shape == (3, 6)
    assert (encoder(picture) - encoder(picture.flip(3))).abs().max() >= OTHER


def test_the_last_places_are_read_one_by_one() -> None:
    """Of 16 pixels a side 2x2 places are left; with two of them exchanged the vector is another."""
    torch.manual_seed(0)
    encoder = PictureEncoder(2, 6, size=16, width=8).double()
    picture = normal(3, 2, 16, 16)
    plain = encoder(picture)
    encoder.shrink[-1].register_forward_hook(lambda _, args, out: out.flip(3))
    assert gap(plain, encoder(picture)).min() >= OTHER


def test_bfloat16_agrees_with_float64() -> None:
    """30 units of rounding of the output's size, as for the other conditions (test_backbones)."""
    for dtype, unit in ((torch.float32, 2**-24), (torch.bfloat16, 2**-9)):
        network, (x, t), full = awake("mlp").to(dtype).double(), inputs("mlp"), conditions()
        low = {k: v.to(dtype) if v.is_floating_point() else v for k, v in full.items()}
        high = {k: v.double() if v.is_floating_point() else v for k, v in low.items()}
        out = copy.deepcopy(network).to(dtype)(x.to(dtype), t.float(), low)
        truth = network(x.to(dtype).double(), t, high)
        assert out.dtype == dtype
        assert (out.double() - truth).abs().max() <= 30 * unit * truth.abs().max()


IMAGE = {"image": 3}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"name": "mlp", "conditions": IMAGE}, "unknown condition 'image'.*By an encoder it is taken: pictures"),
    ({"name": "mlp", "conditions": IMAGE, "pictures": {"image": "beside"}}, "unknown condition 'image'"),
    ({"name": "mlp", "conditions": {"sequence": 3}}, r"unknown condition 'sequence'. Known: label, vector.$"),
    ({"name": "coupling", "conditions": IMAGE}, r"unknown condition 'image'. Known: label, vector.$"),
    ({"name": "mlp", "pictures": {"image": "encoder"}}, "pictures has 'image', which is none of"),
    ({"name": "dit", "pictures": {"mask": "beside"}}, "pictures has 'mask', which is none of"),
    ({"name": "dit", "pictures": {"label": "encoder"}}, "unknown picture .of pictures. 'label'"),
    ({"name": "dit", "conditions": IMAGE, "pictures": "encoder"}, "pictures must be a mapping"),
    ({"name": "dit", "conditions": IMAGE, "pictures": ["image"]}, "pictures must be a mapping"),
    ({"name": "dit", "conditions": IMAGE, "pictures": []}, "pictures must be a mapping"),
    ({"name": "dit", "conditions": IMAGE, "pictures": {"image": "encode"}}, "must be 'beside', 'encoder' or settings"),
    ({"name": "dit", "conditions": IMAGE, "pictures": {"image": None}}, "must be 'beside', 'encoder' or settings"),
    ({"name": "dit", "conditions": IMAGE, "pictures": {"image": {"sise": 8}}}, "Did you mean 'size'"),
    (
        {"name": "dit", "conditions": IMAGE, "pictures": {"image": {"size": 12}}},
        "size must be a multiple of 8",
    ),
    ({"name": "dit", "conditions": IMAGE, "pictures": {"image": {"size": 2**20}}}, "pictures.size must be"),
    ({"name": "dit", "conditions": IMAGE, "pictures": {"image": {"width": 4}}}, "pictures.width must be"),
]


@pytest.mark.parametrize(("config", "says"), REFUSED)
def test_configurations_are_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_network(config)


def dots(path: Path, count: int = 1200) -> Path:
    """Points in the plane, and pictures that show where each is: a bright dot with its centre there."""
    point = np.random.default_rng(0).uniform(-1, 1, (count, 2)).astype(np.float32)
    places = np.linspace(-1, 1, 8, dtype=np.float32)
    square = (places - point[:, :1]) ** 2, (places - point[:, 1:]) ** 2
    image = np.exp(-(square[1][:, :, None] + square[0][:, None, :]) / (2 * 0.3**2))
    np.savez(path, x=point, image=2 * image[:, None] - 1)
    return path


@pytest.mark.slow
def test_a_mapping_from_pictures_to_points_is_learned(tmp_path: Path) -> None:
    """The point that a held-out picture shows comes back; that of another picture if another is shown; any if none is.

    Points spread by 0.58 a coordinate, two of them lie 1.04 apart in the mean: less than a tenth of that is a picture
    that is read.
    """
    dataset = data.load(dots(tmp_path / "dots.npz"))
    assert dataset.info.conditions == {"image": (1, 8, 8)}
    options = {"width": "64", "depth": "2", "pictures": json.dumps({"image": SMALL})}
    config = training.Config(
        network=training.NetworkConfig("mlp", options),
        budget=training.BudgetConfig(steps=500),
        optimiser=training.OptimiserConfig(lr=3e-3),
        batch=64,
    )
    training.train(config, dataset, tmp_path / "run", quiet=True)
    model = langevin.load(tmp_path / "run")
    assert model.network.config["pictures"] == {"image": SMALL}
    told = dataset.test.batch(torch.arange(96))
    x = langevin.sample(model.given(image=told["image"]), n=96, steps=16)
    assert (x - told["x"]).norm(dim=1).mean() <= 0.1
    other = langevin.sample(model.given(image=told["image"].roll(1, 0)), n=96, steps=16)
    assert (other - told["x"].roll(1, 0)).norm(dim=1).mean() <= 0.1
    assert (other - told["x"]).norm(dim=1).mean() >= 0.7
    none = langevin.sample(model, n=96, steps=16)
    assert (none - told["x"]).norm(dim=1).mean() >= 0.7


def test_data_with_a_picture_that_a_network_cannot_take_say_both_ways_out(tmp_path: Path) -> None:
    info = data.load(dots(tmp_path / "dots.npz", 60)).info

    def said(name: str | None, options: dict[str, Any], objective: str | None = None) -> str:
        config = training.Config(
            network=training.NetworkConfig(name, options), objective=training.ObjectiveConfig(name=objective)
        )
        with pytest.raises(UserError) as error:
            training.resolve_config(config, info)
        return str(error.value)

    read, left = '--network.options pictures \'{"image": "encoder"}\'', "--network.options conditions '{}'"
    for name in (None, "mlp"):
        message = said(name, {})
        assert message.startswith("network 'mlp' takes label, vector, but data 'dots' have image too; give ")
        assert read in message
        assert left in message
    assert read in said(None, {"conditions": '{"image": 1}', "pictures": '{"image": "beside"}'})
    flow = said(None, {}, "maximum-likelihood")
    assert "network 'coupling' takes label, vector" in flow
    assert read not in flow
    assert left in flow
    for options in ({"conditions": "{}"}, {"pictures": '{"image": "encoder"}'}):
        config = training.resolve_config(training.Config(network=training.NetworkConfig("mlp", options)), info)
        assert config.network.options.get("conditions", {}) == ({"image": 1} if "pictures" in options else {})


def test_the_network_that_suits_tokens_is_named() -> None:
    """Tokens come one-hot: their sequence has two axes, and a transformer reads it."""
    info = data.DataInfo("words", (8,), low=None, high=None, tokens=("a", "b"), conditions={"image": (1, 8, 8)})
    with pytest.raises(
        UserError, match="network 'transformer' takes label, caption, vector, sequence, but data 'words'"
    ):
        training.resolve_config(training.Config(), info)
    read = training.NetworkConfig(None, {"pictures": '{"image": "encoder"}'})
    assert training.resolve_config(training.Config(network=read), info).network.name == "transformer"


def test_what_each_network_takes() -> None:
    assert nn.takes("mlp") == (("label", "vector"), ("image", "mask"))
    assert nn.takes("coupling") == (("label", "vector"), ())
    assert nn.takes("unet")[1] == nn.takes("encoder")[1] == ()
    with pytest.raises(UserError, match="unknown network 'vae'"):
        nn.takes("vae")
