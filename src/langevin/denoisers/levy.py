"""A network under Lévy noise, read as the same network under the normal noise of its base."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..distributions import Distribution
from ..processes import LevyNoise, Process
from .parameterization import AffineParameterization, Parameterization, Preconditioning, Variance


@register(
    "denoisers",
    "levy",
    title="Network under noise of any shape",
    arxiv="2106.07582",
    proof="exact: tests/denoisers/test_levy_parameterization.py",
)
@dataclass(frozen=True)
class LevyParameterization(Parameterization):
    r"""How a network under noise that is not normal is asked, and its output read: as ``AffineParameterization`` does.

    A state is α x_0 + σ ε here too, with ε of mean 0 and variance 1, so the same network target p·x_0 + q·ε, the same
    scales and the same :math:`\hat x_0` follow from α and σ of the base. Under the squared error its minimum is
    E[x_0 | x_t] whatever the law of ε.

    Args:
        prediction, sigma_data, time, scale_input: see ``AffineParameterization``; time ``sigma`` is not defined.
    """

    kind: ClassVar[str] = "levy"

    prediction: str = "edm"
    sigma_data: float = 0.5
    time: str = "log_sigma"
    scale_input: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale_input", self.affine.scale_input)
        if self.time == "sigma":
            raise UserError("time 'sigma' is for processes x_t = αx_0 + σε; under Lévy noise take log_sigma or log_snr")

    @property
    def affine(self) -> AffineParameterization:
        """The same under normal noise."""
        return AffineParameterization(self.prediction, self.sigma_data, self.time, self.scale_input)

    def check(self, process: Process) -> None:
        """Refuse processes that are not Lévy noise, and what the base refuses."""
        self.affine.check(_base(process))

    def network_shapes(self, process: Process, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        return self.affine.network_shapes(process, shape)

    def inputs(self, process: Process, t: Tensor, c_noise: Tensor) -> Preconditioning:
        return self.affine.inputs(_base(process), t, c_noise)

    def precondition(self, process: Process, x_t: Tensor, now: Preconditioning) -> Tensor:
        return self.affine.precondition(process, x_t, now)

    def to_belief(
        self, process: Process, out: Tensor, x_t: Tensor, now: Preconditioning, variance: Variance | None = None
    ) -> Distribution:
        return self.affine.to_belief(process, out, x_t, now)

    def weight(self, process: LevyNoise, t: Tensor) -> Tensor:
        """w(t), the weight on |x_0 error|² of the squared error of the network's target."""
        return self.affine.weight(process.base, t)


def _base(process: Process) -> Process:
    if not isinstance(process, LevyNoise):
        name = type(process).__name__
        raise UserError(f"a parameterization of Lévy noise needs GammaNoise or MixtureNoise, got {name}")
    return process.base
