"""Editing against exact worlds: known pixels bit for bit, laws kept, masks in closed form, strength as a level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import langevin
from langevin import Noise, UserError, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, Denoiser, NetworkDenoiser, Transform
from langevin.distributions import Dirac, Normal
from langevin.models.codec import Autoencoder
from langevin.models.parts import Latent
from langevin.tasks import edit as tasks
from support import sliced_w2, w2_floor

F64 = torch.float64
VP = processes.VP()
WORLD = worlds.random_mixture(6, components=3, rms=0.7, seed=1)
HALF = torch.tensor([1, 1, 1, 0, 0, 0])


@dataclass(frozen=True, eq=False)
class White(Denoiser):
    """The exact belief about white images of variance c around a mean, 0.4 for label 1 and 0 for others."""

    shape: tuple[int, ...]
    c: float = 0.5
    label: int | None = None
    process: Any = VP

    def conditions(self):
        return ("label",)

    def _bind(self, condition):
        return White(self.shape, self.c, condition["label"])

    def __call__(self, x_t, t):
        t, m = processes.as_time(t), 0.4 * (self.label == 1)
        a, v = self.process.alpha(t), self.process.sigma2(t)
        total = a**2 * self.c + v
        return Normal(m + a * self.c / total * (x_t - a * m), self.c * v / total)


@pytest.mark.parametrize("method", ["blend", "sdedit", "diffedit", "diffedit-fast"])
def test_known_pixels_come_back_bit_for_bit(method):
    """In float32 and float64, whatever the values, and the rest is another."""
    settings = {"mask": HALF, "strength": 3.0, "steps": 12, "label": 1, "method": method}
    if method.startswith("diffedit"):
        settings |= {"options": {"threshold": 1e-6}, "source": {"label": 0}}
    for dtype in (torch.float32, F64):
        x = WORLD.sample(5, 1).to(dtype)
        made = langevin.edit(WORLD.denoiser(VP), x, **settings)
        assert made.dtype == dtype
        assert torch.equal(made[:, 3:], x[:, 3:])
        assert bool((made[:, :3] != x[:, :3]).any())


def test_full_masks_and_the_method_by_itself():
    """A mask of ones is SDEdit without one; unnamed, the method is ``blend`` with a mask and ``sdedit`` without."""
    x, denoiser = WORLD.sample(4, 1), WORLD.denoiser(VP)
    settings = {"strength": 2.0, "label": 2, "steps": 10, "seed": 3}
    whole = langevin.edit(denoiser, x, method="sdedit", **settings)
    assert torch.equal(langevin.edit(denoiser, x, mask=torch.ones(6), **settings), whole)
    assert torch.equal(langevin.edit(denoiser, x, **settings), whole)
    part = langevin.edit(denoiser, x, mask=HALF, method="blend", **settings)
    assert torch.equal(langevin.edit(denoiser, x, mask=HALF, **settings), part)


def test_sdedit_keeps_the_law():
    """From data, by an exact belief, the result has the law of data at any strength: sliced W2 within the floor."""
    world, n = worlds.ring(5, 1.0, 0.2), 1000
    for strength in (0.3, 3.0):
        made = langevin.edit(
            world.denoiser(VP), world.sample(n, 5), method="sdedit", strength=strength, steps=8, batch=n
        )
        assert sliced_w2(made, world.sample(n, 77)) < w2_floor(world, n, 16)


def test_blend_of_independent_parts_is_exact():
    """Where what is free does not depend on what is known, it has its own law: mean and variance within 4.5 errors."""
    n, c = 3000, 0.5
    image = torch.full((6,), 0.7, dtype=F64)
    made = langevin.edit(White((6,), c), image, mask=HALF, strength=50.0, n=n, label=1, steps=12, batch=n)[:, :3]
    assert abs(float(made.mean()) - 0.4) < 4.5 * math.sqrt(c / (3 * n)) + 0.3 / 50  # the start has 0.3/50 of the image
    assert abs(float(made.var()) / c - 1) < 4.5 * math.sqrt(2 / (3 * n))


def test_outside_is_the_noised_image():
    """After each step the known part has the law q(y_s | y), new noise each time, and is y at 0."""
    n, s = 4000, torch.tensor(0.3, dtype=F64)
    known = torch.tensor([[0.5, -1.0]], dtype=F64).expand(n, 2)
    rule = samplers.Blended(samplers.DDIM(), known, torch.tensor([[False, True]]))
    start = samplers.State(torch.zeros(n, 2, dtype=F64), torch.tensor(0.6, dtype=F64))
    made = rule.step(start, s, White((2,)), Noise(0, n, 1))
    outside = made.x[:, 0]
    a, v = float(VP.alpha(s)), float(VP.sigma2(s))
    assert abs(float(outside.mean()) - 0.5 * a) < 4.5 * math.sqrt(v / n)
    assert abs(float(outside.var()) / v - 1) < 4.5 * math.sqrt(2 / n)
    assert torch.equal(made.x[:, 1], samplers.DDIM().step(start, s, White((2,)), Noise(0, n, 1)).x[:, 1])
    other = rule.step(start, s, White((2,)), Noise(0, n, 2)).x[:, 0]
    assert abs(float(torch.corrcoef(torch.stack([outside, other]))[0, 1])) < 4.5 / math.sqrt(n)
    last = rule.step(made, torch.zeros((), dtype=F64), White((2,)), Noise(0, n, 3))
    assert torch.equal(last.x[:, 0], known[:, 0])


def test_strength_is_a_noise_level():
    """A weak edit stays near the image, within its own noise; a strong one is of the class that was asked for."""
    world = worlds.ring(8, 1.0, 0.05)
    x, denoiser = world.sample(200, 5), world.denoiser(VP)
    near = langevin.edit(denoiser, x, method="sdedit", strength=0.02, steps=30)
    assert float((near - x).norm(dim=1).mean()) < 2 * 0.02 * math.sqrt(2)  # up by σ/α = 0.02 a coordinate, and back
    far = langevin.edit(denoiser, x, method="sdedit", strength=30.0, steps=30, label=3)
    assert float((world.classifier(VP)(far, 1e-3).argmax(1) == 3).double().mean()) > 0.99


def test_steps_that_fit():
    """The level's own time first, then the times of the whole grid below it; the guide stands at that level."""
    asked = []

    class Told(Transform):
        def __call__(self, x_t, t):
            asked.append((float(t), x_t))
            return self.base(x_t, t)

    x = torch.full((1, 2), 100.0, dtype=F64)
    langevin.edit(Told(White((2,))), x, method="sdedit", strength=1.5, steps=20, sampler="ddim")
    t = float(samplers.grids.time_of_level(VP, 1.5))
    grid = samplers.default_grid(VP, 20)
    assert [now for now, _ in asked] == [t, *grid[(grid < t) & (grid > 0)].tolist()]
    alpha, sigma = (float(f(torch.tensor(t, dtype=F64))) for f in (VP.alpha, VP.sigma))
    assert float((asked[0][1] - alpha * x).abs().max()) < 6 * sigma
    asked.clear()
    langevin.edit(Told(White((2,))), x, method="sdedit", strength=1.5, steps=20, grid="log-snr")
    grid = samplers.grids.log_snr(VP, 20)
    assert [now for now, _ in asked] == [t, *grid[(grid < t) & (grid > 0)].tolist()]


