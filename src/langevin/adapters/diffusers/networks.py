"""Networks of diffusers as networks of this library: one call ``(x, time, condition)`` for each architecture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..._errors import UserError
from ...models.custom import CustomFormat
from ...nn.attention_control import AttentionControl
from .attention import controlled_attention
from .directory import INDEX, Origin, pipeline_files
from .text import Prompts


class Adapted(nn.Module, CustomFormat):
    """A network of diffusers, asked as this library asks.

    Args:
        network: the model of diffusers.
        scale: what the time is multiplied by.
        sizes: the conditions it takes, with their sizes.
        prompts: what makes features of captions.
    """

    foreign = True
    """What it holds may do more than compute when it is called: its memory is not measured by calling it."""

    def __init__(
        self,
        network: nn.Module,
        scale: float = 1.0,
        sizes: Mapping[str, int] | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        self.null_label: int | None = None  # the class that stands for none, where there is one
        self.prompts = prompts
        captions = {} if prompts is None else {"caption": prompts.size}
        self.sizes: dict[str, int] = {**captions, **(sizes or {})}
        self.config = {"diffusers": type(network).__name__, "conditions": self.sizes}
        self.origin: Origin | None = None

    @property
    def readers(self) -> dict[str, Callable[[Any], Tensor]]:
        """Conditions that are read in a way of this network's own, when they are bound."""
        return {} if self.prompts is None else {"caption": self.prompts.read}

    def parts(self) -> dict[str, nn.Module]:
        """What may learn, by the names of the pipeline's components: the network, then its text encoders."""
        if self.origin is None:
            return {"": self.network}
        encoders = [] if self.prompts is None else [e for e in self.prompts.encoders if not isinstance(e, nn.Identity)]
        return {self.origin.name: self.network, **dict(zip(self.origin.encoders, encoders))}

    def contents(self, model: Any) -> dict[str, bytes]:
        """What a directory of the pipeline holds, by file, with the weights that the network now has.

        Raises:
            UserError: for a network that is of no pipeline.
        """
        if self.origin is None or INDEX not in {path.name for path in self.origin.folder.iterdir()}:
            raise UserError(f"a {type(self.network).__name__} alone is not kept: load the pipeline that it is of")
        return pipeline_files(self.origin, self.parts(), self.null_label, model)

    def text(self, condition: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
        """The parts of the captions of a batch, in the network's dtype."""
        assert self.prompts is not None
        first = next(self.network.parameters())
        parts = self.prompts.parts(condition.get("caption"), batch)
        return {name: value.to(first.dtype) for name, value in parts.items()}

    def label(self, condition: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """The classes of a batch, with that of none where a sample has no label.

        Raises:
            UserError: for a sample without one, if there is no such class.
        """
        label = condition.get("label")
        if self.null_label is None:
            if label is None or bool((label < 0).any()):
                raise UserError("label must be given: this model was never trained without one")
            return label
        none = torch.full((len(x),), self.null_label, dtype=torch.int64, device=x.device)
        return none if label is None else torch.where(label < 0, none, label)

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.ask(x, time if self.scale == 1.0 else time * self.scale, condition or {})

    @abstractmethod
    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """The network's output at a time as it was trained with."""


class UNet(Adapted):
    """``UNet2DModel``: images or latents, with a class where it was trained with one."""

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        if self.sizes.get("label"):
            return self.network(x, time, self.label(condition, x), return_dict=False)[0]
        return self.network(x, time, return_dict=False)[0]


class LearnedTimes(UNet):
    """The same with a table of embeddings of the time, which takes whole numbers alone."""

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        return super().ask(x, time.round().long(), condition)


class TextUNet(Adapted):
    """``UNet2DConditionModel`` that reads a caption: Stable Diffusion 1 and 2."""

    def controlled_attention(self, control: AttentionControl) -> AbstractContextManager[None]:
        """See ``nn.controlled``."""
        return controlled_attention(self.network, control)

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        tokens = self.text(condition, len(x))["tokens"]
        return self.network(x, time, tokens, return_dict=False)[0]


class MicroUNet(Adapted):
    """The same with a pooled caption and numbers about the image: SDXL (arXiv:2307.01952 §2.2).

    Args:
        numbers: those of an image that nothing is said of: (height, width) before it was scaled, (top, left) of the
            crop, and (height, width) now; or, of a refiner, an aesthetic score in the place of the last two.
    """

    def __init__(self, network: nn.Module, prompts: Prompts, numbers: tuple[float, ...]) -> None:
        super().__init__(network, sizes={"vector": len(numbers)}, prompts=prompts)
        self.register_buffer("numbers", torch.tensor([numbers]), persistent=False)
        self.numbers: Tensor

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        text = self.text(condition, len(x))
        numbers = _or_default(condition.get("vector"), self.numbers.to(x.dtype), len(x))
        more = {"text_embeds": text["pooled"], "time_ids": numbers}
        return self.network(x, time, text["tokens"], added_cond_kwargs=more, return_dict=False)[0]


class DiT(Adapted):
    """``DiTTransformer2DModel``: a class, or none, which is a class behind the others (arXiv:2212.09748)."""

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        label = self.label(condition, x)
        return self.network(x, timestep=time, class_labels=label, return_dict=False)[0]


class PixArt(Adapted):
    """``PixArtTransformer2DModel``: T5's features of a caption, and the size of the image where it was trained with it.

    Args:
        sized: (height, width) of the image, or None for a network that is told none.
    """

    def __init__(self, network: nn.Module, prompts: Prompts, sized: tuple[int, int] | None) -> None:
        super().__init__(network, prompts=prompts)
        self.sized = sized

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        text = self.text(condition, len(x))
        more: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.sized is not None:
            height, width = self.sized
            more["resolution"] = x.new_tensor([[height, width]]).expand(len(x), -1)
            more["aspect_ratio"] = x.new_tensor([[height / width]]).expand(len(x), -1)
        return self.network(
            x,
            encoder_hidden_states=text["tokens"],
            encoder_attention_mask=text["mask"],
            timestep=time,
            added_cond_kwargs=more,
            return_dict=False,
        )[0]


class SD3(Adapted):
    """``SD3Transformer2DModel``: a flow with three text encoders (arXiv:2403.03206)."""

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        text = self.text(condition, len(x))
        return self.network(
            hidden_states=x,
            timestep=time,
            encoder_hidden_states=text["tokens"],
            pooled_projections=text["pooled"],
            return_dict=False,
        )[0]


class Flux(Adapted):
    """``FluxTransformer2DModel``: a flow of patches of 2 × 2 latents, with the guidance it was distilled with.

    Args:
        guidance: the scale of an image that none is said of, the condition ``vector`` of one number; None for a network
            that takes none.
    """

    def __init__(self, network: nn.Module, scale: float, prompts: Prompts, guidance: float | None) -> None:
        sizes = {} if guidance is None else {"vector": 1}
        super().__init__(network, scale, sizes, prompts)
        self.guidance = guidance

    def ask(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        batch, channels, height, width = x.shape
        text, rows, columns = self.text(condition, batch), height // 2, width // 2
        patches = x.reshape(batch, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        places = torch.zeros(rows, columns, 3, device=x.device, dtype=x.dtype)
        places[..., 1] = torch.arange(rows, device=x.device)[:, None]
        places[..., 2] = torch.arange(columns, device=x.device)
        guidance = None
        if self.guidance is not None:
            default = torch.full((1, 1), self.guidance, device=x.device)
            guidance = _or_default(condition.get("vector"), default, batch)[:, 0].float()
        out = self.network(
            hidden_states=patches.reshape(batch, rows * columns, 4 * channels),
            timestep=time / 1000,  # the network multiplies by 1000 itself
            guidance=guidance,
            pooled_projections=text["pooled"],
            encoder_hidden_states=text["tokens"],
            txt_ids=x.new_zeros(text["tokens"].shape[1], 3),
            img_ids=places.reshape(-1, 3),
            return_dict=False,
        )[0]
        out = out.reshape(batch, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return out.reshape(batch, channels, height, width)


def _or_default(value: Tensor | None, default: Tensor, batch: int) -> Tensor:
    """Numbers ``(B, V)`` with those of samples that lack them, not-a-numbers, at a default ``(1, V)``."""
    if value is None:
        return default.expand(batch, -1)
    return torch.where(value.isnan(), default.to(value), value)


def multiple(kind: str, config: Mapping[str, Any]) -> int:
    """What each side of the states must be a multiple of for a network of a class."""
    if kind == "UNet2DModel":
        return int(2 ** (len(config["block_out_channels"]) - 1))  # joined with what was halved so often
    if kind == "FluxTransformer2DModel":
        return 2  # patches that its pipeline makes
    return int(config.get("patch_size") or 1)
