"""The files of a pipeline of diffusers: in parts, alone, of older names, damaged, or not to be read at all."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import langevin
from langevin import UserError
from langevin.adapters import diffusers as adapter
from langevin.models import Autoencoder

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from loaded_pipelines import MADE, PROMPT, SIZE, drawn, latents, loaded, pipeline  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    MADE.clear()
    return tmp_path_factory.mktemp("pipelines")


@pytest.mark.parametrize("options", [{"variant": "fp16"}, {"max_shard_size": "60KB"}])
def test_weights_of_a_variant_and_in_parts(options: dict[str, Any], place: Path) -> None:
    pipe, whole = pipeline("sd", place), loaded("sd", place)
    folder = place / "parts"
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder, safe_serialization=True, **options)
    found = [p.name for p in (folder / "unet").glob("*.safetensors")]
    assert len(found) > 1 or "fp16" in found[0]
    model = langevin.load(folder, device="cpu")
    x = latents(model)
    with torch.no_grad():
        assert torch.equal(model.given(caption=PROMPT)(x, 0.5).mean, whole.given(caption=PROMPT)(x, 0.5).mean)


def test_codec_alone(place: Path) -> None:
    pipe = pipeline("sd", place)
    model = langevin.load(place / "sd" / "vae", device="cpu")
    assert isinstance(model, Autoencoder)
    assert model.latent == (4, 8, 8)
    x = torch.rand(1, 3, SIZE, SIZE, generator=drawn())
    with torch.no_grad():
        wanted = pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor
    torch.testing.assert_close(model.encode(x).mean, wanted, rtol=1e-5, atol=1e-6)


def test_network_alone(place: Path) -> None:
    """A network of its own says nothing of its noise: the scheduler is given."""
    pipe, whole = pipeline("ddpm", place), loaded("ddpm", place)
    with pytest.raises(UserError, match=r"does not say how it was trained .*scheduler="):
        langevin.load(place / "ddpm" / "unet")
    made = adapter.load(place / "ddpm" / "unet", device="cpu", scheduler=dict(pipe.scheduler.config))
    assert made.process == whole.process
    x = latents(whole)
    with torch.no_grad():
        assert torch.equal(made(x, 0.5).mean, whole(x, 0.5).mean)


def test_scheduler_that_is_given(place: Path) -> None:
    """As an object, of theirs or of ours, or as a configuration that names its class."""
    pipeline("ddpm", place)
    folder = place / "ddpm" / "unet"
    native = diffusers.EulerDiscreteScheduler(beta_end=0.01, prediction_type="v_prediction")
    whole = adapter.load(folder, device="cpu", scheduler={**native.config, "_class_name": "EulerDiscreteScheduler"})
    for scheduler in (native, adapter.Scheduler.from_config(native.config, sampler="ddim")):
        made = adapter.load(folder, device="cpu", scheduler=scheduler)
        assert (made.process, made.parameterization) == (whole.process, whole.parameterization)
        assert made.config["diffusers"]["scheduler"] == whole.config["diffusers"]["scheduler"]
    ve = adapter.load(folder, device="cpu", scheduler=diffusers.ScoreSdeVeScheduler(sigma_max=50.0))
    assert ve.process == langevin.processes.VE(0.01, 50.0)
    with pytest.raises(UserError, match=r"scheduler must be a scheduler .* got one of .* settings without _class_name"):
        adapter.load(folder, scheduler=diffusers.DDPMScheduler(thresholding=False).config)
    with pytest.raises(UserError, match=r"scheduler must be a scheduler of diffusers, as DDPMScheduler.*got 'DDPM'"):
        adapter.load(folder, scheduler="DDPM")


def test_components_beside_the_index(place: Path) -> None:
    """The oldest repositories have no folder a component: the one network lies beside the index."""
    whole = loaded("ddpm", place)
    folder = place / "flat"
    shutil.copytree(place / "ddpm", folder)
    for name in ("unet", "scheduler"):
        for file in (folder / name).iterdir():
            shutil.move(file, folder / file.name)
        (folder / name).rmdir()
    x = latents(whole)
    with torch.no_grad():
        assert torch.equal(langevin.load(folder, device="cpu")(x, 0.5).mean, whole(x, 0.5).mean)


def test_older_name_of_the_transformer(place: Path) -> None:
    """DiT's repositories name the class from before it had one of its own."""
    whole = loaded("dit", place)
    folder = place / "older"
    shutil.copytree(place / "dit", folder)
    for file, change in (("model_index.json", False), ("transformer/config.json", True)):
        values = json.loads((folder / file).read_text())
        if change:
            values["_class_name"] = "Transformer2DModel"
        else:
            values["transformer"] = ["diffusers", "Transformer2DModel"]
        (folder / file).write_text(json.dumps(values))
    x = latents(whole)
    with torch.no_grad():
        found = langevin.load(folder, device="cpu").given(label=3)(x, 0.5).mean
        assert torch.equal(found, whole.given(label=3)(x, 0.5).mean)


