"""Composition of conditions and of models, one noise level at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._errors import UserError, check_numbers, shown
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from .pooling import LinearPooling, check_weights, on_one_process, shared_names


@register(
    "guidance",
    "conjunction",
    title="Conjunction of conditions",
    arxiv="2206.01714",
    proof="exact: tests/guidance/test_composition.py",
)
def conjunction(
    denoiser: Denoiser, conditions: Sequence[Mapping[str, Any]], weights: Sequence[float] | None = None
) -> Denoiser:
    r"""All of several conditions (Liu et al. 2022, arXiv:2206.01714 eq. 11), from a model that takes one at a time:

    .. math:: \hat ε = \hat ε(x_t) + \sum_i w_i\,(\hat ε(x_t | c_i) - \hat ε(x_t))

    the score of :math:`p_t(x_t) \prod_i (p_t(x_t | c_i) / p_t(x_t))^{w_i}` at each noise level. These are not the
    noised laws of the one at t = 0, so that steps alone do not sample it, and steps with a corrector
    (``.then(samplers.Langevin(…))``) do (Du et al. 2023, arXiv:2302.11552; docs/guidance.md). A negative weight is the
    negation of a condition. One call of a network for all, n + 1 evaluations.

    Args:
        denoiser: one that can be asked without the conditions.
        conditions: such as ``[{"label": 3}, {"label": 5}]``.
        weights: w_i, one each; 1 if not given.
    """
    check_is_denoiser(denoiser)
    listed = isinstance(conditions, Sequence) and len(conditions) > 0
    if not listed or not all(isinstance(c, Mapping) and c for c in conditions):
        raise UserError(f"conditions must be a list such as [{{'label': 3}}, {{'label': 5}}], got {shown(conditions)}")
    each = check_weights([1.0] * len(conditions) if weights is None else weights, len(conditions))
    parts = (denoiser, *(denoiser.given(c) for c in conditions))
    bound = {name for c in conditions for name in c}
    names = tuple(name for name in denoiser.conditions() if name not in bound)
    return LinearPooling(parts, (1 - sum(each), *each), names=names)


@register(
    "guidance",
    "negate",
    title="Negation of a model",
    arxiv="2206.01714",
    proof="exact: tests/guidance/test_composition.py",
)
def negate(a: Denoiser, b: Denoiser, weight: float) -> Denoiser:
    r"""The belief a, pushed away from b (Liu et al. 2022, arXiv:2206.01714 eq. 12 and its text):

    .. math:: \hat x_0' = \hat x_{0,a} + w\,(\hat x_{0,a} - \hat x_{0,b})

    the score of :math:`p_{a,t}^{1 + w} / p_{b,t}^{w}` at each noise level; the whole law
    :math:`p_a^{1+w} / p_b^w` of beliefs in closed form is ``product([a, b], [1 + w, -w])``.

    Args:
        a: what is wanted.
        b: what is not, of the same data; on another scalar-Gaussian process it is asked at equal log-SNR.
        weight: w ≥ 0.
    """
    check_is_denoiser(a, "a")
    check_is_denoiser(b, "b")
    check_numbers(weight=weight)
    if weight < 0:
        raise UserError(f"weight must be >= 0, got {weight}; linear([a, b], …) takes any")
    parts = on_one_process((a, b))
    return LinearPooling(parts, (1.0 + float(weight), -float(weight)), names=shared_names(parts))
