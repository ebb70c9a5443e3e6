"""A trained model under conditions and classifier-free guidance, as every command binds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import guidance
from .._errors import UserError
from ..denoisers import Denoiser


def dropout(model: Denoiser) -> Mapping[str, float]:
    """The share of training samples that each condition was hidden from, as far as the model says."""
    shares: Mapping[str, float] = model.config.get("config", {}).get("objective", {}).get("dropout", {})
    return shares


def bind(model: Denoiser, condition: Mapping[str, Any], guidance_scale: float = 1.0) -> Denoiser:
    """The model under a condition, guided where its training hid that condition, so that it can be asked without.

    Args:
        model: as ``langevin.load`` gives it.
        condition: by name, for all samples or one each; may be empty.
        guidance_scale: of classifier-free guidance; 1 is the plain conditional model. A condition that training never
            hid is bound on both its sides.

    Raises:
        UserError: for a guidance scale without a condition to guide by.
    """
    if guidance_scale == 1:
        return model.given(condition) if condition else model
    if not condition:
        names = ", ".join(model.condition_sizes)
        told = f"this model takes {names}: give --given {names.split(', ')[0]}=…" if names else "this model takes none"
        raise UserError(f"guidance-scale {guidance_scale} needs a condition to guide by, and none is given; {told}")
    shares = dropout(model)
    guided = {name: value for name, value in condition.items() if shares.get(name) != 0}
    if not guided:
        names = ", ".join(f"{name} 0" for name in condition)
        raise UserError(
            f"guidance-scale {guidance_scale} needs the model without {', '.join(condition)}, but it was trained with "
            f"objective.dropout {names}; use 1"
        )
    always = {name: value for name, value in condition.items() if name not in guided}
    return guidance.classifier_free(model.given(always) if always else model, guided, guidance_scale=guidance_scale)
