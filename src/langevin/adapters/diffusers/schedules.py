"""What a scheduler's configuration says of the model that is loaded: its process, what it predicts, its times.

``scheduler_config.py`` reads the same files for ``Scheduler``, which runs in a pipeline and needs the pipeline's units.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_instance, check_integer, unknown
from ...processes import (
    DDPM,
    EDM,
    VE,
    Process,
    RectifiedFlow,
    cosine_betas,
    linear_betas,
    scaled_linear_betas,
    zero_terminal_snr,
)
from ...storage.untrusted import settings

PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
"""diffusers' names of what a network predicts, and ours."""

TRAINED = 10**5
"""Training steps of a table at most."""


@dataclass(frozen=True)
class BetaTable:
    """The settings of a table of β, as schedulers keep them."""

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    trained_betas: list[float] | None = None
    rescale_betas_zero_snr: bool = False


@dataclass(frozen=True)
class Noising:
    """How a network was trained.

    Attributes:
        process: the noising.
        prediction: a row of ``denoisers.parameterization.PREDICTIONS``.
        time: a row of ``TIME_INPUTS``.
        scale: what that is multiplied by on its way to the network: a flow's time is told as σ·1000.
        sigma_data: σ_d of EDM's preconditioning.
    """

    process: Process
    prediction: str
    time: str
    scale: float = 1.0
    sigma_data: float = 0.5


