"""DiffPure keeps the law of data and has true gradients; PGD against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from langevin import Noise, UserError, processes, samplers, tasks, worlds
from support import sliced_w2, w2_floor

F64 = torch.float64
VP = processes.VP()


def test_purified_data_have_the_law_of_data():
    """From data, through an exact belief, at any level; what it adds to an image far from all data is gone."""
    world, n = worlds.ring(5, 1.0, 0.2), 1000
    for strength in (0.3, 3.0):
        made = tasks.purify(world.denoiser(VP), world.sample(n, 5), strength=strength, steps=8, batch=n)
        assert sliced_w2(made, world.sample(n, 77)) < w2_floor(world, n, 16)


def test_takes_out_what_is_no_data():
    """Points on a ring, moved off it by 0.3: back on it, and still in their own component."""
    world = worlds.ring(6, 1.0, 0.02)
    x, label = world.sample(200, 5, with_labels=True)
    off = x * 1.3
    made = tasks.purify(world.denoiser(VP), off, strength=0.2, steps=20)
    assert float((made.norm(dim=1) - 1).abs().mean()) < 0.05
    assert float((world.classifier(VP)(made, 1e-3).argmax(1) == label).double().mean()) > 0.95


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_gradients_go_through_the_sampler(sampler):
    """Against central differences, whose own error is h² and rounding over h: 1e-10 + 1e-16/1e-5."""
    world = worlds.random_mixture(4, components=3, rms=0.7, seed=3)
    denoiser, x = world.denoiser(VP), world.sample(2, 1).requires_grad_()
    weight = Noise(1, 2).normal((4,))
    rule = samplers.DDPM() if sampler == "ancestral" else samplers.DDIM()
    run = lambda v: (weight * tasks.purify(denoiser, v, strength=1.0, steps=6, sampler=rule)).sum()
    (gradient,) = torch.autograd.grad(run(x), x)
    h = 1e-5
    for i in range(4):
        step = torch.zeros(2, 4, dtype=F64)
        step[:, i] = h
        both = [
            weight * tasks.purify(denoiser, x.detach() + s * step, strength=1.0, steps=6, sampler=rule) for s in (1, -1)
        ]
        slope = (both[0] - both[1]).sum(1) / (2 * h)
        torch.testing.assert_close(gradient[:, i], slope, rtol=1e-6, atol=1e-7)
    assert not tasks.purify(denoiser, x.detach(), strength=1.0, steps=6).requires_grad


def test_each_by_itself():
    world = worlds.ring()
    x = world.sample(5, 1)
    whole = tasks.purify(world.denoiser(VP), x, seed=4)
    torch.testing.assert_close(tasks.purify(world.denoiser(VP), x, seed=4, batch=2), whole, rtol=0, atol=1e-12)
    some = Noise(4, 5).rows(torch.tensor([3]))
    torch.testing.assert_close(tasks.purify(world.denoiser(VP), x[3], noise=some), whole[3:4], rtol=0, atol=1e-12)
    assert not torch.equal(tasks.purify(world.denoiser(VP), x, seed=5), whole)


W = torch.tensor([[1.0, -2.0, 0.0, 3.0], [0.5, 1.0, 0.0, -1.0]], dtype=F64)


def linear(x, noise):
    return x @ W.T


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_on_a_linear_classifier(norm):
    """The worst point is known: along the difference of the rows, to the edge of the ball.

    A step as long as the radius halves what the start has across it at least: 2⁻⁶⁰ after 60.
    """
    x, label = 0.1 * Noise(0, 3).normal((4,)), torch.tensor([0, 1, 0])
    made = tasks.pgd(linear, x, label, radius=0.3, norm=norm, steps=60, step_size=0.3, low=None)
    away = (W[1] - W[0]) * torch.where(label == 0, 1.0, -1.0)[:, None]
    worst = away.sign() if norm == "linf" else away / away.norm(dim=1, keepdim=True)
    moved = made - x
    moves = worst != 0
    torch.testing.assert_close(moved[moves], (0.3 * worst)[moves], rtol=0, atol=1e-12)
    size = moved.abs().amax(1) if norm == "linf" else moved.norm(dim=1)
    assert bool((size <= 0.3 + 1e-12).all())
    boxed = tasks.pgd(linear, x, label, radius=5.0, norm=norm, steps=5)
    assert float(boxed.abs().max()) <= 1


def test_expectation_over_noise():
    """The gradient is the mean over the draws: new draws in every step."""
    seen = []

    def predict(x, noise):
        seen.append(noise.seed)
        return linear(x, noise) + 0 * noise.normal((2,))

    x, label = torch.zeros(2, 4, dtype=F64), torch.tensor([0, 1])
    tasks.pgd(predict, x, label, radius=0.3, steps=3, samples=4)
    assert len(seen) == len(set(seen)) == 12  # new draws, all of them different

    def noisy(x, noise):  # the gradient of one draw points anywhere, the mean along W
        return linear(x, noise) + 40 * noise.normal((4,)).mul(x).sum(1, keepdim=True) * torch.tensor([1.0, -1.0])

    away = (W[1] - W[0]) * torch.tensor([[1.0], [-1.0]])
    hits = []
    for samples in (1, 400):
        made = tasks.pgd(noisy, x, label, radius=1e-3, steps=1, samples=samples, step_size=2e-3, low=None)
        hits.append(float(((made.sign() == away.sign()) | (away == 0)).double().mean()))
    # Of 6 signs one draw of 40 z beside ≤ 8 gets about 55 % right; the mean of 400, 2 z beside 0.5 to 8, most.
    assert hits[1] > hits[0]


def test_refusals():
    denoiser, x, label = worlds.ring().denoiser(VP), torch.zeros(2, 2), torch.tensor([0, 1])
    tokens = worlds.TokenTable(torch.full((3, 3), 1 / 9, dtype=F64)).denoiser(processes.Absorbing(3))
    for call, message in (
        (lambda: tasks.purify(denoiser, x, strength=0.0), "strength must be a noise level"),
        (lambda: tasks.purify(denoiser, x, steps=0), "steps must be an integer"),
        (lambda: tasks.purify(denoiser, torch.zeros(2, 3)), "x must have the model's shape"),
        (lambda: tasks.purify(denoiser, x, noise=Noise(0, 3)), "noise is for 3 samples"),
        (lambda: tasks.purify(denoiser, x, caption="a"), "condition 'caption' is not one"),
        (lambda: tasks.purify(tokens, torch.zeros(2, 2)), "purify needs"),
        (lambda: tasks.pgd(linear, x, label, radius=0.0), "radius must be > 0"),
        (lambda: tasks.pgd(linear, x, label, radius=math.nan), "radius must be a finite number"),
        (lambda: tasks.pgd(linear, x, label, radius=1.0, norm="l1"), "norm must be one of linf, l2"),
        (lambda: tasks.pgd(linear, x, label[:1], radius=1.0), "label must be int64"),
        (lambda: tasks.pgd(linear, x, label, radius=1.0, samples=0), "samples must be an integer"),
    ):
        with pytest.raises(UserError, match=message):
            call()
