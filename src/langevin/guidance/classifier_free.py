"""Classifier-free guidance: a model with its condition, led away from the model without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._errors import UserError, shown
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from .interval import check_interval, require_levels
from .interval import interval as within
from .pooling import LinearPooling, check_scale
from .rescale import Rescaled, check_share

NONE = "condition must be given, such as label=3: guidance is between a model with and without it, got none"


def sides(
    denoiser: Denoiser,
    condition: Mapping[str, Any] | None,
    named: Mapping[str, Any],
    negative: Mapping[str, Any] | None = None,
) -> tuple[Denoiser, Denoiser, tuple[str, ...]]:
    """What guidance is between: the model without a condition (or with the negative one), the model with it.

    Where no condition is named it is those that the model was given before.

    Returns:
        both denoisers, and the names of the conditions that can still be given to both.
    """
    check_is_denoiser(denoiser)
    bound = {} if condition or named else dict(denoiser.condition)
    if not condition and not named and not bound:
        raise UserError(NONE)
    if negative is not None and (not isinstance(negative, Mapping) or not negative):
        raise UserError(f"negative must be a condition such as {{'label': 3}}, got {shown(negative)}")
    if "scale" in named and "scale" not in denoiser.conditions():
        got = shown(named["scale"])
        raise UserError(f"scale is no condition of this model, got {got}; did you mean guidance_scale?")
    conditional = denoiser if bound else denoiser.given(condition, **named)
    guided = {*(condition or {}), *named, *bound, *(negative or {})}
    denoiser = denoiser.given(dict.fromkeys(bound)) if bound else denoiser
    names = tuple(name for name in denoiser.conditions() if name not in guided)
    return denoiser if negative is None else denoiser.given(negative), conditional, names


@register(
    "guidance",
    "classifier-free",
    title="Classifier-free guidance",
    arxiv="2207.12598",
    proof="exact: tests/guidance/test_classifier_free.py, tests/laws",
)
def classifier_free(
    denoiser: Denoiser,
    condition: Mapping[str, Any] | None = None,
    /,
    *,
    guidance_scale: float = 1.0,
    interval: Sequence[float] | None = None,
    rescale: float = 0.0,
    negative: Mapping[str, Any] | None = None,
    **named: Any,
) -> Denoiser:
    r"""uncond + w·(cond − uncond) with w the guidance scale (arXiv:2207.12598; the paper's w is ours − 1).

    .. math:: \hat x_0' = \hat x_{0,u} + w\,(\hat x_{0,c} - \hat x_{0,u})

    of the means, or of the logits of tokens; one call of a network for both. Of a cascade every stage is guided that
    takes the condition. At w = 1 it is the belief under the
    condition, whole. At w > 1 it does not sample :math:`p(x)\, p(y | x)^w` (docs/guidance.md).

    Args:
        denoiser: one that can be asked without the condition.
        condition: what to bind, e.g. ``{"label": 3}``; or by keyword. If none is named, what is bound already.
        guidance_scale: w; 1 is the plain conditional model, 0 the unconditional, > 1 strengthens the condition.
        interval: (low, high), the noise levels σ/α at which there is guidance (arXiv:2404.07724); outside them the
            plain conditional belief is asked, at one evaluation.
        rescale: φ in [0, 1] (arXiv:2305.08891 eq. 16): how far the standard deviation of x̂_0' in each sample is
            brought back to that of x̂_0 under the condition, see ``rescale.Rescaled``.
        negative: a condition to be led away from, in place of none: ``{"label": 5}``.
    """
    scale = check_scale(guidance_scale=guidance_scale)
    check_share(rescale=rescale)
    if len(check_is_denoiser(denoiser).stages) > 1:
        told = {**(condition or {}), **named}
        if not told and not any(stage.condition for stage in denoiser.stages):
            raise UserError(NONE)
        how: dict[str, Any] = {"guidance_scale": scale, "interval": interval, "rescale": rescale}
        return denoiser.with_stages(
            [
                _stage(stage, bound, told, negative or {}, how)
                for stage, bound in zip(denoiser.stages, denoiser.given(told).stages, strict=True)
            ]
        )
    other, conditional, names = sides(denoiser, condition, named, negative)
    if interval is not None:
        check_interval(interval)
        require_levels(denoiser.process, "interval")
    if rescale and denoiser.process.discrete:
        raise UserError(f"rescale must be 0 for tokens, which have no standard deviation, got {rescale}")
    if scale == 1.0:
        return conditional
    parts, weights = (other, conditional), (1 - scale, scale)
    guided: Denoiser = other
    if rescale:
        guided = Rescaled(parts, weights, float(rescale), names=names)
    elif scale:
        guided = LinearPooling(parts, weights, names=names)
    return guided if interval is None else within(conditional, guided, interval)


def _stage(
    stage: Denoiser, bound: Denoiser, told: Mapping[str, Any], negative: Mapping[str, Any], how: Mapping[str, Any]
) -> Denoiser:
    """A stage of a cascade, guided by what the cascade is told, as far as this stage is told it."""
    mine = {name: value for name, value in told.items() if name in bound.condition}
    less = {name: value for name, value in negative.items() if name in stage.conditions()}
    leads = mine if told else bound.condition  # what was bound before leads only where nothing is named
    return classifier_free(stage, mine, negative=less or None, **how) if leads else stage
