"""Models that are no denoisers on a process of their own: how each is kept in a model directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import nn, processes
from .._errors import UserError
from ..data import DataInfo
from ..denoisers import ContrastiveEncoder, Generator, NoisyClassifier, NormalizingFlow
from .codec import Autoencoder
from .timing import timeless


@dataclass(frozen=True)
class ModelKind:
    """A kind of model.

    Attributes:
        networks: those it may have, by name.
        make: the model of a network, the description of its data, the record of its training, and what more is kept.
        more: the settings of a model that ``config.json`` holds beside those, as plain JSON.
        keys: the names of these settings.
    """

    networks: Mapping[str, Any]
    make: Callable[[Any, DataInfo, Mapping[str, Any], Mapping[str, Any]], Any]
    more: Callable[[Any], dict[str, Any]] = lambda model: {}
    keys: tuple[str, ...] = ()


def _classifier(network: Any, data: DataInfo, training: Mapping[str, Any], more: Mapping[str, Any]) -> NoisyClassifier:
    sigma_data = more["sigma_data"]
    if not isinstance(sigma_data, float) or not 0 < sigma_data < 1e12 or not isinstance(more["process"], dict):
        raise UserError(f"a classifier has a process and sigma_data > 0, got {dict(more)!r:.80}")
    return NoisyClassifier(network, processes.create_process(more["process"]), data, sigma_data, training)


def _contrastive(network: Any, data: DataInfo, training: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
    sigma_data, noisy = more["sigma_data"], more["noisy"]
    whole = isinstance(sigma_data, float) and 0 < sigma_data < 1e12 and isinstance(noisy, bool)
    if not whole or not isinstance(more["process"], dict):
        raise UserError(f"an encoder has a process, sigma_data > 0 and noisy true or false, got {dict(more)!r:.80}")
    process = processes.create_process(more["process"])
    return ContrastiveEncoder(network, process, data, sigma_data, noisy, training)


KINDS: dict[str, ModelKind] = {
    "codec": ModelKind(nn.CODECS, lambda network, data, training, more: Autoencoder(network, data, training)),
    "generator": ModelKind(nn.BACKBONES, lambda network, data, training, more: Generator(network, data, training)),
    "normalizing-flow": ModelKind(
        nn.FLOWS, lambda network, data, training, more: NormalizingFlow(network, data, training)
    ),
    "classifier": ModelKind(
        {**nn.BACKBONES, **nn.ENCODERS},
        _classifier,
        lambda model: {"process": model.process.to_dict(), "sigma_data": float(model.sigma_data)},
        ("process", "sigma_data"),
    ),
    "contrastive-encoder": ModelKind(
        nn.DUAL_ENCODERS,
        _contrastive,
        lambda model: {
            "process": model.process.to_dict(),
            "sigma_data": float(model.sigma_data),
            "noisy": model.noisy,
        },
        ("process", "sigma_data", "noisy"),
    ),
}
"""By the name that stands in ``config.json``, which is ``model.kind``."""

KEYS = {"langevin", "kind", "network", "data", "moments", "training"}


def describe(model: Any, version: int) -> dict[str, Any]:
    """What ``config.json`` holds.

    Raises:
        UserError: for a network that is of others, such as CLIP's, whose weights are where they came from.
    """
    if model.network.config["name"] not in KINDS[model.kind].networks:
        raise UserError(f"only networks made by langevin.nn can be saved, got {type(model.network).__name__}")
    return {
        "langevin": version,
        "kind": model.kind,
        "network": dict(model.network.config),
        "data": model.data.to_dict(),
        "moments": sorted(model.data.tensors()),
        "training": timeless(model.config),
        **KINDS[model.kind].more(model),
    }


def check(config: Mapping[str, Any]) -> None:
    """Refuse a ``config.json`` whose network is not of its kind."""
    kind, networks = config["kind"], KINDS[config["kind"]].networks
    if not isinstance(config["network"], dict) or str(config["network"].get("name")) not in networks:
        raise UserError(f"the network of a {kind} must be one of {', '.join(networks)}, got {config['network']!r}")
    if not isinstance(config["training"], dict):
        raise UserError(f"training must be a JSON object, got {config['training']!r}")


def make(network: Any, data: DataInfo, config: Mapping[str, Any]) -> Any:
    """The model of a network with its weights."""
    kind = KINDS[config["kind"]]
    made = kind.make(network, data, config["training"], {key: config[key] for key in kind.keys})
    network.check_shape(made.shape)
    return made
