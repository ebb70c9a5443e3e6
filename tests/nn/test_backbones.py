"""The contract of every backbone: shapes, dtypes, absence by sample, and what it learns against an exact denoiser.

It is one file, of more than 400 lines, so that a network stands in its one table once and meets every test of the
contract.
"""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F

from langevin import UserError, methods
from langevin.nn import (
    BACKBONES,
    CODECS,
    DUAL_ENCODERS,
    ENCODERS,
    FLOWS,
    MLP,
    VAE,
    CouplingFlow,
    DiT,
    DualEncoder,
    EDMUNet,
    Encoder,
    LucidrainsUNet,
    Transformer,
    UNet,
    UNet2D,
    create_network,
    default,
    dit,
    mlp,
    unet,
)
from langevin.nn.dit import positions
from langevin.nn.layers import waves

CONFIGS = {
    "mlp": {"name": "mlp", "channels": 5, "width": 24, "depth": 2, "conditions": {"label": 4, "vector": 3}},
    "unet": {
        "name": "unet",
        "channels": 3,
        "size": (12, 8),
        "width": 16,
        "multipliers": (1, 2, 2),
        "blocks": (1, 2, 2),
        "attention": (4, 2),
        "conditions": {"label": 4, "vector": 3, "sequence": 1},
    },
    "dit": {
        "name": "dit",
        "channels": 3,
        "patch": 2,
        "width": 32,
        "depth": 2,
        "heads": 4,
        "conditions": {"label": 4, "vector": 3, "sequence": 1},
    },
}
CONFIGS["transformer"] = {
    "name": "transformer",
    "channels": 3,
    "length": 7,
    "width": 32,
    "depth": 2,
    "heads": 4,
    "conditions": {"label": 4, "vector": 3, "sequence": 1},
}
CONFIGS["unet2d"] = {
    "name": "unet2d",
    "channels": 3,
    "size": (12, 8),
    "width": 16,
    "multipliers": (1, 2, 2),
    "blocks": 2,
    "attention": (4,),
    "head": 8,
    "conditions": {"label": 4},
    "time_range": (-500, 500),  # so wide that labels are taken as they are
}
CONFIGS["edm-unet"] = {
    "name": "edm-unet",
    "channels": 3,
    "size": 8,
    "width": 16,
    "multipliers": (1, 2, 2),
    "blocks": 2,
    "attention": (4,),
    "conditions": {"label": 4},
}
CONFIGS["ncsn++"] = {
    **CONFIGS["edm-unet"],
    "random": True,
    "pyramid": True,
    "taps": (1, 3, 3, 1),
}
CONFIGS["adm"] = {**CONFIGS["edm-unet"], "style": "adm"}
CONFIGS["lucidrains"] = {
    "name": "lucidrains",
    "channels": 3,
    "width": 16,
    "widths": (16, 16, 32),
    "full": (False, True),
    "heads": (2, 2),
    "head": (8, 8),
    "time_range": (-500, 499),
}
EVENTS = {"mlp": (5,), "dit": (3, 12, 8), "transformer": (3, 7)}
EVENTS |= dict.fromkeys(("unet", "unet2d", "edm-unet", "ncsn++", "adm", "lucidrains"), (3, 12, 8))
NAMES = list(CONFIGS)


def awake(name, dtype=torch.float64, **options):
    """A network that no longer returns zeros: every parameter moved by the same seeded noise."""
    torch.manual_seed(0)
    network = create_network(CONFIGS[name] | options)
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.to(dtype).eval()


