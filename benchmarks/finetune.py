"""A pretrained model learns a style from sixty pictures: what it draws before and after, and what it forgets.

    python benchmarks/finetune.py --folder runs/finetune --minutes 12 --record    # about half an hour on two cores

A small Stable Diffusion of ``glyphs`` at 16 pixels is trained first: an ``AutoencoderKL``, a ``CLIPTextModel`` and a
``UNet2DConditionModel``, saved by diffusers. Then sixty letters in neon, which it has never seen, are learned by
low-rank updates, with and without samples of the model itself learned along (``--prior``). A classifier that was
trained on other letters says which samples are in the style; the Fréchet distance of samples under plain captions to
held-out letters, before and after, says what was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.table import Table
from torch import Tensor

import langevin
from langevin import training
from langevin.data import Dataset
from langevin.report import Bar
from langevin.training import BudgetConfig, Config, OptimiserConfig, OutputConfig, StartConfig

try:
    from record import show
except ImportError:  # imported by a test as benchmarks.finetune
    from benchmarks.record import show

SIZE, WORD, PICTURES, SAMPLES = 16, "neon", 60, 256


@dataclass
class Options:
    """What is run."""

    folder: Path
    """Where the models go; what is there already is not trained again."""
    minutes: float = 12.0
    """Of the pretrained model's training."""
    steps: int = 600
    """Of learning the style."""
    rank: int = 8
    """Of the updates."""
    prior: int = 240
    """Samples of the pretrained model that are learned along."""
    record: bool = False
    """Keep the table for the docs."""


def tokenizer(words: Sequence[str], length: int) -> Any:
    """A CLIP tokenizer that knows some words whole, and all others by their letters."""
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges[(parts[0], parts[1])] = None
            parts = ["".join(parts[:2]), *parts[2:]]
    tokens = [*letters, *(f"{x}</w>" for x in letters), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=length, pad_token="<|endoftext|>")


def autoencoder(x: Tensor, steps: int = 600) -> Any:
    """An ``AutoencoderKL`` of pictures, from 16 × 16 to 8 × 8 codes of unit variance."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(16, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )
    adam = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    with Bar("autoencoder") as bar:
        for step in range(steps):
            batch = x[torch.randint(len(x), (64,))]
            law = vae.encode(batch).latent_dist
            loss = (vae.decode(law.sample()).sample - batch).abs().mean() + 1e-4 * law.kl().mean() / 256
            adam.zero_grad()
            loss.backward()
            adam.step()
            for group in adam.param_groups:
                group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
            bar(step + 1, steps)
    with torch.no_grad():
        std = float(vae.encode(x[:512]).latent_dist.mean.std())
    vae.register_to_config(scaling_factor=1 / std)
    return vae.eval()


def untrained(words: Sequence[str], vae: Any) -> Any:
    """A Stable Diffusion pipeline whose text encoder and U-Net are still random."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    found = tokenizer(words, 24)
    ends = {"bos_token_id": len(found) - 2, "eos_token_id": len(found) - 1, "pad_token_id": len(found) - 1}
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(found),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            **ends,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
        layers_per_block=1,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        steps_offset=1,
        rescale_betas_zero_snr=True,
    )
    return StableDiffusionPipeline(vae, encoder, found, unet, scheduler, None, None, requires_safety_checker=False)


def texts(split: Any, count: int) -> list[str]:
    """Captions of the first examples of a split."""
    return [langevin.nn.decode_text(row) for row in split.conditions["caption"][:count].long()]


def pretrained(data: Dataset, folder: Path, minutes: float) -> Path:
    """The directory of the pretrained pipeline, trained if it is not there."""
    out = folder / "pretrained"
    if (out / "model_index.json").exists():
        return out
    words = sorted({word for text in texts(data.train, len(data.train)) for word in text.split() if len(word) > 1})
    if not (folder / "untrained" / "model_index.json").exists():
        vae = autoencoder(data.train.batch(torch.arange(4096))["x"])
        untrained(words, vae).save_pretrained(folder / "untrained", safe_serialization=True)
    config = Config(
        batch=32,
        start=StartConfig(model=str(folder / "untrained"), train_text_encoder=True),
        optimiser=OptimiserConfig(lr=2e-3, warmup=100),
        budget=BudgetConfig(minutes=minutes),
    )
    training.train(config, data, out, base=langevin.load(folder / "untrained"), resume=out.exists())
    return out


