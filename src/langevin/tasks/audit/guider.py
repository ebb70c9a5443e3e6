"""Guiders of diffusers, and guidance of this library: what guidance must do whatever it is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError
from ...processes import VP
from ...worlds import GaussianMixture
from . import truth
from .behaviour import HALVES, line
from .drive import distance, quiet
from .report import CheckResult, Report, Said, none, said

STEPS = 10
"""Of the run in which a guider is asked; at the middle one of them, unless it is said."""

ROUNDING = 1e-5
"""Of a few float32 operations on numbers of the size of 1, 2^-24 each, scaled by at most 7.5."""


class Guidance(ABC):
    """What the checks ask of a guidance."""

    name: str

    @abstractmethod
    def guide(self, same: bool = False, neutral: bool = False, rows: slice = slice(None), dtype: Any = None) -> Tensor:
        """The guided prediction of 8 states.

        Args:
            same: the condition says nothing: what is predicted with and without it is the same.
            neutral: at the scale that stands for the plain conditional model.
            rows: of the states.
            dtype: of the predictions; None for float64.
        """

    @abstractmethod
    def sides(self, same: bool = False) -> tuple[Tensor, Tensor]:
        """What is predicted with the condition and without."""

    @property
    @abstractmethod
    def scale(self) -> float | None:
        """w of uncond + w (cond − uncond); None if it has none."""

    def again(self) -> tuple[float, str] | None:
        """How far a second run on the same object is from the first, and what is said of it."""
        return None


@dataclass(eq=False)
class Guider(Guidance):
    """Guiders of diffusers that a function makes, each new."""

    name: str
    make: Callable[..., Any]

    def __post_init__(self) -> None:
        with quiet():
            made = self.make()
        wanted = list(getattr(made, "_input_predictions", []))
        if wanted != ["pred_cond", "pred_uncond"]:
            raise UserError(
                f"{self.name} guides by {', '.join(wanted) or 'nothing known'}, and this audits guidance by pred_cond "
                "and pred_uncond"
            )
        self.original = bool(made.config.get("use_original_formulation", False))

    def sides(self, same: bool = False) -> tuple[Tensor, Tensor]:
        a, s = 0.8, 0.6
        x = a * truth.clean(8, 3) + s * truth.noise(8, 4)
        uncond = (x - a * truth.belief(x, a, s)) / s
        part = truth.world().part(0).denoiser(truth.At(a, s))(x.reshape(8, -1), 0.5).mean.reshape(x.shape)
        return (uncond if same else (x - a * part) / s), uncond

    def guide(self, same: bool = False, neutral: bool = False, rows: slice = slice(None), dtype: Any = None) -> Tensor:
        with quiet():
            made = self.make(guidance_scale=0.0 if self.original else 1.0) if neutral else self.make()
            return self.asked(made, STEPS // 2, *(v[rows].to(dtype or v.dtype) for v in self.sides(same)))

    def asked(self, made: Any, step: int, cond: Tensor, uncond: Tensor) -> Tensor:
        """One guider's prediction at a step, with as many sides as it wants there, asked as pipelines ask."""
        made.set_state(step=step, num_inference_steps=STEPS, timestep=torch.tensor(999 - 100 * step))
        if not hasattr(made, "prepare_inputs"):
            out: Tensor = made.forward(cond, uncond).pred
            return out
        sides = made.prepare_inputs({"side": (cond, uncond)})
        for side in sides:
            made.prepare_models(None)
            side.noise_pred = side.side
        out = made(sides).pred
        return out

    @property
    def scale(self) -> float | None:
        with quiet():
            scale = self.make().config.get("guidance_scale")
        return None if scale is None else float(scale) + float(self.original)

    def again(self) -> tuple[float, str]:
        with quiet():
            made, (cond, uncond) = self.make(), self.sides()
            runs = [[self.asked(made, i, cond * (1 + i), uncond) for i in range(STEPS)] for _ in range(2)]
        gap = max(distance(a, b) for a, b in zip(*runs))
        return gap, "the second run of ten steps is the first"


