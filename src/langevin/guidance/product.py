"""The product of whole beliefs: the belief of the law that is the product of laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

from torch import Tensor

from .._errors import UserError, shown
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Distribution
from .pooling import Pooled, check_weights, on_one_process, shared_names
from .product_laws import Evidence, product_of_laws


@dataclass(frozen=True, eq=False)
class Product(Pooled):
    """The belief of ∏ p_i(x_0)^{w_i}, from the beliefs of each."""

    weights: tuple[float, ...]

    @cached_property
    def base(self) -> Denoiser:
        """The part with the largest weight."""
        return self.parts[max(range(len(self.parts)), key=lambda i: self.weights[i])]

    def pool(self, beliefs: Sequence[Distribution], x_t: Tensor, t: Tensor) -> Distribution:
        power = 1 - sum(self.weights)
        evidence = Evidence(self.process, x_t, t, power) if abs(power) > 1e-12 else None
        return product_of_laws(beliefs, self.weights, evidence)


@overload
def product(members: Sequence[Distribution], weights: Sequence[float] | None = None) -> Distribution: ...
@overload
def product(members: Sequence[Denoiser], weights: Sequence[float] | None = None) -> Denoiser: ...
@register(
    "guidance",
    "product",
    title="Product of whole beliefs",
    arxiv="2302.11552",
    proof="exact: tests/guidance/test_product.py",
)
def product(
    members: Sequence[Distribution] | Sequence[Denoiser], weights: Sequence[float] | None = None
) -> Distribution | Denoiser:
    r"""The belief about data of the law :math:`p(x_0) \propto \prod_i p_i(x_0)^{w_i}`, from the beliefs about each:

    .. math:: p(x_0 | x_t) \propto \frac{\prod_i p_i(x_0 | x_t)^{w_i}}{q(x_t | x_0)^{S - 1}}, \qquad S = \sum_i w_i

    since every belief has the evidence of x_t once, and the product must not have it S times. It is exact at every
    noise level, so that any sampler draws from the product, which ``linear`` (of scores at each level) is not.

    In closed form for normal laws with any weights that leave a law; Gaussian mixtures with integer weights ≥ 0 (the
    components multiply, 1,024 at most), beside normals with any; finite sets of the same points, tokens and levels
    with any weights on a common support. Of beliefs in place of denoisers it is ∏ p_i^{w_i} itself.

    Args:
        members: denoisers on one process (others are converted), or laws of one kind.
        weights: w_i, one each, not all 0; 1 if not given.

    Raises:
        UserError: when asked, for the points that networks believe in: ``conjunction`` composes their predictions.
    """
    if not isinstance(members, Sequence) or not members:
        raise UserError(f"members must be a list of denoisers or of laws, got {shown(members)}")
    each = check_weights([1.0] * len(members) if weights is None else weights, len(members))
    if not any(each):
        raise UserError("weights must not all be 0")
    laws = [member for member in members if isinstance(member, Distribution)]
    if len(laws) == len(members):
        return product_of_laws(laws, each, None)
    parts = on_one_process(members)
    return Product(parts, each, names=shared_names(parts))
