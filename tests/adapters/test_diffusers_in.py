"""Pipelines of diffusers as models here: the network is asked as the pipeline asks it, and images agree.

Tolerances are float32 rounding. A network's output is the same sum in the same order but for the batch it stands in: a
few ulps, 1e-5 of an output of size one. A pipeline's path goes from pure noise to data in five steps; an error made at
t grows by at most 1/α of the first step (157 for the linear table, 15 for the others), which happens before the decoder
and the clamp to [−1, 1]: 157 · 5 · 2⁻²⁴ ≈ 5e-5 at worst, and 16 times less where α is larger.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import langevin
from langevin import UserError, guidance
from langevin.adapters import diffusers as adapter
from langevin.denoisers import NetworkDenoiser
from langevin.models import Latent

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from loaded_pipelines import MADE, PROMPT, SIZE, STEPS, drawn, latents, loaded, pipeline  # noqa: E402

import small_pipelines as small  # noqa: E402

CLOSE = 5e-5
TEXTS = ("sd", "sd_v", "sdxl", "pixart", "sd3", "flux")
UNGUIDED = ("ddpm", "ldm", "ldm_kl")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    MADE.clear()
    return tmp_path_factory.mktemp("pipelines")


def theirs(pipe: Any, name: str, start: Tensor, scale: float, **more: Any) -> Tensor:
    """The images of the pipeline itself, from the same noise, as float32 in [−1, 1]."""
    options: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "np", **more}
    if name in UNGUIDED:
        options |= {"batch_size": len(start), "generator": drawn()}
    elif name == "dit":
        options |= {"class_labels": [1, 7], "generator": drawn(), "guidance_scale": scale}
    else:
        options |= {"prompt": [PROMPT] * len(start), "latents": start, "guidance_scale": scale}
        options |= {"height": SIZE, "width": SIZE}
        if name == "flux":
            options |= {"latents": pipe._pack_latents(start, *start.shape), "guidance_scale": 3.5}
            options |= {"true_cfg_scale": scale, "negative_prompt": [""] * len(start)} if scale != 1 else {}
        if name.startswith("pixart"):
            options |= {"use_resolution_binning": False, "clean_caption": False}
    return torch.tensor(pipe(**options).images).permute(0, 3, 1, 2) * 2 - 1


def ours(model: Any, name: str, start: Tensor, scale: float) -> Tensor:
    """The same from the model here, by DDIM or Euler on the pipeline's own times."""
    condition: dict[str, Any] = {}
    if name == "dit":
        condition = {"label": torch.tensor([1, 7])}
    elif name not in UNGUIDED:
        condition = {"caption": PROMPT}
    told = guidance.classifier_free(model, condition, guidance_scale=scale) if condition else model
    rule = "euler" if name in ("sd3", "flux") else "ddim"
    made = langevin.sample(told, rule, start=start, grid=adapter.native_grid(model, STEPS))
    return made.clamp(-1, 1)


GUIDED = (*TEXTS, "pixart_sigma", "dit")
"""The pipelines of ``test_same_images`` that have something to guide by."""


