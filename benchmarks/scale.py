"""From one machine's measured rate to a run of another size: memory, throughput, network. It prints an ESTIMATE.

    python benchmarks/scale.py [--devices 64] [--flops 400e12] [--utilisation 0.35] [--bandwidth 50e9] ...

Measured here: images a second of the trainer's step and of a step of sampling, on the default network for 32x32x3.
Counted, without memory for it (PyTorch's meta device): the parameters P of a network for the run, its operations F for
one image forwards, and the bytes S it keeps of an image for the way back. The rest is arithmetic:

    operations of a training step on a batch B     3 F B                    (backwards is twice forwards)
    seconds of them on K devices of C a second     3 F B / (K C u)          (u: the share of C that is reached)
    bytes of a device                              24 P + S B / K           (float32: weights, gradients and the buckets
                                                                             they are sent in, two moments of Adam, a
                                                                             moving average; 20 P on one device)
    bytes a device sends a step (ring all-reduce)  2 (K - 1) / K * 4 P
    seconds of them                                that / bandwidth         (less what hides behind the backward pass)
    seconds to sample N images                     N * steps * F / (K C u)  (twice that with guidance)

K, C, u, the bandwidth and B are of your machines and your run: put in your own. With --here C of the machine that this
runs on, the u that it reached is printed too.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import langevin
import training as bench
from langevin.nn import create_network


@dataclass(frozen=True)
class Counted:
    """A network, for one image.

    Args:
        parameters: P.
        flops: F, of one image forwards; a multiplication and an addition are two.
        saved: S, bytes kept for the way back, in float32.
    """

    parameters: int
    flops: int
    saved: int


def counted(network: nn.Module, shape: tuple[int, ...], batch: int = 4, device: str = "meta") -> Counted:
    """Run it once, by default on the meta device: shapes without numbers."""
    network = network.to(device)
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    x, t = torch.empty(batch, *shape, device=device), torch.empty(batch, device=device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    condition = {"label": label} if network.config.get("conditions") else None
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return value

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
        network(x, t, condition)
    saved = sum(storage.nbytes() for storage in kept.values())
    return Counted(sum(p.numel() for p in network.parameters()), counter.get_total_flops() // batch, saved // batch)


@dataclass
class Settings:
    """The run, and the machines it is to have."""

    devices: int = 64
    """K."""
    flops: float = 400e12
    """C: operations a second that a device is sold for, in the precision of the run."""
    utilisation: float = 0.35
    """u, in (0, 1]."""
    bandwidth: float = 50e9
    """Bytes a second that a device sends in an all-reduce across machines."""
    batch: int = 2048
    """B, over all devices."""
    images: float = 1.28e9
    """Images trained on; ImageNet has 1.28 million."""
    samples: int = 50_000
    """N."""
    steps: int = 20
    """Evaluations of a sample."""
    width: int = 192
    """Of a U-Net for 64x64x3 and 1,000 classes: multipliers 1, 2, 3, 4, three blocks a level, attention at 16 and 8."""
    here: float = 0.0
    """C of the machine this runs on, to print its u; 0 to leave that out."""
    threads: int = 0
    """CPU threads to measure with, 0 for all."""
    rounds: int = 5
    """Steps that are timed."""


def measured(rounds: int, batch: int = 16) -> tuple[float, float, Counted]:
    """Images a second of a training step and of a sampling step on the default network for 32x32x3, and its counts."""
    learner, step = bench.ours(bench.photos(), batch, "float32")
    denoiser = learner.denoiser

    def draw(number: int) -> None:
        langevin.sample(denoiser, "ddim", n=batch, steps=4, seed=number, batch=batch)

    train, sample = (median(work, rounds) for work in (step, draw))
    return batch / train, 4 * batch / sample, counted(learner.network, (3, 32, 32))


def median(work: Callable[[int], object], rounds: int) -> float:
    """Seconds, after one round of warming up."""
    seconds = []
    for number in range(1, rounds + 2):
        begun = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def for_run(width: int) -> nn.Module:
    """The network of the run, without memory."""
    options = {
        "size": [64, 64],
        "multipliers": [1, 2, 3, 4],
        "blocks": 3,
        "attention": [16, 8],
        "conditions": {"label": 1000},
    }
    with torch.device("meta"):
        network: nn.Module = create_network({"name": "unet", "channels": 3, "width": width, **options})
    return network


def estimate(net: Counted, s: Settings) -> dict[str, float]:
    """The arithmetic of this file's head, in operations, bytes and seconds."""
    rate = s.devices * s.flops * s.utilisation
    step = 3 * net.flops * s.batch / rate
    sent = 2 * (s.devices - 1) / s.devices * 4 * net.parameters
    return {
        "state": (24 if s.devices > 1 else 20) * net.parameters,
        "activations": net.saved * s.batch / s.devices,
        "step": step,
        "sent": sent,
        "network": sent / s.bandwidth,
        "hidden": s.images / s.batch * step,
        "exposed": s.images / s.batch * (step + sent / s.bandwidth),
        "sampling": s.samples * s.steps * net.flops / rate,
    }


def main(settings: Settings) -> None:
    """Print both parts."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    train, sample, small = measured(settings.rounds)
    print(f"MEASURED on this machine, {torch.get_num_threads()} threads, float32, 32x32x3, batch 16")
    print(
        f"  U-Net of {small.parameters / 1e6:.2f} M parameters, {small.flops / 1e9:.3f} G operations an image forwards"
    )
    for title, images, factor in (("training step", train, 3), ("step of sampling", sample, 1)):
        reached = images * factor * small.flops
        share = f", u = {reached / settings.here:.2f}" if settings.here else ""
        print(f"  {title:17} {images:8.1f} images/s = {reached / 1e9:7.1f} G operations/s{share}")

    options = {
        "size": [64, 64],
        "width": settings.width,
        "multipliers": [1, 2, 3, 4],
        "blocks": 3,
        "attention": [16, 8],
    }
    with torch.device("meta"):
        network = create_network({"name": "unet", "channels": 3, "conditions": {"label": 1000}, **options})
    net, s = counted(network, (3, 64, 64)), settings
    found = estimate(net, s)
    alone = s.images * 3 * net.flops / (train * 3 * small.flops)
    gib = 2**30
    print(f"\nESTIMATE for 64x64x3, {s.devices} devices of {s.flops / 1e12:.0f} T operations/s at u = {s.utilisation}")
    print(f"  counted: {net.parameters / 1e6:.0f} M parameters, {net.flops / 1e9:.0f} G operations an image forwards")
    print(f"  memory of a device: {found['state'] / gib:.1f} GiB of weights, gradients, Adam, average")
    print(f"    and {found['activations'] / gib:.1f} GiB of activations in float32 ({s.batch / s.devices:g} images)")
    print(f"  a step of {s.batch}: {found['step']:.3f} s = {s.batch / found['step']:.0f} images/s")
    print(f"  network: a device sends {found['sent'] / gib:.2f} GiB a step, {found['network']:.3f} s unless hidden")
    print(f"  {s.images:.3g} images: {found['hidden'] / 3600:.1f} to {found['exposed'] / 3600:.1f} hours")
    seconds = found["sampling"]
    print(f"  {s.samples} samples of {s.steps} evaluations: {seconds:.0f} s, {2 * seconds:.0f} s guided")
    print(f"  the same training at this machine's measured rate: {alone / 86400 / 365:.0f} years")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
