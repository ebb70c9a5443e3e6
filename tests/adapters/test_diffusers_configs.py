"""The scheduler's configuration: saved, loaded elsewhere, copied, and read from any class of diffusers."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin
from langevin import UserError, samplers
from langevin.samplers import GaussianRemainder

diffusers = pytest.importorskip("diffusers")
from scheduler_walks import CONFIG, FLOW, network, start  # noqa: E402

import small_pipelines as small  # noqa: E402
from langevin.adapters.diffusers import Scheduler  # noqa: E402


def test_a_pipeline_is_saved_and_loaded_elsewhere(tmp_path: Path) -> None:
    """The files name a native scheduler of the same config; one call puts ours back, with sampler and grid."""
    native = diffusers.UniPCMultistepScheduler(**small.SD_TABLE, timestep_spacing="trailing")
    pipe = diffusers.DDPMPipeline(small.unet2d(), native)
    pipe.scheduler = Scheduler.from_config(native.config, sampler=samplers.DDIM(0.5), grid="trailing")
    assert isinstance(pipe.scheduler, Scheduler)
    assert "langevin" in repr(pipe.scheduler)
    assert not isinstance(pipe.scheduler, diffusers.UniPCMultistepScheduler)
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "UniPCMultistepScheduler"]
    elsewhere = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    assert type(elsewhere.scheduler) is diffusers.UniPCMultistepScheduler
    for key, value in native.config.items():
        if not key.startswith("_"):
            assert elsewhere.scheduler.config[key] == value, key
    loaded = Scheduler.from_pretrained(tmp_path, subfolder="scheduler")
    for back in (Scheduler.from_config(elsewhere.scheduler.config), loaded):
        assert (back._sampler, back._grid) == (samplers.DDIM(0.5), "trailing")
    assert Scheduler.from_config(elsewhere.scheduler.config, sampler="unipc")._grid == "trailing"
    # Other schedulers of diffusers can be made of ours.
    assert diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config).config.beta_end == 0.012


@pytest.mark.parametrize("config", [CONFIG, FLOW])
def test_what_is_not_named_is_kept(config: dict[str, Any]) -> None:
    """A grid keeps the sampler, a sampler the grid; moments put the default in the place of one that takes none."""
    first = Scheduler.from_config(config, sampler="unipc")
    second = Scheduler.from_config(first.config, grid="karras")
    assert (second._sampler, second._grid) == (first._sampler, "karras")
    third = Scheduler.from_config(second.config, sampler=samplers.DDIM())
    assert (third._sampler, third._grid) == (samplers.DDIM(), "karras")
    again = Scheduler.from_config(third.config)
    assert (again._sampler, again._grid) == (samplers.DDIM(), "karras")
    own = Scheduler.from_config(third.config, grid="own")
    assert (own._sampler, own._grid) == (samplers.DDIM(), None)
    assert own.config == Scheduler.from_config(config, sampler=samplers.DDIM()).config
    known = Scheduler.from_config(third.config, moments=start(8))
    assert isinstance(known._sampler, GaussianRemainder)
    assert known._grid is None
    rest = Scheduler.from_config(config, sampler=GaussianRemainder(order=2), grid="karras")
    known = Scheduler.from_config(rest.config, moments=start(8))
    assert isinstance(known._sampler, GaussianRemainder)
    assert (known._sampler.order, known._grid) == (2, "karras")
    with pytest.raises(UserError, match="moments must be left out: it is for the Gaussian-remainder solver"):
        Scheduler.from_config(rest.config, sampler="ddim", moments=start(8))
    told = Scheduler.from_config(third.config, guidance_scale=1.5)
    assert isinstance(told._sampler, GaussianRemainder)
    assert (told._sampler.order_used, told._sampler.guidance_scale, told._grid) == (3, 1.5, None)
    again = Scheduler.from_config(told.config)
    assert (again._sampler.order_used, again._sampler.guidance_scale) == (3, 1.5)
    assert Scheduler.from_config(told.config, guidance_scale=7.0)._sampler.order_used == 2
    assert Scheduler.from_config(told.config, sampler="ddim")._sampler == samplers.DDIM()
    with pytest.raises(UserError, match="guidance_scale must be left out"):
        Scheduler.from_config(config, sampler="ddim", guidance_scale=2.0)
    with pytest.raises(UserError, match=r"guidance_scale must be a finite number >= 1, got 0\.5"):
        Scheduler.from_config(config, guidance_scale=0.5)


@pytest.mark.parametrize(("changes", "variance"), [({}, 1.0), ({"beta_schedule": "linear"}, 0.41)])
def test_what_is_assumed_of_data_and_guidance(changes: dict[str, Any], variance: float) -> None:
    """Codes have a variance of one; guidance between that of most pipelines and none."""
    made = Scheduler.from_config(CONFIG, **changes)._sampler
    assert (made.variance, made.guidance_scale, made.order_used) == (variance, 4.0, 2)
    assert Scheduler.from_config(FLOW)._sampler.variance == 1.0


def test_copies() -> None:
    """A scheduler in the midst of a run can be copied and pickled; the copy goes on as it would have."""
    scheduler = Scheduler.from_config(CONFIG, sampler="dpmpp-2m", grid="trailing")
    scheduler.set_timesteps(5)
    x = start()
    for t in scheduler.timesteps[:2]:
        x = scheduler.step(network(x, t.expand(3)), t, x).prev_sample
    t = scheduler.timesteps[2]
    others = [copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))]
    expected = scheduler.step(network(x, t.expand(3)), t, x).prev_sample
    for other in others:
        assert type(other) is type(scheduler)
        assert torch.equal(other.step(network(x, t.expand(3)), t, x).prev_sample, expected)


def test_the_native_class_of_a_config() -> None:
    """A config that was never saved has no class name: it is the class that takes its keys."""
    for name in (
        "DDPMScheduler",
        "DDIMScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
        "PNDMScheduler",
    ):
        scheduler = Scheduler.from_config(getattr(diffusers, name)().config)
        assert (type(scheduler).__name__, type(scheduler).__module__.split(".")[0]) == (name, "diffusers")
    for name in ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "EDMEulerScheduler"):
        assert type(Scheduler.from_config(getattr(diffusers, name)().config)).__name__ == name
    flow = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    scheduler = Scheduler.from_config(flow.config, sampler="ddim", grid="config")
    assert type(scheduler).__name__ == "UniPCMultistepScheduler"
    assert isinstance(scheduler._units.process, langevin.processes.RectifiedFlow)
    for one in (flow, scheduler):
        one.set_timesteps(6)
    torch.testing.assert_close(scheduler.sigmas, flow.sigmas, rtol=0, atol=1e-6)
    scheduler.set_timesteps(sigmas=[1.0, 0.5])
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.75, 0.0])  # 3 · 0.5 / (1 + 2 · 0.5)
    assert isinstance(Scheduler()._sampler, GaussianRemainder)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"])
@pytest.mark.parametrize("zero", [False, True])
def test_tables(schedule: str, zero: bool) -> None:
    """ᾱ of every table: theirs is a product of N numbers in float32, so N · 2⁻²⁴ relative; more where rescaled."""
    native = diffusers.DDPMScheduler(beta_schedule=schedule, rescale_betas_zero_snr=zero, num_train_timesteps=500)
    ours = Scheduler.from_config(native.config).alphas_cumprod
    assert len(ours) == 500 == len(Scheduler.from_config(native.config))
    rtol, atol = 500 * 2.0**-24, 1e-6 if zero else 0.0
    torch.testing.assert_close(ours, native.alphas_cumprod, rtol=max(rtol, 1e-4 * zero), atol=atol)
