"""A model directory: ``config.json``, ``model.safetensors`` and the moments of the data, as on the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import nn, processes
from .._errors import UserError, check_instance, check_path
from ..data import DataInfo
from ..data.description import event
from ..denoisers import (
    AffineParameterization,
    ContrastiveEncoder,
    Denoiser,
    Generator,
    LevelParameterization,
    LevyParameterization,
    NetworkDenoiser,
    NoisyClassifier,
    Parameterization,
    PhaseParameterization,
    TokenParameterization,
    config_of,
    make_denoiser,
)
from ..storage import files
from ..storage.untrusted import hints, reading, settings, typed
from . import kinds, parts
from .codec import Autoencoder
from .custom import CustomFormat
from .header import modelspec
from .learned import stamp
from .load_network import HALF, load_network
from .location import CONFIG, MOMENTS, WEIGHTS, find
from .solvers import solvers_of
from .timing import CLOCK, SECONDS, timeless
from .variances import variances_of

Made = TypeVar("Made")

FORMAT = 4
"""Version of the format; a reader refuses what it does not know."""

PARAMETERIZATIONS: dict[str, type[Parameterization]] = {
    p.kind: p
    for p in (
        AffineParameterization,
        TokenParameterization,
        PhaseParameterization,
        LevelParameterization,
        LevyParameterization,
    )
}
"""How networks are read, by the kind of model that a directory names."""


def describe(denoiser: NetworkDenoiser) -> dict[str, Any]:
    """What ``config.json`` holds."""
    network = config_of(denoiser.network)
    if "name" not in network:
        raise UserError(f"only networks made by langevin.nn can be saved, got {type(denoiser.network).__name__}")
    data = denoiser.data
    return {
        "langevin": FORMAT,
        "kind": denoiser.parameterization.kind,
        "network": dict(network),
        "process": denoiser.process.to_dict(),
        "parameterization": vars(denoiser.parameterization),
        "variance": denoiser.variance,
        "shape": list(denoiser.shape),
        "data": None if data is None else data.to_dict(),
        "moments": [] if data is None else sorted(data.tensors()),
        "training": timeless(denoiser.config),
    }


def save(denoiser: Any, path: str | os.PathLike[str], *, weights: torch.dtype = torch.float32) -> None:
    """Write a model directory: ``load`` finds the whole old model or the whole new one, whenever the writer is killed.

    Args:
        denoiser: of a network made by ``langevin.nn``; conditions that are bound are not saved. Or a model of
            ``models.kinds`` (a codec, a generator, a normalizing flow, a classifier) or of ``models.parts`` (a denoiser
            of codes, a cascade), of which each part has a directory.
        path: a directory, made if it does not exist.
        weights: what the learned weights are kept in: float32, or float16 or bfloat16 for half of the size. They are
            loaded to float32, and what was rounded stays so; buffers keep their type, and moments of the data are kept
            in float32.

    Raises:
        UserError: if another process writes in the directory, or the disk is full or refuses.
    """
    check_path("path", path)
    files.publish(Path(path), contents(denoiser, weights))


def contents(model: Any, stored: torch.dtype = torch.float32) -> dict[str, bytes]:
    """What a model directory holds, by file; see ``save``.

    Raises:
        UserError: for what is no model that can be saved.
    """
    if stored not in (torch.float32, *HALF):
        raise UserError(f"weights must be torch.float32, torch.float16 or torch.bfloat16, got {stored}")
    own = model.belief_of if isinstance(model, Denoiser) else None
    if isinstance(own, NetworkDenoiser) and isinstance(own.network, CustomFormat):
        if stored != torch.float32:
            raise UserError(f"weights of a LoRA or a pipeline of diffusers are kept as they are, got {stored}")
        return own.network.contents(model)
    kind = kind_of(model)
    if kind in parts.PARTED:
        inner = {name: contents(part, stored) for name, part in model.parts.items()}
        held = {f"{name}/{file}": data for name, files_of in inner.items() for file, data in files_of.items()}
        index = {name: files.digest(held[f"{name}/{CONFIG}"]) for name in model.parts}
        return {**held, CONFIG: files.as_json({"langevin": FORMAT, "kind": kind, "parts": index})}
    plain = kind in kinds.KINDS
    if not plain:
        check_instance("denoiser", model, NetworkDenoiser, "the denoiser of a network, or a codec")
    config = kinds.describe(model, FORMAT) if plain else describe(model)
    moments = {} if model.data is None else model.data.tensors()
    # A network that computes in half precision is kept in float32, exactly, as its configuration says.
    weights = {k: v.float() if v.is_floating_point() else v for k, v in model.network.state_dict().items()}
    if stored != torch.float32:
        learned = {name for name, _ in model.network.named_parameters(remove_duplicate=False)}
        weights = {k: rounded(k, v, stored) if k in learned else v for k, v in weights.items()}
        moments = {k: v.float() for k, v in moments.items()}
    held = {WEIGHTS: files.as_safetensors(weights, modelspec(config))}
    if moments:
        held[MOMENTS] = files.as_safetensors(moments)
    config["files"] = {name: files.digest(content) for name, content in held.items()}
    return {**held, CONFIG: files.as_json(config)}


def rounded(name: str, weight: torch.Tensor, stored: torch.dtype) -> torch.Tensor:
    """A weight in half precision.

    Raises:
        UserError: for one beyond the largest number of that type.
    """
    if weight.is_floating_point() and bool(torch.isinf(made := weight.to(stored)).any()):
        raise UserError(f"{name} has a weight of {float(weight.abs().max()):.3g}, which {stored} does not hold")
    return made if weight.is_floating_point() else weight


def kind_of(model: Any) -> str | None:
    """The name of a kind in ``config.json``; None for the denoiser of a network, and for what is no model at all."""
    own = (Autoencoder, Generator, NoisyClassifier, ContrastiveEncoder, *parts.PARTED.values())
    return model.kind if isinstance(model, own) else None


def about(model: Any) -> dict[str, Any]:
    """What there is to say of a model, as plain JSON: of its parts, if it has some, each under its name."""
    kind = kind_of(model)
    if kind in parts.PARTED:
        return {"kind": kind, **{name: about(part) for name, part in model.parts.items()}}
    told = dict(model.config)
    said = {
        "network": dict(config_of(model.network)),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        **({"kind": kind, **kinds.KINDS[kind].more(model)} if kind in kinds.KINDS else _prediction(model)),
        "shape": list(model.shape),
        "conditions": list(model.conditions()),
        "data": None if model.data is None else model.data.to_dict(),
        "training": {key: value for key, value in told.items() if key != "config"},
    }
    return {**said, "config": told.get("config")}


def _prediction(denoiser: NetworkDenoiser) -> dict[str, Any]:
    return {"process": denoiser.process.to_dict(), "prediction": {**vars(denoiser.parameterization)}}


def load(path: str | os.PathLike[str], *, device: torch.device | str | None = None) -> Any:
    """The model of a directory, or of a repository of the Hub: a denoiser, or another of ``models.kinds``.

    Nothing is unpickled: JSON and safetensors are read, and checked against each other.

    Args:
        path: a directory as ``save`` or a training run writes it; if there is none of that name, ``owner/name`` on the
            Hub.
        device: where the network goes; a CUDA device if there is one, else the CPU, if not given.

    Raises:
        UserError: if a file is missing, truncated, of an unknown version, or contradicts another; it names the file.
    """
    check_path("path", path)
    folder = find(os.fspath(path))
    return _steady(folder, lambda: _load(folder, device))


def _load(folder: Path, device: torch.device | str | None) -> Any:
    file = folder / CONFIG
    config = _read(folder)
    if config["kind"] in parts.PARTED:
        return _load_parts(folder, config, device)
    if config["kind"] in kinds.KINDS:
        return _load_plain(folder, config, device)
    keys = {
        "langevin",
        "kind",
        "network",
        "process",
        "parameterization",
        "variance",
        "shape",
        "data",
        "moments",
        "training",
    }
    files.only(file, config, keys | {"files"})
    if config["kind"] not in PARAMETERIZATIONS:
        known = ", ".join(map(repr, [*PARAMETERIZATIONS, *kinds.KINDS, *parts.PARTED]))
        raise UserError(f"{file}: kind {config['kind']!r} is unknown; it must be one of {known}")
    with reading(folder / CONFIG, folder):
        denoiser = _build(folder, config)
    _place(denoiser.network, device)
    files.agree(folder, config["files"])
    solvers, variances = solvers_of(folder, stamp(denoiser)), variances_of(folder, denoiser)
    config = {**denoiser.config, **_clock(folder)}
    return replace(denoiser, config=config, solvers=solvers, learned_variances=variances)


def load_denoiser(path: str | os.PathLike[str], *, own: bool = True, device: torch.device | str | None = None) -> Any:
    """The model of a directory, for what needs the denoiser of a network, or anything that makes data.

    Args:
        path: as of ``load``.
        own: whether it must be a denoiser of the data themselves, by a network; else any that is sampled will do.
        device: as of ``load``.

    Raises:
        UserError: as ``load``, and for a model of another kind.
    """
    return as_denoiser(load(path, device=device), path, own=own)


def as_denoiser(model: Any, path: str | os.PathLike[str], *, own: bool) -> Any:
    """A model of a directory, refused where it is of another kind than is needed; see ``load_denoiser``."""
    if not isinstance(model, NetworkDenoiser if own else Denoiser):
        needed = "the denoiser of a network is needed" if own else "something that makes data is needed"
        raise UserError(f"{needed} here, but {os.fspath(path)} holds a {model.kind}")
    return model


MOST_PARTS = 16
"""Parts of a model at most."""


def _load_parts(folder: Path, config: Mapping[str, Any], device: torch.device | str | None) -> Any:
    """A model of parts: each is held against the checksum of its configuration, which has those of its files."""
    files.only(folder / CONFIG, config, {"langevin", "kind", "parts", "files"})
    index = config["parts"]
    names = list(index) if isinstance(index, dict) else []
    if not names or len(names) > MOST_PARTS or not all(re.fullmatch(r"[a-z][a-z0-9-]{0,40}", name) for name in names):
        raise UserError(f"{folder / CONFIG}: parts must be checksums by the names of directories, got {index!r:.80}")
    files.digests(folder / CONFIG, index, set(names))
    loaded = {}
    for name in names:
        place = files.place(folder, name)
        inner = _read(place)
        if inner["kind"] in parts.PARTED:
            raise UserError(f"{place / CONFIG}: a part cannot be a {inner['kind']} itself")
        loaded[name] = _load(place, device)
        files.agree(place, {CONFIG: index[name]})
    with reading(folder / CONFIG, folder):
        return parts.PARTED[config["kind"]].of(loaded)


def _load_plain(folder: Path, config: Mapping[str, Any], device: torch.device | str | None) -> Any:
    files.only(folder / CONFIG, config, kinds.KEYS | set(kinds.KINDS[config["kind"]].keys) | {"files"})
    with reading(folder / CONFIG, folder):
        kinds.check(config)
        trained(config["training"])
        data = DataInfo.from_dict(config["data"], moments_of(folder, config))
        made = kinds.make(_network(folder, config), data, config)
    _place(made.network, device)
    files.agree(folder, config["files"])
    return replace(made, config={**made.config, **_clock(folder)})


def _clock(folder: Path) -> dict[str, float]:
    """How long the run took that left the directory, if one did."""
    if not (folder / CLOCK).exists():
        return {}
    seconds = files.read_json(folder / CLOCK).get("seconds")
    if not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        raise UserError(f"{folder / CLOCK}: seconds must be a number >= 0, got {seconds!r}")
    return {SECONDS: seconds}


def _steady(folder: Path, make: Callable[[], Made]) -> Made:
    """What is made of a directory's files; again, if they were replaced by a run meanwhile."""
    while True:
        before = files.mark(folder, CONFIG)
        try:
            return make()  # which compares checksums last: what it returns is of one kind
        except UserError:
            if files.mark(folder, CONFIG) == before:
                raise


