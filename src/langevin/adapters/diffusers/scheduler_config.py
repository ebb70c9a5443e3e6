"""The config of the scheduler that ``Scheduler`` takes the place of: process, prediction, the units of a pipeline.

``schedules.py`` reads the same files for a model that is loaded out of a pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_integer, unknown
from ...denoisers import AffineParameterization
from ...processes import DDPM, EDM, RectifiedFlow, ScalarGaussian
from .schedules import PREDICTIONS, table_of_betas

TABLES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
)
"""Schedulers of a table of β; with ``use_flow_sigmas`` some of them are of a flow."""

FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")
"""Schedulers of a rectified flow, whose timesteps are σ·N."""

EDMS = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
"""Schedulers of EDM's preconditioned networks, whose timesteps are ¼·log σ."""

ACCEPTED = (*TABLES, *FLOWS, *EDMS)
"""Schedulers in whose place one of this library can stand; of those with the same settings, the plainest first."""

LAST = 2.0**-24
"""ᾱ_N of a table rescaled to zero terminal SNR: above 0, as most of its own schedulers have it."""


def process_of(config: Mapping[str, Any]) -> ScalarGaussian:
    """The noising that a scheduler's config describes.

    Args:
        config: as ``scheduler.config`` or ``scheduler_config.json`` has it. Keys that are absent are at diffusers'
            defaults.

    Returns:
        ``DDPM`` (β in float64, where diffusers rounds it to float32), ``RectifiedFlow`` or ``EDM``.

    Raises:
        UserError: for a class whose process is none of these, and for a table that is none.
    """
    kind = kind_of(config)
    if kind == "flow":
        return RectifiedFlow()
    if kind == "edm":
        return EDM(float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0)))
    return DDPM(tuple(_table(config).tolist()))


def prediction_of(config: Mapping[str, Any]) -> str:
    """What the network predicts, as a row of ``denoisers.PREDICTIONS``: eps, x0, v, flow or edm."""
    kind = kind_of(config)
    said = config.get("prediction_type", "flow_prediction" if kind == "flow" else "epsilon")
    if kind == "edm":
        if said != "epsilon":
            raise UserError(f"prediction_type must be 'epsilon' with EDM's preconditioning, got {said!r}")
        return "edm"
    if said not in PREDICTIONS:
        raise unknown("prediction_type", str(said), PREDICTIONS)
    return PREDICTIONS[said]


def kind_of(config: Mapping[str, Any]) -> str:
    """``table``, ``flow`` or ``edm``.

    Raises:
        UserError: for a class of another kind.
    """
    name = config.get("_class_name") or _by_keys(config)
    if name is not None and name not in ACCEPTED:
        raise UserError(f"the scheduler class {str(name)!r:.60} is not accepted. {accepted()}")
    if name in FLOWS and config.get("invert_sigmas"):
        raise UserError("invert_sigmas must be false: with it σ counts the data, not the noise")
    if name in FLOWS or config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction":
        return "flow"
    if name in EDMS:
        return "edm"
    if config.get("timestep_type", "discrete") != "discrete":
        raise UserError(f"timestep_type must be 'discrete', got {config['timestep_type']!r}")
    return "table"


def accepted() -> str:
    """The accepted classes, as a sentence."""
    return f"Accepted are {', '.join(sorted(ACCEPTED))} (docs/schedulers.md)."


def _by_keys(config: Mapping[str, Any]) -> str | None:
    """A class of the kind of a config without a class name, as a scheduler that was not loaded has it."""
    if "beta_schedule" in config or "beta_start" in config:
        return None
    return (
        FLOWS[0] if {"shift", "base_shift", "max_shift"} & set(config) else EDMS[-1] if "sigma_data" in config else None
    )


def table_size(config: Mapping[str, Any]) -> int:
    """N, ``num_train_timesteps``."""
    return check_integer("num_train_timesteps", config.get("num_train_timesteps", 1000), 1)


def _table(config: Mapping[str, Any]) -> Tensor:
    """β_1…β_N in float64; of a table rescaled to zero terminal SNR (arXiv:2305.08891) ᾱ_N is ``LAST``."""
    betas = torch.tensor(table_of_betas(config, "config"), dtype=torch.float64)
    if config.get("rescale_betas_zero_snr"):
        betas[-1] = 1 - LAST / torch.cumprod(1 - betas[:-1], 0)[-1]
    return betas


@dataclass(frozen=True)
class Conventions:
    """The units in which a pipeline speaks of times, and how its network is read.

    ======  ======================  ============  ===========
    kind    timestep                level          state
    ======  ======================  ============  ===========
    table   n − 1 at knot n of N    σ/α           αx_0 + σε
    flow    N·σ                     σ             αx_0 + σε
    edm     ¼·log σ                 σ             x_0 + σε
    ======  ======================  ============  ===========

    Attributes:
        kind: table, flow or edm.
        process: of the states.
        parameterization: of the network's output.
        size: N.
    """

    kind: str
    process: ScalarGaussian
    parameterization: AffineParameterization
    size: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Conventions:
        """Those of a scheduler's config."""
        kind, process, prediction = kind_of(config), process_of(config), prediction_of(config)
        std = float(config.get("sigma_data", 0.5))
        parameterization = AffineParameterization(prediction, std, "log_sigma" if kind == "edm" else "t")
        parameterization.check(process)
        size = process.steps if isinstance(process, DDPM) else table_size(config)
        return cls(kind, process, parameterization, size)

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told at times t, float64."""
        if self.kind == "edm":
            return torch.log(self.process.sigma(t.clamp_min(self.process.t_min))) / 4
        if self.kind == "flow":
            return t * self.size
        index = (t * self.size - 1).clamp_min(0)
        whole = index.round()
        return torch.where((index - whole).abs() < 1e-6, whole, index)

    def time(self, timestep: Tensor) -> Tensor:
        """The inverse of ``timestep``; outside of [0, 1] for timesteps that are none."""
        timestep = timestep.to(torch.float64)
        if self.kind == "edm":
            return torch.exp(4 * timestep) / self.process.sigma(torch.ones((), dtype=torch.float64))
        return timestep / self.size if self.kind == "flow" else (timestep + 1) / self.size

    def level(self, t: Tensor) -> Tensor:
        """What diffusers calls sigma at times t, float64."""
        return t if self.kind == "flow" else self.process.sigma(t) / self.process.alpha(t)

    def time_of_level(self, level: Tensor) -> Tensor:
        """The inverse of ``level``."""
        level = level.to(torch.float64)
        if self.kind == "flow":
            return level
        return self.process.time(-2 * torch.log(level))

    def largest(self) -> float:
        """The level at t = 1."""
        return float(self.level(torch.ones((), dtype=torch.float64)))

    def initial(self, t: Tensor) -> float:
        """The standard deviation of states of pure noise at the first time."""
        return float(self.process.sigma(t)) if self.kind == "edm" else 1.0


def shifted(t: Tensor, config: Mapping[str, Any], mu: float | None) -> Tensor:
    r"""Times of a flow with σ/α multiplied by the shift of a config (arXiv:2403.03206 eq. 23).

    .. math:: t \mapsto \frac{f t}{1 + (f - 1) t}

    with f the config's ``shift`` or, with ``use_dynamic_shifting``, e^μ (μ where ``time_shift_type`` is linear).
    """
    if not config.get("use_dynamic_shifting"):
        factor = float(config.get("shift", config.get("flow_shift", 1.0)) or 1.0)
    elif mu is None:
        raise UserError("mu must be given: the config has use_dynamic_shifting, got None")
    else:
        factor = math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else float(mu)
    return factor * t / (1 + (factor - 1) * t)
