"""Tuned solvers: the rule under the table against closed forms, the JSON, what is refused, and when one is picked."""

from __future__ import annotations

import copy
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from scipy.integrate import quad
from torch import nn

import langevin
from conditioned import untrained
from langevin import UserError, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.guidance import LinearPooling, classifier_free
from langevin.numerics.frame import GaussianFrame
from langevin.samplers import LearnedSolver, solver_from_dict, solver_to_dict
from langevin.samplers.learned.sampler import NARROWEST, SolverUse, find_learned_solver
from langevin.samplers.learned.steps import LearnedSteps, Place
from langevin.samplers.learned.table import SolverTable, SolverTensors, weights

N = 5


def a_table(process, n=N, seed=0, clean=True, size=0.3):
    """A table of random numbers on a grid uniform in u, from a little below the start."""
    draw = torch.Generator().manual_seed(seed)
    top, bottom = (float(-0.5 * process.log_snr(t)) for t in (process.t_max, process.t_min))
    nodes = torch.linspace(0.9 * top + 0.1 * bottom, bottom, n + 1, dtype=torch.float64)[:-1]
    some = lambda *shape: size * torch.randn(*shape, generator=draw, dtype=torch.float64)
    rows = lambda: [some(i + 1) for i in range(n)]
    return SolverTensors(top, nodes, None if clean else bottom, 0.2 * some(n), rows(), rows()).table()


def made_for(process, moments=None, **changes):
    pair = None if moments is None else (moments.std, moments.largest)
    return SolverUse(process, frame=pair, assumed=(0.1, 0.3) if moments is None else None, **changes)


PROCESSES = [processes.EDM(), processes.VP(), processes.RectifiedFlow(), processes.Cosine(), processes.DDPM()]


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_gaussian_data_are_exact_whatever_the_table(process, clean):
    """With N(m, C) data q = 0, and the flow is x_s = α_s m + V (A_s/A_t) Vᵀ(x_t − α_t m), A² = α²λ + σ².

    q is a difference of numbers of the size of the data, rounded at 2⁻⁵², times (S/σ)² ≤ 1e7 at the last nodes: 1e-8.
    """
    covariance = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.4]], dtype=torch.float64)
    mean = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    world = worlds.GaussianMixture(torch.ones(1), mean[None], covariance[None])
    denoiser = world.denoiser(process)
    moments = GaussianFrame.from_covariance(mean, covariance)
    sampler = LearnedSolver(a_table(process, clean=clean), made_for(process, moments))
    grid = sampler.default_grid(process, N)
    start = world.sample(7, 3, process=process, t=process.t_max)
    x = langevin.sample(denoiser, sampler, start=start, steps=N)
    values, basis = torch.linalg.eigh(covariance)
    scale = lambda t: torch.sqrt(process.alpha(t) ** 2 * values + process.sigma(t) ** 2)
    along = (start - process.alpha(grid[0]) * mean) @ basis * scale(grid[-1]) / scale(grid[0])
    torch.testing.assert_close(x, along @ basis.mT + process.alpha(grid[-1]) * mean, rtol=0, atol=1e-8)


def test_the_untuned_rule_integrates_cubics():
    """Σ_j T_ij p(v_j) = ∫ W p(v) du for cubics p, against adaptive quadrature; also to clean data.

    Rows of fewer values are exact for as many powers as they have values, less the way to the first node, which takes q
    as it is there.
    """
    process, values, spread = processes.EDM(), torch.tensor([0.01, 0.25, 1.3], dtype=torch.float64), 0.6
    table = a_table(process, 6, size=0.0)
    rows = weights(table.tensors(), values, spread)
    place = lambda u: math.log(math.exp(u) + 0.1 * spread)
    edges = [*table.nodes, -40.0]  # e^-40 is clean data
    for i, row in enumerate(rows):
        for power in range(min(i + 1, 4)):
            got = sum(row[j] * place(table.nodes[j]) ** power for j in range(i + 1))
            for d, variance in enumerate(values.tolist()):
                weight = lambda u, v=variance: math.exp(2 * u) / (v + math.exp(2 * u)) ** 1.5
                inverse = lambda u, v=variance: 1 / math.sqrt(v + math.exp(2 * u))
                first = (inverse(table.start) - inverse(edges[0])) * place(edges[0]) ** power
                between = [
                    quad(lambda u, w=weight, p=power: w(u) * place(u) ** p, a, b, epsabs=1e-13, epsrel=1e-12, limit=400)
                    for a, b in itertools.pairwise(edges[: i + 2])
                ]
                # 16 Gauss nodes a step of two decades: the bump of W is resolved to 1e-4 of its mass.
                assert abs(float(got[d]) - first - sum(v for v, _ in between)) < 2e-4 * max(1, abs(first))


