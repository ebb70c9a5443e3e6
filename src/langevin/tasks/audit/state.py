"""The state of the samplers: every scheduler of the installed diffusers, and settings of it that people use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ..._errors import UserError
from .checks import audit_subject
from .conventions import SPECIAL
from .load import load
from .report import Report, plain
from .subject import Subject

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "DDIMScheduler": (
        {"timestep_spacing": "linspace"},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    ),
    "DDPMScheduler": ({"variance_type": "fixed_large"}, {"timestep_spacing": "trailing"}),
    "DEISMultistepScheduler": ({"solver_order": 3}, {"use_karras_sigmas": True}, FLOW),
    "DPMSolverMultistepScheduler": (
        {"use_karras_sigmas": True},
        {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"solver_order": 3},
        {"timestep_spacing": "leading", **LATENT},
        FLOW,
    ),
    "DPMSolverSinglestepScheduler": ({"solver_order": 3}, {"use_karras_sigmas": True}),
    "EDMDPMSolverMultistepScheduler": (
        {"algorithm_type": "sde-dpmsolver++"},
        {"solver_order": 3},
        {"final_sigmas_type": "sigma_min"},
    ),
    "EulerDiscreteScheduler": ({"use_karras_sigmas": True}, {"timestep_spacing": "leading", **LATENT}),
    "FlowMatchEulerDiscreteScheduler": ({"shift": 3.0},),
    "HeunDiscreteScheduler": ({"use_karras_sigmas": True},),
    "LMSDiscreteScheduler": ({"use_karras_sigmas": True},),
    "PNDMScheduler": ({"skip_prk_steps": True, **LATENT},),
    "SASolverScheduler": ({"use_karras_sigmas": True}, FLOW),
    "UniPCMultistepScheduler": (
        {"solver_type": "bh1"},
        {"use_karras_sigmas": True},
        {"solver_order": 3},
        FLOW,
    ),
}
"""Settings besides the defaults."""


@dataclass(frozen=True)
class Entry:
    """One scheduler with its settings: its report, or why there is none."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    report: Report | None = None
    why_not: str = ""

    @property
    def title(self) -> str:
        """The class and its settings."""
        given = ", ".join(f"{key}={value!r}" for key, value in self.options.items())
        return f"{self.name}({given})" if given else self.name


@dataclass(frozen=True)
class State:
    """All entries, and the release."""

    release: str
    entries: tuple[Entry, ...]
    seconds: float

    @property
    def audited(self) -> tuple[Entry, ...]:
        """The entries with a report."""
        return tuple(entry for entry in self.entries if entry.report is not None)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        rows = [
            {"name": e.name, "options": e.options, "why_not": e.why_not, "report": e.report and e.report.to_dict()}
            for e in self.entries
        ]
        return plain(
            {"kind": "state of the samplers", "diffusers": self.release, "seconds": self.seconds, "entries": rows}
        )


def schedulers() -> list[str]:
    """The schedulers of the installed diffusers, by name.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import diffusers.schedulers as installed
    except ImportError as error:
        raise UserError(
            f"diffusers cannot be imported ({error}); install it: pip install 'langevin[diffusers]'"
        ) from None
    return sorted(name for name in dir(installed) if name.endswith("Scheduler") and name != "FlaxScheduler")


def state_of_diffusers(
    names: Iterable[str] | None = None,
    *,
    variants: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> State:
    """Audit every scheduler of the installed diffusers, with its defaults and with ``VARIANTS``.

    Args:
        names: of schedulers; all if not given.
        variants: with other settings too.
        progress: told how many are done, of how many.
    """
    known = schedulers()
    import diffusers

    chosen = known if names is None else list(names)
    todo = [Entry(n, o) for n in chosen for o in ({}, *(VARIANTS.get(n, ()) if variants else ()))]
    begun, done = time.monotonic(), []
    for i, entry in enumerate(todo):
        progress(i, len(todo))
        done.append(audited(entry))
    progress(len(todo), len(todo))
    return State(diffusers.__version__, tuple(done), round(time.monotonic() - begun, 1))


def audited(entry: Entry) -> Entry:
    """An entry with its report, or with the reason why there is none."""
    if why := SPECIAL.get(entry.name):
        return Entry(entry.name, entry.options, why_not=why)
    try:
        found = load(f"diffusers:{entry.name}", options=entry.options)
    except UserError as error:
        return Entry(entry.name, entry.options, why_not=str(error).partition(": ")[2].rpartition("audited: ")[2])
    assert isinstance(found, Subject)
    return Entry(entry.name, entry.options, audit_subject(found))
