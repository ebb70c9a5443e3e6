"""Our scheduler with an algorithm of diffusers, in pipelines, beside the scheduler of that algorithm.

Both run the same network on the same noise. Theirs keep tables and levels in float32: a coefficient is off by 2⁻²⁴
relative and an error made at t grows by at most 1/√ᾱ_N = 15 on the way (σ/α on the table of latent diffusion), and by
the network's own slope, a few for these: 10 steps · 2⁻²⁴ · 15 · 10 ≈ 1e-4 of the largest number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from langevin import samplers
from langevin.samplers import Multistep

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import small_pipelines as small  # noqa: E402
from langevin.adapters.diffusers import Scheduler  # noqa: E402

SD = {**small.SD_TABLE, "steps_offset": 1}
PEERS: dict[str, tuple[Any, Any]] = {
    "ddim": (lambda: diffusers.DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False), "ddim"),
    "ddim to data": (lambda: diffusers.DDIMScheduler(**SD, clip_sample=False), "ddim"),
    "dpmpp": (lambda: diffusers.DPMSolverMultistepScheduler(**SD), "dpmpp-2m"),
    "deis": (
        lambda: diffusers.DEISMultistepScheduler(**SD, lower_order_final=False),
        Multistep("eps", "log-snr", 2),
    ),
    "unipc": (lambda: diffusers.UniPCMultistepScheduler(**SD), samplers.UniPC(2, taper=True)),
    "unipc 3": (lambda: diffusers.UniPCMultistepScheduler(**SD, solver_order=3), samplers.UniPC(3, taper=True)),
    "euler": (lambda: diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="leading"), "ddim"),
    "v": (lambda: diffusers.DPMSolverMultistepScheduler(**SD, prediction_type="v_prediction"), "dpmpp-2m"),
}
"""A scheduler of diffusers, and the sampler here that is the same algorithm.

