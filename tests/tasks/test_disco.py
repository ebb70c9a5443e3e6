"""Pictures led to prompts: the loop by hand, on a world where what is asked for is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from langevin import UserError, worlds
from langevin.data import DataInfo
from langevin.denoisers import ContrastiveEncoder, Denoiser
from langevin.distributions import Noise, Stream
from langevin.guidance import ClipSettings, clip_guidance
from langevin.processes import EDM
from langevin.samplers import DDIM, resolve, trajectory
from langevin.tasks.disco import Prompt, disco, image_vectors
from plain_encoder import PlainEncoder

PATTERNS = (
    torch.stack(
        [torch.linspace(-1, 1, 6).expand(6, 6), torch.linspace(-1, 1, 6)[:, None].expand(6, 6), 2 * torch.eye(6) - 1]
    )[:, None].double()
    * 0.9
)
SETTINGS = ClipSettings(cut_overview=1, cut_innercut=0, skip_augs=True, clamp_max=0.3)


@pytest.fixture
def world() -> Denoiser:
    return worlds.Empirical(PATTERNS).denoiser(EDM())


@pytest.fixture
def encoder() -> ContrastiveEncoder:
    return ContrastiveEncoder(
        PlainEncoder(both=True, shape=(1, 6, 6)), EDM(), DataInfo("patterns", (1, 6, 6)), 1.0, noisy=False
    )


@pytest.mark.parametrize("pattern", [0, 1, 2])
def test_pictures_become_what_is_asked_for(world: Denoiser, encoder: Any, pattern: int) -> None:
    """Of three equally likely pictures 12 of 12 are the one that is asked for: by chance 3^−12."""
    vectors = image_vectors(encoder, PATTERNS[pattern : pattern + 1])
    made = disco(world, encoder, vectors, [1.0], n=12, steps=20, settings=SETTINGS, seed=1)
    near = (made.x.double()[:, None] - PATTERNS).square().flatten(2).sum(2).argmin(1)
    assert near.tolist() == [pattern] * 12
    assert made.similarity.shape == (12, 1)
    assert float(made.similarity.min()) > 0.95


def test_a_weight_below_zero_leads_away(world: Denoiser, encoder: Any) -> None:
    vectors = image_vectors(encoder, PATTERNS)
    made = disco(world, encoder, vectors, [-1.0, -1.0, 0.0], n=12, steps=20, settings=SETTINGS, seed=1)
    near = (made.x.double()[:, None] - PATTERNS).square().flatten(2).sum(2).argmin(1)
    assert near.tolist() == [2] * 12


def test_the_run_is_ddim_under_the_guidance(world: Denoiser, encoder: Any) -> None:
    """The same steps by hand, from the picture that is noised to the third time of the grid."""
    vectors, picture = image_vectors(encoder, PATTERNS[:1]), PATTERNS[1:2]
    way: list[tuple[int, Tensor]] = []
    made = disco(
        world,
        encoder,
        vectors,
        [2.0],
        n=3,
        steps=8,
        skip_steps=3,
        init_image=picture,
        settings=SETTINGS,
        seed=4,
        eta=0.5,
        show=lambda step, x: way.append((step, x)),
    )
    plan = resolve(world, DDIM(0.5), steps=8)
    guided = clip_guidance(
        world, encoder, vectors, torch.ones(1), grid=plan.grid, settings=SETTINGS, init=picture, seed=4
    )
    noise = Noise(4, 3)
    raised = noise.fold_in(Stream.RAISED).normal((1, 6, 6))
    start = picture + world.process.sigma(plan.grid[3]) * raised  # α = 1
    _, *states = trajectory(guided, plan.sampler, grid=plan.grid[3:], start=start, noise=noise)
    last = states[-1]
    # On the way, where the noise leaves open what it is: the end is one of three pictures.
    assert [step for step, _ in way] == [4, 5, 6, 7, 8]
    for (_, seen), state in zip(way, states):
        assert state.belief is not None
        torch.testing.assert_close(seen, state.belief.mean.clamp(-1, 1).float(), rtol=0, atol=1e-6)
    assert (way[0][1] - way[-1][1]).abs().max() > 0.01
    torch.testing.assert_close(made.x, last.x.clamp(-1, 1).float(), rtol=0, atol=1e-6)
    assert made.steps == 5


def test_a_picture_depends_on_its_number_alone_and_the_way_is_shown(world: Denoiser, encoder: Any) -> None:
    vectors = image_vectors(encoder, PATTERNS[:1])
    ways: list[list[Tensor]] = []
    ticks: list[tuple[int, int]] = []

    def call(n: int, batch: int, seed: int = 0) -> Tensor:
        ways.append([])
        more: Any = {"show": lambda step, x: ways[-1].append(x), "progress": lambda *both: ticks.append(both)}
        return disco(world, encoder, vectors, [1.0], n=n, batch=batch, seed=seed, steps=4, settings=SETTINGS, **more).x

    whole, parts = call(5, 8), call(3, 2)
    torch.testing.assert_close(parts, whole[:3], rtol=0, atol=1e-6)
    assert [tuple(x.shape) for x in ways[0]] == [(5, 1, 6, 6)] * 4
    assert [tuple(x.shape) for x in ways[1]] == [(2, 1, 6, 6)] * 4  # of the first batch alone
    for one, other in zip(ways[0], ways[1]):
        torch.testing.assert_close(one[:2], other, rtol=0, atol=1e-6)
    assert ticks[3] == (20, 20)
    call(3, 2, 9)
    assert (ways[2][1] - ways[1][1]).abs().max() > 1e-3


def test_a_near_initial_picture_holds_the_run(world: Denoiser, encoder: Any) -> None:
    """Against a prompt of another picture: with much of ``init_scale`` it stays what it was, with none it goes."""
    vectors = image_vectors(encoder, PATTERNS[:1])
    share = []
    for scale in (1e6, 0):
        settings = ClipSettings(
            cut_overview=1, cut_innercut=0, skip_augs=True, clamp_max=0.3, init_scale=scale, clip_guidance_scale=100
        )
        made = disco(world, encoder, vectors, [1.0], n=12, steps=20, settings=settings, init_image=PATTERNS[2:], seed=1)
        near = (made.x.double()[:, None] - PATTERNS).square().flatten(2).sum(2).argmin(1)
        share.append(float((near == 2).double().mean()))
    assert share == [1.0, 0.0]


@pytest.mark.parametrize(
    ("written", "text", "weight"),
    [
        ("a red A", "a red A", 1.0),
        ("a red A:2", "a red A", 2.0),
        ("no: such weight", "no: such weight", 1.0),
        ("ratio 3:4:-0.5", "ratio 3:4", -0.5),
        ("a.png:1e-1", "a.png", 0.1),
    ],
)
def test_prompts_as_they_are_written(written: str, text: str, weight: float) -> None:
    assert Prompt.of(written) == Prompt(text, weight)


def test_refused(world: Denoiser, encoder: Any) -> None:
    vectors = image_vectors(encoder, PATTERNS[:1])
    call = lambda **changes: disco(
        **{"model": world, "encoder": encoder, "vectors": vectors, "weights": [1.0], **changes}
    )
    for changes, said in (
        ({"model": encoder}, "model must be a denoiser"),
        ({"n": 0}, "n must be"),
        ({"steps": 0}, "steps must be"),
        ({"skip_steps": 50}, "skip_steps must be"),
        ({"skip_steps": 5}, "give init_image"),
        ({"eta": -1}, "eta must lie"),
        ({"weights": [1.0, 2.0]}, "with P weights"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(UserError, match=said):
            call(**changes)


def test_pictures_are_cut_off_at_the_ends_of_the_range(encoder: Any) -> None:
    """Of data that reach 1.35 where they should not, without the term of the range that pulls them back."""
    bright = worlds.Empirical(1.5 * PATTERNS).denoiser(EDM())
    settings = ClipSettings(cut_overview=1, cut_innercut=0, skip_augs=True, range_scale=0)
    made = disco(bright, encoder, image_vectors(encoder, PATTERNS[:1]), [1.0], n=2, steps=4, settings=settings)
    assert float(made.x.abs().max()) == 1
