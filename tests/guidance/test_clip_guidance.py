"""CLIP guidance: each term and its gradient against a closed form, on a belief whose derivative is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langevin import UserError, worlds
from langevin.data import DataInfo
from langevin.denoisers import ContrastiveEncoder, Denoiser
from langevin.distributions import Dirac, Noise, Stream
from langevin.guidance import ClipSettings, clip_guidance
from langevin.guidance.clip_guidance import (
    mixed,
    out_of_range,
    perceptual_distance,
    saturation,
    spherical_distance,
    total_variation,
)
from langevin.guidance.cutouts import Cutouts, coloured, grey
from langevin.processes import EDM, VP, ScalarGaussian
from plain_encoder import PlainEncoder

SHAPE = (1, 6, 6)
VARIANCE = 0.6
OFF: dict[str, Any] = {"clip_guidance_scale": 0, "range_scale": 0, "clamp_grad": False, "skip_augs": True}
PLAIN = {"cut_overview": 5, "cut_innercut": 0}  # five times the picture itself


def encoder(shape: tuple[int, ...] = SHAPE) -> ContrastiveEncoder:
    return ContrastiveEncoder(PlainEncoder(both=True), EDM(), DataInfo("known", shape), 1.0, noisy=False)


@dataclass(frozen=True, eq=False)
class Normal(Denoiser):
    """N(0, v) pictures: x̂_0 = v α x/(v α² + σ²), and σ²/α times its derivative is the posterior variance."""

    process: ScalarGaussian
    shape: tuple[int, ...] = SHAPE

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Dirac:
        alpha, sigma2 = self.process.alpha(torch.as_tensor(t)), self.process.sigma2(torch.as_tensor(t))
        return Dirac(x_t * VARIANCE * alpha / (VARIANCE * alpha**2 + sigma2))


def normal(process: ScalarGaussian) -> Denoiser:
    return Normal(process)


def posterior(process: ScalarGaussian, t: Tensor) -> Tensor:
    return VARIANCE * process.sigma2(t) / (VARIANCE * process.alpha(t) ** 2 + process.sigma2(t))


@pytest.fixture(params=[EDM(), VP()], ids=["edm", "vp"])
def state(request: pytest.FixtureRequest) -> tuple[ScalarGaussian, Tensor, Tensor, Tensor]:
    process: ScalarGaussian = request.param
    t = process.time(torch.tensor(0.4, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    x = 2.5 * process.sigma(t) * torch.randn(3, *SHAPE, generator=generator, dtype=torch.float64)
    grid = torch.linspace(1, 0, 11, dtype=torch.float64)
    grid[5] = t
    return process, x, t, grid.sort(descending=True).values


def moved(state: tuple[ScalarGaussian, Tensor, Tensor, Tensor], **changes: Any) -> tuple[Tensor, Tensor]:
    """What the guidance adds to x̂_0, and x̂_0."""
    process, x, t, grid = state
    init = changes.pop("init", None)
    target = changes.pop("target", torch.eye(36, dtype=torch.float64)[:1])
    weights = changes.pop("weights", torch.ones(len(target), dtype=torch.float64))
    free = normal(process)
    settings = ClipSettings(**{**OFF, **PLAIN, **changes})
    guided = clip_guidance(free, encoder(), target, weights, grid=grid, settings=settings, init=init)
    predicted = free(x, t).mean
    return guided(x, t).mean - predicted, predicted


def through(state: tuple[ScalarGaussian, Tensor, Tensor, Tensor], slope: Tensor) -> Tensor:
    """−σ²/α times the gradient in x_t of a function whose gradient in the picture that is shown is ``slope``.

    The picture is f·x̂_0 + (1 − f)·x_t/S, with f = σ/S and x̂_0 linear in x_t.
    """
    process, _, t, _ = state
    size = (process.alpha(t) ** 2 + process.sigma2(t)).sqrt()
    share = process.sigma(t) / size
    strength = process.sigma2(t) / process.alpha(t)
    return -(share * posterior(process, t) + (1 - share) / size * strength) * slope


def test_the_range_pulls_the_prediction_back(state: Any) -> None:
    """∇ of s·mean (x̂ − clamp(x̂))² is 2s(x̂ − clamp(x̂))/D, through x̂_0 alone."""
    found, predicted = moved(state, range_scale=3)
    process, _, t, _ = state
    assert bool((predicted.abs() > 1).any())
    known = -posterior(process, t) * 6 * (predicted - predicted.clamp(-1, 1)) / 36
    torch.testing.assert_close(found, known, rtol=1e-10, atol=1e-12)


def shown(state: Any) -> Tensor:
    process, x, t, _ = state
    return mixed(process, x, t, normal(process)(x, t).mean)


def test_saturation_has_a_slope_of_one_sign_outside_of_the_range(state: Any) -> None:
    found, _ = moved(state, sat_scale=2)
    picture = shown(state)
    outside = (picture.abs() > 1).double() * picture.sign()
    torch.testing.assert_close(found, through(state, 2 * outside / 36), rtol=1e-10, atol=1e-12)


def test_total_variation_has_the_slope_of_a_discrete_laplacian(state: Any) -> None:
    """∂/∂x of Σ of squared differences is twice the differences to all neighbours."""
    found, _ = moved(state, tv_scale=4)
    picture = shown(state)
    slope = torch.zeros_like(picture)
    for axis in (-1, -2):
        step = 2 * picture.diff(dim=axis)
        ends = torch.zeros_like(picture.narrow(axis, 0, 1))
        slope += torch.cat([ends, step], axis) - torch.cat([step, ends], axis)
    torch.testing.assert_close(found, through(state, 4 * slope / 36), rtol=1e-10, atol=1e-12)


def test_the_prompt_pulls_along_the_sphere(state: Any) -> None:
    """∇ of ½θ² is −θ/sin θ·(v − cos θ·u)/|x|, of several prompts the weighted mean; cut-outs here are the picture."""
    target = nn.functional.normalize(torch.randn(2, 36, dtype=torch.float64), dim=1)
    weights = torch.tensor([3.0, -1.0], dtype=torch.float64)
    found, _ = moved(state, clip_guidance_scale=7, target=target, weights=weights)
    flat = shown(state).flatten(1)
    size = flat.norm(dim=1, keepdim=True)
    slope = torch.zeros_like(flat)
    for v, w in zip(target, (1.5, -0.5)):  # divided by the size of their sum, 2
        u = flat / size
        cos = (u @ v)[:, None]
        theta = cos.acos()
        slope -= 7 * w * theta / theta.sin() * (v - cos * u) / size
    torch.testing.assert_close(found, through(state, slope.view_as(shown(state))), rtol=1e-9, atol=1e-10)


def test_the_initial_picture_pulls_by_the_encoder_s_features(state: Any) -> None:
    """Features (x, 1 − x) of length 1 are the angle φ of each pixel: |f − g|² = 2 − 2 cos(φ − φ'), mean over pixels."""
    init = torch.rand(1, *SHAPE, dtype=torch.float64)
    found, _ = moved(state, init_scale=5, init=init)
    angle = lambda z: torch.atan2(1 - z, z)
    picture = shown(state)
    turn = -1 / (picture**2 + (1 - picture) ** 2)  # dφ/dx
    slope = 5 * 2 * torch.sin(angle(picture) - angle(init)) * turn / 36
    torch.testing.assert_close(found, through(state, slope), rtol=1e-9, atol=1e-10)


def test_the_gradient_is_bounded_in_the_units_of_a_process_that_preserves_variance(state: Any) -> None:
    """g·min(1, m/r), r the root mean square of S·g of each sample alone: the direction stays, and small ones too."""
    process, _, t, _ = state
    free, _ = moved(state, range_scale=300)
    size = (process.alpha(t) ** 2 + process.sigma2(t)).sqrt()
    strength = process.sigma2(t) / process.alpha(t)
    rms = (size / strength * free).square().flatten(1).mean(1).sqrt()
    bound = 1.01 * float(rms.median())
    found, _ = moved(state, range_scale=300, clamp_grad=True, clamp_max=bound)
    factor = (bound / rms).clamp(max=1)
    assert sorted(factor.lt(1).tolist()) == [False, False, True]
    torch.testing.assert_close(found, free * factor[:, None, None, None], rtol=1e-9, atol=1e-12)


def test_settings_follow_their_schedules() -> None:
    """Ten steps; the fifth of them is half way, where the second half of a schedule of two begins."""
    process = VP()
    grid = torch.linspace(1, 0, 11, dtype=torch.float64)
    free, x = normal(process), 3 * torch.randn(2, *SHAPE, dtype=torch.float64)
    one = torch.eye(36, dtype=torch.float64)[:1]
    weights = torch.ones(1, dtype=torch.float64)
    make = lambda value: clip_guidance(
        free, encoder(), one, weights, grid=grid, settings=ClipSettings(**{**OFF, **PLAIN, "range_scale": value})
    )
    both, low, high = make("[1]*500+[8]*500"), make(1), make(8)
    for step in range(10):
        same = low if step < 5 else high
        torch.testing.assert_close(both(x, grid[step]).mean, same(x, grid[step]).mean, rtol=1e-12, atol=1e-12)


def test_the_distance_is_the_mean_over_batches_of_cut_outs_of_their_own() -> None:
    process = VP()
    grid = torch.linspace(1, 0, 5, dtype=torch.float64)
    target = nn.functional.normalize(torch.randn(1, 9, dtype=torch.float64), dim=1)
    small = encoder((1, 3, 3))
    settings = ClipSettings(
        **{**OFF, "clip_guidance_scale": 1, "cut_overview": 1, "cut_innercut": 4, "cutn_batches": 3}
    )
    free, x, t = normal(process), torch.randn(2, *SHAPE, dtype=torch.float64), grid[2]
    guided: Any = clip_guidance(free, small, target, torch.ones(1).double(), grid=grid, settings=settings, seed=9)
    predicted = free(x, t).mean
    found = guided.losses(x, t, predicted)["clip"]
    cut = Cutouts(1, 4, 1.0, 0.0, (3, 3), False)
    noise = Noise(9, 1).step(2)
    known = torch.zeros(2, dtype=torch.float64)
    for number in range(3):
        cuts = cut(mixed(process, x, t, predicted), noise.fold_in(Stream.CUT_BATCH + number)).flatten(2)
        cosine = nn.functional.cosine_similarity(cuts, target[0], dim=-1)
        known += cosine.acos().square().mean(0) / 2 / 3
    torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-10)


