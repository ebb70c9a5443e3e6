"""What the models share that read noisy data and make none: classifiers and encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .._errors import UserError
from ..processes import Process, ScalarGaussian, as_time, expand, require
from .base import EvaluationCounter
from .parameterization import TIME_INPUTS


class NoisyDataModel:
    r"""A model that reads noisy data: its network is shown :math:`x_t / \sqrt{σ^2 + α^2 σ_d^2}` and the time.

    A subclass is a dataclass with the fields ``network``, ``process``, ``data``, ``sigma_data`` and ``counter``.
    """

    if TYPE_CHECKING:
        network: nn.Module
        process: Process
        data: Any
        sigma_data: float
        counter: EvaluationCounter

    what: ClassVar[str]
    """What it is, in a message that it needs another process."""

    def __post_init__(self) -> None:
        require(self.process, ScalarGaussian, self.what)
        if not self.sigma_data > 0:
            raise UserError(f"sigma_data must be > 0, got {self.sigma_data}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Event shape of the data."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The network's."""
        return next(self.network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def condition_sizes(self) -> Mapping[str, int]:
        """None: it says what a condition is, and is told none."""
        return {}

    @property
    def class_names(self) -> list[str]:
        """None, as it is told no label."""
        return []

    def conditions(self) -> tuple[str, ...]:
        """None: it says what a condition is, and is told none."""
        return ()

    def counted(self) -> Self:
        """The same with a counter of its own."""
        return replace(self, counter=EvaluationCounter())  # type: ignore[type-var]

    def precondition(self, x_t: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """What the network is shown of states ``(B, *shape)`` at times t, ``()`` or ``(B,)``.

        Returns:
            The states in the dtype of the network, and ``log_sigma`` of the times, ``(B,)``, in float32 at least.
        """
        process: ScalarGaussian = require(self.process, ScalarGaussian, self.what)
        t = as_time(t)
        scale = (process.sigma(t) ** 2 + process.alpha(t) ** 2 * self.sigma_data**2) ** -0.5
        time = TIME_INPUTS["log_sigma"](process, t).to(self.device, torch.promote_types(self.dtype, torch.float32))
        return (x_t * expand(scale, x_t).to(x_t)).to(self.dtype), time.expand(len(x_t))
