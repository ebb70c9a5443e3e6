"""Scheduled sampling: a network learns from states that it has made itself, as it will meet them when it samples."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer, check_numbers
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise, Stream
from ..processes import DDPM, Process, ScalarGaussian, require
from ..processes.base import check_eta
from .denoising import DenoisingLoss, Objective


class _Steps:
    """How many steps of training the objective has been shown: the one thing it remembers."""

    def __init__(self) -> None:
        self.count = 0


@register(
    "objectives",
    "scheduled-sampling",
    title="Scheduled sampling: the same loss at states sampled by the model",
    arxiv="2210.05147",
    proof="exact: tests/objectives/test_scheduled_sampling.py",
)
@dataclass(frozen=True)
class ScheduledSampling(DenoisingLoss):
    r"""The denoising loss at states that the model has made (Deng et al. 2022, arXiv:2210.05147, scheduled sampling).

    .. math:: w(t)\, \frac{1}{D} |\hat x_0(\tilde x_t, t) - x_0|^2, \qquad x_r \sim q(x_r | x_0), \quad r > t, \qquad
              \tilde x_t \sim p_θ(\tilde x_t | x_r)

    A share of the samples is noised farther than to t, to r, and brought back to t by m reverse steps of the model as
    it is, without gradients. The target stays x_0, so that a network of ε is asked for
    :math:`\tilde ε = (\tilde x_t - α_t x_0)/σ_t`, which leads from the state that the model is in to the data, in the
    place of the ε that was drawn. The other samples, and validation, have the plain loss.

    The reach is the noise level at r over that at t, :math:`σ_r/α_r = \mathrm{reach} \cdot σ_t/α_t`, and the m steps
    cut its logarithm into equal parts, so that states are astray in proportion to the noise at t, however small that
    is. On a table of β they go to knots, each to another one while there are any. Steps are those of the bridge,
    :math:`q_η(x_s | x_t, \hat x_0)`: DDIM's for η = 0, DDPM's for η = 1 (with m = 1 and the next knot, the paper's).

    The share costs m evaluations more. Its minimum is that of the plain loss where the condition determines x_0, as
    markup does a picture. Elsewhere it is not: a model that is right makes states of the right law, but they know
    nothing of x_0 beyond x_r, so that

    .. math:: E[x_0 | \tilde x_t] = E\big[\, E[x_0 | x_r] \,\big|\, \tilde x_t \big],

    a belief as uncertain as that at r, nearer to the mean of the data; a smaller reach or share brings it nearer to
    the plain one.

    Args:
        steps: m ≥ 1, reverse steps from r to t.
        reach: σ_r/α_r over σ_t/α_t, > 1; 2 is about a step of a sampler of 15.
        eta: η in [0, 1].
        probability: share of the samples, in [0, 1].
        ramp: steps of training over which the share grows from 0 in a line; 0 for none.
    """

    steps: int = 1
    reach: float = 2.0
    eta: float = 0.0
    probability: float = 0.5
    ramp: int = 0
    seen: _Steps = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("steps", self.steps, 1)
        check_integer("ramp", self.ramp, 0)
        check_numbers(reach=self.reach, probability=self.probability)
        if not self.reach > 1:
            raise UserError(f"reach must be a ratio of noise levels above 1, got {self.reach}")
        if not 0 <= self.probability <= 1:
            raise UserError(f"probability must lie in [0, 1], got {self.probability}")
        check_eta(self.eta)
        object.__setattr__(self, "seen", _Steps())

    @property
    def share(self) -> float:
        """The share of samples that the model makes, now."""
        return self.probability * (min(1.0, self.seen.count / self.ramp) if self.ramp else 1.0)

    def noised(self, denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        x_t = super().noised(denoiser, x0, t, noise)
        if not (share := self.share):
            return x_t
        chosen = noise.fold_in(Stream.REPLACED).uniform(()) < share
        # One row at least: processes that share a batch ask their networks equally often.
        rows = chosen.nonzero()[:, 0] if bool(chosen.any()) else torch.zeros(1, dtype=torch.long, device=t.device)
        made = self.rollout(denoiser.rows(rows), x0[rows], t[rows], noise.rows(rows))
        return x_t.index_copy(0, rows, made.to(x_t.dtype)) if bool(chosen.any()) else x_t

    @torch.no_grad()
    def rollout(self, denoiser: Denoiser, x0: Tensor, t: Tensor, noise: Noise) -> Tensor:
        """x̃_t by m reverse steps from x_r, ``(B, *state)``; without gradients.

        x_r has the noise that x_t would have had.

        Args:
            denoiser: with what is bound for these samples.
            x0: clean data ``(B, *shape)``.
            t: ``(B,)`` in (0, 1].
            noise: of these samples.
        """
        process = denoiser.process
        times = self.times_from(process, t)
        x = process.marginal(x0, times[0]).sample(noise)
        with _evaluating(denoiser):
            for j, (now, s) in enumerate(itertools.pairwise(times)):
                belief = denoiser(x, now)
                x = process.reverse(x, belief, now, s, self.eta).sample(noise.fold_in(Stream.ROLLOUT + j))
        # Older releases of torch keep weights that autocast has cast, and those of this pass have no gradient.
        torch.clear_autocast_cache()
        return x

    def times_from(self, process: Process, t: Tensor) -> list[Tensor]:
        """r and the times of the steps down to t, each ``(B,)``; t itself where there is no more noise than at t."""
        gaussian: ScalarGaussian = require(process, ScalarGaussian, f"objective {self.name!r}")
        found = [t]
        last = torch.floor(t * process.steps + 1e-6) if isinstance(process, DDPM) else t
        for j in reversed(range(self.steps)):
            farther = 2 * math.log(self.reach) * (1 - j / self.steps)
            r = gaussian.time(gaussian.log_snr(t) - farther)
            if isinstance(process, DDPM):
                last = torch.ceil(r * process.steps - 1e-6).maximum(last + 1).clamp_max(process.steps)
                r = last / process.steps
            found.insert(0, r.maximum(t))
        return found

    def check(self, denoiser: Denoiser) -> None:
        require(denoiser.process, ScalarGaussian, f"objective {self.name!r}")
        super().check(denoiser)

    @property
    def learns(self) -> bool:
        return self.ramp > 0 or super().learns

    def observe(self, loss: Tensor, noise: Noise) -> None:
        self.seen.count += 1
        if super().learns:
            super().observe(loss, noise)

    def for_validation(self) -> Objective:
        """The plain loss of the same weight and times: runs with and without scheduled sampling are compared by it."""
        return DenoisingLoss(self.weight, self.times.for_validation(), self.settings)

    def state(self) -> dict[str, Any]:
        return {"steps": self.seen.count, "times": super().state()} if self.ramp else super().state()

    def restore(self, state: Mapping[str, Any]) -> None:
        if not self.ramp:
            return super().restore(state)
        if state.keys() != {"steps", "times"} or not isinstance(state["times"], Mapping):
            raise UserError(f"scheduled sampling keeps steps and times, got {', '.join(map(str, state)) or 'nothing'}")
        super().restore(state["times"])
        self.seen.count = check_integer("steps", state["steps"], 0)
        return None


@contextlib.contextmanager
def _evaluating(denoiser: Denoiser) -> Iterator[None]:
    """A denoiser's network as it is when it samples: without dropout."""
    network = getattr(denoiser, "network", None)
    learning = isinstance(network, torch.nn.Module) and network.training
    if not learning:
        yield
        return
    assert isinstance(network, torch.nn.Module)
    network.eval()
    try:
        yield
    finally:
        network.train()
