"""Numbers of any size: finite, or one clear error."""

from __future__ import annotations

import contextlib
import itertools
import random

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers
from langevin._registry import lookup
from langevin.denoisers import AffineParameterization, PhaseParameterization, make_denoiser
from langevin.distributions import Categorical, Diagonal, Dirac, Normal
from langevin.guidance import classifier_free, linear
from laws.table import CHAINS, GRIDS, PHASE_SAMPLERS, PHASES, PREDICTIONS, PROCESSES, SAMPLERS, TABLE_GRIDS
from support import thinned

SCALES = (1e-6, 1e-3, 1.0, 1e3, 1e6)
GUIDANCE = (0.0, 1.0, 7.5, 50.0)
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ARITHMETIC = {
    "float64": (torch.float64, None),
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "float16": (torch.float16, None),
    "autocast bfloat16": (torch.float32, torch.bfloat16),
    "autocast float16": (torch.float32, torch.float16),
}
"""The dtype of a network's weights, and what it is cast to as it runs."""

EVERYDAY, SWEEP = 9, 600
"""Combinations a sampler is run on: of some 80,000 each."""

REFUSED = ("is a sub-sequence of a table", "cannot be read at t = 1")
"""What no choice of numbers can mend: a grid of a table's knots without a table, ε where x_t holds nothing else."""

DIVERGED = ("samples are not finite", "an error that is not finite", "its error is")
"""What is said of numbers that left the range of the arithmetic."""


class Rough(torch.nn.Module):
    """A network that means nothing: its output grows like the logarithm of its input, with two labels that disagree."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.config = {"conditions": {"label": 2}}
        generator = torch.Generator().manual_seed(0)
        self.into = torch.nn.Parameter(torch.randn(4, channels, generator=generator))
        self.label = torch.nn.Parameter(torch.randn(3, 4, generator=generator))
        self.out = torch.nn.Parameter(torch.randn(2, 4, generator=generator))

    def forward(self, x, time, condition=None):
        label = torch.full((len(x),), -1) if condition is None else condition["label"]
        hidden = torch.nn.functional.linear(x, self.into) + self.label[label]
        return torch.nn.functional.linear(torch.asinh(hidden), self.out)


def outcome(sampler, process, prediction, grid, arithmetic, scale, guidance):
    """``finite``, or what the error said."""
    q = PROCESSES[process]
    dtype, cast = ARITHMETIC[arithmetic]
    autocast = contextlib.nullcontext() if cast is None else torch.autocast("cpu", dtype=cast)
    try:
        plain = make_denoiser(Rough().to(dtype), q, AffineParameterization(prediction, sigma_data=0.5), (2,))
        denoiser = classifier_free(plain, {"label": torch.tensor([0, 1, 0, 1])}, guidance_scale=guidance)
        start = scale * q.prior((2,)).sample(Noise(0, 4))
        times = lookup("grids", grid).make(q, 5)
        with autocast:
            x = langevin.sample(denoiser, SAMPLERS[sampler].sampler, start=start, grid=times, seed=1)
    except UserError as error:
        return str(error)
    assert x.dtype == dtype
    return "finite" if bool(x.isfinite().all()) else "not finite"


def combinations(seed, most):
    axes = (PROCESSES, PREDICTIONS, (*GRIDS, *TABLE_GRIDS), ARITHMETIC, SCALES, GUIDANCE)
    return random.Random(seed).sample(list(itertools.product(*axes)), most)


def stress(sampler, most):
    """Run the combinations of one sampler; the counts of what came out."""
    found = {"finite": 0, "refused": 0, "diverged in float16": 0}
    for case in combinations(list(SAMPLERS).index(sampler), most):
        said = outcome(sampler, *case)
        if said == "finite":
            found["finite"] += 1
        elif any(reason in said for reason in REFUSED):
            found["refused"] += 1
        else:
            # float16 ends at 65504: a state of 1e6 is infinite before the network sees it. No other may fail.
            assert "float16" in case[3].split(), (sampler, case, said)
            assert "bfloat16" not in case[3], (sampler, case, said)
            assert any(reason in said for reason in DIVERGED), (sampler, case, said)
            found["diverged in float16"] += 1
    return found


@pytest.mark.parametrize("sampler", thinned(SAMPLERS, 2))
def test_samplers(sampler):
    """Each on combinations of process, prediction, grid, arithmetic, size of the start and guidance up to 50."""
    assert stress(sampler, EVERYDAY)["finite"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_at_length(sampler):
    found = stress(sampler, SWEEP)
    assert found["finite"] > SWEEP / 3, found


def times_of(q):
    """Times of every kind: both ends, the usual range, and as near to the data as float64 allows; a table's knots."""
    times = {0.0, 1e-12, q.t_min, q.t_max, 1.0, 0.01, 0.3, 0.7, 0.999}
    return sorted({round(t * q.steps) / q.steps for t in times} if isinstance(q, processes.DDPM) else times)


