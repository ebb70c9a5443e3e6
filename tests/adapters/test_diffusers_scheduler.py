"""The scheduler as pipelines call it: what it returns and what it remembers."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import langevin
from langevin import Noise, UserError, samplers
from langevin._registry import methods
from langevin.samplers import GaussianRemainder

diffusers = pytest.importorskip("diffusers")
from scheduler_walks import CONFIG, FLOW, SHAPE, network, ours, start, walk  # noqa: E402

import small_pipelines as small  # noqa: E402
from langevin.adapters.diffusers import Scheduler  # noqa: E402
from langevin.adapters.diffusers.scheduler_config import Conventions, process_of  # noqa: E402

CHOOSES, BEFORE, MORE = "known beforehand", "before anything else", "needs|phase space|must be a guided one"
REFUSED = {
    **dict.fromkeys(("adaptive-sde", "dop853", "dpm-12", "dpm-23", "rk45"), CHOOSES),
    **dict.fromkeys(("edm-euler", "edm-heun", "annealed-langevin", "boomerang", "langevin"), BEFORE),
    **dict.fromkeys(("momentum-langevin", "preconditioned-langevin"), BEFORE),
    **dict.fromkeys(("phase-projected", "phase-2m", "sscs", "mala", "denoising-mcmc", "splitting"), MORE),
    "ml-sde": "std must be given",
}
"""Samplers that a pipeline cannot drive, and what the sentence says of the reason."""

NAMES = [
    m.name
    for m in methods("samplers")
    if all(p.default is not p.empty for p in inspect.signature(m.make).parameters.values())
]


@pytest.mark.parametrize("config", [CONFIG, FLOW], ids=["table", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_is_itself(name: str, config: dict[str, Any]) -> None:
    """Every sampler of the registry, driven by a pipeline's loop, takes the steps that ``langevin.sample`` takes.

    The same arithmetic in the same order: what differs is the rounding of timesteps to float32 on their way to the
    network, 6e-5 of 1000 at most, which moves its phase by 2e-7; and by 1e-4 after a growth of 15 · 10 at worst.
    """
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            Scheduler.from_config(config, sampler=name).set_timesteps(6)
        return
    scheduler = Scheduler.from_config(config, sampler=name)
    scheduler.set_timesteps(6)
    rule, grid = scheduler._run.sampler, scheduler._run.grid
    got = walk(scheduler, start())
    key = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(7)))
    expected = langevin.sample(ours(config), rule, grid=grid, start=start(), noise=Noise(key, 3))
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_default_with_noise() -> None:
    """Its first step asks too, since a pipeline would not know the noise of one that does not."""
    rule = GaussianRemainder(eta=0.7)
    scheduler = Scheduler.from_config(FLOW, sampler=rule)
    scheduler.set_timesteps(6)
    grid = scheduler._run.grid
    assert len(grid) == 7
    key = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(7)))
    still = replace(rule, prefix=False)
    expected = langevin.sample(ours(FLOW), still, grid=grid, start=start(), noise=Noise(key, 3))
    torch.testing.assert_close(walk(scheduler, start()), expected, rtol=1e-4, atol=1e-4)


def test_two_calls_a_step() -> None:
    """The lines of ``timesteps``: the inner time of each step stands there too."""
    scheduler = Scheduler.from_config(CONFIG, sampler="heun", grid="trailing")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 749, 499, 499, 249, 249]
    assert (scheduler.order, len(scheduler.sigmas), scheduler.num_inference_steps) == (2, 8, 4)
    assert scheduler.timesteps.dtype == torch.int64
    for steps in (7, 9, 11, 13, 23):  # knots are whole numbers, however their times are rounded
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.dtype == torch.int64
    scheduler = Scheduler.from_config(CONFIG, sampler="dpmpp-2m", grid="trailing")
    scheduler.set_timesteps(4)
    assert (scheduler.timesteps.tolist(), scheduler.order) == ([999, 749, 499, 249], 1)


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "heun", None])
def test_entered_in_the_midst(sampler: str | None) -> None:
    """A begin index, or none and a first timestep further down: the run starts there without a memory."""
    scheduler = Scheduler.from_config(CONFIG, sampler=sampler, grid="trailing")
    for told in (True, False):
        scheduler.set_timesteps(6)
        first = 2 * scheduler.order
        if told:
            scheduler.set_begin_index(first)
        assert scheduler.begin_index == (first if told else None)
        x = walk(scheduler, start(), first)
        grid = scheduler._run.grid[2:]
        expected = langevin.sample(ours(CONFIG), scheduler._run.sampler, grid=grid, start=start())
        torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
        assert scheduler.step_index == len(scheduler.timesteps)


@pytest.mark.parametrize("sampler", ["dpmpp-2m", "unipc", "heun", "ddpm", None])
def test_timesteps_set_again(sampler: str | None) -> None:
    """Nothing is left over from one run to the next, finished or not, with other sizes and numbers of steps."""
    scheduler = Scheduler.from_config(CONFIG, sampler=sampler, grid="trailing")
    scheduler.set_timesteps(5)
    expected = walk(scheduler, start())
    scheduler.set_timesteps(9)
    for t in scheduler.timesteps[:3]:
        scheduler.step(network(start(5), t.expand(5)), t, start(5))
    scheduler.set_timesteps(5)
    assert torch.equal(walk(scheduler, start()), expected)


def test_changed_step_index() -> None:
    """An index set back asks a step again: with its memory if the state is the same, without if it is another."""
    scheduler = Scheduler.from_config(CONFIG, sampler="dpmpp-2m", grid="trailing")
    scheduler.set_timesteps(6)
    expected = walk(scheduler, start())
    scheduler.set_timesteps(6)
    x = start()
    for t in scheduler.timesteps:
        out = network(x, t.expand(3))
        for again in (True, False):  # a pipeline that calls twice, for two predictions
            after = scheduler.step(out, t, x).prev_sample
            scheduler._step_index -= again
        x = after
    assert torch.equal(x, expected)
    t = scheduler.timesteps[3]
    scheduler._step_index = 3  # travel in time: a new state, of which nothing is known
    x = scheduler.step(network(start(seed=2), t.expand(3)), t, start(seed=2)).prev_sample
    grid = scheduler._run.grid[3:5]
    torch.testing.assert_close(x, langevin.sample(ours(CONFIG), "ddim", grid=grid, start=start(seed=2)))
    noisy = Scheduler.from_config(CONFIG, sampler="ddpm", grid="trailing")
    noisy.set_timesteps(6)
    drawn = []
    for x in (start(), start(), start() + 1e-9, start() + 1e-9):  # the same noise for a step asked again, else another
        noisy._step_index = 2
        t = noisy.timesteps[2]
        drawn.append(noisy.step(torch.zeros_like(x), t, x).prev_sample)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[2], drawn[3])
    assert float((drawn[0] - drawn[2]).std()) > 0.1


def test_states_touched_between_steps() -> None:
    """What an inpainting loop puts into a state is there for the next step, as a sampler here would have it."""

    class Touched(samplers.Sampler):
        def __init__(self, base: samplers.Sampler) -> None:
            self.base = base

        def step(self, state: Any, s: Tensor, denoiser: Any, noise: Noise) -> Any:
            after = self.base.step(state, s, denoiser, noise)
            return replace(after, x=after.x + 0.1)

        def plan(self, process: Any, grid: Tensor) -> Any:
            return Touched(self.base.plan(process, grid))

    for sampler in (samplers.DPMSolverPP(), samplers.UniPC(2)):
        scheduler = Scheduler.from_config(CONFIG, sampler=sampler, grid="trailing")
        scheduler.set_timesteps(6)
        x = walk(scheduler, start(), touch=lambda i, x: x + 0.1)
        expected = langevin.sample(ours(CONFIG), Touched(sampler), grid=scheduler._run.grid, start=start())
        torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", [CONFIG, FLOW], ids=["table", "flow"])
def test_end_of_sigmas_is_written(config: dict[str, Any]) -> None:
    """An end that a pipeline writes is where the run ends; at the last level the last step stands still."""
    scheduler = Scheduler.from_config(config, sampler="ddim", grid="uniform")
    scheduler.set_timesteps(5)
    grid = scheduler._run.grid
    end = float(scheduler.sigmas[-2]) / 2
    scheduler.sigmas[-1] = end
    x = walk(scheduler, start())
    time = Conventions.of(config).time_of_level(torch.tensor(end))
    expected = langevin.sample(ours(config), "ddim", grid=[*grid[:-1].tolist(), float(time)], start=start())
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    scheduler.set_timesteps(5)
    scheduler.sigmas[-1] = scheduler.sigmas[-2]
    x = walk(scheduler, start())
    expected = langevin.sample(ours(config), "ddim", grid=grid[:-1], start=start())
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    scheduler.set_timesteps(5)
    scheduler.sigmas[1] *= 0.9
    with pytest.raises(UserError, match="sigmas must be left"):
        walk(scheduler, start())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sampler", ["heun", "unipc", None])
def test_half_precision(dtype: torch.dtype, sampler: str | None) -> None:
    """What comes back has the dtype of the output; the state goes on in float32.

    The network's answers are then all that is rounded, each by half an ulp of a number of size 1, which is ε/2; what is
    left after 20 steps on a flow (whose errors do not grow but by the network's slope of about 3) is below 20 · ε.
    """
    scheduler = Scheduler.from_config(FLOW, sampler=sampler, grid="uniform")
    scheduler.set_timesteps(20)
    x = walk(scheduler, start().to(dtype))
    assert x.dtype == dtype
    scheduler.set_timesteps(20)
    whole = walk(scheduler, start().to(dtype).float())
    assert whole.dtype == torch.float32
    assert float((x.float() - whole).abs().max()) < 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_small_steps_are_not_rounded_away(sampler: str) -> None:
    """In bfloat16 many steps, each of which is less than the rounding of the state, still arrive."""
    scheduler = Scheduler.from_config(FLOW, sampler=sampler, grid="uniform")
    scheduler.set_timesteps(500)
    x = torch.full((1, *SHAPE), 3.0, dtype=torch.bfloat16)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.ones_like(x), t, x).prev_sample
    # dx/dt = 1 from t_max = 0.999 to 0: 3 − 0.999, rounded once. Rounded every step, it stays at 3.
    assert torch.equal(x, torch.full_like(x, 2.001))


def test_add_noise() -> None:
    """αx + σε at lines of the schedule and at other timesteps, one or one a sample, as diffusers has it."""
    x, z = start().float(), start(seed=4).float()
    native = diffusers.DDIMScheduler(**small.SD_TABLE)
    scheduler = Scheduler.from_config(native.config)
    for when in (torch.tensor([999, 3, 500]), torch.tensor([250])):
        torch.testing.assert_close(scheduler.add_noise(x, z, when), native.add_noise(x, z, when), rtol=0, atol=2e-6)
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler = Scheduler.from_config(flow.config, sampler="euler", grid="config")
    for one in (flow, scheduler):
        one.set_timesteps(5)
    when = flow.timesteps[[0, 2, 4]]
    torch.testing.assert_close(scheduler.scale_noise(x, when, z), flow.scale_noise(x, when, z), rtol=0, atol=2e-6)
    half = scheduler.scale_noise(x.bfloat16(), when.bfloat16(), z.bfloat16())  # a line, whatever half precision says
    torch.testing.assert_close(half.float(), flow.scale_noise(x, when, z), rtol=0, atol=4 * 2**-8)


def test_times_by_hand() -> None:
    """``timesteps``, ``sigmas`` and ``mu`` as pipelines hand them on."""
    scheduler = Scheduler.from_config(CONFIG, sampler="dpmpp-2m")
    scheduler.set_timesteps(timesteps=[900, 500, 20], device="cpu")
    assert scheduler.timesteps.tolist() == [900, 500, 20]
    torch.testing.assert_close(scheduler._run.grid * 1000, torch.tensor([901.0, 501.0, 21.0, 0.0]).double())
    levels = [10.0, 2.0, 0.5, 0.0]
    scheduler.set_timesteps(sigmas=np.array(levels))
    torch.testing.assert_close(scheduler.sigmas, torch.tensor(levels))
    peer = diffusers.EulerDiscreteScheduler(**small.SD_TABLE)
    peer.set_timesteps(sigmas=levels)
    # Theirs is linear between the knots in log σ, ours a cubic: both are within a knot's curvature of each other.
    torch.testing.assert_close(scheduler.timesteps, peer.timesteps, rtol=0, atol=0.02)
    dynamic = {**FLOW, "use_dynamic_shifting": True}
    scheduler = Scheduler.from_config(dynamic)
    for mu in (0.0, 1.0):
        scheduler.set_timesteps(sigmas=[1.0, 0.5], mu=mu)
        shifted = np.exp(mu) * 0.5 / (1 + (np.exp(mu) - 1) * 0.5)
        torch.testing.assert_close(scheduler.sigmas[1:], torch.tensor([shifted, 0.0]).float())
    scheduler.set_timesteps(4, mu=1.0)
    plain = Scheduler.from_config(FLOW)
    plain.set_timesteps(4, mu=0.3)  # pipelines give it to all: it is left aside
    odds = lambda s: (s._run.grid[:-1] / (1 - s._run.grid[:-1])).log()
    torch.testing.assert_close(odds(scheduler) - odds(plain), torch.ones(5, dtype=torch.float64))


def test_zero_terminal_snr() -> None:
    """A table rescaled to end without signal, asked from its last knot."""
    native = diffusers.DPMSolverMultistepScheduler(
        **small.SD_TABLE, rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"
    )
    scheduler = Scheduler.from_config(native.config, sampler="dpmpp-2m", grid="config")
    results = []
    for one in (native, scheduler):
        one.set_timesteps(8)
        results.append(walk(one, start().float()))
    assert scheduler.timesteps.tolist() == native.timesteps.tolist()
    assert scheduler.timesteps[0] == 999
    # Theirs rounds ᾱ to float32 before the rescaling takes differences of its roots: 2⁻²⁴ · 1/√ᾱ_999 (70) · 8 steps.
    assert float((results[0] - results[1]).abs().max()) < 1e-4


def test_moments_make_the_default_better() -> None:
    """Given data of the law that is drawn, the default solver is nearer to its flow at six evaluations."""
    world = langevin.worlds.random_mixture(6, components=3, rms=1.0, seed=2)
    data = world.sample(256, seed=1).double()
    process = process_of(FLOW)
    exact = world.denoiser(process)

    def draw(steps: int, **more: Any) -> Tensor:
        scheduler = Scheduler.from_config(FLOW, **more)
        scheduler.set_timesteps(steps)
        x = Noise(3, 64).normal((6,))
        for t in scheduler.timesteps:
            time = t.double() / 1000
            x = scheduler.step(process.velocity(x, exact(x, time), time), t, x).prev_sample
        return x

    truth = draw(200, sampler="dpmpp-2m", grid="log-snr")
    away = [float((draw(6, moments=m) - truth).norm(dim=1).median()) for m in (None, data)]
    assert away[1] < away[0]
    frame = samplers.moments_from(data.flatten(1), (6,))
    assert torch.equal(draw(6, moments=frame), draw(6, moments=data))


def test_noise_of_a_generator() -> None:
    """One generator: a key a run. One a picture: a picture does not depend on those beside it."""
    scheduler = Scheduler.from_config(FLOW, sampler="ddpm")

    def draw(seeds: list[int], x: Tensor) -> Tensor:
        scheduler.set_timesteps(5)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.expand(len(x))), t, x, generator=generators).prev_sample
        return x

    x = start(3)
    together = draw([5, 6, 7], x)
    assert torch.equal(draw([7], x[2:]), together[2:])
    assert not torch.equal(draw([8], x[2:]), together[2:])
    deterministic, generator = Scheduler.from_config(FLOW), torch.Generator().manual_seed(1)
    before = generator.get_state()
    deterministic.set_timesteps(2)
    deterministic.step(x, deterministic.timesteps[0], x, generator=generator)
    assert torch.equal(generator.get_state(), before)  # what a pipeline draws after is as it was


def test_predicted_data_are_bounded() -> None:
    """Clipping and dynamic thresholding of the config reach x̂_0, where the config's class has them."""
    config = {**small.SD_TABLE, "_class_name": "DDPMScheduler"}
    for more, most in (({}, 1.0), ({"clip_sample_range": 0.5}, 0.5), ({"thresholding": True}, 1.0)):
        scheduler = Scheduler.from_config({**config, **more}, sampler="ddim", grid="trailing")
        scheduler.set_timesteps(4)
        out = scheduler.step(start(), scheduler.timesteps[0], 3 * start(seed=2))
        assert float(out.pred_original_sample.abs().max()) == pytest.approx(most)
    scheduler = Scheduler.from_config({**config, "_class_name": "DPMSolverMultistepScheduler", "clip_sample": True})
    scheduler.set_timesteps(4)
    assert scheduler.step(start(), scheduler.timesteps[0], 3 * start(seed=2)).pred_original_sample.abs().max() > 5


def test_a_learned_variance_is_left_aside() -> None:
    """Twice the channels: the first half is the prediction."""
    scheduler = Scheduler.from_config(CONFIG)
    scheduler.set_timesteps(3)
    one = scheduler.step(start(), scheduler.timesteps[0], start(seed=2)).prev_sample
    scheduler.set_timesteps(3)
    two = torch.cat((start(), start(seed=5)), 1)
    assert torch.equal(scheduler.step(two, scheduler.timesteps[0], start(seed=2)).prev_sample, one)


def test_edm() -> None:
    """EDM's preconditioned networks: the input's scale, the times ¼·log σ and the output as the peer has them."""
    native = diffusers.EDMDPMSolverMultistepScheduler()
    scheduler = Scheduler.from_config(native.config, sampler="dpmpp-2m", grid="config")
    results = []
    for one in (native, scheduler):
        one.set_timesteps(8)
        assert one.init_noise_sigma == pytest.approx(80.0, rel=1e-4)
        x = start().float() * 80
        for t in one.timesteps:
            x = one.step(network(one.scale_model_input(x, t), 1000 * t.expand(3)), t, x).prev_sample
        results.append(x)
    torch.testing.assert_close(scheduler.timesteps, native.timesteps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
