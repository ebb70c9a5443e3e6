"""``langevin publish``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from .._errors import UserError
from .options import Name, device_named, writable

MESSAGE = "Publish with langevin"


@dataclass(frozen=True)
class Options:
    """Write a model with its card as a repository of the Hub has it, and push it there.

    Writes DIR: the model directory that `langevin.load` reads, README.md (what it is, its data, its licence, its
    figures if `langevin evaluate` measured some) and samples.png. Without --push nothing leaves this machine.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory."""
    to: Annotated[str, arg(metavar="OWNER/NAME")]
    """The repository."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("published")
    """Where it is written."""
    licence: Name = None
    """Of the model, as the Hub spells it: apache-2.0, mit, cc-by-4.0, ..."""
    evaluation: Name = None
    """What `langevin evaluate` wrote; MODEL/evaluation.json if it is there."""
    push: bool = False
    """Push it: the repository is made if it is not there; needs a token (`hf auth login`)."""
    private: bool = False
    """With --push: nobody else sees it."""
    device: Name = None
    """cpu or cuda, for the picture; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Write, and push."""
    out = writable(options.out)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", options.to):
        raise UserError(f"to must be OWNER/NAME, got {options.to!r}")
    if options.private and not options.push:
        raise UserError("private is of a repository that is pushed to: give --push too")
    from ..models import location

    folder = location.here(options.model) or Path(options.model)
    place = Path(options.evaluation) if options.evaluation else folder / "evaluation.json"
    if options.evaluation and not place.is_file():
        raise UserError(f"evaluation must be a file, but {place} is none")
    from ..adapters.loading import load_denoiser
    from ..adapters.pipeline import Pipeline
    from ..storage import files

    evaluation: Any = files.read_json(place) if place.is_file() else None
    if evaluation is not None and evaluation.get("kind") != "evaluation":
        raise UserError(f"evaluation must be what `langevin evaluate` wrote, which {place} is not")
    if others := foreign(out):
        raise UserError(f"out must be a new directory or an earlier publish's, but {out} holds {', '.join(others)}")
    model = load_denoiser(options.model, own=False, device=device_named(options.device))
    with files.lock(out):
        pipe = Pipeline(model, licence=options.licence)
        pipe.save_pretrained(out, repo_id=options.to, evaluation=evaluation)
    print(f"{out} holds the model, its card README.md and samples.png.")
    if options.push:
        print(pushed(out, options))


KEPT = ("config.json", "*.safetensors", "README.md", "samples.png", "*/config.json", "*/*.safetensors")
"""What a repository holds, and all that is pushed."""


def foreign(out: Path) -> list[str]:
    """Files of a directory, at most three of them, that no earlier publish wrote; checkpoints of a run are such."""
    if not out.is_dir():
        return []
    held = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()]
    return [str(path) for path in held if not any(path.match(one) for one in KEPT) and path.name != ".lock"][:3]


def pushed(out: Path, options: Options) -> str:
    """Push a directory, and say where it is.

    Raises:
        UserError: if the Hub cannot be reached, or does not let this user in.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(options.to, private=options.private, exist_ok=True)
        what: dict[str, Any] = {"allow_patterns": list(KEPT), "commit_message": MESSAGE}
        found = api.upload_folder(repo_id=options.to, folder_path=out, **what)
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{options.to} cannot be pushed to: {reason}") from None
    return f"{found}: pushed."
