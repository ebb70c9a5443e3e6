"""From a configuration to a network, and from a shape to a configuration that suits it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch

from .._errors import UserError, unknown
from .._registry import classes
from ..storage.untrusted import room
from .backbone import Backbone
from .conditioning import NONE, PLANES
from .coupling import CouplingFlow
from .dual_encoder import DualEncoder
from .encoder import Encoder
from .vae import VAE

BACKBONES = classes("nn", Backbone, but=(Encoder,))
"""Networks that answer with as many channels as they are asked for, of the same size."""

CODECS = classes("nn", VAE)
"""Networks that are no backbones: they encode and decode."""

FLOWS = classes("nn", CouplingFlow)
"""Networks with an inverse and a density."""

ENCODERS = classes("nn", Encoder)
"""Networks that return a few numbers of an image."""

DUAL_ENCODERS = classes("nn", DualEncoder)
"""Networks of two towers, which read what belongs together."""

SUITS = {1: "mlp", 2: "transformer", 3: "unet"}
"""The backbone for events of so many axes."""

WIDEST = 64
"""Side of the smallest size at most at which a U-Net that reads tokens has attention: 4,096 places."""

HALVINGS = 9
"""Times a U-Net halves an image at most: it takes ten multipliers."""

LARGEST = 10**10
"""Parameters a configuration may ask for; more is a mistake or a file that was tampered with."""


def create_network(config: Mapping[str, Any]) -> Any:
    """The network of a configuration, as its ``config`` property gave it; weights are new.

    Args:
        config: ``{"name": "unet", ...}``, the options of the class; ``"energy": True`` for the gradient of a scalar
            (:meth:`~langevin.nn.Backbone.as_energy`).

    Raises:
        UserError: for an unknown name or option (with the nearest), a value out of its range, more than 10^10
            parameters, or more than fit into memory.
    """
    count = sum(p.numel() for p in outline(config).parameters())  # counted before any memory is taken
    room(4 * count, f"network {config['name']} with {count:,} parameters")
    return _make(config)


def takes(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The conditions that a network of a name can take as it is, and those that its option ``pictures`` adds.

    Raises:
        UserError: for a name that is no network with conditions.
    """
    kinds: dict[str, Any] = {**BACKBONES, **FLOWS, **ENCODERS}
    if name not in kinds:
        raise unknown("network", name, kinds)
    kind = kinds[name]
    encodes = "pictures" in inspect.signature(kind).parameters
    return tuple(kind.takes), tuple(n for n in PLANES if encodes and n not in kind.takes)


def outline(config: Mapping[str, Any]) -> Any:
    """The network of a configuration without its weights: on the meta device, to be compared with a file's.

    Raises:
        UserError: as :func:`create_network`.
    """
    with torch.device("meta"):
        network = _make(config)
    count = sum(p.numel() for p in network.parameters())
    if count > LARGEST:
        raise UserError(
            f"network {config['name']} would have {count:.1e} parameters, at most {LARGEST:.0e} are accepted"
        )
    return network


def _make(config: Mapping[str, Any]) -> Any:
    if not isinstance(config, Mapping):
        raise UserError(f"a network must be a mapping with a name and options, got {config!r}")
    options = dict(config)
    name, energy = options.pop("name", None), options.pop("energy", False)
    if not isinstance(energy, bool) or (energy and name not in BACKBONES):
        raise UserError(f"energy must be true or false, got {energy!r}")
    kinds: dict[str, Any] = {**BACKBONES, **CODECS, **FLOWS, **ENCODERS, **DUAL_ENCODERS}
    if not isinstance(name, str) or name not in kinds:
        raise unknown("network", str(name), kinds)
    kind = kinds[name]
    known = [p for p in inspect.signature(kind).parameters if p != "self"]
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, [*known, "energy"])
    try:
        network = kind(**options)
    except TypeError as error:
        raise UserError(f"network {name}: an option has the wrong type ({error})") from error
    return network.as_energy() if energy else network