def test_repeats_start_from_the_last_result():
    """SDEdit of two passes: the second one's start is drawn around the first one's result; steps are counted."""
    seen, told = [], []

    class Told(Transform):
        def __call__(self, x_t, t):
            seen.append((float(t), x_t.clone()))
            return Dirac(torch.full_like(x_t, 5.0))

    x = torch.zeros(3, 2, dtype=F64)
    made = langevin.edit(
        Told(White((2,))),
        x,
        method="sdedit",
        strength=0.5,
        steps=15,
        options={"repeats": 2},
        mask=torch.tensor([1, 0]),
        progress=lambda done, total: told.append((done, total)),
    )
    half = len(seen) // 2
    alpha = float(VP.alpha(torch.tensor(seen[half][0], dtype=F64)))
    sigma = float(VP.sigma(torch.tensor(seen[half][0], dtype=F64)))
    assert float((seen[half][1][:, 0] - alpha * 5).abs().max()) < 5 * sigma  # the model's, from the first pass
    assert float(seen[half][1][:, 1].abs().max()) < 5 * sigma  # the image's
    assert made.tolist() == [[5.0, 0.0]] * 3
    assert told[-1] == (6 * half, 6 * half)


def test_guide_is_where_it_starts():
    """Strokes inside the mask survive a weak edit; outside it the image stays."""
    image, guide = torch.zeros(6, dtype=F64), torch.full((6,), 0.3, dtype=F64)
    made = langevin.edit(White((6,)), image, guide=guide, mask=HALF, strength=0.02, method="sdedit", steps=40)
    assert float((made[0, :3] - 0.3).abs().max()) < 0.1
    assert torch.equal(made[0, 3:], image[3:])


