"""Networks from elsewhere: asked and read by their own conventions, and found out where they are not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import langevin
from langevin import UserError, processes, worlds
from langevin.denoisers import NetworkDenoiser
from langevin.distributions import Dirac
from support import sliced_w2, thinned, w2_floor

WORLD = worlds.random_mixture(2, components=3, rms=0.72, seed=4)
X0 = WORLD.sample(400, 3)
DDPM = processes.DDPM()
N = DDPM.steps
F64 = torch.float64


def belief(process, x, t, label=None):
    denoiser = WORLD.denoiser(process)
    return (denoiser if label is None else denoiser.given(label=label))(x.double(), t).mean


def eps(x, n, label=None):
    """A standard DDPM network: the noise of x_t itself, told n − 1."""
    assert x.dtype in (torch.float32, F64)
    t = (n.double() + 1) / N
    return DDPM.noise(x.double(), Dirac(belief(DDPM, x, t, label)), t).to(x.dtype)


def embedded(x, n):
    """The same with a table that takes whole numbers alone, as an ``nn.Embedding`` does."""
    return eps(x, torch.arange(N)[n])


def edm_d(x, sigma):
    """D(x, σ) with preconditioning of its own."""
    return belief(processes.EDM(), x, sigma.double() / 80.0).to(x.dtype)


def flow_v(x, t):
    process = processes.RectifiedFlow()
    t = t.double()
    return process.velocity(x.double(), Dirac(belief(process, x, t)), t).to(x.dtype)


def of_log_snr(x, log_snr):
    process = processes.VP()
    t = process.time(log_snr.double())
    return process.noise(x.double(), Dirac(belief(process, x, t)), t).to(x.dtype)


def vp_x0(x, t):
    return belief(processes.VP(), x, t.double()).to(x.dtype)


def vp_score(x, t):
    process = processes.VP()
    t = t.double()
    return process.score(x.double(), Dirac(belief(process, x, t)), t).to(x.dtype)


def vp_v(x, t):
    """v = α ε − σ x_0 (arXiv:2202.00512)."""
    process = processes.VP()
    t = t.double()
    mean = belief(process, x, t)
    noise = process.noise(x.double(), Dirac(mean), t)
    alpha, sigma = (value(t)[:, None] for value in (process.alpha, process.sigma))
    return (alpha * noise - sigma * mean).to(x.dtype)


VE = processes.VE(0.01, 50.0)


def ve_score(x, sigma):
    """The score of x_0 + σ ε, told σ itself."""
    noise = sigma.double()[:, None]
    mean = belief(processes.EDM(), x, sigma.double() / 80.0)
    return ((mean - x.double()) / noise**2).to(x.dtype)


def labelled_d(x, sigma, label):
    """D(x, σ) with the class as its third argument; None for all classes together."""
    return belief(processes.EDM(), x, sigma.double() / 80.0, label).to(x.dtype)


def ddpm(network=eps, **changes):
    return langevin.denoiser(network, **{"process": DDPM, "prediction": "eps", "shape": (2,), **changes})


CASES = {
    "table of betas": (eps, {"process": "ddpm", "prediction": "eps"}, "index", False),
    "table of embeddings": (embedded, {"process": DDPM, "prediction": "eps"}, "nearest-index", False),
    "D(x, sigma)": (edm_d, {"process": "edm", "prediction": "x0"}, "sigma", False),
    "velocity over t": (flow_v, {"process": "flow", "prediction": "flow"}, "t", False),
    "over log-SNR": (of_log_snr, {"process": "vp", "prediction": "eps", "time": "log_snr"}, "log_snr", False),
    "x0 over t": (vp_x0, {"process": processes.VP(), "prediction": "x0"}, "t", False),
    "score(x, t)": (vp_score, {"process": "vp", "prediction": "score"}, "t", False),
    "v(x, t)": (vp_v, {"process": "vp", "prediction": "v", "time": "t"}, "t", False),
    "score(x, sigma)": (ve_score, {"process": VE, "prediction": "score", "time": "sigma"}, "sigma", False),
    "D(x, sigma, label)": (labelled_d, {"process": "edm", "prediction": "x0", "classes": 3}, "sigma", False),
}


@pytest.mark.parametrize("case", thinned(CASES, 6))
def test_draws_the_law_by_default(case):
    """With process and prediction alone, samples are of the world: sliced W2 within mean + 4 sd of the truth's.

    A table of embeddings rounds the time by half a knot at most, which moves σ by 25 % at the first knot and less
    above: far below the floor. Without the defaults the same table network gives a W2 over three times the floor.
    """
    network, settings, time, scaled = CASES[case]
    model = langevin.denoiser(network, shape=(2,), **settings)
    assert (model.parameterization.time, model.parameterization.scale_input) == (time, scaled)
    x = langevin.sample(model, n=4000, steps=20, seed=1)
    assert x.dtype == torch.float32
    assert sliced_w2(x.double(), WORLD.sample(4000, 99)) < w2_floor(WORLD, 4000, 16)
    check = langevin.check_denoiser(model, X0)
    assert check.ok, str(check)
    assert str(check).endswith("It denoises.")
    for label in range(settings.get("classes", 0)):
        x, part = langevin.sample(model.given(label=label), n=2000, steps=20, seed=1), WORLD.part(label)
        assert sliced_w2(x.double(), part.sample(2000, 99)) < w2_floor(part, 2000, 16)


def test_a_scaled_input_draws_another_law():
    """What the default once was: the check above can tell the two apart, and so can ``check_denoiser``."""
    model = ddpm(scale_input=True)
    x = langevin.sample(model, n=4000, steps=20, seed=1)
    assert sliced_w2(x.double(), WORLD.sample(4000, 99)) > 3 * w2_floor(WORLD, 4000, 16)
    assert langevin.check_denoiser(model, X0).problems == (
        "The scaling of the input looks wrong: with scale_input=False in place of True, the error becomes 1.5 times "
        "smaller.",
    )


WRONG = {
    "scaled": (lambda: ddpm(scale_input=True), "scaling of the input looks .*scale_input=False"),
    "t for n": (lambda: ddpm(time="t"), "time convention looks wrong: with time='index' in place of 't'"),
    "log-SNR for n": (lambda: ddpm(time="log_snr"), "time convention looks wrong: with time='index'"),
    "x0 for eps": (lambda: ddpm(prediction="x0"), "kind of prediction looks .*prediction='eps' in place of 'x0'"),
    "v for eps": (lambda: ddpm(prediction="v"), "kind of prediction looks .*prediction='eps' in place of 'v'"),
    "edm for eps": (lambda: ddpm(prediction="edm"), "kind of prediction, the time convention and the scaling .* look"),
    "velocity to data": (
        lambda: langevin.denoiser(
            lambda x, t: -flow_v(x, 1 - t), process="flow", prediction="flow", shape=(2,), low=-1, high=1
        ),
        "time told in reverse.* and the sign of the output turned",
    ),
    "n for t": (
        lambda: langevin.denoiser(vp_x0, process="vp", prediction="x0", shape=(2,), time="time"),
        "time convention looks wrong: with time='t' in place of 'time'",
    ),
    "eps for D": (
        lambda: langevin.denoiser(edm_d, process="edm", prediction="eps", shape=(2,)),
        "kind of prediction looks wrong: with prediction='x0' in place of 'eps'",
    ),
    "other betas": (
        lambda: ddpm(process=processes.DDPM(processes.scaled_linear_betas()), network=cosine_eps),
        r"process looks wrong: with DDPM\(cosine_betas\(1000\)\)",
    ),
    "zeros": (lambda: ddpm(lambda x, n: torch.zeros_like(x)), "returns the same whatever"),
    "noise": (
        lambda: ddpm(lambda x, n: torch.sin(31 * x + n[:, None])),
        "worse than the linear estimator, and no other",
    ),
    "nan": (lambda: ddpm(lambda x, n: x / (x - x)), "not finite"),
    "training mode": (lambda: ddpm(Dropping().train()), "training mode"),
}


def cosine_eps(x, n):
    process = processes.DDPM(processes.cosine_betas())
    t = (n.double() + 1) / N
    return process.noise(x.double(), Dirac(belief(process, x, t)), t).to(x.dtype)


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.linear = nn.Dropout(0.1), nn.Linear(2, 2)

    def forward(self, x, n):
        return eps(self.drop(x), n) + 0 * self.linear(x)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_conventions_are_named(case):
    make, words = WRONG[case]
    check = langevin.check_denoiser(make(), X0)
    assert not check.ok
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(check.problems[0])
    assert ("sign of the output" in check.problems[0]) == (case == "velocity to data")


def test_the_table_of_the_check():
    """Every column against its closed form: of normal data the linear estimator is the posterior mean, and the exact
    denoiser's error equals it; relative standard error of an RMS over 256·2 numbers is 1/√(2·512) = 3 %, times four."""
    std = 0.5
    normal = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), std**2 * torch.eye(2)[None])
    process = processes.EDM()
    check = langevin.check_denoiser(normal.denoiser(process), normal.sample(256, 1))
    assert check.ok
    assert [e.ratio / std for e in check.levels] == pytest.approx([0.05, 0.15, 0.5, 1.5, 5.0], rel=0.12)
    for e in check.levels:
        best = std * e.ratio / math.sqrt(std**2 + e.ratio**2)
        assert e.denoiser == pytest.approx(best, rel=0.12)
        assert e.linear == pytest.approx(e.denoiser, rel=0.02)
        assert e.rescaled == pytest.approx(e.ratio, rel=0.12)
        assert e.mean == pytest.approx(std, rel=0.12)
        assert f"{e.linear:.4g}" in str(check)


