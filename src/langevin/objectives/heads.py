"""The objective of a head that gives a variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser, VarianceHead
from ..distributions import Noise
from .denoising import Condition, Timed
from .times import Stratified, TimestepDistribution


@register(
    "objectives",
    "second-moment",
    title="Squares of the noise, or of its prediction's residual",
    arxiv="2206.07309",
    proof="exact: tests/denoisers/test_heads.py",
)
@dataclass(frozen=True)
class SecondMoment(Timed):
    """The loss of a head (SN-DPM, NPR-DPM; arXiv:2206.07309 §3.2–3.3) at times drawn from a law, the mean frozen."""

    times: TimestepDistribution = Stratified()  # noqa: RUF009 (frozen)

    def __call__(self, denoiser: Denoiser, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        u = self.times.uniform(noise)
        t = self.times.quantile(denoiser.process, u)
        x_t = denoiser.process.marginal(x0, t).sample(noise)
        bound = denoiser.given(condition) if condition else denoiser
        assert isinstance(bound, VarianceHead)
        return self.times.ratio(denoiser.process, u) * bound.losses(x0, x_t, t).double()

    def check(self, denoiser: Denoiser) -> None:
        if not isinstance(denoiser, VarianceHead):
            raise UserError(f"objective 'second-moment' is that of a head, got {type(denoiser).__name__}")
        self.times.check(denoiser.process)

    def to_dict(self) -> dict[str, Any]:
        return {"name": "second-moment", "times": self.times.to_dict()}
