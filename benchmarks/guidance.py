"""What guidance costs beside the network calls that it makes.

    OMP_NUM_THREADS=1 python benchmarks/guidance.py
    OMP_NUM_THREADS=1 python benchmarks/guidance.py --batch 8 --rounds 10

Ten DDIM steps of the library's U-Net at 32×32 under every guidance. Every call of a network and every backward pass is
timed inside the step, in CPU seconds of the one process; the ratio is that of the whole loop to these, the median over
rounds. A machine that is busy otherwise slows both sides of it alike.

    OMP_NUM_THREADS=1 python benchmarks/guidance.py --composition

Sliced W2 to the product of two laws of three modes each, of which one is shared, by scores added at each noise level
with and without a Langevin corrector (arXiv:2302.11552), and by the belief of the product.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

import langevin
from langevin import Noise, guidance, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, Denoiser, NetworkDenoiser
from record import show

SHAPE, CLASSES, STEPS = (3, 32, 32), 10, 10


class Classifier(nn.Module):
    """A convolutional classifier of the size that guidance is done with: a quarter of the U-Net's cost."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1), nn.SiLU(), nn.Conv2d(64, 128, 3, 2, 1), nn.SiLU(), nn.Conv2d(128, 128, 3, 1, 1)
        )
        self.head = nn.Linear(128, CLASSES)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


def model() -> NetworkDenoiser:
    """The default network for such data, read as ε."""
    network = langevin.nn.create_network(langevin.nn.default(SHAPE, {"label": CLASSES})).eval()
    return NetworkDenoiser(network, processes.VP(), AffineParameterization("eps"), SHAPE)


