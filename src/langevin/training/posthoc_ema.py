r"""Averages of the weights of any length, made after training from a few stored ones (arXiv:2312.02696 §3, app. C).

An average of the power-function kind after t steps is :math:`\hat θ = \int p_{t,γ}(τ) θ(τ)\,dτ` with the profile

.. math:: p_{t,γ}(τ) = \frac{γ + 1}{t} \Bigl(\frac{τ}{t}\Bigr)^{γ},\quad 0 < τ \le t,\qquad \text{else } 0.

**It is exact for optimiser steps.** With :math:`β_n = (1 - 1/n)^{γ+1}` the weight of step n in the average after t
steps is

.. math::
    (1 - β_n) \prod_{k=n+1}^{t} β_k = \Bigl(1 - \bigl(\tfrac{n-1}{n}\bigr)^{γ+1}\Bigr) \Bigl(\frac{n}{t}\Bigr)^{γ+1}
    = \frac{n^{γ+1} - (n-1)^{γ+1}}{t^{γ+1}} = \int_{n-1}^{n} p_{t,γ}(τ)\,dτ,

as the product telescopes: the average is the integral, with θ(τ) = θ_n on (n − 1, n].

**Any profile from stored ones.** An average is linear in its profile, so :math:`\sum_i c_i \hat θ_i` is the average of
the profile :math:`\sum_i c_i p_i`. The c that bring this nearest to the profile p that is wanted, in
:math:`\langle f, g \rangle = \int f g\,dτ`, make :math:`\|p - \sum_i c_i p_i\|^2 = \langle p, p \rangle - 2 c^\top b +
c^\top A c` least: its gradient in c is zero at

.. math:: A c = b, \qquad A_{ij} = \langle p_i, p_j \rangle, \qquad b_i = \langle p_i, p \rangle.

The inner product is an integral of a power, over the shorter of both supports: with m = min(s, t),

.. math::
    \langle p_{s,α}, p_{t,γ} \rangle = \frac{(α + 1)(γ + 1)}{s^{α+1} t^{γ+1}} \int_0^m τ^{α+γ}\,dτ
    = \frac{(α + 1)(γ + 1)}{α + γ + 1} \Bigl(\frac{m}{s}\Bigr)^{α} \Bigl(\frac{m}{t}\Bigr)^{γ} \frac{m}{s\,t}.

**The coefficients sum to 1.** Every profile has integral 1, so weights that never move are given back if Σc = 1. The
solution of A c = b has it only nearly. Its residual r = p − Σ c_i p_i is orthogonal to every stored profile, so that
1 − Σc = ∫ r = ∫ r (1 − q) for any combination q of them, and

.. math:: |1 - \textstyle\sum c| \le \|r\| \cdot \min_q \|1 - q\|_{L_2(0, T)},

a product of two errors. With 8 snapshots of two widths it is 1e-3 for σ_rel = 0.07, but 2e-2 for 0.2, by which *all*
weights would shrink. So Σc = 1 is asked for here, with a multiplier λ, where the paper solves A c = b:

.. math:: A c = b + λ 1, \qquad λ = (1 - 1^\top A^{-1} b) / (1^\top A^{-1} 1).

Then the error of a weight is :math:`\int r\,(θ - m)\,dτ` for *any* constant m, at most :math:`\|r\|` times the norm
of what the weight moves by, however large the weight is. :math:`\|r\|` falls with the square of the number of
snapshots: between two of them the profiles stored later are free multiples of τ^γ₁ and τ^γ₂, two functions, which meet
a smooth one and its slope.

Steps that were skipped (their gradient was not finite) leave every average as it is, which moves the weight of a step
by a share of about γ/n: what is made is then an average of nearly the profile asked for.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from ..denoisers import NetworkDenoiser
from ..models.parts import Latent, with_denoiser
from ..storage import files
from .ema import check_width, power_exponent
from .snapshots import Snapshot, found

ROUGH = 0.5
"""Error of a profile, as a share of its norm, from which on it is said that the snapshots hardly tell it."""


@dataclass(frozen=True)
class Profile:
    """A power-function profile.

    Args:
        step: t > 0, where it ends.
        width: σ_rel in (0, 0.28].
    """

    step: float
    width: float

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise UserError(f"step must be > 0, got {self.step}")
        _ = self.exponent

    @cached_property
    def exponent(self) -> float:
        """γ."""
        return power_exponent(self.width)


def inner_product(a: Profile, b: Profile) -> float:
    """⟨p_a, p_b⟩ in 1/step, as above."""
    m, alpha, gamma = min(a.step, b.step), a.exponent, b.exponent
    scale = (alpha + 1) * (gamma + 1) / (alpha + gamma + 1)
    return scale * (m / a.step) ** alpha * (m / b.step) ** gamma * m / (a.step * b.step)


def coefficients(stored: Sequence[Profile], target: Profile, *, unit_sum: bool = True) -> Tensor:
    """c ``(len(stored),)`` in float64, with Σ c_i p_i nearest to the profile that is wanted.

    Args:
        stored: profiles of the averages that are there, no two of them equal.
        target: the profile that is wanted; one of those stored is taken as it is.
        unit_sum: whether Σc = 1 is asked for; without, the solution of A c = b.
    """
    if target in stored:
        return torch.eye(len(stored), dtype=torch.float64)[stored.index(target)]
    gram = torch.tensor([[inner_product(a, b) for b in stored] for a in stored], dtype=torch.float64)
    right = torch.tensor([inner_product(a, target) for a in stored], dtype=torch.float64)
    # Profiles of unit norm: a diagonal of ones. Nearly equal ones, of runs that were gone on with, share their weight.
    size = gram.diagonal().rsqrt()
    inverse = size[:, None] * torch.linalg.pinv(size[:, None] * gram * size, rtol=1e-14, hermitian=True) * size
    c = inverse @ right
    if unit_sum:
        ones = inverse.sum(1)
        c = c + (1 - c.sum()) / ones.sum() * ones
    return c


def profile_error(stored: Sequence[Profile], c: Tensor, target: Profile) -> float:
    """‖p − Σ c_i p_i‖ / ‖p‖: 0 where the profile is met."""
    every, weights = [*stored, target], [*c.tolist(), -1.0]
    terms = [x * y * inner_product(a, b) for a, x in zip(every, weights) for b, y in zip(every, weights)]
    return math.sqrt(max(0.0, math.fsum(terms)) / inner_product(target, target))


@dataclass(frozen=True)
class Combination:
    """How an average of the length that is wanted is made of stored ones.

    Attributes:
        target: its profile.
        snapshots: those that are stored.
        coefficients: of each, float64.
    """

    target: Profile
    snapshots: Sequence[Snapshot]
    coefficients: Tensor

    @property
    def error(self) -> float:
        """Of the profile, as ``profile_error``."""
        return profile_error([Profile(s.step, s.width) for s in self.snapshots], self.coefficients, self.target)

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights by name, summed in float64, in float32.

        Raises:
            UserError: for a file that is missing, damaged, or holds other tensors than the rest.
        """
        total: dict[str, Tensor] = {}
        for snapshot, c in zip(self.snapshots, self.coefficients.tolist()):
            if c == 0:
                continue
            tensors = snapshot.read()
            if total:
                files.fit(snapshot.path, {k: v.double() for k, v in tensors.items()}, total)
            for name, value in tensors.items():
                term = c * value.double()
                total[name] = total[name].add_(term) if name in total else term
        return {name: value.float() for name, value in total.items()}


