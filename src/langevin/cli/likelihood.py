"""``langevin likelihood``."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from .._errors import UserError, unknown
from .given import text_encoder_of
from .options import Name, Whole, at_least_one, device_named, writable

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Split
    from ..denoisers import Denoiser, NetworkDenoiser

NOISES = ("none", "uniform", "normal")


@dataclass(frozen=True)
class Options:
    """Bits a dimension of held-out data under a trained model: the exact likelihood, the variational bound, or both.

    Of a latent model it is the bound by its encoder and decoder with the exact likelihood of the codes. A model that
    takes conditions is told those of each example, so none are given here.

    Writes DIR/likelihood.csv (a line for each example), DIR/histogram.png and DIR/likelihood.json, which says how it
    was measured.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub."""
    data: Annotated[Positional[str], arg(metavar="DATA")]
    """A data set's name, a folder of images, or an array file: its held-out split, read as the model's was."""
    n: Annotated[int | None, arg(aliases=("-n",), metavar="N", help_behavior_hint="")] = None
    """The first N examples; all if not given."""
    exact: bool = False
    """The exact likelihood by the probability flow: what is measured of every process that has one, if not given."""
    bound: bool = False
    """The variational bound: of any process; with --exact, both."""
    steps: Whole = None
    """Steps of the bound's grid; 100 if not given."""
    variance: Name = None
    """Variance of the bound's reverse steps: small, large, or what `langevin calibrate` learned (analytic, residual,
    sn, npr); the model's own if not given."""
    evaluations: Whole = None
    """Evaluations of the flow, at least 8; 100 with the exact divergence, 60 with probes."""
    probes: Whole = None
    """Random probes an evaluation; if not given the divergence is exact up to 16 coordinates, else one probe."""
    dequantise: Annotated[str | None, arg(metavar="NOISE", help_behavior_hint="")] = None
    """Noise on data with levels, for --exact: normal (the process's own; if not given), uniform, or none."""
    draws: Annotated[int, arg(metavar="N")] = 1
    """Draws of that noise for each example."""
    unconditional: bool = False
    """Do not tell a model that takes labels, or other conditions, those of each example."""
    text_encoder: Name = None
    """Where the text encoder is that the model's data name; needed if it is on the Hub."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("likelihood")
    """Where the files go; what an earlier call left there is overwritten."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise: that of example i does not depend on any other, or on the batch."""
    batch: Annotated[int, arg(metavar="N")] = 256
    """Examples carried at a time."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Measure, write and print."""
    begun = time.monotonic()
    names = ("n", "steps", "evaluations", "probes", "draws", "batch")
    at_least_one(**{name: getattr(options, name) for name in names})
    if options.dequantise is not None and options.dequantise not in NOISES:
        raise unknown("dequantise", options.dequantise, NOISES)
    out = writable(options.out)
    device = device_named(options.device)
    import torch

    from .. import likelihood
    from ..adapters import loading
    from ..denoisers import with_variance
    from ..generate import versions
    from ..processes import ScalarGaussian
    from ..report import Bar
    from ..storage import files

    model = loading.load_network(options.model, device=device)
    latent = model.autoencoder is not None
    exactly = not latent and (options.exact or (not options.bound and isinstance(model.process, ScalarGaussian)))
    bounded = not latent and (options.bound or not exactly)
    if latent:
        _consistent_latent(options)
    else:
        _consistent(options, exactly, bounded)
    split = _held_out(options, model)
    count = len(split) if options.n is None else min(options.n, len(split))
    batch = split.batch(torch.arange(count))
    x, labels = batch["x"], batch.get("label")
    denoiser = _told(options, model, batch)
    stepping = denoiser if options.variance is None else with_variance(denoiser, options.variance)
    leveled = model.output is not None and model.output.levels is not None
    found: dict[str, Any] = {}
    common: dict[str, Any] = {"seed": options.seed, "batch": options.batch}
    with files.lock(out):
        if exactly:
            noise = options.dequantise or ("normal" if leveled else "none")
            with Bar("exact likelihood") as bar:
                found["exact"] = likelihood.exact(
                    denoiser,
                    x,
                    evaluations=options.evaluations,
                    divergence=None if options.probes is None else "hutchinson",
                    probes=options.probes or 1,
                    dequantise=None if noise == "none" else noise,
                    draws=options.draws,
                    progress=bar,
                    **common,
                )
        if latent:
            with Bar("bound of the latent model") as bar:
                found["bound"] = likelihood.latent_diffusion_bound(
                    denoiser,
                    x,
                    draws=options.draws,
                    evaluations=options.evaluations,
                    divergence=None if options.probes is None else "hutchinson",
                    probes=options.probes or 1,
                    progress=bar,
                    **common,
                )
        if bounded:
            with Bar("variational bound") as bar:
                found["bound"] = likelihood.bound(stepping, x, steps=options.steps, progress=bar, **common)
        conditional = denoiser is not model
        contents = {"likelihood.csv": _table(found, labels).encode(), "histogram.png": _histogram(found)}
        record = {
            "kind": "likelihood",
            "model": options.model,
            "trained_steps": model.config.get("steps"),
            "data": options.data,
            "labels": "given" if conditional else "not given",
            "variance": options.variance,
            "measures": {name: {**_mean(value), "protocol": dict(value.protocol)} for name, value in found.items()},
            "versions": versions(),
            "seconds": round(time.monotonic() - begun, 2),
            "files": {name: files.digest(content) for name, content in contents.items()},
        }
        files.publish(out, {**contents, "likelihood.json": files.as_json(record)})
    for name, value in found.items():
        mean = _mean(value)
        given = ", ".join(denoiser.condition)
        told = "" if not conditional else " given the label" if given == "label" else f" given {given}"
        bits, nats = _with_error(mean, "bits_per_dim", 4), _with_error(mean, "nats", 2)
        of = "one example, which tells no error" if count == 1 else f"{count} examples"
        print(f"{name}{told}: {bits} bits/dim ({nats} nats), {of}")
        if latent:
            open_, codes = float(value.reconstruction.mean()), float(value.kl.mean())
            print(f"  the decoder leaves {open_:.2f} nats open, codes cost {codes:.2f}")
        print(f"  {_protocol(value)}")
    print(f"{out} holds likelihood.csv, histogram.png and likelihood.json.")


