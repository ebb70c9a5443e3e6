"""Cross-entropy of a classifier of noisy data, and the likelihood of a model that has one in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import NoisyClassifier, NormalizingFlow
from ..distributions import Noise
from .denoising import Condition, Objective, Timed
from .times import TimestepDistribution, Uniform


@register(
    "objectives",
    "cross-entropy",
    title="Cross-entropy of a classifier of noisy data",
    arxiv="2105.05233",
    proof="exact: tests/objectives/test_classification.py",
)
@dataclass(frozen=True)
class CrossEntropy(Timed):
    r""":math:`-\log p(y | x_t, t)`, t from a law, :math:`x_t \sim q(x_t|x_0)` (arXiv:2105.05233 §4), in nats.

    Its least value is the entropy of the label given x_t, that of the exact classifier. Examples without a label count
    nothing.

    Args:
        times: the law of t.
    """

    times: TimestepDistribution = Uniform()  # noqa: RUF009 (frozen)
    reads: ClassVar[tuple[str, ...]] = ("label",)

    def __call__(self, denoiser: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        if condition is None or "label" not in condition:
            raise UserError("objective 'cross-entropy' needs the condition label, got none")
        u = self.times.uniform(noise)
        t = self.times.quantile(denoiser.process, u)
        x_t = denoiser.process.marginal(x0, t).sample(noise)
        label = condition["label"]
        log_p = denoiser(x_t, t).gather(1, label.clamp_min(0)[:, None])[:, 0].to(torch.float64)
        return -torch.where(label >= 0, log_p, 0.0) * self.times.ratio(denoiser.process, u)

    def check(self, denoiser: Any) -> None:
        if not isinstance(denoiser, NoisyClassifier):
            raise UserError(f"objective 'cross-entropy' learns a classifier, got {type(denoiser).__name__}")
        self.times.check(denoiser.process)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "cross-entropy", "times": self.times.to_dict()}


@register(
    "objectives",
    "maximum-likelihood",
    title="Maximum likelihood of a normalizing flow",
    arxiv="1605.08803",
    proof="exact: tests/objectives/test_classification.py",
)
@dataclass(frozen=True)
class MaximumLikelihood(Objective):
    r""":math:`-\tfrac1D \log p(x_0)` of a model with a density in closed form (arXiv:1605.08803 eq. 2–3), in nats.

    Its least value is the entropy of the data a coordinate.
    """

    def __call__(self, denoiser: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        bound = denoiser.given(condition) if condition else denoiser
        return -bound.log_prob(x0).to(torch.float64) / x0[0].numel()

    def check(self, denoiser: Any) -> None:
        if not isinstance(denoiser, NormalizingFlow):
            raise UserError(f"objective 'maximum-likelihood' learns a normalizing flow, got {type(denoiser).__name__}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": "maximum-likelihood"}
