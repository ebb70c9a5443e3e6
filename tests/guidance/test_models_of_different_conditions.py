"""Two models that know different named conditions, composed: the joint conditional law, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin.denoisers import Denoiser, Transform
from langevin.guidance import classifier, conjunction, linear, product
from support import log_prob_gap, sliced_w2, w2_floor

PROCESS = processes.VP()
ENDS = torch.tensor([-0.8, 0.5], dtype=torch.float64)
"""Of the first coordinate by its label, with a standard deviation of 0.3."""
TOLD = torch.tensor([0.9], dtype=torch.float64)
N = 1000


def law(label: int | None = None, vector: torch.Tensor | None = None) -> worlds.GaussianMixture:
    """x = (u, v) given what is known: u of its label's component, v ~ N(0, 1), of which ``vector`` is v + N(0, 0.2²).

    Given x the two conditions are independent, so p(x | label, vector) = p(x | label) p(x | vector) / p(x), and since u
    and v are independent, so are their noised laws: the same holds at every noise level.
    """
    first = ENDS if label is None else ENDS[label : label + 1]
    gain = 0.0 if vector is None else 1 / (1 + 0.2**2)
    second = 0.0 if vector is None else gain * float(vector)
    means = torch.stack((first, torch.full_like(first, second)), 1)
    spreads = torch.tensor([0.3**2, 1 - gain], dtype=torch.float64)
    return worlds.GaussianMixture(torch.ones(len(first)), means, spreads.diag().expand(len(first), 2, 2))


@dataclass(frozen=True, eq=False)
class Model(Denoiser):
    """The exact belief of a model that was told some of the conditions."""

    names: tuple[str, ...]
    told: tuple[tuple[str, object], ...] = ()
    process: processes.Process = PROCESS
    shape: tuple[int, ...] = (2,)

    def conditions(self):
        return self.names

    def _bind(self, condition):
        return replace(self, told=tuple({**dict(self.told), **condition}.items()))

    def __call__(self, x_t, t):
        return law(**dict(self.told)).denoiser(self.process)(x_t, t)


LABELS, VECTORS, BOTH = Model(("label",)), Model(("vector",)), Model(("label", "vector"))
WAYS = {
    "linear": lambda: linear([LABELS.given(label=1), VECTORS.given(vector=TOLD), LABELS], [1, 1, -1]),
    "conjunction": lambda: conjunction(BOTH, [{"label": 1}, {"vector": TOLD}]),
    "classifier": lambda: classifier(VECTORS.given(vector=TOLD), law().classifier(PROCESS), label=1),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_joint_conditional(way):
    """x̂_0 is that under both conditions, at noise levels from σ/α = e³ to e⁻³, and samples have the joint law.

    x̂_0 to rounding: differences of scores times σ²/α ≤ 1e3, 1e-15 · 1e3 with a margin of 100. The law as in
    ``laws.test_laws``: W2 within mean + 4 sd of what two sets of the truth show, the mean of log p within 4 standard
    errors; 120 steps of order 2 leave a bias of far less (there measured on harder laws).
    """
    truth, guided = law(1, TOLD), WAYS[way]()
    for t in PROCESS.time(torch.linspace(-6, 6, 5, dtype=torch.float64)):
        x = truth.sample(5, 1, process=PROCESS, t=t)
        found, known = guided(x, t).mean, truth.denoiser(PROCESS)(x, t).mean
        torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-10)
    start = truth.sample(N, 5, process=PROCESS, t=1.0)
    grid = samplers.grids.karras(PROCESS, 120)
    x = langevin.sample(guided, samplers.DPMSolverPP(), start=start, grid=grid, batch=N)
    assert sliced_w2(x, truth.sample(N, 77)) < w2_floor(truth, N)
    assert log_prob_gap(truth, x) < 4


def test_each_model_keeps_its_own_names():
    """A condition that one of them does not know is refused, and can be given to no pooling of both."""
    for model, name in ((LABELS, "vector"), (VECTORS, "label")):
        with pytest.raises(UserError, match=f"condition '{name}' is not one this model takes"):
            model.given({name: 1})
    assert linear([LABELS, VECTORS], [0.5, 0.5]).conditions() == ()
    assert linear([LABELS, BOTH], [0.5, 0.5]).conditions() == ("label",)


@dataclass(frozen=True, eq=False)
class Styled(Transform):
    """A model whose classes have the name ``style``."""

    def conditions(self):
        return ("style",)

    def _bind(self, condition):
        return replace(self, base=self.base.given(label=condition["style"]))

    def __call__(self, x_t, t):
        return self.base(x_t, t)


def test_whole_beliefs():
    """``product`` of beliefs about the same 16 points, of which a label says the parity of the row and a style that of
    the column: four points are left, with the weights of Bayes' rule in the belief, and in 2,000 samples within 4
    standard errors √(p(1 − p)/n) at any number of steps, here 3.
    """
    axis = torch.tensor([-1.0, -0.3, 0.4, 1.1], dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    prior = torch.softmax(axis, 0)[row] * torch.softmax(-axis / 2, 0)[column]
    first, second = (worlds.Empirical(points, prior, labels=index % 2) for index in (row, column))
    styled = Styled(second.denoiser(PROCESS))
    joint = product([first.denoiser(PROCESS).given(label=1), styled.given(style=0), styled], [1, 1, -1])
    left = torch.where((row % 2 == 1) & (column % 2 == 0), prior, 0.0)
    left = left / left.sum()
    n = 2000
    x = langevin.sample(joint, samplers.Ancestral(), n=n, steps=3, seed=1, batch=n)
    shares = (x[:, None] == points).all(-1).double().mean(0)
    assert float(shares.sum()) == 1
    assert bool(((shares - left).abs() <= 4 * torch.sqrt(left * (1 - left) / n)).all()), (shares, left)
    truth = worlds.Empirical(points, left)
    y = truth.sample(5, 3, process=PROCESS, t=0.4)
    torch.testing.assert_close(joint(y, 0.4).mean, truth.denoiser(PROCESS)(y, 0.4).mean, rtol=1e-10, atol=1e-10)
    assert math.isclose(float(left.sum()), 1.0)
