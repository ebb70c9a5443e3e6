"""A text-to-image pipeline of diffusers, small enough to be trained from nothing in minutes, saved by diffusers itself.

    python benchmarks/small_pipeline.py runs/small-sd            # about half an hour on one core
    langevin sample runs/small-sd -n 8 --given caption="a large red letter B on white" --out drawn

A StableDiffusionPipeline of a CLIP text model, an autoencoder (3×16×16 to 4×8×8) and a UNet2DConditionModel of some
half a million weights, on captioned glyphs; ``captions.txt`` beside it has held-out captions. Nothing here is this
library's but the data: what diffusers' users do, so that what is loaded, fine-tuned and compared is a model as they
have them, trained.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import langevin
from langevin.nn.text import decode_text
from langevin.report import Bar

SIZE, LENGTH = 16, 24
"""Pixels a side, and tokens of a caption."""


@dataclass(frozen=True)
class Budget:
    """Steps of each part.

    Attributes:
        codec: of the autoencoder, 64 pictures each.
        unet: of the network and the text model, 64 codes each.
    """

    codec: int = 3000
    unet: int = 3000


def clip_tokenizer(words: Sequence[str], length: int) -> Any:
    """Whole words, letter by letter merged."""
    from transformers import CLIPTokenizer

    letters = sorted(set("".join(words)))
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            parts = ["".join(pair), *parts[2:]]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token="<|endoftext|>")


def parts(words: Sequence[str]) -> dict[str, Any]:
    """The modules, with fresh weights."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = clip_tokenizer(words, LENGTH)
    tokens = len(tokenizer)
    text = CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokens - 2,
        eos_token_id=tokens - 1,
        pad_token_id=tokens - 1,
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "vae": AutoencoderKL(
            block_out_channels=(16, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=8,
            layers_per_block=1,
            sample_size=SIZE,
        ),
        "unet": UNet2DConditionModel(
            sample_size=SIZE // 2,
            in_channels=4,
            out_channels=4,
            block_out_channels=(48, 96),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=64,
            attention_head_dim=4,
            norm_num_groups=8,
            layers_per_block=1,
        ),
        "scheduler": DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
    }


def learn_codec(vae: Any, x: Tensor, steps: int) -> float:
    """Reconstruction with a breath of KL; the scale of the codes is measured. Returns the RMS of what is lost."""
    optimiser = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    noise = torch.Generator().manual_seed(1)
    with Bar("autoencoder") as bar:
        for step in range(steps):
            batch = x[torch.randint(len(x), (64,), generator=noise)]
            law = vae.encode(batch).latent_dist
            found = vae.decode(law.sample(generator=noise)).sample
            loss = (found - batch).square().mean() + 0.1 * (found - batch).abs().mean() + 1e-5 * law.kl().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar(step + 1, steps)
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        law = vae.encode(x[:1024]).latent_dist
        vae.register_to_config(scaling_factor=1 / float(law.sample(generator=noise).std()))
        return float((vae.decode(law.mode()).sample - x[:1024]).square().mean().sqrt())


def learn_unet(made: dict[str, Any], x: Tensor, captions: Sequence[str], steps: int) -> float:
    """The usual squared error of ε on sampled codes, a caption in ten left out; the last 500 losses' mean."""
    vae, unet, text, scheduler = (made[name] for name in ("vae", "unet", "text_encoder", "scheduler"))
    with torch.no_grad():
        laws = [vae.encode(part).latent_dist for part in x.split(512)]
        mean, std = (torch.cat([getattr(law, name) for law in laws]) for name in ("mean", "std"))
    tokens = torch.as_tensor(made["tokenizer"](list(captions), padding="max_length", truncation=True).input_ids)
    empty = torch.as_tensor(made["tokenizer"]("", padding="max_length").input_ids)
    learned = [*unet.parameters(), *text.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.05)
    noise, losses = torch.Generator().manual_seed(2), []
    with Bar("network") as bar:
        for step in range(steps):
            rows = torch.randint(len(x), (64,), generator=noise)
            t = torch.randint(1000, (64,), generator=noise)
            eps, own = (torch.randn(mean[rows].shape, generator=noise) for _ in range(2))
            codes = (mean[rows] + std[rows] * own) * vae.config.scaling_factor
            told = torch.where(torch.rand(64, 1, generator=noise) < 0.1, empty, tokens[rows])
            noisy = scheduler.add_noise(codes, eps, t)
            loss = (unet(noisy, t, text(told).last_hidden_state).sample - eps).square().mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
            bar(step + 1, steps)
    return sum(losses[-500:]) / len(losses[-500:])


def train(out: Path, budget: Budget) -> dict[str, float]:
    """Train all parts on glyphs and save the pipeline; the figures of the two trainings."""
    from diffusers import StableDiffusionPipeline

    begun = time.perf_counter()
    data = langevin.data.load("glyphs", size=SIZE)
    learned = data.train.all()
    x, captions = learned["x"].float(), [decode_text(row) for row in learned["caption"]]
    made = parts(sorted({word for text in captions for word in re.findall(r"\w+|[^\w\s]", text.lower())}))
    lost = learn_codec(made["vae"], x, budget.codec)
    loss = learn_unet(made, x, captions, budget.unet)
    more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        StableDiffusionPipeline(**made, **more).save_pretrained(str(out))
    held = [decode_text(row) for row in data.test.batch(torch.arange(256))["caption"]]
    (out / "captions.txt").write_text("\n".join(held) + "\n", encoding="utf-8")
    return {"RMS that the codec loses": lost, "loss": loss, "minutes": (time.perf_counter() - begun) / 60}


def main() -> None:
    """Train and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--codec-steps", type=int, default=Budget.codec)
    parser.add_argument("--unet-steps", type=int, default=Budget.unet)
    options = parser.parse_args()
    for name, figure in train(options.out, Budget(options.codec_steps, options.unet_steps)).items():
        print(f"{name}: {figure:.3g}")
    print(f"pipeline: {options.out}")


if __name__ == "__main__":
    main()
