"""Editing held-out digits to another class: what a classifier reads in the result, and how much of the picture is left.

    langevin train digits --out runs/digits --minutes 8
    python benchmarks/edit.py runs/digits                 # minutes on a core

Each held-out digit is asked to become a class that it is not, each other class in turn. The classifier is a small
convolutional network trained on the training pictures, none of which is edited. Changes are RMS, in the data's range
of 2, inside and outside of the region that a method may change: a box of 6 × 4 pixels in the middle for ``blend``, the
mask that it found for DiffEdit. SDEdit may change every pixel; its changes are those inside and outside of the same
box. Evaluations of the network are counted, for a picture.
"""

from __future__ import annotations

import argparse

import torch
from rich.table import Table
from torch import Tensor, nn

import langevin
from langevin.samplers import Sampler
from langevin.tasks.edit import EditMethod, Request, create_method
from purify import trained
from record import show

METHODS = ("sdedit", "blend", "diffedit", "diffedit-fast")


def others(label: Tensor, classes: int) -> Tensor:
    """A class for each picture that is not its own: the next one of the first, the next but one of the second, …"""
    return (label + 1 + torch.arange(len(label)) % (classes - 1)) % classes


def change(x: Tensor, image: Tensor, where: Tensor) -> str:
    """RMS of x − image over the pixels that are marked, as a cell; "0" says that all are equal bit for bit."""
    found = float((x - image)[where.expand_as(image)].double().square().mean().sqrt())
    return f"{found:.2f}" if found else "0"


def counted(network: nn.Module) -> list[int]:
    """Grows by the number of pictures at every call of the network."""
    calls: list[int] = []
    network.register_forward_hook(lambda module, given, out: calls.append(len(given[0])))
    return calls


class Watched(EditMethod):
    """A method, whose last mask is kept: where pictures could change, None for everywhere."""

    def __init__(self, method: EditMethod) -> None:
        self.method, self.free = method, None
        self.needs_mask, self.compares = method.needs_mask, method.compares

    def sampler(self) -> Sampler:
        return self.method.sampler()

    def __call__(self, request: Request) -> tuple[Tensor, Tensor | None]:
        x, self.free = self.method(request)
        return x, self.free


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a diffusion model of digits that knows classes")
    parser.add_argument("-n", type=int, default=100, help="held-out digits")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="σ/α")
    parser.add_argument("--guidance", type=float, default=3.0, help="scale of classifier-free guidance by the class")
    parser.add_argument("--steps", type=int, default=16, help="of the whole grid")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()

    model, data = langevin.load(options.model), langevin.data.load("digits")
    classifier, train, held = trained(data.train), data.train.all(), data.test.all()
    x, label = held["x"][: options.n], held["label"][: options.n]
    asked = others(label, 10)
    box = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    box[..., 1:7, 2:6] = True
    share = lambda made, of: f"{100 * float((classifier(made).argmax(1) == of).double().mean()):.0f}"

    table = Table(title=f"{len(x)} held-out digits, asked to become another class; guidance {options.guidance:g}")
    columns = ("read as asked, %", "read as before, %", "may change, %", "change inside", "outside", "evaluations")
    for column in ("method", "σ/α", *columns):
        table.add_column(column, justify="left" if column == "method" else "right")
    at = torch.stack([torch.nonzero(train["label"] == k)[i % 100, 0] for i, k in enumerate(asked.tolist())])
    pasted, inside = train["x"][at], torch.where(box, train["x"][at], x)
    for name, made in (("none", x), ("another digit of the class", pasted), ("another, pasted into the box", inside)):
        free = f"{100 * float(box.double().mean()):.0f}" if made is inside else "100"
        moved = (change(made, x, box), change(made, x, ~box))
        table.add_row(name, "", share(made, asked), share(made, label), "0" if made is x else free, *moved, "0")

    calls = counted(model.network)
    for name in METHODS:
        method = Watched(create_method(name))
        told = {"mask": box} if method.needs_mask else {"source": {"label": label}} if method.compares else {}
        for strength in options.strengths:
            calls.clear()
            how = {"strength": strength, "steps": options.steps, "guidance_scale": options.guidance, "batch": len(x)}
            made = langevin.edit(model, x, method=method, label=asked, **how, **told)
            free = torch.ones_like(x, dtype=torch.bool) if method.free is None else method.free.expand_as(x)
            where = box.expand_as(x) if method.free is None else free
            row = [share(made, asked), share(made, label), f"{100 * float(free.double().mean()):.0f}"]
            row += [change(made, x, where), change(made, x, ~where), f"{sum(calls) / len(x):.0f}"]
            table.add_row(name, f"{strength:g}", *row)
            print(name, strength, *row, flush=True)
    show("edit", table)


if __name__ == "__main__":
    main()