def inputs(name, batch=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(batch, *EVENTS[name], generator=g, dtype=torch.float64)
    return x.to(dtype), torch.linspace(-2, 2, batch, dtype=torch.float64).to(dtype)


def conditions(network, batch=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(2)
    full = {
        "label": torch.arange(batch) % 4,
        "vector": torch.randn(batch, 3, generator=g, dtype=torch.float64).to(dtype),
        "sequence": torch.randn(batch, 5, 1, generator=g, dtype=torch.float64).to(dtype),
    }
    return {key: full[key] for key in network.conditions}


def gone(key, value, row):
    value = value.clone()
    value[row] = -1 if key == "label" else math.nan
    return value


@pytest.mark.parametrize("name", NAMES)
def test_untrained_network_returns_zeros(name):
    network, (x, t) = create_network(CONFIGS[name]), inputs(name, dtype=torch.float32)
    out = network(x, t, conditions(network, dtype=torch.float32))
    assert out.shape == x.shape
    assert torch.equal(out, torch.zeros_like(x))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    """After two steps away from the zero start, no parameter is without a gradient."""
    network, (x, t) = awake(name).train(), inputs(name)
    network(x, t, conditions(network)).pow(2).sum().backward()
    # What is used only where a condition is absent has its gradient there.
    absent = {key: gone(key, value, 0) for key, value in conditions(network).items()}
    network(x, t, absent).pow(2).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NAMES)
def test_config_is_json_and_makes_the_same_network(name):
    network, (x, t) = awake(name, torch.float32), inputs(name, dtype=torch.float32)
    config = json.loads(json.dumps(network.config))
    again = create_network(config)
    again.load_state_dict(network.state_dict())
    condition = conditions(network, dtype=torch.float32)
    assert config["name"] == CONFIGS[name]["name"]
    assert again.config == network.config
    assert torch.equal(again.eval()(x, t, condition), network(x, t, condition))


@pytest.mark.parametrize("kind", [MLP, UNet, DiT, Transformer])
def test_counting_the_parameters_first_leaves_the_seed_alone(kind):
    torch.manual_seed(3)
    direct = kind().state_dict()
    torch.manual_seed(3)
    made = create_network({"name": kind.name}).state_dict()
    assert all(torch.equal(value, made[key]) for key, value in direct.items())


@pytest.mark.parametrize("name", NAMES)
def test_out_channels(name):
    network, (x, t) = awake(name, out_channels=7), inputs(name)
    assert network(x, t).shape == (4, 7, *EVENTS[name][1:])


# Rounding: errors of single operations add up like a random walk over about 100 layers and their sums, so 30 units of
# rounding of the output's size; a wrong cast (of the time, of a norm's sums) costs hundreds.
TOLERANCE = {torch.float32: 30 * 2**-24, torch.bfloat16: 30 * 2**-9}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtypes_agree_to_rounding(name, dtype):
    """The parameters are rounded first: what is compared is the arithmetic."""
    network = awake(name).to(dtype).double()
    x, t = inputs(name)
    x = x.to(dtype).double()
    condition = conditions(network)
    condition = {k: v.to(dtype).double() if v.is_floating_point() else v for k, v in condition.items()}
    truth = network(x, t, condition)
    low = {k: v.to(dtype) if v.is_floating_point() else v for k, v in condition.items()}
    out = copy.deepcopy(network).to(dtype)(x.to(dtype), t.float(), low)
    assert out.dtype == dtype
    assert (out.double() - truth).abs().max() <= TOLERANCE[dtype] * truth.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_has_the_dtype_of_x(name):
    """A float64 solver around a float32 network, and float32 around autocast."""
    network, (x, t) = awake(name, torch.float32), inputs(name)
    condition = conditions(network)
    truth = network(x.float(), t, condition)
    assert truth.dtype == torch.float32
    assert torch.equal(network(x, t, condition), truth.double())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x.float(), t, condition)
    assert mixed.dtype == torch.float32
    assert (mixed - truth).abs().max() <= TOLERANCE[torch.bfloat16] * truth.abs().max()


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_channels_last_changes_nothing(name, dtype):
    network, (x, t) = awake(name, dtype), inputs(name, dtype=dtype)
    condition = conditions(network, dtype=dtype)
    x.requires_grad_()
    truth = network(x, t, condition)
    (slope,) = torch.autograd.grad(truth.square().sum(), x)
    network.to(memory_format=torch.channels_last)
    y = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    out = network(y, t, condition)
    (other,) = torch.autograd.grad(out.square().sum(), y)
    rounding = 30 * torch.finfo(dtype).eps
    assert (out - truth).abs().max() <= rounding * truth.abs().max()
    assert (other - slope).abs().max() <= rounding * slope.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_training_step_in_bfloat16_autocast_is_close(name):
    """Gradients of a mixed step point where float64's do: cosine above 0.99 (bfloat16 rounds by 0.4 % an operation)."""
    network, (x, t) = awake(name, torch.float32).train(), inputs(name)
    grads = []
    for dtype, context in [(torch.float64, False), (torch.float32, True)]:
        one = copy.deepcopy(network).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=context):
            out = one(x.to(dtype), t, conditions(one, dtype=dtype))
        out.square().mean().backward()
        grads.append(torch.cat([p.grad.double().flatten() for p in one.parameters() if p.grad is not None]))
    assert torch.cosine_similarity(*grads, dim=0) > 0.99


