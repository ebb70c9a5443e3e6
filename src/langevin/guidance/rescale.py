"""Guidance whose belief keeps the contrast of the conditional one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_numbers
from .._registry import register
from ..denoisers import Denoiser
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


@register(
    "guidance",
    "rescale",
    title="Guidance that keeps the contrast of the conditional belief",
    arxiv="2305.08891",
    proof="exact: tests/guidance/test_rescale.py",
)
def rescale(guided: Denoiser, share: float = 0.7) -> Denoiser:
    r"""Guidance whose x̂_0 has, by a share φ, the standard deviation of the belief that it leads to (eq. 15, 16).

    Of classifier-free guidance this is the belief under the condition, and the same as its ``rescale=φ``; of
    autoguidance the strong model's. See ``Rescaled`` for what the standard deviation is taken of.

    Args:
        guided: as ``classifier_free`` and ``autoguidance`` return it: a pooling linear in the means that leads to its
            last part.
        share: φ in [0, 1]; 0 leaves the guidance as it is, the paper recommends 0.7.

    Raises:
        UserError: for a share out of range, tokens, and a denoiser that is no such pooling, such as the plain
            conditional one that guidance at scale 1 is.
    """
    check_share(share=share)
    if not isinstance(guided, LinearPooling) or isinstance(guided, Rescaled) or guided.weights[-1] <= 0:
        raise UserError(
            "guided must be linear guidance towards its last part, as classifier_free and autoguidance return it at "
            f"scales other than 1, got {type(guided).__name__}"
        )
    if guided.process.discrete:
        raise UserError("guided must not be of tokens, which have no standard deviation")
    return Rescaled(guided.parts, guided.weights, float(share), names=guided.names)


def check_share(**values: float) -> None:
    """A share φ, by the name of its argument: a number in [0, 1]."""
    ((name, value),) = values.items()
    check_numbers(**values)
    if not 0 <= value <= 1:
        raise UserError(f"{name} must lie in [0, 1], got {value}")
