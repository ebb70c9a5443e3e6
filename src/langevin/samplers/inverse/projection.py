"""Projection: after every step, what was measured is put back at the noise level of the step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from ..._errors import check_instance
from ..._registry import register
from ...denoisers import Denoiser
from ...distributions import Noise, Stream
from ...operators import Measurement
from ...processes import Process, ScalarGaussian, expand
from ..linear.ancestral import Ancestral
from ..loop import Sampler, State
from .base import MeasuredSampler


def project(process: ScalarGaussian, measurement: Measurement, x: Tensor, s: Tensor, noise: Noise) -> Tensor:
    r""":math:`(I - A^+ A)\,x + A^+ (α_s y + σ_s A z)`: at s = 0 known pixels are those of y, to the bit."""
    operator = measurement.linear
    inverse = lambda v: operator.pseudo_inverse(v)
    alpha, sigma = expand(process.alpha(s), x), expand(process.sigma(s), x)
    known = alpha * inverse(measurement.y.to(x))
    if bool((s > 0).any()):
        z = noise.normal(tuple(x.shape[1:])).to(x)
        known = known + sigma * inverse(operator(z))
    return (x - inverse(operator(x))) + known


@register(
    "samplers",
    "projection",
    title="Projection on the measurement",
    arxiv="2011.13456",
    proof="exact: tests/samplers/test_inverse.py",
)
@dataclass(frozen=True, eq=False)
class Projection(MeasuredSampler):
    r"""Any sampler, with what was measured replaced after every step (arXiv:2011.13456 appendix I.2–I.4):

    .. math:: x_s = (I - A^+ A)\, x_s' + A^+ y_s, \qquad y_s = α_s y + σ_s A z

    For a mask it replaces the known pixels, which come back to the bit; for a grey image the mean of the colours. What
    is not measured does not know of y but through the denoiser's next look, so it does not agree with it: its law is
    not the posterior, at any number of steps. Noise in y stays in the result.

    Args:
        measurement: by a linear operator; its noise is not looked at.
        sampler: of the steps; the paper's is a predictor–corrector.
    """

    sampler: Sampler = field(default_factory=Ancestral)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.measurement.linear
        check_instance("sampler", self.sampler, Sampler, "a sampler")

    def check(self, process: Process) -> None:
        super().check(process)
        self.sampler.check(process)

    def default_grid(self, process: Process, steps: int) -> Tensor | None:
        return self.sampler.default_grid(process, steps)

    def for_model(self, denoiser: Denoiser) -> Sampler:
        super().for_model(denoiser)
        return replace(self, sampler=self.sampler.for_model(denoiser))

    def plan(self, process: ScalarGaussian, grid: Tensor) -> Sampler:
        return replace(self, sampler=self.sampler.plan(process, grid))

    def step(self, state: State, s: Tensor, denoiser: Denoiser[ScalarGaussian], noise: Noise) -> State:
        moved = self.sampler.step(state, s, denoiser, noise.fold_in(Stream.PREDICTOR))
        x = project(denoiser.process, self.rows(moved.x), moved.x, s, noise.fold_in(Stream.REMEASURED))
        return replace(moved, x=x)
