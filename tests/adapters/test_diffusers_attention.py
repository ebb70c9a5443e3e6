"""Attention of a pipeline's U-Net under a control, and prompt-to-prompt with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import langevin
from langevin import UserError
from langevin.nn import controlled
from langevin.tasks import edit as tasks
from langevin.tasks.edit.captions import caption_reader
from langevin.tasks.prepare import bound

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from loaded_pipelines import MADE, latents, loaded  # noqa: E402

OLD, NEW = "a red apple on the sea", "a blue apple on the sea"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    MADE.clear()
    return loaded("sd", tmp_path_factory.mktemp("pipelines"))


def plain(model: Any, caption: str, scale: float) -> torch.Tensor:
    return langevin.sample(bound(model, {"caption": caption}, scale), n=2, steps=4, seed=3)


def test_the_weights_of_the_layers(model: Any) -> None:
    """Given back they change nothing but rounding; after the control the processors are those that were there."""
    told, x = model.given(caption=[OLD, NEW]), latents(model)
    network = model.belief_of.network.network
    before = dict(network.attn_processors)
    seen: dict[str, tuple[tuple[int, ...], int]] = {}

    def control(layer: str, weights: torch.Tensor, own: int) -> torch.Tensor:
        seen[layer] = (tuple(weights.shape), own)
        assert (weights.sum(-1) - 1).abs().max() < 1e-5
        return weights

    with torch.no_grad():
        truth = told(x, 0.5).mean
        with controlled(model.belief_of.network, control):
            found = told(x, 0.5).mean
        with controlled(model.belief_of.network, lambda layer, weights, own: 0 * weights):
            assert not torch.allclose(told(x, 0.5).mean, truth, atol=1e-3)
        assert torch.equal(told(x, 0.5).mean, truth)
    assert (found - truth).abs().max() < 1e-5  # float32, values of about 1
    assert network.attn_processors == before
    for layer, (shape, own) in seen.items():
        assert shape[0] == 2
        assert own == (shape[-1] if layer.endswith("attn1") else 0)
        assert own or shape[-1] == 8  # the tokens of a caption
    assert {layer.rpartition(".")[2] for layer in seen} == {"attn1", "attn2"}


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_identities(model: Any, scale: float) -> None:
    """As of our own networks, in float32: equal captions, nothing replaced, everything replaced."""
    how: dict[str, Any] = {"n": 2, "steps": 4, "seed": 3, "guidance_scale": scale}
    close = 2e-4  # four steps and a decoder in float32, other kernels
    same = tasks.prompt_to_prompt(model, OLD, OLD, **how)
    assert (same.source - same.target).abs().max() < close
    assert (same.source - plain(model, OLD, scale)).abs().max() < close
    none = tasks.prompt_to_prompt(model, OLD, NEW, replace_steps=0.0, self_steps=0.0, **how)
    assert (none.target - plain(model, NEW, scale)).abs().max() < close
    some = tasks.prompt_to_prompt(model, OLD, NEW, replace_steps=1.0, self_steps=1.0, maps=True, blend="changed", **how)
    assert (some.source - same.source).abs().max() < close
    assert (some.target - none.target).abs().max() > 1e-6
    assert some.attention("blue").shape[0] == 2
    assert float(some.attention("blue").min()) > 0


def test_the_unconditional_side_is_left_alone(model: Any) -> None:
    """Its rows are told the empty prompt by the network itself: they are as without a control, in every layer."""
    from langevin.tasks.edit.attention import attention_edit
    from langevin.tasks.edit.pairs import PairedDenoiser

    pair = tasks.align(OLD, NEW, caption_reader(model).tokenizer)
    guided = bound(model, {"caption": [OLD, NEW]}, 0.0001)
    paired = PairedDenoiser(guided, attention_edit([pair], None, 8), 0.0, 0.0)
    x = latents(model)
    with torch.no_grad():
        assert (paired(x, 0.5).mean - model(x, 0.5).mean).abs().max() < 1e-4  # the share of the other side


def test_tokens_of_a_tokenizer(model: Any) -> None:
    """Each is of the bytes of its word; the first and the last are marks; too many words are refused."""
    reader = caption_reader(model)
    spans = reader.tokenizer("a red apple")
    assert [b"a red apple"[s.start : s.stop].decode() for s in spans] == ["", "a", "red", "apple", *[""] * 4]
    letters = reader.tokenizer("é apple")  # é is two bytes
    assert [b for b in letters if b][-1] == range(3, 8)
    assert reader.check("source", OLD) == [OLD]
    with pytest.raises(UserError, match="source must have at most 6 tokens, which this model takes, got 9"):
        reader.check("source", "a red apple on the blue sea a sea")


def test_what_is_refused(model: Any, tmp_path: Path) -> None:
    image = torch.zeros(model.output_shape)
    told: dict[str, Any] = {"caption": NEW, "source": {"caption": OLD}}
    with pytest.raises(UserError, match="edits pictures by models that are told bytes"):
        langevin.edit(model, image, method="prompt-to-prompt", strength=5.0, steps=6, **told)
    with controlled(model.belief_of.network, lambda layer, weights, own: weights):  # noqa: SIM117
        with pytest.raises(UserError, match="one control at a time"):
            tasks.prompt_to_prompt(model, OLD, NEW, steps=2)
    other = loaded("pixart", tmp_path)
    with pytest.raises(UserError, match=r"must have attention layers of langevin\.nn to be controlled"):
        tasks.prompt_to_prompt(other, OLD, NEW, steps=2)