def test_older_names_of_weights(place: Path) -> None:
    """Files from before attention and text encoders were renamed, as many repositories hold them, mean the same."""
    from safetensors.torch import load_file, save_file

    whole = loaded("sd", place)
    folder = place / "renamed"
    shutil.copytree(place / "sd", folder)
    file = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(file).items()}
    save_file({**tensors, "text_model.embeddings.position_ids": torch.arange(8)[None]}, file, {"format": "pt"})
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    older = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def name_of(name: str) -> str:
        return functools.reduce(lambda found, pair: found.replace(*pair), older.items(), name)

    save_file({name_of(name): value for name, value in load_file(file).items()}, file, {"format": "pt"})
    again, x = langevin.load(folder, device="cpu"), latents(whole)
    with torch.no_grad():
        assert torch.equal(again.given(caption=PROMPT)(x, 0.5).mean, whole.given(caption=PROMPT)(x, 0.5).mean)
        assert torch.equal(again.read(x), whole.read(x))


def bad(place: Path, name: str, source: str = "ddpm") -> Path:
    pipeline(source, place)
    folder = place / f"bad-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / source, folder)
    return folder


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_pickles_alone(place: Path) -> None:
    folder = bad(place, "pickles")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match=r"diffusion_pytorch_model.bin alone, a format that runs code"):
        langevin.load(folder)


def test_unknown_classes(place: Path) -> None:
    folder = bad(place, "class")
    rewrite(folder / "model_index.json", unet=["diffusers", "UNet3DConditionModel"])
    with pytest.raises(UserError, match=r"unknown class of diffusers 'diffusers.UNet3DConditionModel'"):
        langevin.load(folder)
    rewrite(folder / "model_index.json", unet=["os", "system"])
    with pytest.raises(UserError, match=r"unknown class of diffusers 'os.system'"):
        langevin.load(folder)
    rewrite(folder / "model_index.json", unet=["diffusers", "UNet2DModel"])
    rewrite(folder / "scheduler" / "scheduler_config.json", _class_name="SomeScheduler")
    with pytest.raises(UserError, match=r"'SomeScheduler' is no scheduler of diffusers"):
        langevin.load(folder)
    rewrite(folder / "scheduler" / "scheduler_config.json", _class_name="CMStochasticIterativeScheduler")
    with pytest.raises(UserError, match=r"the process of a CMStochasticIterativeScheduler is not known"):
        langevin.load(folder)


def test_configuration_against_weights(place: Path) -> None:
    folder = bad(place, "config")
    rewrite(folder / "unet" / "config.json", block_out_channels=[8, 24])
    with pytest.raises(UserError, match=r"bad-config/unet: the weights do not match config.json: .* expected shape"):
        langevin.load(folder)
    rewrite(folder / "unet" / "config.json", block_out_channels=[8, 16], add_attention=False)
    with pytest.raises(UserError, match=r"do not match config.json: unexpected keys such as mid_block.attentions"):
        langevin.load(folder)
    rewrite(folder / "unet" / "config.json", add_attention=True, class_embed_type="timestep")
    with pytest.raises(UserError, match=r"do not match config.json: missing keys such as class_embedding"):
        langevin.load(folder)
    folder = bad(place, "torn")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"truncated or no safetensors file"):
        langevin.load(folder)
    shutil.move(file, file.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"conv_in.weight": "../../ddpm/unet/other.safetensors"}})
    )
    with pytest.raises(UserError, match=r"weight_map must name files beside it"):
        langevin.load(folder)
    folder = bad(place, "text", "sd")
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"text_encoder holds no weights"):
        langevin.load(folder)


