"""The evidence lower bound of a latent variable model, its two terms apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import DataDescription, NetworkDenoiser
from ..distributions import Noise, Normal, kl
from .bound import Decoder, decoder_of_data
from .denoising import Condition, Objective


class Codec(Protocol):
    """What turns data into latents and back, each as a law: what a diffusion model of latents asks for.

    Attributes:
        shape: event shape of the data.
        latent: event shape of the latents, whose prior is N(0, I).
    """

    shape: tuple[int, ...]
    latent: tuple[int, ...]

    @property
    def data(self) -> DataDescription | None:
        """The description of the data, or None."""
        ...

    def encode(self, x: Tensor) -> Normal:
        """q(z | x) of data ``(B, *shape)``, over ``(B, *latent)``."""
        ...

    def decode(self, z: Tensor) -> Normal:
        """p(x | z) of latents ``(B, *latent)``, over ``(B, *shape)``; its mean is the decoded datum."""
        ...


class Terms(NamedTuple):
    """The two terms, in nats, float64 ``(B,)``: −log p(x) ≤ reconstruction + kl."""

    reconstruction: Tensor
    kl: Tensor


def decoder_of(codec: Codec) -> Decoder:
    """p(x | z) integrated over the bins of data with levels, else its density."""
    return decoder_of_data(codec.data)


def elbo(codec: Codec, x: Tensor, noise: Noise) -> Terms:
    r"""Both terms of the bound of Kingma & Welling (arXiv:1312.6114, eq. 3), with one draw of z by reparametrisation.

    .. math:: -\log p(x) \le -E_{q(z|x)} \log p(x | z) + \mathrm{KL}(q(z | x) \,‖\, N(0, I))

    For data with levels log p(x | z) is that of the bins (``Discretised``), so the bound is on a probability.

    Args:
        codec: the model.
        x: data ``(B, *shape)``.
        noise: of these samples.
    """
    belief = codec.encode(x)
    law = codec.decode(belief.sample(noise).to(x.dtype))
    prior = Normal(torch.zeros(1, *codec.latent, dtype=torch.float64, device=x.device), 1.0)
    return Terms(-decoder_of(codec).log_prob(law, x).to(torch.float64), kl(belief, prior))


@register(
    "objectives",
    "elbo",
    title="ELBO of a variational autoencoder",
    arxiv="1312.6114",
    proof="exact: tests/objectives/test_elbo.py",
)
@dataclass(frozen=True)
class ELBO(Objective):
    """The bound a coordinate, in nats: (reconstruction + beta·KL)/D.

    Args:
        beta: weight of the KL term, ≥ 0; 1 is the bound. Latent diffusion (arXiv:2112.10752) takes 1e-6.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.beta, bool) or not isinstance(self.beta, (int, float)) or not 0 <= self.beta < float("inf"):
            raise UserError(f"beta must be a number >= 0, got {self.beta!r}")

    def __call__(self, denoiser: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        terms = elbo(denoiser, x0, noise)
        return (terms.reconstruction + self.beta * terms.kl) / x0[0].numel()

    def check(self, denoiser: Any) -> None:
        if isinstance(denoiser, NetworkDenoiser) or not hasattr(denoiser, "encode"):
            raise UserError(f"objective 'elbo' learns a codec (network vae), got {type(denoiser).__name__}")

    def to_dict(self) -> dict[str, Any]:
        return {"name": "elbo", "beta": self.beta}