@dataclass(eq=False)
class Ours(Guidance):
    """A guidance of this library that takes a denoiser, a label and a guidance scale."""

    name: str
    function: Callable[..., Any]
    w: float = 3.0

    def world(self, same: bool) -> GaussianMixture:
        """The audit's, or one of a single class, of which a label says nothing."""
        return truth.world().part(0) if same else truth.world()

    def at(self) -> tuple[Tensor, float]:
        t = 0.5
        return truth.world().sample(8, 3, process=VP(), t=t), t

    def sides(self, same: bool = False) -> tuple[Tensor, Tensor]:
        x, t = self.at()
        denoiser = self.world(same).denoiser(VP())
        return denoiser.given(label=0)(x, t).mean, denoiser(x, t).mean

    def guide(self, same: bool = False, neutral: bool = False, rows: slice = slice(None), dtype: Any = None) -> Tensor:
        x, t = self.at()
        denoiser = self.world(same).denoiser(VP())
        guided = self.function(denoiser, label=0, guidance_scale=1.0 if neutral else self.w)
        mean: Tensor = guided(x[rows], t).mean
        return mean

    @property
    def scale(self) -> float | None:
        return self.w


def nothing_to_guide(guidance: Guidance) -> Said:
    """Where the condition says nothing, there is nothing to guide: the prediction stays what it was, to rounding."""
    gap = distance(guidance.guide(same=True), guidance.sides(same=True)[0])
    return said("ok" if gap <= ROUNDING else "WRONG", f"moved by {gap:.1e}", f"at most {ROUNDING:g}", gap=gap)


def neutral_scale(guidance: Guidance) -> Said:
    """At the neutral scale the prediction is the conditional one."""
    if guidance.scale is None:
        return none("it has no guidance_scale")
    gap = distance(guidance.guide(neutral=True), guidance.sides()[0])
    return said("ok" if gap <= ROUNDING else "WRONG", f"off by {gap:.1e}", f"at most {ROUNDING:g}", gap=gap)


def formula(guidance: Guidance) -> Said:
    """How far it is from uncond + w (cond − uncond) at its own scale, over the size of the change: no verdict."""
    if (w := guidance.scale) is None:
        return none("it has no guidance_scale")
    cond, uncond = guidance.sides()
    plain = uncond + w * (cond - uncond)
    gap = distance(guidance.guide(), plain) / max(float((plain - cond).abs().max()), 1e-12)
    figure = f"{gap:.1e} of the change that w = {w:g} makes"
    return said("ok" if gap <= ROUNDING else "note", figure, "classifier-free guidance, 0", gap=gap)


def batch(guidance: Guidance) -> Said:
    """Eight samples at once are those of three and of five."""
    whole = guidance.guide()
    gap = distance(whole, torch.cat([guidance.guide(rows=slice(0, 3)), guidance.guide(rows=slice(3, 8))]))
    return said("ok" if gap <= ROUNDING else "WRONG", f"{gap:.1e}", f"at most {ROUNDING:g}", gap=gap)


def dtype(guidance: Guidance) -> Said:
    """Half-precision predictions give numbers of the same dtype."""
    if not isinstance(guidance, Guider):
        return none("beliefs of exact worlds are float64")
    for kind in HALVES:
        name = str(kind).removeprefix("torch.")
        try:
            out = guidance.guide(dtype=kind)
        except Exception as error:  # a foreign guider may fail in any way, which is said
            return said("WRONG", f"{name}: {type(error).__name__}: {line(error)}", "the dtype that came")
        if out.dtype != kind:
            return said("WRONG", f"{name} in, {str(out.dtype).removeprefix('torch.')} out", "the dtype that came")
        if not bool(out.isfinite().all()):
            return said("WRONG", f"{name}: no numbers", "numbers")
    return said("ok", "float16 and bfloat16 come back", "the dtype that came")


def left_over(guidance: Guidance) -> Said:
    """A second run on the same guider is the first: what it remembers of steps must not outlive a run."""
    found = guidance.again()
    if found is None:
        return none("nothing is kept from run to run")
    gap, text = found
    figure = text if gap == 0 else f"the second run of ten steps differs by {gap:.1e}"
    return said("ok" if gap == 0 else "WRONG", figure, "0", gap=gap)


GUIDES: dict[str, Callable[[Guidance], Said]] = {
    "nothing to guide": nothing_to_guide,
    "neutral scale": neutral_scale,
    "formula": formula,
    "batch": batch,
    "dtype": dtype,
    "left over": left_over,
}
"""A function a row."""


def audit_guidance(guidance: Guidance) -> Report:
    """All checks of a guidance."""
    begun, rows = time.monotonic(), []
    for name, check in GUIDES.items():
        try:
            made = check(guidance)
        except Exception as error:  # of foreign code: it stands in the way of this row alone
            made = said("note", f"could not be measured: {type(error).__name__}: {line(error)}")
        rows.append(made(name))
    about: dict[str, Any] = {"guidance_scale": guidance.scale}
    return Report(guidance.name, "guider", tuple[CheckResult, ...](rows), about, round(time.monotonic() - begun, 2))
