"""A closer look at single samples: how they came about, and what they are near to."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import metrics, samplers
from ..data import Dataset
from ..denoisers import AffineParameterization, NetworkDenoiser
from ..distributions import Noise
from ..processes import ScalarGaussian
from .results import Neighbours, Strip


def neighbours(x: Tensor, dataset: Dataset) -> Neighbours:
    """The nearest training example of each sample, and of each held-out example for comparison."""
    train, test = dataset.train.all()["x"], dataset.test.all()["x"]
    found, index = metrics.nearest_neighbours(x, train)
    return Neighbours(index, found, metrics.nearest_neighbours(test, train)[0])


def strip(model: NetworkDenoiser, which: list[int], *, steps: int, seed: int) -> Strip:
    """Samples ``which`` of the default sampler's draw of labels 0…K−1 in turn, at every time of its grid.

    They are those that ``draw`` gives for the same seed and steps.
    """
    process = model.process
    assert isinstance(process, ScalarGaussian)
    sampler = samplers.default_sampler(model)
    index = torch.tensor(which)
    noise = Noise(seed, index)
    count = model.condition_sizes.get("label", 0)
    denoiser = model.given(label=index % count) if count else model
    own = sampler.default_grid(process, steps)
    grid = samplers.default_grid(process, steps) if own is None else own
    with torch.no_grad():
        start = process.prior(model.shape).sample(noise.step(0))
        states = list(samplers.trajectory(denoiser, sampler, grid=grid, start=start.to(model.device), noise=noise))
    # A state carries the belief that led to it, which was held at the time before.
    beliefs = [state.belief.mean for state in states[1:] if state.belief is not None] + [states[-1].x]
    assert isinstance(model.parameterization, AffineParameterization)
    alpha, sigma, rms = process.alpha(grid), process.sigma(grid), model.parameterization.sigma_data
    scale = rms / torch.sqrt(alpha**2 * rms**2 + sigma**2)
    shown = torch.stack([state.x for state in states]).cpu()
    scaled = shown * scale.view(-1, *[1] * (shown.ndim - 1))
    return Strip(grid, scaled.float(), torch.stack(beliefs).float().cpu(), sigma / alpha)
