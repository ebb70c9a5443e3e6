"""The bound of token chains, a term at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .._errors import UserError
from .._registry import register
from ..denoisers import Denoiser
from ..distributions import Categorical, Noise
from ..processes import Chain, TableChain, require
from .denoising import Condition, Timed
from .times import TimestepDistribution, Uniform

TINY = 1e-300
"""The least probability a logarithm is taken of."""


@register(
    "objectives",
    "d3pm",
    title="D3PM: the bound's terms and λ cross-entropy",
    arxiv="2107.03006",
    proof="exact: tests/objectives/test_d3pm.py",
)
@dataclass(frozen=True)
class D3PM(Timed):
    r"""One term of the bound at a random step, and a little cross-entropy (Austin et al. 2021, arXiv:2107.03006 eq. 5):

    .. math:: \frac1D \Big( N\, \mathrm{KL}\big(q(x_s | x_t, x_0)\, \|\, p(x_s | x_t)\big)
              - λ \log b(x_0 | x_t) \Big), \quad t = \tfrac nN,\; s = \tfrac{n-1}N

    in nats a token, with p = ``reverse`` of the belief b. The last step, s = 0, gives −log p(x_0 | x_t), so that the
    expectation over n uniform on 1…N, without the λ term, is the bound on −log p(x_0) but for KL(q(x_1 | x_0) ‖ prior).

    The authors' image code sums the KL of one step, without N, and λ cross-entropy: ``scale="step"``. At N = 1000
    its 0.001 weighs as 1 would under ``scale="bound"``, and 0.001 under the latter as 1e-6 would in their code.

    Args:
        times: law of t; times are rounded up to the steps n/N.
        steps: N ≥ 1; that of the table for a chain that is one, else 1000, if not given.
        auxiliary: λ ≥ 0; 0.001 in the paper for images, 0.01 for text.
        scale: ``bound``: N·KL, nats of the whole bound; ``step``: the KL of one step, as in the authors' image code.
    """

    times: TimestepDistribution = Uniform(low=1e-9)  # noqa: RUF009 (frozen)
    steps: int | None = None
    auxiliary: float = 0.001
    scale: Literal["bound", "step"] = "bound"

    def __post_init__(self) -> None:
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise UserError(f"steps must be an integer of at least 1, got {self.steps!r}")
        if not 0 <= self.auxiliary < math.inf:
            raise UserError(f"auxiliary must be a number >= 0, got {self.auxiliary!r}")
        if self.scale not in ("bound", "step"):
            raise UserError(f"scale must be 'bound' or 'step', got {self.scale!r}")

    def _steps(self, chain: Chain) -> int:
        return self.steps or (chain.steps if isinstance(chain, TableChain) else 1000)

    def __call__(self, denoiser: Denoiser, x0: Tensor, condition: Condition | None, noise: Noise) -> Tensor:
        chain: Chain = require(denoiser.process, Chain, "objective 'd3pm'")
        u, steps = self.times.uniform(noise), self._steps(chain)
        n = torch.ceil(self.times.quantile(chain, u) * steps).clamp(1, steps)
        t, s = n / steps, (n - 1) / steps
        x_t = chain.marginal(x0, t).sample(noise)
        bound = denoiser.given(condition) if condition else denoiser
        belief = bound(x_t, t)
        model = chain.reverse(x_t, belief, t, s)
        if not isinstance(belief, Categorical) or not isinstance(model, Categorical):
            raise UserError(f"objective 'd3pm' needs a belief about each position, got {type(belief).__name__}")
        true = chain.bridge(x_t, x0, t, s).probs
        # Not ``kl``: its gradient is 0/0 at a state that both laws exclude.
        apart = torch.log(true.clamp_min(TINY)) - torch.log(model.probs.clamp_min(TINY))
        own = belief.probs.gather(-1, x0[..., None])[..., 0]
        many = steps if self.scale == "bound" else 1
        loss = many * (true * apart).sum(-1) - self.auxiliary * torch.log(own.clamp_min(TINY))
        return self.times.ratio(chain, u) * loss.flatten(1).mean(1)

    def check(self, denoiser: Denoiser) -> None:
        chain: Chain = require(denoiser.process, Chain, "objective 'd3pm'")
        self.times.check(chain)
        if isinstance(chain, TableChain) and chain.steps % self._steps(chain):
            raise UserError(f"steps must divide the {chain.steps} of the chain, got {self.steps}")

    def to_dict(self) -> dict[str, Any]:
        options = {"steps": self.steps, "auxiliary": self.auxiliary, "scale": self.scale}
        return {"name": "d3pm", "times": self.times.to_dict(), **options}
