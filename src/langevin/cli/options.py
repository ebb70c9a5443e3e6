"""Options that several commands share, and what is checked before any of them works."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Suppress, arg

from .._errors import UserError, check_numbers, unknown
from ..storage.untrusted import parse_json, reason

if TYPE_CHECKING:
    from rich.console import Console

    from ..generate import Recipe

# Their help says what happens when they are not given; "(default: None)" does not.
Whole = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Number = Annotated[float | None, arg(metavar="X", help_behavior_hint="")]
Name = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn; what is not given is the default of the model's process."""

    sampler: Name = None
    """Update rule, by its name (`langevin methods --category samplers`)."""
    sampler_options: Annotated[dict[str, str], arg(metavar="KEY VALUE ...", help_behavior_hint="")] = field(
        default_factory=dict
    )
    """Settings of the sampler: eta 0.5."""
    steps: Whole = None
    """Steps of the time grid, at least 1; 10 if not given."""
    grid: Name = None
    """Time grid, by its name (`langevin methods --category grids`)."""
    process: Name = None
    """Sample in another noise process at equal signal-to-noise ratio: vp, ddpm, ..."""
    guidance_scale: Annotated[float, arg(metavar="W")] = 1.0
    """Classifier-free guidance, uncond + W (cond - uncond): 1 is the plain conditional model."""
    variance: Name = None
    """Variance of the belief, for ancestral sampling: small, large, or what `langevin calibrate` learned (analytic,
    residual, sn, npr); the model's own if not given."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise: sample i is the same for any number of samples and any batch."""
    batch: Annotated[int, arg(metavar="N")] = 256
    """Samples carried at a time."""

    def recipe(self) -> Recipe:
        """The same as the report's record of it, with what can be checked without a model checked."""
        from .. import processes, samplers
        from .._registry import lookup
        from ..generate import Recipe

        options = {key: json_value(text) for key, text in self.sampler_options.items()}
        if self.sampler is not None:
            samplers.create_sampler(self.sampler, **options)
        if self.grid is not None:
            lookup("grids", self.grid)
        if self.process is not None:
            processes.create_process(self.process)
        at_least_one(steps=self.steps, batch=self.batch)
        check_guidance(self.guidance_scale)
        check_seed(self.seed)
        return Recipe(
            sampler=self.sampler,
            options=options,
            steps=self.steps,
            grid=self.grid,
            process=self.process,
            guidance_scale=self.guidance_scale,
            variance=self.variance,
            seed=self.seed,
            batch=self.batch,
        )


@dataclass(frozen=True)
class Unscaled(Sampling):
    """The same for a command that has a scale of its own."""

    guidance_scale: Suppress[float] = 1.0


def json_value(text: str) -> Any:
    """A value as JSON where it is JSON, else as the text it is."""
    try:
        return parse_json(text.encode(errors="surrogateescape"))
    except ValueError:
        return text


def at_least_one(**numbers: int | None) -> None:
    """Refuse a number below 1; None stands for a default."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"{name} must be an integer of at least 1, got {number}")


def check_guidance(scale: float, name: str = "guidance-scale") -> None:
    """Refuse a guidance scale that nobody means, and warn of one that leads away from the label.

    Args:
        scale: 1 is the plain conditional model.
        name: of the option.

    Raises:
        UserError: for one that is not finite, or beyond ±100.
    """
    from ..guidance.pooling import LARGEST

    check_numbers(**{name: scale})
    if abs(scale) > LARGEST:
        raise UserError(
            f"{name} must lie in [-{LARGEST:g}, {LARGEST:g}], got {scale:g} (1 is the plain conditional "
            "model, 2 to 10 are usual)"
        )
    if scale < 0:
        warnings.warn(f"{name} {scale:g} leads away from the label", stacklevel=2)


def check_seed(seed: int) -> None:
    """Refuse a seed that noise has none for, before a model is loaded or trained."""
    if not 0 <= seed < 2**64:
        raise UserError(f"seed must be an integer in [0, 2**64), got {seed}")


def class_index(name: str | None, classes: Sequence[str], option: str = "label") -> int | None:
    """The label that a class name or an index stands for; a name wins over an index that reads the same.

    Args:
        name: as it was typed; None for none.
        classes: their names.
        option: for messages.
    """
    if name is None:
        return None
    if not classes:
        raise UserError(f"{option} {name!r} was given, but this model was trained without labels")
    if name in classes:
        return classes.index(name)
    if name == "none":
        return -1
    if name.lstrip("-").isdecimal():
        from ..denoisers.conditions import check_label

        check_label(int(name), len(classes), option)
        return int(name)
    raise unknown(option, name, classes, f" An index in 0…{len(classes) - 1} will do too.")


def device_named(name: str | None) -> str | None:
    """A device of torch that is there."""
    if name is None:
        return None
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"device {name!r} cannot be used: {reason}") from None
    return str(device)


def console(width: int | None = None) -> Console:
    """Where tables are printed: without colours, as standard output lets no escape sequence through."""
    from rich.console import Console

    return Console(width=width, color_system=None)


def writable(path: str | os.PathLike[str], option: str = "out", *, file: bool = False) -> Path:
    """A path that can become a directory (or, with ``file``, a file): nothing is made yet.

    Raises:
        UserError: if something else has its name, or the place may not be written to.
    """
    with named(option, path):
        asked = Path(path).expanduser()
        if file and asked.is_dir():
            raise UserError(f"{option} must be a file, but {asked} is a directory")
        if not file and asked.exists() and not asked.is_dir():
            raise UserError(f"{option} must be a directory, but {asked} is a file")
        there = asked if asked.is_dir() else asked.parent
        for place in (asked, *asked.parents):
            if place.is_symlink() and not place.exists():
                raise UserError(f"{option} cannot be {asked}: {place} is a link to nothing")
        while not there.exists():
            there = there.parent
        if not there.is_dir():
            raise UserError(f"{option} cannot be {asked}: {there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"{option} cannot be {asked}: {there} may not be written to")
    return asked


@contextlib.contextmanager
def named(option: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Let a path that no system takes (too long, a home of nobody, a null byte) be refused as what was asked for."""
    try:
        yield
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{option} cannot be {os.fspath(path)!r:.80}: {reason(error)}") from None
