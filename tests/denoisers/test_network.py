"""Networks made of exact worlds, read back: beliefs, conditions, and what is asked how often."""

from __future__ import annotations

import pytest
import torch
from test_network_variances import Channels
from torch import nn

import langevin
from langevin import UserError, processes, worlds
from langevin.denoisers import PREDICTIONS, AffineParameterization, NetworkDenoiser, batched, compiled
from langevin.distributions import Dirac
from langevin.processes import expand
from support import AFFINE as PROCESSES

WORLD = worlds.random_mixture(2, components=3, rms=0.6, seed=4)


def f64(v):
    return torch.as_tensor(v, dtype=torch.float64)


class Exact(nn.Module):
    """net = p x̂_0 + q ε̂ of an exact world, from (c_in x_t, the time input) alone."""

    def __init__(self, world, process, parameterization, dtype=torch.float64):
        super().__init__()
        self.world, self.process, self.parameterization = world, process, parameterization
        self.weight = nn.Parameter(torch.zeros((), dtype=dtype))
        self.config = {"conditions": {"label": world.classes}}
        self.seen = []

    def forward(self, x, time, condition=None):
        assert x.dtype == self.weight.dtype
        assert time.shape == x.shape[:1]
        self.seen.append((x, time, condition))
        process, label = self.process, time.to(torch.float64)
        steps = process.steps if isinstance(process, processes.DDPM) else 1000
        t = {
            "log_sigma": lambda: process.time(-8 * label),
            "index": lambda: (label + 1) / steps,
            "time": lambda: label / 1000,
        }[self.parameterization.time]()
        x_t = x.to(torch.float64) / expand(self.parameterization.input_scale(process, t), x.to(torch.float64))
        mean = self.world.denoiser(process)(x_t, t).mean
        if condition is not None:
            label = condition["label"]
            given = self.world.denoiser(process).given(label=label.clamp_min(0))(x_t, t).mean
            mean = torch.where((label >= 0)[:, None], given, mean)
        p, q = self.parameterization.coefficients(process, t)
        noise = process.noise(x_t, Dirac(mean), t)
        return (expand(p, mean) * mean + expand(q, mean) * noise).to(x.dtype) + 0 * self.weight


def exact(process, prediction="edm", dtype=torch.float64, world=WORLD, **settings):
    parameterization = AffineParameterization(prediction, sigma_data=0.6, **settings)
    return NetworkDenoiser(Exact(world, process, parameterization, dtype), process, parameterization, world.shape)


READABLE = [
    (name, prediction)
    for name in PROCESSES
    for prediction in PREDICTIONS
    if not (name in ("flow", "cosine") and prediction in ("eps", "score"))
]