def default(
    shape: tuple[int, ...], conditions: Mapping[str, int] = NONE, *, name: str | None = None, **options: Any
) -> dict[str, Any]:
    """A configuration that suits events of this shape: an MLP for points ``(D,)``, a transformer for
    sequences ``(C, L)``, a U-Net for images ``(C, H, W)``.

    Sizes that train on a CPU: 1.1 M parameters for 8x8 digits, 2.6 M for 32x32 images, 2.7 M for 64x64. A U-Net halves
    the image while both sides stay even and at least 4, and has attention at the smallest size unless that is above 16,
    or above 64 where it reads a sequence or a caption.

    Args:
        shape: the event shape.
        conditions: what it is told beside the time, with their sizes: ``{"label": 10}`` for ten classes.
        name: ``mlp``, ``transformer``, ``unet``, ``unet2d``, ``edm-unet``, ``lucidrains``, ``dit``, ``vae``,
            ``coupling`` or ``encoder``; None chooses by the shape.
        options: further options of the network; they override what is chosen here.

    Raises:
        UserError: if no network here takes the shape, or an option is unknown or out of range.
    """
    shape = tuple(shape)
    if len(shape) not in SUITS or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise UserError(
            f"shape must be (D,) for points, (features, length) for sequences or (channels, height, width) for images, "
            f"got {shape}"
        )
    name = name or SUITS[len(shape)]
    chosen: dict[str, Any] = {"name": name, "channels": shape[0], "conditions": dict(conditions)}
    if name == "mlp":
        chosen |= {"width": 128 if shape[0] <= 16 else 512}
    elif name == "transformer" and len(shape) == 2:
        chosen |= {"length": shape[1]}
    elif name == "encoder" and len(shape) == 3:
        unet = _unet(*shape[1:], options.get("multipliers"))
        chosen |= {key: unet[key] for key in ("size", "width", "multipliers", "attention")}
    elif name == "unet" and len(shape) == 3:
        chosen |= _unet(*shape[1:], options.get("multipliers"))
        smallest = min(shape[1:]) >> (len(chosen["multipliers"]) - 1)
        if any(conditions.get(key) for key in ("sequence", "caption")) and 1 <= smallest <= WIDEST:
            chosen["attention"] = (smallest,)  # tokens are read by attention alone
    elif name == "unet2d" and len(shape) == 3:
        unet = _unet(*shape[1:], options.get("multipliers"))
        chosen |= {key: unet[key] for key in ("size", "width", "multipliers", "attention")}
        chosen |= {"head": math.gcd(32, unet["width"] * unet["multipliers"][-1])}
    elif name == "edm-unet" and len(shape) == 3:
        unet = _unet(*shape[1:], options.get("multipliers"))
        chosen |= {key: unet[key] for key in ("width", "multipliers", "attention")} | {"size": min(shape[1:])}
    elif name == "lucidrains" and len(shape) == 3:
        unet = _unet(*shape[1:])
        wide = [unet["width"] * m for m in (1, *unet["multipliers"])]
        levels = len(wide) - 1
        chosen |= {"width": unet["width"], "widths": wide, "full": [False] * (levels - 1) + [True]}
        chosen |= {"heads": [4] * levels, "head": [32] * levels}
    elif name == "dit" and len(shape) == 3:
        # A patch for about 8x8 tokens, the largest power of two that divides both sides.
        patch = max(
            p for p in (1, 2, 4, 8, 16, 32) if p == 1 or (min(shape[1:]) >= 8 * p and not any(n % p for n in shape[1:]))
        )
        chosen |= {"patch": patch}
    elif name == "vae" and len(shape) == 3:
        chosen.pop("conditions")
        chosen |= _vae(*shape[1:])
    chosen |= options
    network = outline(chosen)
    network.check_shape(shape)
    return network.config


def _vae(height: int, width: int) -> dict[str, Any]:
    """A quarter of each side, an eighth from 64 pixels on; as many channels as leave at least 32 latents."""
    halvings = 2 if min(height, width) < 64 else 3
    while halvings and (height % 2**halvings or width % 2**halvings):
        halvings -= 1
    places = (height >> halvings) * (width >> halvings)
    multipliers = [min(2**level, 4) for level in range(halvings + 1)]
    return {"size": (height, width), "multipliers": multipliers, "latent": max(4, 32 // places)}


def _unet(height: int, width: int, multipliers: Any = None) -> dict[str, Any]:
    """Cost is where the pixels are, parameters where the channels are: one block at the full size, two below."""
    size, halvings = (height, width), 0
    while halvings < HALVINGS and not any(n % 2 ** (halvings + 1) or n >> (halvings + 1) < 4 for n in (height, width)):
        halvings += 1
    if isinstance(multipliers, (tuple, list)):
        halvings = max(len(multipliers) - 1, 0)
    smallest = min(height, width) >> halvings
    # From 64 pixels on the full size is a thin level above the network of 32 pixels: 1.5 times its cost, not 4 times.
    width = 64 if halvings < 2 else 32 if halvings < 4 else 16
    return {
        "size": size,
        "width": width,
        "multipliers": [min(2**level, 128 // width) for level in range(halvings + 1)],
        "blocks": [1] * (halvings > 0) + [2] * max(halvings, 1),
        "attention": (smallest,) if 1 <= smallest <= 16 else (),
    }
