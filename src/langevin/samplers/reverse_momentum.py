"""The momentum of adaptive projected guidance, kept from step to step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .._errors import check_numbers
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Noise
from ..guidance.apg import with_momentum
from .loop import Composite, Sampler, State, check_sampler, check_shared_time


@register(
    "samplers",
    "reverse-momentum",
    title="Reverse momentum of adaptive projected guidance",
    arxiv="2410.02416",
    proof="exact: tests/guidance/test_apg.py",
)
@dataclass(frozen=True)
class ReverseMomentum(Composite):
    r"""A sampler under ``guidance.apg`` with the momentum of that guidance (arXiv:2410.02416 eq. 10, alg. 1):

    .. math:: \overline{ΔD}_i = ΔD_i + β\, \overline{ΔD}_{i-1}

    takes the place of ΔD_i = D_c − D_u in step i. A negative β pushes away from where guidance led before. A step that
    asks several times adds the same momentum each time, and hands on the difference of its first evaluation.

    Args:
        sampler: the update rule.
        beta: β; −0.5 in the paper.
    """

    sampler: Sampler
    beta: float = -0.5

    def __post_init__(self) -> None:
        check_sampler(self.sampler)
        check_numbers(beta=self.beta)

    @property
    def parts(self) -> tuple[Sampler, ...]:
        return (self.sampler,)

    def with_parts(self, *parts: Sampler) -> ReverseMomentum:
        return ReverseMomentum(parts[0], self.beta)

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        check_shared_time(state.t, s, "reverse momentum")
        inner, average = state.memory or (None, None)
        seen: list[Tensor] = []
        guided = with_momentum(denoiser, None if average is None else self.beta * average, seen)
        end = self.sampler.step(replace(state, memory=inner), s, guided, noise)
        return replace(end, memory=(end.memory, seen[0] if seen else average))
