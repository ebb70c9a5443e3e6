"""``langevin evaluate`` of a contrastive encoder: what it finds among held-out examples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import UserError
from .options import Sampling, console

if TYPE_CHECKING:
    from ..data import Dataset
    from ..denoisers import ContrastiveEncoder
    from ..metrics import Retrieval

AMONG = 100
"""Candidates, of which one is right."""

MOST = 5_000
"""Held-out examples that are looked at, at most."""

BATCH = 256
"""Examples that are encoded at a time."""

LEVELS = (0.0, 0.5, 1.0, 2.0)
"""Noise levels, in units of the data's root mean square, at which an encoder of noisy data is asked."""


def evaluate(model: ContrastiveEncoder, dataset: Dataset, options: Any, out: Path, begun: float) -> None:
    """Measure, write and print.

    Raises:
        UserError: for data without captions, and too few held-out examples.
    """
    from ..generate import versions
    from ..storage import files

    measures = measure(model, dataset, options.sampling.seed)
    found = {
        "kind": "retrieval",
        "model": options.model,
        "trained_steps": model.config.get("steps"),
        "data": dataset.info.to_dict(),
        "measures": measures,
        "versions": versions(),
        "seconds": round(time.monotonic() - begun, 2),
    }
    files.replace(out, files.as_json(found))
    _show(measures, dataset)
    print(f"{out} holds all of it, with protocols.")


def measure(model: ContrastiveEncoder, dataset: Dataset, seed: int = 0, most: int = MOST) -> dict[str, Any]:
    """Retrieval on the held-out split, in both directions, at each noise level that the encoder knows.

    Args:
        model: the encoder.
        dataset: with captions as the encoder reads them.
        seed: of the noise.
        most: examples looked at; of more, as many spread evenly.
    """
    import torch

    from ..distributions import Noise
    from ..metrics import retrieval
    from ..objectives.contrastive import present, same_text
    from ..processes import ScalarGaussian, require

    if model.reads not in dataset.info.conditions:
        raise UserError(f"data must have the condition {model.reads}, got {dataset.info!r}")
    process: ScalarGaussian = require(model.process, ScalarGaussian, "retrieval")
    count = min(len(dataset.test), most)
    held = dataset.test.plain(torch.arange(count) * len(dataset.test) // count)
    told = held[model.reads]
    rows = present(told)
    x, told = held["x"][rows], told[rows]
    group = same_text(told)
    fewest = len(x) - int(group.bincount().max()) if len(x) else 0
    among = min(AMONG, fewest)
    if among < 2:
        differ = len(group.unique())
        raise UserError(f"retrieval needs held-out examples with captions that differ, got {len(x)} with {differ}")
    with torch.no_grad():
        text = torch.cat([model.encode_text(part).cpu() for part in told.split(BATCH)])
    found: dict[str, Any] = {}
    levels = LEVELS if model.knows_clean else LEVELS[1:]
    for level in levels if model.noisy else LEVELS[:1]:
        sigma = level * model.sigma_data
        t = process.time(torch.tensor(-2.0, dtype=torch.float64) * torch.tensor(sigma).double().log()) if level else 0.0
        x_t = process.marginal(x, torch.as_tensor(t)).sample(Noise(seed, len(x))) if level else x
        with torch.no_grad():
            image = torch.cat([model.encode_image(part.to(model.device), t).cpu() for part in x_t.split(BATCH)])
        scores = image.double() @ text.double().mT
        for name, matrix in (("caption of a picture", scores), ("picture of a caption", scores.mT)):
            found[f"{name}, noise {sigma:.2g}" if level else name] = _told(retrieval(matrix, group, among=among), sigma)
    return found


def _told(found: Retrieval, sigma: float) -> dict[str, Any]:
    return {
        "value": found.value,
        "stderr": found.stderr,
        "interval": list(found.interval),
        "protocol": {
            "of": f"the right one has the greatest cosine among itself and {found.among - 1} others, held out, with "
            "other captions; the mean over all choices of the others, and a jackknife over examples",
            "among": found.among,
            "n": found.n,
            "sigma": sigma,
            "chance": 1 / found.among,
        },
    }


def refuse(options: Any) -> None:
    """Refuse options of samples, which an encoder makes none of.

    Raises:
        UserError: it names them.
    """
    plain, sampling = Sampling(), options.sampling
    given = [name for name in ("n", "label", "samples", "shard_size", "save") if getattr(options, name) is not None]
    given += [name for name in ("given", "features", "ema") if getattr(options, name)]
    given += [name for name in vars(plain) if name != "seed" and getattr(sampling, name) != getattr(plain, name)]
    if given:
        asked = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{options.model} holds a contrastive encoder, which makes no samples; leave out {asked}")


def _show(measures: dict[str, Any], dataset: Dataset) -> None:
    from rich.table import Table

    first = next(iter(measures.values()))["protocol"]
    of = f"{first['n']} held-out of {dataset.info.name}"
    print(f"the right one of {first['among']}, {of}; {first['chance']:.1%} is chance")
    table = Table()
    for name in ("found", "share", "standard error", "95 % interval"):
        table.add_column(name, justify="left" if name == "found" else "right")
    for name, found in measures.items():
        low, high = found["interval"]
        table.add_row(name, f"{found['value']:.1%}", f"{found['stderr']:.1%}", f"{low:.1%} … {high:.1%}")
    console().print(table)
