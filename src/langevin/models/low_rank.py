"""Networks that learn a low-rank update of some of their layers, and directories that hold such an update alone."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._errors import UserError, check_integer, shown
from ..data import DataInfo
from ..denoisers import NetworkDenoiser
from ..storage import files
from ..storage.untrusted import reading, typed
from .parts import Latent
from .timing import timeless

PROJECTIONS = (
    *("attention.qkv", "attention.kv", "attention.out"),
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("q_proj", "k_proj", "v_proj", "out_proj"),
)
"""The endings of the names of attention's layers: ours, diffusers' and those of text encoders."""

SHARE = 0.2
"""Of the layers, that attention must have to be updated alone."""

KIND, FORMAT = "adapter", 3
"""The kind of such a directory, and the version of its format, which is that of model directories."""

CONFIG, MOMENTS = "config.json", "data.safetensors"
PEFT_CONFIG, PEFT_WEIGHTS, DIFFUSERS_WEIGHTS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
)
"""The files that peft reads (``PeftModel.from_pretrained``), and that pipelines of diffusers read
(``load_lora_weights``)."""

READ = ("diffusers", "shift")
"""What a model's record says of how its pipeline asks it, which stays true of the model with an update."""

ADAPTER = "default"
"""peft's name of an adapter that has none."""


def parts_of(network: nn.Module) -> dict[str, nn.Module]:
    """What of a network may learn, by name, what denoises first: all of it, under no name, if it does not say."""
    parts: Callable[[], dict[str, nn.Module]] = getattr(network, "parts", lambda: {"": network})
    return parts()


