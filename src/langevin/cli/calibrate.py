"""``langevin calibrate``."""

from __future__ import annotations

import io
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from .._errors import UserError, unknown
from .options import Name, Whole, at_least_one, console, device_named, writable

if TYPE_CHECKING:
    from ..denoisers import Calibration

SHOWN = 12
"""Rows of the table at most."""


@dataclass(frozen=True)
class Options:
    """Learn the optimal variances of a model's reverse steps, which make few steps better and bits/dim smaller.

    Estimates how much a clean example varies around the model's guess at every noise (Analytic-DPM's Gamma) and writes
    MODEL/calibration.json and MODEL/calibration.png. With --heads it also trains small networks that give a variance
    for each coordinate (SN-DPM, NPR-DPM) into MODEL/sn and MODEL/npr; the model's own weights never change. Samples
    are drawn with them by `langevin sample MODEL --variance analytic` (residual, sn, npr). Of a latent model they are
    the variances of codes, estimated on encoded data, and lie in MODEL/denoiser; of a pipeline of diffusers they lie in
    MODEL/langevin. A model that takes conditions is told those of each example, so none are given here.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory (of a model of `langevin models` a copy), a pipeline of diffusers, or owner/name on the Hub
    (the files then go into its local copy)."""
    data: Annotated[Positional[str | None], arg(metavar="DATA", help_behavior_hint="")] = None
    """Data to estimate on, read as the model's own were; the model's own training examples if not given."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 2048
    """Noisy examples at each time, at least 16."""
    times: Annotated[int, arg(metavar="K")] = 32
    """Times, equally spaced in log signal-to-noise, at least 2."""
    heads: Name = None
    """Heads to train as well: sn, npr, or sn,npr."""
    steps: Whole = None
    """Optimiser steps of each head; 2000 if not given."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise, and of the heads."""
    batch: Annotated[int, arg(metavar="N")] = 256
    """Examples carried at a time; the estimate does not depend on it."""
    text_encoder: Name = None
    """Where the text encoder is that the model's data name; needed if it is on the Hub."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Estimate, train, write, and say what was found."""
    from ..denoisers import VARIANCE_HEADS

    at_least_one(steps=options.steps, batch=options.batch)
    for name, number, least in (("n", options.n, 16), ("times", options.times, 2)):
        if number < least:
            raise UserError(f"{name} must be an integer of at least {least}, got {number}")
    heads = [] if options.heads is None else [word.strip() for word in options.heads.split(",")]
    for head in heads:
        if head not in VARIANCE_HEADS:
            raise unknown("head", head, VARIANCE_HEADS)
    if options.steps is not None and not heads:
        raise UserError("steps are those of heads; name them with --heads sn,npr")
    from .. import calibration
    from ..adapters import hub, loading
    from ..generate import versions
    from ..models import learned, shipped
    from ..report import Bar
    from ..storage import files
    from .evaluate import dataset_of

    folder, device = writable(shipped.check_own(hub.find(options.model)), "model"), device_named(options.device)
    model = loading.load_network(folder, device=device)
    _, dataset = calibration.of_states(
        model, dataset_of(model, options.data, option="DATA", text_encoder=options.text_encoder)
    )
    with files.lock(learned.place(folder, model)), Bar("calibrating") as bar:
        found, file = calibration.calibrate_model(
            model,
            dataset,
            folder,
            times=options.times,
            n=options.n,
            seed=options.seed,
            batch=options.batch,
            made={"versions": versions()},
            progress=bar,
        )
        picture = file.with_suffix(".png")
        files.replace(picture, plot(found))
    _show(found)
    for head in heads:
        calibration.train_head(head, model, dataset, folder, steps=options.steps or 2000, seed=options.seed)
    names = ["analytic", *heads]
    print(f"{file}, {picture}{''.join(f', {file.parent / head}/' for head in heads)} hold it.")
    words = ["langevin", "sample", options.model, "--steps", "10", "--variance", names[-1]]
    print(f"Next:\n  {shlex.join(words)} -n 64 --out samples")


def _show(found: Calibration) -> None:
    """Γ and the variance of the belief, beside those of β and β̃."""
    import torch
    from rich.table import Table

    table = Table(title=f"What is left to know of x_0 after a look at noise σ/α ({found.made['n']} draws a time)")
    for name in ("σ/α", "Γ", "±", "variance", "error²", "of β"):
        table.add_column(name, justify="right")
    rows = torch.linspace(0, len(found.gamma) - 1, min(SHOWN, len(found.gamma))).round().long().flip(0)
    for k in rows.tolist():
        ratio = torch.exp(-found.log_snr[k] / 2)
        numbers = (found.variance[k], found.error[k], 1 / (1 + torch.exp(found.log_snr[k])))
        cells = [f"{float(v):.3g}" for v in (ratio, found.gamma[k], found.stderr[k], *numbers)]
        table.add_row(*cells)
    console().print(table)


def plot(found: Calibration) -> bytes:
    """A PNG: Γ, and the variance of the belief beside those that stand for β and β̃, by noise level."""
    import torch
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    fine = torch.linspace(float(found.log_snr[0]), float(found.log_snr[-1]), 400, dtype=torch.float64)
    at = lambda log_snr: torch.exp(-log_snr / 2).numpy()
    curve = found.at(fine)
    left.plot(at(fine), 1 - curve * torch.exp(fine), color="#2563eb")
    left.errorbar(at(found.log_snr), found.gamma, 2 * found.stderr, fmt="o", color="#2563eb", markersize=3)
    left.set(xscale="log", xlabel="σ/α", title="Γ: mean square of the predicted noise", ylim=(0, None))
    right.plot(at(fine), curve, color="#2563eb", label="optimal (analytic)")
    right.plot(at(found.log_snr), found.error, "o", color="#be123c", markersize=3, label="squared error of the guess")
    right.plot(at(fine), 1 / (1 + torch.exp(fine)), "--", color="#94a3b8", label="β (large)")
    right.plot([], [], color="none", label="β̃ (small) is 0")
    low = float(found.error.min()) / 10
    right.set(xscale="log", yscale="log", xlabel="σ/α", title="variance of the belief about x₀", ylim=(low, None))
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
