"""``langevin compress``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import Number, Whole, at_least_one, writable


@dataclass(frozen=True)
class Options:
    """Code images with a model into one file: exactly, or to a step or a quality.

    IN is an image, a folder of images, or data by name (their held-out part). Images of any size are cut into tiles of
    the model's. `langevin decompress` needs the same model. The model is asked without conditions, which the file would
    have to hold for the decoder.
    """

    input: Annotated[Positional[str], arg(metavar="IN")]
    """An image, a folder, or a data set by name."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="FILE")]
    """The file to write."""
    model: Annotated[str, arg(metavar="MODEL")]
    """A model directory, a pipeline of diffusers, or owner/name on the Hub, of data with levels (8-bit images, digits);
    a latent model has no probability of pixels to code them with."""
    step: Number = None
    """Send the noisy sample of this time, in (0, 1]: the smaller, the more bytes and the better the images."""
    quality: Number = None
    """Send as much as decoding along the flow needs for this signal-to-noise ratio in dB (20 poor, 35 good)."""
    limit: Whole = None
    """At most this many images."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise that both sides share."""


def run(options: Options) -> None:
    """Code, write, and say what it took."""
    out = writable(options.out, file=True)
    at_least_one(limit=options.limit)
    if options.step is not None and options.quality is not None:
        raise UserError(f"step and quality exclude each other, got {options.step} and {options.quality}")
    from ..adapters import loading
    from ..report import Bar
    from ..storage import files
    from ..tasks.compress import compress, images
    from ..tasks.compress.chain import checked

    model = loading.load_denoiser(options.model, own=False, device="cpu")
    exact = options.step is None and options.quality is None
    levels, items = images.read(options.input, checked(model), limit=options.limit, exact=exact)
    with Bar("coding") as bar:
        made = compress(
            model, levels, step=options.step, quality=options.quality, items=items, seed=options.seed, progress=bar
        )
    files.replace(out, made.content)
    how = "exactly" if made.header.lossless else f"to t = {made.header.times[1]:.4g}"
    count = len(items) or made.header.count
    print(f"{out}: {count} image{'s' * (count > 1)} {how}, {made}.")
    print(f"Next:\n  langevin decompress {out} -o images --model {options.model}")
