"""An encoder of noisy data and of captions into one space, learned by contrast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError, check_instance, shown
from ..processes import Process, as_time
from .base import EvaluationCounter
from .noisy import NoisyDataModel


@dataclass(frozen=True, eq=False, repr=False)
class ContrastiveEncoder(NoisyDataModel):
    r"""Maps pictures and captions to unit vectors that are close when they belong together (CLIP, arXiv:2103.00020).

    ``encode_image(x_t, t)`` is u, ``encode_text(captions)`` is v, and the logit of a pair is τ⟨u, v⟩. Learned on noisy
    data too it is told t (arXiv:2112.05744 §3.2). The network is shown :math:`x_t / \sqrt{σ^2 + α^2 σ_d^2}` and the
    time as ``log_sigma``; differentiable in x_t.

    Args:
        network: has ``encode_image(x, time)``, ``encode_text(value)``, ``feature_map(x, time)``, ``tokenize(texts)``,
            ``scale``, ``reads`` and ``check_shape``, as ``nn.DualEncoder``.
        process: of scalar-Gaussian noise.
        data: the description of the data.
        sigma_data: RMS of the data, σ_d > 0.
        noisy: whether it has seen noisy data; if not, it is asked at t = 0 alone.
        config: how the model was made, as plain JSON.
        counter: where calls of the tower of pictures are counted.
    """

    network: nn.Module
    process: Process
    data: Any
    sigma_data: float
    noisy: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)
    counter: EvaluationCounter = field(default_factory=EvaluationCounter)
    kind = "contrastive-encoder"
    what = "a contrastive encoder"

    @property
    def output(self) -> Any:
        """The description of the data."""
        return self.data

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Event shape of the data."""
        return self.shape

    @property
    def reads(self) -> str:
        """What it reads of captions: ``caption``, their tokens, or ``sequence``, features of another encoder."""
        return str(self.network.reads)

    @property
    def knows_clean(self) -> bool:
        """Whether it has seen data without noise, as far as the record of its training says."""
        objective = self.config.get("objective")
        return not isinstance(objective, Mapping) or objective.get("clean") != 0

    def check_clean(self) -> None:
        """Refuse an encoder that is to be asked of clean data and has seen none.

        Raises:
            UserError: it says how to train another.
        """
        if not self.knows_clean:
            raise UserError(
                "encoder must know clean pictures, at t = 0, and has seen noisy ones alone; train one with "
                "--objective.options clean 0.5"
            )

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.network.parameters())
        what = f"noisy, {self.process}" if self.noisy else "clean data alone"
        return f"ContrastiveEncoder({type(self.network).__name__} {count / 1e6:.2f} M, {what}) of {self.data}"

    @property
    def scale(self) -> Tensor:
        """τ, the number that products of vectors are multiplied with."""
        scale: Any = self.network.scale
        return scale

    def encode_image(self, x_t: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """Unit vectors ``(B, E)`` of states ``(B, *shape)`` at times ``()`` or ``(B,)``; t = 0 is clean data.

        Raises:
            UserError: for a shape the network does not take, or noise where it knows clean data alone.
        """
        return self._asked("encode_image", x_t, t)

    def feature_map(self, x_t: Tensor, t: Tensor | float = 0.0) -> Tensor:
        """What the network sees before it takes the mean over places, ``(B, C, h, w)``; of images alone."""
        return self._asked("feature_map", x_t, t)

    def _asked(self, what: str, x_t: Tensor, t: Tensor | float) -> Tensor:
        check_instance("x_t", x_t, Tensor, "a tensor of states (B, *shape)")
        if not self.noisy and bool((as_time(t) != 0).any()):
            raise UserError(
                "this encoder knows clean data alone: ask it at t = 0, of the predicted clean data, or train one on "
                "noisy data (--objective.options clean 0.5)"
            )
        self.network.check_shape(tuple(x_t.shape[1:]))  # type: ignore[operator]
        x, time = self.precondition(x_t, t)
        self.counter.calls += 1
        found: Tensor = getattr(self.network, what)(x, time)
        return found.to(torch.promote_types(x_t.dtype, torch.float32))

    def encode_text(self, captions: str | Sequence[str] | Tensor) -> Tensor:
        """Unit vectors ``(B, E)`` of captions, zero where there is none.

        Args:
            captions: text, texts, or what the network reads: tokens int64 ``(B, L)``, −1 for none, or features
                ``(B, L, F)``, not-a-number for none.

        Raises:
            UserError: for anything else, and for text where features are read.
        """
        value: Any = [captions] if isinstance(captions, str) else captions
        if not isinstance(value, Tensor):
            if not isinstance(value, Sequence) or not value:
                raise UserError(f"captions must be text, texts or a tensor, got {shown(captions)}")
            value = self.network.tokenize(value)  # type: ignore[operator]
        found: Tensor = self.network.encode_text(value.to(self.device))  # type: ignore[operator]
        return found

    def logits(self, x_t: Tensor, captions: str | Sequence[str] | Tensor, t: Tensor | float = 0.0) -> Tensor:
        """τ⟨u_i, v_j⟩ of every state with every caption, ``(B, C)``."""
        image, text = self.encode_image(x_t, t), self.encode_text(captions)
        return self.scale * (image @ text.to(image).mT)
