"""A directory or repository of diffusers as a model of this library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..._errors import UserError, check_path, shown
from ...data import DataInfo
from ...denoisers import AffineParameterization, NetworkDenoiser
from ...models import Autoencoder, Latent
from ...models.with_learned import with_learned
from ...storage import files
from ...storage.untrusted import reading
from ..hub import find
from . import networks, text
from .codec import Codec, reduction
from .directory import CONFIG, INDEX, OWN, SCHEDULER, Origin, component, is_diffusers, make, read_index
from .export import read_own
from .schedules import Noising, complete, given, noising, shift

DENOISERS = ("unet", "transformer")
"""Names of the component that denoises."""

CODECS = ("vae", "vqvae")
"""Names of the autoencoder."""

LARGEST = 2**14
"""Pixels of a side at most."""


def load(
    path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: torch.device | str | None = None,
    size: int | tuple[int, int] | None = None,
    scheduler: Any = None,
) -> NetworkDenoiser | Latent | Autoencoder:
    """The model of a pipeline of diffusers, or of one of its networks, with its conventions read from its files.

    Pixel models become a denoiser of images, latent ones a :class:`~langevin.models.Latent`, an autoencoder alone a
    codec. A caption is given as text, ``model.given(caption="a red apple")``: it is encoded once; no caption is the
    empty prompt. Nothing in the directory is run: JSON, vocabularies and safetensors are read.

    Args:
        path: a directory with ``model_index.json`` or a model's ``config.json``, or a repository of the Hub.
        revision: of a repository: a branch, a tag or a commit.
        device: where it computes; a CUDA device if there is one, else the CPU, if not given.
        size: side of the images in pixels, or (height, width), multiples of what the networks halve; the size it was
            trained at if not given.
        scheduler: a scheduler of diffusers or its configuration with ``_class_name``, in place of the directory's
            (``scheduler_config.json``).

    Raises:
        UserError: for what is no such directory, weights kept as pickles alone, classes that are not known, and
            configurations that contradict the weights or each other.
    """
    check_path("path", path)
    folder = find(os.fspath(path), revision)
    if not is_diffusers(folder):
        raise UserError(f"{folder} is no directory of diffusers: it holds no {INDEX}, and no {CONFIG} with _class_name")
    index = read_index(folder) if (folder / INDEX).is_file() else _alone(folder)
    made = _Pipeline(folder, index, size, given(scheduler)).model()
    where = device if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    for network in [made.network, *([made.codec.network] if isinstance(made, Latent) else [])]:
        network.eval().to(where)
    return made if isinstance(made, Autoencoder) else with_learned(made, folder)


def _alone(folder: Path) -> dict[str, Any]:
    """The index of a directory that holds one network."""
    name = str(files.read_json(folder / CONFIG)["_class_name"])
    kind = "vae" if name == "AutoencoderKL" else "vqvae" if name == "VQModel" else "unet"
    return {"_class_name": name, kind: ["diffusers", name]}


class _Pipeline:
    """A pipeline on its way to a model: the parts that are read from its directory."""

    def __init__(
        self, folder: Path, index: Mapping[str, Any], size: Any, scheduler: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.index, self.size, self.given = folder, index, size, scheduler
        self.name = str(index.get("_class_name"))
        self.named: tuple[str, ...] = ()  # the text encoders that are asked

    def has(self, name: str) -> bool:
        """Whether the index has a component that is not left out."""
        entry = self.index.get(name)
        return isinstance(entry, list) and len(entry) == 2 and entry[0] is not None

    def part(self, name: str) -> Any:
        """A component; None for one that is left out."""
        if not self.has(name):
            return None
        library, kind = self.index[name]
        where = component(self.folder, name)
        if where == self.folder and not (where / CONFIG).is_file():
            raise UserError(f"{self.folder / name} is missing, the folder of what {INDEX} names {name}")
        return make(where, str(library), str(kind))

    def model(self) -> NetworkDenoiser | Latent | Autoencoder:
        """The model."""
        which = next((name for name in DENOISERS if self.has(name)), None)
        codec = next((self.part(name) for name in CODECS if self.has(name)), None)
        if which is None:
            if codec is None:
                what = f", of a {self.name:.60}," if "_class_name" in self.index else ""
                raise UserError(f"{self.folder / INDEX}{what} names no unet, transformer or vae")
            return self._codec(codec, self._sides(codec.config.get("sample_size"), 1, reduction(codec.config)))
        noise, about = self._noising()
        network = self.part(which)
        kind = type(network).__name__
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise UserError(f"{self.folder}: a {kind} is not known as a denoiser; known are {known}")
        channels = int(network.config["in_channels"]) // (4 if kind == "FluxTransformer2DModel" else 1)
        ratio = 1 if codec is None else reduction(codec.config)
        trained = 128 if kind == "FluxTransformer2DModel" else network.config.get("sample_size")
        sides = self._sides(trained, ratio, ratio * networks.multiple(kind, network.config))
        shape = (channels, sides[0] // ratio, sides[1] // ratio)
        adapted = _KINDS[kind](self, network, noise, sides)
        adapted.origin = Origin(self.folder, self.index, which, self.named)
        out = int(network.config.get("out_channels") or channels)
        out = channels if kind == "FluxTransformer2DModel" else out
        if out not in (channels, 2 * channels):
            raise UserError(
                f"{self.folder}: {kind} takes {channels} channels and returns {out}: it denoises no whole state, as "
                "networks for inpainting or upscaling do not"
            )
        parameterization = AffineParameterization(noise.prediction, noise.sigma_data, noise.time)
        tokens = shape[1] * shape[2] // int(network.config.get("patch_size", 1) or 1) ** 2
        if kind == "FluxTransformer2DModel":
            tokens = shape[1] * shape[2] // 4
        told: dict[str, Any] = {"pipeline": self.name, "scheduler": about}
        config: dict[str, Any] = {"diffusers": told}
        if noise.prediction == "flow":
            told["tokens"] = tokens
            config["shift"] = shift(about, tokens)
        null, described = read_own(self.folder)
        if null is not None and type(network).__name__ == "UNet2DModel" and "label" in adapted.sizes:
            if null + 1 != adapted.sizes["label"]:
                raise UserError(f"{self.folder / OWN}: null_label {null} is not the last of {adapted.sizes['label']}")
            adapted.sizes["label"] = adapted.null_label = null
        names = self._classes(adapted.sizes.get("label", 0))
        with reading(self.folder):
            base = NetworkDenoiser(
                adapted,
                noise.process,
                parameterization,
                shape,
                "range" if out == 2 * channels else None,
                described if codec is not None else described or self._data(shape, names),
                config=config,
            )
        if codec is None:
            return base
        with reading(self.folder):
            made = self._codec(codec, sides)
            return Latent(base, replace(made, data=self._data(made.data.shape, names)))

    def _noising(self) -> tuple[Noising, dict[str, Any]]:
        """How the network was trained, and the scheduler's settings."""
        file = component(self.folder, "scheduler") / SCHEDULER
        if self.given is not None:
            config, where = dict(self.given), "scheduler"
        elif file.is_file():
            config, where = files.read_json(file), os.fspath(file)
        else:
            raise UserError(
                f"{self.folder} holds a {self.name:.60} and does not say how it was trained ({SCHEDULER} is missing): "
                "give langevin.adapters.diffusers.load(…, scheduler={'_class_name': 'DDPMScheduler', …})"
            )
        about = {"_class_name": config.get("_class_name"), **_plain(complete(config, where))}
        return noising(config, where), about

    def _sides(self, sample: Any, ratio: int, step: int) -> tuple[int, int]:
        """(height, width) of the images in pixels: what is asked for, multiples of ``step``, or what it trained at."""
        asked = self.size
        if asked is None:
            sides = sample if isinstance(sample, (list, tuple)) else (sample, sample)
            if not all(type(n) is int and 0 < n <= LARGEST for n in sides) or len(sides) != 2:
                raise UserError(f"{self.folder} does not say the size of its images; give size=…")
            return int(sides[0]) * ratio, int(sides[1]) * ratio
        sides = asked if isinstance(asked, (list, tuple)) else (asked, asked)
        if not all(type(n) is int and 0 < n <= LARGEST and n % step == 0 for n in sides) or len(sides) != 2:
            what = f"a multiple of {step} from {step}" if step > 1 else "an integer from 1"
            raise UserError(f"size must be {what} to {LARGEST}, or (height, width) of these, got {shown(asked)}")
        return sides[0], sides[1]

    def _codec(self, network: Any, sides: tuple[int, int]) -> Autoencoder:
        if network.config.get("force_upcast") and network.dtype == torch.float16:
            network = network.float()  # its values exceed those of float16
        codec = Codec(network, sides)
        return Autoencoder(codec, self._data(codec.shape, ()), {"diffusers": {"pipeline": self.name}})

    def _data(self, shape: tuple[int, ...], classes: tuple[str, ...]) -> DataInfo:
        """The description of images: 8-bit, in [−1, 1], but for score-SDE's in [0, 1]."""
        low = 0.0 if "ScoreSdeVe" in self.name else -1.0
        return DataInfo(Path(self.folder).name or "images", shape, low, 1.0, classes, 256)

    def _classes(self, count: int) -> tuple[str, ...]:
        """Names of the classes, each once."""
        if not count:
            return ()
        known = self.index.get("id2label")
        names = [str(known.get(str(k), k)) if isinstance(known, Mapping) else str(k) for k in range(count)]
        return tuple(name if names.count(name) == 1 else f"{name} ({k})" for k, name in enumerate(names))

    def tokenizers(self, *numbers: str) -> list[Any]:
        """Tokenizers by the ends of their names: "" and "_2"."""
        return [self.part(f"tokenizer{n}") for n in numbers]

    def encoders(self, *numbers: str) -> list[Any]:
        """Text encoders by the ends of their names."""
        return [self.part(f"text_encoder{n}") for n in numbers]

    def captions(self, kind: type[text.Prompts], *numbers: str, needs: tuple[str, ...] = ("",), **more: Any) -> Any:
        """What makes features of captions.

        Raises:
            UserError: for a pipeline that lacks one of its encoders.
        """
        for n in needs:
            if not self.has(f"text_encoder{n}") or not self.has(f"tokenizer{n}"):
                raise UserError(f"{self.folder} has no text_encoder{n} and tokenizer{n}, which its denoiser needs")
        self.named = tuple(f"text_encoder{n}" for n in numbers if self.has(f"text_encoder{n}"))
        with reading(self.folder):
            return kind(self.tokenizers(*numbers), self.encoders(*numbers), **more)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON keeps them."""
    return {key: value for key, value in config.items() if not key.startswith("_") and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _unet(pipe: _Pipeline, network: Any, noise: Noising, sides: tuple[int, int]) -> networks.Adapted:
    config = network.config
    if config.get("class_embed_type") is not None:
        raise UserError(f"{pipe.folder}: class_embed_type {config['class_embed_type']!r} is not known here")
    classes = int(config.get("num_class_embeds") or 0)
    kind = networks.LearnedTimes if config.get("time_embedding_type") == "learned" else networks.UNet
    return kind(network, noise.scale, {"label": classes} if classes else {})


def _text_unet(pipe: _Pipeline, network: Any, noise: Noising, sides: tuple[int, int]) -> networks.Adapted:
    config = network.config
    for key in ("class_embed_type", "encoder_hid_dim_type", "num_class_embeds", "time_cond_proj_dim"):
        if config.get(key) is not None:
            raise UserError(f"{pipe.folder}: a UNet2DConditionModel with {key} = {config[key]!r} is not known here")
    if config.get("addition_embed_type") is None:
        return networks.TextUNet(network, noise.scale, prompts=pipe.captions(text.LastLayer, ""))
    if config["addition_embed_type"] != "text_time":
        what = config["addition_embed_type"]
        raise UserError(f"{pipe.folder}: a UNet2DConditionModel with addition_embed_type = {what!r} is not known here")
    numbers = ("", "_2") if pipe.has("text_encoder") else ("_2",)
    zeros = bool(pipe.index.get("force_zeros_for_empty_prompt"))
    prompts = pipe.captions(text.Penultimate, *numbers, needs=numbers, zeros=zeros)
    height, width = map(float, sides)
    pooled, each = prompts.sizes["pooled"][0], int(config["addition_time_embed_dim"])
    count = (int(config["projection_class_embeddings_input_dim"]) - pooled) / each
    known = {6: (height, width, 0.0, 0.0, height, width), 5: (height, width, 0.0, 0.0, 6.0)}
    if count not in known:
        raise UserError(
            f"{pipe.folder}: the unet takes {count:g} numbers beside a caption's {pooled}; known are 5 and 6"
        )
    return networks.MicroUNet(network, prompts, known[int(count)])


def _dit(pipe: _Pipeline, network: Any, noise: Noising, sides: tuple[int, int]) -> networks.Adapted:
    if network.config.get("norm_type", "ada_norm_zero") != "ada_norm_zero":
        raise UserError(
            f"{pipe.folder}: a transformer with norm_type {network.config['norm_type']!r} is not known here"
        )
    made = networks.DiT(network, noise.scale, {"label": int(network.config["num_embeds_ada_norm"])})
    made.null_label = made.sizes["label"]  # one behind the others
    return made


def _pixart(pipe: _Pipeline, network: Any, noise: Noising, sides: tuple[int, int]) -> networks.Adapted:
    length = 300 if "Sigma" in pipe.name else 120
    prompts = pipe.captions(text.Masked, "", length=length)
    return networks.PixArt(network, prompts, sides if network.use_additional_conditions else None)


def _sd3(pipe: _Pipeline, network: Any, noise: Noising, sides: tuple[int, int]) -> networks.Adapted:
    width = int(network.config["joint_attention_dim"])
    prompts = pipe.captions(text.Triple, "", "_2", "_3", needs=("", "_2"), width=width)
    return networks.SD3(network, noise.scale, prompts=prompts)


def _flux(pipe: _Pipeline, network: Any, noise: Noising, sides: tuple[int, int]) -> networks.Adapted:
    prompts = pipe.captions(text.PooledAndT5, "", "_2", needs=("", "_2"))
    return networks.Flux(network, noise.scale, prompts, 3.5 if network.config["guidance_embeds"] else None)


_KINDS = {
    "UNet2DModel": _unet,
    "UNet2DConditionModel": _text_unet,
    "DiTTransformer2DModel": _dit,
    "PixArtTransformer2DModel": _pixart,
    "SD3Transformer2DModel": _sd3,
    "FluxTransformer2DModel": _flux,
}
"""How a network is adapted, by the class of diffusers."""
