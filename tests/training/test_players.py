"""That the one trainer is general: a GAN, a normalizing flow, a noisy classifier and a model that is told an image,
each through ``training.train``, against exact figures. Resuming them to the byte is in test_resume.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import langevin
from langevin import data, models, nn, training
from langevin._errors import UserError
from langevin.data.toys import RING_MEANS, RING_STD
from langevin.distributions import Noise, Stream
from langevin.training import (
    BudgetConfig,
    Config,
    NetworkConfig,
    ObjectiveConfig,
    OptimiserConfig,
    OutputConfig,
    PredictionConfig,
    ProcessConfig,
)
from support import sliced_w2
from tiny_runs import points, tiny

QUIET = OutputConfig(validate_every=0, sample_every=0, checkpoint_every=0)


def config(steps: int, **changes: Any) -> Config:
    return Config(budget=BudgetConfig(steps=steps), output=QUIET, **changes)


GANS = {
    "non-saturating": {"r1": "0.5"},
    "least-squares": {"loss": "least-squares", "r1": "0.5"},
    "non-saturating-diffused": {"r1": "0.1", "diffuse": "vp"},
    "least-squares-diffused": {"loss": "least-squares", "r1": "0.1", "diffuse": "vp"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GANS)
def test_a_gan_reaches_every_mode(name: str, tmp_path: Path) -> None:
    """Eight Gaussians on a ring: each mode has its share, within a factor, and samples lie where the data are."""
    asked = config(
        3000,
        batch=256,
        network=NetworkConfig("mlp", {"width": "64", "depth": "2", "conditions": "{}"}),
        objective=ObjectiveConfig("gan", GANS[name]),
        optimiser=OptimiserConfig(lr=1e-3),
    )
    dataset = data.load("mixture")
    model = training.train(asked, dataset, tmp_path, device="cpu", quiet=True)
    x = langevin.sample(model, n=4000, seed=1).double()
    assert model.counter.calls == math.ceil(4000 / 256)
    means = torch.from_numpy(np.asarray(RING_MEANS))
    distance, mode = torch.cdist(x, means).min(1)
    share = torch.bincount(mode, minlength=8).double() / len(x)
    assert share.min() > 0.25 / 8
    assert share.max() < 2.5 / 8
    assert (distance < 4 * RING_STD).double().mean() > 0.9
    real = dataset.test.all()["x"][:4000].double()
    assert sliced_w2(x, real) < 0.2  # of data of RMS 1; a unit normal is 0.3 away


def log_density_of_moons(x: torch.Tensor, label: torch.Tensor, knots: int) -> torch.Tensor:
    """log p(x | label) of the set ``moons``, the normal noise integrated over the angle; float64 ``(N,)``."""
    angle = (torch.arange(knots, dtype=torch.float64) + 0.5) * math.pi / knots
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    curve = math.sqrt(2) * (torch.stack([upper, lower]) - torch.tensor([0.5, 0.25]))
    std = 0.05 * math.sqrt(2)
    square = torch.cdist(x[:, None], curve[label])[:, 0].square()
    return torch.logsumexp(-square / (2 * std**2), 1) - math.log(knots * 2 * math.pi * std**2)


def test_a_short_run_of_a_normalizing_flow(tmp_path: Path) -> None:
    """After 300 steps held-out points of two moons are likelier than under any normal law, yet not than they are.

    The normal law of each moon's own held-out mean and covariance is the best there is: ½ log det(2πe Σ), about 2.0
    nats. The moons' own density is by quadrature (512 knots an arc of length √2π, an eighth of the noise's std apart,
    where a sum of normal laws is their integral to rounding), about 0.3 nats, and no density comes below it. Both are
    paired with the flow's, point by point, and hold by 4.5 standard errors of the mean difference of 4,000 points.
    """
    dataset = data.load("moons")
    asked = config(300, batch=256, network=NetworkConfig("coupling", {"width": "32"}))
    model = training.train(asked, dataset, tmp_path, device="cpu", quiet=True)
    held = dataset.test.all()
    x, label = held["x"][:4000].double(), held["label"][:4000]
    with torch.no_grad():
        found = -model.given(label=label).log_prob(x).double()
    moons = [x[label == k] for k in (0, 1)]
    laws = [torch.distributions.MultivariateNormal(one.mean(0), one.mT.cov(correction=0)) for one in moons]
    normal = -torch.where(label == 0, *(law.log_prob(x) for law in laws))
    truth = -log_density_of_moons(x, label, 512)
    error = lambda difference: 4.5 * float(difference.std()) / math.sqrt(len(x))
    assert found.mean() < normal.mean() - error(normal - found)
    assert found.mean() > truth.mean() - error(found - truth)


@pytest.mark.slow
def test_a_normalizing_flow_on_two_moons(tmp_path: Path) -> None:
    """Its held-out likelihood comes near that of the moons themselves, whose density is an integral over the angle."""
    dataset = data.load("moons")
    model = training.train(config(2000, network=NetworkConfig("coupling")), dataset, tmp_path, device="cpu", quiet=True)
    held = dataset.test.all()
    x, label = held["x"][:2000].double(), held["label"][:2000]
    with torch.no_grad():
        found = -model.given(label=label).log_prob(x).double()
    excess = found + log_density_of_moons(x, label, 4000)
    # The estimate of a Kullback–Leibler divergence: never below zero but for its own error.
    error = float(excess.std()) / math.sqrt(len(excess))
    assert -4.5 * error < float(excess.mean()) < 0.25
    drawn = langevin.sample(model.given(label=torch.arange(4000) % 2), n=4000, seed=2).double()
    assert sliced_w2(drawn, dataset.test.all()["x"][:4000].double()) < 0.1


@pytest.mark.slow
def test_a_noisy_classifier_on_digits(tmp_path: Path) -> None:
    """Nearly all right where there is little noise, at chance where there is nothing else, and falling between."""
    dataset = data.load("digits")
    asked = config(600, objective=ObjectiveConfig("cross-entropy"))
    model = training.train(asked, dataset, tmp_path, device="cpu", quiet=True)
    level, share = training.accuracy(model, dataset.test.all(), levels=12)
    assert level == sorted(level)
    between = lambda a, b: float(np.mean([s for v, s in zip(level, share) if a < v < b]))
    low, high = between(0, 0.1), between(20, 1e3)
    assert low > 0.95
    n = len(dataset.test)
    assert abs(high - 0.1) < 4.5 * math.sqrt(0.1 * 0.9 / n)
    middle = [s for v, s in zip(level, share) if 0.5 < v < 5]
    assert all(high < s <= low + 0.02 for s in middle)


@pytest.mark.slow
def test_digits_from_four_by_four(tmp_path: Path) -> None:
    """Told the 4×4 digit, a model draws 8×8 ones that agree with it, nearer to the true one than bicubic ones are."""
    dataset = data.load("digits", degrade="resize=4")
    model = training.train(config(800), dataset, tmp_path, device="cpu", quiet=True)
    assert model.conditions() == ("label", "image")
    held = dataset.test.all()
    told = {name: held[name] for name in ("label", "image")}
    x = langevin.sample(model.given(told), n=len(dataset.test), seed=1)
    truth, small = held["x"], held["image"]
    again = F.interpolate(x, (4, 4), mode="bicubic", antialias=True)
    bicubic = F.interpolate(small, (8, 8), mode="bicubic").clamp(-1, 1)
    rms = lambda v: float(v.square().mean().sqrt())
    assert rms(again - small) < 0.25 * rms(small - small.mean())
    assert rms(x - truth) < rms(bicubic - truth)
    # Without the picture it is the model of all digits: what it draws has nothing to do with these.
    free = langevin.sample(model.given(label=held["label"]), n=len(dataset.test), seed=1)
    assert rms(free - truth) > 1.5 * rms(x - truth)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a process": ({"objective": ObjectiveConfig("gan"), "process": ProcessConfig("vp")}, "--process is a setting"),
    "a prediction": ({"objective": ObjectiveConfig("gan"), "prediction": PredictionConfig("v")}, "--prediction is a"),
    "times": ({"objective": ObjectiveConfig("gan", times="uniform")}, "which has no times"),
    "a setting": ({"objective": ObjectiveConfig("gan", {"r2": "1"})}, "unknown option of objective gan 'r2'"),
    "a discriminator": (
        {"objective": ObjectiveConfig("gan", {"discriminator": "3"})},
        "discriminator must be a mapping",
    ),
    "no density": (
        {"objective": ObjectiveConfig("maximum-likelihood"), "network": NetworkConfig("mlp")},
        "learns a network with a density, coupling",
    ),
    "a flow by another objective": (
        {"network": NetworkConfig("coupling"), "objective": ObjectiveConfig("edm")},
        "learned by objective 'maximum-likelihood'",
    ),
    "classes": (
        {"objective": ObjectiveConfig("cross-entropy"), "network": NetworkConfig("mlp", {"out_channels": "5"})},
        "must be the 3 classes",
    ),
    "a classifier of another network": (
        {"objective": ObjectiveConfig("cross-entropy"), "network": NetworkConfig("dit")},
        "network of a classifier of these data must be mlp",
    ),
    "a chain to diffuse by": ({"objective": ObjectiveConfig("gan", {"diffuse": "absorbing"})}, "diffuse must name"),
    "a chain": (
        {"objective": ObjectiveConfig("cross-entropy"), "process": ProcessConfig("phase-space")},
        "needs a process x_t",
    ),
    "no denoiser": ({"network": NetworkConfig("encoder")}, "returns a few numbers"),
    "a condition that is not there": (
        {"objective": ObjectiveConfig(dropout={"image": 0.1})},
        "is of no condition of this network, which takes label",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_before_any_work(what: str, tmp_path: Path) -> None:
    changes, says = REFUSED[what]
    plain = {"network": NetworkConfig("mlp", {"width": "16"})}
    with pytest.raises(UserError, match=says):
        training.train(tiny(2, **{**plain, **changes}), points(), tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_classes_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="learns the classes of real data"):
        training.train(tiny(2, objective=ObjectiveConfig("cross-entropy")), points(classes=0), tmp_path, quiet=True)


def test_a_mask_is_hidden_with_its_picture() -> None:
    """Unless it is asked for otherwise."""
    info = data.load("digits", limit=40, degrade="box=0.4").info
    share = lambda dropout: (
        training.resolve_config(Config(objective=ObjectiveConfig(dropout=dropout)), info).objective.dropout
    )
    assert share({}) == {"label": 0.1, "image": 0.1, "mask": 0.1}
    assert share({"image": 0.0}) == {"label": 0.1, "image": 0.0, "mask": 0.0}
    assert share({"image": 0.0, "mask": 0.3}) == {"label": 0.1, "image": 0.0, "mask": 0.3}


def test_a_run_goes_on_with_what_made_its_examples(tmp_path: Path) -> None:
    """Another degradation or another codec makes other data, though their names and shapes are the same."""
    small = {"network": NetworkConfig("unet", {"width": "8", "blocks": "1", "multipliers": "[1]"})}
    noisy = [data.load("digits", limit=40, degrade=f"noise={level}") for level in (0.1, 0.9)]
    training.train(tiny(2, **small), noisy[0], tmp_path / "noisy", device="cpu", quiet=True)
    with pytest.raises(UserError, match=r"was trained on data made otherwise: degrade 'noise=0.1'"):
        training.train(tiny(4, **small), noisy[1], tmp_path / "noisy", resume=True, device="cpu", quiet=True)
    digits = data.load("digits", limit=40)
    codecs = [models.Autoencoder(nn.VAE(1, size=(8, 8), width=8, blocks=1).eval(), digits.info) for _ in range(2)]
    codes = [models.encode(digits, codec) for codec in codecs]
    training.train(tiny(2, **small), codes[0], tmp_path / "codes", device="cpu", quiet=True)
    with pytest.raises(UserError, match="was trained on data made otherwise: codec"):
        training.train(tiny(4, **small), codes[1], tmp_path / "codes", resume=True, device="cpu", quiet=True)
    with pytest.raises(UserError, match="a codec is for denoisers of its codes, got a codec to train"):
        training.train(tiny(2, network=NetworkConfig("vae")), codes[0], tmp_path / "vae", device="cpu", quiet=True)


@pytest.mark.parametrize("name", ["label", "vector"])
def test_what_is_hidden_is_each_condition_s_own(name: str) -> None:
    """The share that is asked for of each, independent of each other, decided by the sample's noise alone."""
    from langevin.training.learner import place_of

    n = 20_000
    hidden = {
        key: Noise(0, n).fold_in(Stream.CONDITIONS + place_of(key)).uniform(()) < 0.3
        for key in ("label", "vector", "image", "mask")
    }
    assert torch.equal(hidden["image"], hidden["mask"])
    share = float(hidden[name].double().mean())
    assert abs(share - 0.3) < 4.5 * math.sqrt(0.3 * 0.7 / n)
    both = float((hidden[name] & hidden["image"]).double().mean())
    assert abs(both - 0.09) < 4.5 * math.sqrt(0.09 * 0.91 / n)
