"""Anomaly maps: what changes when an image is encoded and decoded as a healthy one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import guidance
from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser
from ..processes import ScalarGaussian, require
from ..samplers import DDIM, Sampler, create_sampler, decode, encode
from .prepare import bound, fit_image, steps_below, to_states, value_range


@dataclass(frozen=True, eq=False)
class Anomaly:
    """Where an image differs from its healthy counterpart.

    Args:
        map: |x − x'| summed over channels of images, ``(B, H, W)``; of other data ``(B, *shape)``. Units of the data.
        healthy: x', the reconstruction under the healthy condition, ``(B, *shape)``.
    """

    map: Tensor
    healthy: Tensor


@register(
    "tasks",
    "anomaly",
    title="Anomaly maps",
    arxiv="2203.04306",
    proof="exact: tests/tasks/test_anomaly.py; data: benchmarks/anomaly.py",
)
def anomaly(
    model: Denoiser,
    x: Tensor,
    *,
    strength: float = 1.0,
    steps: int = 50,
    sampler: Sampler | str | None = None,
    grid: str | None = None,
    classifier: Callable[[Tensor, Tensor], Tensor] | None = None,
    scale: float = 1.0,
    fixed_point: int = 0,
    overlap: int | None = None,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
    **condition: Any,
) -> Anomaly:
    r"""Encoded by DDIM without a condition, decoded as healthy (Wolleb et al. 2022, arXiv:2203.04306 alg. 1):

    .. math:: x_t = \mathrm{encode}(x), \quad x' = \mathrm{decode}(x_t; \text{healthy}), \quad a = \sum_c |x_c - x'_c|

    The encoding keeps what both states of health share, so that only what the condition changes is moved. It draws no
    noise: the same image has the same map. Without a condition decoding undoes the encoding, whatever the model was
    trained on, and the map would show errors of the steps alone: one must be given.

    Args:
        model: a denoiser on a scalar-Gaussian process, or a latent model; larger images go through in tiles.
        x: ``(B, *shape)`` or ``(*shape)``, in the range of the data.
        strength: the noise level σ/α up to which is encoded: the larger, the more may change.
        steps: of the whole grid; those below the level are taken.
        sampler: a deterministic rule or its name; DDIM if not given.
        grid: the name of a grid.
        classifier: logits of noisy data, for guidance by the healthy label as in the paper; without one the condition
            is told to the model.
        scale: of that guidance, by the classifier or classifier-free. With a small strength and a small scale little
            changes, and the map is near 0 everywhere.
        fixed_point: iterations of the encoding (``samplers.encode``): then what is not changed comes back exactly.
        overlap, batch: of tiles, and images carried at a time.
        progress: called as ``progress(done, total)``, counting images.
        condition: what healthy is, as ``label=0``.

    Raises:
        UserError: without a condition; for images, a strength or a scale that do not fit.
    """
    denoiser, seen = fit_image(model, x, name="x", overlap=overlap, batch=batch)
    require(denoiser.process, ScalarGaussian, "anomaly")
    check_numbers(scale=scale)
    if classifier is None:
        if not condition:
            taken = denoiser.conditions()
            one = f"give one of {', '.join(taken)}, as label=0"
            what = one if "label" in taken else "give a classifier and a label"
            raise UserError(
                f"the condition that is healthy must be given: {what}. Encoded and decoded without one, every image "
                "comes back as it was"
            )
        told = bound(denoiser, condition, scale)
    else:
        if set(condition) != {"label"}:
            raise UserError(f"label must be given with a classifier, and nothing else, got {sorted(condition)}")
        told = guidance.classifier(denoiser, classifier, label=condition["label"], scale=scale)
    rule: Sampler = DDIM() if sampler is None else create_sampler(sampler) if isinstance(sampler, str) else sampler
    times = steps_below(told, rule, strength, steps, grid)
    if len(times) < 3:
        raise UserError(f"strength must leave two steps of the grid or more, got {strength:g}; take more steps")
    low, high = value_range(model)
    parts = []
    with torch.no_grad():
        for rows in torch.arange(len(seen)).split(batch):
            clean = to_states(model, denoiser, seen[rows])
            latent = encode(denoiser.rows(rows), clean, sampler=rule, grid=times, fixed_point=fixed_point)
            back = denoiser.read(decode(told.rows(rows), latent, sampler=rule, grid=times)).to("cpu", seen.dtype)
            parts.append(back if low is None else back.clamp(low, high))
            if progress is not None:
                progress(int(rows[-1]) + 1, len(seen))
    healthy = torch.cat(parts)
    change = (seen - healthy).abs()
    return Anomaly(change.sum(1) if change.ndim == 4 else change, healthy)


def auroc(score: Tensor, truth: Tensor) -> float:
    """The area under the ROC curve: how often a place that is anomalous has the larger score, ties counting half.

    Args:
        score: any shape.
        truth: bool, of that shape, with both values in it.
    """
    if not isinstance(score, Tensor) or not isinstance(truth, Tensor) or score.shape != truth.shape:
        raise UserError(f"score and truth must be tensors of one shape, got {shown(score)} and {shown(truth)}")
    marked = truth.reshape(-1).to(torch.bool)
    ill, well = int(marked.sum()), int((~marked).sum())
    if not ill or not well:
        raise UserError(f"truth must have places that are anomalous and others, got {ill} and {well}")
    values, place = score.reshape(-1).to(torch.float64).unique(return_inverse=True)
    counts = torch.bincount(place, minlength=len(values)).double()
    rank = counts.cumsum(0) - (counts - 1) / 2  # the mean rank of those that are equal
    return float((rank[place][marked].sum() - ill * (ill + 1) / 2) / (ill * well))