def test_a_table_is_looked_at_from_its_first_knot():
    """Data so narrow that every ratio of the check lies below the first knot of a table are looked at there."""
    normal = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), 1e-8 * torch.eye(2)[None])
    process = processes.DDPM()
    check = langevin.check_denoiser(normal.denoiser(process), normal.sample(64, 1))
    assert [e.t for e in check.levels] == [1 / process.steps]


def test_data_of_another_range_are_named():
    """A network of data in [−1, 1], checked on the same data as they lie in a file, in [0, 1]."""
    points = (torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=F64) > 0.5) * 2.0 - 1
    exact = worlds.Empirical(points).denoiser(DDPM)
    network = lambda x, n: DDPM.noise(x.double(), exact(x.double(), (n.double() + 1) / N), (n.double() + 1) / N).to(
        x.dtype
    )
    assert langevin.check_denoiser(ddpm(network), points).ok
    (problem,) = langevin.check_denoiser(ddpm(network), (points + 1) / 2).problems
    assert problem == "The range of the data looks wrong: scaled from [0, 1] to [-1, 1] they are denoised."


@dataclass
class Output:
    sample: torch.Tensor


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: Output(y), lambda y: (y,), lambda y: [y, "more"]])
def test_outputs(wrap):
    x = WORLD.sample(3, 1).float()
    assert torch.equal(ddpm(lambda x, n: wrap(eps(x, n)))(x, 0.5).mean, ddpm()(x, 0.5).mean)


