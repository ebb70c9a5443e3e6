"""The bound of a latent diffusion model: what its decoder leaves open, and what its codes cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Noise, Stream
from ..objectives.elbo import decoder_of
from .exact import exact
from .latent import LatentBound
from .units import Units


@register(
    "likelihood",
    "latent-diffusion",
    title="Bound of a latent diffusion model, its two terms apart",
    arxiv="2106.05931",
    proof="exact: tests/likelihood/test_latent_diffusion.py",
)
def latent_diffusion_bound(
    model: Denoiser,
    x: Tensor,
    *,
    draws: int = 1,
    evaluations: int | None = None,
    divergence: Literal["exact", "hutchinson"] | None = None,
    probes: int = 1,
    seed: int = 0,
    batch: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> LatentBound:
    r"""A bound on −log p(x) under a latent model (Vahdat et al. 2021, arXiv:2106.05931 eq. 6, left side):

    .. math:: -\log p(x) \le -E_q \log p(x | z) + E_q [\log q(z | x) - \log p(z)], \qquad z \sim q(z | x)

    q is the encoder, p(x | z) the decoder (over the bins of data with levels), and log p(z) of codes is exact, by the
    probability flow of the denoiser. The second term is a mean over draws, and may be negative in one of them. The
    bound is tight where q(z | x) is the posterior of the model. The decoder of an autoencoder of diffusers has unit
    variance by convention, so that its reconstruction says little of its pictures.

    Args:
        model: a latent model, conditions bound.
        x: data ``(N, *shape)``, on their levels if they have some.
        draws: of z for each example, ≥ 1.
        evaluations, divergence, probes, batch, progress: of the flow of codes, see ``exact``.
        seed: of z and of the probes.

    Raises:
        UserError: for a model that is not latent, an encoder without noise, data of another shape, and as ``exact``.
    """
    check_is_denoiser(model, "model")
    codec = model.autoencoder
    if codec is None:
        raise UserError(
            "model must be a latent one for this bound, got one of the data themselves; take exact or bound"
        )
    check_integer("draws", draws, 1)
    if not isinstance(x, Tensor) or tuple(x.shape[1:]) != tuple(codec.shape) or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"x must have shape (N, {', '.join(map(str, codec.shape))}), got {got}")
    if not bool(x.isfinite().all()):
        raise UserError("x holds values that are not finite")
    noise = Noise(seed, len(x)).fold_in(Stream.CODES)
    terms, protocol = [], {}
    for draw in range(draws):
        codes, open_, log_q = _drawn(codec, x, noise.fold_in(draw), batch)
        told = None if progress is None else _part(progress, draw, draws)
        flow = exact(
            model,
            codes,
            evaluations=evaluations,
            divergence=divergence,
            probes=probes,
            seed=seed + draw,
            batch=batch,
            progress=told,
        )
        terms.append(torch.stack((open_, log_q - flow.log_prob)))
        protocol = dict(flow.protocol)
    reconstruction, kl = torch.stack(terms).mean(0)
    units = Units.of(codec.data, tuple(codec.shape), density=decoder_of(codec).density)
    protocol |= {"bound": "latent diffusion", "draws": draws, "seed": seed, **units.protocol()}
    return LatentBound(reconstruction, kl, units, protocol)


@torch.no_grad()
def _drawn(codec: Any, x: Tensor, noise: Noise, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of data, −log p(x | z) and log q(z | x) of them, in nats, float64 ``(N,)``."""
    found = []
    for first in range(0, len(x), batch):
        rows = slice(first, min(first + batch, len(x)))
        own = x[rows].to(codec.device, codec.dtype)
        law = codec.encode(own)
        if not bool((law.covariance.diagonal(tuple(codec.latent)) > 0).all()):
            raise UserError(
                "model must have an encoder that draws codes, so that they have a density; this one makes points (VQ)"
            )
        z = law.sample(noise.rows(rows)).to(own)
        open_ = -decoder_of(codec).log_prob(codec.decode(z), own)
        found.append((z.cpu(), open_.double().cpu(), law.log_prob(z).double().cpu()))
    codes, open_, log_q = (torch.cat(part) for part in zip(*found))
    return codes, open_, log_q


def _part(progress: Callable[[int, int], None], index: int, parts: int) -> Callable[[int, int], None]:
    """The progress of one of several equal parts."""
    return lambda done, total: progress(index * total + done, parts * total)
