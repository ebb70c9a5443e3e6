"""Operator splitting of guidance: orders against the guided flow, stiffness, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

import langevin
from langevin import Noise, UserError, guidance, processes, samplers
from langevin.denoisers import Transform, dirac
from langevin.samplers import Splitting, State
from laws.table import mixture
from support import flow_reference, oracle

PROCESSES = {"vp": processes.VP(), "edm": processes.EDM(), "flow": processes.RectifiedFlow()}


def guided(process, scale, kind="classifier"):
    world = mixture(2)
    denoiser = world.denoiser(process)
    if kind == "classifier":
        return guidance.classifier(denoiser, world.classifier(process), label=1, scale=scale)
    if kind == "energy":
        return guidance.energy(denoiser, lambda x: 0.5 * x.square().sum(1), scale=scale)
    return guidance.classifier_free(denoiser, label=1, guidance_scale=scale)


def errors(denoiser, sampler, counts):
    """Median error at log-SNR 4, from −4, on grids uniform in log-SNR, against a flow at a tolerance of 1e-12."""
    process = denoiser.process
    ends = process.time(torch.tensor([-4.0, 4.0], dtype=torch.float64))
    start = mixture(2).sample(16, 1, process=process, t=ends[0])
    reference = flow_reference(denoiser, start, float(ends[0]), float(ends[1]))
    found = []
    for n in counts:
        times = process.time(torch.linspace(-4, 4, n + 1, dtype=torch.float64))
        *_, last = langevin.trajectory(denoiser, sampler, grid=times, start=start)
        found.append(float((last.x - reference).abs().median()))
    return found


ORDERS = {
    "lie, PLMS": (Splitting(samplers.PLMS(), "lie"), 1),
    "lie, DDIM": (Splitting(samplers.DDIM(), "lie"), 1),
    "strang, RK2": (Splitting(samplers.RhoMidpoint(), guidance_order=2), 2),
    "strang, RK4": (Splitting(samplers.RhoRK4(), guidance_order=2, guidance_steps=2), 2),
    "strang, PLMS, Euler": (Splitting(), 1),
}


@pytest.mark.parametrize(
    ("name", "process", "kind"),
    [
        ("lie, PLMS", "vp", "classifier"),
        ("lie, DDIM", "edm", "energy"),
        ("strang, RK2", "vp", "classifier"),
        ("strang, PLMS, Euler", "flow", "classifier-free"),
        pytest.param("strang, RK4", "edm", "classifier", marks=pytest.mark.slow),
        pytest.param("strang, RK2", "flow", "classifier", marks=pytest.mark.slow),
        pytest.param("strang, RK2", "vp", "energy", marks=pytest.mark.slow),
        pytest.param("strang, RK2", "edm", "classifier-free", marks=pytest.mark.slow),
    ],
)
def test_orders(name, process, kind):
    """The slope over a doubling is within 0.25 of the claim, at scale 5, on the interval of the table of laws."""
    sampler, order = ORDERS[name]
    scale = 0.5 if kind == "energy" else 5.0
    counts = (32, 64)
    found = errors(guided(PROCESSES[process], scale, kind), sampler, counts)
    slope = math.log(found[0] / found[-1]) / math.log(2)
    assert abs(slope - order) < 0.25, (slope, found)


def test_stiff_guidance():
    """At scale 60 and 12 steps PLMS on the sum diverges, and split it does not: the paper's claim.

    A ring of radius 1: an error above 1 is a sample that went elsewhere, and 0.1 is a component's width.
    """
    world, process = langevin.worlds.ring(8, 1.0, 0.1), PROCESSES["vp"]
    denoiser = guidance.classifier(world.denoiser(process), world.classifier(process), label=1, scale=60.0)
    ends = process.time(torch.tensor([-4.0, 6.0], dtype=torch.float64))
    start = world.sample(32, 1, process=process, t=ends[0])

    def last(sampler, n):
        times = process.time(torch.linspace(-4, 6, n + 1, dtype=torch.float64))
        *_, state = langevin.trajectory(denoiser, sampler, grid=times, start=start)
        return state.x

    reference = last(samplers.RhoRK4(), 100)  # within 1e-6 of 300 steps
    plain, split = ((last(s, 12) - reference).norm(dim=1).median() for s in (samplers.PLMS(), Splitting()))
    assert plain > 1
    assert split < 0.1


def test_classifier_guidance_asks_the_network_as_often_as_its_base():
    """The gradient of a classifier takes no call of the network; that of an energy one a guidance step."""
    world, process, calls = mixture(2), PROCESSES["vp"], []

    class Counted(Transform):
        def __call__(self, x_t, t):
            calls.append(float(t))
            return self.base(x_t, t)

    base = Counted(world.denoiser(process))
    langevin.sample(
        guidance.classifier(base, world.classifier(process), label=1, scale=9.0), Splitting(guidance_steps=3), steps=6
    )
    assert len(calls) == 6
    calls.clear()
    langevin.sample(guidance.energy(base, lambda x: x.square().sum(1)), Splitting(guidance_steps=3), steps=6)
    assert len(calls) == 6 + 6 * 2 * 3


def test_scale_zero_is_the_inner_sampler():
    process = PROCESSES["vp"]
    plain = langevin.sample(mixture(2).denoiser(process), samplers.PLMS(), n=5, steps=8)
    for kind in ("lie", "strang"):
        x = langevin.sample(guided(process, 0.0), Splitting(kind=kind), n=5, steps=8)
        torch.testing.assert_close(x, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", [Splitting(), Splitting(samplers.DDIM(), "lie", 2, 2)], ids=["strang", "lie"])
def test_what_the_table_asks_of_every_sampler(sampler):
    """Any split of the batch, one step, float32 networks, a time a sample with B = D, to rounding."""
    process = PROCESSES["vp"]
    denoiser = guided(process, 4.0)
    whole = langevin.sample(denoiser, sampler, n=7, steps=3, seed=9)
    torch.testing.assert_close(langevin.sample(denoiser, sampler, n=7, steps=3, seed=9, batch=3), whole)
    assert langevin.sample(denoiser, sampler, n=3, steps=1).isfinite().all()
    network = oracle(mixture(2), process, "eps", torch.float32)
    single = guidance.classifier(network, mixture(2).classifier(process), label=1, scale=4.0)
    x = langevin.sample(single, sampler, n=7, steps=3, seed=9)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), whole, rtol=1e-3, atol=1e-3)
    if isinstance(sampler.inner, samplers.DDIM):
        t, s = torch.tensor([0.9, 0.5]).double(), torch.tensor([0.4, 0.2]).double()
        x = mixture(2).sample(2, 1, process=process, t=0.5)
        both = sampler.step(State(x, t), s, denoiser, Noise(0, 2)).x
        for i in range(2):
            alone = sampler.step(State(x[i : i + 1], t[i]), s[i], denoiser, Noise(0, 1)).x
            torch.testing.assert_close(both[i], alone[0], rtol=1e-9, atol=1e-9)


def test_refusals():
    process = PROCESSES["vp"]
    plain = mixture(2).denoiser(process)
    for denoiser in (plain, dirac(guided(process, 2.0))):
        with pytest.raises(UserError, match="denoiser must be a guided one for operator splitting"):
            langevin.sample(denoiser, Splitting(), steps=2)
    with pytest.raises(UserError, match="kind must be 'strang' or 'lie'"):
        Splitting(kind="trotter")
    with pytest.raises(UserError, match="inner must be a deterministic sampler"):
        Splitting(samplers.Ancestral())
    with pytest.raises(UserError, match="inner must be a deterministic sampler"):
        Splitting(samplers.DDIM(eta=0.5))
    with pytest.raises(UserError, match="guidance_steps must be an integer"):
        Splitting(guidance_steps=0)
    with pytest.raises(UserError, match="guidance_order must be an integer from 1 to 2"):
        Splitting(guidance_order=3)
    with pytest.raises(UserError, match="sampler must be a sampler"):
        Splitting("plms")
    flow = guided(PROCESSES["flow"], 2.0)
    with pytest.raises(UserError, match="grid must start where alpha > 0"):
        langevin.sample(flow, Splitting(samplers.DDIM()), grid=[1.0, 0.5, 0.0])