@pytest.mark.parametrize("name", NAMES)
def test_samples_do_not_see_each_other(name):
    """The batch has as many samples as the image is wide, and as it has channels: nothing broadcasts along them."""
    batch = EVENTS[name][-1]
    network, (x, t) = awake(name), inputs(name, batch)
    condition = conditions(network, batch)
    whole = network(x, t, condition)
    for i in range(batch):
        alone = network(x[i : i + 1], t[i : i + 1], {k: v[i : i + 1] for k, v in condition.items()})
        assert torch.allclose(whole[i], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", ["label", "vector", "sequence"])
@pytest.mark.parametrize("name", NAMES)
def test_absence_is_exact_by_sample(name, key):
    network, (x, t) = awake(name), inputs(name)
    full = conditions(network)
    if key not in full:
        pytest.skip(f"{name} takes no {key}")
    some = full | {key: gone(key, full[key], [1, 3])}
    without = network(x, t, {k: v for k, v in full.items() if k != key})
    given, mixed = network(x, t, full), network(x, t, some)
    # Absent samples are as if the key were missing; the others as if all had it. Sums may run in another order.
    assert torch.allclose(mixed[[1, 3]], without[[1, 3]], rtol=0, atol=1e-13)
    assert torch.allclose(mixed[[0, 2]], given[[0, 2]], rtol=0, atol=1e-13)
    assert (given - without).flatten(1).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_an_absent_condition_reaches_a_gradient(name):
    network, (x, t) = awake(name), inputs(name)
    absent = {key: gone(key, value, [0, 1, 2, 3]) for key, value in conditions(network).items()}
    network(x, t, absent).square().sum().backward()
    grads = dict(network.named_parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in grads.values())
    if "vector" in network.conditions:
        assert grads["conditioning.vector_in.weight"].grad.abs().sum() == 0
    if "label" in network.conditions:
        assert grads["conditioning.label.weight"].grad[:-1].abs().sum() == 0
    if "sequence" in network.conditions:
        assert grads["conditioning.sequence_in.weight"].grad.abs().sum() == 0
        assert grads["conditioning.token_in.weight"].grad.abs().sum() == 0


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_padding_a_sequence_changes_nothing(name):
    network, (x, t) = awake(name), inputs(name)
    sequence = conditions(network)["sequence"]
    padded = torch.cat([sequence, torch.full((4, 3, 1), math.nan, dtype=sequence.dtype)], 1)
    short, long = (network(x, t, {"sequence": s}) for s in (sequence, padded))
    assert torch.allclose(short, long, rtol=0, atol=1e-13)
    assert not torch.allclose(short, network(x, t, {"sequence": sequence[:, :4]}), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("time_range", [(-3.0, 3.0), (0.0, 999.0)])
def test_time_is_told_apart_and_held(name, time_range):
    """Neighbouring times in the range differ, near times answer alike, and an infinite log-SNR is a time too."""
    if name == "ncsn++" and time_range[1] > 3:
        pytest.skip("its random waves are for labels of a few units")
    network = awake(name, time_range=time_range)
    low, high = time_range
    t = torch.tensor([low, low + (high - low) / 200, high, math.inf, -math.inf], dtype=torch.float64)
    x = inputs(name, 1)[0].expand(5, *EVENTS[name])
    out = network(x, t)
    assert out.isfinite().all()
    assert torch.pdist(out.flatten(1)).min() > 1e-4
    near = network(x[:1], t[:1] + (high - low) * 1e-5)
    assert (near - out[0]).abs().max() < 1e-2 * (out[1] - out[0]).abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_only(name):
    network, (x, t) = awake(name, dropout=0.5), inputs(name)
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    assert not torch.equal(network(x, t), network(x, t))


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 4, 20), (3, 36, 28)])
@pytest.mark.parametrize("name", ["unet", "dit"])
def test_other_sizes_than_trained(name, shape):
    x = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert awake(name)(x, torch.zeros(2)).shape == x.shape