@pytest.mark.parametrize(("name", "prediction"), READABLE)
def test_belief_is_the_worlds(name, prediction):
    """Through every prediction, on every process, at a time a sample: the exact mean comes back.

    x̂_0 = c x + d net cancels where |c x| is large: 1e-15 · 1/α at the noise end, and what the rounding of the label
    moves t by, 1e-16 · |λ|/λ' of x̂_0's slope in t.
    """
    process = PROCESSES[name]
    t = f64([process.t_min, 0.3, 0.7, 0.95])
    x = WORLD.sample(4, 1, process=process, t=t)
    belief = exact(process, prediction)(x, t)
    assert isinstance(belief, Dirac)
    assert belief.mean.dtype == torch.float64
    torch.testing.assert_close(belief.mean, WORLD.denoiser(process)(x, t).mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time", ["log_sigma", "index", "time"])
@pytest.mark.parametrize("scale_input", [True, False])
def test_time_input_and_input_scale(time, scale_input):
    """Any label and any input scale: the network finds its way back to t and x_t."""
    process = PROCESSES["ddpm"]
    t = f64([0.001, 0.5, 1.0])
    x = WORLD.sample(3, 1, process=process, t=t)
    denoiser = exact(process, "eps", time=time, scale_input=scale_input)
    torch.testing.assert_close(denoiser(x, t).mean, WORLD.denoiser(process)(x, t).mean, rtol=1e-8, atol=1e-8)
    one = denoiser(x, 0.5).mean
    torch.testing.assert_close(one, WORLD.denoiser(process)(x, 0.5).mean, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_network_of_its_own_dtype_in_a_float64_solver(dtype):
    """The network gets its dtype, the belief is float64: x̂_0 rounds by d·eps·|net| and by what x_t's rounding moves.

    With EDM's parameterization |d·net| and dx̂_0/dx are of order one: five units of rounding of a state of size one.
    """
    process = PROCESSES["vp"]
    t = f64([0.1, 0.5, 0.9])
    x = WORLD.sample(3, 1, process=process, t=t)
    denoiser = exact(process, dtype=dtype)
    belief = denoiser(x, t)
    assert belief.mean.dtype == torch.float64
    assert denoiser.dtype == dtype
    error = (belief.mean - WORLD.denoiser(process)(x, t).mean).detach().abs().max()
    assert 0 < float(error) < 5 * torch.finfo(dtype).eps


def test_labels_of_time_are_float32_at_least():
    """bfloat16 tells 1000 from 1002 no more; found: labels took the network's dtype."""
    process = PROCESSES["ddpm"]
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        denoiser = exact(process, "v", dtype, time="index")
        denoiser(torch.zeros(2, 2, dtype=torch.float64), f64([0.998, 0.999]))
        _, time, _ = denoiser.network.seen[0]
        assert time.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        torch.testing.assert_close(time.double(), f64([997.0, 998.0]), rtol=0, atol=1e-4)


def test_float32_states_stay_float32():
    denoiser = exact(PROCESSES["vp"], dtype=torch.float32)
    assert denoiser(torch.zeros(2, 2), 0.5).mean.dtype == torch.float32


@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize(("name", "prediction"), READABLE)
def test_finite_at_both_ends(name, prediction, t):
    """A network that answers anything finite gives a finite belief; at t = 0 it is the state."""

    class Ones(nn.Module):
        def forward(self, x, time, condition=None):
            assert time.isfinite().all()
            return torch.ones_like(x)

    process = PROCESSES[name]
    denoiser = NetworkDenoiser(Ones(), process, AffineParameterization(prediction), (2,))
    x = f64([[0.3, -2.0]])
    mean = denoiser(x, t).mean
    assert mean.isfinite().all()
    assert t > 0 or torch.equal(mean, x)


# Conditions


def test_label_conditions_the_belief():
    process = PROCESSES["vp"]
    x = WORLD.sample(4, 1, process=process, t=0.5)
    denoiser, truth = exact(process), WORLD.denoiser(process)
    for label in (0, [2], [0, 1, 2, 1], torch.tensor([1, 1, 0, 2], dtype=torch.int32)):
        belief = denoiser.given(label=label)(x, 0.5)
        torch.testing.assert_close(belief.mean, truth.given(label=label)(x, 0.5).mean, rtol=1e-9, atol=1e-9)
    free = denoiser.given({"label": 1}).given(label=None)
    assert free.condition == {}
    torch.testing.assert_close(free(x, 0.5).mean, truth(x, 0.5).mean, rtol=1e-9, atol=1e-9)


def test_labels_absent_for_some():
    """−1 is no label, sample by sample, for a network and for a world alike."""
    process = PROCESSES["vp"]
    x = WORLD.sample(4, 1, process=process, t=0.5)
    label = torch.tensor([2, -1, 0, -1])
    mixed = exact(process).given(label=label)(x, 0.5).mean
    free, bound = WORLD.denoiser(process)(x, 0.5).mean, WORLD.denoiser(process).given(label=label.clamp_min(0))(x, 0.5)
    known = torch.where((label >= 0)[:, None], bound.mean, free)
    torch.testing.assert_close(mixed, known, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(WORLD.denoiser(process).given(label=label)(x, 0.5).mean, known, rtol=0, atol=1e-14)


def test_rows_of_a_conditioned_denoiser():
    process = PROCESSES["vp"]
    x = WORLD.sample(4, 1, process=process, t=0.5)
    denoiser = exact(process).given(label=[0, 1, 2, 1])
    whole = denoiser(x, 0.5).mean
    for index in (slice(1, 3), torch.tensor([3, 0])):
        torch.testing.assert_close(denoiser.rows(index)(x[index], 0.5).mean, whole[index], rtol=0, atol=1e-14)
    one = exact(process).given(label=1)
    assert one.rows(slice(0, 2)).condition["label"].tolist() == [1]


class Recorder(nn.Module):
    """Remembers its calls; takes every kind of condition."""

    def __init__(self):
        super().__init__()
        self.config = {"conditions": {"label": 5, "vector": 3, "sequence": 2}}
        self.calls = []

    def forward(self, x, time, condition=None):
        self.calls.append((x, time, condition))
        return torch.zeros_like(x)


def recorder():
    return NetworkDenoiser(Recorder(), PROCESSES["vp"], AffineParameterization(), (2,))


def test_together_asks_once_and_counts_each():
    """Beliefs of one network under several conditions: one call of all samples, an evaluation a condition."""
    denoiser = recorder()
    x = torch.arange(6.0).reshape(3, 2)
    t = f64([0.1, 0.5, 0.9])
    batched([denoiser, denoiser.given(label=[1, 2, 3]), denoiser.given(label=4)], x, t)
    assert len(denoiser.network.calls) == 1
    seen, time, condition = denoiser.network.calls[0]
    assert condition["label"].tolist() == [-1, -1, -1, 1, 2, 3, 4, 4, 4]
    torch.testing.assert_close(seen, seen[:3].repeat(3, 1))
    torch.testing.assert_close(time, time[:3].repeat(3))
    assert denoiser.counter.calls == 3
    denoiser(x, t)
    assert denoiser.network.calls[1][2] is None
    assert denoiser.counter.calls == 4
    batched([denoiser.given(label=0), denoiser], x, 0.5)
    assert denoiser.network.calls[2][2]["label"].tolist() == [0, 0, 0, -1, -1, -1]
    assert denoiser.counter.calls == 6


def test_together_marks_what_is_absent():
    """A vector or a sequence that a part does not have is not-a-number for it; shorter sequences are filled up."""
    denoiser = recorder()
    x = torch.zeros(2, 2)
    parts = [
        denoiser,
        denoiser.given(vector=[1.0, 2.0, 3.0], label=1),
        denoiser.given(sequence=torch.ones(2, 4, 2)),
        denoiser.given(sequence=torch.ones(1, 2)),
    ]
    batched(parts, x, 0.5)
    _, _, condition = denoiser.network.calls[0]
    assert condition["label"].tolist() == [-1, -1, 1, 1, -1, -1, -1, -1]
    gone = condition["vector"].isnan().all(1)
    assert gone.tolist() == [True, True, False, False, True, True, True, True]
    assert condition["vector"][2].tolist() == [1.0, 2.0, 3.0]
    assert condition["sequence"].shape == (8, 4, 2)
    present = (~condition["sequence"].isnan()).all(2)
    assert present.sum(1).tolist() == [0, 0, 0, 0, 4, 4, 1, 1]
    assert present[6].tolist() == [True, False, False, False]


def test_together_is_each_alone():
    process = PROCESSES["cosine"]
    x = WORLD.sample(4, 1, process=process, t=0.5)
    t = f64([0.2, 0.5, 0.5, 0.9])
    denoiser = exact(process, "v")
    parts = [denoiser, denoiser.given(label=[0, 1, 2, 0]), denoiser.given(label=2)]
    for belief, part in zip(batched(parts, x, t), parts):
        torch.testing.assert_close(belief.mean, part(x, t).mean, rtol=0, atol=1e-13)


def test_together_of_different_networks():
    """Another network, process or parameterization is asked on its own; the order of the answers stays."""
    process = PROCESSES["vp"]
    x = WORLD.sample(2, 1, process=process, t=0.5)
    one, two = exact(process, "v"), exact(process, "eps")
    parts = [one, two, WORLD.denoiser(process)]
    for belief in batched(parts, x, 0.5):
        torch.testing.assert_close(belief.mean, WORLD.denoiser(process)(x, 0.5).mean, rtol=1e-9, atol=1e-9)
    assert len(one.network.seen) == len(two.network.seen) == one.counter.calls == two.counter.calls == 1


def test_gradients_reach_the_network_and_the_state():
    """Nothing turns gradients off: guidance by a loss on x̂_0 differentiates through the network."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5))

        def forward(self, x, time, condition=None):
            return self.weight * x

    denoiser = NetworkDenoiser(Linear(), PROCESSES["vp"], AffineParameterization(), (2,))
    x = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    denoiser(x, 0.5).mean.sum().backward()
    assert float(x.grad.abs().min()) > 0
    assert float(denoiser.network.weight.grad.abs()) > 0


def test_repr_and_places():
    denoiser = exact(PROCESSES["vp"]).given(label=1)
    assert "Exact" in repr(denoiser)
    assert "given label" in repr(denoiser)
    assert denoiser.conditions() == ("label",)
    assert denoiser.device == torch.device("cpu")
    assert denoiser.given(endpoint=torch.zeros(1)).process == PROCESSES["vp"]
    assert NetworkDenoiser(nn.Identity(), PROCESSES["vp"], AffineParameterization(), [2]).shape == (2,)


X = torch.zeros(2, 2)
REFUSED = [
    (lambda d: d.given(lable=1), "condition 'lable' is not one this model takes .* Did you mean 'label'"),
    (lambda d: d.given(label=5), r"label must lie in \[0, 5\) \(-1 is none\), got \[5\]"),
    (lambda d: d.given(label=-2), r"label must lie in \[0, 5\)"),
    (lambda d: d.given(label=1.0), r"label must hold integers, \(\) or \(B,\), got torch.float32"),
    (lambda d: d.given(label=[[1]]), r"label must hold integers, \(\) or \(B,\), got torch.int64 \(1, 1\)"),
    (lambda d: d.given(label=[1, 2, 3])(X, 0.5), "label was given for 3 samples, but the batch has 2"),
    (lambda d: d.given(vector=[1.0, 2.0]), r"vector must be \(B, 3\) or \(3,\), got shape \(2,\)"),
    (lambda d: d.given(vector=1.0), r"vector must be \(B, 3\) or \(3,\), got shape \(\)"),
    (lambda d: d.given(vector=torch.ones(1, 1, 3)), r"vector must be \(B, 3\) or \(3,\), got shape \(1, 1, 3\)"),
    (lambda d: d.given(sequence=torch.ones(4, 3)), r"sequence must be \(B, L, 2\) or \(L, 2\), got shape \(4, 3\)"),
    (lambda d: d.given(sequence=torch.ones(2)), r"sequence must be \(B, L, 2\) or \(L, 2\), got shape \(2,\)"),
    (
        lambda d: NetworkDenoiser(nn.Identity(), PROCESSES["vp"], AffineParameterization(), (2,)).given(label=1),
        r"condition 'label' is not one this model takes \(no condition\)",
    ),
    (
        lambda d: NetworkDenoiser(nn.Identity(), PROCESSES["vp"], AffineParameterization(), (2,), variance="rang"),
        "unknown variance 'rang'. Did you mean 'range'",
    ),
    (
        lambda d: NetworkDenoiser(nn.Identity(), PROCESSES["edm"], AffineParameterization(), (2,), variance="range"),
        "variance 'range' is of one step of a table; 1000 equal steps of t miss most of EDM",
    ),
    (
        lambda d: NetworkDenoiser(nn.Identity(), PROCESSES["flow"], AffineParameterization("eps"), (2,)),
        "prediction 'eps' cannot be read at t = 1 of RectifiedFlow",
    ),
    (
        lambda d: NetworkDenoiser(nn.Identity(), processes.Absorbing(2), AffineParameterization("x0"), (2,)),
        "prediction 'x0' needs a process",
    ),
    (
        lambda d: NetworkDenoiser(Recorder(), PROCESSES["vp"], AffineParameterization(), (2,), variance="posterior")(
            X, 0.5
        ),
        r"network must return \(4,\) a sample, got \(2,\)",
    ),
    (
        lambda d: NetworkDenoiser(Channels(f64(0.0), f64(0.0)), PROCESSES["vp"], AffineParameterization(), (2,))(
            X, 0.5
        ),
        r"network must return \(2,\) a sample, got \(4,\)",
    ),
    (lambda d: d(X, 1.5), r"t must be a time in \[0, 1\]"),
    (lambda d: d(X, f64([0.1, 0.2, 0.3])), r"t must have shape \(\) or \(2,\)"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises(UserError, match=message):
        call(recorder())


def test_compiled_is_the_same_belief():
    """Through ``torch.compile`` (traced, not lowered: no C++ compiler is needed), conditions included.

    Each result is its own tensor, also where the compiled code hands out the same buffer every time, as a replayed
    graph does.
    """
    network = langevin.nn.create_network(langevin.nn.default((1, 8, 8), {"label": 3})).eval()
    plain = NetworkDenoiser(network, processes.EDM(), AffineParameterization("edm"), (1, 8, 8)).given(label=1)
    fast = compiled(plain, backend="eager")
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(fast(x, 0.3).mean, plain(x, 0.3).mean)
        assert fast.conditions() == plain.conditions()
        buffer = torch.zeros(2, 1, 8, 8)
        fast.network.__dict__["call"] = lambda x, time, condition: buffer.fill_(float(time[0]))
        first = fast(x, 0.9)
        fast(x, 0.1)
        c, d = plain.parameterization.mean(plain.process, f64(0.9))
        expected = x * float(c) + float(d) * float(-plain.process.log_snr(0.9) / 8)
        torch.testing.assert_close(first.mean, expected)
    with pytest.raises(UserError, match="denoiser must be a NetworkDenoiser"):
        compiled(WORLD.denoiser(processes.VP()))
