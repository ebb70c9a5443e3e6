"""Anomaly maps on worlds where the sick coordinates are known, and the area under the curve in closed form."""

from __future__ import annotations

import pytest
import torch

from langevin import UserError, processes, tasks, worlds

F64 = torch.float64
VP = processes.VP()
SICK = torch.tensor([0, 1, 0, 0, 1, 0, 0, 0], dtype=torch.bool)


def world() -> worlds.World:
    """Healthy data around 0 with neighbours that vary together, and sick ones moved by 1.5 in two coordinates."""
    distance = (torch.arange(8)[:, None] - torch.arange(8)).abs()
    cov = 0.2 * 0.6 ** distance.double()
    means = torch.stack([torch.zeros(8, dtype=F64), 1.5 * SICK.double()])
    return worlds.GaussianMixture(torch.ones(2) / 2, means, cov.expand(2, 8, 8))


@pytest.mark.parametrize("how", ["condition", "classifier", "guided"])
def test_finds_the_sick_coordinates(how):
    """Of sick data the map is large where they were moved: AUROC over coordinates of all samples above 0.95.

    A coordinate alone would not do: within a class its std is 0.45, and 1.5 beside it is an AUROC of 0.99 only if
    healthy values are known to be about 0; |x| in the place of the map has less than the map on the healthy ones.
    """
    made = world()
    x = made.part(1).sample(200, 5) if how != "guided" else made.part(1).sample(100, 5)
    settings = {"strength": 2.0, "label": 0}
    if how == "classifier":
        settings["classifier"] = made.classifier(VP)
    if how == "guided":
        settings["scale"] = 2.0
    found = tasks.anomaly(made.denoiser(VP), x, **settings)
    truth = SICK.expand(len(x), 8)
    assert found.map.shape == x.shape
    assert tasks.auroc(found.map, truth) > 0.95
    assert float(found.map[truth].mean()) > 0.7  # they were moved by 1.5; what comes back changed by DDIM is below 0.2
    torch.testing.assert_close(found.map, (x - found.healthy).abs())
    healthy = tasks.anomaly(made.denoiser(VP), made.part(0).sample(200, 6), **settings)
    assert float(healthy.map.mean()) < 0.3 * float(found.map[truth].mean())


def test_what_is_healthy_comes_back():
    """With the fixed point and a condition that all data meet the map is 0: nothing was changed."""
    made = world().part(0)
    x = made.sample(5, 1)
    assert float(tasks.anomaly(made.denoiser(VP), x, strength=5.0, fixed_point=60, label=0).map.max()) < 1e-8
    twice = [tasks.anomaly(made.denoiser(VP), x, strength=5.0, label=0).map for _ in range(2)]
    assert torch.equal(*twice)


def test_strength_is_how_much_may_change():
    made, x = world(), world().part(1).sample(50, 1)
    changes = [float(tasks.anomaly(made.denoiser(VP), x, strength=s, label=0).map.mean()) for s in (0.05, 0.5, 5.0)]
    assert changes[0] < changes[1] < changes[2]


def test_each_by_itself():
    made, x = world(), world().sample(5, 1)
    label = torch.tensor([0, 1, 0, 1, 0])
    whole = tasks.anomaly(made.denoiser(VP), x, label=label)
    part = tasks.anomaly(made.denoiser(VP), x, label=label, batch=2)
    torch.testing.assert_close(part.map, whole.map, rtol=0, atol=1e-12)


def test_auroc():
    """A pair at a time: the share of (anomalous, other) pairs that the score orders, ties half."""
    score = torch.tensor([0.1, 0.4, 0.35, 0.8, 0.4, 0.2])
    truth = torch.tensor([0, 1, 0, 1, 0, 0], dtype=torch.bool)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[truth].tolist() for b in score[~truth].tolist()]
    assert tasks.auroc(score, truth) == pytest.approx(sum(pairs) / len(pairs), abs=1e-15)
    assert tasks.auroc(score.reshape(2, 3), truth.reshape(2, 3)) == tasks.auroc(score, truth)
    assert tasks.auroc(torch.ones(6), truth) == 0.5


def test_refusals():
    made, x = world(), torch.zeros(2, 8)
    denoiser, least = made.denoiser(VP), float(torch.exp(-VP.log_snr(VP.t_min) / 2))
    for call, message in (
        (lambda: tasks.anomaly(denoiser, x), "the condition that is healthy must be given: give one of label"),
        (lambda: tasks.anomaly(denoiser, x, label=0, strength=0.0), "strength must be a noise level"),
        (lambda: tasks.anomaly(denoiser, x, label=0, strength=least), "strength must leave two steps"),
        (lambda: tasks.anomaly(denoiser, x, scale=float("nan")), "scale must be a finite number"),
        (lambda: tasks.anomaly(denoiser, x, classifier=made.classifier(VP)), "label must be given with a classifier"),
        (lambda: tasks.anomaly(denoiser, x[:, :4]), "x must have the model's shape"),
        (lambda: tasks.anomaly(denoiser, x, health=1), "condition 'health' is not one"),
        (lambda: tasks.auroc(x, torch.ones(2, 8)), "truth must have places"),
        (lambda: tasks.auroc(x, torch.ones(2)), "tensors of one shape"),
    ):
        with pytest.raises(UserError, match=message):
            call()