def test_attention_stands_where_it_was_asked():
    def where(attention):
        torch.manual_seed(0)
        network = UNet(1, size=(16, 16), width=8, multipliers=(1, 1, 1), blocks=3, attention=attention)
        sizes = []
        for module in network.modules():
            if hasattr(module, "qkv"):
                module.register_forward_pre_hook(lambda _, args: sizes.append(math.isqrt(args[0].shape[1])))
        network(torch.randn(1, 1, 16, 16), torch.zeros(1))
        return sizes

    assert where(()) == []
    assert where((4,)) == [4]
    assert where((16, 8)) == [16, 8, 8, 16]


def test_transformer_knows_where_a_patch_stands():
    """Without positions a transformer commutes with a permutation of its patches."""
    network, (x, t) = awake("dit"), inputs("dit")
    moved = network(x.roll(2, dims=3), t).roll(-2, dims=3)
    assert (moved - network(x, t)).abs().max() > 1e-3


def test_untrained_blocks_pass_their_input_on():
    """Residual branches start at nothing: depth costs no signal at the start."""
    torch.manual_seed(0)
    e = torch.randn(2, 8)
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(unet.Block(32, 8, 0.0, heads=1, context=0)(x, e, None), x)
    tokens = x.flatten(2).transpose(1, 2)
    assert torch.equal(dit.Block(32, 2, 4, 0.0, 0)(tokens, F.pad(e, (0, 24)), None), tokens)
    assert torch.equal(mlp.Block(32, 8, 0.0)(x[:, :, 0, 0], e), x[:, :, 0, 0])


def test_detail_takes_the_skip():
    """With the way up from every smaller size cut off, the output still follows x at the full size."""
    network, (x, t) = awake("unet"), inputs("unet")
    network.grow[0].weight.data.zero_()
    out = network(x, t)
    moved = x.clone()
    moved[:, :, 5, 3] += 1
    change = (network(moved, t) - out).abs().sum((0, 1))
    assert change.argmax() == 5 * 8 + 3
    assert change[5, 3] > 0.01


def test_transformer_puts_patches_back():
    """Without attention a patch of the output follows its own patch of the input, on an image that is not square."""
    network, (x, t) = awake("dit"), inputs("dit", 1)
    for block in network.blocks:
        block.attention.out.weight.data.zero_()
    moved = x.clone()
    moved[:, :, 9, 2] += 1
    change = (network(moved, t) - network(x, t)).abs().sum((0, 1))
    assert [tuple(i) for i in (change > 1e-6).nonzero().tolist()] == [(8, 2), (8, 3), (9, 2), (9, 3)]


def test_repr_counts_the_parameters():
    network = create_network(CONFIGS["mlp"])
    count = sum(p.numel() for p in network.parameters())
    assert f"{count / 1e6:.2f} M parameters" in repr(network)