def test_a_step_is_of_four_values_two_of_them_later():
    """∫ W l_j du of step k over values k − 1 … k + 2, or the newest four there are; quadrature as above."""
    process, values, spread = processes.EDM(), torch.tensor([0.25], dtype=torch.float64), 0.6
    table = a_table(process, 7, size=0.0)
    place = lambda u: math.log(math.exp(u) + 0.1 * spread)
    edges, places = [*table.nodes, -40.0], [place(u) for u in table.nodes]
    weight = lambda u: math.exp(2 * u) / (0.25 + math.exp(2 * u)) ** 1.5
    expected = torch.zeros(7, dtype=torch.float64)
    inverse = lambda u: 1 / math.sqrt(0.25 + math.exp(2 * u))
    expected[0] = inverse(table.start) - inverse(edges[0])
    for k, (a, b) in enumerate(itertools.pairwise(edges)):
        high = min(6, max(k + 2, 3))
        some = range(high - 3, high + 1)
        for j in some:
            basis = lambda u, j=j, some=some: math.prod(
                (place(u) - places[i]) / (places[j] - places[i]) for i in some if i != j
            )
            expected[j] += quad(lambda u, f=basis: weight(u) * f(u), a, b, epsabs=1e-13, epsrel=1e-12, limit=400)[0]
    found = weights(table.tensors(), values, spread)[-1][:, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("clean", [True, False])
def test_what_is_learned_is_added_in_units_of_a_step(clean):
    """a_ij M_i + b_ij M_{i−1} with M = 1/S − 1/S', and M_{−1} the way from the start to the first node."""
    process, values = processes.EDM(), torch.tensor([0.01, 0.25], dtype=torch.float64)
    table = a_table(process, 4, clean=clean)
    zeros = tuple((0.0,) * (i + 1) for i in range(4))
    plain = weights(replace(table, own=zeros, before=zeros).tensors(), values, 0.5)
    u = [table.start, *table.nodes, -math.inf if clean else table.end]
    inverse = [1 / torch.sqrt(values + math.exp(2 * v)) for v in u]
    mass = [a - b for a, b in itertools.pairwise(inverse)]
    for i, (got, untuned) in enumerate(zip(weights(table.tensors(), values, 0.5), plain)):
        for j in range(i + 1):
            wanted = table.own[i][j] * mass[i + 1] + table.before[i][j] * mass[i]
            torch.testing.assert_close(got[j] - untuned[j], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_times_follow_their_nodes(process):
    """dt/du of a place, and dA/du that follows from it, by central differences: O(h²) = 1e-8 at h = 1e-4."""
    frame, h = GaussianFrame(torch.zeros(2), torch.tensor([0.1, 0.5], dtype=torch.float64)), 1e-4
    u = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    at = lambda v: Place.of(process, torch.as_tensor(v, dtype=torch.float64), frame)
    above, below = at(0.3 + h), at(0.3 - h)
    for name in ("t", "scale"):
        (slope,) = torch.autograd.grad(getattr(Place.of(process, u, frame), name).sum(), u)
        wanted = (getattr(above, name) - getattr(below, name)).sum() / (2 * h)
        assert float(slope) == pytest.approx(float(wanted), rel=1e-5, abs=1e-9)


def test_coefficients_are_functions_of_the_variance_alone():
    """Many distinct variances share columns, and a column is that of a variance within half a bin."""
    values = torch.logspace(-4, 0, 1000, dtype=torch.float64)
    moments = GaussianFrame(torch.zeros(1000), values)
    table = a_table(processes.EDM())
    on = LearnedSteps.of(table.tensors(), processes.EDM(), moments)
    exact = weights(table.tensors(), values, moments.std)
    for some, all_of_them in zip(on.rows, exact):
        # Half a bin is 4 log(10)/510 = 1.8 % of λ; |d log T / d log λ| ≤ 3/2.
        assert ((some - all_of_them).abs() <= 0.03 * all_of_them.abs().amax(0)).all()


def test_the_loop_asks_where_the_table_says_and_any_split_is_the_same():
    process = processes.EDM()
    world = worlds.random_mixture(4, components=3, seed=1)
    denoiser = world.denoiser(process)
    sampler = LearnedSolver(a_table(process, size=0.05), made_for(process, langevin.denoisers.gaussian_frame(denoiser)))
    asked = []

    class Spy(type(denoiser)):
        def __call__(self, x_t, t):
            asked.append(float(t) * process.sigma_max)
            return super().__call__(x_t, t)

    spy = Spy(world, process)
    whole = langevin.sample(spy, sampler, n=6, steps=N, seed=2)
    u = torch.tensor(sampler.table.nodes) + torch.tensor(sampler.table.shifts)
    low = math.log(process.sigma_min)
    torch.testing.assert_close(torch.tensor(asked).log(), u.clamp(low, sampler.table.start).float(), rtol=0, atol=1e-5)
    split = langevin.sample(denoiser, sampler, n=6, steps=N, seed=2, batch=4)
    torch.testing.assert_close(split, whole, rtol=1e-9, atol=1e-9)
    start = process.prior((4,)).sample(langevin.Noise(2, 6))
    states = list(langevin.trajectory(denoiser, sampler, grid=sampler.default_grid(process, N), start=start))
    torch.testing.assert_close(states[-1].x, whole, rtol=1e-9, atol=1e-9)
    assert [float(s.t) for s in states] == sampler.default_grid(process, N).tolist()


def test_a_step_without_memory_is_of_order_one():
    """In the middle of its own grid, with nothing before, it is what ``LearnedSolver()`` does."""
    process = processes.VP()
    denoiser = worlds.ring().denoiser(process)
    sampler = LearnedSolver(a_table(process), made_for(process, langevin.denoisers.gaussian_frame(denoiser)))
    grid = sampler.default_grid(process, N)
    planned = sampler.plan(process, grid)
    state = samplers.State(denoiser.world.sample(3, 1, process=process, t=grid[2]), grid[2])
    noise = langevin.Noise(0, 3)
    got = planned.step(state, grid[3], denoiser, noise).x
    torch.testing.assert_close(got, LearnedSolver().step(state, grid[3], denoiser, noise).x, rtol=0, atol=0)


def test_a_step_that_is_not_in_the_table_is_of_order_one():
    """Planned on its grid, with the frame of a model: coefficients of the grid's steps alone, and order 1 elsewhere."""
    process = processes.VP()
    denoiser = worlds.ring().denoiser(process)
    sampler = LearnedSolver(a_table(process), made_for(process, langevin.denoisers.gaussian_frame(denoiser)))
    sampler, plain = (rule.for_model(denoiser) for rule in (sampler, LearnedSolver()))
    grid = sampler.default_grid(process, N)
    planned, noise = sampler.plan(process, grid), langevin.Noise(0, 3)
    assert planned.looked_up(process, float(grid[0]), 0, float(grid[1])) is not None
    between = (grid[2] + grid[3]) / 2
    for t, s in ((grid[2], grid[3]), (between, grid[3])):  # nothing before it; a time of another grid
        assert planned.looked_up(process, float(t), 0, float(s)) is None
        state = samplers.State(denoiser.world.sample(3, 1, process=process, t=t), t)
        got, expected = (rule.step(state, s, denoiser, noise).x for rule in (planned, plain))
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("known", [True, False])
def test_the_frame_is_as_wide_as_it_was_learned_in(known):
    """1.5 times the standard deviations of the model's moments, or of those that were assumed: a variance of 0.3."""
    process = processes.VP()
    denoiser = worlds.ring().denoiser(process)
    frame = langevin.denoisers.gaussian_frame(denoiser) if known else None
    own = LearnedSolver(a_table(process), made_for(process, frame, widened=1.5)).for_model(denoiser).frame
    expected = frame.variances if known else torch.full((2,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(own.variances, 2.25 * expected)


def test_json_there_and_back():
    process = processes.DDPM()
    sampler = LearnedSolver(
        a_table(process), SolverUse(process, 2.5, "in turn", (0.5, 1.25), None, 1.5, (0.2, 0.01), {"seed": 3})
    )
    again = solver_from_dict(json.loads(json.dumps(solver_to_dict(sampler))))
    assert again == sampler
    assert again.use.made == {"seed": 3}
    with pytest.raises(UserError, match="learned for a model"):
        solver_to_dict(LearnedSolver())


def change(values, key, value):
    values[key] = value


BROKEN = {
    "version": (lambda v: change(v, "langevin", 1), "langevin and kind"),
    "kind": (lambda v: change(v, "kind", "denoiser"), "langevin and kind"),
    "unknown key": (lambda v: change(v, "code", "import os"), "has unknown code"),
    "missing key": (lambda v: v.pop("own"), "lacks own"),
    "steps": (lambda v: change(v, "steps", 7), "steps must be the number of nodes"),
    "not a number": (lambda v: v["nodes"].__setitem__(0, "4"), "nodes must hold finite numbers"),
    "NaN": (lambda v: v["nodes"].__setitem__(0, math.nan), "nodes must hold finite numbers"),
    "huge": (lambda v: v["shifts"].__setitem__(0, 1e9), "below 1e6"),
    "a number for a list": (lambda v: change(v, "nodes", 3.0), "nodes must be a list"),
    "rising": (lambda v: v["nodes"].reverse(), "must fall"),
    "too many": (lambda v: change(v, "nodes", [-float(i) for i in range(65)]), "at most 64"),
    "a short row": (lambda v: v["own"][2].pop(), "own must be rows of 1, 2"),
    "nested": (lambda v: v["own"][1].__setitem__(0, [1.0]), "own must be at most"),
    "null row": (lambda v: v["own"].__setitem__(1, None), "lists of rows"),
    "no start": (lambda v: change(v, "start", None), "start must be a number"),
    "label": (lambda v: change(v, "label", True), "label must be"),
    "scale": (lambda v: change(v, "guidance_scale", [2.0]), "guidance_scale must be a number"),
    "process": (lambda v: change(v, "process", {"name": "edn"}), "unknown process 'edn'"),
    "process settings": (lambda v: change(v, "process", {"name": "edm", "sigma": 3}), "edm"),
    "no process": (lambda v: change(v, "process", "edm"), "must be JSON objects"),
    "frame": (lambda v: change(v, "frame", {"std": 1.0}), "frame must be an object"),
    "both": (lambda v: change(v, "assumed", {"mean": 0.0, "variance": 1.0}), "one of frame and assumed"),
    "narrower": (lambda v: change(v, "widened", 0.5), "widened must be a number from 1 to 100, got 0.5"),
    "neither": (lambda v: change(v, "frame", None), "one of frame and assumed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_json_that_is_refused(case):
    process = processes.EDM()
    plain = solver_to_dict(LearnedSolver(a_table(process), SolverUse(process, 1.0, None, (0.5, 1.25))))
    values = copy.deepcopy(json.loads(json.dumps(plain)))
    breaks, phrase = BROKEN[case]
    breaks(values)
    with pytest.raises(UserError, match=phrase):
        solver_from_dict(values)


def test_requests_that_do_not_fit_are_refused():
    process = processes.EDM()
    denoiser = worlds.ring().denoiser(process)
    moments = langevin.denoisers.gaussian_frame(denoiser)
    sampler = LearnedSolver(a_table(process), made_for(process, moments))
    with pytest.raises(UserError, match="steps must be 5"):
        langevin.sample(denoiser, sampler, steps=6)
    with pytest.raises(UserError, match="grid must be that of the table"):
        langevin.sample(denoiser, sampler, grid="karras", steps=5)
    with pytest.raises(UserError, match="one learned for VP"):
        langevin.sample(worlds.ring().denoiser(processes.VP()), sampler, steps=5)
    with pytest.raises(UserError, match="tune again"):
        langevin.sample(worlds.ring(radius=2.0).denoiser(process), sampler, steps=5)
    with pytest.raises(UserError, match="does not carry"):
        langevin.sample(a_network(), replace(sampler, use=replace(sampler.use, process=processes.EDM())), steps=5)
    with pytest.raises(UserError, match="nodes must be 1 to 64"):
        SolverTable(1.0, (), None, (), (), ())


class Small(nn.Module):
    """A linear map that knows four classes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.3))
        self.config = {"conditions": {"label": 4}}

    def forward(self, x, time, condition=None):
        shift = 0.0 if condition is None else (condition["label"].clamp_min(-1)[:, None] + 1) * 0.01
        return self.weight * x + shift


def a_network(solvers=()):
    process = processes.EDM()
    return NetworkDenoiser(Small(), process, AffineParameterization("edm", sigma_data=0.5), (2,), solvers=solvers)


def test_one_that_was_learned_without_a_picture_is_not_taken_with_one():
    model = untrained(("label", "image"))
    solver = LearnedSolver(a_table(model.process, 4, seed=4, size=0.05), made_for(model.process, label="in turn"))
    model = replace(model, solvers=(solver,))
    labels, picture = torch.arange(6) % 3, torch.zeros(1, 4, 4)
    assert find_learned_solver(model.given(label=labels), 4) is solver
    assert find_learned_solver(model.given(label=labels, image=picture), 4) is None
    assert find_learned_solver(model.given(label=labels, image=picture).given(image=None), 4) is solver


def test_the_one_that_fits_is_picked():
    """By steps, guidance scale and label; and nothing is where anything is another."""
    process = processes.EDM()
    make = lambda n, **use: LearnedSolver(a_table(process, n, seed=n, size=0.05), made_for(process, **use))
    plain, turns, three, guided = (
        make(4),
        make(4, label="in turn"),
        make(5, label=3),
        make(4, label="in turn", guidance_scale=2.0),
    )
    model = a_network((plain, turns, three, guided))
    labels = torch.arange(6) % 4
    assert find_learned_solver(model, 4) is plain
    assert find_learned_solver(model.given(label=labels), 4) is turns
    assert find_learned_solver(model.given(label=3), 5) is three
    assert find_learned_solver(model.given(label=labels), 5) is None
    assert find_learned_solver(model, 5) is None
    assert find_learned_solver(model, 6) is None
    assert find_learned_solver(classifier_free(model, label=labels, guidance_scale=2.0), 4) is guided
    assert find_learned_solver(classifier_free(model, label=labels, guidance_scale=1.0), 4) is turns
    assert find_learned_solver(classifier_free(model, label=labels, guidance_scale=3.0), 4) is None
    assert find_learned_solver(worlds.ring().denoiser(process), 4) is None
    assert find_learned_solver(langevin.denoisers.convert(model, processes.VP()), 4) is None
    other = langevin.denoisers.convert(model, processes.EDM(sigma_max=40.0))
    for parts in ((worlds.ring().denoiser(process), model.given(label=labels)), (other, other)):
        assert find_learned_solver(LinearPooling(parts, (-1.0, 2.0)), 4) is None
    own = (model, model.given(label=labels))
    assert find_learned_solver(LinearPooling(own, (-1.0, 2.0)), 4) is guided
    strangers = (a_network((plain, turns)), model.given(label=labels))  # the same solvers, another network
    assert find_learned_solver(LinearPooling(strangers, (-1.0, 2.0)), 4) is None
    for weights_ in ((-1.0, 2.5), (1.0, 2.0)):  # which are no guidance scale
        assert find_learned_solver(LinearPooling(own, weights_), 4) is None
    # It is what `sample` takes when nothing is named, and only then.
    kept = langevin.sample(model.given(label=labels), n=6, steps=4)
    torch.testing.assert_close(kept, langevin.sample(model.given(label=labels), turns, n=6, steps=4), rtol=0, atol=0)
    bare = replace(model, solvers=())
    for words in ({"sampler": "ddim", "steps": 4}, {"grid": "karras", "steps": 4}, {"steps": 5}):
        got = langevin.sample(model.given(label=labels), n=6, **words)
        torch.testing.assert_close(got, langevin.sample(bare.given(label=labels), n=6, **words), rtol=0, atol=0)
    ten = make(10)
    usual = langevin.sample(a_network((ten,)), n=6)  # ten steps, if none are named
    assert torch.equal(usual, langevin.sample(bare, ten, n=6, steps=10))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_its_grid_is_its_nodes(process):
    """t_max, then the times at which log σ/α is what the table says, then its end or clean data."""
    for clean in (True, False):
        table = a_table(process, clean=clean)
        grid = LearnedSolver(table, made_for(process)).default_grid(process, N)
        u = -0.5 * process.log_snr(grid)
        torch.testing.assert_close(u[1:N], torch.tensor(table.nodes[1:], dtype=torch.float64), rtol=1e-8, atol=1e-8)
        assert grid[0] == process.t_max
        assert (float(grid[-1]) == 0) if clean else float(u[-1]) == pytest.approx(table.end, rel=1e-8)


def test_a_direction_without_variance_is_given_some():
    """A thousandth of the mean variance: a network's error there would be magnified by 1/σ otherwise."""
    known = GaussianFrame(torch.zeros(3), torch.tensor([1.0, 0.5, 0.0]))
    assert known.floor_variances(NARROWEST).variances.tolist() == pytest.approx([1.0, 0.5, 0.5e-3])


def test_what_it_says_of_itself():
    sampler = LearnedSolver(a_table(processes.EDM()), made_for(processes.EDM(), guidance_scale=2.0))
    assert repr(sampler) == "LearnedSolver(5 evaluations, guidance 2)"
    assert repr(LearnedSolver()) == "LearnedSolver()"