class Watch:
    """CPU seconds and calls of the networks that are watched, and of backward passes."""

    def __init__(self) -> None:
        self.seconds, self.forwards, self.backwards = 0.0, 0, 0
        self._grad = torch.autograd.grad
        torch.autograd.grad = self._timed(torch.autograd.grad, "backwards")

    def _timed(self, run: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            begun = time.process_time()
            out = run(*args, **named)
            self.seconds += time.process_time() - begun
            setattr(self, kind, getattr(self, kind) + 1)
            return out

        return timed

    def network(self, network: nn.Module) -> nn.Module:
        """The network, watched from now on."""
        network.forward = self._timed(network.forward, "forwards")  # type: ignore[method-assign]
        return network

    def reset(self) -> None:
        """Nothing was seen."""
        self.seconds, self.forwards, self.backwards = 0.0, 0, 0


def cases(batch: int, watch: Watch) -> dict[str, Denoiser]:
    """Each guidance, of networks that are watched."""
    torch.manual_seed(0)
    free, weak, classify = model(), model(), Classifier().eval()
    for network in (free.network, weak.network, classify):
        watch.network(network)
    labels = torch.arange(batch) % CLASSES
    given, grid = free.given(label=labels), samplers.default_grid(free.process, STEPS)
    told: dict[str, object] = {"label": labels}
    scaled = guidance.classifier_free(free, told, guidance_scale=3.0)
    return {
        "none": given,
        "classifier-free": scaled,
        "the same, rescaled": guidance.classifier_free(free, told, guidance_scale=3.0, rescale=0.7),
        "the same, in an interval": guidance.classifier_free(free, told, guidance_scale=3.0, interval=(0.0, 1e9)),
        "APG": guidance.apg(free, told, guidance_scale=3.0, norm_threshold=10.0),
        "CFG++": guidance.cfg_plus_plus(free, told, scale=0.6, grid=grid),
        "CFG-Zero*": guidance.cfg_zero_star(free, told, guidance_scale=3.0),
        "dynamic threshold of classifier-free": guidance.threshold(scaled),
        "conjunction of two": guidance.conjunction(free, [told, {"label": 3}]),
        "autoguidance": guidance.autoguidance(given, weak.given(label=labels), 2.0),
        "classifier": guidance.classifier(free, classify, label=3, scale=2.0),
        "energy": guidance.energy(free, lambda x0: x0.square().mean((1, 2, 3))),
    }


def cross(axis: int) -> worlds.GaussianMixture:
    """Three narrow modes on an axis, the middle one, with a tenth of the mass, at the origin."""
    means = torch.zeros(3, 2, dtype=torch.float64)
    means[0, axis], means[2, axis] = -1.0, 1.0
    return worlds.GaussianMixture(torch.tensor([0.45, 0.1, 0.45]), means, torch.full((3,), 0.02))


def sliced_w2(x: Tensor, y: Tensor) -> float:
    """Sliced 2-Wasserstein distance of two sets of equal size in the plane, over 64 directions."""
    angles = torch.linspace(0, torch.pi, 65, dtype=x.dtype)[:-1]
    directions = torch.stack((torch.cos(angles), torch.sin(angles)))
    return float(((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean().sqrt())


def composition(n: int = 1000) -> Table:
    """How far samples are from p_a p_b / p, which one ancestral step from t = 1 draws exactly with its belief."""
    process = processes.VP()
    normal = worlds.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.6))
    members = [world.denoiser(process) for world in (cross(0), cross(1), normal)]
    scores, product = guidance.linear(members, [1.0, 1.0, -1.0]), guidance.product(members, [1, 1, -1])

    def draw(denoiser: Denoiser, sampler: samplers.Sampler, steps: int, seed: int = 3) -> Tensor:
        return langevin.sample(denoiser, sampler, n=n, steps=steps, seed=seed, batch=n)

    truth = [draw(product, samplers.Ancestral(), 1, seed) for seed in range(10, 20)]
    floor = [sliced_w2(x, y) for x, y in zip(truth[::2], truth[1::2])]
    table = Table("belief", "sampler", "evaluations", "sliced W2")
    table.add_row("two sets of the truth", "", "", f"{statistics.mean(floor):.4f}")
    rows = [("DDIM", samplers.DDIM(), 60, 60), ("DDPM", samplers.DDPM(), 60, 60)]
    for chain in (3, 10):
        sampler = samplers.DDPM().then(samplers.Langevin(chain, 0.4))
        rows.append((f"DDPM, each step with {chain} of Langevin, ε = 0.4", sampler, 100, 100 + 99 * chain))
    for name, sampler, steps, asked in rows:
        distance = sliced_w2(draw(scores, sampler, steps), truth[0])
        table.add_row("scores added", name, str(asked), f"{distance:.4f}")
    distance = sliced_w2(draw(product, samplers.Ancestral(), 10), truth[0])
    table.add_row("product", "ancestral", "10", f"{distance:.4f}")
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--composition", action="store_true")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if options.composition:
        return show("guidance-composition", composition())
    start, watch = Noise(1, options.batch).normal(SHAPE).float(), Watch()
    table = Table("guidance", "forward", "backward", "ms a step", "of it networks", "ratio", "min", "max")
    with torch.no_grad():
        for name, denoiser in cases(options.batch, watch).items():
            grid, pairs = samplers.default_grid(denoiser.process, STEPS), []
            for _ in range(options.rounds + 1):  # the first warms up
                watch.reset()
                begun = time.process_time()
                for _ in langevin.trajectory(denoiser, samplers.DDIM(), grid=grid, start=start):
                    pass
                pairs.append((time.process_time() - begun, watch.seconds))
            ratios = [own / calls for own, calls in pairs[1:]]
            own, calls = (1e3 / STEPS * statistics.median(side) for side in zip(*pairs[1:]))
            counts = (f"{watch.forwards / STEPS:g}", f"{watch.backwards / STEPS:g}")
            figures = (statistics.median(ratios), min(ratios), max(ratios))
            table.add_row(name, *counts, f"{own:.1f}", f"{calls:.1f}", *(f"{value:.3f}" for value in figures))
    show("guidance-overhead", table)


if __name__ == "__main__":
    main()
