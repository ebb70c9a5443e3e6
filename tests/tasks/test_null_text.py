"""Null-text optimisation: exact where the answer is known, never further from the path, and it refuses what it must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import langevin
from captioned import LENGTH, captioned, told
from langevin import UserError, processes, samplers
from langevin.denoisers import AffineParameterization, NetworkDenoiser
from langevin.nn.text import encode_texts
from langevin.tasks import edit as tasks
from langevin.tasks.prepare import bound

F64 = torch.float64


class Linear(nn.Module):
    """x̂_0 = D x + W e, e a vector that stands for the caption, or for none: all that a network needs to be guided."""

    def __init__(self) -> None:
        super().__init__()
        self.conditioning = nn.Module()
        self.conditioning.no_caption = nn.Parameter(torch.tensor([0.3, -0.2, 0.1], dtype=F64))
        g = torch.Generator().manual_seed(0)
        self.words = nn.Parameter(torch.randn(257, 3, generator=g, dtype=F64))
        self.into = nn.Parameter(torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=F64)).Q)
        self.factors = nn.Parameter(torch.tensor([0.9, 0.5, 0.2], dtype=F64))
        self.config = {"conditions": {"caption": LENGTH}}

    def forward(self, x, time, condition=None):
        none = self.conditioning.no_caption.expand(len(x), 3)
        if condition is not None:
            tokens = condition["caption"]
            present = (tokens >= 0)[..., None]
            e = (self.words[tokens.clamp_min(0)] * present).sum(1) / present.sum(1).clamp_min(1)
            none = torch.where(present.any(1), e, none)
        return self.factors * x + none @ self.into.T


def linear() -> NetworkDenoiser:
    return NetworkDenoiser(Linear(), processes.VP(), AffineParameterization("x0", scale_input=False), (3,), config={})


GRID = processes.grids.log_snr(processes.VP(), 6)
IMAGES = torch.tensor([[0.5, -0.3, 0.8], [-1.0, 0.2, 0.1]], dtype=F64)


def path_of(model, image, caption, grid):
    return samplers.encoded(model.given(caption=caption), image, sampler=samplers.DDIM(), grid=grid, fixed_point=60)


def rebuilt(denoiser, start, grid):
    *_, last = samplers.trajectory(denoiser, samplers.DDIM(), grid=grid, start=start)
    return last.x


def test_the_answer_is_known():
    """Guidance is linear in the vector: the step keeps to the path if the vector is the caption's own, and it is found.

    x̂ = D x + W (e_c + (1 − w)(∅ − e_c)), so ∅ = e_c at every step is the one minimum, W being invertible.
    """
    model, scale = linear(), 3.0
    caption = told("a red cat", "a dog")
    path = path_of(model, IMAGES, caption, GRID)
    guided = bound(model, {"caption": caption}, scale)
    found = tasks.null_text(guided, IMAGES, path, samplers.DDIM(), GRID, 150, tolerance=1e-16)
    assert list(found) == [float(t) for t in GRID[:-1]]
    present = (caption >= 0)[..., None]
    own = (model.network.words[caption.clamp_min(0)] * present).sum(1) / present.sum(1)
    # Where the noise is high the step hardly depends on the vector: those from σ/α = 1 down are looked at.
    low = [t for t in GRID[:-1] if model.process.sigma(t) < model.process.alpha(t)]
    assert len(low) >= 3
    for t in low:
        assert (found[float(t)] - own).abs().max() < 1e-3
    back = rebuilt(tasks.with_null(guided, found), path[-1].x, GRID)
    assert (back - IMAGES).abs().max() < 1e-3
    assert (rebuilt(guided, path[-1].x, GRID) - IMAGES).abs().max() > 0.5


def drift(model, iterations, scale=3.0, steps=6):
    """RMS of a guided reconstruction from the picture."""
    caption = told("a red cat")
    image = langevin.sample(model.given(caption=caption), steps=6, n=2, seed=1).clamp(-1, 1)
    grid = processes.grids.karras(model.process, steps)
    path = samplers.encoded(model.given(caption=caption), image, sampler=samplers.DDIM(), grid=grid)
    guided = bound(model, {"caption": caption}, scale)
    if iterations is not None:
        found = tasks.null_text(guided, image, path, samplers.DDIM(), grid, iterations)
        guided = tasks.with_null(guided, found)
    with torch.no_grad():
        return float((rebuilt(guided, path[-1].x, grid) - image).square().mean().sqrt())


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_it_falls_with_the_iterations(kind):
    """Of networks: nothing learned is plain guidance; more iterations come nearer to the picture, time after time."""
    model = captioned(kind)
    guided = drift(model, None)
    assert drift(model, 0) == pytest.approx(guided, rel=1e-12)
    some, more, most = (drift(model, n) for n in (2, 8, 32))
    assert guided > some > more > most


def test_the_network_is_not_changed():
    """Weights and their gradients stay; samples have vectors of their own; a target is not told the source's."""
    model = captioned()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    caption, grid = told("a red cat", "a dog"), processes.grids.karras(model.process, 4)
    image = torch.rand(2, 3, 8, 8, dtype=F64, generator=torch.Generator().manual_seed(0))
    path = samplers.encoded(model.given(caption=caption), image, grid=grid)
    guided = bound(model, {"caption": caption}, 2.0)
    found = tasks.null_text(guided, image, path, samplers.DDIM(), grid, 3)
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.network.parameters())
    first = tasks.null_text(
        bound(model, {"caption": caption[:1]}, 2.0),
        image[:1],
        [samplers.State(state.x[:1], state.t) for state in path],
        samplers.DDIM(),
        grid,
        3,
    )
    for t, one in first.items():
        assert (found[t][:1] - one).abs().max() < 1e-10
    both = tasks.with_null(guided, found)
    whole, part = both(path[-1].x, grid[0]).mean, both.rows(slice(1, 2))(path[-1].x[1:], grid[0]).mean
    assert (whole[1:] - part).abs().max() < 1e-12


