"""The moving average against its definition, the order of the data, the learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from langevin._errors import UserError
from langevin.training import EMA, OptimiserConfig, Order
from langevin.training.ema import power_exponent
from langevin.training.learner import learning_rate


def walk(steps: int) -> list[torch.Tensor]:
    return list(torch.randn(steps, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float())


def averaged(points: list[torch.Tensor], **settings: float | None) -> torch.Tensor:
    network = nn.Linear(1, 3, bias=False)
    ema = EMA(network, batch=10, **settings)  # type: ignore[arg-type]
    for n, point in enumerate(points, 1):
        with torch.no_grad():
            network.weight.copy_(point[:, None])
        ema.update(network, n)
    return ema.network.weight[:, 0]  # type: ignore[union-attr, index]


def test_power_function_profile() -> None:
    """After N steps step n weighs n^γ-like: the product of its own 1 − β_n and all later β, typed in from the paper."""
    gamma = power_exponent(0.1)
    points = walk(40)
    weights = []
    for n in range(1, 41):
        weight = 1 - (1 - 1 / n) ** (gamma + 1)
        for later in range(n + 1, 41):
            weight *= (1 - 1 / later) ** (gamma + 1)
        weights.append(weight)
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    expected = sum(w * p.double() for w, p in zip(weights, points))
    # 40 float32 blends, each within 2^-24 of values below 4.
    torch.testing.assert_close(averaged(points, width=0.1).double(), expected, rtol=0, atol=40 * 4 * 2**-24)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.28])
def test_power_function_width(width: float) -> None:
    """The profile's own standard deviation over training is the width; γ(0.05) = 16.97, γ(0.10) = 6.94."""
    gamma = power_exponent(width)
    tau = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    profile = tau**gamma / (tau**gamma).sum()
    mean = (profile * tau).sum()
    assert float(((profile * (tau - mean) ** 2).sum()).sqrt()) == pytest.approx(width, rel=1e-4)
    known = {0.05: 16.97, 0.1: 6.94}
    if width in known:
        assert gamma == pytest.approx(known[width], abs=0.01)


def test_constant_half_life() -> None:
    """Late, a step's weight halves over half_life images; early, over at most 5 % of those seen."""
    ema = EMA(nn.Linear(1, 1), batch=10, width=None, half_life=1000)
    assert ema.decay(10_000) ** 100 == pytest.approx(0.5, rel=1e-12)
    assert ema.decay(1) < 1e-5
    assert ema.decay(40) ** 2 == pytest.approx(0.5, rel=1e-12)  # 400 images seen: a half-life of 20
    points = walk(4)
    expected = points[0].double() * (1 - ema.decay(1))
    network = nn.Linear(1, 3, bias=False)
    start = network.weight.detach().clone()
    ema = EMA(network, batch=10, width=None, half_life=1000)
    with torch.no_grad():
        network.weight.copy_(points[0][:, None])
    ema.update(network, 1)
    expected = expected + ema.decay(1) * start[:, 0].double()
    torch.testing.assert_close(ema.network.weight[:, 0].double(), expected, rtol=0, atol=1e-6)  # type: ignore[union-attr, index]


def test_average_is_apart_and_float32() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    ema = EMA(network, batch=1)
    assert {p.dtype for p in ema.network.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert not ema.network.training
    assert network.training
    network[1].running_mean.fill_(3.0)  # type: ignore[union-attr, operator]
    ema.update(network.float(), 1)
    assert ema.network[1].running_mean.tolist() == [3.0, 3.0]  # type: ignore[index]


def test_bad_average_is_refused() -> None:
    for width in (0.0, 0.3, -1.0):
        with pytest.raises(UserError, match="width"):
            power_exponent(width)
    with pytest.raises(UserError, match="half_life"):
        EMA(nn.Linear(1, 1), batch=1, width=None, half_life=0)


def test_every_epoch_is_a_permutation() -> None:
    order = Order(101, seed=3)
    epochs = [order.permutation(e) for e in range(3)]
    for epoch in epochs:
        assert torch.equal(torch.sort(epoch).values, torch.arange(101))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(Order(101, seed=3).permutation(2), epochs[2])
    assert not torch.equal(Order(101, seed=4).permutation(0), epochs[0])


def test_batches_are_the_stream() -> None:
    """Any batch size reads the same stream, over the ends of epochs."""
    order = Order(10, seed=0)
    stream = torch.cat([order.permutation(e) for e in range(5)])
    for size in (1, 7, 10, 25):
        batches = torch.cat([Order(10, seed=0).batch(i * size, size) for i in range(50 // size)])
        assert torch.equal(batches, stream[: len(batches)])


def test_learning_rate() -> None:
    cosine = OptimiserConfig(lr=2.0, warmup=4, schedule="cosine")
    assert [learning_rate(cosine, n, 0.0) for n in (1, 2, 4, 9)] == [0.5, 1.0, 2.0, 2.0]
    assert learning_rate(cosine, 100, 0.5) == pytest.approx(1.0)
    assert learning_rate(cosine, 100, 1.0) == pytest.approx(0.0)
    assert learning_rate(cosine, 100, 0.25) == pytest.approx(1 + math.sqrt(0.5))
    flat = OptimiserConfig(lr=2.0, warmup=0, schedule="constant")
    assert learning_rate(flat, 1, 0.9) == 2.0
