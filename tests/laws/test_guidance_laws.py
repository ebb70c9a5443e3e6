"""Every guidance of the table: exact conditional law, evaluations, batch splits, precision, tokens, phase space."""

from __future__ import annotations

import pytest
import torch

import langevin
from langevin import UserError, processes, samplers, worlds
from langevin._registry import lookup
from langevin.denoisers import NetworkDenoiser, TokenParameterization, independent
from laws.table import CHAINS, FAST, GUIDANCE, PHASES, PROCESSES, SAMPLERS, Setting, check_law, mixture
from support import log_prob_gap, oracle, sliced_w2, thinned, w2_floor

N = 1000
EXACT = [name for name, guide in GUIDANCE.items() if guide.exact]


def karras(process, steps):
    steps = min(steps, process.steps) if isinstance(process, processes.DDPM) else steps
    return lookup("grids", "karras").make(process, steps)


def setting(process, label=1, network=True, dtype=torch.float64, world=None, steps=3):
    """A guidance's setting on a scalar-Gaussian process: a network that knows the world of the table, or the world."""
    world = mixture(2) if world is None else world
    denoiser = oracle(world, process, "edm", dtype) if network else world.denoiser(process)
    return Setting(world, denoiser, label, karras(process, steps))


def exact_rows():
    """Guidance × sampler in 2 and 16 dimensions, each sampler on four processes; one row of every seventh is fast.

    From one fast row to the next the guidance alternates, the dimension does so every second one, and the process goes
    round on its own, so that every pair of them is met.
    """
    rows = []
    for i, sampler in enumerate(SAMPLERS):
        turn = i // 7
        for j, guide in enumerate(EXACT):
            for k, dim in enumerate((2, 16)):
                fast = i % 7 == 0 and (j, k) == (turn % 2, turn // 2 % 2)
                process = FAST[(turn + turn // 4) % 4 if fast else (i + 2 * j + k) % 4]
                marks = [] if fast else [pytest.mark.slow]
                name = f"{guide}-{process}-{sampler}-{dim}"
                rows.append(pytest.param(guide, process, sampler, dim, marks=marks, id=name))
    return rows


def test_fast_rows_mix():
    """The fast rows alone have both dimensions with both guidances, and all four processes."""
    fast = {p.values for p in exact_rows() if not p.marks}
    assert {(guide, dim) for guide, _, _, dim in fast} == {(guide, dim) for guide in EXACT for dim in (2, 16)}
    assert {process for _, process, _, _ in fast} == set(FAST)


@pytest.fixture(scope="module")
def truth():
    """For each dimension: the world, the law of its label 1, samples of it, and the floor of their distance."""
    result = {}
    for dim in (2, 16):
        world = mixture(dim)
        part = world.part(1)
        result[dim] = (world, part, part.sample(N, 77), w2_floor(part, N))
    return result


def check_samples(law, guided, part, real, floor):
    """Guided samples have the law of a part, from its own states at the start."""
    q = guided.process
    start = part.sample(N, 5, process=q, t=q.t_max)

    def run(steps):
        x = langevin.sample(guided, law.sampler, start=start, grid=karras(q, steps), seed=3, batch=N)
        return sliced_w2(x, real), log_prob_gap(part, x)

    check_law(law, run, floor)


@pytest.mark.parametrize(("guide", "process", "sampler", "dim"), exact_rows())
def test_exact_conditional_law(truth, guide, process, sampler, dim):
    """At scale 1 with the exact parts, the samples have the law p(x | label), as ``test_exact_law`` has it of p(x).

    Both figures and both floors are that test's, of the world's one component with the label, whose belief is normal:
    a tilted belief has its mean and covariance, which is then all of it. What keeps a sampler with ``exact=False`` off
    the floor here is its bias, of the order of 1/steps: it must fall with the steps, as there, and with enough of them
    the floor is reached (``test_many_steps_reach_the_floor``).
    """
    q, law = PROCESSES[process], SAMPLERS[sampler]
    world, part, real, floor = truth[dim]
    guided = GUIDANCE[guide].make(setting(q, network=False, world=world))
    check_samples(law, guided, part, real, floor)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm"])
def test_many_steps_reach_the_floor(truth, sampler):
    """A sampler of weak order 1 takes 32 times the steps of its row, whose bias is then 1/32: 0.7 of the floor."""
    world, part, real, floor = truth[2]
    q, law = PROCESSES["vp"], SAMPLERS[sampler]
    start = part.sample(N, 5, process=q, t=q.t_max)
    guided = GUIDANCE["classifier-free"].make(setting(q, network=False, world=world))
    x = langevin.sample(guided, law.sampler, start=start, grid=karras(q, 32 * law.steps), seed=3, batch=N)
    assert sliced_w2(x, real) < floor
    assert log_prob_gap(part, x) < 4


TWO = [
    pytest.param("classifier-free", "edm", "ancestral", 16),
    pytest.param("classifier", "vp", "dpmpp-2m", 2),
    pytest.param("classifier", "edm", "optimal-variance", 16, marks=pytest.mark.slow),
    pytest.param("classifier-free", "ddpm", "heun", 2, marks=pytest.mark.slow),
    pytest.param("classifier-free", "flow", "ddim", 16, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("guide", "process", "sampler", "dim"), TWO)
def test_exact_conditional_law_of_two_components(guide, process, sampler, dim):
    """The same of a class with two components, whose belief is no normal law.

    Classifier guidance has the mean and covariance of it alone, so that it is for samplers of small steps.
    """
    q, law, world = PROCESSES[process], SAMPLERS[sampler], mixture(dim)
    world.labels = torch.tensor([0, 1, 0, 1])
    part = world.part(1)
    assert len(part.log_weights) == 2
    real, floor = part.sample(N, 77), w2_floor(part, N)
    guided = GUIDANCE[guide].make(setting(q, network=False, world=world))
    check_samples(law, guided, part, real, floor)


@pytest.mark.parametrize("process", FAST)
@pytest.mark.parametrize("guide", EXACT)
def test_exact_belief(guide, process):
    """Mean and covariance are those of p(x_0 | x_t, label), at many noise levels and where a label has two components.

    Nothing but rounding: the mean is a gradient of log p times σ²/α ≤ 1e4, so 1e-15 · 1e4 with a margin of 10; the
    covariance twice that power.
    """
    q, world = PROCESSES[process], mixture(16)
    world.labels = torch.tensor([0, 1, 0, 1])
    guided = GUIDANCE[guide].make(setting(q, network=False, world=world))
    known = world.denoiser(q).given(label=1)
    times = q.time(torch.linspace(-6, 6, 5, dtype=torch.float64))
    x = torch.cat([world.sample(1, 7 + i, process=q, t=t) for i, t in enumerate(times)])
    found, truth = guided(x, times), known(x, times)
    torch.testing.assert_close(found.mean, truth.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.cov.dense((16,)), truth.cov.dense((16,)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("guide", GUIDANCE)
def test_evaluations(guide):
    """The network is called once for all that is asked of it, and each of these is counted as an evaluation."""
    row, process = GUIDANCE[guide], processes.VP()
    if row.whole:
        pytest.skip("no network has a whole belief")
    where = setting(process)
    x = where.world.sample(5, 1, process=process, t=where.grid[1])
    guided = row.make(where)
    guided(x, where.grid[1])
    assert where.denoiser.counter.calls == row.evaluations
    assert where.denoiser.network.calls == 1


@pytest.mark.parametrize("guide", GUIDANCE)
@pytest.mark.parametrize("process", FAST)
def test_any_split(guide, process):
    """A label for each sample stays with its sample: any batch split, a part alone, in another order.

    Sums over a batch of another size may be rounded in another way, which a scale of 4 and four steps amplify by
    less than 1e6: 1e-9 of float64.
    """
    row, q = GUIDANCE[guide], PROCESSES[process]
    where = setting(q, torch.tensor([0, 1, 2, 3, 1, 0, 2]), network=not row.whole, steps=4)
    guided = row.make(where)
    sampler = samplers.Ancestral() if row.whole else samplers.DPMSolverPPSDE()
    draw = lambda denoiser, **more: langevin.sample(denoiser, sampler, grid=where.grid, **more)
    whole = draw(guided, n=7, seed=9)
    torch.testing.assert_close(draw(guided, n=7, seed=9, batch=3), whole, rtol=1e-9, atol=1e-9)
    some = torch.tensor([5, 2])
    part = draw(guided.rows(some), noise=langevin.Noise(9, some))
    torch.testing.assert_close(part, whole[some], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("guide", GUIDANCE)
def test_a_time_a_sample(guide):
    """Samples at times of their own are those asked alone, with as many samples as coordinates too."""
    row, q = GUIDANCE[guide], processes.EDM()
    where = setting(q, torch.tensor([1, 2]), network=not row.whole, steps=4)
    guided, t = row.make(where), where.grid[[1, 3]]
    assert float(t[1] * q.sigma_max) < 0.2 < float(t[0] * q.sigma_max)  # outside and inside of the row of the interval
    x = where.world.sample(2, 1, process=q, t=t)
    both = guided(x, t).mean
    for i in range(2):
        rows = slice(i, i + 1)
        alone = guided.rows(rows)(x[rows], t[i]).mean
        torch.testing.assert_close(both[rows], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("guide", GUIDANCE)
def test_float32(guide):
    """A float32 network moves x̂_0 by its own rounding and what the guidance makes of it, and stays float32.

    x̂_0 of the network is right to 2⁻²³ of |x_0| ≤ 2; sums with weights up to 4 and a gradient through it, at σ/α
    about 1, where derivatives of x̂_0 are of order 10: 2⁻²³ · 2 · 100.
    """
    row, q = GUIDANCE[guide], processes.VP()
    if row.whole:
        pytest.skip("no network has a whole belief")
    exact, single = setting(q, dtype=torch.float64), setting(q, dtype=torch.float32)
    t = exact.grid[1]
    x = exact.world.sample(20, 1, process=q, t=t).float()
    with torch.no_grad():
        found, known = row.make(single)(x, t).mean, row.make(exact)(x.double(), t).mean
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found.double(), known, rtol=0, atol=2**-23 * 200)


TOKENS = worlds.Empirical(torch.cartesian_prod(torch.arange(3), torch.arange(3)), labels=torch.arange(9) % 3)
"""Two tokens whose label is the second."""


class Softmax(torch.nn.Module):
    """A token network that answers by the label alone."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))
        self.config = {"conditions": {"label": 3}}

    def forward(self, x, time, condition=None):
        logits = torch.zeros(len(x), 3, x.shape[-1]) + self.anchor
        if condition is not None:
            known = condition["label"] >= 0
            logits[:, :, 1] += 2.0 * torch.nn.functional.one_hot(condition["label"].clamp_min(0), 3) * known[:, None]
        return logits


@pytest.mark.parametrize("chain", thinned(CHAINS, 3))
@pytest.mark.parametrize("guide", GUIDANCE)
def test_on_tokens(guide, chain):
    """Token chains: of a network, of the exact joint belief, and of each position alone; or a clear refusal."""
    row, q = GUIDANCE[guide], CHAINS[chain]
    network = NetworkDenoiser(Softmax(), q, TokenParameterization("logits"), (2,))
    grid = samplers.grids.uniform(q, 4)
    for denoiser in (network, TOKENS.denoiser(q), independent(TOKENS.denoiser(q))):
        where = Setting(TOKENS, denoiser, 1, grid)
        if not row.tokens:
            with pytest.raises(UserError, match=r"needs a process|must be 0 for tokens|must not be of tokens"):
                row.make(where)
            continue
        guided = row.make(where)
        x = langevin.sample(guided, n=20, grid=grid, seed=3)
        assert x.dtype == torch.int64
        assert bool(((x >= 0) & (x < 3)).all())
        if row.exact and denoiser is not network:
            assert bool((x[:, 1] == 1).all())


@pytest.mark.parametrize("guide", GUIDANCE)
@pytest.mark.parametrize("process", PHASES)
def test_in_phase_space(guide, process):
    """Phase space: the belief is about x_0 alone, so that what needs no more than that works; or a clear refusal."""
    row, q = GUIDANCE[guide], PHASES[process]
    world = mixture(2)
    where = Setting(world, world.denoiser(q), 1, samplers.grids.quadratic(q, 3))
    if not row.phase:
        with pytest.raises(UserError, match="needs a process"):
            row.make(where)
        return
    x = langevin.sample(row.make(where), n=4, grid=where.grid, seed=2)
    assert x.shape == (4, 2)
    assert bool(x.isfinite().all())