def test_labels():
    """The third argument: labels as given; absent None, or the null label; both in one batch for guidance."""
    seen = []

    def network(x, n, label):
        seen.append(label)
        return eps(x, n, label)

    x, label = WORLD.sample(4, 1).float(), torch.tensor([0, 1, 2, 0])
    model = ddpm(network, classes=3)
    assert model.conditions() == ("label",)
    torch.testing.assert_close(model(x, 0.5).mean, ddpm()(x, 0.5).mean)
    assert seen[-1] is None
    given = model.given(label=label)(x, 0.5).mean
    assert torch.equal(seen[-1], label)
    exact = WORLD.denoiser(DDPM).given(label=label)(x.double(), 0.5).mean
    torch.testing.assert_close(given.double(), exact, rtol=1e-4, atol=1e-4)
    guided = langevin.guidance.classifier_free(model, label=label, guidance_scale=2.0)(x, 0.5).mean
    torch.testing.assert_close(guided, 2 * given - model(x, 0.5).mean)

    null = ddpm(lambda x, n, y: network(x, n, None if bool((y == 3).all()) else y), classes=3, null_label=3)
    torch.testing.assert_close(null(x, 0.5).mean, model(x, 0.5).mean)
    null(x, 0.5)
    assert torch.equal(null.given(label=label)(x, 0.5).mean, given)
    counted = []
    spy = ddpm(lambda x, n, y: counted.append(y) or eps(x, n), classes=3, null_label=3)
    langevin.guidance.classifier_free(spy, label=1, guidance_scale=2.0)(x, 0.5)
    assert counted[-1].tolist() == [3] * 4 + [1] * 4