@pytest.mark.parametrize(
    ("name", "scale"), [*((name, 1.0) for name in (*UNGUIDED, *GUIDED)), *((name, 3.0) for name in GUIDED)]
)
def test_same_images(name: str, scale: float, place: Path) -> None:
    """The pipeline, with its own DDIM or Euler, and ours from the same noise on the same times."""
    pipe, model = pipeline(name, place), loaded(name, place)
    start = latents(model)
    torch.testing.assert_close(ours(model, name, start, scale), theirs(pipe, name, start, scale), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("name", ["pixart", "pixart_sigma"])
def test_a_long_prompt_is_cut_where_the_pipeline_cuts_it(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PixArt-α reads 120 tokens and Σ 300, of a prompt of 240 words."""
    monkeypatch.setitem(globals(), "PROMPT", " ".join(["a red apple on the sea"] * 40))
    pipe, model = pipeline(name, place), loaded(name, place)
    start = latents(model)
    torch.testing.assert_close(ours(model, name, start, 1.0), theirs(pipe, name, start, 1.0), rtol=0, atol=CLOSE)


def test_the_table_of_latent_diffusion_and_the_first_knot(place: Path) -> None:
    """A scheduler that ends its path at the first knot: the pipeline's times end there too, and images agree."""
    pipe = small.sd(set_alpha_to_one=False, steps_offset=1)
    pipe.scheduler.register_to_config(timestep_spacing="leading")
    small.save(pipe, place / "early")
    model = adapter.load(place / "early", device="cpu")
    grid = adapter.native_grid(model, STEPS)
    torch.testing.assert_close(grid, torch.tensor([802, 602, 402, 202, 2, 1]).double() / 1000)
    start = latents(model)
    torch.testing.assert_close(ours(model, "sd", start, 3.0), theirs(pipe, "sd", start, 3.0), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("k", [0, 1, 499, 999])
def test_network_is_told_the_index(k: int, place: Path) -> None:
    """eps of the knot (k + 1)/N is what the network says at timestep k."""
    pipe, model = pipeline("ddpm", place), loaded("ddpm", place)
    assert isinstance(model, NetworkDenoiser)
    x = latents(model)
    t = (k + 1) / 1000
    with torch.no_grad():
        wanted = pipe.unet(x, torch.tensor(k)).sample
        found = model.process.noise(x.double(), model(x.double(), t), t)
    # Through x̂_0 in float64 and back: σ/α of the conversion cancels, what is left is the label's and the net's float32.
    torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-5)


def test_score_sde(place: Path) -> None:
    """VE: the network is told σ and returns the score; data lie in [0, 1]."""
    pipe, model = pipeline("score_sde_ve", place), loaded("score_sde_ve", place)
    assert (model.data.low, model.data.high) == (0.0, 1.0)
    assert (model.process.sigma_min, model.process.sigma_max) == (0.01, 50.0)
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    sigma = model.process.sigma(t)
    x = latents(model) * sigma.float().view(-1, 1, 1, 1)
    with torch.no_grad():
        wanted = pipe.unet(x, sigma.float()).sample
        found = model.process.score(x.double(), model(x.double(), t), t)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-6)
    assert bool(langevin.sample(model, n=2, steps=4).isfinite().all())


@pytest.mark.parametrize("name", ["sd", "ldm", "sd3"])
def test_codec(name: str, place: Path) -> None:
    """Latents are what the pipeline's VAE gives, shifted and scaled, and come back."""
    pipe, model = pipeline(name, place), loaded(name, place)
    network = pipe.vqvae if name == "ldm" else pipe.vae
    assert isinstance(model, Latent)
    x = torch.rand(2, 3, SIZE, SIZE, generator=drawn()) * 2 - 1
    with torch.no_grad():
        found = network.encode(x)
        raw = found.latents if name == "ldm" else found.latent_dist.mean
        shift = network.config.get("shift_factor") or 0.0
        wanted = (raw - shift) * network.config.scaling_factor
        codes = model.codec.encode(x)
        torch.testing.assert_close(codes.mean, wanted, rtol=1e-5, atol=1e-6)
        if name != "ldm":
            std = found.latent_dist.std * network.config.scaling_factor
            torch.testing.assert_close(codes.covariance.diagonal(model.shape).sqrt(), std, rtol=1e-5, atol=1e-6)
        back = network.decode(raw).sample.clamp(-1, 1)
        torch.testing.assert_close(model.read(codes.mean), back, rtol=1e-4, atol=1e-5)
    assert model.output.shape == (3, SIZE, SIZE)


def test_size_that_pixart_is_told(place: Path) -> None:
    """At 1024 pixels PixArt is told the height, the width and their ratio."""
    pipe = small.pixart(sample_size=128, patch_size=32, use_additional_conditions=True)
    small.save(pipe, place / "sized")
    model = adapter.load(place / "sized", device="cpu", size=(256, 128))
    x = latents(model, 1)
    prompts = model.network.prompts
    assert torch.equal(prompts.read(PROMPT), prompts.read(f" {PROMPT.upper()} "))
    text = prompts.parts(prompts.read(PROMPT), 1)
    more = {"resolution": torch.tensor([[256.0, 128.0]]), "aspect_ratio": torch.tensor([[2.0]])}
    with torch.no_grad():
        out = pipe.transformer(
            x,
            encoder_hidden_states=text["tokens"],
            encoder_attention_mask=text["mask"],
            timestep=torch.tensor([499]),
            added_cond_kwargs=more,
        ).sample
        found = model.process.noise(x.double(), model.given(caption=PROMPT)(x.double(), 0.5), 0.5)
    torch.testing.assert_close(found.float(), out[:, :4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [*TEXTS, "dit"])
def test_all_is_on_one_device(name: str, place: Path) -> None:
    """A call and a decoding on another device than the CPU touch nothing that was left there: ``meta`` is one."""
    model = loaded(name, place, device="meta")
    x = torch.zeros(2, *model.shape, device="meta")
    rows = {key: torch.zeros(2, size, device="meta") for key, size in model.condition_sizes.items() if key != "label"}
    if name == "dit":
        rows = {"label": torch.zeros(2, dtype=torch.int64, device="meta")}
    for told in (rows, {}):
        assert model.network(x, torch.zeros(2, device="meta"), told).is_meta
    assert model.codec.decode(model.codec.encode(model.codec.decode(x).mean).mean).mean.is_meta


def test_labels(place: Path) -> None:
    """DiT's names, its null class, and the variance that it learned."""
    pipe, model = pipeline("dit", place), loaded("dit", place)
    assert model.output.classes[:3] == ("tench, Tinca tinca", "goldfish", "2")
    assert model.condition_sizes == {"label": 1000}
    x = latents(model)
    with torch.no_grad():
        out = pipe.transformer(x, timestep=torch.tensor([299, 299]), class_labels=torch.tensor([1000, 3])).sample
        told = model.given(label=torch.tensor([-1, 3]))
        law = told(x.double(), 0.3)
    assert model.base.variance == "range"
    noise = model.process.noise(x.double(), law, 0.3)
    torch.testing.assert_close(noise.float(), out[:, :4], rtol=1e-4, atol=1e-5)
    # DDPM of the pipeline at its own stride: the variance between log β̃ and log β (arXiv:2102.09672 eq. 15).
    from diffusers import DDPMScheduler

    peer = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="learned_range")
    # A belief has no negative variance: what a random network says below β̃ is read as β̃.
    said = out[:, 4:].clamp_min(-1)
    variance = torch.exp(peer._get_variance(torch.tensor(299), predicted_variance=said))
    mine = model.process.reverse(x.double(), law, 0.3, 0.299)
    torch.testing.assert_close(mine.covariance.diagonal(model.shape).float(), variance, rtol=1e-3, atol=0)


def test_classes_of_a_unet(place: Path) -> None:
    """A U-Net with classes and no null class is told one, always."""
    from diffusers import DDPMPipeline, DDPMScheduler

    pipe = DDPMPipeline(unet=small.unet2d(num_class_embeds=5), scheduler=DDPMScheduler())
    small.save(pipe, place / "classes")
    model = langevin.load(place / "classes", device="cpu")
    x = latents(model)
    with torch.no_grad():
        wanted = pipe.unet(x, 499, class_labels=torch.tensor([2, 2])).sample
        found = model.process.noise(x.double(), model.given(label=2)(x.double(), 0.5), 0.5)
    torch.testing.assert_close(found.float(), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="label must be given"):
        model(x, 0.5)


@pytest.mark.parametrize("name", TEXTS)
def test_captions_are_encoded_once(name: str, place: Path) -> None:
    """Binding asks the text encoders; sampling does not. Absent captions are the empty prompt's."""
    model = loaded(name, place)
    prompts = model.network.prompts
    asked: list[list[str]] = []
    prompts._kept.pop(PROMPT, None)  # another test may have asked about it
    plain = prompts.encode
    prompts.encode = lambda texts: asked.append(texts) or plain(texts)
    told = model.given(caption=PROMPT)
    assert asked == [[PROMPT]]
    start = latents(model)
    calls: list[int] = []
    hook = model.network.network.register_forward_pre_hook(lambda *_: calls.append(1))
    x = langevin.sample(guidance.classifier_free(told, guidance_scale=5.0), start=start, steps=2)
    hook.remove()
    assert len(calls) == 2  # a step asks for both sides at once
    assert asked == [[PROMPT]]
    named = guidance.classifier_free(model, caption=PROMPT, guidance_scale=5.0)
    assert torch.equal(langevin.sample(named, start=start, steps=2), x)
    each = model.given(caption=[PROMPT, None])
    assert asked == [[PROMPT]]
    with torch.no_grad():
        t = 0.5
        mixed = each(start, t).mean
        torch.testing.assert_close(mixed[:1], told(start[:1], t).mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed[1:], model(start[1:], t).mean, rtol=1e-4, atol=1e-4)
        if name != "sdxl":
            torch.testing.assert_close(model.given(caption="")(start, t).mean, model(start, t).mean)
    assert float((mixed - told(start, t).mean)[1:].abs().max()) > 1e-4  # the caption does something


def test_no_prompt_of_sdxl(place: Path) -> None:
    """Zeros, where the pipeline says so; else the empty prompt's features."""
    zeros = loaded("sdxl", place)
    assert float(zeros.network.prompts.row(None).abs().max()) == 0
    small.save(small.sdxl(zeros=False), place / "filled")
    filled = langevin.load(place / "filled", device="cpu")
    assert float(filled.network.prompts.row(None).abs().max()) > 0


def test_numbers_about_an_image(place: Path) -> None:
    """SDXL's micro-conditions: as the pipeline gets them by its own names, and their defaults."""
    pipe, model = pipeline("sdxl", place), loaded("sdxl", place)
    start = latents(model)
    more = {"original_size": (40, 30), "crops_coords_top_left": (3, 4), "target_size": (16, 16)}
    wanted = theirs(pipe, "sdxl", start, 1.0, **more)
    told = model.given(vector=torch.tensor([40.0, 30, 3, 4, 16, 16]))
    torch.testing.assert_close(ours(told, "sdxl", start, 1.0), wanted, rtol=0, atol=CLOSE)
    assert float((wanted - theirs(pipe, "sdxl", start, 1.0)).abs().max()) > 100 * CLOSE


def test_guidance_that_was_distilled(place: Path) -> None:
    """Flux is told a scale: 3.5, or ours."""
    pipe, model = pipeline("flux", place), loaded("flux", place)
    start = latents(model)
    wanted = torch.tensor(
        pipe(
            prompt=[PROMPT] * 2,
            latents=pipe._pack_latents(start, *start.shape),
            num_inference_steps=STEPS,
            guidance_scale=7.0,
            height=SIZE,
            width=SIZE,
            output_type="np",
        ).images
    ).permute(0, 3, 1, 2)
    told = model.given(vector=torch.tensor([7.0]))
    torch.testing.assert_close(ours(told, "flux", start, 1.0), 2 * wanted - 1, rtol=0, atol=CLOSE)


def test_shift(place: Path) -> None:
    """The shift of a flow's times is a property of the model and its size, and not in the process."""
    assert loaded("sd3", place).config["shift"] == 3.0
    flux = loaded("flux", place)
    tokens = 16
    assert flux.config["shift"] == pytest.approx(math.exp(0.5 + 0.65 * (tokens - 256) / (4096 - 256)))
    assert flux.process == langevin.processes.RectifiedFlow()
    larger = loaded("flux", place, size=32)
    assert larger.shape == (4, 16, 16)
    assert larger.config["shift"] > flux.config["shift"]
    s = flux.config["shift"]
    # Flux's pipeline spaces the times evenly before it shifts them; its scheduler keeps them in float32.
    even = 1 - torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
    torch.testing.assert_close(adapter.native_grid(flux, STEPS), s * even / (1 + (s - 1) * even), rtol=1e-6, atol=1e-7)


def test_zero_terminal_snr(place: Path) -> None:
    """α is lost at the end, so v is read there; the default grid starts where there is a signal."""
    model = loaded("sd_v", place)
    one = torch.ones((), dtype=torch.float64)
    assert float(model.process.alpha(one)) < 1e-7
    assert model.process.t_max == 0.999
    assert bool(langevin.sample(model, n=1, steps=4).isfinite().all())
    with pytest.raises(UserError, match="cannot be read at t = 1"):
        adapter.load(
            place / "ddpm" / "unet", scheduler={"_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True}
        )


def test_schedules(place: Path) -> None:
    """Tables of β against those that diffusers makes in float32: 1e-7 a β, √1000 roundings of their product."""
    from langevin.adapters.diffusers.schedules import noising

    for more in (
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
        {"beta_schedule": "scaled_linear", "num_train_timesteps": 100, "rescale_betas_zero_snr": True},
    ):
        peer = diffusers.DDIMScheduler(**more)
        found = noising({"_class_name": "DDIMScheduler", **more}, "file").process
        n = torch.arange(1, found.steps + 1, dtype=torch.float64) / found.steps
        torch.testing.assert_close((found.alpha(n) ** 2).float(), peer.alphas_cumprod, rtol=1e-4, atol=1e-7)
    # What a file leaves out is the default of its own class.
    heun = noising({"_class_name": "HeunDiscreteScheduler"}, "file").process
    assert heun.betas[0] == pytest.approx(0.00085)
    for name, kind in (("epsilon", "eps"), ("sample", "x0"), ("v_prediction", "v")):
        assert noising({"_class_name": "DDPMScheduler", "prediction_type": name}, "file").prediction == kind
    flow = noising({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, "file")
    assert (flow.process, flow.prediction, flow.scale) == (langevin.processes.RectifiedFlow(), "flow", 1000.0)


def test_dtype_is_kept(place: Path) -> None:
    pipe = small.ddpm()
    pipe.unet.to(torch.bfloat16)
    small.save(pipe, place / "half")
    model = langevin.load(place / "half", device="cpu")
    assert model.dtype == torch.bfloat16
    assert langevin.sample(model, n=1, steps=2).dtype == torch.bfloat16


def test_what_models_are_for(place: Path) -> None:
    """Editing, restoring and likelihood take them as they take ours."""
    latent, pixels = loaded("sd", place).given(caption=PROMPT), loaded("ddpm", place)
    x = torch.rand(2, 3, SIZE, SIZE, generator=drawn()) * 2 - 1
    edited = langevin.edit(latent, x, strength=0.5, steps=3)
    assert getattr(edited, "x", edited).shape == x.shape
    small_x = torch.randint(0, 256, (2, *pixels.shape), generator=drawn()) / 127.5 - 1
    bits = langevin.likelihood.bound(pixels, small_x, steps=4)
    assert bool(bits.nats.isfinite().all())
    assert "UNet2DConditionModel" in str(langevin.models.about(latent.base)["network"])
