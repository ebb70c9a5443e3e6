"""What takes a step from gradients to weights: AdamW, or Muon for matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from .._errors import UserError
from .config import OptimiserConfig
from .distributed import spread

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are matrices, of as many rows as there are channels that come out."""


class Optimiser:
    r"""AdamW (arXiv:1711.05101), or Muon for the weights of linear and convolutional layers and AdamW for all others.

    Muon moves a matrix W of A rows and B columns by its momentum, made orthogonal (arXiv:2502.16982 eq. 1 and 4):

    .. math::
        M ← μ M + ∇ \\
        O = \mathrm{NS}_5(∇ + μ M) ≈ U V^T, \quad U S V^T = ∇ + μ M \\
        W ← (1 - η λ) W - 0.2\, η \sqrt{\max(A, B)}\, O

    so all directions of a matrix learn at one rate, also those that few examples need. The factor gives the step the
    size that one of AdamW has: η and λ mean the same for both. The filters of a convolution are the rows of a matrix.

    Args:
        module: whose parameters learn.
        config: resolved settings.
        betas: of AdamW, in place of those of ``config``.

    Raises:
        UserError: for ``muon``, if torch is older than 2.9 or no weight is a matrix.
    """

    def __init__(self, module: nn.Module, config: OptimiserConfig, betas: tuple[float, float] | None = None) -> None:
        assert config.lr is not None
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        found = dict.fromkeys(_matrices(module)) if config.name == "muon" else {}
        others = [p for p in self.parameters if p not in found]
        rate, decay = config.lr, config.weight_decay
        fused = self.parameters[0].device.type in ("cpu", "cuda")
        self._parts: list[torch.optim.Optimizer] = []
        self._matrices: dict[nn.Parameter, nn.Parameter] = {}
        if others:
            self._parts = [
                torch.optim.AdamW(others, betas=betas or config.betas, fused=fused, lr=rate, weight_decay=decay)
            ]
        if config.name == "muon":
            if not hasattr(torch.optim, "Muon"):
                raise UserError(f"optimiser.name muon needs torch 2.9 or later, this is {torch.__version__}")
            if not found:
                raise UserError("optimiser.name muon needs a linear or convolutional layer that learns; take adamw")
            self._matrices = {p: nn.Parameter(p.detach().flatten(1)) for p in found}  # of the same memory
            assert all(p.data_ptr() == matrix.data_ptr() for p, matrix in self._matrices.items())
            matrices = list(self._matrices.values())
            self._parts.append(torch.optim.Muon(matrices, rate, decay, adjust_lr_fn="match_rms_adamw"))

    def step(self, rate: float) -> None:
        """Move the weights by their gradients, at a learning rate."""
        for parameter, matrix in self._matrices.items():
            matrix.grad = None if parameter.grad is None else parameter.grad.flatten(1)
        for part in self._parts:
            part.param_groups[0]["lr"] = rate
            part.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in (*self.parameters, *self._matrices.values()):
            parameter.grad = None

    def state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is kept of a parameter, by name: empty before its first step."""
        part, own = self._place(parameter)
        return dict(part.state.get(own, {}))

    def like(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Tensors like those that are kept of a parameter after its first step."""
        part, own = self._place(parameter)
        if isinstance(part, torch.optim.AdamW):
            return {"exp_avg": own, "exp_avg_sq": own, "step": torch.zeros(())}
        return {"momentum_buffer": own}

    def restore(self, parameter: nn.Parameter, state: Mapping[str, Tensor]) -> None:
        """The inverse of ``state``."""
        part, own = self._place(parameter)
        # In the layout of the parameter: fused kernels walk over the memory of both.
        fit = lambda v: torch.empty_like(own).copy_(spread(v.to(own.device), own)).detach() if v.ndim else v
        part.state[own] = {key: fit(v) for key, v in state.items()}

    def _place(self, parameter: nn.Parameter) -> tuple[torch.optim.Optimizer, nn.Parameter]:
        matrix = self._matrices.get(parameter)
        return (self._parts[0], parameter) if matrix is None else (self._parts[-1], matrix)


def _matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of layers that learn, of at least two rows and two columns."""
    for part in module.modules():
        weight = part.weight if isinstance(part, LAYERS) else None
        if isinstance(weight, nn.Parameter) and weight.requires_grad and min(weight.flatten(1).shape) > 1:
            yield weight
