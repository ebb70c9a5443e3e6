"""The conventions of a scheduler of diffusers: which noise level a time stands for, and what its network returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .truth import Belief

Level = tuple[float, float]
"""(a, s) of x = a·x_0 + s·ε."""

PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v", "flow_prediction": "flow"}
"""diffusers' names of what a network returns, and ours."""


class Unreadable(Exception):
    """A scheduler whose network is no denoiser, or whose steps take more than its output: the reason."""


@dataclass(frozen=True)
class SchedulerConventions:
    """What a scheduler takes for granted of its network, of times and of noise levels.

    Attributes:
        family: table (an ᾱ for each time), flow (σ is the time), edm, angle.
        prediction: what its network returns: eps, x0, v, flow, edm.
        level: a time to the (α, σ) of what the network is given, before any scaling of its input.
        input_scale: the factor on that input which the network is trained with, at a level.
        least: the smallest noise-to-signal ratio that the network is trained with.
        own: a σ of the scheduler's own list to the level of its state.
    """

    family: str
    prediction: str
    level: Callable[[float], Level]
    own: Callable[[float], Level]
    input_scale: Callable[[Level], float] = lambda level: 1.0
    sigma_data: float = 1.0
    least: float = 1e-3

    def network(self, x: Tensor, time: float, belief: Belief) -> Tensor:
        """What an exact network returns for its input x at a time, in float64."""
        alpha, sigma = self.level(time)
        scale = self.input_scale((alpha, sigma))
        a, s = alpha * scale, sigma * scale
        mean = belief(x.to(torch.float64), a, s)
        eps = (x - a * mean) / s if s else torch.zeros_like(mean)
        if self.prediction == "edm":
            c_skip, c_out = _edm(sigma, self.sigma_data)
            return (mean - c_skip * x / scale) / c_out
        p, q = {
            "eps": (0.0, 1.0),
            "x0": (1.0, 0.0),
            "v": (-sigma, alpha),
            "flow": (-1.0, 1.0),
            "reversed-flow": (1.0, -1.0),
        }[self.prediction]
        return p * mean + q * eps


def _edm(sigma: float, sigma_data: float) -> tuple[float, float]:
    """c_skip and c_out of arXiv:2206.00364, Table 1."""
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / math.sqrt(total)


def preserving(sigma: float) -> Level:
    """The level of ratio σ whose squares sum to 1."""
    return 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)


def exploding(sigma: float) -> Level:
    """x_0 + σ ε."""
    return 1.0, sigma


def straight(sigma: float) -> Level:
    """(1 − σ) x_0 + σ ε."""
    return 1.0 - sigma, sigma


DISTILLED = "its network is a consistency function, not a denoiser"
SPECIAL = {
    "AmusedScheduler": "its samples are tokens",
    "BlockRefinementScheduler": "its samples are tokens",
    "DiscreteDDIMScheduler": "its samples are tokens",
    "EntropyBoundScheduler": "its samples are tokens",
    "VQDiffusionScheduler": "its samples are tokens",
    "CMStochasticIterativeScheduler": DISTILLED,
    "ConsistencyDecoderScheduler": DISTILLED,
    "LCMScheduler": DISTILLED,
    "TCDScheduler": DISTILLED,
    "FlowMatchLCMScheduler": DISTILLED,
    "SCMScheduler": DISTILLED,
    "FlowMapEulerDiscreteScheduler": "its network jumps between two times",
    "PiflowScheduler": "its network returns a policy",
    "DDIMInverseScheduler": "it goes from data to noise",
    "DPMSolverMultistepInverseScheduler": "it goes from data to noise",
    "RePaintScheduler": "it needs a picture and a mask at every step",
    "KarrasVeScheduler": "its steps take two noise levels each",
    "ScoreSdeVeScheduler": "it has no step, but a predictor and a corrector",
    "ScoreSdeVpScheduler": "it has no step, but a predictor",
    "CogVideoXDPMScheduler": "its step takes the prediction before",
    "HeliosScheduler": "it works in stages of growing size",
    "HeliosDMDScheduler": "it works in stages of growing size",
    "RFD4ProteinaScheduler": "it is for structures of proteins",
    "DDPMWuerstchenScheduler": "its times are one a sample, and have no table",
}
"""Schedulers of diffusers to which exact denoisers of pictures mean nothing, each with the reason."""


def read(scheduler: Any) -> SchedulerConventions:
    """How a scheduler is read, from its configuration and tables.

    Raises:
        Unreadable: with the reason.
    """
    config: Any = getattr(scheduler, "config", {})
    name, get = type(scheduler).__name__, lambda key, other=None: value(config, key, other)
    if get("stochastic_sampling"):
        raise Unreadable(DISTILLED)
    if why := SPECIAL.get(name):
        raise Unreadable(why)
    kind = str(get("prediction_type", "epsilon"))
    if get("sigma_data") is not None:
        sigma_data = float(get("sigma_data"))
        if kind != "epsilon":
            raise Unreadable(f"prediction_type {kind!r} of EDM's preconditioning is not read here")
        scaled = lambda level: 1 / math.hypot(level[1], sigma_data * level[0])
        return SchedulerConventions(
            "edm",
            "edm",
            lambda t: exploding(math.exp(4 * t)),
            exploding,
            scaled,
            sigma_data,
            float(get("sigma_min") or 0.002),
        )
    if name == "IPNDMScheduler":
        angle = lambda t: (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2))
        return SchedulerConventions("angle", "v", angle, preserving)
    if name == "MiniMaxH3Scheduler":
        return SchedulerConventions("flow", "reversed-flow", lambda t: straight(1 - t), straight)
    count = float(get("num_train_timesteps") or 1000)
    flows = get("use_flow_sigmas", False) or (not hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "sigmas"))
    if flows:
        prediction = "flow" if get("prediction_type") is None else PREDICTIONS.get(kind, kind)
        return SchedulerConventions("flow", prediction, lambda t: straight(t / count), straight)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise Unreadable("it has neither a table alphas_cumprod nor sigmas, so its noise levels are not known")
    if kind not in PREDICTIONS:
        raise Unreadable(f"prediction_type {kind!r} is not read here")
    table = AlphaTable(scheduler.alphas_cumprod)
    return SchedulerConventions(
        "table", PREDICTIONS[kind], table, preserving, least=math.exp(float(table.log_ratio[0]))
    )


def value(config: Any, key: str, other: Any = None) -> Any:
    """A setting of a configuration, a mapping or an object."""
    return config.get(key, other) if isinstance(config, Mapping) else getattr(config, key, other)


class AlphaTable:
    """(√ᾱ, √(1 − ᾱ)) at a time: at a whole number of the table itself, between two of them with log σ/α linear.

    Args:
        alphas_cumprod: ᾱ of the times 0, 1, …, N − 1.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self.bar = np.asarray(torch.as_tensor(alphas_cumprod).to(torch.float64))
        with np.errstate(divide="ignore"):
            self.log_ratio = 0.5 * (np.log1p(-self.bar) - np.log(self.bar))

    def __call__(self, time: float) -> Level:
        index = min(max(float(time), 0.0), len(self.bar) - 1.0)
        below = int(index)
        if index == below:
            return math.sqrt(self.bar[below]), math.sqrt(1 - self.bar[below])
        share = index - below
        return preserving(math.exp((1 - share) * self.log_ratio[below] + share * self.log_ratio[below + 1]))
