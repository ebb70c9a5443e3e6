"""The encoder of images: a few numbers, each sample's own, and it learns."""

from __future__ import annotations

import pytest
import torch

from langevin._errors import UserError
from langevin.nn import Encoder, create_network, default


def awake(**options: object) -> Encoder:
    torch.manual_seed(0)
    network = Encoder(2, 5, size=(8, 12), width=16, multipliers=(1, 2), attention=(4,), **options)  # type: ignore[arg-type]
    for p in network.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return network.double().eval()


def test_a_few_numbers_a_sample() -> None:
    network, x, t = awake(), torch.randn(3, 2, 8, 12, dtype=torch.float64), torch.rand(3)
    out = network(x, t)
    assert (out.shape, out.dtype) == ((3, 5), torch.float64)
    for i in range(3):  # nobody's neighbour matters
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1])[0], out[i], rtol=1e-12, atol=1e-12)
    assert network(x.repeat(1, 1, 2, 2), t).shape == (3, 5)  # of any size that can be halved
    assert not torch.allclose(network(x, t + 0.5), out)


def test_its_numbers_are_of_the_mean_over_all_places() -> None:
    network, held = awake(), []
    network.norm.register_forward_hook(lambda module, given, made: held.append(made))
    out = network(torch.randn(3, 2, 8, 12, dtype=torch.float64), torch.rand(3))
    (features,) = held
    assert features.shape[2:] == (4, 6)
    mean = torch.nn.functional.silu(features).sum((2, 3)) / 24
    torch.testing.assert_close(out, mean @ network.head.weight.T + network.head.bias, rtol=1e-12, atol=1e-12)


def test_untrained_it_says_nothing() -> None:
    assert (Encoder(1, 3, size=(4, 4), width=8, multipliers=(1,))(torch.randn(2, 1, 4, 4), torch.zeros(2)) == 0).all()


def test_configuration() -> None:
    network = awake(conditions={"label": 3, "image": 1})
    again = create_network(network.config)
    assert again.config == network.config
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in network.state_dict().items()}
    chosen = default((1, 8, 8), {"label": 4}, name="encoder", out_channels=10)
    assert (chosen["out_channels"], chosen["conditions"]) == (10, {"label": 4})
    for shape in ((1, 8, 8), (3, 32, 32), (3, 64, 48)):
        assert create_network(default(shape, name="encoder"))(torch.zeros(2, *shape), torch.zeros(2)).shape == (2, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"size": (6, 6), "multipliers": (1, 1, 1)}, "cannot be halved 2 times"),
        ({"attention": (3,)}, "attention must name sizes of the levels"),
        ({"conditions": {"caption": 8}}, "read by attention"),
        ({"width": 12}, "width must be a multiple of 8"),
        ({"out_channels": 0}, "out_channels must be an integer from 1"),
    ],
)
def test_refusals(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        create_network({"name": "encoder", "channels": 1, "size": (8, 8), "width": 8, "multipliers": (1, 2), **options})


def test_learns() -> None:
    """Which half of the picture is the brighter: in two hundred steps on fresh ones, it reads new ones right."""
    torch.manual_seed(0)
    network = Encoder(1, 2, size=(8, 8), width=8, multipliers=(1, 2))
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    which = lambda x: (x[..., :4].mean((1, 2, 3)) > x[..., 4:].mean((1, 2, 3))).long()
    for _ in range(200):
        x = torch.randn(64, 1, 8, 8)
        loss = torch.nn.functional.cross_entropy(network(x, torch.zeros(64)), which(x))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = torch.randn(1000, 1, 8, 8)
    read = network(x, torch.zeros(1000)).argmax(1)
    assert (read == which(x)).double().mean() > 0.9
