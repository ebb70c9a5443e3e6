"""What is shipped: how far rounding moves samples, what is chosen by it, what is said and kept beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import langevin
from conditioned import conditions, untrained
from langevin import UserError, models
from langevin.adapters.card import card
from langevin.denoisers import NetworkDenoiser
from langevin.generate import Recipe
from langevin.storage import files
from langevin.tasks import ship

STEPS = Recipe(steps=4)
STORY = ship.Story("Noise, by caption")


def given(n: int = 8) -> dict[str, Any]:
    return conditions(n)


def test_rounding_moves_samples_by_its_own_size() -> None:
    """float16 keeps 11 bits of a weight and bfloat16 8, so that to first order the one moves samples an eighth as far.

    The sum over some thousand independent roundings is taken for one pair of networks: the ratio lies within a factor
    of two of 8. A relative error of 2^-9 at most in each weight (half of the last of 8 bits) moves an output of a few
    layers by about as much of itself, far below a grey level; in float32 nothing moves.
    """
    model = untrained()
    far = {name: ship.moved(model, dtype, STEPS, 8, given())[0] for name, dtype in ship.WEIGHTS.items()}
    assert far["float32"] < 1e-7  # the moments of the data are those of float32 at most
    assert 4 < far["bfloat16"] / far["float16"] < 16
    assert 1e-7 < far["float16"] < far["bfloat16"] < ship.MOST


def test_the_distance_is_that_of_samples(tmp_path: Path) -> None:
    """Root mean square in the range of the data, [-1, 1], of samples that are drawn of the stored model by its user."""
    model = untrained()
    far, drawn = ship.moved(model, torch.bfloat16, STEPS, 8, given())
    models.save(model, tmp_path / "model", weights=torch.bfloat16)
    draw = lambda model: langevin.sample(model.given(given()), n=8, steps=4, seed=0).clamp(-1, 1)
    after = draw(models.load(tmp_path / "model", device="cpu"))
    torch.testing.assert_close(drawn.x, after, rtol=0, atol=0)
    truth = float((after - draw(model)).double().square().mean().sqrt()) / 2
    assert far == pytest.approx(truth, rel=1e-6)


def stored(held: dict[str, bytes]) -> Any:
    return json.loads(held["index.json"])["stored"]


def test_the_better_half_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = untrained()
    held = ship.ship(model, "noise", STORY, recipe=STEPS, n=8, given=given())
    assert stored(held)["weights"] == "float16"
    # An embedding of the label 2, which nobody asks for, that float16 does not hold.
    large = untrained()
    with torch.no_grad():
        name, table = next((k, v) for k, v in large.network.named_parameters() if "label" in k and v.ndim == 2)
        table[2] = 1e5
    other = {**given(), "label": torch.zeros(8, dtype=torch.long)}
    assert stored(ship.ship(large, "noise", STORY, recipe=STEPS, n=8, given=other))["weights"] == "bfloat16", name
    monkeypatch.setattr(ship, "MOST", 1e-9)
    assert stored(ship.ship(model, "noise", STORY, recipe=STEPS, n=8, given=given()))["weights"] == "float32"
    with pytest.raises(UserError, match=r"weights in float16 move the samples by .* of their range, more than 1e-09"):
        ship.ship(model, "noise", STORY, recipe=STEPS, n=8, given=given(), weights="float16")


def test_what_a_directory_holds() -> None:
    """The model without the place of its data and what trained it; a card, a recipe and a log, all in the index."""
    model = untrained()
    source = {"source": "/home/me/pictures", "size": 8}
    model = NetworkDenoiser(
        **{**vars_of(model), "data": type(model.data)(**{**vars(model.data), "source": source})},
    )
    story = ship.Story(
        "Noise, by caption",
        figure="read as asked: 97 %",
        notes="A table.",
        licence="mit",
        commands={"": "langevin train noise"},
        logs={"": "step,loss,val_loss\n1,0.5,\n2,0.4,0.45\n"},
        evaluation={"kind": "evaluation", "model": "/home/me/runs/noise", "measures": {}},
    )
    held = ship.ship(
        model,
        "noise-8",
        story,
        recipe=STEPS,
        n=4,
        given=given(4),
        picture=lambda x: f"{tuple(x.shape)}".encode(),
        learned={"solver-3.json": b"{}"},
    )
    index = json.loads(held["index.json"])
    assert index["files"] == {name: files.digest(data) for name, data in sorted(held.items()) if name != "index.json"}
    assert {"config.json", "model.safetensors", "README.md", "recipe.json", "metrics.csv", "solver-3.json"} <= set(held)
    assert held["samples.png"] == b"(4, 1, 8, 8)"
    assert not any(b"/home/me" in data for data in held.values())
    assert index["parameters"] == sum(p.numel() for p in model.network.parameters())
    assert index["trained"] == {"steps": 0}
    card = held["README.md"].decode()
    said = ["# noise-8", "Noise, by caption", "**read as asked: 97 %**", "A table.", "license: mit", "samples.png"]
    for words in (*said, "langevin train noise", "stored in float16"):
        assert words in card
    assert json.loads(held["recipe.json"])["commands"] == {"": "langevin train noise"}


def about_of(kind: str, conditions: list[str], shape: list[int]) -> dict[str, Any]:
    told = {"network": {"name": "unet"}, "parameters": 10, "shape": shape, "conditions": conditions, "data": {}}
    return told | ({} if kind == "denoiser" else {"kind": kind})


def test_the_card_shows_how_a_model_of_its_kind_is_used() -> None:
    said = card(about_of("contrastive-encoder", [], [3, 8, 8]), name="towers", licence="mit")
    assert 'encoder = langevin.load("towers")' in said
    assert "x: (N, 3, 8, 8)" in said
    assert "Pipeline" not in said
    assert "pipeline_tag: zero-shot-image-classification" in said
    said = card(about_of("denoiser", ["caption"], [3, 8, 8]), name="words", licence="mit", prompt="a red 'Q'")
    assert """images = pipe("a red 'Q'", num_inference_steps=10, guidance_scale=2.0, seed=0).images""" in said
    assert "pipeline_tag: text-to-image" in said
    small, large = about_of("denoiser", ["caption"], [3, 8, 8]), about_of("denoiser", ["image"], [3, 16, 16])
    said = card({"kind": "cascade", "stage-0": small, "stage-1": large}, name="both", licence="mit", prompt="a Q")
    assert "| shape of a sample | 3 × 16 × 16 |" in said
    assert "pipe('a Q', " in said
    assert "pipeline_tag: text-to-image" in said


def vars_of(model: NetworkDenoiser) -> dict[str, Any]:
    import dataclasses

    return {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.init}


def test_a_log_is_thinned() -> None:
    """All that hold a validation loss and the last stay, and no more than that many others."""
    rows = [f"{i},0.5,{'0.4' if i % 700 == 0 else ''}" for i in range(1, 3001)]
    kept = ship.thinned("\n".join(["step,loss,val_loss", *rows]) + "\n").splitlines()
    assert kept[0] == "step,loss,val_loss"
    assert [row for row in kept if row.endswith("0.4")] == [row for row in rows if row.endswith("0.4")]
    assert kept[-1] == rows[-1]
    assert ship.ROWS / 2 < len(kept) - 1 <= ship.ROWS + 4
    few = "step,loss,val_loss\n1,0.5,\n2,0.4,0.4\n"
    assert ship.thinned(few) == few


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a name": ({"name": "Noise 8"}, r"name must be lower-case letters, digits, . _ and -, got 'Noise 8'"),
    "no title": ({"story": ship.Story(" ")}, "title must say what the model does, in a line, got ' '"),
    "a title of two lines": ({"story": ship.Story("a\nb")}, "title must say what the model does"),
    "a type": ({"weights": "int8"}, "weights must be one of float32, float16, bfloat16, got 'int8'"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ship.ship(**{"model": untrained(), "name": "noise", "story": STORY, **changes})
