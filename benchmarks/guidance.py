"""What guidance costs beside the network calls that it makes.

    OMP_NUM_THREADS=1 python benchmarks/guidance.py
    OMP_NUM_THREADS=1 python benchmarks/guidance.py --batch 8 --rounds 10

Ten DDIM steps of the library's U-Net at 32×32 under every guidance, beside its own network calls alone, with their
inputs made beforehand: one call of twice the batch for classifier-free guidance and what is built on it, one of three
times for two conditions, two calls for two networks, a forward and a backward pass for energy guidance, a call of the
U-Net and a forward and a backward pass of the classifier for classifier guidance. Both run in turns in one process; the
ratio is the median over rounds, of CPU seconds. The control is plain sampling beside its own calls.

    OMP_NUM_THREADS=1 python benchmarks/guidance.py --composition

Sliced W2 to the product of two laws of three modes each, of which one is shared, by scores added at each noise level
with and without a Langevin corrector (arXiv:2302.11552), and by the belief of the product.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.table import Table
from torch import Tensor, nn

import langevin
from langevin import Noise, guidance, processes, samplers, worlds
from langevin.denoisers import AffineParameterization, Denoiser, NetworkDenoiser
from record import show

SHAPE, CLASSES, STEPS = (3, 32, 32), 10, 10

Calls = Callable[[], object]
"""The network calls of one step."""


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


def cases(batch: int) -> dict[str, tuple[Denoiser, Calls]]:
    """Each guidance, with its network calls."""
    torch.manual_seed(0)
    free, weak, classify = model(), model(), Classifier().eval()
    x = Noise(0, batch).normal(SHAPE).float()
    labels = torch.arange(batch) % CLASSES
    times = torch.ones(batch)

    def call(network: nn.Module, copies: int) -> Calls:
        many, told = x.repeat(copies, 1, 1, 1), times.repeat(copies)
        label = {"label": torch.cat([labels - 0] * copies)}
        return lambda: network(many, told, label)

    def both_passes() -> object:
        with torch.enable_grad():
            at = x.clone().requires_grad_()
            return torch.autograd.grad(free.network(at, times, None).sum(), at)

    def with_classifier() -> object:
        free.network(x, times, None)
        with torch.enable_grad():
            at = x.clone().requires_grad_()
            return torch.autograd.grad(torch.log_softmax(classify(at), -1)[:, 3].sum(), at)

    def two_networks() -> None:
        free.network(x, times, {"label": labels})
        weak.network(x, times, {"label": labels})

    given, grid = free.given(label=labels), samplers.default_grid(free.process, STEPS)
    told: dict[str, object] = {"label": labels}
    once, twice, thrice = (call(free.network, copies) for copies in (1, 2, 3))
    scaled = guidance.classifier_free(free, told, guidance_scale=3.0)
    return {
        "none (control)": (given, once),
        "classifier-free": (scaled, twice),
        "the same, rescaled": (guidance.classifier_free(free, told, guidance_scale=3.0, rescale=0.7), twice),
        "the same, in an interval": (
            guidance.classifier_free(free, told, guidance_scale=3.0, interval=(0.0, 1e9)),
            twice,
        ),
        "APG": (guidance.apg(free, told, guidance_scale=3.0, norm_threshold=10.0), twice),
        "CFG++": (guidance.cfg_plus_plus(free, told, scale=0.6, grid=grid), twice),
        "CFG-Zero*": (guidance.cfg_zero_star(free, told, guidance_scale=3.0), twice),
        "dynamic threshold of it": (guidance.threshold(scaled), twice),
        "conjunction of two": (guidance.conjunction(free, [told, {"label": 3}]), thrice),
        "autoguidance": (guidance.autoguidance(given, weak.given(label=labels), 2.0), two_networks),
        "classifier": (guidance.classifier(free, classify, label=3, scale=2.0), with_classifier),
        "energy": (guidance.energy(free, lambda x0: x0.square().mean((1, 2, 3))), both_passes),
    }


def timed(run: Callable[[], object]) -> float:
    """CPU seconds of a run: one thread computes, and what else the machine does is no part of it."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


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
    start = Noise(1, options.batch).normal(SHAPE).float()
    table = Table("guidance", "ms a step", "of it calls", "× its calls", "min", "max")
    with torch.no_grad():
        for name, (denoiser, calls) in cases(options.batch).items():
            grid = samplers.default_grid(denoiser.process, STEPS)
            sampler = samplers.DDIM()

            def steps(denoiser: Denoiser = denoiser, sampler: samplers.Sampler = sampler, grid: Tensor = grid) -> None:
                for _ in langevin.trajectory(denoiser, sampler, grid=grid, start=start):
                    pass

            def bare(calls: Calls = calls) -> None:
                for _ in range(STEPS):
                    calls()

            steps(), bare()
            pairs = []
            for number in range(options.rounds):  # who goes first changes, since the second finds a warm cache
                first, second = (steps, bare) if number % 2 else (bare, steps)
                seconds = {first: timed(first), second: timed(second)}
                pairs.append((seconds[steps], seconds[bare]))
            ratios = [own / calls for own, calls in pairs]
            own, other = (1e3 / STEPS * statistics.median(side) for side in zip(*pairs))
            figures = (statistics.median(ratios), min(ratios), max(ratios))
            table.add_row(name, f"{own:.1f}", f"{other:.1f}", *(f"{value:.3f}" for value in figures))
    show("guidance-overhead", table)


if __name__ == "__main__":
    main()
