"""A file of the user's own, which is run: where a command takes ``FILE.py:NAME``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from .._errors import UserError


def module_of(path: str, name: str) -> ModuleType:
    """The module that a file is, once it has been run.

    Args:
        path: of the file.
        name: of the argument that named it, for messages.

    Raises:
        UserError: for a file that is not there, or does not run.
    """
    if not Path(path).is_file():
        raise UserError(f"{name} must be in a file that exists, got {path!r}")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever somebody's file raises
        what = f"{type(error).__name__} in {path!r}: {error}"
        raise UserError(f"{name} must be in a file that runs, got {what}") from error
    return module
