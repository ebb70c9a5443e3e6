"""docs/particles.md says which particle methods take which guidance: every registered one is tried with each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import langevin
from langevin import UserError, guidance, operators, processes, worlds
from langevin.data import DataInfo
from langevin.denoisers import ContrastiveEncoder, Denoiser, dirac
from langevin.distributions import Dirac
from langevin.samplers.particles import fk_steering, smc, smc_product, twisted_smc
from plain_encoder import PlainEncoder

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "particles.md").read_text(encoding="utf-8")
FOUND = re.findall(
    r"^\| `([\w-]+)` \| (works|refused) \| (works|refused) \| (works|refused) \| (works|refused) \|", PAGE, re.M
)
TABLE = {name: dict(zip(("twisted_smc", "smc_product", "denoiser", "proposal"), cells)) for name, *cells in FOUND}

VP = processes.VP()
WORLD = worlds.random_mixture(2, 3, rms=0.7, seed=1)
OTHER = worlds.random_mixture(2, 2, rms=0.9, seed=4)
PLAIN = WORLD.denoiser(VP)
GRID = torch.linspace(VP.t_max, 0, 6, dtype=torch.float64)
MEASUREMENT = operators.Measurement(
    operators.Matrix(torch.tensor([[1.0, 0.5]], dtype=torch.float64)), torch.tensor([[0.4]], dtype=torch.float64), 0.3
)


@dataclass(frozen=True, eq=False)
class Pictures(Denoiser):
    """The belief about standard normal pictures, whose mean is α x_t."""

    process: processes.ScalarGaussian = VP
    shape: tuple[int, ...] = (1, 4, 4)

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        return Dirac(x_t * self.process.alpha(torch.as_tensor(t)))


def encoder(shape: tuple[int, ...]) -> ContrastiveEncoder:
    return ContrastiveEncoder(PlainEncoder(), VP, DataInfo("known", shape, low=None, high=None), 1.0, True)


def told(size: int) -> Tensor:
    return torch.ones(1, 1, size, dtype=torch.float64)


GUIDED = {
    "apg": lambda: guidance.apg(PLAIN, label=1, guidance_scale=2.0),
    "autoguidance": lambda: guidance.autoguidance(PLAIN.given(label=1), OTHER.denoiser(VP), 1.5),
    "cfg-plus-plus": lambda: guidance.cfg_plus_plus(PLAIN, label=1, scale=0.6, grid=GRID),
    "cfg-zero-star": lambda: guidance.cfg_zero_star(PLAIN, label=1, guidance_scale=2.0),
    "classifier": lambda: guidance.classifier(PLAIN, WORLD.classifier(VP), label=1, scale=2.0),
    "classifier-free": lambda: guidance.classifier_free(PLAIN, label=1, guidance_scale=2.0),
    "clip": lambda: guidance.clip_guidance(Pictures(), encoder((1, 4, 4)), told(16)[0] / 4, torch.ones(1), grid=GRID),
    "conjunction": lambda: guidance.conjunction(PLAIN, [{"label": 0}, {"label": 1}]),
    "dps": lambda: guidance.dps(PLAIN, MEASUREMENT),
    "energy": lambda: guidance.energy(PLAIN, lambda x: x.square().sum(1)),
    "interval": lambda: guidance.interval(
        PLAIN, guidance.classifier_free(PLAIN, label=1, guidance_scale=2.0), (0.2, 5.0)
    ),
    "linear": lambda: guidance.linear([PLAIN, OTHER.denoiser(VP)], [0.5, 0.5]),
    "moment-matching": lambda: guidance.moment_matching(PLAIN, MEASUREMENT),
    "negate": lambda: guidance.negate(PLAIN, OTHER.denoiser(VP), 0.3),
    "pigdm": lambda: guidance.pigdm(PLAIN, MEASUREMENT),
    "product": lambda: guidance.product([PLAIN, OTHER.denoiser(VP)]),
    "rescale": lambda: guidance.rescale(guidance.classifier_free(PLAIN, label=1, guidance_scale=2.0), 0.7),
    "similarity": lambda: guidance.similarity(PLAIN, encoder((2,)), text=told(2)),
    "threshold": lambda: guidance.threshold(guidance.classifier_free(PLAIN, label=1, guidance_scale=2.0)),
}
REWARD = lambda x: -x.flatten(1).square().sum(1)
METHODS = {
    "twisted_smc": lambda guided: twisted_smc(guided, n=8, grid=GRID),
    "smc_product": lambda guided: smc_product(guided, n=8, grid=GRID),
    "denoiser": lambda guided: fk_steering(guided, REWARD, n=8, grid=GRID),
    "proposal": lambda guided: fk_steering(
        PLAIN if guided.shape == PLAIN.shape else Pictures(), REWARD, n=8, grid=GRID, proposal=guided
    ),
}


def test_the_page_has_every_guidance() -> None:
    assert set(TABLE) == {row.name for row in langevin.methods("guidance")} == set(GUIDED)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GUIDED)
def test_what_the_page_says(name: str, method: str) -> None:
    """Particles come out with finite weights, not all on one of the first, or the guidance is refused in a sentence."""
    guided = GUIDED[name]()
    if TABLE[name][method] == "refused":
        with pytest.raises(UserError, match="must be"):
            METHODS[method](guided)
        return
    found = METHODS[method](guided)
    assert found.x.shape == (1, 8, *guided.shape)
    assert bool(found.x.isfinite().all())
    assert float(found.ess[0, -1]) >= 1
    assert bool(found.log_evidence.isfinite().all())


def test_one_guidance_in_another() -> None:
    """Twisted: the law of the inner guided process, tilted by the outer factor; of a point belief, as networks have."""
    inner = guidance.energy(dirac(PLAIN), lambda x: x.square().sum(1))
    found = twisted_smc(guidance.classifier(inner, WORLD.classifier(VP), label=1), n=8, grid=GRID)
    assert bool(found.x.isfinite().all())


def test_a_rescaled_pooling_is_no_product() -> None:
    """It was taken for the product of its parts, without its rescaling."""
    guided = guidance.classifier_free(PLAIN, label=1, guidance_scale=2.0, rescale=0.7)
    with pytest.raises(UserError, match="rescale"):
        smc_product(guided, n=8, grid=GRID)
    assert smc(PLAIN, lambda x, t, belief: REWARD(belief.mean), proposal=guided, n=8, grid=GRID).x.shape == (1, 8, 2)