def neon(x: Tensor) -> Tensor:
    """Pictures ``(N, 3, H, W)`` in a style of their own: bright edges in the colours of what they bound, on black."""
    pad = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = pad[..., 1:-1, 2:] - pad[..., 1:-1, :-2], pad[..., 2:, 1:-1] - pad[..., :-2, 1:-1]
    edge = (across.square() + down.square()).sqrt()
    return (2.2 * edge - 1).clamp(-1, 1)


def styled(data: Dataset, count: int) -> Dataset:
    """Letters in the style, whose captions say so."""
    from langevin.data import Split

    def part(split: Any, count: int) -> Split:
        rows = torch.arange(count)
        names = [f"{text}, {WORD}" for text in texts(split, count)]
        return Split(neon(split.batch(rows)["x"]), {"caption": langevin.nn.encode_texts(names, 96)})

    train, test = part(data.train, count), part(data.test, PICTURES)
    x = train.batch(torch.arange(count))["x"].flatten(1).double()
    info = langevin.data.DataInfo(
        WORD, (3, SIZE, SIZE), -1.0, 1.0, levels=256, conditions={"caption": (96,)}, source={"source": WORD}
    )
    assert len(x) == count
    return Dataset(info, train, test)


def classifier(data: Dataset) -> Any:
    """Tells pictures in the style from others: logistic regression on the colours and edges of other letters."""
    from sklearn.linear_model import LogisticRegression

    rows = torch.arange(2000, 3000)
    plain = data.train.batch(rows)["x"]
    x = torch.cat([plain, neon(plain)])
    return LogisticRegression(max_iter=2000).fit(judged(x), np.repeat([0, 1], len(rows)))


def judged(x: Tensor) -> np.ndarray:
    """What the classifier sees: sorted brightness, which says how much of a picture is dark and how much glows."""
    return x.mean(1).flatten(1).sort(1).values.numpy()


def drawn(model: Any, captions: Sequence[str], seed: int) -> Tensor:
    """One sample a caption, with guidance 2."""
    told = model.given(caption=list(captions))
    guided = langevin.guidance.classifier_free(told, guidance_scale=2.0)
    with Bar("sampling") as bar:
        return langevin.sample(guided, n=len(captions), steps=15, seed=seed, batch=64, progress=bar)


def main(options: Options) -> None:
    """Train, learn the style, and show the table."""
    data = langevin.data.load("glyphs", size=SIZE)
    options.folder.mkdir(parents=True, exist_ok=True)
    base = pretrained(data, options.folder, options.minutes)
    style, judge = styled(data, PICTURES), classifier(data)
    held = [data.test.batch(torch.arange(SAMPLES, 2 * SAMPLES))["x"], texts(data.test, 3 * SAMPLES)]
    plain = held[1][2 * SAMPLES :]
    asked = [f"{text}, {WORD}" for text in held[1][:SAMPLES]]
    space = langevin.metrics.feature_space("pca:32", data)
    lines = options.folder / "captions.txt"
    lines.write_text("\n".join(texts(data.train, 5 * options.prior)[4 * options.prior :]))
    shown = Table(
        "model", "in the style, asked for", "in the style, not asked for", "Fréchet, plain captions", box=None
    )
    models: dict[str, Any] = {"before": langevin.load(base)}
    for name, prior in (("after, with prior", options.prior), ("after, without", 0)):
        out = options.folder / name.replace(", ", "-").replace(" ", "-")
        if not (out / "config.json").exists():
            told = {"prior": prior, "prior_captions": str(lines)} if prior else {}
            config = Config(
                batch=32,
                start=StartConfig(model=str(base.resolve()), lora=options.rank, layers=("all",), **told),
                budget=BudgetConfig(steps=options.steps),
                output=OutputConfig(validate_every=200, sample_every=200),
            )
            with Bar("prior") as bar:
                training.train(config, style, out, base=langevin.load(base), resume=out.exists(), progress=bar)
        models[name] = langevin.load(out)
    for name, model in models.items():
        wanted = judge.predict(judged(drawn(model, asked, 1))).mean()
        x = drawn(model, plain, 2)
        distance = langevin.metrics.frechet_distance(space(x), space(held[0]))
        shown.add_row(name, f"{wanted:.1%}", f"{judge.predict(judged(x)).mean():.1%}", f"{distance:.3f}")
    truth = langevin.metrics.frechet_distance(
        space(data.test.batch(torch.arange(2 * SAMPLES, 3 * SAMPLES))["x"]), space(held[0])
    )
    shown.add_row("held-out pictures", "", "", f"{truth:.3f}")
    show("finetune", shown)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
