"""Guidance whose belief keeps the contrast of the conditional one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..distributions import Dirac, Distribution
from ..processes import expand
from .pooling import LinearPooling


@dataclass(frozen=True, eq=False)
class Rescaled(LinearPooling):
    r"""Linear pooling, its standard deviation brought back to that of the last part (Lin et al., arXiv:2305.08891).

    .. math::
        x_\text{rescaled} = x_\text{cfg} \frac{\mathrm{std}(x_\text{pos})}{\mathrm{std}(x_\text{cfg})}, \qquad
        x_\text{final} = φ\, x_\text{rescaled} + (1 - φ)\, x_\text{cfg}

    (eq. 15, 16), with the standard deviation over the numbers of each sample, here of the predicted clean data x̂_0: in
    the units that over-exposure is seen in. Published code takes the network's output, v or ε. Under preserved variance
    v = α ε − σ x_0 tends to −x_0 at high noise, where the two agree up to terms of order α; at low noise v is nearly ε,
    whose standard deviation is 1 with any guidance, so that rescaling v does little there while x̂_0 is still rescaled.

    Attributes:
        share: φ in [0, 1]; 0 leaves the pooling as it is, the paper recommends 0.7.
    """

    share: float

    def pool(self, beliefs: Sequence[Distribution], x_t: Tensor, t: Tensor) -> Distribution:
        guided, positive = super().pool(beliefs, x_t, t).mean, beliefs[-1].mean
        flat, own = guided.flatten(1), positive.flatten(1).expand(len(guided), -1)
        std = flat.std(1, correction=0)
        # A constant event has no contrast to bring back.
        ratio = torch.where(std > 0, own.std(1, correction=0) / std.clamp_min(torch.finfo(std.dtype).tiny), 1.0)
        return Dirac(guided * expand(self.share * ratio + 1 - self.share, guided))
