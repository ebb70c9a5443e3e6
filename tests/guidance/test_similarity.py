"""Semantic guidance against worlds where the similarity, and so the tilted law, is a closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.special import i0, i1
from torch import Tensor, nn

from langevin import UserError, worlds
from langevin.data import DataInfo
from langevin.denoisers import ContrastiveEncoder
from langevin.distributions import Noise, Stream
from langevin.guidance import similarity
from langevin.guidance.similarity import gram
from langevin.nn import DualEncoder
from langevin.processes import EDM, VP, ScalarGaussian
from langevin.samplers.particles import twisted_smc
from plain_encoder import PlainEncoder

TAU = 1.5
COV = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.4, -0.1], [0.0, -0.1, 0.3]], dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.4, 0.1], dtype=torch.float64)
LEAD = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TEXT = torch.tensor([[[0.6, -0.8]]], dtype=torch.float64)


def normal(mean: Tensor = MEAN) -> worlds.GaussianMixture:
    return worlds.GaussianMixture(torch.ones(1), mean[None], COV[None])


class Linear(nn.Module):
    """Vectors W'E[x_0 | x_t] of normal data: exp(τs⟨u, v⟩) then is, up to a constant, E[exp(τs⟨W'x_0, v⟩) | x_t]."""

    reads = "sequence"

    def __init__(self, process: ScalarGaussian, sigma_data: float = 1.0) -> None:
        super().__init__()
        self.process, self.sigma_data = process, sigma_data
        self.scale = nn.Parameter(torch.tensor(TAU, dtype=torch.float64))

    def check_shape(self, shape: tuple[int, ...]) -> None:
        assert shape == (3,)

    def encode_image(self, x: Tensor, time: Tensor) -> Tensor:
        t = self.process.time(-8 * time.double())  # time is ¼ log σ/α, the state is divided by √(σ² + α²σ_d²)
        scale = torch.sqrt(self.process.sigma(t) ** 2 + self.process.alpha(t) ** 2 * self.sigma_data**2)
        return normal().denoiser(self.process)(x * scale[:, None], t).mean @ LEAD

    def encode_text(self, value: Tensor) -> Tensor:
        return value[:, 0]


def encoder(network: nn.Module, process: ScalarGaussian, shape: tuple[int, ...] = (3,), noisy: bool = True) -> Any:
    return ContrastiveEncoder(network, process, DataInfo("known", shape, low=None, high=None), 1.0, noisy)


@pytest.mark.parametrize("process", [EDM(), VP()], ids=["edm", "vp"])
@pytest.mark.parametrize("scale", [1.0, -2.0])
def test_of_normal_data_and_a_linear_similarity_it_is_the_tilted_law(process: ScalarGaussian, scale: float) -> None:
    """N(μ, C)·exp(τs v'W'x) is N(μ + τs·CWv, C): mean and covariance of the belief, at every noise level.

    The time is told as ¼ log σ/α, which is float64 here; the rest is a Cholesky factor of a 3x3 matrix.
    """
    lead = LEAD @ TEXT[0, 0]
    truth = normal(MEAN + TAU * scale * COV @ lead).denoiser(process)
    t = process.time(torch.tensor([4.0, 0.0, -4.0], dtype=torch.float64))
    x = normal().sample(3, 1, process=process, t=t)
    guided = similarity(normal().denoiser(process), encoder(Linear(process), process), text=TEXT, scale=scale)
    found, known = guided(x, t), truth(x, t)
    torch.testing.assert_close(found.mean, known.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.cov.dense((3,)), known.cov.dense((3,)), rtol=1e-7, atol=1e-7)


def test_on_a_circle_particles_reach_the_von_mises_law() -> None:
    """Uniform points of a circle tilted by exp(κ cos θ): E cos θ = I₁(κ)/I₀(κ), E cos 2θ = 1 − 2 I₁(κ)/(κ I₀(κ)).

    The encoder knows clean data alone and is asked of the predicted ones. The standard error is that of the effective
    number of particles, and of twice as large an error for the steps.
    """
    angle = 2 * math.pi * torch.arange(256, dtype=torch.float64) / 256
    world = worlds.Empirical(torch.stack([torch.cos(angle), torch.sin(angle)], 1))
    kappa = 2.0
    text = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    guided = similarity(world.denoiser(VP()), encoder(PlainEncoder(kappa), VP(), (2,), noisy=False), text=text)
    n = 1500
    found = twisted_smc(guided, n=n, steps=25, seed=0)
    x = found.sample(n, 0)
    ratio = float(i1(kappa) / i0(kappa))
    for value, truth in ((x[:, 0], ratio), (2 * x[:, 0] ** 2 - 1, 1 - 2 * ratio / kappa)):
        error = float(value.std()) / math.sqrt(float(found.ess[0, -1]))
        assert abs(float(value.mean()) - truth) < 3 * error


def noised(process: ScalarGaussian, picture: Tensor, t: Tensor, seed: int = 0) -> Tensor:
    return process.marginal(picture, t).sample(Noise(seed, len(picture)).fold_in(Stream.REFERENCE))


def pictures() -> tuple[Any, Tensor, Tensor, Tensor]:
    process = EDM()
    world = worlds.Empirical(torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    t = process.time(torch.tensor(0.5, dtype=torch.float64))
    x = world.sample(4, 1, process=process, t=t)
    return world.denoiser(process), x, t, torch.randn(1, 2, 3, 3, dtype=torch.float64)


def test_structure_and_style_have_the_gradients_of_their_formulas() -> None:
    """F = −c²|x_t − y_t|² with the scale c that a state is shown with; of style by the chain rule of a Gram matrix."""
    free, x, t, picture = pictures()
    process = free.process
    y = noised(process, picture, t)
    shown = (process.sigma(t) ** 2 + 1) ** -0.5
    strength = process.sigma(t) ** 2
    model = encoder(PlainEncoder(), process, (2, 3, 3))
    found = similarity(free, model, image=picture, measure="structure", scale=0.3)(x, t).mean - free(x, t).mean
    torch.testing.assert_close(found, -0.6 * strength * shown**2 * (x - y), rtol=1e-9, atol=1e-10)
    found = similarity(free, model, image=picture, measure="style", scale=0.3)(x, t).mean - free(x, t).mean
    a, b = (shown * x).flatten(2), (shown * y).flatten(2)
    apart = (a @ a.mT - b @ b.mT) / 9
    slope = 4 / 9 * (apart @ a).view_as(x) * shown  # d|G − H|²/dF = 4(G − H)F/places, G symmetric
    torch.testing.assert_close(found, -0.3 * strength * slope, rtol=1e-9, atol=1e-10)
    assert torch.equal(gram(picture), picture.flatten(2) @ picture.flatten(2).mT / 9)


def test_content_of_a_picture_is_the_cosine_with_it_at_the_same_noise() -> None:
    free, x, t, picture = pictures()
    y = noised(free.process, picture, t, 3).flatten(1)
    own = x.clone().requires_grad_()
    cosine = nn.functional.cosine_similarity(own.flatten(1), y)
    (slope,) = torch.autograd.grad(cosine.sum(), own)
    guided = similarity(free, encoder(PlainEncoder(TAU), free.process, (2, 3, 3)), image=picture, scale=2.0, seed=3)
    found = guided(x, t).mean - free(x, t).mean
    torch.testing.assert_close(found, 2 * TAU * free.process.sigma(t) ** 2 * slope, rtol=1e-9, atol=1e-10)


def test_the_reference_has_other_noise_than_the_samples_of_its_seed() -> None:
    """At the greatest noise −|f(x_t) − f(y_t)|² has the gradient 2σ²c²(y_t − x_t), which says y_t, and so its noise.

    Of numbers without a link the correlation over 3·18 is below five times 1/√54, 0.68; of the same ones it is 1.
    """
    free, _, _, picture = pictures()
    t = torch.tensor(free.process.t_max, dtype=torch.float64)
    x = free.process.prior(free.shape).sample(Noise(0, 3)).double()
    guided = similarity(
        free,
        encoder(PlainEncoder(), free.process, (2, 3, 3)),
        image=picture.expand(3, -1, -1, -1) * 0,
        measure="structure",
    )
    variance = free.process.sigma2(t)
    y = x + (guided(x, t).mean - free(x, t).mean) * (variance + 1) / (2 * variance)
    both = torch.stack([x.flatten(), y.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.68
    assert abs(float(y.std() / variance.sqrt()) - 1) < 5 / math.sqrt(2 * 54)


def test_references_one_a_sample_are_cut_with_the_samples() -> None:
    process = EDM()
    free, x = normal().denoiser(process), normal().sample(4, 1)
    t = torch.tensor(0.01, dtype=torch.float64)
    texts = torch.nn.functional.normalize(torch.randn(4, 1, 2).double(), dim=2)
    guided = similarity(free, encoder(Linear(process), process), text=texts)
    whole = guided(x, t).mean
    torch.testing.assert_close(guided.rows(slice(1, 3))(x[1:3], t).mean, whole[1:3])
    assert (whole[0] - guided.rows(slice(1, 2))(x[:1], t).mean).abs().max() > 1e-4
    with pytest.raises(UserError, match="was given for 4 samples, but the batch has 2"):
        guided(x[:2], t)


def test_guidance_by_a_text_and_a_picture_go_around_each_other() -> None:
    """Eq. 9 of the paper: the sum of the two terms."""
    free, x, t, picture = pictures()
    model = encoder(PlainEncoder(), free.process, (2, 3, 3))
    text = torch.nn.functional.normalize(torch.randn(1, 1, 18).double(), dim=2)
    plain = free(x, t).mean
    one = similarity(free, model, text=text)
    other = similarity(free, model, image=picture, scale=0.5, measure="structure")
    both = similarity(one, model, image=picture, scale=0.5, measure="structure")(x, t).mean
    torch.testing.assert_close(both - plain, one(x, t).mean - plain + other(x, t).mean - plain, rtol=1e-9, atol=1e-10)


def test_clean_pictures_of_another_size_are_brought_to_the_encoder_s() -> None:
    """By hand: the cosine of the prediction, shrunk to half its side, through the belief of finitely many pictures."""
    process = EDM()
    world = worlds.Empirical(torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    free, t = world.denoiser(process), process.time(torch.tensor(-3.0, dtype=torch.float64))
    x, picture = world.sample(2, 1, process=process, t=t), torch.randn(1, 1, 6, 6, dtype=torch.float64)
    small = lambda z: nn.functional.interpolate(z, (3, 3), mode="bilinear", antialias=True).flatten(1)
    own = x.clone().requires_grad_()
    cosine = nn.functional.cosine_similarity(small(free(own, t).mean), small(picture))
    (slope,) = torch.autograd.grad(cosine.sum(), own)
    guided = similarity(free, encoder(PlainEncoder(), process, (1, 3, 3)), image=picture)
    found = guided(x, t).mean - free(x, t).mean
    assert found.abs().max() > 1e-3  # the noise leaves it open which of the five it is
    torch.testing.assert_close(found, process.sigma(t) ** 2 * slope, rtol=1e-8, atol=1e-10)
    with pytest.raises(UserError, match="encoder must be of noisy data of shape"):
        similarity(free, encoder(PlainEncoder(), process, (1, 3, 3)), image=picture, noisy=True)
    with pytest.raises(UserError, match="encoder must be of data of shape"):
        similarity(free, encoder(PlainEncoder(), process, (3,)), image=picture)


def test_words_reach_a_network_s_encoder() -> None:
    """The encoder of the trainer, untrained: the gradient is there, finite, and another for another text."""
    free, x, t, _ = pictures()
    torch.manual_seed(0)
    network = DualEncoder(
        embedding=8, image={"channels": 2, "size": [3, 3], "width": 8, "multipliers": [1]}, text={"caption": 9}
    )
    model = encoder(network.eval(), free.process, (2, 3, 3))
    one, other = (similarity(free, model, text=text)(x, t).mean for text in ("red", "blue"))
    assert one.isfinite().all()
    assert (one - other).abs().max() > 1e-4


def test_refused() -> None:
    free, _, _, picture = pictures()
    model = encoder(PlainEncoder(), free.process, (2, 3, 3))
    blind = encoder(PlainEncoder(), free.process, (2, 3, 3), noisy=False)
    other = encoder(PlainEncoder(), VP(), (2, 3, 3))
    never = replace(model, config={"objective": {"name": "contrastive", "clean": 0}})
    similarity(free, never, image=picture)  # of noisy states, which it has seen
    text = torch.zeros(1, 1, 18)
    wrong: Any = object()
    for call, said in (
        (lambda: similarity(free, wrong, text=text), "encoder must be a contrastive encoder"),
        (lambda: similarity(free, model), "give one of the two"),
        (lambda: similarity(free, model, text=text, image=picture), "give one of the two"),
        (lambda: similarity(free, model, text=text, measure="style"), "is of pictures"),
        (lambda: similarity(free, model, image=picture, measure="stile"), "Did you mean 'style'"),
        (lambda: similarity(free, blind, text=text, noisy=True), "knows clean data alone"),
        (lambda: similarity(free, other, text=text, noisy=True), "encoder must be of noisy data"),
        (lambda: similarity(free, model, image=picture[0]), "image must have shape"),
        (lambda: similarity(free, never, text=text, noisy=False), "encoder must know clean pictures"),
        (lambda: blind.encode_image(picture, 0.5), "knows clean data alone"),
    ):
        with pytest.raises(UserError, match=said):
            call()
