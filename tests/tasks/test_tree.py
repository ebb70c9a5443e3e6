"""The code of a sample: the reverse channel code against normal laws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from langevin import Noise
from langevin.tasks.compress import tree


def problem(n: int, rho: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """m ~ N(0, ρ) of q = N(m, 1) against p = N(0, 1 + ρ): m, u, v, and KL in bits."""
    m = Noise(5, 1).normal((n,))[0] * math.sqrt(rho)
    u, v = torch.ones(n, dtype=torch.float64), torch.full((n,), 1 + rho, dtype=torch.float64)
    return m, u, v, float(tree.information(m, u, v).sum())


def weight(m: Tensor, u: Tensor, v: Tensor, z: Tensor) -> float:
    """log₂ q/p of what was sent."""
    y = v.sqrt() * z
    return float((y**2 / v - (y - m) ** 2 / u + torch.log(v / u)).sum()) / (2 * math.log(2))


def test_information_is_the_divergence():
    p, q = (torch.distributions.Normal(m, s) for m, s in ((0.0, 1.3), (0.4, 0.7)))
    truth = float(torch.distributions.kl_divergence(q, p)) / math.log(2)
    mine = tree.information(*(torch.tensor(v, dtype=torch.float64) for v in (0.4, 0.49, 1.69)))
    assert abs(float(mine) - truth) < 1e-6


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (7, 3), (64, 700), (5000, 40), (5000, 9000), (30, 360)])
def test_layout(count: int, wanted: int) -> None:
    """Every coordinate is in one block, the bits are enough, and what they are beyond is less than a choice a path."""
    layout = tree.Layout(count, wanted)
    first, size = layout.windows()
    covered = torch.cat([torch.arange(a, a + s) for a, s in zip(first.flatten().tolist(), size.flatten().tolist())])
    assert torch.equal(covered, torch.arange(count))
    assert wanted <= layout.total < wanted + layout.bits * layout.paths


@pytest.mark.parametrize(("n", "rho"), [(2500, 0.2), (600, 1.5)])
def test_sample_is_one_of_q(n: int, rho: float) -> None:
    """As many bits as the divergence give a y whose log q/p is nearly the divergence, and whose noise is normal.

    A beam of M paths loses a share of about 3.1/(ln M)² (the speed of a branching walk of M particles, Brunet and
    Derrida 1997, with the constant seen here), 3.8 % at 8192, and the end of a path some bits: 0.91 is asked. The noise
    y − m has variance 1 to 4 standard errors, √(2/n), a bias of twice the lost share of KL a coordinate allowed, and
    does not lean to m: that is the correlation's standard error, 1/√n, and the share of m that is lost.
    """
    m, u, v, bits = problem(n, rho)
    choices, z = tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(3, 1))
    layout = tree.Layout(n, math.ceil(bits))
    assert torch.equal(tree.receive(choices, layout, Noise(3, 1)), z)
    assert int(choices.min()) >= 0
    assert int(choices.max()) < 2**layout.bits
    assert weight(m, u, v, z) > 0.91 * bits
    rest = v.sqrt() * z - m
    lost = 2 * 0.09 * bits * math.log(2) / n
    assert abs(float(rest.square().mean()) - 1) < 4 * math.sqrt(2 / n) + lost
    assert abs(float(rest.mean())) < 4 / math.sqrt(n)
    assert abs(float((rest * m).mean()) / math.sqrt(rho)) < 4 / math.sqrt(n) + 0.09


def test_what_is_to_be_said_may_lie_anywhere():
    """All of it in a tenth of the coordinates, side by side: the shuffled order spreads it over the blocks."""
    m, u, v, _ = problem(2000, 0.3)
    m[200:] = 0
    m[:200] *= math.sqrt(10)
    bits = float(tree.information(m, u, v).sum())
    _, z = tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(3, 1))
    assert weight(m, u, v, z) > 0.82 * bits  # taken in a row they get 0.02 of it


def test_beam_is_what_makes_it_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """One path alone, the best candidate of each block by itself, gets much less out of the same bits."""
    m, u, v, bits = problem(1000, 0.5)
    found = []
    for beam in (1, 64, 2048):
        monkeypatch.setattr(tree, "BEAM", beam)
        _, z = tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(3, 1))
        found.append(weight(m, u, v, z) / bits)
    assert found[0] < 0.7 < found[1] < found[2]


def test_another_seed_is_another_code():
    m, u, v, bits = problem(200, 0.5)
    first, second = (tree.send(v.sqrt() * m / u, (1 - v / u) / 2, math.ceil(bits), Noise(s, 1))[1] for s in (0, 1))
    assert not torch.allclose(first, second)
    one, two = (tree.Book(tree.Layout(200, 100), Noise(0, 1).step(i)) for i in (0, 1))
    assert not torch.allclose(one.table, two.table)
    assert not torch.equal(one.order, two.order)
    # Windows of one sequence: standard normal, to 4 standard errors of a mean and a variance.
    row = one.table[:, 0].double()
    assert abs(float(row.mean())) < 4 / 128
    assert abs(float(row.var()) - 1) < 4 * math.sqrt(2) / 128
