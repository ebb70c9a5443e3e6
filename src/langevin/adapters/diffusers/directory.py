"""What lies in a directory of diffusers: its index, its configurations, its weights."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..._errors import UserError, unknown
from ...data import DataInfo
from ...models.learned import FOLDER
from ...storage import files
from ...storage.untrusted import reading, room

INDEX, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"

OWN, OWN_MOMENTS = f"{FOLDER}/description.json", f"{FOLDER}/data.safetensors"
"""What a model of this library keeps beside the pipeline that was made of it."""

KEPT = (".json", ".safetensors", ".txt", ".model")
"""Endings of the files of a component that are copied."""

LEARNED = tuple(f"{FOLDER}/{name}" for name in ("solver-*.json", "calibration.*", "sn/*", "npr/*"))
"""What ``langevin tune`` and ``langevin calibrate`` keep there."""

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".msgpack")
"""Endings of weights that are not read: unpickling them runs their author's code, or they are of other libraries."""

MODELS: dict[str, tuple[str, ...]] = {
    "diffusers": (
        "AutoencoderKL",
        "DiTTransformer2DModel",
        "FluxTransformer2DModel",
        "PixArtTransformer2DModel",
        "SD3Transformer2DModel",
        "Transformer2DModel",
        "UNet2DConditionModel",
        "UNet2DModel",
        "VQModel",
    ),
    "transformers": (
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPTokenizer",
        "CLIPTokenizerFast",
        "T5EncoderModel",
        "T5Tokenizer",
        "T5TokenizerFast",
    ),
}
"""The classes that are made of a directory, by package: a name in a file chooses among these and imports nothing."""


def is_diffusers(folder: Path) -> bool:
    """Whether a directory is a pipeline of diffusers (``model_index.json``), or one of its models (``config.json``)."""
    if (folder / INDEX).is_file():
        return True
    try:
        config = files.read_json(folder / CONFIG)
    except (UserError, OSError):
        return False
    return "langevin" not in config and isinstance(config.get("_class_name"), str)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline: the package and the class of each component by name, and settings of the pipeline."""
    return files.read_json(folder / INDEX)


def component(folder: Path, name: str) -> Path:
    """Where a component lies: in a folder of its name, or in the directory itself, as in the oldest repositories."""
    return folder / name if (folder / name).is_dir() else folder


def patterns(index: Mapping[str, Any]) -> list[str]:
    """What to fetch of a repository: the components of its index, as text and safetensors, and nothing else."""
    held = [name for name, value in index.items() if isinstance(value, list) and value and value[0] is not None]
    wanted = [name for name in held if name not in ("safety_checker", "feature_extractor", "image_encoder")]
    inner = [f"{name}/{ending}" for name in wanted for ending in ("*.json", "*.safetensors", "*.txt", "*.model")]
    return [INDEX, CONFIG, SCHEDULER, "diffusion_pytorch_model*.safetensors", OWN, OWN_MOMENTS, *LEARNED, *inner]


def make(folder: Path, library: str, name: str) -> Any:
    """A component of a class in ``MODELS`` with its weights, in the dtype in which they are kept.

    Only safetensors and JSON are read, after a look at their headers, and no weight is made up: each must be in the
    files and of the shape that the configuration says.

    Raises:
        UserError: for a class that is not known, weights that are pickles alone, damaged, or not of this configuration.
    """
    if name not in MODELS.get(library, ()):
        raise unknown("class of diffusers", f"{library}.{name}", [c for names in MODELS.values() for c in names])
    kind = getattr(package(library), name, None)
    if kind is None:
        raise UserError(f"{folder}: the {library} that is installed has no {name}; a newer one has")
    if "Tokenizer" in name:
        with quiet(), reading(folder):
            return kind.from_pretrained(os.fspath(folder), local_files_only=True)
    files.read_json(folder / CONFIG)
    dtype, variant = _weights(folder)
    more = {"variant": variant} if variant else {}
    with quiet(), reading(folder):
        try:
            made, told = kind.from_pretrained(
                os.fspath(folder),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                torch_dtype=dtype,
                **more,
            )
        except (ValueError, RuntimeError) as error:
            why = str(error).partition(". If you want")[0].removeprefix("Cannot load because ")
            raise UserError(f"the weights do not match {CONFIG}: {why}") from None
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told.get(key):
            first = sorted(map(str, told[key]))[0]
            raise UserError(f"{folder}: the weights do not match {CONFIG}: {key.replace('_', ' ')} such as {first}")
    if not files.is_finite(made.state_dict()):
        raise UserError(f"{folder} holds weights that are not finite")
    return made.eval().requires_grad_(False)


def package(name: str) -> Any:
    """diffusers or transformers, or a sentence on how to have it."""
    try:
        if name == "diffusers":
            import diffusers

            return diffusers
        import transformers

        return transformers
    except ImportError:
        raise UserError(f'{name} is needed for models of diffusers: pip install "langevin[diffusers]"') from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers and transformers log of a loading, and their bars: what matters of it is an error here."""
    logs = [package(name).utils.logging for name in ("diffusers", "transformers")]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity(log.CRITICAL)
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bar) in zip(logs, before):
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