class Small(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.linear, self.norm = nn.Linear(2, 2, dtype=dtype), nn.BatchNorm1d(2, dtype=dtype)

    def forward(self, x, t):
        assert x.dtype == self.linear.weight.dtype
        return self.norm(self.linear(x))


class Plain(nn.Module):
    def forward(self, x, t):
        return x


def test_a_module_is_left_as_it_was():
    """Dtype and device are the module's; asking once at wrapping changes neither modes nor batch statistics."""
    network = Small(F64).train()
    network.linear.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.warns(UserWarning, match="network is in training mode"):
        model = ddpm(network)
    assert isinstance(model, NetworkDenoiser)
    assert (model.dtype, model.device, model.counter.calls) == (F64, torch.device("cpu"), 0)
    assert network.training
    assert not network.linear.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert ddpm(dtype=F64).dtype == F64


def test_a_network_at_rest_is_taken_without_a_word(recwarn):
    ddpm(Small(F64).eval())
    ddpm(Plain().train())  # whose mode changes nothing
    assert not recwarn.list


def test_a_network_of_this_library_is_used_as_it_is():
    network = langevin.nn.create_network(
        {"name": "mlp", "channels": 2, "width": 8, "depth": 1, "conditions": {"label": 2}}
    )
    model = langevin.denoiser(network, process="edm", prediction="edm", shape=(2,))
    assert model.network is network
    assert (model.parameterization.time, model.parameterization.scale_input) == ("log_sigma", True)
    assert langevin.sample(model.given(label=1), n=2, steps=2).shape == (2, 2)


def test_data_travel():
    info = langevin.data.load("moons").info
    assert ddpm(data=info).data is info
    about = ddpm(low=0.0, high=1.0).data
    assert (about.low, about.high, about.shape) == (0.0, 1.0, (2,))


def test_diffusers():
    """A UNet2DModel, with labels, in one call."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), num_class_embeds=4,
    ).eval()  # fmt: skip
    model = langevin.denoiser(unet, process="ddpm", prediction="eps", shape=(1, 8, 8), classes=3, null_label=3)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        out = unet(x, 499, torch.tensor([3, 3])).sample
        alpha, sigma = DDPM.alpha(torch.tensor(0.5, dtype=F64)), DDPM.sigma(torch.tensor(0.5, dtype=F64))
        # one multiplication and one addition in float32
        torch.testing.assert_close(model(x, 0.5).mean, (x - float(sigma) * out) / float(alpha), rtol=1e-5, atol=1e-5)
    assert langevin.sample(model.given(label=2), n=2, steps=2).shape == (2, 1, 8, 8)


def wrap(**changes):
    return lambda: ddpm(**changes)


REFUSED = [
    (wrap(network=nn.Linear), "network must be a torch.nn.Module or a function .* got the class Linear"),
    (wrap(network="net.pt"), "network must be .* got 'net.pt'"),
    (wrap(network=WORLD.denoiser(DDPM)), "network must be a network, got a denoiser"),
    (wrap(process=processes.DDPM), r"process must be an instance, got the class DDPM: write DDPM\(\)"),
    (wrap(process="dpm"), "unknown process 'dpm'. Did you mean 'ddpm'"),
    (wrap(process=3), "process must be a name or a mapping"),
    (wrap(process="absorbing"), "process"),
    (wrap(prediction="epsilon"), "unknown prediction 'epsilon'. Did you mean 'eps'"),
    (wrap(prediction=None), "prediction must be the name"),
    (wrap(time="timestep"), "unknown time input 'timestep'"),
    (wrap(shape=None), "shape must be that of one datum"),
    (wrap(shape=(2.0,)), "shape must be that of one datum"),
    (wrap(classes=-1), "classes must be a number of classes"),
    (wrap(classes=True), "classes must be a number of classes"),
    (wrap(null_label=3), "null_label needs classes"),
    (wrap(classes=3, null_label=-1), "null_label must be"),
    (wrap(data="moons"), "data must be a description"),
    (wrap(data=langevin.data.load("moons").info, low=0.0, high=1.0), "low and high are in place of data"),
    (wrap(data=langevin.data.load("digits").info), r"shape must be that of the data, \(1, 8, 8\), got \(2,\)"),
    (wrap(low=0.0), "low and high are both numbers or both None"),
    (wrap(dtype=torch.int64), "dtype must be a floating torch.dtype"),
    (wrap(device="gpu"), "device must be one that torch knows here, got 'gpu'"),
    (wrap(network=Small(), dtype=F64), "dtype and device are for functions"),
    (wrap(network=lambda x, n, y: x), "could not be called as network.*classes=…"),
    (wrap(network=lambda x: x), "could not be called as network"),
    (wrap(network=nn.Linear(3, 3)), "could not be called as network"),
    (wrap(network=lambda x, n: None), "network must return a tensor.* got NoneType"),
    (wrap(network=lambda x, n: x[:, :1]), r"network must return \(2,\) a sample, got \(1,\)"),
    (wrap(variance="learned"), "unknown variance 'learned'"),
    (lambda: langevin.check_denoiser(eps, X0), "denoiser must be a denoiser, got .*; wrap a network with"),
    (lambda: langevin.check_denoiser(ddpm(), "x0"), "data must be a tensor of clean samples"),
    (lambda: langevin.check_denoiser(ddpm(), X0[:, :1]), "data must be at least 8 clean samples of shape"),
    (lambda: langevin.check_denoiser(ddpm(), X0[:4]), "data must be at least 8 clean samples of shape"),
    (lambda: langevin.check_denoiser(ddpm(), X0 * math.nan), "data must be finite"),
    (lambda: langevin.check_denoiser(ddpm(), torch.ones(20, 2)), "data must be finite and not all alike"),
]


@pytest.mark.parametrize(("call", "words"), REFUSED)
def test_refusals(call, words):
    with pytest.raises(UserError, match=words):
        call()