def answers(q, x, x0, t, s):
    """What a scalar-Gaussian process says about states x at t, by name."""
    wide = Normal(x0, Diagonal(torch.ones_like(x0)))
    yield "marginal", q.marginal(x0, t)
    yield "transition", q.transition(x0, s, t)
    for eta in (0.0, 0.5, 1.0):
        yield f"bridge at eta {eta}", q.bridge(x, x0, t, s, eta)
        yield f"reverse of a point at eta {eta}", q.reverse(x, Dirac(x0), t, s, eta)
        yield f"reverse of a normal law at eta {eta}", q.reverse(x, wide, t, s, eta)
    if s > 0:
        yield "velocity", q.velocity(x, Dirac(x0), t)
        yield "score", q.score(x, Dirac(x0), t)


@pytest.mark.parametrize("process", thinned(PROCESSES, 3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_processes(process, dtype):
    """Every answer is finite at every pair of times on states of any size: a solver's are never of half precision."""
    q = PROCESSES[process]
    for scale, (s, t) in itertools.product(SCALES, itertools.combinations(times_of(q), 2)):
        x = (scale * torch.tensor([[0.7, -1.3], [0.0, 1.0]])).to(dtype)
        x0 = (scale * torch.tensor([[-0.2, 1.0], [0.0, 0.4]])).to(dtype)
        for name, found in answers(q, x, x0, t, s):
            for value in (found,) if isinstance(found, torch.Tensor) else (found.mean, found.sample(Noise(1, 2))):
                assert value.isfinite().all(), (name, scale, s, t, value)


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("dtype", HALF)
def test_noised_data_of_half_precision(process, dtype):
    """x_t of data in half precision, which float16 holds up to 65504."""
    q = PROCESSES[process]
    for scale, t in itertools.product(SCALES if dtype == "bfloat16" else SCALES[:-1], times_of(q)):
        x0 = (scale * torch.tensor([[-0.2, 1.0], [0.0, 0.4]])).to(HALF[dtype])
        assert q.marginal(x0, t).sample(Noise(1, 2)).isfinite().all(), (scale, t)


@pytest.mark.parametrize("sampler", PHASE_SAMPLERS)
@pytest.mark.parametrize("process", PHASES)
@pytest.mark.parametrize("scale", SCALES)
def test_phase_space(process, sampler, scale):
    q = PHASES[process]
    denoiser = make_denoiser(Rough(4), q, PhaseParameterization("eps", sigma_data=0.5), (2,))
    start = scale * q.prior((2,)).sample(Noise(0, 4))
    rule = PHASE_SAMPLERS[sampler].sampler
    steps = None if isinstance(rule, samplers.ExplicitRungeKutta) else 5
    assert langevin.sample(denoiser, rule, start=start, steps=steps).isfinite().all()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_tokens(chain, scale, guidance):
    """Logits of any size, guided: probabilities that are probabilities, tokens that are tokens."""
    q = CHAINS[chain]
    generator = torch.Generator().manual_seed(1)
    beliefs = [
        Categorical(torch.softmax(scale * torch.randn(5, 4, q.classes, generator=generator, dtype=torch.float64), -1))
        for _ in range(2)
    ]
    belief = linear(beliefs, (1 - guidance, guidance))
    assert belief.mean.isfinite().all()
    torch.testing.assert_close(belief.mean.sum(-1), torch.ones(5, 4, dtype=torch.float64), rtol=1e-12, atol=0)
    x = q.prior((4,)).sample(Noise(0, 5))
    for t, s in ((1.0, 0.5), (0.5, 0.25), (0.25, 0.0)):
        law = q.reverse(x, belief, t, s)
        assert law.mean.isfinite().all()
        x = law.sample(Noise(2, 5))
        assert ((x >= 0) & (x < law.mean.shape[-1])).all()
