"""``langevin decompress``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from .._errors import UserError, unknown
from ..storage.untrusted import contents
from .options import writable


@dataclass(frozen=True)
class Options:
    """Images out of a file of `langevin compress`, with the model it was written with."""

    input: Annotated[Positional[Path], arg(metavar="FILE")]
    """A file of `langevin compress`."""
    out: Annotated[Path, arg(aliases=("-o",), metavar="OUT")]
    """A new folder; a .png file for one image; or a .npy file, for the levels as an array."""
    model: Annotated[str, arg(metavar="MODEL")]
    """The model directory, or owner/name on the Hub."""
    decode: Annotated[str, arg(metavar="NAME")] = "flow"
    """How a noisy sample becomes an image: flow, ancestral, or mean (the least error, no texture)."""


def run(options: Options) -> None:
    """Read, decode, write."""
    out = options.out.expanduser()
    out = writable(out, file=out.suffix in (".png", ".npy"))
    from ..adapters import loading
    from ..report import Bar
    from ..tasks.compress import DECODERS, container, decompress, images
    from ..tasks.compress.chain import checked

    if options.decode not in DECODERS:
        raise unknown("decoder", options.decode, DECODERS)
    try:
        content = contents(options.input.expanduser())
    except OSError as error:
        raise UserError(f"{options.input} cannot be read: {error.strerror}") from None
    try:
        header = container.unpack(content)[0]
        images.check_items(header.items, header.count, header.shape)
        images.check_out(out, len(header.items) or header.count)
        model = loading.load_denoiser(options.model, own=False, device="cpu")
        with Bar("decoding") as bar:
            received = decompress(model, content, progress=bar)
    except UserError as error:
        if str(error).startswith(("the file", "this is no file")):
            raise UserError(f"{options.input}: {error}") from None
        raise
    with Bar("sampling") as bar:
        levels = received.decode(options.decode, bar)
    images.write(out, levels, header.items, checked(model))
    count = len(header.items) or header.count
    how = "exact" if header.lossless else f"from t = {header.times[1]:.4g} by {options.decode}"
    print(f"{out}: {count} image{'s' * (count > 1)}, {how}.")
