"""Pipelines of diffusers of a few thousand random weights, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
"""The table of latent diffusion."""


def calm(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with random weights from a seed, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else p)
    return network.requires_grad_(False).eval()


def unet2d(channels: int = 3) -> Any:
    from diffusers import UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    size = {"sample_size": 8, "in_channels": channels, "out_channels": channels, "block_out_channels": (4, 8)}
    return calm(UNet2DModel(**size, **blocks, norm_num_groups=2, layers_per_block=1, add_attention=False))


def vae(channels: int = 4) -> Any:
    from diffusers import AutoencoderKL

    made = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=2,
        shift_factor=0.1,
        scaling_factor=0.5,
    )
    return calm(made, 1)


def conditional_unet() -> Any:
    from diffusers import UNet2DConditionModel

    made = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=2,
        layers_per_block=1,
    )
    return calm(made)


def text_encoder(folder: Path) -> tuple[Any, Any]:
    """A CLIP text model of 32 numbers a token and a tokenizer of letters, whose files are written to a folder."""
    import json

    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder), model_max_length=12)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPTextConfig(vocab_size=len(words), max_position_embeddings=12, **size, **ends)
    return calm(CLIPTextModel(config), 2), tokenizer


def stable_diffusion(kind: Any, scheduler: Any, folder: Path) -> Any:
    """A Stable Diffusion pipeline of a class of diffusers."""
    encoder, tokenizer = text_encoder(folder)
    made = kind(vae(), encoder, tokenizer, conditional_unet(), scheduler, None, None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def flow_transformer() -> Any:
    from diffusers import SD3Transformer2DModel

    made = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
    )
    return calm(made)


def stable_diffusion_3(kind: Any, scheduler: Any) -> Any:
    """A Stable Diffusion 3 pipeline without text encoders: it is given ``prompt_embeds``."""
    made = kind(flow_transformer(), scheduler, vae(), *[None] * 6)
    made.set_progress_bar_config(disable=True)
    return made


def flux(scheduler: Any) -> Any:
    """A Flux pipeline without text encoders: it is given ``prompt_embeds``."""
    from diffusers import FluxPipeline, FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(2, 2, 4),
    )
    made = FluxPipeline(scheduler, vae(), None, None, None, None, calm(transformer))
    made.set_progress_bar_config(disable=True)
    return made


def embeds(**sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Random features in place of prompts."""
    return {name: torch.randn(size, generator=torch.Generator().manual_seed(9)) for name, size in sizes.items()}