def _weights(folder: Path) -> tuple[torch.dtype, str | None]:
    """The dtype of the weights and the variant they are kept as, after a look at each header."""
    names = sorted(path.name for path in folder.iterdir())
    found = [name for name in names if name.endswith(".safetensors")]
    if not found:
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles:
            raise UserError(
                f"{folder} holds its weights as {pickles[0]} alone, a format that runs code when it is read; langevin "
                "reads safetensors: save the model with save_pretrained(…, safe_serialization=True), or ask its author"
            )
        raise UserError(f"{folder} holds no weights (*.safetensors)")
    plain = [name for name in found if name.count(".") == 1]
    variant = None if plain else found[0].removesuffix(".safetensors").partition(".")[2].partition("-")[0]
    room(sum((folder / name).stat().st_size for name in plain or found), f"the weights in {folder}")
    for index in (name for name in names if name.endswith(".safetensors.index.json")):
        parts = files.read_json(folder / index).get("weight_map")
        if not isinstance(parts, dict) or not set(map(str, parts.values())) <= set(found):
            raise UserError(f"{folder / index}: weight_map must name files beside it")
    counts: Counter[torch.dtype] = Counter()
    for name in plain or [name for name in found if f".{variant}" in name]:
        for tensor in files.outline(folder / name).values():
            counts[tensor.dtype] += tensor.numel() if tensor.is_floating_point() else 0
    return counts.most_common(1)[0][0] if counts.total() else torch.float32, variant


@dataclass(frozen=True)
class Origin:
    """The pipeline that a network is of.

    Attributes:
        folder: its directory.
        index: its index.
        name: of the component that denoises.
        encoders: names of the text encoders, in order.
    """

    folder: Path
    index: Mapping[str, Any]
    name: str
    encoders: tuple[str, ...] = ()


def pipeline_files(origin: Origin, parts: Mapping[str, Any], null_label: int | None, model: Any) -> dict[str, bytes]:
    """What a directory of a pipeline holds, by file: some components as they now are, the others as they were.

    Args:
        origin: the pipeline.
        parts: models of diffusers and transformers by the names of their components.
        null_label: the class that stands for none, if there is one.
        model: the denoiser, or ``Latent``, whose data are described.
    """
    held: dict[str, bytes] = {}
    for name, entry in origin.index.items():
        if name in parts or not (isinstance(entry, list) and len(entry) == 2 and entry[0] is not None):
            continue
        where = component(origin.folder, name)
        names = [path.name for path in sorted(where.iterdir()) if path.suffix in KEPT and path.is_file()]
        if where == origin.folder:  # as in the oldest repositories, whose scheduler lies beside its index
            names = [SCHEDULER] if name == "scheduler" else []
        held |= {f"{name}/{file}": (where / file).read_bytes() for file in names}
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as folder, quiet():
            part.save_pretrained(folder, safe_serialization=True)
            held |= {f"{name}/{path.name}": path.read_bytes() for path in sorted(Path(folder).iterdir())}
    return {**held, **described(null_label, model.belief_of.data), INDEX: files.as_json(dict(origin.index))}


def described(null_label: int | None, data: DataInfo | None) -> dict[str, bytes]:
    """The files of what diffusers has no place for, by name."""
    own = {
        "langevin": 1,
        "kind": "diffusers",
        "null_label": null_label,
        "data": None if data is None else data.to_dict(),
    }
    moments = {} if data is None else data.tensors()
    return {**({OWN_MOMENTS: files.as_safetensors(moments)} if moments else {}), OWN: files.as_json(own)}
