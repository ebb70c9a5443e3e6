"""What a file of weights says of itself in its header, for tools that open it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def modelspec(config: Mapping[str, Any]) -> dict[str, str]:
    """What the header of the weights says of them, by the keys that tools of others show (modelspec 1.0.1)."""
    data, shape = config.get("data") or {}, config.get("shape") or []
    said = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"langevin/{config['network']['name']}",
        "modelspec.implementation": "langevin",
        "modelspec.title": f"{data.get('name', 'own data')}, {config['kind']}",
    }
    if len(shape) == 3:
        said["modelspec.resolution"] = f"{shape[2]}x{shape[1]}"
    if "parameterization" in config:
        said["modelspec.prediction_type"] = str(config["parameterization"].get("prediction"))
    return said