def test_registry_holds_the_networks():
    kinds = {"mlp": MLP, "unet": UNet, "dit": DiT, "transformer": Transformer, "vae": VAE, "coupling": CouplingFlow}
    kinds |= {"encoder": Encoder, "unet2d": UNet2D, "edm-unet": EDMUNet, "lucidrains": LucidrainsUNet}
    kinds |= {"dual-encoder": DualEncoder}
    assert {m.name: m.make for m in methods("nn")} == kinds
    assert {name: kind.name for name, kind in kinds.items()} == {name: name for name in kinds}
    tables = [BACKBONES, CODECS, FLOWS, ENCODERS, DUAL_ENCODERS]
    assert {name: kind for table in tables for name, kind in table.items()} == kinds
    assert [sorted(table) for table in tables[1:]] == [["vae"], ["coupling"], ["encoder"], ["dual-encoder"]]
    assert "encoder" not in BACKBONES


LEVELS = torch.tensor([-1.5, -0.5, 0.5, 1.5])
NOISE = 4.0


def exact(x, weight):
    """E[x_0 | x] for x = x_0 + 4 ε on 8x8 pixels, x_0 a flat image of one of four greys with prior ``weight`` (B, 4).

    The mean over the 64 pixels is known to 4/8 = 0.5, half the distance of two greys.
    """
    logits = weight.log() - (x.flatten(1).mean(1, keepdim=True) - LEVELS).square() * 64 / (2 * NOISE**2)
    return logits.softmax(1) @ LEVELS


