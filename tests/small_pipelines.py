"""Pipelines of a few thousand random weights, made and saved by diffusers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from benchmarks.small_pipeline import clip_tokenizer as tokenizer_of

WORDS = ("a", "red", "blue", "apple", "boat", "on", "the", "sea")


def seeded(kind: Any, **options: Any) -> Any:
    """A network whose weights, zeros too, are random."""
    torch.manual_seed(0)
    made = kind(**options)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made.requires_grad_(False).eval()


def clip_tokenizer(length: int = 8) -> Any:
    """Whole words, letter by letter merged."""
    return tokenizer_of(WORDS, length)


def clip(projection: bool = False, width: int = 32, length: int = 8) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tokens = len(clip_tokenizer(length))
    config = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=length,
        projection_dim=16,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
    )
    return seeded(CLIPTextModelWithProjection if projection else CLIPTextModel, config=config)


def t5_tokenizer() -> Any:
    """Whole words; T5's own format without its file of pieces."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{w}", -1.0) for w in WORDS), ("▁", -2.0)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=16)


def t5(width: int = 32) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=32, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return seeded(T5EncoderModel, config=config)


def vae(channels: int = 4, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return seeded(
        AutoencoderKL,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
        **more,
    )


def unet2d(channels: int = 3, **more: Any) -> Any:
    from diffusers import UNet2DModel

    options: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "attention_head_dim": 8,
    }
    return seeded(UNet2DModel, **{**options, **more})


def unet_condition(width: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return seeded(
        UNet2DConditionModel,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=4,
        norm_num_groups=4,
        layers_per_block=1,
        **more,
    )


def plain_ddim(**more: Any) -> Any:
    """DDIM as its paper has it: no clipping, the last step to the data."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing", **more})


def ddpm(**more: Any) -> Any:
    from diffusers import DDIMPipeline

    return DDIMPipeline(unet=unet2d(), scheduler=plain_ddim(**more))


def score_sde_ve() -> Any:
    from diffusers import ScoreSdeVePipeline, ScoreSdeVeScheduler

    network = unet2d(time_embedding_type="fourier")
    return ScoreSdeVePipeline(unet=network, scheduler=ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0))


def ldm(vq: bool = True) -> Any:
    from diffusers import LDMPipeline, VQModel

    codec = vae()
    if vq:
        codec = seeded(
            VQModel,
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            num_vq_embeddings=16,
            norm_num_groups=4,
            scaling_factor=0.7,
        )
    table = {"beta_start": 0.0015, "beta_end": 0.0195, "beta_schedule": "scaled_linear"}
    return LDMPipeline(vqvae=codec, unet=unet2d(4), scheduler=plain_ddim(**table))


def ldm_kl() -> Any:
    """Latent diffusion by a codec that has a law of codes."""
    return ldm(vq=False)


SD_TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def stable_diffusion(kind: Any, scheduler: Any) -> Any:
    """A Stable Diffusion pipeline of a class of diffusers."""
    return quiet(
        kind(
            vae=vae(),
            text_encoder=clip(),
            tokenizer=clip_tokenizer(),
            unet=unet_condition(32),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def sd(**scheduler: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return stable_diffusion(StableDiffusionPipeline, plain_ddim(**SD_TABLE, **scheduler))


def sd_v() -> Any:
    """v-prediction on a table of zero terminal SNR."""
    return sd(prediction_type="v_prediction", rescale_betas_zero_snr=True)


def sdxl(zeros: bool = True) -> Any:
    from diffusers import StableDiffusionXLPipeline

    network = unet_condition(
        64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(projection=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=network,
        scheduler=plain_ddim(**SD_TABLE),
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
    )


def dit() -> Any:
    from diffusers import DiTPipeline, DiTTransformer2DModel

    network = seeded(
        DiTTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return DiTPipeline(
        transformer=network, vae=vae(), scheduler=plain_ddim(), id2label={"0": "tench, Tinca tinca", "1": "goldfish"}
    )


def pixart(sigma: bool = False, **more: Any) -> Any:
    from diffusers import PixArtAlphaPipeline, PixArtSigmaPipeline, PixArtTransformer2DModel

    options: dict[str, Any] = {"sample_size": 8, "patch_size": 2, "use_additional_conditions": False, **more}
    network = seeded(
        PixArtTransformer2DModel,
        num_attention_heads=2,
        attention_head_dim=8 if not more else 12,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16 if not more else 24,
        caption_channels=32,
        **options,
    )
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return kind(tokenizer=t5_tokenizer(), text_encoder=t5(), vae=vae(), transformer=network, scheduler=plain_ddim())


def pixart_sigma() -> Any:
    return pixart(sigma=True)


def sd3_transformer() -> Any:
    from diffusers import SD3Transformer2DModel

    return seeded(
        SD3Transformer2DModel,
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    )


def stable_diffusion_3(kind: Any, scheduler: Any) -> Any:
    """A Stable Diffusion 3 pipeline of a class of diffusers without text encoders: it is given ``prompt_embeds``."""
    shifted = vae(scaling_factor=1.5, shift_factor=0.06)
    return quiet(kind(sd3_transformer(), scheduler, shifted, *[None] * 6))


def sd3(third: bool = True) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    return StableDiffusion3Pipeline(
        transformer=sd3_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip(projection=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projection=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(64) if third else None,
        tokenizer_3=t5_tokenizer() if third else None,
    )


def flux(guided: bool = True, scheduler: Any = None, encoders: bool = True) -> Any:
    """Without text encoders it is given ``prompt_embeds``."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    network = seeded(
        FluxTransformer2DModel,
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guided,
    )
    made = FluxPipeline(
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(scaling_factor=0.4, shift_factor=0.1),
        text_encoder=clip() if encoders else None,
        tokenizer=clip_tokenizer() if encoders else None,
        text_encoder_2=t5() if encoders else None,
        tokenizer_2=t5_tokenizer() if encoders else None,
        transformer=network,
    )
    return quiet(made)


def embeds(**sizes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Random features in place of prompts."""
    return {name: torch.randn(size, generator=torch.Generator().manual_seed(9)) for name, size in sizes.items()}


def quiet(pipeline: Any) -> Any:
    """The pipeline without its bars."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save(pipeline: Any, folder: Path) -> Path:
    """The directory of a pipeline, with what diffusers forgets of DiT's labels."""
    quiet(pipeline).save_pretrained(folder, safe_serialization=True)
    index = json.loads((folder / "model_index.json").read_text())
    if type(pipeline).__name__ == "DiTPipeline" and "id2label" not in index:
        index["id2label"] = {"0": "tench, Tinca tinca", "1": "goldfish"}
        (folder / "model_index.json").write_text(json.dumps(index))
    return folder
