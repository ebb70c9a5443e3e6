"""CLIP guidance by cut-outs: what an encoder finds in pieces of the picture leads it to prompts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._errors import UserError, check_instance
from .._registry import register
from ..denoisers import ContrastiveEncoder, Denoiser, check_is_denoiser
from ..distributions import Distribution, Noise, Stream
from ..processes import ScalarGaussian, expand, require
from .cutouts import Cutouts, coloured, resized
from .step_schedule import StepSchedule
from .tilt import Tilted

Scheduled = StepSchedule | str | float
"""A number, or a schedule of numbers over the steps."""

KNOBS = {
    "clip_guidance_scale": (-1e9, 1e9, False),
    "tv_scale": (0.0, 1e9, False),
    "range_scale": (0.0, 1e9, False),
    "sat_scale": (0.0, 1e9, False),
    "init_scale": (0.0, 1e9, False),
    "cut_overview": (0, 256, True),
    "cut_innercut": (0, 256, True),
    "cut_ic_pow": (1e-3, 1e3, False),
    "cut_icgray_p": (0.0, 1.0, False),
    "cutn_batches": (1, 256, True),
    "clamp_max": (1e-9, 1e9, False),
}
"""Settings that may change over the steps: the least, the greatest, and whether they are integers."""

PLACES = 1000
"""Shares of the way at which schedules are held against each other."""


@dataclass(frozen=True)
class ClipSettings:
    """The knobs of CLIP guidance under the names by which Disco Diffusion made them known.

    Each but the switches is a number, or a schedule over the steps such as ``[12]*400+[4]*600``.

    Args:
        clip_guidance_scale: weight of the distance to the prompts; below 0 it leads away.
        tv_scale: weight of the total variation: smooth pictures.
        range_scale: weight of what lies outside of [−1, 1].
        sat_scale: the same, to the first power and of the picture that the encoder is shown.
        init_scale: weight of the distance to the initial picture, if there is one.
        cut_overview, cut_innercut: cut-outs of the whole picture, and of parts of it, in each batch of them.
        cut_ic_pow: above 1 most inner cuts are small.
        cut_icgray_p: share of inner cuts in grey.
        cutn_batches: batches of cut-outs a step, over which the mean is taken.
        clamp_max: root mean square of the gradient at most.
        clamp_grad: whether it is bounded.
        skip_augs: show the cut-outs as they are, without turning, mirroring and colouring them; ``cut_icgray_p`` is
            kept.
    """

    clip_guidance_scale: Scheduled = 5000.0
    tv_scale: Scheduled = 0.0
    range_scale: Scheduled = 150.0
    sat_scale: Scheduled = 0.0
    init_scale: Scheduled = 1000.0
    cut_overview: Scheduled = "[12]*400+[4]*600"
    cut_innercut: Scheduled = "[4]*400+[12]*600"
    cut_ic_pow: Scheduled = 1.0
    cut_icgray_p: Scheduled = "[0.2]*400+[0]*600"
    cutn_batches: Scheduled = 1
    clamp_max: Scheduled = 0.05
    clamp_grad: bool = True
    skip_augs: bool = False

    def resolved(self) -> dict[str, StepSchedule]:
        """The schedules by name.

        Raises:
            UserError: for what is no schedule, a value out of its range, or steps without a cut-out.
        """
        found = {
            name: StepSchedule.of(getattr(self, name), name, low, high, whole=whole)
            for name, (low, high, whole) in KNOBS.items()
        }
        over, inner = found["cut_overview"], found["cut_innercut"]
        for place in range(PLACES):
            if over.at(place / PLACES) + inner.at(place / PLACES) < 1:
                raise UserError(
                    f"cut_overview and cut_innercut must not both be 0, as they are at {place / PLACES:.1%} of the way"
                )
        return found


@dataclass(frozen=True, eq=False)
class ClipGuided(Tilted):
    """The base, tilted by −loss of its predicted clean data and its state; the gradient is bounded."""

    encoder: ContrastiveEncoder
    vectors: Tensor
    weights: Tensor
    grid: Tensor
    settings: ClipSettings
    init: Tensor | None
    seed: int
    schedules: dict[str, StepSchedule] = field(default_factory=dict)

    def log_factor(self, x_t: Tensor, t: Tensor, belief: Distribution) -> Tensor:
        return -sum(self.losses(x_t, t, belief.mean).values(), torch.zeros(len(x_t)).to(x_t))

    def losses(self, x_t: Tensor, t: Tensor, predicted: Tensor) -> dict[str, Tensor]:
        """The terms, weighted, by name, each ``(B,)``."""
        step, at = self._at(t)
        shown = mixed(self.base.process, x_t, t, predicted)
        found = {"clip": at["clip_guidance_scale"] * self._distance(shown, step, at)}
        if at["tv_scale"]:
            found["tv"] = at["tv_scale"] * total_variation(shown)
        if at["range_scale"]:
            found["range"] = at["range_scale"] * out_of_range(predicted)
        if at["sat_scale"]:
            found["sat"] = at["sat_scale"] * saturation(shown)
        if self.init is not None and at["init_scale"]:
            found["init"] = at["init_scale"] * perceptual_distance(self.encoder, shown, self.init.to(shown))
        return found

    def _at(self, t: Tensor) -> tuple[int, dict[str, float]]:
        """The number of the step that begins at a time, and what the schedules say there."""
        first = t.reshape(-1)[0]
        if bool((t != first).any()):
            raise UserError("t must be one time for all samples with schedules over the steps")
        step = int((self.grid.to(first) - first).abs().argmin())
        progress = step / max(1, len(self.grid) - 1)
        return step, {name: schedule.at(progress) for name, schedule in self.schedules.items()}

    def _distance(self, shown: Tensor, step: int, at: dict[str, float]) -> Tensor:
        """The weighted distance to the prompts, the mean over cut-outs and batches of them, ``(B,)``."""
        height, width = self.encoder.shape[1:]
        cut = Cutouts(
            int(at["cut_overview"]),
            int(at["cut_innercut"]),
            at["cut_ic_pow"],
            at["cut_icgray_p"],
            (height, width),
            not self.settings.skip_augs,
        )
        noise = Noise(self.seed, 1).step(step)
        vectors, weights = self.vectors.to(shown), self.weights.to(shown)
        total = torch.zeros(len(shown)).to(shown)
        batches = int(at["cutn_batches"])
        for number in range(batches):
            cuts = cut(
                coloured(shown, self.encoder.shape[0]), noise.fold_in(Stream.CUT_BATCH + number).to(shown.device)
            )
            image = self.encoder.encode_image(cuts.flatten(0, 1))
            apart = spherical_distance(image[:, None], vectors.to(image))
            total = total + (apart @ weights.to(apart)).view(cuts.shape[:2]).mean(0).to(total) / batches
        return total

    def _gradient(self, x: Tensor, t: Tensor, belief: Distribution, *, keep: bool) -> Tensor:
        gradient = super()._gradient(x, t, belief, keep=keep)
        if not self.settings.clamp_grad:
            return gradient
        _, at = self._at(t)
        # In the units of a process that preserves variance, whose states are smaller by √(α² + σ²).
        own = expand(_size(self.base.process, t), gradient) * gradient
        rms = own.square().flatten(1).mean(1).sqrt().clamp_min(torch.finfo(own.dtype).tiny)
        return gradient * expand(rms.clamp(max=at["clamp_max"]) / rms, gradient)


def _size(process: Any, t: Tensor) -> Tensor:
    own: ScalarGaussian = require(process, ScalarGaussian, "CLIP guidance")
    return (own.alpha(t) ** 2 + own.sigma2(t)).sqrt()


def mixed(process: Any, x_t: Tensor, t: Tensor, predicted: Tensor) -> Tensor:
    r"""What the encoder is shown, :math:`f \hat x_0 + (1 - f) x_t / S` with :math:`f = σ / S, S^2 = α^2 + σ^2`.

    At noise it is the prediction, at the end the state itself.
    """
    size = _size(process, t)
    share = expand(process.sigma(t) / size, x_t)
    return share * predicted + (1 - share) * x_t / expand(size, x_t)


def spherical_distance(u: Tensor, v: Tensor) -> Tensor:
    """Half of the square of the angle of vectors ``(…, E)``, as 2 arcsin²(|u − v|/2), which loses nothing near 0."""
    u, v = F.normalize(u, dim=-1), F.normalize(v, dim=-1)
    return 2 * ((u - v).norm(dim=-1) / 2).clamp(max=1 - 1e-7).arcsin().square()


def total_variation(x: Tensor) -> Tensor:
    """The mean square of differences of neighbours, down and across, ``(B,)``; the last has none (1412.0035 eq. 4)."""
    across, down = x.diff(dim=-1).square(), x.diff(dim=-2).square()
    numbers = x[0].numel()
    return (across.flatten(1).sum(1) + down.flatten(1).sum(1)) / numbers


def out_of_range(x: Tensor) -> Tensor:
    """The mean square of what lies outside of [−1, 1], ``(B,)``."""
    return (x - x.clamp(-1, 1)).square().flatten(1).mean(1)


def saturation(x: Tensor) -> Tensor:
    """The mean of what lies outside of [−1, 1], ``(B,)``."""
    return (x - x.clamp(-1, 1)).abs().flatten(1).mean(1)


def perceptual_distance(encoder: ContrastiveEncoder, x: Tensor, y: Tensor) -> Tensor:
    """The mean over places of the square distance of the encoder's features, each of length 1 (1801.03924 eq. 1).

    The pictures are brought to the size and the colours that the encoder reads.
    """
    shape = encoder.shape
    features = lambda z: F.normalize(encoder.feature_map(resized(coloured(z, shape[0]), (shape[1], shape[2]))), dim=1)
    return (features(x) - features(y)).square().sum(1).flatten(1).mean(1)


@register(
    "guidance",
    "clip",
    title="CLIP guidance by cut-outs (Disco Diffusion)",
    arxiv="2103.00020, 2105.05233",
    proof="exact: tests/guidance/test_clip_guidance.py",
)
def clip_guidance(
    denoiser: Denoiser,
    encoder: ContrastiveEncoder,
    vectors: Tensor,
    weights: Tensor,
    *,
    grid: Tensor,
    settings: ClipSettings | None = None,
    init: Tensor | None = None,
    seed: int = 0,
) -> Denoiser:
    r"""Guidance of a model of pictures by an encoder of clean ones, through cut-outs (Disco Diffusion, 2022):

    .. math::
        \hat x_0' = \hat x_0 - \frac{σ_t^2}{α_t}\,\mathrm{clamp}\Big(∇_{x_t}\big[
            c \textstyle\sum_p w_p \frac1K \sum_k \tfrac12 ∠(u(k), v_p)^2
            + \text{tv}(\tilde x) + \text{range}(\hat x_0) + \text{sat}(\tilde x) + \text{init}(\tilde x) \big]\Big)

    with u(k) the vector of cut-out k of :math:`\tilde x = f \hat x_0 + (1 - f) x_t / S`, where :math:`f = σ_t / S` and
    :math:`S^2 = α_t^2 + σ_t^2`, v_p the vectors of the prompts and w_p their weights, divided by the size of their sum,
    and :math:`\mathrm{clamp}(g) = g \min(1, m/r)` with r the root mean square of g over the pixels of a sample. The
    gradient goes through the denoiser. States and gradients are in the units of a process that preserves variance,
    whatever the denoiser's, so that known settings mean what they are known for.

    The published programme has a perceptual distance of another network (LPIPS) for the initial picture; this one takes
    the encoder's own features.

    Args:
        denoiser: the belief, of pictures in [−1, 1], on a scalar-Gaussian process.
        encoder: of clean pictures; it is asked at t = 0.
        vectors: unit vectors of the prompts, ``(P, E)``.
        weights: ``(P,)``; their sum is not 0.
        grid: all times of the sampler's steps, also those that a run skips: schedules are over them.
        settings: see ``ClipSettings``.
        init: the initial picture, ``(1, *shape)``, which ``init_scale`` keeps near.
        seed: of the cut-outs, which are the same for all samples of a step.

    Raises:
        UserError: for no model of pictures, an encoder that has seen no clean ones, settings out of range, weights
            whose sum is 0, or other shapes.
    """
    check_is_denoiser(denoiser)
    check_instance("encoder", encoder, ContrastiveEncoder, "a contrastive encoder, as langevin.load gives it")
    encoder.check_clean()
    if len(denoiser.shape) != 3 or len(encoder.shape) != 3:
        raise UserError(f"CLIP guidance is of pictures (C, H, W), got {denoiser.shape} and {encoder.shape}")
    settings = ClipSettings() if settings is None else settings
    check_instance("settings", settings, ClipSettings, "a langevin.guidance.ClipSettings")
    for name, value in (("vectors", vectors), ("weights", weights), ("grid", grid)):
        check_instance(name, value, Tensor, "a tensor")
    check_instance("init", init, (Tensor, type(None)), "a picture (1, C, H, W)")
    schedules = settings.resolved()
    if vectors.ndim != 2 or weights.shape != vectors.shape[:1] or not len(weights):
        raise UserError(f"vectors must be (P, E) with P weights, got {tuple(vectors.shape)} and {tuple(weights.shape)}")
    size = float(weights.sum().abs())
    if not size >= 1e-3:
        raise UserError(f"weights must not sum to 0, got {weights.tolist()}")
    if init is not None and tuple(init.shape) != (1, *denoiser.shape):
        raise UserError(f"init must have shape (1, *{tuple(denoiser.shape)}), got {tuple(init.shape)}")
    coloured(torch.zeros(1, *denoiser.shape), encoder.shape[0])
    return ClipGuided(denoiser, encoder, vectors, weights / size, grid, settings, init, seed, schedules)
