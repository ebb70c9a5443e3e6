"""Which family a configuration trains."""

from __future__ import annotations

from .. import nn
from .config import Config
from .contrastive import ContrastiveEncoders
from .families import Classifiers, Codecs, Denoisers, Family, Generators, NormalizingFlows


def trained_from_scratch(config: Config) -> Family:
    """What a configuration trains from random weights, as its network and its objective say."""
    network, objective = config.network.name, config.objective.name
    if network in nn.CODECS:
        return Codecs()
    if network in nn.FLOWS or objective == "maximum-likelihood":
        return NormalizingFlows()
    if objective == "gan":
        return Generators()
    if objective == "cross-entropy":
        return Classifiers()
    if objective == "contrastive":
        return ContrastiveEncoders()
    return Denoisers()