def test_a_sample_does_not_depend_on_its_batch(state: Any) -> None:
    process, x, t, grid = state
    target = torch.eye(36, dtype=torch.float64)[:1]
    settings = ClipSettings(cut_overview=2, cut_innercut=3)
    guided = clip_guidance(normal(process), encoder(), target, torch.ones(1).double(), grid=grid, settings=settings)
    torch.testing.assert_close(guided(x[1:2], t).mean[0], guided(x, t).mean[1], rtol=1e-9, atol=1e-9)


def test_terms_by_themselves() -> None:
    """Written down: angles, a step of one pixel, values outside of the range."""
    angle = torch.tensor([0.0, 1e-6, 0.5, math.pi / 2, 3.0], dtype=torch.float64)
    u = torch.stack([angle.cos(), angle.sin()], 1)
    found = spherical_distance(3 * u, torch.tensor([2.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(found, angle**2 / 2, rtol=1e-9, atol=1e-20)
    x = torch.tensor([[[[0.0, 2.0], [0.0, -3.0]]]])
    assert total_variation(x).tolist() == [(4 + 9 + 0 + 25) / 4]
    assert out_of_range(x).tolist() == [(1 + 4) / 4]
    assert saturation(x).tolist() == [(1 + 2) / 4]
    y = torch.rand(2, *SHAPE)
    assert perceptual_distance(encoder(), y, y).tolist() == [0, 0]


def test_the_initial_picture_is_compared_in_the_size_that_the_encoder_reads() -> None:
    """By hand: |f − g|² = 2 − 2 cos(φ − φ') of the angles of features (x, 1 − x), of pictures shrunk to half a side."""
    x, y = torch.rand(2, *SHAPE, dtype=torch.float64), torch.rand(1, *SHAPE, dtype=torch.float64)
    small = lambda z: nn.functional.interpolate(z, (3, 3), mode="bilinear", antialias=True)
    angle = lambda z: torch.atan2(1 - small(z), small(z))
    known = (2 - 2 * torch.cos(angle(x) - angle(y))).flatten(1).mean(1)
    torch.testing.assert_close(perceptual_distance(encoder((1, 3, 3)), x, y), known, rtol=1e-9, atol=1e-12)


def test_colours_are_made_what_the_encoder_reads() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert coloured(x, 3) is x
    torch.testing.assert_close(coloured(x, 1), grey(x)[:, :1])
    assert torch.equal(coloured(x[:, :1], 3), x[:, :1].expand(-1, 3, -1, -1))
    with pytest.raises(UserError, match="encoder reads pictures of 5 channels"):
        coloured(x, 5)


def test_refused() -> None:
    process = VP()
    grid, one = torch.tensor([1.0, 0.0]).double(), torch.eye(36)[:2].double()
    weights = torch.ones(2).double()
    call = lambda **changes: clip_guidance(
        **{
            "denoiser": normal(process),
            "encoder": encoder(),
            "vectors": one,
            "weights": weights,
            "grid": grid,
            **changes,
        }
    )
    flat = worlds.ring().denoiser(process)
    for changes, said in (
        ({"denoiser": flat}, "is of pictures"),
        ({"encoder": PlainEncoder(both=True)}, "encoder must be a contrastive encoder"),
        ({"encoder": replace(encoder(), config={"objective": {"clean": 0.0}})}, "encoder must know clean pictures"),
        ({"weights": torch.tensor([1.0, -1.0])}, "weights must not sum to 0"),
        ({"weights": torch.ones(3)}, "with P weights"),
        ({"init": torch.zeros(1, 2, 6, 6)}, "init must have shape"),
        ({"settings": ClipSettings(cut_overview="[1,0]", cut_innercut="[1,0]")}, "both be 0, as they are at 50.0%"),
        ({"settings": ClipSettings(cutn_batches="[1,0]")}, "cutn_batches must be an integer in"),
        ({"settings": ClipSettings(tv_scale=-1)}, "tv_scale must be"),
        ({"encoder": encoder((3, 6, 6))}, None),
        ({"encoder": encoder((2, 6, 6))}, "channels, the model makes 1"),
    ):
        if said is None:
            call(**changes)
            continue
        with pytest.raises(UserError, match=said):
            call(**changes)
