"""Γ and heads in a model directory: written, read, stale, damaged; a head's run stopped and gone on with."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

import langevin
from langevin import UserError
from langevin.calibration import calibrate_model, train_head
from langevin.denoisers import with_variance
from langevin.training import loop, train
from tiny_runs import points, tiny

DATA = points()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with Γ and both heads."""
    folder = tmp_path_factory.mktemp("variances") / "model"
    train(tiny(), DATA, folder, quiet=True)
    model = langevin.load(folder)
    calibrate_model(model, DATA, folder, times=5, n=64)
    for kind in ("sn", "npr"):
        train_head(kind, model, DATA, folder, steps=8, batch=16, quiet=True)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def test_comes_back_as_it_was(folder: Path) -> None:
    model = langevin.load(folder)
    assert sorted(model.learned_variances) == ["analytic", "npr", "residual", "sn"]
    again, file = calibrate_model(model, DATA, folder, times=5, n=64)
    assert file == folder / "calibration.json"
    x_t, t = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), 0.4
    found = with_variance(model, "analytic")(x_t, t)
    torch.testing.assert_close(found.cov.variance, again(model)(x_t, t).cov.variance, rtol=0, atol=0)
    torch.testing.assert_close(found.mean, model(x_t, t).mean, rtol=0, atol=0)
    for kind in ("sn", "npr"):
        head = train_head(kind, model, DATA, folder, steps=8, batch=16, quiet=True)  # trained already
        variance = with_variance(model, kind)(x_t, t).cov.variance
        torch.testing.assert_close(variance, head(x_t, t).cov.variance, rtol=0, atol=0)
        assert variance.shape == (6, 2)
        assert (variance > 0).all()
    labelled = with_variance(model.given(label=1), "npr")(x_t, t)
    torch.testing.assert_close(labelled.mean, model.given(label=1)(x_t, t).mean, rtol=0, atol=0)


def test_the_model_is_untouched(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    model = langevin.load(folder)
    state = {k: v.clone() for k, v in model.network.state_dict().items()}
    train_head("npr", model, DATA, folder, steps=5, batch=16, quiet=True)
    assert (folder / "model.safetensors").read_bytes() == before
    assert all(torch.equal(v, state[k]) for k, v in model.network.state_dict().items())
    assert not any(p.grad is not None for p in model.network.parameters())


def test_a_run_that_was_stopped_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights, bit for bit, as a run that was not stopped."""
    model, other = langevin.load(folder), tmp_path / "other"
    whole = train_head("sn", model, DATA, other, steps=12, seed=3, batch=16, quiet=True)
    plain, seen = loop.Run._count, []

    def stop(self, losses, mean):
        plain(self, losses, mean)
        if self.progress.step == 5 and not seen:
            seen.append(self.progress.step)
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Run, "_count", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 5"):
        train_head("sn", model, DATA, folder, steps=12, seed=3, batch=16, quiet=True)
    assert [p.name for p in (folder / "sn" / "checkpoints").iterdir()] == ["step-0000003"]
    steps = []
    monkeypatch.setattr(loop.Run, "_count", lambda self, *a: (steps.append(self.progress.step), plain(self, *a)))
    again = train_head("sn", model, DATA, folder, steps=12, seed=3, batch=16, quiet=True)
    assert steps == list(range(4, 13))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])


def test_another_seed_begins_anew(folder: Path) -> None:
    model = langevin.load(folder)
    x_t = torch.zeros(3, 2)
    before = with_variance(model, "npr")(x_t, 0.4).cov.variance
    other = train_head("npr", model, DATA, folder, steps=8, seed=1, batch=16, quiet=True)
    assert not torch.allclose(other(x_t, 0.4).cov.variance, before)


def test_what_is_stale_is_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After more training the variances are another model's: a warning each, none is used, a head begins anew."""
    config = json.loads((folder / "config.json").read_text())
    config["training"]["steps"] += 1
    (folder / "config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = langevin.load(folder)
    assert model.learned_variances == {}
    texts = [str(w.message) for w in said]
    assert len(texts) == 3
    for name in ("calibration.json", "sn", "npr"):
        assert any(f"{folder / name} was learned after 12 steps" in text for text in texts)
    steps, plain = [], loop.Run._count
    monkeypatch.setattr(loop.Run, "_count", lambda self, *a: (steps.append(self.progress.step), plain(self, *a)))
    train_head("sn", model, DATA, folder, steps=8, batch=16, quiet=True)
    assert steps == list(range(1, 9))
    with pytest.warns(UserWarning, match="was learned after 12 steps"):
        assert list(langevin.load(folder).learned_variances) == ["sn"]


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGE = [
    (lambda f: edit(f / "calibration.json", langevin=1), "not a calibration this version"),
    (lambda f: edit(f / "calibration.json", gamma=[0.5]), "gamma must be finite numbers"),
    (lambda f: edit(f / "calibration.json", gamma=[[]]), "gamma must be a list of numbers"),
    (lambda f: edit(f / "calibration.json", gamma="x"), "calibration.json"),
    (lambda f: edit(f / "calibration.json", more=1), "has unknown more"),
    (lambda f: edit(f / "calibration.json", made=[]), "made must be a JSON object"),
    (lambda f: (f / "calibration.json").write_bytes(b"{" * 2**21), "must be at most"),
    (lambda f: (f / "calibration.json").write_bytes(b"{"), "cannot be read"),
    (lambda f: edit(f / "npr" / "config.json", head="other"), "not a head this version"),
    (lambda f: edit(f / "npr" / "config.json", sigma_data=-1), "sigma_data must be > 0"),
    (lambda f: edit(f / "npr" / "config.json", network={"name": "mlp", "channels": 2}), "shape must be"),
    (lambda f: (f / "npr" / "model.safetensors").write_bytes(b"cut"), "truncated"),
    (lambda f: (f / "npr" / "model.safetensors").unlink(), "is missing"),
]


@pytest.mark.parametrize(("damage", "phrase"), DAMAGE)
def test_damaged_files_are_named(folder: Path, damage, phrase: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=phrase) as caught:
        langevin.load(folder)
    assert str(folder) in str(caught.value)


def test_refusals(folder: Path) -> None:
    model = langevin.load(folder)
    with pytest.raises(UserError, match=r"unknown head 'snr'. Did you mean 'sn'"):
        train_head("snr", model, DATA, folder)
    with pytest.raises(UserError, match="steps must be an integer of at least 1, got 0"):
        train_head("sn", model, DATA, folder, steps=0)
