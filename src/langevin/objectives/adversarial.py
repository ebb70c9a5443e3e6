"""Generative adversarial networks: two players, of which one tells data from what the other makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .._errors import UserError, unknown
from .._registry import lookup, register
from ..denoisers import Generator
from ..distributions import Noise, Stream
from ..processes import ScalarGaussian, create_process
from .denoising import Condition, Objective
from .players import Player, without

Losses = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]

LOSSES: dict[str, Losses] = {
    # Of D(x) on data, of D(g(z)) for the discriminator, and of D(g(z)) for the generator.
    "non-saturating": (lambda d: F.softplus(-d), lambda d: F.softplus(d), lambda d: F.softplus(-d)),
    "least-squares": (lambda d: (d - 1).square() / 2, lambda d: d.square() / 2, lambda d: (d - 1).square() / 2),
}
"""Non-saturating: arXiv:1406.2661 §3; least squares with targets 1 and 0: 1611.04076 eq. 2."""


@register(
    "objectives",
    "gan",
    title="GAN: non-saturating or least squares, with R1 and a diffused discriminator",
    arxiv="1406.2661",
    proof="exact: tests/objectives/test_adversarial.py",
)
@dataclass(frozen=True)
class Adversarial(Objective):
    r"""A generator and a discriminator with losses of their own (arXiv:1406.2661).

    .. math:: L_D = E\,ℓ_1(D(x)) + E\,ℓ_0(D(g(z))) + \tfrac{γ}{2} E |∇_x D(x)|^2, \quad L_G = E\,ℓ_G(D(g(z)))

    Non-saturating: :math:`ℓ_1(d) = ℓ_G(d) = \log(1 + e^{-d})`, :math:`ℓ_0(d) = \log(1 + e^d)`; least squares:
    :math:`ℓ_1 = ℓ_G = ½(d - 1)^2`, :math:`ℓ_0 = ½d^2`. The last term of L_D is R1 (1801.04406 eq. 9). With ``diffuse``
    the discriminator is shown x and g(z) after the same noising, :math:`y \sim q(y|x, t)`, and told t
    (Diffusion-GAN, 2206.02262 eq. 3): where data and samples do not overlap, their noised laws do.

    Called itself, it is L_D without R1: of the best discriminator, 2 log 2 less twice the Jensen–Shannon divergence.

    Args:
        loss: ``non-saturating`` or ``least-squares``.
        r1: γ ≥ 0.
        diffuse: name of a process, such as ``vp``, that noises what the discriminator sees; None for none.
        clean: share of samples, in [0, 1], that it sees without noise all the same; the rest have t uniform.
        every: steps of the discriminator for one of the generator.
    """

    loss: str = "non-saturating"
    r1: float = 0.0
    diffuse: str | None = None
    clean: float = 0.5
    every: int = 1

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise unknown("loss", str(self.loss), LOSSES)
        for name, low, high in (("r1", 0.0, 1e6), ("clean", 0.0, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise UserError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise UserError(f"every must be an integer of at least 1, got {self.every!r}")
        if self.diffuse is not None:
            made = lookup("processes", str(self.diffuse)).make
            if not (isinstance(made, type) and issubclass(made, ScalarGaussian)):
                raise UserError(f"diffuse must name a process x_t = αx_0 + σε, got {self.diffuse!r}")

    def players(self, model: Any) -> dict[str, Player]:
        discriminator = model.network.discriminator
        betas = (0.0, 0.99)  # with momentum the two would turn around each other
        return {
            "discriminator": Player(discriminator, self.of_discriminator, betas=betas),
            "generator": Player(without(model.network, "discriminator"), self.of_generator, self.every, betas),
        }

    def __call__(self, denoiser: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        return self.of_discriminator(denoiser, x0, condition, noise)

    def of_discriminator(self, model: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        """L_D of each sample, ``(B,)``."""
        of_data, of_made, _ = LOSSES[self.loss]
        noise = noise.fold_in(Stream.PLAYER)
        with torch.no_grad():
            made = self._made(model, x0, condition, noise)
        learning = torch.is_grad_enabled()
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernel has no second derivative
            x, time = self._shown(x0, noise.fold_in(Stream.SHOWN_DATA))
            x = x.detach().requires_grad_(learning and self.r1 > 0)
            score = self._score(model, x, time, condition)
            y, time = self._shown(made, noise.fold_in(Stream.SHOWN_SAMPLES))
            total = of_data(score) + of_made(self._score(model, y, time, condition))
            if learning and self.r1 > 0:
                slope = torch.autograd.grad(score.sum(), x, create_graph=True)[0]
                total = total + self.r1 / 2 * slope.square().flatten(1).sum(1)
        return total.to(torch.float64)

    def of_generator(self, model: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        """L_G of each sample, ``(B,)``."""
        _, _, of_generator = LOSSES[self.loss]
        y, time = self._shown(self._made(model, x0, condition, noise), noise.fold_in(Stream.SHOWN_SAMPLES))
        return of_generator(self._score(model, y, time, condition)).to(torch.float64)

    def _made(self, model: Any, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        """g(z), as many as there are data."""
        bound = model.given(condition) if condition else model
        made: Tensor = bound.generate(noise.normal(tuple(x0.shape[1:])).to(x0))
        return made

    def _shown(self, x: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """What the discriminator sees of data, and the time it is told."""
        if self.diffuse is None:
            return x, torch.zeros(len(x), device=x.device)
        process = create_process(self.diffuse)
        u = noise.fold_in(Stream.TIMES).uniform((2,))
        t = torch.where(u[:, 0] < self.clean, 0.0, process.t_min + u[:, 1] * (process.t_max - process.t_min))
        return process.marginal(x, t).sample(noise), t.to(x.device, x.dtype)

    def _score(self, model: Any, x: Tensor, time: Tensor, condition: Condition | None) -> Tensor:
        """D(x, t), ``(B,)``."""
        discriminator: nn.Module = model.network.discriminator
        score: Tensor = discriminator(x, time, condition)[:, 0]
        return score

    def check(self, denoiser: Any) -> None:
        if not isinstance(denoiser, Generator) or not hasattr(denoiser.network, "discriminator"):
            raise UserError(f"objective 'gan' learns a generator whose network has a discriminator, got {denoiser!r}")

    def finish(self, denoiser: Any) -> Any:
        return replace(denoiser, network=without(denoiser.network, "discriminator"))

    def to_dict(self) -> dict[str, Any]:
        return {"name": "gan", **{key: getattr(self, key) for key in self.__dataclass_fields__}}