def noising(config: Mapping[str, Any], where: str) -> Noising:
    """What the configuration of a scheduler (``scheduler_config.json``) says.

    The algorithm of the scheduler is of no matter: any sampler asks the same network.

    Args:
        config: its settings, those left out at the defaults of its class.
        where: the file, for messages.

    Raises:
        UserError: for a class or a setting that is not known, naming the file.
    """
    name = str(config.get("_class_name"))
    own = scheduler(config, where)
    made = dict(own.config)
    predicted = made.get("prediction_type", "epsilon")
    if name == "ScoreSdeVeScheduler":
        return Noising(VE(float(made["sigma_min"]), float(made["sigma_max"])), "score", "sigma")
    if "FlowMatch" in name or made.get("use_flow_sigmas"):
        return Noising(RectifiedFlow(), "flow", "t", float(made["num_train_timesteps"]))
    if predicted not in PREDICTIONS:
        raise UserError(f"{where}: prediction_type must be one of {', '.join(PREDICTIONS)}, got {predicted!r}")
    if name.startswith("EDM"):
        if predicted != "epsilon":
            raise UserError(f"{where}: {name} with prediction_type {predicted!r} is not known here; 'epsilon' is")
        process = EDM(float(made["sigma_min"]), float(made["sigma_max"]))
        return Noising(process, "edm", "log_sigma", sigma_data=float(made["sigma_data"]))
    if "beta_schedule" not in inspect.signature(type(own)).parameters:
        known = ["ScoreSdeVeScheduler", "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "those of a table of β"]
        raise UserError(f"{where}: the process of a {name} is not known here; known are {', '.join(known)}")
    return Noising(DDPM(table_of_betas(made, where)), PREDICTIONS[predicted], "index")


def table_of_betas(config: Mapping[str, Any], where: str) -> tuple[float, ...]:
    """β_1…β_N of a configuration, settings that are left out at diffusers' defaults."""
    names = BetaTable.__dataclass_fields__
    table = BetaTable(**settings(BetaTable, {k: v for k, v in config.items() if k in names and v is not None}, where))
    n, ends = table.num_train_timesteps, (table.beta_start, table.beta_end)
    if table.trained_betas is not None:
        betas = tuple(float(b) for b in table.trained_betas)
    elif table.beta_schedule == "linear":
        betas = linear_betas(n, *ends)
    elif table.beta_schedule == "scaled_linear":
        betas = scaled_linear_betas(n, *ends)
    elif table.beta_schedule == "squaredcos_cap_v2":
        betas = cosine_betas(n)
    elif table.beta_schedule == "sigmoid":
        share = torch.sigmoid(torch.linspace(-6, 6, n, dtype=torch.float64))
        betas = tuple((ends[0] + share * (ends[1] - ends[0])).tolist())
    else:
        raise unknown("beta_schedule", table.beta_schedule, ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
    return zero_terminal_snr(betas) if table.rescale_betas_zero_snr else betas


def given(scheduler: Any) -> dict[str, Any] | None:
    """The configuration of a scheduler that is given as one, or as the scheduler itself.

    Raises:
        UserError: for what is neither, and for a configuration that does not name its class, as that of a scheduler
            that was made does not.
    """
    from .directory import package

    if scheduler is None:
        return None
    if isinstance(scheduler, package("diffusers").SchedulerMixin):
        return {**scheduler.config, "_class_name": type(scheduler).__name__}
    what = "a scheduler of diffusers, as DDPMScheduler(), or its configuration with _class_name"
    check_instance("scheduler", scheduler, Mapping, what)
    if not isinstance(scheduler.get("_class_name"), str):
        raise UserError(f"scheduler must be {what}, got one of {len(scheduler)} settings without _class_name")
    return dict(scheduler)


def complete(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings of a scheduler, those left out at the defaults of its class."""
    return dict(scheduler(config, where).config)


def scheduler(config: Mapping[str, Any], where: str = "scheduler") -> Any:
    """diffusers' own scheduler of a configuration.

    Raises:
        UserError: for a class that is none of diffusers' schedulers, or settings that it refuses.
    """
    from .directory import package, quiet

    peers = package("diffusers")
    name = str(config.get("_class_name"))
    kind: Any = getattr(peers, name, None) if name.endswith("Scheduler") else None
    known = isinstance(kind, type) and issubclass(kind, peers.SchedulerMixin)
    if not known:
        raise UserError(f"{where}: {name!r:.60} is no scheduler of diffusers")
    check_integer("num_train_timesteps", config.get("num_train_timesteps", 1000), 1, TRAINED)
    plain = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        with quiet():
            return kind.from_config(plain)
    except Exception as error:
        raise UserError(f"{where}: {name} refuses its settings: {error}") from None


def shift(config: Mapping[str, Any], tokens: int) -> float:
    r"""The shift s of a flow's times at a resolution, :math:`t' = s t / (1 + (s - 1) t)` (arXiv:2403.03206 eq. 23).

    Args:
        config: of the scheduler, complete.
        tokens: patches of the image, which a dynamic shift depends on: log s is linear in their number.
    """
    if not config.get("use_dynamic_shifting"):
        return float(config.get("shift", config.get("flow_shift", 1.0)) or 1.0)
    mu = _mu(config, tokens)
    return math.exp(mu) if config.get("time_shift_type", "exponential") == "exponential" else mu


def _mu(config: Mapping[str, Any], tokens: int) -> float:
    small, large = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return float(low + (high - low) * (tokens - small) / (large - small))


def native_grid(model: Any, steps: int) -> Tensor:
    """The times at which the scheduler of a pipeline asks in so many steps, and the one it ends at, for any sampler.

    Args:
        model: as ``langevin.load`` gives it of a directory of diffusers.
        steps: as ``num_inference_steps``.

    Returns:
        float64, from noise to data; repeated times (of schedulers that ask twice) once.

    Raises:
        UserError: for a model that is of no pipeline.
    """
    about = getattr(model, "config", {}).get("diffusers")
    if about is None:
        raise UserError("native_grid needs a model that langevin.load read from a pipeline of diffusers")
    check_integer("steps", steps, 1)
    own = scheduler(about["scheduler"])
    config, more = own.config, {}
    if about.get("tokens") and config.get("use_dynamic_shifting"):
        more["mu"] = _mu(config, about["tokens"])
    try:
        if about.get("tokens") and about["pipeline"].startswith("Flux") and not config.get("use_flow_sigmas"):
            own.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], **more)
        else:
            own.set_timesteps(steps, **more)
    except (ValueError, RuntimeError, IndexError):
        most, name = int(config.get("num_train_timesteps", 1000)), type(own).__name__
        accepted = f"at most {most}, the training steps of its {name}" if steps > most else f"one that its {name} takes"
        raise UserError(f"steps must be {accepted}, got {steps}") from None
    if isinstance(model.process, RectifiedFlow):
        times = own.sigmas.double()
    elif isinstance(model.process, DDPM):
        count = model.process.steps
        early = config.get("set_alpha_to_one") is False or config.get("final_sigmas_type") == "sigma_min"
        end = torch.tensor([1 / count if early else 0.0], dtype=torch.float64)
        times = torch.cat([(torch.as_tensor(own.timesteps).double().cpu() + 1) / count, end])
    else:
        raise UserError(f"native_grid knows tables and flows, not {model.process}")
    return times[torch.cat([torch.tensor([True]), times.diff() < 0])]