def _consistent(options: Options, exactly: bool, bounded: bool) -> None:
    """Refuse options of what is not measured."""
    plain = Options(model="", data="")
    names = ("evaluations", "probes", "dequantise", "draws") * (not exactly) + ("steps", "variance") * (not bounded)
    given = [f"--{name}" for name in names if getattr(options, name) != getattr(plain, name)]
    if given:
        which = "--exact" if not exactly else "--bound"
        raise UserError(f"{', '.join(given)} belong to {which}; give it too, or leave them out")


def _consistent_latent(options: Options) -> None:
    """Refuse what is not measured of a latent model."""
    plain = Options(model="", data="")
    given = [
        name for name in ("exact", "steps", "variance", "dequantise") if getattr(options, name) != getattr(plain, name)
    ]
    if given:
        raise UserError(
            f"{given[0]} must be left out for a latent model: of its images there is the bound by its encoder, its "
            "decoder and the probability flow of its codes"
        )


def _held_out(options: Options, model: NetworkDenoiser) -> Split:
    """The held-out split of the data, read as the model's own were."""
    from .. import data

    known = model.output
    read = {} if known is None else dict(known.source)
    read.pop("source", None)
    read.pop("text_encoder", None)
    if not options.unconditional and (encoder := text_encoder_of(model, options.text_encoder)) is not None:
        read["text_encoder"] = encoder
    dataset = data.load(options.data, **read)
    if dataset.info.shape != tuple(model.output_shape):
        raise UserError(f"data must have shape {tuple(model.output_shape)} as the model has, got {dataset.info.shape}")
    if known is not None and dataset.info.levels != known.levels:
        raise UserError(f"data must have the {known.levels} levels of the model's, got {dataset.info.levels}")
    return dataset.test


def _told(options: Options, model: NetworkDenoiser, batch: Mapping[str, Tensor]) -> Denoiser:
    """The model, told what it takes and the data have."""
    names = model.condition_sizes
    if not names or options.unconditional:
        return model
    if lacking := [name for name in names if name not in batch]:
        raise UserError(f"this model takes {lacking[0]}, which the data lack; --unconditional asks it without")
    count = names.get("label", 0)
    if count and int(batch["label"].max()) >= count:
        raise UserError(f"the model takes {count} classes, but the data have label {int(batch['label'].max())}")
    return model.given({name: batch[name] for name in names})


def _mean(value: Any) -> dict[str, float | None]:
    """Means over the examples, with standard errors (None for one example, which has none)."""
    result: dict[str, float | None] = {}
    for name in ("bits_per_dim", "nats"):
        each = getattr(value, name)
        result[name] = float(each.mean())
        result[f"{name}_stderr"] = float(each.std() / math.sqrt(len(each))) if len(each) > 1 else None
    return result


def _with_error(mean: dict[str, float | None], name: str, digits: int) -> str:
    """A mean with its standard error, if it has one."""
    error = mean[f"{name}_stderr"]
    return f"{mean[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _protocol(value: Any) -> str:
    """How it was measured, in a line."""
    p = value.protocol
    if "divergence" in p:
        flow = f"{p['method']}: {p['evaluations']:g} evaluations, {p['divergence']}"
        return f"{flow}; noise: {p['dequantisation']}; {p['unit']}"
    return f"{p['method']}, {len(p['grid']) - 1} steps, {p['decoder']}; {p['unit']}"


def _table(found: dict[str, Any], labels: Tensor | None) -> str:
    """A line for each example."""
    columns: dict[str, list[Any]] = {}
    for name, value in found.items():
        columns[f"{name}_nats"] = value.nats.tolist()
        columns[f"{name}_bits_per_dim"] = value.bits_per_dim.tolist()
        if name == "exact":
            columns["exact_stderr_nats"] = value.stderr.tolist()
        if hasattr(value, "reconstruction"):
            columns["reconstruction_nats"], columns["codes_nats"] = value.reconstruction.tolist(), value.kl.tolist()
    count = len(next(iter(columns.values())))
    if labels is not None:
        columns = {"label": labels.tolist(), **columns}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["example", *columns])
    writer.writerows(zip(range(count), *columns.values()))
    return text.getvalue()


def _histogram(found: dict[str, Any]) -> bytes:
    """How the bits are spread over the examples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained", dpi=120)
    axes = figure.subplots()
    bits = {name: value.bits_per_dim.numpy() for name, value in found.items()}
    low, high = min(v.min() for v in bits.values()), max(v.max() for v in bits.values())
    edges = [low + (high - low or 1) * i / 40 for i in range(41)]
    for (name, values), colour in zip(bits.items(), ("#2a6fb0", "#d07a2d")):
        axes.hist(values, bins=edges, color=colour, alpha=0.65, label=f"{name}, mean {values.mean():.3f}")
        axes.axvline(values.mean(), color=colour, lw=1.2)
    axes.set(xlabel="bits a dimension", ylabel="examples")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()
