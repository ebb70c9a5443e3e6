"""The Gaussian-remainder solver under guidance: its order, its wide frame, and the steps that are taken once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import langevin
from langevin import Noise, processes, samplers, worlds
from langevin.guidance import classifier_free
from langevin.numerics.frame import GaussianFrame
from langevin.samplers import GaussianRemainder
from langevin.samplers.gaussian.integrals import Remainder
from langevin.samplers.gaussian.noise_grid import time_warp
from laws.table import mixture

F64 = torch.float64


@pytest.mark.parametrize(("scale", "order"), [(1.0, 4), (1.5, 3), (2.0, 3), (2.1, 2), (8.0, 2)])
def test_the_order_under_guidance(scale: float, order: int) -> None:
    """The default's order falls with the scale; negation counts as guidance, and a sampler of one's own is kept."""
    world = mixture(2)
    denoiser = world.denoiser(processes.EDM())
    guided = langevin.guidance.linear([denoiser, denoiser.given(label=1)], [1 - scale, scale])
    rule = samplers.default_sampler(guided)
    assert rule.order == order
    assert guided.extrapolation == pytest.approx(2 * scale - 1)
    assert rule.guidance_scale == pytest.approx(scale)
    torch.testing.assert_close(rule.wide.variances, scale * rule.frame.variances)
    within = langevin.guidance.classifier_free(denoiser, label=1, guidance_scale=scale, interval=(0.1, 3.0))
    assert samplers.default_sampler(within).order == order


def test_high_orders_swing_under_guidance() -> None:
    """At scale 4 on three components in the plane, the default is nearer to the path than order 4 without it by far.

    The path is taken by 400 steps of order 2, whose error falls as n⁻²: to (16/400)² of that of the 16 steps compared.
    Order 4 is off by more than the data's size there and the default by a tenth of it, in the records too; half is the
    bound here.
    """
    world = worlds.random_mixture(2, components=3, rms=0.7, seed=2)
    denoiser = world.denoiser(processes.EDM())
    guided = classifier_free(denoiser, label=1, guidance_scale=4.0)
    noise = Noise(0, 64)
    end = langevin.sample(guided, GaussianRemainder(order=2), steps=400, noise=noise)
    off = lambda rule: (langevin.sample(guided, rule, steps=12, noise=noise) - end).norm(dim=1).median()
    assert off(None) < 0.5 * off(GaussianRemainder(order=4, guidance_scale=1.0))


@pytest.mark.parametrize("process", [processes.VP(), processes.EDM()], ids=["VP", "EDM"])
def test_wide_frames_under_guidance(process) -> None:
    """Forty tight clusters in 32 dimensions, one a condition, as captions are: guided states begin far out.

    At scale 7.5 and 10 steps the wide frame, whose steps above the data are taken once, ends at 0.07 of the data's
    spread from the path, and the data's own frame at 0.75; a quarter is the bound. The path is taken by 300 steps of
    order 2, whose error falls as n⁻²: to a thousandth of that of 10.
    """
    centres = torch.randn(40, 32, generator=torch.Generator().manual_seed(0), dtype=F64)
    world = worlds.GaussianMixture([1 / 40] * 40, centres, [0.04] * 40)
    guided = classifier_free(world.denoiser(process), label=torch.arange(32), guidance_scale=7.5)
    noise, frame = Noise(0, 32), GaussianFrame.unknown(32)
    end = langevin.sample(guided, GaussianRemainder(order=2), steps=300, noise=noise)
    off = lambda rule: (langevin.sample(guided, rule, steps=10, noise=noise) - end).norm(dim=1).median()
    assert off(GaussianRemainder(frame, 2)) < 0.25 * off(GaussianRemainder(frame, 2, guidance_scale=1.0))


def test_steps_far_above_the_data_are_taken_once() -> None:
    """New values change the steps that begin below the bound as they do without one, and none of those above it."""
    frame = GaussianFrame(torch.zeros(3), torch.tensor([1.0, 0.3, 0.1]))
    weight = time_warp(frame).density.weight
    ratios, end = [9.0, 4.0, 1.5, 0.6], 0.2
    gains = lambda again, known: Remainder(frame, 2, 0.0, weight, again).gains(ratios[:known], None, ratios[known])
    ratios.append(end)
    once, all_again = (np.array(gains(again, 4)) for again in (0.0, math.inf))
    assert not once[:2].any()  # the step's own two values alone
    assert all_again[:2].any()
    # Above 2 there are the first two steps; with four values known only the third, which begins at 1.5, changes.
    np.testing.assert_allclose(gains(2.0, 4), all_again, rtol=1e-12)
    assert np.abs(gains(2.0, 3)[0]).max() == 0.0
    assert np.abs(gains(math.inf, 3)[0]).max() > 0.0


def test_the_bound_is_told_by_the_guidance() -> None:
    """Twice the data's own spread beyond a scale of 2, and none up to it."""
    seen = []

    class Seen(Remainder):
        def gains(self, *args):
            seen.append(self.again)
            return super().gains(*args)

    frame, process = GaussianFrame(torch.zeros(3), torch.tensor([1.0, 0.3, 0.2])), processes.EDM()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langevin.samplers.gaussian.solver.Remainder", Seen)
        for scale in (1.0, 2.0, 2.5):
            GaussianRemainder(frame, 2, guidance_scale=scale).coefficients(process, 0.1, (0.2,), None, 0.05)
    assert seen == [math.inf, math.inf, pytest.approx(2 * math.sqrt(0.5))]


def test_the_error_under_guidance_falls_as_the_square_of_the_steps() -> None:
    """Twice the steps leave a quarter at order 2; 3 is the bound. With the weight of unguided data it is 1.3.

    The path is taken by 400 steps, which leaves a hundredth of the error of 40.
    """
    guided = classifier_free(mixture(2).denoiser(processes.VP()), label=1, guidance_scale=3.0)
    noise = Noise(5, 32)
    run = lambda steps: langevin.sample(guided, noise=noise, steps=steps)
    end = run(400)
    coarse, fine = ((run(steps) - end).norm(dim=1).median() for steps in (20, 40))
    assert coarse > 3 * fine