def combination(folder: Path, width: float, step: int | None = None) -> Combination:
    """How the average of a width after a step is made of what a run has stored.

    Args:
        folder: the directory of the run.
        width: σ_rel in (0, 0.28].
        step: at most that of the last snapshot, which it is if not given.

    Raises:
        UserError: for a directory without snapshots, and numbers out of their range.
    """
    check_width(width, "ema")
    snapshots = found(folder)
    if not snapshots:
        raise UserError(
            f"{folder} holds no stored averages (averages/), so there is no EMA of another length; "
            "train with --ema.snapshots 16"
        )
    last = snapshots[-1].step
    if step is not None:
        check_integer("step", step, 1)
        if step > last:
            raise UserError(f"step must be at most {last}, after which the last average was stored, got {step}")
    profiles = [Profile(snapshot.step, snapshot.width) for snapshot in snapshots]
    target = Profile(last if step is None else step, float(width))
    made = Combination(target, snapshots, coefficients(profiles, target))
    if made.error > ROUGH:
        warnings.warn(
            f"the averages stored in {folder} give an EMA of length {width:g} at step {target.step} only roughly: its "
            f"profile is off by {made.error:.0%}; a length between 0.03 and 0.25, or more snapshots, is told better",
            stacklevel=3,
        )
    return made


def with_ema(model: Any, folder: Path, width: float, step: int | None = None) -> Any:
    """A model of a run with an average of another length as its weights; see ``combination``.

    What was learned for the weights it had (solvers, variances) is left out.

    Args:
        model: as ``langevin.load`` gives it.
        folder: the directory it was loaded from.
        width: σ_rel in (0, 0.28].
        step: of training; that of the last snapshot if not given.

    Raises:
        UserError: as ``combination``; and for averages of another network.
    """
    made = combination(folder, width, step)
    own: Any = model.belief_of if isinstance(model, Latent) else model
    network = copy.deepcopy(own.network)
    parameters = dict(network.named_parameters())
    weights = made.weights()
    learned = {name: p.detach() for name, p in parameters.items() if name in weights}
    files.fit(made.snapshots[-1].path, weights, {k: v.float() for k, v in learned.items()})
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    config = {**own.config, "steps": made.target.step, "ema": {"width": float(width), "step": made.target.step}}
    fresh: dict[str, Any] = {"solvers": (), "learned_variances": {}} if isinstance(own, NetworkDenoiser) else {}
    return with_denoiser(model, replace(own, network=network.eval(), config=config, **fresh).counted())