def test_each_result_by_itself():
    """Result i depends on the seed and i alone: not on the batch, nor on n; labels one a sample stay with theirs."""
    x, label = WORLD.sample(5, 1), torch.tensor([0, 1, 2, 0, 1])
    settings = {"mask": HALF, "strength": 2.0, "steps": 10, "label": label}
    whole = langevin.edit(WORLD.denoiser(VP), x, **settings)
    torch.testing.assert_close(langevin.edit(WORLD.denoiser(VP), x, **settings, batch=2), whole, rtol=0, atol=1e-12)
    many = langevin.edit(WORLD.denoiser(VP), x[0], mask=HALF, steps=10, n=4)
    torch.testing.assert_close(
        langevin.edit(WORLD.denoiser(VP), x[0], mask=HALF, steps=10, n=2), many[:2], rtol=0, atol=1e-12
    )
    assert not torch.equal(many[0], many[1])


def test_contrast_in_closed_form():
    r"""Two normal laws of one variance: ε̂ differ by (α/σ)·σ²/(α²c + σ²)·|m − m'|, whatever the noise.

    Coordinates whose means agree have a contrast of rounding; the others the largest.
    """
    means = torch.tensor([[0.0, 0, 0, 0, 0, 0], [2.0, 1.0, 0, 0, 0, 0]], dtype=F64)
    world = worlds.GaussianMixture(torch.ones(2) / 2, means, 0.3 * torch.eye(6).expand(2, 6, 6))
    denoiser, x = world.denoiser(VP), world.sample(4, 1)
    share = tasks.contrast(denoiser.given(label=1), denoiser.given(label=0), x, 1.6, 3, Noise(0, 4))
    # Cut at three times the mean of (2, 1, 0, 0, 0, 0)/6, which is 1.5: both are below 2, so (1, 2/3, 0, …).
    torch.testing.assert_close(share[:, :2], torch.tensor([[1.0, 1 / 1.5]], dtype=F64).expand(4, 2))
    assert float(share[:, 2:].max()) < 1e-12
    made = langevin.edit(denoiser, x, method="diffedit", label=1, source={"label": 0}, strength=3.0, steps=20)
    assert torch.equal(made[:, 2:], x[:, 2:])
    before, after = (world.classifier(VP)(v, 1e-3)[:, 1] for v in (x, made))
    other = before < -0.5  # log p(label 1 | x) of the images of label 0; it rises to a tenth of that or less
    assert int(other.sum()) == 3
    assert bool((after > before / 10)[other].all())


