"""Contrast of pictures with captions: which of a batch belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import ContrastiveEncoder
from ..distributions import Noise, Stream
from ..processes import expand
from .denoising import Condition, Timed
from .times import TimestepDistribution, Uniform


@register(
    "objectives",
    "contrastive",
    title="Contrast of pictures with captions (CLIP, InfoNCE)",
    arxiv="2103.00020, 2112.05744",
    proof="exact: tests/objectives/test_contrastive.py",
)
@dataclass(frozen=True)
class Contrastive(Timed):
    r"""Cross-entropy of which caption of the batch is the picture's, and which picture the caption's, in nats:

    .. math::
        L_i = -\tfrac12 \sum_j q_{ij} \big( \log \mathrm{softmax}_j\, s_{ij} + \log \mathrm{softmax}_j\, s_{ji} \big),
        \quad s_{ij} = τ ⟨u_i, v_j⟩, \quad q_{ij} = [y_j = y_i] / n_i

    (arXiv:2103.00020 fig. 3), u_i of :math:`x_t \sim q(x_t|x_0)` (2112.05744 §3.2), :math:`n_i` the captions of the
    batch that are the same text as :math:`y_i`.

    Why the target is spread over them. Without repeats q is the identity, and the best score is
    :math:`\log p(x, y) / p(x) p(y)` up to a constant (InfoNCE, 1807.03748 eq. 5): given a picture, the places of a
    batch differ in how likely it makes the caption there. Equal captions have equal columns of s, and their own rows
    (captions among pictures) are equal too. So a target that names one of them asks to tell apart what is the same, but
    the sum of the cross-entropies of equal rows with targets :math:`e_i` is that with the mean target,
    :math:`\tfrac1{n} \sum_{k: y_k = y_i} e_k = q_i`. The loss of a batch, its gradient and the best score are those of
    CLIP, and no row of a batch is asked for what cannot be told. (To leave the equal ones out of the softmax instead
    would change the law of what is compared with, to p(x | another caption), and so the best score.) A batch has at
    least the mean of log n_i.

    Examples without a caption count nothing, and are compared with nothing.

    Args:
        times: the law of t of what is noisy.
        clean: share of the pictures that is shown without noise, at t = 0: 1 is CLIP, on clean data alone.
    """

    times: TimestepDistribution = Uniform()  # noqa: RUF009 (frozen)
    clean: float = 0.5
    reads: ClassVar[tuple[str, ...]] = ("caption", "sequence")
    whole_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        share = self.clean
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise UserError(f"clean must be a share in [0, 1], got {share!r}")

    def __call__(self, denoiser: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        logits, same, weight = self._compared(denoiser, x0, condition, noise)
        target = same / same.sum(1, keepdim=True).clamp_min(1)
        of_text, of_image = torch.log_softmax(logits, 1), torch.log_softmax(logits.mT, 1)
        # What is masked has the logarithm −∞ and the target 0.
        both = torch.where(target > 0, of_text + of_image, 0.0)
        return -0.5 * weight * (target * both).sum(1)

    def accuracy(self, denoiser: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        """Of each sample, ½ for the best caption if it is the picture's, ½ for the best picture if it is the caption's.

        Not-a-number for a sample without a caption.
        """
        logits, same, _ = self._compared(denoiser, x0, condition, noise)
        hit = same.gather(1, logits.argmax(1, keepdim=True)) + same.gather(1, logits.argmax(0)[:, None])
        found = hit[:, 0].to(torch.float64) / 2
        return torch.where(same.diagonal() > 0, found, torch.nan)

    def _compared(
        self, encoder: Any, x0: Tensor, condition: Condition | None, noise: Noise
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(B, B)`` of picture i and caption j, where the captions are the same, and weights ``(B,)``."""
        if condition is None or encoder.reads not in condition:
            raise UserError(f"objective 'contrastive' needs the condition {encoder.reads}, got none")
        told = condition[encoder.reads]
        x_t, t, weight = self._shown(encoder.process, x0, noise)
        image, text = encoder.encode_image(x_t, t), encoder.encode_text(told)
        logits = (encoder.scale * (image @ text.to(image).mT)).to(torch.float64)
        there = present(told)
        group = same_text(told)
        same = ((group[:, None] == group) & there[:, None] & there).to(torch.float64)
        # An absent one is compared with itself alone: a softmax over nothing is not a number.
        alone = torch.eye(len(there), dtype=torch.bool, device=there.device)
        logits = logits.masked_fill(~(there[:, None] & there) & ~alone, -torch.inf)
        return logits, same, weight.to(logits)

    def _shown(self, process: Any, x0: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """States, their times, and the weight of each: some of the data as they are."""
        u = self.times.uniform(noise)
        noised = noise.fold_in(Stream.UNNOISED).uniform(()) >= self.clean
        t = torch.where(noised, self.times.quantile(process, u), 0.0)
        weight = torch.where(noised, self.times.ratio(process, u), 1.0)
        if not bool(noised.any()):
            return x0, t, weight
        x_t = process.marginal(x0, torch.where(noised, t, process.t_max)).sample(noise)
        return torch.where(expand(noised, x0).to(x0.device) > 0, x_t, x0), t, weight

    def check(self, denoiser: Any) -> None:
        if not isinstance(denoiser, ContrastiveEncoder):
            raise UserError(f"objective 'contrastive' learns an encoder, got {type(denoiser).__name__}")
        self.times.check(denoiser.process)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "contrastive", "times": self.times.to_dict(), "clean": self.clean}


def present(value: Tensor) -> Tensor:
    """Which samples have a caption: of tokens ``(B, L)``, or features ``(B, L, F)``; bool ``(B,)``."""
    return ~value.flatten(1).isnan().all(1) if value.is_floating_point() else (value >= 0).any(1)


def same_text(value: Tensor) -> Tensor:
    """A number for each different caption of tokens ``(B, L)`` or features ``(B, L, F)``, int64 ``(B,)``."""
    rows = torch.nan_to_num(value, nan=torch.finfo(value.dtype).max) if value.is_floating_point() else value
    group: Tensor = torch.unique(rows.flatten(1), dim=0, return_inverse=True)[1]
    return group
