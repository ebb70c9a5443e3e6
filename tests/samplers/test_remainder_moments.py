"""The moments that the Gaussian-remainder solver takes: of a world, of a class, of a description, or estimated."""

from __future__ import annotations

import math

import pytest
import torch
from test_remainder import gaussian

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.guidance import classifier_free
from langevin.numerics.frame import Cosines, Directions, GaussianFrame, Leading
from langevin.samplers import GaussianRemainder
from laws.table import mixture
from support import oracle

F64 = torch.float64


def test_moments_of_models():
    """The data's, of one class where one is asked for, of what guidance starts from; none where there are none."""
    world = worlds.random_mixture(4, 3, seed=2)
    q = processes.VP()
    whole = langevin.denoisers.gaussian_frame(world.denoiser(q))
    rebuilt = whole.basis.back(torch.diag(whole.variances)).mT @ torch.eye(4, dtype=F64)
    torch.testing.assert_close(whole.basis.back(rebuilt), world.cov)
    torch.testing.assert_close(whole.mean, world.mean)
    one = langevin.denoisers.gaussian_frame(world.denoiser(q).given(label=1))
    torch.testing.assert_close(one.mean, world.means[1])
    torch.testing.assert_close(one.variances, world.values[1])
    assert langevin.denoisers.gaussian_frame(world.denoiser(q).given(label=torch.tensor([0, 1]))) is whole
    assert (
        langevin.denoisers.gaussian_frame(classifier_free(world.denoiser(q), label=1, guidance_scale=2.0)) is not None
    )
    assert langevin.denoisers.gaussian_frame(oracle(world, q, "x0")) is None


@pytest.mark.parametrize("label", [0, 1])
def test_moments_of_a_class_of_a_world(label):
    """Those of its own components, the first class too."""
    world = worlds.GaussianMixture([0.5, 0.5], [[1.0, 0.0], [-1.0, 0.5]], [0.1, 0.2])
    part = world.part(label)
    torch.testing.assert_close(part.mean, world.means[label])
    torch.testing.assert_close(part.cov, (0.1, 0.2)[label] * torch.eye(2, dtype=torch.float64))
    frame = langevin.denoisers.gaussian_frame(world.denoiser(processes.VP()).given(label=label))
    torch.testing.assert_close(frame.mean, world.means[label])


def test_class_moments_make_a_class_exact():
    """A component alone is a Gaussian: its label's moments solve it in one step."""
    world, q = worlds.random_mixture(4, 3, seed=2), processes.EDM()
    x = langevin.sample(world.denoiser(q).given(label=2), n=3, steps=1)
    y = langevin.sample(world.denoiser(q).given(label=2), n=3, steps=7)
    torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-7)


def test_class_moments_of_a_model():
    """A network under one label is solved with its class's moments, under several or none with those of all."""
    world, q = worlds.random_mixture(4, 3, seed=2), processes.VP()
    covs = torch.stack([v @ torch.diag(e) @ v.mT for v, e in zip(world.basis, world.values)])
    known = {"mean": world.mean, "cov": world.cov, "class_mean": world.means, "class_cov": covs}
    info = langevin.data.DataInfo("made", (4,), None, None, ("a", "b", "c"), **known)
    model = __import__("dataclasses").replace(oracle(world, q, "x0"), data=info)
    model.network.config = {"conditions": {"label": 3}}
    labelled = lambda label: model.given(label=label)
    for k in range(3):
        found = langevin.denoisers.gaussian_frame(labelled(k))
        torch.testing.assert_close(found.mean, world.means[k])
        torch.testing.assert_close(
            found.variances.sort().values, world.values[k].sort().values.clamp_min(found.variances.min())
        )
        assert langevin.denoisers.gaussian_frame(labelled(k).rows(slice(0, 1))) is found
    # A label a sample is one of several, also where the batch holds one sample alone.
    for others in (model, labelled([0, 1]), labelled([1]), labelled([0, 1]).rows(slice(0, 1)), labelled(-1)):
        assert langevin.denoisers.gaussian_frame(others) is langevin.denoisers.gaussian_frame(model)
    assert langevin.denoisers.gaussian_frame(labelled(1)) is langevin.denoisers.gaussian_frame(labelled(1))
    guided = classifier_free(model, label=1, guidance_scale=2.0)
    assert langevin.denoisers.gaussian_frame(guided) is langevin.denoisers.gaussian_frame(labelled(1))


