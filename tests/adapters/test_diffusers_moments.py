"""Moments of a pipeline from its own draws: of its states, with guidance off, and with its scheduler put back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from langevin import UserError
from langevin.samplers import moments_from

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import small_pipelines as small
from langevin.adapters.diffusers import Scheduler, estimate_moments


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_they_are_those_of_the_states_it_ends_with() -> None:
    """Pixels as the pipeline hands them out, in [−1, 1] again, have the same mean; the spread of each is of its own."""
    pipe = quiet(small.ddpm())
    before = pipe.scheduler
    found = estimate_moments(pipe, 8, steps=3, batch_size=4)
    assert pipe.scheduler is before
    pipe.scheduler = Scheduler.from_config(before.config, guidance_scale=1.0)
    states = []
    for seed in (0, 1):
        told = torch.Generator().manual_seed(seed)
        callback = _Last()
        step = pipe.scheduler.step
        pipe.scheduler.step = callback.around(step)
        pipe(batch_size=4, num_inference_steps=3, generator=told)
        pipe.scheduler.step = step
        states.append(callback.x)
    expected = moments_from(torch.cat(states).flatten(1).double(), tuple(states[0].shape[1:]))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variances, expected.variances)
    assert float(found.variances.std()) > 0


class _Last:
    """The last state of a loop, read from the arguments of the next call and the result of the last one."""

    x: torch.Tensor

    def around(self, step: Any) -> Any:
        def inner(out: Any, t: Any, x: Any, **more: Any) -> Any:
            found = step(out, t, x, **more)
            self.x = found.prev_sample if hasattr(found, "prev_sample") else found[0]
            return found

        return inner


def test_latents_of_a_guided_pipeline_and_what_they_are_for() -> None:
    pipe = quiet(small.sd())
    found = estimate_moments(pipe, 6, steps=3, prompt=["a red apple", "a blue boat"])
    assert len(found.mean) == 4 * 8 * 8
    one = estimate_moments(pipe, 6, steps=3, prompt=["a red apple", "a blue boat"], guidance_scale=1.0)
    torch.testing.assert_close(found.mean, one.mean, rtol=0, atol=0)
    guided = estimate_moments(pipe, 6, steps=3, prompt=["a red apple", "a blue boat"], guidance_scale=5.0)
    assert not torch.allclose(guided.mean, found.mean)
    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, moments=found)
    assert pipe("a red apple", num_inference_steps=3, output_type="latent").images.isfinite().all()


def test_what_is_refused() -> None:
    pipe = quiet(small.ddpm())
    before = pipe.scheduler
    with pytest.raises(UserError, match="n must be"):
        estimate_moments(pipe, 1)
    with pytest.raises(UserError, match="generator must be left out: seed"):
        estimate_moments(pipe, 4, generator=torch.Generator())
    with pytest.raises(TypeError):
        estimate_moments(pipe, 4, colour="red")
    assert pipe.scheduler is before
