"""Autoguidance: a model, led away from a worse version of itself."""

from __future__ import annotations

from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from .pooling import LinearPooling, check_scale, on_one_process, shared_names


@register(
    "guidance",
    "autoguidance",
    title="Autoguidance: away from a weaker model",
    arxiv="2406.02507",
    proof="exact: tests/guidance/test_composition.py",
)
def autoguidance(strong: Denoiser, weak: Denoiser, guidance_scale: float) -> Denoiser:
    r"""Guidance by a bad version of the model (Karras et al. 2024, arXiv:2406.02507 eq. 3):

    .. math:: D_w(x; σ, c) = D_0(x; σ, c) + w\,(D_1(x; σ, c) - D_0(x; σ, c))

    with D_1 the model and D_0 a smaller or less trained one, under the same condition: what is lost is not variety
    between conditions but the errors that both make. Two evaluations, one of each network.

    Args:
        strong: D_1.
        weak: D_0, of the same data; on another scalar-Gaussian process it is asked at equal log-SNR.
        guidance_scale: w; 1 is the strong model, > 1 leads away from the weak one.

    Returns:
        a denoiser; ``.given(…)`` binds a condition to both, if both take it.
    """
    check_is_denoiser(strong, "strong")
    check_is_denoiser(weak, "weak")
    scale = check_scale(guidance_scale=guidance_scale)
    strong, weak = on_one_process((strong, weak))
    if scale == 1.0:
        return strong
    return LinearPooling((weak, strong), (1 - scale, scale), names=shared_names((weak, strong)))