def _read(folder: Path) -> dict[str, Any]:
    """``config.json``; its ``files`` are the checksums of the others, and may be left out."""
    file = folder / CONFIG
    there = files.place(folder, CONFIG)
    if not there.exists() and (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} is a pipeline of diffusers (model_index.json): langevin.load reads it, but a model directory is "
            "needed here"
        )
    if not there.exists():
        raise UserError(f"{folder.resolve()} is no model directory: it holds no {CONFIG}")
    config = {"files": {}, **files.read_json(there)}
    if "langevin" not in config and isinstance(made_by := config.get("_class_name"), str):
        raise UserError(
            f"{folder} is a {made_by:.40} of diffusers ({CONFIG}): langevin.load reads it, but a model directory is "
            "needed here"
        )
    version = config.get("langevin")
    if version != FORMAT:
        raise UserError(f"{file}: format {version!r} is unknown; this version of langevin reads {FORMAT}")
    files.digests(file, config["files"], {WEIGHTS, MOMENTS})
    if not isinstance(config.get("kind"), str):
        raise UserError(f"{file}: kind must be text, got {config.get('kind')!r:.80}")
    return config


def _network(folder: Path, config: Mapping[str, Any]) -> Any:
    return load_network(files.place(folder, WEIGHTS), config["network"])