Not the same, and why: DPM-Solver++ of order 3 (theirs halves the second difference and is of order 2,
tests/samplers/test_parity_multistep.py); DDIM where N//n is not the stride of its grid (tests/samplers/test_parity.py);
Euler with the spacings linspace and trailing (``test_euler_starts_too_low``); levels between the knots of the table, as
Karras's, for which theirs tell the network a time rounded to a whole number; stochastic ones (their own numbers).
"""


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert ours.dtype == theirs.dtype
    assert float((ours - theirs).abs().max()) < tolerance * float(theirs.abs().max())


def picture(seed: int = 3) -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def run(pipe: Any, **more: Any) -> torch.Tensor:
    settings = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "latent"}
    return pipe("a cat", generator=torch.Generator().manual_seed(5), **{**settings, **more}).images


def both(pipe: Any, sampler: Any, **more: Any) -> None:
    theirs = run(pipe, **more)
    native = pipe.scheduler
    pipe.scheduler = Scheduler.from_config(native.config, sampler=sampler, grid="config")
    ours = run(pipe, **more)
    assert pipe.scheduler.timesteps.tolist() == native.timesteps.tolist()
    close(ours, theirs)


@pytest.mark.parametrize("name", PEERS)
def test_text_to_image(name: str) -> None:
    make, sampler = PEERS[name]
    both(small.stable_diffusion(diffusers.StableDiffusionPipeline, make()), sampler)


@pytest.mark.parametrize("strength", [0.3, 0.65, 1.0])
@pytest.mark.parametrize("name", ["ddim", "dpmpp", "unipc"])
def test_image_to_image(name: str, strength: float) -> None:
    """Entered in the midst of the grid, by a begin index."""
    make, sampler = PEERS[name]
    pipe = small.stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline, make())
    both(pipe, sampler, image=picture(), strength=strength)


@pytest.mark.parametrize("strength", [0.3, 0.65, 1.0])
@pytest.mark.parametrize("name", ["ddim", "dpmpp", "deis"])
def test_inpainting(name: str, strength: float) -> None:
    """What is known is put into the state after every step, noised to the time of the next."""
    make, sampler = PEERS[name]
    pipe = small.stable_diffusion(diffusers.StableDiffusionInpaintPipeline, make())
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, :8] = 1
    both(pipe, sampler, image=picture(), mask_image=mask, strength=strength, height=16, width=16)


def test_euler_starts_too_low() -> None:
    """With linspace and trailing spacing the peer starts with variance σ² where states of unit data have σ² + 1.

    On the table of latent diffusion σ = 14.6, and the two starts differ by a factor of 1.0023. Ours is the variance of
    the process: given their start, the two agree.
    """
    pipe = small.stable_diffusion(diffusers.StableDiffusionPipeline, diffusers.EulerDiscreteScheduler(**SD))
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    theirs = run(pipe, latents=start)
    top = float(pipe.scheduler.sigmas.max())
    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, sampler="ddim", grid="config")
    assert float((run(pipe, latents=start) - theirs).abs().max()) > 1e-3 * float(theirs.abs().max())
    close(run(pipe, latents=start * top / (top**2 + 1) ** 0.5), theirs)


PROMPT = {"prompt_embeds": (1, 5, 64), "pooled_prompt_embeds": (1, 32)}
FLUX_PROMPT = {"prompt_embeds": (1, 5, 32), "pooled_prompt_embeds": (1, 32)}
PROMPTS = {**PROMPT, **{f"negative_{name}": size for name, size in PROMPT.items()}}
SHIFTS = [{"shift": 3.0}, {"use_dynamic_shifting": True, "shift_terminal": 0.02}, {"use_karras_sigmas": True}]


def run_flow(pipe: Any, prompts: dict[str, Any] = PROMPTS, **more: Any) -> torch.Tensor:
    settings = {"num_inference_steps": 7, "output_type": "latent", "generator": torch.Generator().manual_seed(5)}
    return pipe(**small.embeds(**prompts), height=16, width=16, **{**settings, **more}).images


@pytest.mark.parametrize("config", SHIFTS, ids=str)
@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_flow(config: dict[str, Any], sampler: str) -> None:
    """Stable Diffusion 3: steps alone, and ``sigmas``. A step of Euler's along a line is DDIM's."""
    native = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    ours = Scheduler.from_config(native.config, sampler=sampler, grid="config")
    given = Scheduler.from_config(native.config, sampler=sampler)
    text = small.stable_diffusion_3(diffusers.StableDiffusion3Pipeline, native)
    more = {"sigmas": [1.0, 0.8, 0.35, 0.1], "num_inference_steps": 4}
    theirs = run_flow(text), run_flow(text, **more)
    text.scheduler = ours
    close(run_flow(text), theirs[0], 1e-5)
    text.scheduler = given
    close(run_flow(text, **more), theirs[1], 1e-5)


STRENGTHS = (0.3, 0.65, 1.0)
"""Of seven steps the last three, the last five, and all."""


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("config", SHIFTS, ids=str)
def test_flow_image_to_image(config: dict[str, Any], strength: float) -> None:
    """Stable Diffusion 3, entered in the midst of the grid that its config asks for."""
    native = diffusers.FlowMatchEulerDiscreteScheduler(**config)
    pipe = small.stable_diffusion_3(diffusers.StableDiffusion3Img2ImgPipeline, native)
    start = {"image": picture(), "strength": strength}
    theirs = run_flow(pipe, **start)
    for sampler in ("euler", "ddim"):
        pipe.scheduler = Scheduler.from_config(native.config, sampler=sampler, grid="config")
        close(run_flow(pipe, **start), theirs, 1e-5)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("kind", ["FluxImg2ImgPipeline", "FluxInpaintPipeline"])
def test_flux_from_a_picture(kind: str, strength: float) -> None:
    """Image to image and inpainting by a pipeline that gives ``sigmas`` and ``mu``, and enters them in their midst.

    Inpainting puts what is known into the state after every step, noised to the time of the next.
    """
    native = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    parts = small.flux(False, native, encoders=False).components
    pipe = small.quiet(getattr(diffusers, kind)(**parts))
    start: dict[str, Any] = {"image": picture(), "strength": strength}
    if kind == "FluxInpaintPipeline":
        start["mask_image"] = torch.zeros(1, 1, 16, 16)
        start["mask_image"][..., 4:12, :8] = 1
    theirs = run_flow(pipe, FLUX_PROMPT, **start)
    for sampler in ("euler", "ddim"):
        pipe.scheduler = Scheduler.from_config(native.config, sampler=sampler)
        close(run_flow(pipe, FLUX_PROMPT, **start), theirs, 1e-5)
        assert pipe.scheduler.timesteps.tolist() == pytest.approx(native.timesteps.tolist())


@pytest.mark.parametrize("config", [*SHIFTS[:2], {}], ids=str)
def test_flux(config: dict[str, Any]) -> None:
    """A pipeline that always gives ``sigmas`` and ``mu``, whether its scheduler takes a shift of the size or not."""
    pipe = small.flux(False, diffusers.FlowMatchEulerDiscreteScheduler(**config), encoders=False)
    theirs = run_flow(pipe, FLUX_PROMPT)
    for sampler, same in (("euler", True), (None, False), ("dpmpp-2m", False), ("deis", False), ("unipc", False)):
        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, sampler=sampler)
        ours = run_flow(pipe, FLUX_PROMPT)
        assert ours.isfinite().all()
        assert len(pipe.scheduler.timesteps) == 7
        if same:
            close(ours, theirs, 1e-5)
    # A grid takes the place of the sigmas that the pipeline gives of itself.
    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, sampler="ddim", grid=[0.9, 0.6, 0.3, 0.0])
    # It drops those of the call as well, before the scheduler is asked.
    for given in ({}, {"sigmas": [1.0, 0.5, 0.2]}):
        run_flow(pipe, FLUX_PROMPT, num_inference_steps=3, **given)
        assert pipe.scheduler.timesteps.tolist() == pytest.approx([900, 600, 300])


def test_heun_of_a_flow() -> None:
    """Heun's method, where the peer's two calls a step are ours; the last step is Euler's for both."""
    native = diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0)
    network = small.sd3_transformer()
    features = small.embeds(encoder_hidden_states=(2, 5, 64), pooled_projections=(2, 32))
    results = []
    for scheduler in (native, Scheduler.from_config(native.config, sampler="heun", grid="config")):
        scheduler.set_timesteps(6)
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        for t in scheduler.timesteps:
            out = network(x, timestep=t.expand(2), **features, return_dict=False)[0]
            x = scheduler.step(out, t, x, return_dict=False)[0]
        results.append(x)
    assert len(native.timesteps) == len(scheduler.timesteps)
    assert scheduler.order == native.order == 2
    close(results[1], results[0], 1e-5)


@pytest.mark.parametrize("kind", ["ddpm", "ddim"])
def test_pixels(kind: str) -> None:
    """Pipelines without a condition; DDPM's noise is our own, so it is compared where it adds none: at one step."""
    if kind == "ddim":
        native = diffusers.DDIMScheduler(clip_sample=False, **small.SD_TABLE)
        pipe, sampler, steps = diffusers.DDIMPipeline(small.unet2d(), native), "ddim", 10
    else:
        native = diffusers.DDPMScheduler(**small.SD_TABLE)
        pipe, sampler, steps = diffusers.DDPMPipeline(small.unet2d(), native), "ddpm", 1
    pipe.set_progress_bar_config(disable=True)
    draw = lambda: (
        pipe(
            batch_size=2, generator=torch.Generator().manual_seed(0), num_inference_steps=steps, output_type="np"
        ).images
    )
    theirs = draw()
    pipe.scheduler = Scheduler.from_config(native.config, sampler=sampler, grid="config")
    assert np.abs(draw() - theirs).max() < 1e-5
    assert not np.array_equal(theirs[0], theirs[1])
