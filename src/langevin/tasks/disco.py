"""Pictures that an encoder of pictures and words leads to prompts: what Disco Diffusion does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_integer, shown
from .._registry import register
from ..denoisers import ContrastiveEncoder, Denoiser, check_is_denoiser
from ..distributions import Noise, Stream
from ..guidance import ClipSettings, clip_guidance
from ..guidance.cutouts import coloured, resized
from ..samplers import DDIM, resolve, trajectory
from ..samplers.sampling import check_memory

STEPS, ETA = 50, 0.8
"""Steps of a run if nothing is said, and DDIM's η."""


@dataclass(frozen=True)
class Prompt:
    """What a picture is to be like.

    Args:
        text: the words; of a picture, its file.
        weight: relative to those of the other prompts; below 0 it is led away from.
    """

    text: str
    weight: float = 1.0

    @classmethod
    def of(cls, written: str) -> Prompt:
        """``TEXT`` or ``TEXT:WEIGHT``; what stands behind the last colon is a weight if it is a number.

        Raises:
            UserError: for an empty text, or a weight that is not finite.
        """
        text, colon, last = written.rpartition(":")
        try:
            weight = float(last) if colon else 1.0
        except ValueError:
            text, weight = written, 1.0
        text = text if colon else written
        if not text.strip():
            raise UserError(f"a prompt must be TEXT or TEXT:WEIGHT, got {written!r}")
        if not math.isfinite(weight):
            raise UserError(f"weight of the prompt {text!r} must be a finite number, got {last!r}")
        return cls(text, weight)


@dataclass(frozen=True)
class Led:
    """Pictures that were led to prompts.

    Attributes:
        x: float32 ``(n, *shape)``, clipped to the range of the data.
        steps: that were taken, those that were skipped not counted.
        similarity: of each picture with each prompt, the cosine of their vectors, ``(n, P)``.
    """

    x: Tensor
    steps: int
    similarity: Tensor


@register(
    "tasks",
    "disco",
    title="Pictures led to prompts by cut-outs (Disco Diffusion)",
    arxiv="2103.00020, 2105.05233",
    proof="exact: tests/tasks/test_disco.py, tests/guidance/test_clip_guidance.py",
)
def disco(
    model: Denoiser,
    encoder: ContrastiveEncoder,
    vectors: Tensor,
    weights: Sequence[float] | Tensor,
    *,
    n: int = 1,
    steps: int = STEPS,
    skip_steps: int = 0,
    init_image: Tensor | None = None,
    settings: ClipSettings | None = None,
    eta: float = ETA,
    seed: int = 0,
    batch: int = 8,
    show: Callable[[int, Tensor], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Led:
    r"""DDIM with noise under ``guidance.clip_guidance``, from noise or from a picture that is noised.

    With an initial picture y and ``skip_steps`` k the run begins at the time t_k of the grid, from
    :math:`x = α y + σ z` there; schedules go on being over all steps. Sample i depends on (seed, i) alone.

    Args:
        model: of pixels in [−1, 1], without conditions or with none given.
        encoder: of clean pictures and captions.
        vectors: of the prompts, ``(P, E)``; ``encoder.encode_text`` makes them, and ``image_vectors`` of pictures.
        weights: P numbers, relative to each other, whose sum is not 0.
        n: how many.
        steps: of the whole grid.
        skip_steps: of them, from 0 to ``steps`` − 1; more than 0 needs an initial picture.
        init_image: ``(1, *shape)`` in the range of the data.
        settings: the knobs of the guidance.
        eta: DDIM's η in [0, 1].
        seed: of the noise and of the cut-outs.
        batch: pictures drawn at a time.
        show: called as ``show(step, x̂_0)`` after every step of the first batch, with the guided prediction.
        progress: called as ``progress(done, total)``, counting sample-steps.

    Raises:
        UserError: for a request that cannot be met, before any work.
    """
    check_is_denoiser(model, "model")
    check_instance("encoder", encoder, ContrastiveEncoder, "a contrastive encoder, as langevin.load gives it")
    check_instance("init_image", init_image, (Tensor, type(None)), f"a picture (1, *{tuple(model.shape)})")
    if model.autoencoder is not None or len(model.stages) > 1:
        raise UserError("model must be of pixels, in one stage: cut-outs are of pictures, not of codes")
    about = model.output
    if about is not None and (about.low, about.high) not in ((-1.0, 1.0), (None, None)):
        raise UserError(f"model must be of pictures in [-1, 1], got data in [{about.low}, {about.high}]")
    for name, value, low, high in (("n", n, 1, None), ("steps", steps, 1, 100_000), ("batch", batch, 1, None)):
        check_integer(name, value, low, high)
    check_integer("skip_steps", skip_steps, 0, steps - 1)
    check_integer("seed", seed, 0, 2**64 - 1)
    if skip_steps and init_image is None:
        raise UserError(
            f"skip_steps {skip_steps} begin at a picture that is noised: give init_image, or leave them out"
        )
    check_memory(n, model)
    plan = resolve(model, DDIM(eta=eta), steps=steps)
    guided = clip_guidance(
        model,
        encoder,
        vectors,
        _numbers(weights),
        grid=plan.grid,
        settings=settings,
        init=init_image,
        seed=seed,
    )
    grid = plan.grid[skip_steps:]
    total, done, parts = n * (len(grid) - 1), 0, []
    with torch.no_grad():
        for first in range(0, n, batch):
            noise = Noise(seed, n).rows(slice(first, min(first + batch, n))).to(model.device)
            if init_image is not None and skip_steps:
                whole = init_image.to(model.device).expand(len(noise), *init_image.shape[1:])
                start = model.process.marginal(whole, grid[0]).sample(noise.fold_in(Stream.RAISED))
            else:
                start = model.process.prior(model.shape).sample(noise.step(0))
            states = trajectory(guided, plan.sampler, grid=grid, start=start.to(model.device), noise=noise)
            state = next(states)
            for number, state in enumerate(states, skip_steps + 1):
                done += len(noise)
                if show is not None and first == 0 and state.belief is not None:
                    show(number, state.belief.mean.float().clamp(-1, 1).cpu())
                if progress is not None:
                    progress(done, total)
            parts.append(model.read(state.x).float().cpu())
        x = torch.cat(parts)
        if not bool(x.isfinite().all()):
            raise UserError("the pictures are not finite: lower clip_guidance_scale or clamp_max, or take more steps")
        x = x.clamp(-1, 1)
        near = image_vectors(encoder, x, batch) @ vectors.float().cpu().mT
    return Led(x, len(grid) - 1, near)


def _numbers(weights: Sequence[float] | Tensor) -> Tensor:
    try:
        return torch.as_tensor(weights, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"weights must be numbers, one a prompt, got {shown(weights)}") from None


def image_vectors(encoder: ContrastiveEncoder, pictures: Tensor, batch: int = 64) -> Tensor:
    """Unit vectors ``(N, E)`` of pictures ``(N, C, H, W)``, brought to the size and the colours an encoder reads."""
    height, width = encoder.shape[1:]
    with torch.no_grad():
        parts = [
            encoder.encode_image(resized(coloured(part, encoder.shape[0]), (height, width)).to(encoder.device))
            for part in pictures.split(batch)
        ]
    return torch.cat(parts).float().cpu()
