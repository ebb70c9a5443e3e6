"""Classifier guidance: the belief, moved along the gradient of what a classifier of noisy data says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from ..denoisers.conditions import as_labels, check_label
from ..distributions import Distribution
from .tilt import Tilted


@dataclass(frozen=True, eq=False)
class ClassifierGuided(Tilted):
    """The base, tilted by scale·log p(label | x_t); the gradient of ``log_factor`` is taken in ``tilt.Tilted``."""

    classifier: Callable[[Tensor, Tensor], Tensor]
    label: Tensor
    scale: float
    asks_belief: ClassVar[bool] = False

    @property
    def extrapolation(self) -> float:
        return max(1.0, 2 * self.scale - 1) * super().extrapolation

    def log_factor(self, x_t: Tensor, t: Tensor, belief: Distribution) -> Tensor:
        logits = self.classifier(x_t, t)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x_t):
            raise UserError(f"classifier must return logits ({len(x_t)}, classes), got {shown(logits)}")
        label = self.label.to(logits.device)
        if label.shape[0] not in (1, len(x_t)):
            raise UserError(f"label was given for {label.shape[0]} samples, but the batch has {len(x_t)}")
        check_label(label, logits.shape[1])
        chosen = torch.log_softmax(logits, -1).gather(1, label.expand(len(x_t))[:, None])
        return self.scale * chosen[:, 0].to(torch.promote_types(x_t.dtype, torch.float32))

    def rows(self, index: slice | Tensor) -> Denoiser:
        label = self.label[index] if len(self.label) > 1 else self.label
        return replace(self, base=self.base.rows(index), label=label)


@register(
    "guidance",
    "classifier",
    title="Classifier guidance",
    arxiv="2105.05233",
    proof="exact: tests/guidance/test_classifier.py, tests/laws",
)
def classifier(
    denoiser: Denoiser,
    classifier: Callable[[Tensor, Tensor], Tensor],
    *,
    label: int | Tensor,
    scale: float = 1.0,
) -> Denoiser:
    r"""Classifier guidance (Dhariwal and Nichol 2021, arXiv:2105.05233, alg. 1 and 2):

    .. math:: \hat x_0' = \hat x_0 + s\,\frac{σ_t^2}{α_t} ∇_{x_t} \log p(y | x_t)

    which is :math:`\hat ε' = \hat ε - s\,σ_t ∇ \log p` for DDIM (their alg. 2), and for DDPM a shift of the mean of the
    step by s·Σ∇log p at x_t (alg. 1), where Σ is the variance of the step. At scale 1 with the true classifier it is
    the belief p(x_0 | x_t, y), mean and covariance. A larger scale does not sample :math:`p(x) p(y | x)^s`
    (docs/guidance.md); particle methods do.

    Args:
        denoiser: the belief, on a scalar-Gaussian process.
        classifier: ``classifier(x_t, t)`` gives logits ``(B, K)``, differentiable in x_t: one trained by the trainer,
            or ``world.classifier(process)``.
        label: the class, an integer or one a sample, int64 ``(B,)``.
        scale: s; 1 is Bayes' rule.
    """
    check_is_denoiser(denoiser)
    if not callable(classifier):
        raise UserError(f"classifier must be a function of (x_t, t), got {shown(classifier)}")
    check_numbers(scale=scale)
    labels = as_labels(label).reshape(-1)
    check_label(labels, None)
    theirs, ours = getattr(classifier, "process", denoiser.process), denoiser.process
    if theirs != ours:
        raise UserError(f"classifier must be of noisy data of {ours}, got one of {theirs}")
    return ClassifierGuided(denoiser, classifier, labels, float(scale))
