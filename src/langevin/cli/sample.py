"""``langevin sample``."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from .options import Name, Sampling, at_least_one, class_index, device_named, writable

if TYPE_CHECKING:
    from torch import Tensor

    from ..data import Data
    from ..denoisers import NetworkDenoiser

SHOWN, COLUMNS = 256, 20
"""Images of a picture at most, and classes that get a column each."""


@dataclass(frozen=True)
class Options:
    """Draw samples of a trained model.

    Writes DIR/samples.npz (`x`, float32 (N, C, H, W) in the range of the data, int64 for tokens, and `label` for a
    conditional model), DIR/grid.png (DIR/scatter.png for points, DIR/samples.txt for sequences of tokens) and
    DIR/sample.json, which says how they were drawn.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory, or owner/name on the Hub."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 64
    """How many samples."""
    label: Name = None
    """Class of all samples, by name or index; if not given, classes 0, 1, ... in turn."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("samples")
    """Where they go; what an earlier call left there is overwritten."""
    sampling: Annotated[Sampling, arg(name="")] = field(default_factory=Sampling)
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Sample and write."""
    out = writable(options.out)
    at_least_one(n=options.n)
    from .. import training
    from ..report import Bar, draw
    from ..training import files

    recipe, device = options.sampling.recipe(), device_named(options.device)
    model = training.load(options.model, device=device)
    label = class_index(options.label, class_names(model))
    with files.lock(out):
        with Bar("sampling") as bar:
            drawn = draw(model, recipe, options.n, label=label, progress=bar)
        record = {"model": options.model, "trained_steps": model.config.get("steps"), **drawn.record}
        write(out, drawn.x, drawn.label, model.data, record)
    print(
        f"{out}: {options.n} samples in {drawn.seconds:.1f} s, {drawn.evaluations} network evaluations each "
        f"({record['rule']})."
    )


def class_names(model: NetworkDenoiser) -> list[str]:
    """Names of the labels a model takes, none for one that takes none; numbers where the data give no names."""
    from ..report import classes

    count = classes(model)
    known = [] if model.data is None else list(model.data.classes)
    return known if len(known) == count else [str(k) for k in range(count)]


def write(out: Path, x: Tensor, label: Tensor | None, data: Data | None, record: dict[str, Any]) -> None:
    """The three files, all of them or none; the last has the checksums of the others."""
    import numpy as np

    from ..training import files

    arrays = {"x": x.numpy()} if label is None else {"x": x.numpy(), "label": label.numpy()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    name, picture = _picture(x, label, data)
    contents = {"samples.npz": buffer.getvalue(), name: picture}
    record = {**record, "files": {name: files.digest(content) for name, content in contents.items()}}
    files.publish(out, {**contents, "sample.json": files.as_json(record)})


def _picture(x: Tensor, label: Tensor | None, data: Data | None) -> tuple[str, bytes]:
    """A name and a PNG: images by class in columns if they came in turn, or points; sequences of tokens as text."""
    from .. import training

    if data is not None and data.tokens and not data.is_image:
        return "samples.txt", training.text(x, data.tokens).encode()
    if x.ndim == 4:
        turns = 0 if label is None else len(label.unique())
        columns = turns if 1 < turns <= COLUMNS else 0
        shown = x[: SHOWN // (columns or 1) * (columns or 1)]
        low, high = (-1.0, 1.0) if data is None or data.low is None or data.high is None else (data.low, data.high)
        name, picture = "grid.png", training.grid(shown, columns, low=low, high=high)
    else:
        name, picture = "scatter.png", training.scatter(x.flatten(1), label)
    return name, training.png(picture)
