"""Contrastive encoders of data with captions, as they are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .. import nn
from .._errors import UserError
from ..data import DataInfo
from ..denoisers import ContrastiveEncoder
from ..processes import Process
from .config import Config, NetworkConfig
from .defaults import Defaults, defaults_of
from .families import OfNoisyData, decode, scalars

BATCH = 128
"""Examples of a step: each is told from all others."""

TEXT = {"width": 128, "depth": 2, "heads": 4}
"""The tower of captions, which are bytes."""


class ContrastiveEncoders(OfNoisyData):
    """An encoder of data and of their captions into one space."""

    name, what = "contrastive", "an encoder"

    def defaults(self, config: Config, data: DataInfo) -> Defaults:
        return replace(defaults_of(data), batch=BATCH, lr=1e-3)

    def network(self, config: Config, data: DataInfo) -> NetworkConfig:
        if data.tokens or not {"caption", "sequence"} & data.condition_sizes.keys():
            raise UserError(f"objective 'contrastive' learns data with captions from each other, got data {data!r}")
        if config.network.name not in (None, *nn.DUAL_ENCODERS):
            raise UserError(f"network of a contrastive encoder must be dual-encoder, got {config.network.name!r}")
        return _network(config, data)

    def make(self, network: Any, process: Process, config: Config, data: DataInfo) -> Any:
        noisy: Any = self.objective(config)
        return ContrastiveEncoder(network, process, data, float(config.prediction.sigma_data or 0.0), noisy.clean < 1)


def _network(config: Config, data: DataInfo) -> NetworkConfig:
    """The two towers, for the data; what is asked for is laid over what suits them."""
    options: dict[str, Any] = decode(config.network.options)
    sizes, image, text = data.condition_sizes, options.pop("image", {}), options.pop("text", {})
    for key, asked in (("image", image), ("text", text)):
        if not isinstance(asked, Mapping):
            raise UserError(f"network.options {key} must be a mapping of settings, got {asked!r}")
    if image.get("name", scalars(data)) != scalars(data):
        raise UserError(f"network.options image name must be {scalars(data)} for these data, got {image['name']!r}")
    reads = "caption" if "caption" in sizes else "sequence"
    if text.get(reads, sizes[reads]) != sizes[reads]:
        raise UserError(f"network.options text {reads} must be that of the data, {sizes[reads]}, got {text[reads]}")
    embedding = options.setdefault("embedding", 128)
    tower = nn.default(data.shape, **{"name": scalars(data), "out_channels": embedding, **image})
    tower.pop("out_channels")
    told = {**(TEXT if reads == "caption" else {}), **text, reads: sizes[reads]}
    made = nn.outline({"name": "dual-encoder", **options, "image": tower, "text": told}).config
    return NetworkConfig(str(made.pop("name")), made)