def test_edits_of_pictures_take_it():
    """With their own captions, under guidance: nearer to the pictures than without, as a method by its name."""
    model, caption = captioned("unet"), told("a red cat", "two dogs here")
    image = langevin.sample(model.given(caption=caption), steps=6, n=2, seed=1).clamp(-1, 1)
    how = {"method": "prompt-to-prompt", "source": {"caption": caption}, "strength": 20.0, "steps": 6}
    made = {
        n: langevin.edit(model, image, caption=caption, guidance_scale=3.0, options={"iterations": n}, **how)
        for n in (0, 20)
    }
    plain, learned = ((made[n] - image).square().flatten(1).mean(1) for n in (0, 20))
    assert bool((learned < 0.5 * plain).all())
    with pytest.raises(UserError, match=r"must be 0 at a guidance scale of 1.*got 2; give a guidance_scale"):
        langevin.edit(model, image, caption=caption, options={"iterations": 2}, **how)


def test_samples_do_not_wait_for_each_other():
    """One that has reached the tolerance stays there, whatever else is in the batch: what is found is found alone."""
    model, scale, caption = linear(), 3.0, told("a red cat", "a dog")
    path = path_of(model, IMAGES, caption, GRID)

    def find(rows: slice) -> tuple[dict[float, torch.Tensor], list[int]]:
        guided = bound(model, {"caption": caption[rows]}, scale)
        along = [samplers.State(state.x[rows], state.t) for state in path]
        calls: list[int] = []
        count = model.network.register_forward_pre_hook(lambda *_: calls.append(1))
        found = tasks.null_text(guided, IMAGES[rows], along, samplers.DDIM(), GRID, 40, tolerance=1e-3)
        count.remove()
        return found, calls

    both, _ = find(slice(0, 2))
    alone = [find(slice(i, i + 1)) for i in range(2)]
    assert len(alone[0][1]) != len(alone[1][1])  # they need other numbers of iterations
    for i, (found, _) in enumerate(alone):
        for t, one in found.items():
            assert (both[t][i : i + 1] - one).abs().max() < 1e-10


def test_what_is_refused():
    model = captioned()
    caption, grid = told("a red cat"), processes.grids.karras(model.process, 4)
    image = torch.zeros(1, 3, 8, 8, dtype=F64)
    path = samplers.encoded(model.given(caption=caption), image, grid=grid)
    guided = bound(model, {"caption": caption}, 2.0)
    find = lambda denoiser=guided, sampler=None, along=path, n=1: tasks.null_text(
        denoiser, image, along, sampler or samplers.DDIM(), grid, n
    )
    for other in (
        model.given(caption=caption),
        langevin.guidance.classifier_free(
            model, caption=caption, negative={"caption": told("a dog")}, guidance_scale=2.0
        ),
    ):
        with pytest.raises(UserError, match="classifier-free guidance by a caption"):
            find(other)
    with pytest.raises(UserError, match="a state at every time of the grid"):
        find(along=path[1:])
    with pytest.raises(UserError, match="one without a memory"):
        find(sampler=samplers.create_sampler("dpmpp-2m"))
    with pytest.raises(UserError, match="iterations must be an integer of at least 0"):
        find(n=-1)
    told_ = tasks.with_null(guided, find())
    with pytest.raises(UserError, match="is none of its times"):
        told_(image, 0.123)
    assert encode_texts(["a red cat"], LENGTH).equal(caption)