def test_data_of_a_model():
    """A network's description of its data is read: full covariances by eigenvectors, variances as they are."""
    world = worlds.random_mixture(4, 3, seed=2)
    model = oracle(world, processes.VP(), "x0")
    for cov in (world.cov, world.cov.diagonal()):
        data = langevin.data.DataInfo("made", (4,), None, None, mean=world.mean, cov=cov)
        found = langevin.denoisers.gaussian_frame(__import__("dataclasses").replace(model, data=data))
        assert found.spectral == (cov.ndim == 2)
        torch.testing.assert_close(found.variances.mean(), world.cov.diagonal().mean())


@pytest.mark.parametrize("shape", [(6,), (3, 8, 6)])
def test_estimated_moments(shape):
    """Of 4,000 samples of normal data: eigenvalues spread by 2√(D/n), and each errs by a share √(2/n) of itself."""
    size = math.prod(shape)
    values = torch.linspace(0.2, 0.4, size, dtype=F64)
    noise = Noise(5, 4000)
    basis = Cosines(shape) if len(shape) == 3 else Directions(gaussian()[1])
    x = 0.3 + basis.back(noise.normal((size,)) * values.sqrt())
    if len(shape) == 3:
        torch.testing.assert_close(basis.back(basis.to(x)), x)
        torch.testing.assert_close(basis.to(x).square().sum(), x.square().sum())
    found = samplers.moments_from(x, shape)
    assert (found.mean - 0.3).abs().max() < 5 * math.sqrt(0.4 / 4000)
    spread = 2 * math.sqrt(size / 4000) + 4 * math.sqrt(2 / 4000)
    assert (found.variances.sort().values / values - 1).abs().max() < spread


def test_large_images_are_transformed():
    """Beyond 512 coordinates the variances are those of the cosine transform, smooth in the frequency."""
    shape = (1, 24, 24)
    frequency = (torch.arange(24)[:, None] ** 2 + torch.arange(24) ** 2).double()
    values = (1 / (1 + frequency)).reshape(-1)
    x = Cosines(shape).back(Noise(1, 500).normal((576,)) * values.sqrt())
    found = samplers.moments_from(x, shape)
    assert isinstance(found.basis, Cosines)
    # nine neighbours of 500 samples each: √(2/4500) = 2 %, and the curvature of 1/f² between them
    assert ((found.variances / values).log().abs().median()) < 0.1


@pytest.mark.slow
def test_large_events_that_are_no_images():
    """600 coordinates, eight components of rank 100: at 15 evaluations 64 directions leave a third of the error.

    Of that with the variances of the coordinates alone, which say nothing of scales (measured 0.15 and 0.18). The
    directions of a data set's description, and those of 512 samples.
    """
    world, q = worlds.random_mixture(600, components=8, rank=100, rms=0.5, seed=0), processes.EDM()
    denoiser, start = world.denoiser(q), q.prior((600,)).sample(Noise(5, 16))
    values, vectors = (v.flip(-1) for v in torch.linalg.eigh(world.cov))
    spectrum = torch.cat((values[:64], values[64:].mean()[None]))
    info = langevin.data.DataInfo(
        "made",
        (600,),
        None,
        None,
        mean=world.mean,
        cov=world.cov.diagonal(),
        spectrum=spectrum,
        directions=vectors[:, :64],
    )
    known = langevin.denoisers.gaussian_frame(__import__("dataclasses").replace(oracle(world, q, "x0"), data=info))
    assert isinstance(known.basis, Leading)
    estimated = samplers.moments_from(world.sample(512, 3), (2, 300))
    assert isinstance(estimated.basis, Leading)
    plain = GaussianFrame(world.mean, world.cov.diagonal(), spectral=False)
    fine = langevin.sample(
        denoiser, GaussianRemainder(GaussianFrame.from_covariance(world.mean, world.cov)), start=start, steps=60
    )
    errors = []
    for moments in (known, estimated, plain):
        x = langevin.sample(denoiser, GaussianRemainder(moments), start=start, steps=15)
        errors.append(float((x - fine).square().mean(1).sqrt().median()))
    assert max(errors[:2]) < errors[2] / 3, errors