def fingerprint(network: nn.Module) -> str:
    """The SHA-256 of a network's parameters in float32, by name."""
    found = hashlib.sha256()
    for name, value in sorted(network.named_parameters()):
        found.update(name.encode())
        found.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def layers_of(part: nn.Module, endings: Sequence[str] = ()) -> list[str]:
    """The linear and convolutional layers of a module that get an update.

    Args:
        part: the module.
        endings: of their names; those of attention if there are none, or all layers where these are fewer than a fifth
            of them, as in convolutional networks; ``all`` is every layer.

    Raises:
        UserError: for an ending that no layer has.
    """
    known = [name for name, layer in part.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    if tuple(endings) == ("all",):
        return known
    ends = lambda name, ending: name == ending or name.endswith(f".{ending}")
    for ending in endings:
        if not any(ends(name, ending) for name in known):
            raise UserError(
                f"layers must be endings of names of linear or convolutional layers, or all; got {ending!r}, and this "
                f"network has {', '.join(sorted({name.rpartition('.')[2] for name in known})[:12])}, …"
            )
    found = [name for name in known if any(ends(name, ending) for ending in endings or PROJECTIONS)]
    return found if endings or len(found) >= SHARE * len(known) else known


class LowRank(nn.Module):
    r"""A network with :math:`W + B A` in the place of some weights W, which stay as they are (arXiv:2106.09685 eq. 3).

    A is ``(r, in)`` and drawn at random, B is ``(out, r)`` and begins at zero, so the network begins as it was. peft
    makes the layers (``pip install "langevin[lora]"``).

    Args:
        network: as ``langevin.load`` gives it; it is changed in place.
        layers: the names of the layers, by the name of the part of the network they are in (see ``parts_of``).
        rank: r, at least 1.
        base: the directory or repository that the network is of.
        weights: the ``fingerprint`` of the network.
    """

    foreign = True
    """Its memory is not measured by calling it."""

    def __init__(
        self, network: nn.Module, layers: Mapping[str, Sequence[str]], rank: int, base: str, weights: str
    ) -> None:
        super().__init__()
        check_integer("rank", rank, 1)
        self.network, self.rank, self.base, self.weights = network, rank, base, weights
        self.layers = {name: list(chosen) for name, chosen in layers.items()}
        for name, part in self.adapted().items():
            _peft().inject_adapter_in_model(self._peft_config(name), part, adapter_name=ADAPTER)

    def _peft_config(self, name: str) -> Any:
        return _peft().LoraConfig(
            r=self.rank, lora_alpha=self.rank, target_modules=self.layers[name], base_model_name_or_path=self.base
        )

    def adapted(self) -> dict[str, nn.Module]:
        """The parts whose layers have an update, by name."""
        parts = parts_of(self.network)
        return {name: parts[name] for name in self.layers}

    @property
    def config(self) -> Any:
        """That of the network."""
        return self.network.config

    @property
    def readers(self) -> Mapping[str, Callable[[Any], Tensor]]:
        """Conditions that the network reads in a way of its own."""
        return getattr(self.network, "readers", {})

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.network(x, time, condition)

    def updates(self) -> dict[str, dict[str, Tensor]]:
        """The matrices A and B by the name of the part and of the layer, as peft calls them."""
        state = _peft().get_peft_model_state_dict
        given = {"adapter_name": ADAPTER, "save_embedding_layers": False}
        return {name: dict(state(part, **given)) for name, part in self.adapted().items()}

    def load(self, updates: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over the matrices of ``updates()``."""
        for name, part in self.adapted().items():
            _peft().set_peft_model_state_dict(part, dict(updates[name]), adapter_name=ADAPTER)

    def merged(self) -> nn.Module:
        """A copy of the network with W + BA as its weights, and no layers but its own."""
        copied = copy.deepcopy(self)
        for part in copied.adapted().values():
            for name, layer in [m for m in part.named_modules() if hasattr(m[1], "get_base_layer")]:
                layer.merge()
                parent, _, leaf = name.rpartition(".")
                setattr(part.get_submodule(parent), leaf, layer.get_base_layer())
            del part.peft_config
        return copied.network

    def contents(self, model: Any) -> dict[str, bytes]:
        """What a directory of the update alone holds, by file; ``model`` is the denoiser or ``Latent`` it is of."""
        held: dict[str, bytes] = {}
        denoiser = model.base if isinstance(model, Latent) else model
        updates = {
            name: {key: v.float().cpu().contiguous() for key, v in update.items()}
            for name, update in self.updates().items()
        }
        for i, (name, update) in enumerate(updates.items()):
            folder = f"{name}/" if i else ""
            settings = {k: sorted(v) if isinstance(v, set) else v for k, v in self._peft_config(name).to_dict().items()}
            held[folder + PEFT_CONFIG] = files.as_json(settings)
            held[folder + PEFT_WEIGHTS] = files.as_safetensors(
                {f"base_model.model.{key}": v for key, v in update.items()}
            )
        if "" not in updates:
            whole = {f"{name}.{key}": v for name, update in updates.items() for key, v in update.items()}
            held[DIFFUSERS_WEIGHTS] = files.as_safetensors(whole)
        moments = {} if denoiser.data is None else denoiser.data.tensors()
        if moments:
            held[MOMENTS] = files.as_safetensors(moments)
        config = {
            "langevin": FORMAT,
            "kind": KIND,
            "base": {"path": self.base, "weights": self.weights},
            "rank": self.rank,
            "layers": self.layers,
            "data": None if denoiser.data is None else denoiser.data.to_dict(),
            "moments": sorted(moments),
            "training": timeless(denoiser.config),
            "files": {name: files.digest(content) for name, content in held.items()},
        }
        return {**held, CONFIG: files.as_json(config)}


def is_adapter(folder: Path) -> bool:
    """Whether a directory holds a low-rank update of another model."""
    try:
        return files.read_json(files.place(folder, CONFIG)).get("kind") == KIND
    except (UserError, OSError):
        return False


def load_adapter(folder: Path, load: Callable[[str], Any], base: str | None = None) -> Any:
    """The model of a directory of a low-rank update: the model it is of, with the update merged into its weights.

    Args:
        folder: as a training run with ``--lora`` leaves it.
        load: gives the model of a path.
        base: where that model is, if it is no longer where it was.

    Raises:
        UserError: for files that are damaged or contradict each other, and a base that is not there or another.
    """
    file = files.place(folder, CONFIG)
    config = {"files": {}, **files.read_json(file)}
    keys = {"langevin", "kind", "base", "rank", "layers", "data", "moments", "training", "files"}
    files.only(file, config, keys)
    if config["langevin"] != FORMAT:
        raise UserError(f"{file}: format {config['langevin']!r} is unknown; this version of langevin reads {FORMAT}")
    names = [f"{name}/" if i else "" for i, name in enumerate(config["layers"])]
    known = {folder + name for folder in names for name in (PEFT_CONFIG, PEFT_WEIGHTS)} | {DIFFUSERS_WEIGHTS, MOMENTS}
    files.digests(file, config["files"], known)
    with reading(file):
        about = typed(dict[str, str], config["base"], "base")
        layers = typed(dict[str, list[str]], config["layers"], "layers")
        rank, training = typed(int, config["rank"], "rank"), typed(dict, config["training"], "training")
        if set(about) != {"path", "weights"} or not layers or not 1 <= rank <= 2**16:
            raise UserError(f"an adapter has a base, a rank and layers, got {shown(about)}, {rank}, {shown(layers)}")
    where = about["path"] if base is None else base
    try:
        model = load(where)
    except UserError as error:
        more = "" if base is not None else "; give base=… if it lies elsewhere now"
        raise UserError(
            f"{folder} is an update of the model {where!r}, which cannot be loaded{more}: {error}"
        ) from None
    denoiser = model.base if isinstance(model, Latent) else model
    if not isinstance(denoiser, NetworkDenoiser) or fingerprint(denoiser.network) != about["weights"]:
        raise UserError(f"{folder} is an update of another model than {where!r} now is: its weights differ")
    parts = parts_of(denoiser.network)
    for name, chosen in layers.items():
        known = set() if name not in parts else {key for key, _ in parts[name].named_modules()}
        if lost := sorted(set(chosen) - known):
            raise UserError(f"{file}: the model {where!r} has no layer {name}.{lost[0]}")
    with reading(file):
        network = LowRank(denoiser.network, layers, rank, about["path"], about["weights"])
    updates = {}
    for i, (name, expected) in enumerate(network.updates().items()):
        weights = files.place(folder, (f"{name}/" if i else "") + PEFT_WEIGHTS)
        found = files.read_safetensors(weights)
        files.fit(weights, found, {f"base_model.model.{key}": v for key, v in expected.items()})
        if not files.is_finite(found):
            raise UserError(f"{weights} holds weights that are not finite")
        updates[name] = {key.removeprefix("base_model.model."): v for key, v in found.items()}
    network.load(updates)
    data = denoiser.data
    if config["data"] is not None:
        moments = files.place(folder, MOMENTS)
        with reading(file):
            data = DataInfo.from_dict(config["data"], files.read_safetensors(moments) if config["moments"] else {})
            if tuple(data.shape) != tuple(denoiser.shape):
                raise UserError(f"data of shape {data.shape} are not those of the model, {denoiser.shape}")
    files.agree(folder, config["files"])
    device = denoiser.device
    tuned = replace(
        denoiser,
        network=network.merged().eval().to(device),
        data=data,
        config={
            **{key: denoiser.config[key] for key in READ if key in denoiser.config},
            "update": f"of rank {rank}, of the model {about['path']}",
            **training,
        },
        solvers=(),
        learned_variances={},
    )
    return replace(model, base=tuned) if isinstance(model, Latent) else tuned


def _peft() -> Any:
    """peft, or a sentence on how to have it."""
    try:
        import peft
    except ImportError:
        raise UserError('peft is needed for low-rank updates: pip install "langevin[lora]"') from None
    return peft