LEARNERS = {
    "mlp": lambda: MLP(64, width=64, depth=2, conditions={"label": 4}),
    "unet": lambda: UNet(1, size=(8, 8), width=16, multipliers=(1, 2), blocks=1, conditions={"label": 4}),
    "dit": lambda: DiT(1, patch=2, width=32, depth=2, heads=2, conditions={"label": 4}),
    "transformer": lambda: Transformer(8, length=8, width=32, depth=2, heads=2, conditions={"label": 4}),
    "unet2d": lambda: UNet2D(1, size=(8, 8), width=16, multipliers=(1, 2), head=8, conditions={"label": 4}),
    "edm-unet": lambda: EDMUNet(1, size=8, width=16, multipliers=(1, 2), conditions={"label": 4}),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learns(name):
    """Regression on x_0 finds the exact denoiser of four flat images: without a label, and with one.

    Errors are relative to what an answer that ignores x (without a label) or ignores the label (with one) would have.
    Over six seeds the worst of any network was half of the first bound and two fifths of the second.
    """
    torch.manual_seed(1)
    network = LEARNERS[name]()
    g = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

    def draw(batch):
        k = torch.randint(4, (batch,), generator=g)
        label = torch.where(torch.rand(batch, generator=g) < 0.5, -1, k)
        x0 = LEVELS[k][:, None, None, None].expand(-1, 1, 8, 8)
        return x0, x0 + NOISE * torch.randn(x0.shape, generator=g), label

    def ask(x, label):
        event = x.flatten(1) if isinstance(network, MLP) else x[:, 0] if isinstance(network, Transformer) else x
        return network(event / NOISE, torch.zeros(len(x)), {"label": label}).reshape(x.shape)

    for _ in range(120):
        x0, x, label = draw(64)
        optimizer.zero_grad()
        (ask(x, label) - x0).square().mean().backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        x0, x, label = draw(512)
        unknown = exact(x, torch.ones(1, 4))
        truth = torch.where(label < 0, unknown, LEVELS[label])
        error = (ask(x, label) - truth[:, None, None, None]).square().mean((1, 2, 3))
    plain, named = label < 0, label >= 0
    print(
        error[plain].mean(), truth[plain].square().mean(), error[named].mean(), (unknown - truth)[named].square().mean()
    )
    assert error[plain].mean() < 0.1 * truth[plain].square().mean()
    assert error[named].mean() < 0.25 * (unknown - truth)[named].square().mean()


def test_default_sizes():
    """The sizes the training figures are quoted for."""
    digits, photos = (
        sum(p.numel() for p in create_network(default(shape, {"label": 10})).parameters())
        for shape in [(1, 8, 8), (3, 32, 32)]
    )
    assert 1.0e6 < digits < 1.2e6
    assert 2.5e6 < photos < 2.8e6


def test_a_unet_with_positions():
    """They are those of the DiT, added to the first convolution's output, at any size; and are all that differs."""
    plain, placed = (awake("unet", torch.float32, positions=asked) for asked in (False, True))
    placed.load_state_dict(plain.state_dict())
    assert placed.config["positions"] is True
    assert "positions" not in plain.config  # as models of before have it
    x, t = torch.randn(2, 3, 8, 12), torch.zeros(2)
    stem, (rows, columns) = plain.stem.forward, x.shape[2:]
    where = positions(rows, columns, 16, x)
    plain.stem.forward = lambda image: (
        stem(image)
        + torch.stack([torch.stack([where[i * columns + j] for j in range(columns)], 1) for i in range(rows)], 1)
    )
    assert (plain(x, t) - placed(x, t)).abs().max() < 1e-5
    plain.stem.forward = stem
    assert (plain(x, t) - placed(x, t)).abs().max() > 1e-2
    with pytest.raises(UserError, match="positions must be true or false"):
        UNet(3, size=(8, 8), positions=1)


def test_patches_are_channels_of_a_smaller_network():
    """With ``patch`` p the network is that of the folded picture, which has p² times the channels, and unfolds it."""
    options = {"width": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
    torch.manual_seed(0)
    folded = UNet(3, size=(16, 16), patch=2, conditions={"image": 1}, **options)
    assert folded.config["patch"] == 2
    assert "patch" not in UNet(3, size=(8, 8), **options).config  # as models of before have it
    plain = UNet(12 + 8, 12, size=(8, 8), **options)  # the picture and the plane that says it is there, folded too
    for p in folded.parameters():
        p.data += 0.1 * torch.randn_like(p)
    plain.load_state_dict(folded.state_dict())
    x, t, y = torch.randn(2, 3, 16, 24), torch.tensor([0.1, 0.9]), torch.randn(2, 1, 16, 24)
    fold = lambda z: F.pixel_unshuffle(z, 2)
    given = torch.cat([x, y, torch.ones_like(y)], 1)
    truth = F.pixel_shuffle(plain(fold(given), t), 2)
    torch.testing.assert_close(folded(x, t, {"image": y}), truth, rtol=0, atol=0)
    again = create_network(folded.config)
    again.load_state_dict(folded.state_dict())
    torch.testing.assert_close(again(x, t, {"image": y}), truth, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"image 16x18 cannot be cut into patches of 2 and halved once: .* by 4"):
        folded(torch.randn(1, 3, 16, 18), t[:1])
    with pytest.raises(UserError, match=r"attention must name sizes of the levels, \[8, 4\], got \(16,\)"):
        UNet(3, size=(16, 16), patch=2, **{**options, "attention": (16,)})
    for patch in (0, -1, 1.5, True):
        with pytest.raises(UserError, match="patch must be an integer"):
            UNet(3, size=(16, 16), patch=patch, **options)


def test_fourier_features_of_the_input():
    """The option is kept in the configuration; one level moves the first layer by more than x itself could."""
    network = create_network({"name": "unet", "channels": 1, "size": [8, 8], "multipliers": [1, 2], "fourier": [2, 3]})
    assert network.config["fourier"] == [2, 3]
    assert create_network(network.config).config == network.config
    assert network.stem.weight.shape[1] == 5
    assert "fourier" not in UNet(1, size=(8, 8), multipliers=(1, 2)).config  # as models of before have it
    x = torch.zeros(1, 1, 8, 8)
    with torch.no_grad():
        one, other = (network.stem(waves(v, (2, 3))) for v in (x, x + 1 / 8))
        plain = network.stem.weight[:, :1].abs().amax() * 9 / 8  # the most that x itself can move a feature
    assert (one - other).abs().max() > plain
    with pytest.raises(UserError, match="fourier"):
        create_network({**network.config, "fourier": [99]})
