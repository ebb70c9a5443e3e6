"""One optimiser step: the part of training that is run a hundred thousand times."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..denoisers import Counter, NetworkDenoiser
from ..distributions import Noise
from ..objectives import Objective
from .config import EMAConfig, OptimiserConfig
from .ema import EMA

_LABELS, _NETWORK = 2**35, 2**36
"""The streams of the noise that hide labels, and that seed a network's own randomness (dropout)."""


def learning_rate(config: OptimiserConfig, step: int, progress: float) -> float:
    r"""The rate of step n = 1, 2, …: linear in n up to ``warmup``, then constant or :math:`\tfrac12 (1 + \cos π p)`.

    Args:
        config: settled.
        step: n.
        progress: p in [0, 1], the share of the budget that is spent.
    """
    assert config.lr is not None
    assert config.warmup is not None
    ramp = min(1.0, step / config.warmup) if config.warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress))) if config.schedule == "cosine" else 1.0
    return config.lr * ramp * fall


def precision(asked: str, device: torch.device, shape: tuple[int, ...]) -> str:
    """``float32`` or ``bfloat16``: what was asked for, or for ``auto`` what is faster here.

    bfloat16 autocast pays on images, where convolutions and matrix products outweigh the casts around them, if the
    machine multiplies bfloat16 natively (a step on 8×8 digits: 114 ms for 221). It depends on the machine and the data
    alone, never on a timing.
    """
    if asked != "auto":
        return asked
    if os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16":  # accelerate launch --mixed_precision bf16
        return "bfloat16"
    return "bfloat16" if len(shape) == 3 and _native_bfloat16(device) else "float32"


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(check() for check in checks if check is not None)
    return False


class Learner:
    """A network that learns, with its optimiser and its moving average.

    Attributes:
        denoiser: of the network that learns.
        average: of the moving average of its weights, in evaluation mode.
        objective: what is made small.

    Args:
        denoiser: its network is trained in place.
        objective: gives the losses.
        optimiser: settled settings of AdamW.
        ema: settings of the moving average.
        batch: samples a step, over all processes.
        precision: ``float32`` or ``bfloat16``.
        wrapped: the network as gradients are to flow through it, if several processes share them.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        objective: Objective,
        *,
        optimiser: OptimiserConfig,
        ema: EMAConfig,
        batch: int,
        precision: str = "float32",
        wrapped: nn.Module | None = None,
    ) -> None:
        self.objective = objective
        self.network = denoiser.network.train()
        self.denoiser = denoiser if wrapped is None else replace(denoiser, network=wrapped)
        self.ema = EMA(self.network, batch, ema.width if ema.kind == "power" else None, ema.half_life)
        average = replace(denoiser, network=self.ema.network, counter=Counter())
        self.average = objective.prepare(average)
        self.named = dict(self.network.named_parameters())
        self.clip = math.inf if optimiser.clip is None else optimiser.clip
        self.device = denoiser.device
        assert optimiser.lr is not None
        self.adam = torch.optim.AdamW(
            self.named.values(),
            lr=optimiser.lr,
            betas=optimiser.betas,
            weight_decay=optimiser.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self._half = precision == "bfloat16"
        dropouts = (m for m in self.network.modules() if isinstance(m, nn.modules.dropout._DropoutNd))
        self._random = any(m.p > 0 for m in dropouts)

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """The precision the network computes in."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half)

    def step(
        self, x0: Tensor, label: Tensor | None, noise: Noise, *, number: int, rate: float, dropout: float = 0.0
    ) -> tuple[Tensor, float]:
        """Step n = ``number``: losses, gradients, and unless they are not finite, new weights and a new average.

        Args:
            x0: this process's part of the batch.
            label: its labels, or None.
            noise: of these samples.
            number: n = 1, 2, …
            rate: learning rate.
            dropout: share of labels to hide; which ones is decided by the noise.

        Returns:
            The losses ``(B,)``, and the norm of the gradient before clipping: if it is not finite nothing was changed.
        """
        condition = None
        if label is not None:
            hidden = noise.fold(_LABELS).uniform(()) < dropout
            condition = {"label": torch.where(hidden, -1, label)}
        if self._random:
            torch.manual_seed(noise.fold(_NETWORK).seed >> 1)
        with self.arithmetic():
            losses = self.objective(self.denoiser, x0, condition, noise)
        losses.mean().backward()
        norm = float(nn.utils.clip_grad_norm_(self.named.values(), self.clip))
        if math.isfinite(norm):
            self.adam.param_groups[0]["lr"] = rate
            self.adam.step()
            self.ema.update(self.network, number)
        self.adam.zero_grad(set_to_none=True)
        return losses.detach(), norm

    @torch.no_grad()
    def loss(self, x0: Tensor, label: Tensor | None, noise: Noise) -> Tensor:
        """The losses ``(B,)`` of the moving average, under the steady form of the objective."""
        condition = None if label is None else {"label": label}
        with self.arithmetic():
            return self.objective.steady()(self.average, x0, condition, noise)

    def optimiser_state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by parameter: ``NAME/exp_avg``, ``NAME/exp_avg_sq``, ``NAME/step``."""
        state = self.adam.state
        return {f"{name}/{key}": v for name, p in self.named.items() for key, v in state.get(p, {}).items()}

    def restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``optimiser_state``; before the first step there is none."""
        for name, parameter in self.named.items():
            mine = {key.rpartition("/")[2]: v for key, v in tensors.items() if key.rpartition("/")[0] == name}
            # In the layout of the parameter: fused kernels walk over the memory of both.
            fit = lambda v, p=parameter: torch.empty_like(p).copy_(v) if v.shape == p.shape and v.ndim else v
            self.adam.state[parameter] = {key: fit(v).detach() for key, v in mine.items()}
