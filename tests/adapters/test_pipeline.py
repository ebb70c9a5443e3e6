"""``langevin.Pipeline`` and ``langevin publish``: habits of Hugging Face's libraries, and what a repository holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

import langevin
from langevin import models, worlds
from langevin._errors import UserError
from langevin.cli import main
from langevin.storage import files


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of 8×8 digits with labels."""
    root = tmp_path_factory.mktemp("pipeline")
    torch.manual_seed(0)
    options = {"width": 8, "multipliers": (1,), "blocks": 1, "attention": (), "conditions": {"label": 10}}
    network = langevin.nn.UNet(1, size=(8, 8), **options)
    for parameter in network.parameters():  # an untrained network starts as 0, which hears no label
        torch.nn.init.normal_(parameter, std=0.2)
    reading = langevin.denoisers.AffineParameterization("edm")
    info = langevin.data.load("digits").info
    model = langevin.denoisers.NetworkDenoiser(
        network.eval(), langevin.processes.Cosine(), reading, (1, 8, 8), data=info
    )
    models.save(model, root / "model")
    return root


@pytest.fixture(scope="module")
def pipe(place: Path) -> langevin.Pipeline:
    return langevin.Pipeline.from_pretrained(place / "model", device="cpu")


def test_a_call_is_sample(pipe: langevin.Pipeline) -> None:
    """The numbers of ``langevin.sample`` of the guided model, brought to [0, 1]: as pictures, arrays and tensors."""
    how: dict[str, Any] = {"num_inference_steps": 3, "label": [3, 5], "guidance_scale": 2.0, "seed": 4}
    guided = langevin.guidance.classifier_free(pipe.model, label=torch.tensor([3, 5]), guidance_scale=2.0)
    x = langevin.sample(guided, n=2, steps=3, seed=4)
    unit = ((x + 1) / 2).clamp(0, 1)
    assert float(unit.std()) > 0.05
    torch.testing.assert_close(pipe(**how, output_type="pt").images, unit, rtol=0, atol=1e-6)
    array = pipe(**how, output_type="np")[0]
    assert np.abs(array[..., 0] - unit[:, 0].numpy()).max() < 1e-6
    (pictures,) = pipe(**how, return_dict=False)
    levels = np.stack([np.array(p) for p in pictures]).astype(float)
    assert np.abs(levels - 255 * unit[:, 0].double().numpy()).max() <= 0.5 + 1e-4  # the nearest of 256
    other = pipe(**{**how, "sampler": "ddim", "grid": "karras"}, output_type="pt").images
    again = langevin.sample(guided, "ddim", n=2, steps=3, grid="karras", seed=4)
    torch.testing.assert_close(other, ((again + 1) / 2).clamp(0, 1), rtol=0, atol=1e-6)


def test_a_generator_is_a_key(pipe: langevin.Pipeline) -> None:
    """The same generator state gives the same samples, whatever their number; the next call others."""
    how: dict[str, Any] = {"num_inference_steps": 2, "label": 1, "output_type": "pt"}
    g = torch.Generator().manual_seed(7)
    four, next_four = (pipe(**how, batch_size=4, generator=g).images for _ in range(2))
    two = pipe(**how, batch_size=2, generator=torch.Generator().manual_seed(7)).images
    torch.testing.assert_close(two, four[:2], rtol=0, atol=1e-5)
    assert not torch.allclose(four, next_four, atol=1e-2)
    torch.manual_seed(3)
    plain = pipe(**how).images
    torch.manual_seed(3)
    assert torch.equal(plain, pipe(**how).images)


def test_the_callback_sees_and_changes(pipe: langevin.Pipeline) -> None:
    """It is called after every step with its number, time and state, changes nothing by being there, and what it gives
    back is gone on from."""
    seen: list[tuple[int, float]] = []

    def watch(which: Any, step: int, t: float, tensors: dict[str, torch.Tensor]) -> None:
        assert which is pipe
        seen.append((step, t))
        assert tensors["latents"].shape == (2, 1, 8, 8)

    how: dict[str, Any] = {"num_inference_steps": 3, "label": 1, "seed": 2, "batch_size": 2, "output_type": "pt"}
    for sampler in ("ddpm", "dpmpp-2m"):
        seen.clear()
        watched = pipe(**how, sampler=sampler, callback_on_step_end=watch).images
        assert torch.equal(watched, pipe(**how, sampler=sampler).images)
        assert [step for step, _ in seen] == [0, 1, 2]
        assert seen[-1][1] == 0
        assert sorted(seen, key=lambda pair: -pair[1]) == seen
    last = lambda which, step, t, tensors: {"latents": torch.full_like(tensors["latents"], 0.5)} if t == 0 else None
    assert torch.equal(pipe(**how, callback_on_step_end=last).images, torch.full((2, 1, 8, 8), 0.75))
    early = lambda which, step, t, tensors: {"latents": 0 * tensors["latents"]} if step == 0 else None
    assert not torch.allclose(pipe(**how, callback_on_step_end=early).images, pipe(**how).images, atol=1e-2)