def test_diffedit_follows_the_encoding():
    """Without a change of condition and with a mask everywhere, encoding and decoding give the image back.

    With the fixed point to 1e-8, as ``samplers.decode`` does; without it to the error of DDIM.
    """
    x, denoiser = WORLD.sample(4, 1), WORLD.denoiser(VP)
    for fixed_point, most in ((60, 1e-8), (0, 1.0)):
        method = tasks.DiffEdit(noises=1, threshold=1e-9, fixed_point=fixed_point)
        settings = {"method": method, "strength": 5.0, "steps": 40, "source": {"label": 0}}
        assert float((langevin.edit(denoiser, x, label=1, **settings) - x).abs().max()) > 0.1
        assert float((langevin.edit(denoiser, x, **settings) - x).abs().max()) < most
    # The known half of every state is the encoding's own, not a new draw: inside the mask nothing moves either.
    method = tasks.DiffEdit(noises=1, threshold=1e-9, fixed_point=60)
    part = langevin.edit(denoiser, x, method=method, mask=HALF, strength=5.0, steps=20, source={"label": 0})
    torch.testing.assert_close(part, x, rtol=0, atol=1e-8)
    same = langevin.edit(denoiser, x, method="diffedit", strength=5.0, label=1, source={"label": 1}, steps=20)
    assert torch.equal(same, x)  # nothing to tell apart: an empty mask


def test_images_larger_than_the_model():
    """In tiles: known pixels bit for bit, the rest of the law of white images, any size that holds a tile."""
    image = Noise(0, 1).normal((1, 13, 21))[0]
    mask = torch.zeros(13, 21)
    mask[2:11, 4:20] = 1
    made = langevin.edit(White((1, 8, 8)), image, mask=mask, strength=40.0, steps=8, n=8, label=1)
    assert made.shape == (8, 1, 13, 21)
    known = mask[None, None].expand_as(made) == 0
    assert torch.equal(made[known], image.expand_as(made)[known])
    inside = made[~known]
    # A tile's belief is a point here, so that laws are narrower: the mean alone is exact.
    assert abs(float(inside.mean()) - 0.4) < 4.5 * math.sqrt(0.5 / len(inside)) + 1 / 40
    with pytest.raises(UserError, match=r"image must have the model's shape \(1, 8, 8\), or images \(1, H, W\)"):
        langevin.edit(White((1, 8, 8)), image[:, :7], method="sdedit")


def test_latent_models():
    """Codes are blended and decoded; pixels outside the mask are the image's, bit for bit."""
    torch.manual_seed(0)
    options = {"name": "vae", "channels": 1, "size": [8, 8], "latent": 2, "width": 8, "multipliers": [1, 2]}
    vae = langevin.nn.create_network(options)
    info = langevin.data.DataInfo("d", (1, 8, 8))
    network = langevin.nn.create_network(langevin.nn.default(vae.latent))
    model = Latent(
        NetworkDenoiser(network, processes.VP(), AffineParameterization("edm"), vae.latent), Autoencoder(vae, info)
    )
    image = Noise(0, 2).uniform((1, 8, 8)).float() * 2 - 1
    mask = torch.zeros(8, 8)
    mask[:4, :4] = 1
    for method in ("blend", "diffedit-fast"):
        made = langevin.edit(model, image, mask=mask, strength=2.0, steps=6, method=method)
        assert torch.equal(made[:, :, 4:], image[:, :, 4:])
        assert torch.equal(made[:, :, :, 4:], image[:, :, :, 4:])
    assert bool((langevin.edit(model, image, mask=mask, steps=6)[:, :, :4, :4] != image[:, :, :4, :4]).any())
    with pytest.raises(UserError, match="image must have the model's shape"):
        langevin.edit(model, torch.zeros(1, 16, 16), method="sdedit")


