"""How samples of a posterior are scored in the league: by the ranks of the truth, and by a classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def calibration(samples: Tensor, x: Tensor) -> tuple[float, float]:
    """Simulation-based calibration (Talts et al. 2018, arXiv:1804.06788) of coordinates, pooled.

    Args:
        samples: ``(pairs, draws, D)`` of the posterior of each pair's measurement.
        x: the data that were measured, ``(pairs, D)``.

    Returns:
        The largest distance of the distribution of ranks from the uniform one, and the share of ranks in their central
        half (0.5 is right).
    """
    draws = samples.shape[1]
    rank = (samples < x[:, None]).sum(1).flatten()
    frequency = torch.bincount(rank, minlength=draws + 1).to(torch.float64) / len(rank)
    uniform = torch.arange(1, draws + 2, dtype=torch.float64) / (draws + 1)
    quarter = (draws + 1) // 4
    inside = frequency[quarter : draws + 1 - quarter].sum() * 0.5 / ((draws + 1 - 2 * quarter) / (draws + 1))
    return float((frequency.cumsum(0) - uniform).abs().max()), float(inside)


def c2st(a: Tensor, b: Tensor, neighbours: int = 5) -> float:
    """Accuracy of telling two sets apart by the nearest neighbours of each point among the others; 0.5 is one law.

    Coordinates are in units of b's standard deviations along its principal directions, those below a thousandth of the
    largest left out, so that thin directions count as wide ones do.

    Args:
        a, b: ``(N, D)`` each.
        neighbours: odd.
    """
    centred = b - b.mean(0)
    _, s, vh = torch.linalg.svd(centred, full_matrices=False)
    kept = s > 1e-3 * s[0]
    white = (torch.cat((a, b)) - b.mean(0)) @ (vh[kept] / s[kept, None]).mT * math.sqrt(len(b))
    label = torch.cat((torch.zeros(len(a)), torch.ones(len(b))))
    apart = torch.cdist(white, white).fill_diagonal_(torch.inf)
    near = label[apart.topk(neighbours, largest=False).indices].mean(1) > 0.5
    return float((near == (label > 0.5)).to(torch.float64).mean())
