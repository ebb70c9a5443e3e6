"""Images a second of one optimiser step with a moving average, beside diffusers' U-Net of the same size.

    python benchmarks/training.py [--rounds 7] [--batch 64] [--threads 0]

Every contender takes its steps in the same process on the same threads, one after the other in each round; the figure
is the median over rounds. A step draws times and noise, adds them, runs the network forwards and backwards, clips,
takes a step of AdamW and updates the moving average. Ours is the trainer's own step on its default network for
32x32x3; the peer is diffusers' UNet2DModel of that many parameters (of several such, the one with the fewest
operations), DDPMScheduler's noise, AdamW and EMAModel, eager and in float32. The second table gives the share of a
step that times and noise take.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from rich.table import Table
from torch import Tensor

import record
from langevin import data, training
from langevin.data import DataInfo
from langevin.distributions import Noise
from langevin.objectives import DenoisingLoss
from langevin.training import Config, Learner

Step = Callable[[int], object]


def photos() -> DataInfo:
    """What a set of 32x32 photographs looks like to the trainer."""
    moments = {"mean": torch.zeros(3072, dtype=torch.float64), "cov": torch.full((3072,), 0.25, dtype=torch.float64)}
    return DataInfo(name="photos", shape=(3, 32, 32), **moments)


def ours(info: DataInfo, batch: int, precision: str) -> tuple[Learner, Step]:
    """The trainer's step on its default network for the data."""
    config = training.resolve_config(Config(batch=batch), info)
    torch.manual_seed(0)
    denoiser, objective = training.build(config, info)
    learner = Learner(denoiser, objective, optimiser=config.optimiser, ema=config.ema, batch=batch, precision=precision)
    x0 = torch.rand(batch, *info.shape) * 2 - 1
    rows = {"x": x0, **({"label": torch.arange(batch) % len(info.classes)} if info.classes else {})}
    hidden = config.objective.dropout
    return learner, lambda n: learner.step(rows, Noise(0, batch, draw=n), number=n, rate=1e-4, dropout=hidden)


def peer(batch: int) -> tuple[int, Step]:
    """diffusers in eager float32."""
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=32,
        layers_per_block=1,
        block_out_channels=(32, 64, 96, 96),
        down_block_types=("DownBlock2D",) * 3 + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * 3,
        norm_num_groups=8,
        attention_head_dim=32,
    )
    scheduler = DDPMScheduler()
    adam = torch.optim.AdamW(network.parameters(), lr=1e-4)
    ema = EMAModel(network.parameters(), decay=0.999)
    x0 = torch.rand(batch, 3, 32, 32) * 2 - 1

    def step(number: int) -> None:
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (batch,))
        loss = torch.nn.functional.mse_loss(network(scheduler.add_noise(x0, noise, t), t).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        ema.step(network.parameters())

    return sum(p.numel() for p in network.parameters()), step


def draws(learner: Learner, batch: int) -> Step:
    """Only what a step draws: times, and noise of the shape of the data."""
    objective, process = learner.objective, learner.denoiser.process
    assert isinstance(objective, DenoisingLoss)
    x0 = torch.zeros(batch, *learner.denoiser.shape)

    def step(number: int) -> Tensor:
        noise = Noise(0, batch, draw=number)
        t = objective.times.quantile(process, objective.times.uniform(noise))
        return process.marginal(x0, t).sample(noise)

    return step


def interleaved(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of one step of each, by round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(1, rounds + 2):
        for name, step in steps.items():
            begun = time.perf_counter()
            step(number)
            seconds[name].append(time.perf_counter() - begun)
    return {name: values[1:] for name, values in seconds.items()}  # the first round is for warming up


@dataclass
class Settings:
    """What to measure."""

    rounds: int = 7
    """Steps of each contender, at least 5."""
    batch: int = 64
    """Images a step."""
    threads: int = 0
    """CPU threads, 0 for all."""
    record: bool = False
    """Keep the first table for the documentation."""


def main(settings: Settings) -> None:
    """Print both tables."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    batch, rounds = settings.batch, max(5, settings.rounds)
    size, theirs = peer(batch)
    name = f"diffusers UNet2DModel {size / 1e6:.2f} M, float32"
    contenders: dict[str, Step] = {name: theirs}
    learner, contenders["float32"] = ours(photos(), batch, "float32")
    _, contenders["bfloat16"] = ours(photos(), batch, "bfloat16")
    mine = sum(p.numel() for p in learner.network.parameters())
    seconds = interleaved(contenders, rounds)
    base = statistics.median(seconds[name])

    print(f"one optimiser step with EMA, batch {batch}, 32x32x3, {torch.get_num_threads()} threads, {rounds} rounds")
    table = Table("", "images/s", "range", "ratio")
    for key, values in seconds.items():
        title = key if key == name else f"langevin {mine / 1e6:.2f} M, {key}"
        rates = [batch / v for v in values]
        median = statistics.median(values)
        table.add_row(title, f"{batch / median:.1f}", f"{min(rates):.0f}–{max(rates):.0f}", f"{base / median:.2f}")
    record.show("training", table)

    print("\nshare of a step that times and noise take")
    small, small_step = ours(data.load("digits").info, 128, "float32")
    for title, of, step, count in (
        (f"32x32x3, batch {batch}, float32", learner, contenders["float32"], batch),
        (f"32x32x3, batch {batch}, bfloat16", learner, contenders["bfloat16"], batch),
        ("digits, batch 128, float32", small, small_step, 128),
    ):
        both = interleaved({"draws": draws(of, count), "step": step}, rounds)
        part, whole = (statistics.median(both[key]) for key in ("draws", "step"))
        print(f"{title:45} {1e3 * part:6.2f} ms of {1e3 * whole:7.1f} ms = {part / whole:6.2%}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