def test_a_world_is_called_too() -> None:
    """What is no picture comes as tensors and arrays, in its own units."""
    pipe = langevin.Pipeline(worlds.ring().denoiser(langevin.processes.VP()))
    points = pipe(batch_size=5, num_inference_steps=4, seed=1, output_type="pt").samples
    assert torch.equal(points, langevin.sample(pipe.model, n=5, steps=4, seed=1))
    with pytest.raises(UserError, match="output_type must be 'np' or 'pt' for samples of shape"):
        pipe(batch_size=5)


def test_saved_it_is_a_model_with_its_card(pipe: langevin.Pipeline, tmp_path: Path) -> None:
    """``langevin.load`` reads it, the Hub reads the card, and the header of the weights says what they are."""
    measured = {"measures": {"fd": {"value": 1.25, "protocol": {"n": 359, "features": "pixels|raw"}}}, "note": "Few."}
    licensed = langevin.Pipeline(pipe.model, licence="mit")
    licensed.save_pretrained(tmp_path / "out", repo_id="me/digits", evaluation=measured, samples=4)
    again = langevin.load(tmp_path / "out", device="cpu")
    for key, value in pipe.model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], value)
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "langevin"
    assert card.data.license == "mit"
    assert card.data.pipeline_tag == "unconditional-image-generation"
    for words in ("# me/digits", "| fd | 1.25 |", "pixels", "Few.", "![Samples of this model](samples.png)", "label"):
        assert words in card.text
    assert (tmp_path / "out/samples.png").is_file()
    content = (tmp_path / "out/model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert header["modelspec.architecture"] == "langevin/unet"
    assert header["modelspec.resolution"] == "8x8"
    licensed.save_pretrained(tmp_path / "none", samples=0)
    assert not (tmp_path / "none/samples.png").exists()
    assert "None were measured" in (tmp_path / "none/README.md").read_text()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_is_saved_in_float32(place: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Whatever it computes in, what is saved is read again: half precision is kept exactly."""
    pipe = langevin.Pipeline.from_pretrained(place / "model", device="cpu").to(dtype)
    pipe.save_pretrained(tmp_path / "out", samples=0)
    again = langevin.load(tmp_path / "out", device="cpu").network.state_dict()
    for key, value in pipe.model.network.state_dict().items():
        assert again[key].dtype == torch.float32
        assert torch.equal(again[key], value.float())


def test_no_path_of_this_machine_is_published(place: Path, tmp_path: Path) -> None:
    """Of a folder that was trained on the name is kept; of a set by name or on the Hub all of it."""
    model = models.load(place / "model")
    for source, kept in (("/home/me/secret/photos", "photos"), ("digits", "digits"), ("hf:a/b", "hf:a/b")):
        info = dataclasses.replace(model.data, source={"source": source})
        langevin.Pipeline(dataclasses.replace(model, data=info)).save_pretrained(tmp_path / "out", samples=0)
        held = json.loads((tmp_path / "out/config.json").read_text())["data"]["source"]
        assert held == {"source": kept}
        assert "/home/me" not in (tmp_path / "out/README.md").read_text()


def test_what_is_not_ours_is_left_alone(pipe: langevin.Pipeline, place: Path, tmp_path: Path, capsys) -> None:
    """A pipeline of diffusers is not written into, and a directory with other files is not published."""
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="must not hold a pipeline of diffusers"):
        pipe.save_pretrained(tmp_path)
    (tmp_path / "full/sub").mkdir(parents=True)
    (tmp_path / "full/sub/notes.txt").write_text("mine")
    words = ["publish", str(place / "model"), "--to", "me/x", "--out"]
    assert main([*words, str(tmp_path / "full")]) == 2
    assert "holds sub/notes.txt" in capsys.readouterr().err
    for _ in range(2):  # one of an earlier publish is written anew
        assert main([*words, str(tmp_path / "again")]) == 0


def test_a_header_is_the_same_in_every_process() -> None:
    """safetensors writes its own in the order of a hash map; ours is sorted, and a reader finds every tensor."""
    from safetensors.torch import load

    tensors = {"b": torch.arange(5.0), "a": torch.ones(2, 3, dtype=torch.bfloat16)}
    content = files.as_safetensors(tensors, {"z": "1", "format": "pt", "σ": "é"})
    size = int.from_bytes(content[:8], "little")
    assert size % 8 == 0
    assert list(json.loads(content[8 : 8 + size])["__metadata__"]) == ["format", "z", "σ"]
    for name, value in load(content).items():
        assert torch.equal(value, tensors[name])


class Hub:
    """Stands for the Hub: writes down what it is asked."""

    asked: list[tuple[str, Any]] = []  # noqa: RUF012

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.asked.append(("create", (repo_id, options)))
        return repo_id

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> str:
        self.asked.append(("upload", sorted(p.name for p in Path(folder_path).iterdir())))
        return f"https://huggingface.co/{repo_id}"


def test_publish(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The command writes what it says it does, takes the evaluation beside the model, and pushes only if asked."""
    import huggingface_hub

    Hub.asked.clear()
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    evaluation = {"kind": "evaluation", "measures": {"precision": {"value": 0.5, "protocol": {"k": 3}}}}
    (place / "model/evaluation.json").write_text(json.dumps(evaluation))
    words = ["publish", str(place / "model"), "--to", "me/digits", "--licence", "cc-by-4.0", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 0
    assert Hub.asked == []
    assert "| precision | 0.5 |" in (tmp_path / "a/README.md").read_text()
    assert main([*words, str(tmp_path / "b"), "--push", "--private"]) == 0
    assert Hub.asked[0] == ("create", ("me/digits", {"private": True, "exist_ok": True}))
    assert {"README.md", "config.json", "model.safetensors", "samples.png"} <= set(Hub.asked[1][1])
    assert "https://huggingface.co/me/digits: pushed." in capsys.readouterr().out
    (place / "model/evaluation.json").unlink()

    def refused(self: Hub, *_: Any, **__: Any) -> str:
        raise ValueError("401 Client Error: you must log in")

    monkeypatch.setattr(Hub, "create_repo", refused)
    assert main([*words, str(tmp_path / "c"), "--push"]) == 2
    assert "me/digits cannot be pushed to: 401" in capsys.readouterr().err


class Uploads:
    """Stands for the Hub: a name without an owner is of its user, and what lies in an uploaded folder is kept."""

    made: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012
    files: dict[str, bytes] = {}  # noqa: RUF012

    def __init__(self, token: str | None = None) -> None:
        assert token == "a token"

    def create_repo(self, repo_id: str, **options: Any) -> SimpleNamespace:
        self.made.append((repo_id, options))
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, **options: Any) -> str:
        self.made.append((repo_id, options))
        self.files.clear()
        self.files.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
        return f"https://huggingface.co/{repo_id}"


@pytest.mark.parametrize("given", ["me/digits", "digits"])
@pytest.mark.parametrize("by", ["push_to_hub", "save_pretrained"])
def test_a_card_that_is_pushed_names_its_repository(
    pipe: langevin.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, by: str
) -> None:
    """With its owner, in the title and in the example, and with the figures that were given.

    This once lost the owner: the mixin saves into a directory of its own and says no more than that.
    """
    monkeypatch.setattr("langevin.adapters.pipeline.HfApi", Uploads)
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Uploads)
    Uploads.made.clear()
    told: dict[str, Any] = {"evaluation": {"measures": {"precision": {"value": 0.5}}}, "samples": 2}
    told |= {"private": True, "branch": "dev", "token": "a token"}
    if by == "push_to_hub":
        address = pipe.push_to_hub(given, **told)
    else:
        address = pipe.save_pretrained(tmp_path / "here", repo_id=given, push_to_hub=True, **told)
    assert address == "https://huggingface.co/me/digits"
    assert Uploads.made[0] == (given, {"private": True, "exist_ok": True})
    assert Uploads.made[1][0] == "me/digits"
    assert Uploads.made[1][1]["revision"] == "dev"
    assert {"README.md", "config.json", "model.safetensors", "samples.png"} <= set(Uploads.files)
    card = Uploads.files["README.md"].decode()
    for words in ("\n# me/digits\n", 'Pipeline.from_pretrained("me/digits")', "| precision | 0.5 |"):
        assert words in card


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_type": "jpg"}, "output_type must be one of pil, np, pt, got 'jpg'"),
        ({"prompt": "a cat"}, "the model must take caption to be given it; its conditions are: label"),
        ({"label": [1, 2], "batch_size": 3}, r"batch_size must be the number of prompts and labels, \[2\], got 3"),
        ({"labels": 3}, "Pipeline takes no 'labels'. Did you mean 'label'"),
        ({"negative_prompt": "a"}, "Pipeline takes no 'negative_prompt'"),
        ({"label": "3"}, "label must be the index of a class or a list of them, got '3'"),
        ({"guidance_scale": 2.0}, "guidance_scale 2.0 needs a condition to guide by: a prompt or label"),
        ({"callback_on_step_end": 5}, "callback_on_step_end must be a function, got 5"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"seed": 1, "generator": torch.Generator()}, "seed is in place of a generator"),
        ({"generator": 3}, "generator must be one torch.Generator"),
        ({"guidance_scale": float("nan"), "label": 1}, "guidance_scale must be a finite number"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "callback_on_step_end_tensor_inputs must be of"),
        ({"callback_on_step_end": lambda *_: 3}, "must return a mapping with latents or None, got 3"),
        ({"callback_on_step_end": lambda *_: {"latents": torch.ones(1)}}, "must return latents of shape"),
    ],
)
def test_refusals(pipe: langevin.Pipeline, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipe(**{"num_inference_steps": 2, **given})


def test_refusals_of_the_rest(place: Path) -> None:
    with pytest.raises(UserError, match="model must be a model that makes data"):
        langevin.Pipeline(torch.nn.Linear(1, 1))
    with pytest.raises(UserError, match="from_pretrained takes revision and device, got torch_dtype"):
        langevin.Pipeline.from_pretrained(place / "model", torch_dtype=torch.float16)