def test_predictions_and_sizes(place: Path) -> None:
    folder = bad(place, "prediction")
    rewrite(folder / "scheduler" / "scheduler_config.json", prediction_type="delta")
    with pytest.raises(UserError, match=r"prediction_type must be one of epsilon, .*got 'delta'"):
        langevin.load(folder)
    pipeline("sd", place)
    with pytest.raises(UserError, match=r"size must be a multiple of 2"):
        adapter.load(place / "sd", size=15)
    with pytest.raises(UserError, match=r"size must be a multiple of 2 from 2 to 16384, .*got 7"):
        adapter.load(place / "ddpm", size=7)  # halved once in the network
    pipeline("sd3", place)
    with pytest.raises(UserError, match=r"size must be a multiple of 4 .*got 6"):
        adapter.load(place / "sd3", size=6)  # halved once by the codec, patches of 2
    for size in (0, -8, True, 7.0, (8, 0)):
        with pytest.raises(UserError, match=r"size must be a multiple of 2 from 2"):
            adapter.load(place / "ddpm", size=size)
    other = adapter.load(place / "ddpm", size=(6, 10), device="cpu")
    assert langevin.sample(other, n=1, steps=2, seed=0).shape == (1, 3, 6, 10)
    with pytest.raises(UserError, match="caption must be a text"):
        loaded("sd", place).given(caption=3)
    with pytest.raises(UserError, match="native_grid needs a model"):
        adapter.native_grid(langevin.worlds.ring().denoiser(langevin.processes.VP()), 5)
    with pytest.raises(UserError, match=r"must be at most 1000, the training steps of its DDIMScheduler, got 1001"):
        adapter.native_grid(loaded("ddpm", place), 1001)
    assert len(adapter.native_grid(loaded("ddpm", place), 1000)) == 1001


def test_what_is_missing(place: Path) -> None:
    """An index that names nothing, and the folder of a component that it names."""
    folder = bad(place, "empty")
    shutil.rmtree(folder / "unet")
    with pytest.raises(UserError, match=r"bad-empty/unet is missing, the folder of what model_index.json names unet"):
        langevin.load(folder)
    rewrite(folder / "model_index.json", unet=[None, None])
    with pytest.raises(UserError, match=r"model_index.json, of a DDIMPipeline, names no unet, transformer or vae"):
        langevin.load(folder)
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match=r"model_index.json names no unet, transformer or vae"):
        langevin.load(folder)
    (folder / "model_index.json").write_text("")
    with pytest.raises(UserError, match=r"model_index.json"):
        langevin.load(folder)


def test_repositories(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a repository the components of its index are fetched, as JSON, vocabularies and safetensors alone."""
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    pipeline("sd", place)
    asked: list[tuple[str | None, list[str]]] = []

    def download(repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((revision, allow_patterns))
        answer: Any = SimpleNamespace(headers={}, request=None)
        if repo == "someone/gated":
            raise GatedRepoError("403", response=answer)
        if repo == "someone/nothing":
            raise RepositoryNotFoundError("404", response=answer)
        return str(place / "sd")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = langevin.load("someone/sd", device="cpu", revision="main")
    assert model.shape == (4, 8, 8)
    assert [revision for revision, _ in asked] == ["main", "main"]
    assert asked[0][1] == ["model_index.json", "config.json"]
    assert "unet/*.safetensors" in asked[1][1]
    assert not [p for p in asked[1][1] if p.endswith((".bin", "*.ckpt")) or p == "*.safetensors"]
    with pytest.raises(UserError, match="it is gated: accept its terms"):
        langevin.load("someone/gated")
    with pytest.raises(UserError, match="none of that name, or it is private and needs a token"):
        langevin.load("someone/nothing")
    with pytest.raises(UserError, match="revision is of a repository"):
        langevin.load(place / "sd", revision="main")