def test_estimated_from_the_model():
    """From samples of a model that carries none, and as good as the exact ones but for the sampling error."""
    world, q = worlds.random_mixture(4, 3, seed=2), processes.EDM()
    found = samplers.estimate_moments(oracle(world, q, "edm"), n=2000, steps=8)
    cov = found.basis.back(torch.diag(found.variances)).mT
    cov = found.basis.back(cov)
    assert (found.mean - world.mean).abs().max() < 5 * math.sqrt(float(world.cov.diagonal().max()) / 2000)
    assert (cov - world.cov).norm() / world.cov.norm() < 0.15
    with pytest.raises(UserError, match="n must be an integer of at least 2"):
        samplers.estimate_moments(oracle(world, q, "edm"), n=1)


def test_bad_moments():
    world, q = mixture(2), processes.VP()
    with pytest.raises(UserError, match="frame must be of 2 coordinates"):
        langevin.sample(world.denoiser(q), GaussianRemainder(GaussianFrame.unknown(3)))
    with pytest.raises(UserError, match="variances >= 0"):
        GaussianFrame(torch.zeros(2), torch.tensor([1.0, -1.0]))
    with pytest.raises(UserError, match="cov must be"):
        GaussianFrame.from_covariance(torch.zeros(2), torch.zeros(3, 3))
    with pytest.raises(UserError, match="steps must be"):
        GaussianRemainder().default_grid(q, 0)
    with pytest.raises(UserError, match="Gaussian-remainder"):
        langevin.sample(
            worlds.Empirical(torch.zeros(1, 3).long()).denoiser(processes.Absorbing(2)), GaussianRemainder()
        )


def test_moments_reach_a_sampler_among_others():
    """Before a corrector, or repeated, the solver has the moments and the grid that it has alone."""
    q = processes.EDM()
    denoiser = worlds.random_mixture(8, 3, seed=2).denoiser(q)
    alone = GaussianRemainder().for_model(denoiser)
    pair, twice = (s.for_model(denoiser) for s in (GaussianRemainder().then(samplers.Langevin()), alone.repeat(2)))
    assert pair.first == alone == twice.sampler
    assert torch.equal(pair.default_grid(q, 6), alone.default_grid(q, 6))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_wrong_gaussian_is_put_right_by_what_remains(eta):
    """Data of variance ¼ solved beside N(0, 1): the remainder is all of the difference, and at 100 steps what is left
    of the error, of order 1/n with noise, is below a per cent; 5 standard errors of 20,000 samples on top."""
    process, n = processes.VP(), 20_000
    world = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1), 0.25))
    frame = GaussianFrame(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    rule = GaussianRemainder(frame=frame, eta=eta)
    start = world.sample(n, 5, process=process, t=1.0)
    x = langevin.sample(world.denoiser(process), rule, start=start, steps=100, grid="log-snr", batch=n)
    assert abs(float(x.var()) / 0.25 - 1) < 0.01 + 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("process", [processes.EDM(), processes.VP()], ids=repr)
@pytest.mark.parametrize("steps", [5, 10])
def test_data_on_a_plane_end_on_it(process, steps):
    """Exact beliefs about a mixture on a plane of eight dimensions: what is left across is the rounding of moments.

    Eigenvalues of the covariance are 0 to 1e-16, standard deviations to 1e-8 of the data; the floor of 1e-14 leaves
    1e-7 of the root mean variance a direction, of which the largest of 16·8 normal numbers is 3 times, 1e-6 in all.
    """
    generator = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.randn(8, 2, generator=generator, dtype=torch.float64))[0].mT
    means = torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.5, -0.8]], dtype=torch.float64) @ plane
    world = worlds.GaussianMixture([1.0, 1.0, 1.0], means, (0.01 * plane.mT @ plane).expand(3, 8, 8))
    x = langevin.sample(world.denoiser(process), samplers.GaussianRemainder(), n=16, steps=steps, seed=0)
    assert float((x - x @ plane.mT @ plane).abs().max()) < 1e-6
