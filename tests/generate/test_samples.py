"""Samples with their record: what is asked for is what is run, and what is run is what is written down."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import langevin
from langevin import UserError
from langevin.cli import sample
from langevin.cli.parse import parse
from langevin.denoisers import NetworkDenoiser
from langevin.generate import Recipe, generate
from langevin.report import TRIALS
from langevin.training import Config, NetworkConfig, build, resolve_config


def untrained(classes: bool = True) -> NetworkDenoiser:
    """A U-Net on digits whose last layer is drawn instead of zero, so that labels and noise matter."""
    info = langevin.data.load("digits").info
    info = info if classes else replace(info, classes=())
    torch.manual_seed(0)
    config = resolve_config(Config(network=NetworkConfig("unet", {"width": "8"})), info)
    denoiser = build(config, info)[0]
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return replace(denoiser, network=denoiser.network.eval())


@pytest.fixture(scope="module")
def model() -> NetworkDenoiser:
    return untrained()


COSTS = {
    "ddpm-1000": 1000,
    "ddim-20": 20,
    "ddim-10": 10,
    "heun-8": 15,  # two a step, one for the last
    "dpmpp-2m-sde-20": 20,
    "default-10": 10,
    "default-12": 12,
    "default-15": 15,
}


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.id)
def test_each_trial_costs_what_its_row_says(model: NetworkDenoiser, trial) -> None:
    drawn = generate(model, trial.recipe, 2)
    assert drawn.evaluations == drawn.record["evaluations"] == COSTS[trial.id]
    assert drawn.x.shape == (2, 1, 8, 8)
    assert drawn.x.abs().max() <= 1


@pytest.mark.parametrize("guided", [False, True])
def test_a_request_is_resolved_once(model: NetworkDenoiser, guided: bool, monkeypatch) -> None:
    """The plan that the record tells of is the one that is drawn by."""
    asked = []
    real = langevin.samplers.plan._resolve
    monkeypatch.setattr(langevin.samplers.plan, "_resolve", lambda *a: asked.append(a) or real(*a))
    recipe = Recipe("ddim", steps=3)

    def guide(own, condition):
        denoiser = own.given(condition)
        return denoiser, langevin.generate.plan(denoiser, recipe)

    drawn = generate(model, recipe, 2, guide=guide if guided else None)
    assert len(asked) == 1
    assert (drawn.record["steps"], drawn.record["rule"]) == (3, repr(langevin.samplers.DDIM()))


def test_ddpm_is_asked_at_every_knot_of_its_table() -> None:
    (trial,) = (trial for trial in TRIALS if trial.id == "ddpm-1000")
    process = langevin.processes.create_process(trial.recipe.process)
    grid = langevin.samplers.grids.uniform(process, trial.recipe.steps)
    assert process.knot(grid).tolist() == list(range(1000, -1, -1))


RECIPES = [trial.recipe for trial in TRIALS] + [
    Recipe(sampler="ddim", options={"eta": 0.5}, guidance_scale=1.5, seed=7),
    Recipe(sampler="ancestral", options={"final": "mean"}, grid="log-snr", process="vp", steps=3),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: " ".join(recipe.words()) or "default")
def test_a_recipe_can_be_typed(recipe: Recipe) -> None:
    options = parse("langevin sample", sample.Options, ["runs/x", *recipe.words()])
    assert options is not None
    assert options.sampling.recipe() == recipe


def test_labels_in_turn_one_for_all_or_one_each(model: NetworkDenoiser) -> None:
    recipe = Recipe(steps=1)
    each = torch.tensor([3, 1, 4])
    for label, wanted, said in (
        (None, [0, 1, 2], "in turn"),
        (7, [7, 7, 7], 7),
        (each, [3, 1, 4], "given"),
    ):
        drawn = generate(model, recipe, 3, given={"label": label})
        assert drawn.label is not None
        assert drawn.label.tolist() == wanted
        assert drawn.record["label"] == said
        denoiser = model.given(label=label if isinstance(label, int) else torch.tensor(wanted))
        assert torch.equal(drawn.x, langevin.sample(denoiser, n=3, steps=1, seed=0).clamp(-1, 1))


def test_guidance_is_that_of_the_guidance_room(model: NetworkDenoiser) -> None:
    drawn = generate(model, Recipe(steps=2, guidance_scale=3.0), 4)
    guided = langevin.guidance.classifier_free(model, label=torch.arange(4), guidance_scale=3.0)
    assert torch.equal(drawn.x, langevin.sample(guided, n=4, steps=2, seed=0).clamp(-1, 1))
    plain = generate(model, Recipe(steps=2), 4)
    assert not torch.allclose(drawn.x, plain.x, atol=1e-3)


def test_a_model_without_labels() -> None:
    model = untrained(classes=False)
    drawn = generate(model, Recipe(steps=1), 3)
    assert drawn.label is None
    assert drawn.record["label"] is None
    with pytest.raises(UserError, match="trained without conditions"):
        generate(model, Recipe(steps=1), 3, given={"label": 1})
    with pytest.raises(UserError, match="needs a condition to guide by, and none is given; this model takes none"):
        generate(model, Recipe(steps=1, guidance_scale=2.0), 3)


@pytest.mark.parametrize(
    ("recipe", "n", "label", "said"),
    [
        (Recipe(), 0, None, "n must be an integer of at least 1"),
        (Recipe(), 3, 10, r"label must lie in \[0, 10\) \(-1 is none\), got"),
        (Recipe(), 3, torch.tensor([0, 1]), "label must be an integer, or 3 of them"),
        (Recipe(), 3, torch.tensor(1.0), "label must hold integers"),
        (Recipe(options={"eta": 1.0}), 3, None, "settings of a named sampler"),
        (Recipe(process="absorbing"), 3, None, "process"),
    ],
)
def test_what_cannot_be_drawn(model: NetworkDenoiser, recipe: Recipe, n: int, label, said: str) -> None:
    with pytest.raises(UserError, match=said):
        generate(model, recipe, n, given={"label": label})


def test_samples_that_are_not_finite_are_not_handed_out(model: NetworkDenoiser) -> None:
    class Broken(torch.nn.Module):
        config = model.network.config

        def forward(self, x, time, condition=None):
            return torch.where(torch.arange(len(x))[:, None, None, None] == 1, torch.nan, x)

    broken = replace(model, network=Broken())
    with pytest.raises(UserError, match="1 of 4 samples are not finite"):
        generate(broken, Recipe(steps=2), 4)


def test_progress_is_told(model: NetworkDenoiser) -> None:
    told: list[tuple[int, int]] = []
    generate(model, Recipe(steps=3, batch=2), 4, progress=lambda done, total: told.append((done, total)))
    assert told == [(2 * i, 16) for i in range(1, 9)]  # 3 evaluations are 4 steps: the first asks nothing