def test_interpolation():
    """Its ends are the images, to the fixed point's tolerance; its middle lies between, on the data."""
    world = worlds.ring(8, 1.0, 0.05)
    a, b = torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    made = tasks.interpolate(world.denoiser(VP), a, b, fixed_point=60)
    torch.testing.assert_close(made[[0, -1]], torch.stack([a, b]), rtol=0, atol=1e-8)
    assert bool(((made.norm(dim=1) - 1).abs() < 0.3).all())
    for bad in ({"shares": [1.5]}, {"path": "arc"}, {"shares": []}):
        with pytest.raises(UserError, match=f"{next(iter(bad))} must be"):
            tasks.interpolate(world.denoiser(VP), a, b, **bad)


X = WORLD.sample(2, 1)
TOKENS = worlds.TokenTable(torch.full((3, 3), 1 / 9, dtype=F64)).denoiser(processes.Absorbing(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(5)}, r"mask must have the shape of the image, \(6,\), got \(5,\)"),
        ({"mask": torch.full((6,), 0.5)}, "mask must be a tensor of 0 and 1 .* got other values"),
        ({"mask": [1, 0]}, "mask must be a tensor of 0 and 1"),
        ({"mask": None}, "mask must be given for method 'blend'"),
        ({"mask": torch.zeros(6)}, "mask is 0 everywhere: nothing may change"),
        ({"source": {"label": 1}}, "source is not taken by method 'blend'; 'diffedit'"),
        ({"method": "diffedit", "noises": 4}, r"noises is a setting of the method .* options=\{'noises': …\}"),
        ({"strength": 1e9}, "strength must be a noise level σ/α from"),
        ({"strength": 0.0}, "strength must be a noise level σ/α from"),
        ({"strength": float("nan")}, "strength must be a finite number"),
        ({"method": "blent"}, "unknown edit 'blent'. Did you mean 'blend'"),
        ({"method": 3}, "method must be a name"),
        ({"options": {"repeats": 2}}, "edit method 'blend' has no option 'repeats'"),
        ({"method": "sdedit", "options": {"repeats": 0}}, "repeats must be an integer from 1"),
        ({"method": "diffedit", "options": {"threshold": 1.0}}, r"threshold must lie in \(0, 1\)"),
        ({"caption": "a"}, "condition 'caption' is not one this model takes"),
        ({"label": 7}, "label must lie in"),
        ({"image": X[:, :5]}, "image must have the model's shape"),
        ({"image": X.long()}, "image must be a floating tensor"),
        ({"image": X * torch.nan}, "image must be finite"),
        ({"guide": X[:, :4]}, "guide must have the shape"),
        ({"n": 3}, "n must be left out"),
        ({"steps": 0}, "steps must be an integer"),
        ({"grid": "karas"}, "unknown grid 'karas'"),
        ({"sampler": "ddmi"}, "unknown sampler 'ddmi'"),
        ({"noise": Noise(0, 5)}, "noise is for 5 samples"),
        ({"model": TOKENS}, "image must|editing needs"),
        ({"model": "runs/digits"}, "model must be a denoiser, got 'runs/digits'; load the model first"),
    ],
)
def test_refuses_before_any_work(change, message):
    asked = []

    class Told(Transform):
        def __call__(self, x_t, t):
            asked.append(t)
            return self.base(x_t, t)

    call = {"model": Told(WORLD.denoiser(VP)), "image": X, "mask": HALF, "method": "blend", "steps": 5, **change}
    with pytest.raises(UserError, match=message):
        langevin.edit(call.pop("model"), call.pop("image"), **call)
    assert not asked


def test_refuses_another_range():
    """0 to 255 is no picture of a model of [−1, 1]."""

    class Told(Transform):
        output = langevin.data.DataInfo("d", (6,))

        def __call__(self, x_t, t):
            return self.base(x_t, t)

    with pytest.raises(UserError, match=r"image must lie in \[-1, 1\], the range of the model's data, got values from"):
        langevin.edit(Told(WORLD.denoiser(VP)), X * 255, mask=HALF)
