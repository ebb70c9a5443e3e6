"""Guidance by a network made for another task: digits with holes at given places, and of a given slant.

    langevin train digits --out runs/digits --minutes 8
    python benchmarks/task_guidance.py runs/digits        # minutes on a core

Two small networks are trained on clean training pictures: a segmenter of the holes of a digit, and a regressor of its
slant. ``guidance.energy`` leads samples of the model, which was told of neither, to the holes and slants of held-out
digits. The loss is −log p(wanted | x_0) of the network, so that scale 1 is Bayes' rule but for what guidance by the
predicted mean leaves out. Who judges: a network of the same kind from another seed, and the definition, which is
computed from the picture. ``translated`` starts from the latent of another held-out digit (arXiv:2204.02641).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.table import Table
from scipy import ndimage
from torch import Tensor, nn

import langevin
from langevin import guidance, metrics, samplers
from record import show

TOLERANCE = 0.1
"""Standard deviation of what is wanted of a slant, in pixels a row."""


def holes(x: Tensor) -> Tensor:
    """Paper that ink encloses, 1 or 0 ``(B, 1, 8, 8)``: no path of light pixels, side by side, leads out of it."""
    ink = (x[:, 0] > -0.25).numpy()
    filled = [ndimage.binary_fill_holes(picture) & ~picture for picture in ink]
    return torch.stack([torch.from_numpy(found) for found in filled])[:, None].float()


def slant(x: Tensor) -> Tensor:
    """How far ink moves to the right with every row upwards, in pixels, ``(B,)``: the regression of columns on rows."""
    ink = ((x[:, 0] + 1) / 2).clamp(0, 1)
    total = ink.sum((1, 2)).clamp_min(1e-6)
    row, column = -torch.arange(x.shape[-2]).float()[:, None], torch.arange(x.shape[-1]).float()
    mean = lambda value: (ink * value).sum((1, 2)) / total
    covariance = mean(row * column) - mean(row) * mean(column)
    return covariance / (mean(row**2) - mean(row) ** 2).clamp_min(1e-6)


@dataclass(frozen=True)
class Task:
    """What a network is trained to say of a picture.

    Args:
        name: of the table.
        truth: by definition, of pictures.
        dense: whether the network says a number a pixel, or one of the whole picture.
        loss: of what the network says and what is wanted, ``(B,)``: −log p(wanted), but for a constant.
        judged: a figure of what the network says and what is wanted.
        error: the same by definition, of what is true of the picture and what is wanted.
    """

    name: str
    truth: Callable[[Tensor], Tensor]
    dense: bool
    loss: Callable[[Tensor, Tensor], Tensor]
    judged: Callable[[Tensor, Tensor], str]
    error: Callable[[Tensor, Tensor], str]


def entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of a mask, in nats a picture."""
    found = nn.functional.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="none")
    return found.flatten(1).sum(1)


def normal(said: Tensor, wanted: Tensor) -> Tensor:
    """Squares in units of the tolerance, halved."""
    return (said - wanted).square() / (2 * TOLERANCE**2)


def rms(said: Tensor, wanted: Tensor) -> str:
    """As a cell."""
    return f"{float((said - wanted).square().mean().sqrt()):.3f}"


TASKS = (
    Task(
        "holes",
        holes,
        True,
        entropy,
        lambda said, wanted: f"{float(entropy(said, wanted).mean()):.2f} nats",
        lambda found, wanted: f"{float((found - wanted).abs().sum((1, 2, 3)).mean()):.2f} pixels",
    ),
    Task("slant", slant, False, normal, rms, rms),
)


class Network(nn.Module):
    """Four convolutions and a head: a number a pixel, or one."""

    def __init__(self, dense: bool, width: int = 24) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Conv2d(width if i else 1, width, 3, padding=1), nn.SiLU()]
        head = [nn.Conv2d(width, 1, 1)] if dense else [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(width * 16, 1)]
        self.dense, self.layers = dense, nn.Sequential(*layers, *head)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.float())
        return out if self.dense else out[:, 0]


def trained(task: Task, x: Tensor, seed: int, steps: int) -> Network:
    """A network of the task, trained on clean pictures."""
    torch.manual_seed(seed)
    network, wanted = Network(task.dense), task.truth(x)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        loss = task.loss(network(x[rows]), wanted[rows]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def far_from(task: Task, network: Network, wanted: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss that leads: of the predicted clean pictures."""
    return lambda x0: task.loss(network(x0), wanted)


class Page:
    """The rows of a task."""

    def __init__(self, table: Table, task: Task, judge: Network, wanted: Tensor, distance: Callable[[Tensor], float]):
        self.table, self.task, self.judge, self.wanted, self.distance = table, task, judge, wanted, distance

    def add(self, title: str, x: Tensor, scale: str = "", change: str = "") -> None:
        """What is true of pictures, beside what was wanted."""
        x, first = x.clamp(-1, 1).float(), title.startswith("held-out")
        figures = (self.task.judged(self.judge(x), self.wanted), self.task.error(self.task.truth(x), self.wanted))
        cells = (self.task.name if first else "", title, scale, *figures, f"{self.distance(x):.2f}", change)
        self.table.add_row(*cells)
        print(self.task.name, *cells[1:], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a diffusion model of digits")
    parser.add_argument("-n", type=int, default=100, help="samples")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--training", type=int, default=500, help="steps of the networks of the tasks")
    parser.add_argument("--features", default="pca:8", help="of the Fréchet distance to held-out digits")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    model, data = langevin.load(options.model), langevin.data.load("digits")
    model.network.requires_grad_(False)
    train, held = data.train.all()["x"], data.test.all()["x"]
    space, steps = metrics.feature_space(options.features, data), options.steps
    distance = lambda x: metrics.frechet_distance(space(x), space(held))
    aims = held[: options.n]
    others = aims.roll(1, 0)
    draw = {"sampler": samplers.DDIM(), "n": options.n, "steps": steps, "batch": options.n}
    plain = langevin.sample(model, **draw)
    latent = samplers.encode(model, others, steps=steps)

    table = Table(title=f"{options.n} digits led by a network")
    for column in ("wanted", "digits", "scale", "by the judge", "by definition", "Fréchet", "RMS change"):
        table.add_column(column, justify="left" if column in ("wanted", "digits") else "right")
    for task in TASKS:
        guide, judge = (trained(task, train, seed, options.training) for seed in (0, 1))
        wanted = task.truth(aims)
        page = Page(table, task, judge, wanted, distance)
        page.add("held-out, whose own it is", aims)
        page.add("samples, not led", plain, "0")
        led = [guidance.energy(model, far_from(task, guide, wanted), scale=scale) for scale in options.scales]
        for scale, denoiser in zip(options.scales, led):
            page.add("samples", langevin.sample(denoiser, **draw), f"{scale:g}")
        page.add("other held-out digits", others, "")
        for scale, denoiser in zip(options.scales, led):
            x = samplers.decode(denoiser, latent, steps=steps)
            page.add("these, translated", x, f"{scale:g}", f"{float((x - others).square().mean().sqrt()):.2f}")
    show("task-guidance", table)


if __name__ == "__main__":
    main()
