"""Prompt-to-prompt and null-text optimisation with a small model that has learned what its captions say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import langevin
from langevin import data, processes, samplers, training
from langevin.nn import encode_texts
from langevin.tasks import edit as tasks
from langevin.tasks.prepare import bound

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 70), "blue": (50, 80, 220), "white": (240, 240, 240)}
LENGTH = 24


def boxes(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Boxes of 4 × 4 somewhere in 8 × 8 pixels, of a colour on another, and captions: "a red box on blue"."""
    g = np.random.default_rng(seed)
    x, captions = np.empty((count, 3, 8, 8), np.uint8), []
    for image in x:
        ink, ground = g.choice(list(COLOURS), 2, replace=False)
        top, left = g.integers(0, 5, 2)
        image[:] = np.array(COLOURS[ground])[:, None, None]
        image[:, top : top + 4, left : left + 4] = np.array(COLOURS[ink])[:, None, None]
        captions.append(f"a {ink} box on {ground}")
    return x, captions


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> langevin.denoisers.Denoiser:
    """About a minute on a core."""
    place = tmp_path_factory.mktemp("boxes")
    text = '{"width": 48, "depth": 2, "heads": 2}'
    options = {"width": "24", "multipliers": "[1,2]", "blocks": "1", "attention": "[8,4]", "text": text}
    config = training.Config(
        network=training.NetworkConfig("unet", options),
        budget=training.BudgetConfig(steps=800),
        optimiser=training.OptimiserConfig(lr=2e-3),
        batch=64,
    )
    x, captions = boxes(3000, 0)
    np.savez(place / "boxes.npz", x=x, caption=encode_texts(captions, LENGTH).numpy())
    training.train(config, data.load(place / "boxes.npz"), place / "run", quiet=True)
    return langevin.load(place / "run")


def nearest(x: torch.Tensor) -> np.ndarray:
    """The colour of each pixel ``(N, 8, 8)``, by name."""
    known = torch.tensor(list(COLOURS.values())) / 127.5 - 1
    return np.array(list(COLOURS))[torch.cdist(x.permute(0, 2, 3, 1).reshape(-1, 3), known).argmin(1)].reshape(-1, 8, 8)


@pytest.mark.slow
def test_a_colour_is_changed_and_the_rest_stays(model) -> None:
    """Of 64 pairs the new colour is where the old one was, and the rest stays more often than of plain samples.

    Of the pixels that had it the new colour takes a larger share, which says that the box stands where it stood, and of
    all others a larger share keeps its colour.
    """
    names = list(COLOURS)
    triples = [
        [names[(i + k) % 4] for k in ((0, 1, 2), (0, 2, 3), (0, 3, 1), (0, 2, 1))[i // 4 % 4]] for i in range(64)
    ]
    caption = lambda ink, ground: f"a {ink} box on {ground}"
    for kind in ("ink", "ground"):
        olds = [caption(ink, ground) for ink, ground, _ in triples]
        news = [caption(third, g) if kind == "ink" else caption(ink, third) for ink, g, third in triples]
        kept, there = {}, {}
        for name, controls in {
            "plain": {"replace_steps": 0.0, "self_steps": 0.0},
            "replaced": {},
            "blend": {"blend": "changed"},
        }.items():
            made = tasks.prompt_to_prompt(model, olds, news, steps=12, guidance_scale=2.0, **controls)
            old, new = nearest(made.source.clamp(-1, 1)), nearest(made.target.clamp(-1, 1))
            third = np.array([t[2] for t in triples])[:, None, None]
            before = np.array([t[0 if kind == "ink" else 1] for t in triples])[:, None, None]
            changes, stays = old == before, (old != before) & (old != third)
            there[name] = (new[changes] == np.broadcast_to(third, new.shape)[changes]).mean()
            kept[name] = (new[stays] == old[stays]).mean()
        assert there["replaced"] > there["plain"] + 0.05, (kind, there, kept)
        assert kept["replaced"] > kept["plain"] + 0.05, (kind, there, kept)
        assert kept["blend"] >= kept["replaced"] - 0.02, (kind, there, kept)


@pytest.mark.slow
def test_null_text_brings_pictures_back(model) -> None:
    """Held to the picture in the order of the iterations; nearer than guided, and than unguided DDIM."""
    pixels, captions = boxes(12, 1)
    x, caption = torch.from_numpy(pixels) / 127.5 - 1, encode_texts(captions, LENGTH)
    grid = processes.grids.karras(model.process, 12)
    told = model.given(caption=caption)
    path = samplers.encoded(told, x, sampler=samplers.DDIM(), grid=grid)
    guided = bound(model, {"caption": caption}, 3.0)

    def missed(denoiser) -> float:
        with torch.no_grad():
            *_, last = samplers.trajectory(denoiser, samplers.DDIM(), grid=grid, start=path[-1].x)
        return float((last.x - x).square().mean().sqrt())

    plain, unguided = missed(guided), missed(told)
    found = [
        missed(tasks.with_null(guided, tasks.null_text(guided, x, path, samplers.DDIM(), grid, n))) for n in (2, 8, 24)
    ]
    assert plain > found[0] > found[1] > found[2]
    assert found[2] < 0.4 * plain
    assert found[2] < unguided < plain
