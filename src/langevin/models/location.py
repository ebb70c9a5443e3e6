"""Where a model directory is, on this machine or on the Hub, and the names of its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .._errors import UserError, nearest
from . import shipped

CONFIG, WEIGHTS, MOMENTS = "config.json", "model.safetensors", "data.safetensors"


def here(path: str) -> Path | None:
    """The directory of a path or of a model by name, if it is on this machine; a directory of that name comes first."""
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else None if folder.exists() else shipped.find(path)


def find(path: str, revision: str | None = None, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> Path:
    """The directory of a path, downloaded if the path is a repository of the Hub.

    Args:
        path: a directory; if there is none of that name, the name of a model that comes with the repository (see
            ``models.shipped``), or ``owner/name``.
        revision: of a repository: a branch, a tag or a commit.
        patterns: the files of a repository that are fetched.

    Raises:
        UserError: for what is neither, or a repository that cannot be had.
    """
    folder = Path(path).expanduser()
    if (found := here(path)) is not None:
        if revision is not None:
            raise UserError(f"revision is of a repository of the Hub, got {revision!r} for the directory {found}")
        return found
    if folder.exists():
        raise UserError(f"a model is a directory with {CONFIG} and {WEIGHTS}, got the file {path}")
    owner, _, name = path.partition("/")
    local = folder.parent.is_dir() and str(folder.parent) != "."
    if local or not owner or not name or "/" in name or owner.startswith((".", "~")):
        beside = [str(p) for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        if shipped.is_name(path):
            known = shipped.names()
            told = f" Models by name: {', '.join(known)}." if known else shipped.where()
            raise UserError(f"no model directory {path!r}.{nearest(path, [*known, *beside])}{told}")
        raise UserError(f"no model directory {path!r}.{nearest(path, beside)}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        if isinstance(error, GatedRepoError):
            why = "it is gated: accept its terms on its page and log in (hf auth login, or HF_TOKEN)"
        elif isinstance(error, RepositoryNotFoundError):
            why = "there is none of that name, or it is private and needs a token (hf auth login, or HF_TOKEN)"
        else:
            lines = str(error).strip().splitlines()
            why = lines[0].removeprefix("Got: ") if lines else type(error).__name__
        raise UserError(f"no model directory {path!r}, and no such model could be had from the Hub: {why}") from None
