"""The Gaussian frame of a model: mean and covariance of its data, as solvers use them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..numerics.frame import Cosines, GaussianFrame
from .base import Denoiser

FLOOR = 1e-2
"""The least variance of a direction, in units of the mean one, where the belief is a trained network's.

In a direction where the data have none, the Gaussian's flow shrinks with σ, and what a network says beyond it, its
error, is weighted by 1/σ. A trained network's error there is some hundredths of the data, hence the floor."""

EXACT_FLOOR = 1e-14
"""The same where the belief is exact: such data keep a ten-millionth of their spread, which is float64's rounding."""

_KNOWN: MutableMapping[Any, dict[int | None, GaussianFrame]] = WeakKeyDictionary()


def gaussian_frame(denoiser: Denoiser, of_class: bool = True) -> GaussianFrame | None:
    """The frame of the data that a model is about; None if it does not know their mean and covariance.

    ``denoiser.data`` says what it knows as ``DataMoments`` does. With the moments of classes a model under one label
    gets those of its class, unless ``of_class`` is false.
    """
    data = denoiser.data
    if data is None or data.mean is None or data.cov is None or not bool((torch.as_tensor(data.cov) != 0).any()):
        return None
    label = denoiser.class_label if of_class else None
    if label is not None and (data.class_mean is None or label >= len(data.class_mean)):
        label = None
    kept = _KNOWN.setdefault(data, {})
    if label not in kept:
        kept[label] = _frame(data, label, FLOOR if denoiser.trained else EXACT_FLOOR)
    return kept[label]


def _frame(data: Any, label: int | None, floor: float) -> GaussianFrame:
    """The frame of all data, or of one class."""
    if data.spectrum is not None and data.directions is not None:
        return GaussianFrame.from_leading(data.mean, data.spectrum, data.directions, floor)
    mean, cov = (data.mean, data.cov) if label is None else (data.class_mean[label], data.class_cov[label])
    if data.spectrum is not None:
        variances = data.spectrum if label is None else cov
        return GaussianFrame(mean, variances, Cosines(tuple(data.shape), data.colours), floor=floor)
    return GaussianFrame.from_covariance(mean, cov, floor)