def _place(network: torch.nn.Module, device: torch.device | str | None) -> None:
    """Put a network where it is to compute."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network.eval().to(device)


def moments_of(folder: Path, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The moments of the data that a configuration names, which lie beside it."""
    named, file = typed(list[str], config["moments"], "moments"), files.place(folder, MOMENTS)
    held = sorted(files.outline(file)) if named else []
    if held != sorted(named):
        raise UserError(f"{file} holds {held}, {folder / CONFIG} says {named}")
    return files.read_safetensors(file) if named else {}


def _build(folder: Path, config: Mapping[str, Any]) -> NetworkDenoiser:
    file = folder / CONFIG
    for key, kind in (
        ("network", dict),
        ("process", dict),
        ("parameterization", dict),
        ("shape", list),
        ("training", dict),
    ):
        if not isinstance(config[key], kind):
            raise UserError(f"{file}: {key} must be a JSON {kind.__name__}, got {type(config[key]).__name__}")
    shape = event(config["shape"])
    trained(config["training"])
    kind_of = PARAMETERIZATIONS[config["kind"]]
    files.only(file, config["parameterization"], set(hints(kind_of)))
    parameterization = kind_of(**settings(kind_of, config["parameterization"], "parameterization"))
    if str(config["network"].get("name")) in (*nn.CODECS, *nn.FLOWS, *nn.ENCODERS, *nn.DUAL_ENCODERS):
        raise UserError(f"{file}: network {config['network'].get('name')!r} is no denoiser's")
    # What a file of weights bears out comes before what a few numbers ask for.
    network = _network(folder, config)
    process = processes.create_process(config["process"])
    parameterization.check(process)
    network.check_shape(parameterization.network_shapes(process, shape)[0])
    data = None
    if config["data"] is not None:
        data = DataInfo.from_dict(config["data"], moments_of(folder, config))
        if tuple(data.shape) != shape:
            raise UserError(f"{file}: shape {shape} contradicts that of the data, {tuple(data.shape)}")
    return make_denoiser(
        network,
        process,
        parameterization,
        shape,
        variance=config["variance"],
        data=data,
        config=config["training"],
    )


def trained(training: Any) -> None:
    """Refuse a record of training whose numbers others compute with are of another kind."""
    for key, kind in (("steps", int | None), ("config", dict | None)):
        typed(kind, training.get(key), f"training.{key}")
