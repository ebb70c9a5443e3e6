"""Pictures that are made by us are kept in the cache, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable

import numpy as np

from .._errors import UserError
from ..storage import files
from ._numpy import arrays
from .packages import cache


def kept(name: str, words: tuple[str, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array of the cache, made and put there if it is not.

    A file that is damaged is made again. Where the cache cannot be written, the array is made every time, with a
    warning.

    Args:
        name: of the data set, and what distinguishes its variants.
        words: all that decides what is made, such as checksums of fonts and of the code.
        make: makes it.
    """
    key = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
    path = cache() / "made" / f"{name}-{key}.npz"
    if path.is_file():
        try:
            return arrays(path, ("x",))["x"]
        except UserError:
            pass
    made = make()
    content = io.BytesIO()
    np.savez(content, x=made)
    try:
        files.replace(path, content.getvalue())
    except (files.DiskError, OSError) as error:
        warnings.warn(f"{name} is not kept, and will be made again: {error}", stacklevel=2)
    return made
