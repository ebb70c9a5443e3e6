"""Classical Runge–Kutta tableaux on the noise prediction: in σ/α (DEIS ρRK) and in t (PNDM's first steps)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..._errors import UserError
from ..._registry import register
from .singlestep import Singlestep, StageWeights

SCHEMES: dict[str, tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]] = {
    "midpoint": ((1 / 2,), ((1,), (0, 1))),
    "heun": ((1,), ((1,), (1 / 2, 1 / 2))),
    "kutta3": ((1 / 2, 1), ((1,), (-1, 2), (1 / 6, 2 / 3, 1 / 6))),
    "rk4": ((1 / 2, 1 / 2, 1), ((1,), (0, 1), (0, 0, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
}
"""Classical tableaux as nodes and rows; a row is divided by its node, as weights that sum to 1."""


@dataclass(frozen=True)
class Tableau(Singlestep):
    """A classical Runge–Kutta method on the noise prediction, joined by DDIM's transfer.

    Args:
        scheme: a row of ``SCHEMES``.
        variable: ``"rho"``, in which the transfer is a straight line and the method keeps its order, or ``"t"``, as
            PNDM has it, whose order is 2 unless ρ is linear in t.
    """

    scheme: str = "heun"
    variable: Literal["rho", "t"] = "rho"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UserError(f"scheme must be one of {', '.join(map(repr, SCHEMES))}, got {self.scheme!r}")
        if self.variable not in ("rho", "t"):
            raise UserError(f"variable must be 'rho' or 't', got {self.variable!r}")

    @property
    def nodes(self) -> tuple[float, ...]:
        return SCHEMES[self.scheme][0]

    def weights(self, z: Tensor) -> tuple[StageWeights, ...]:
        return SCHEMES[self.scheme][1]


_PROOF = "exact: tests/laws; parity: tests/samplers/test_singlestep.py"


@register("samplers", "rho-midpoint", title="DEIS ρRK: midpoint", arxiv="2204.13902", proof=_PROOF)
def RhoMidpoint() -> Tableau:
    """The midpoint rule in ρ = σ/α on the noise prediction (arXiv:2204.13902 §3.3)."""
    return Tableau("midpoint")


@register("samplers", "rho-heun", title="DEIS ρRK: Heun", arxiv="2204.13902", proof=_PROOF)
def RhoHeun() -> Tableau:
    """Heun's method in ρ = σ/α on the noise prediction (arXiv:2204.13902 §3.3); EDM's Heun on any process."""
    return Tableau("heun")


@register("samplers", "rho-kutta3", title="DEIS ρRK: Kutta, order 3", arxiv="2204.13902", proof=_PROOF)
def RhoKutta3() -> Tableau:
    """Kutta's third-order method in ρ (arXiv:2204.13902 §3.3)."""
    return Tableau("kutta3")


@register("samplers", "rho-rk4", title="DEIS ρRK: order 4", arxiv="2204.13902", proof=_PROOF)
def RhoRK4() -> Tableau:
    """The classical fourth-order method in ρ (arXiv:2204.13902 §3.3)."""
    return Tableau("rk4")


@register("samplers", "prk", title="PNDM: pseudo Runge–Kutta", arxiv="2202.09778", proof=_PROOF)
def PRK() -> Tableau:
    """Classical fourth-order weights at t, the middle and s, joined by DDIM's transfer (arXiv:2202.09778 eq. 13)."""
    return Tableau("rk4", variable="t")
