"""Networks that are kept in a format of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class CustomFormat(ABC):
    """A network whose model is not kept as those of ``langevin.nn`` are: that of a pipeline of diffusers, a LoRA."""

    @abstractmethod
    def contents(self, model: Any) -> dict[str, bytes]:
        """What the directory of a model with this network holds, by file.

        Args:
            model: the denoiser, or the ``Latent`` it is part of.
        """
