"""LoRA: low-rank updates of some layers of a network, and directories that hold the updates alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .._errors import UserError, check_integer, shown
from ..data import DataInfo
from ..denoisers import Denoiser, NetworkDenoiser
from ..storage import files
from ..storage.untrusted import reading, typed
from .custom import CustomFormat
from .directory import FORMAT, moments_of, trained
from .learned import checksum
from .location import CONFIG, MOMENTS
from .parts import with_denoiser
from .timing import timeless

PROJECTIONS = (
    *("attention.qkv", "attention.kv", "attention.out"),
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("q_proj", "k_proj", "v_proj", "out_proj"),
)
"""The endings of the names of attention's layers: ours, diffusers' and those of text encoders."""

SHARE = 0.2
"""Of the layers, that attention must have for it alone to get matrices."""

KIND = "adapter"
"""The kind of such a directory."""

PEFT_CONFIG, PEFT_WEIGHTS, DIFFUSERS_WEIGHTS = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "pytorch_lora_weights.safetensors",
)
"""The files that peft reads (``PeftModel.from_pretrained``), and that pipelines of diffusers read
(``load_lora_weights``)."""

PREFIX = "base_model.model."
"""What peft writes before the names of tensors."""

READ = ("diffusers", "shift")
"""What a model's record says of how its pipeline asks it, which stays true with a LoRA."""

ADAPTER = "default"
"""peft's name of an adapter that has none."""


def parts_of(network: nn.Module) -> dict[str, nn.Module]:
    """What of a network may learn, by name, what denoises first: all of it, under no name, if it does not say."""
    parts: Callable[[], dict[str, nn.Module]] = getattr(network, "parts", lambda: {"": network})
    return parts()


def layers_of(part: nn.Module, endings: Sequence[str] = ()) -> list[str]:
    """The linear and convolutional layers of a module that get matrices A and B.

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


class LowRank(nn.Module, CustomFormat):
    r"""A network with :math:`W + B A` in the place of some weights W, which stay as they are (arXiv:2106.09685 eq. 3).

    A is ``(r, in)`` and drawn at random, B is ``(out, r)`` and begins at zero, so the network begins as it was. peft
    makes the layers (``pip install "langevin[lora]"``).

    Args:
        network: as ``langevin.load`` gives it; it is changed in place.
        layers: the names of the layers, by the name of the part of the network they are in (see ``parts_of``).
        rank: r, at least 1.
        base: the directory or repository that the network is of.
        weights: ``learned.checksum`` of the network.
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
        """The parts with layers that have matrices, by name."""
        parts = parts_of(self.network)
        return {name: parts[name] for name in self.layers}

    @property
    def config(self) -> Any:
        """The configuration of the network inside."""
        return self.network.config

    @property
    def readers(self) -> Mapping[str, Callable[[Any], Tensor]]:
        """Conditions that the network reads in a way of its own."""
        return getattr(self.network, "readers", {})

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        return self.network(x, time, condition)

    def matrices(self) -> dict[str, dict[str, Tensor]]:
        """The matrices A and B by the name of the part and of the layer, as peft calls them."""
        state = _peft().get_peft_model_state_dict
        given = {"adapter_name": ADAPTER, "save_embedding_layers": False}
        return {name: dict(state(part, **given)) for name, part in self.adapted().items()}

    def load(self, matrices: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over the matrices of ``matrices()``."""
        for name, part in self.adapted().items():
            _peft().set_peft_model_state_dict(part, dict(matrices[name]), adapter_name=ADAPTER)

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
        """What a directory of the LoRA alone holds, by file."""
        held: dict[str, bytes] = {}
        denoiser = model.belief_of
        found = {
            name: {key: v.float().cpu().contiguous() for key, v in own.items()} for name, own in self.matrices().items()
        }
        for i, (name, own) in enumerate(found.items()):
            folder = _folder(i, name)
            settings = {k: sorted(v) if isinstance(v, set) else v for k, v in self._peft_config(name).to_dict().items()}
            held[folder + PEFT_CONFIG] = files.as_json(settings)
            held[folder + PEFT_WEIGHTS] = files.as_safetensors({PREFIX + key: v for key, v in own.items()})
        if "" not in found:
            whole = {f"{name}.{key}": v for name, own in found.items() for key, v in own.items()}
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


def is_lora(folder: Path) -> bool:
    """Whether a directory holds a LoRA of another model."""
    try:
        return files.read_json(files.place(folder, CONFIG)).get("kind") == KIND
    except (UserError, OSError):
        return False


def load_lora(folder: Path, load: Callable[[str], Any], base: str | None = None) -> Any:
    """The model of a directory of a LoRA: the model that it was trained on, with B A added to its weights.

    Args:
        folder: as a training run with ``--lora`` leaves it.
        load: gives the model of a path.
        base: where that model is, if it is no longer where it was.

    Raises:
        UserError: for files that are damaged or contradict each other, and a base that is not there or another.
    """
    file = files.place(folder, CONFIG)
    config = _read(folder, file)
    model = _base(folder, config["base"], load, base)
    denoiser: NetworkDenoiser = model.belief_of
    with reading(file):
        network = _with_matrices(folder, denoiser.network, config)
        data = denoiser.data
        if config["data"] is not None:
            data = DataInfo.from_dict(config["data"], moments_of(folder, config))
            if tuple(data.shape) != tuple(denoiser.shape):
                raise UserError(f"data of shape {data.shape} are not those of the model, {denoiser.shape}")
    files.agree(folder, config["files"])
    stays = {key: denoiser.config[key] for key in READ if key in denoiser.config}
    about = f"of rank {config['rank']}, of the model {config['base']['path']}"
    tuned = replace(
        denoiser,
        network=network.merged().eval().to(denoiser.device),
        data=data,
        config={**stays, "lora": about, **config["training"]},
        solvers=(),
        learned_variances={},
    )
    return with_denoiser(model, tuned)


def _read(folder: Path, file: Path) -> dict[str, Any]:
    """``config.json`` of a LoRA, each value of its type."""
    config = {"files": {}, **files.read_json(file)}
    keys = {"langevin", "kind", "base", "rank", "layers", "data", "moments", "training", "files"}
    files.only(file, config, keys)
    if config["langevin"] != FORMAT:
        raise UserError(f"{file}: format {config['langevin']!r} is unknown; this version of langevin reads {FORMAT}")
    with reading(file):
        about, layers = typed(dict[str, str], config["base"], "base"), config["layers"]
        typed(dict[str, list[str]], layers, "layers")
        rank = typed(int, config["rank"], "rank")
        trained(typed(dict, config["training"], "training"))
        if set(about) != {"path", "weights"} or not layers or not 1 <= rank <= 2**16:
            raise UserError(f"a LoRA has a base, a rank and layers, got {shown(about)}, {rank}, {shown(layers)}")
    names = [_folder(i, name) + held for i, name in enumerate(layers) for held in (PEFT_CONFIG, PEFT_WEIGHTS)]
    files.digests(file, config["files"], {*names, DIFFUSERS_WEIGHTS, MOMENTS})
    return config


def _base(folder: Path, about: Mapping[str, str], load: Callable[[str], Any], given: str | None) -> Any:
    """The model that a LoRA was trained on, by its path, or where it is given."""
    where = about["path"] if given is None else given
    try:
        model = load(where)
    except UserError as error:
        what = f"{folder} holds a LoRA of the model {where!r}, which cannot be loaded"
        more = "" if given is not None else "; give base=… if it lies elsewhere now"
        raise UserError(f"{what}{more}: {error}") from None
    denoiser = model.belief_of if isinstance(model, Denoiser) else None
    if not isinstance(denoiser, NetworkDenoiser) or checksum(denoiser.network) != about["weights"]:
        raise UserError(f"{folder} holds a LoRA of another model than {where!r} now is: its weights differ")
    return model


def _with_matrices(folder: Path, network: nn.Module, config: Mapping[str, Any]) -> LowRank:
    """A network with the matrices A and B of a directory."""
    parts = parts_of(network)
    for name, chosen in config["layers"].items():
        known = set() if name not in parts else {key for key, _ in parts[name].named_modules()}
        if lost := sorted(set(chosen) - known):
            raise UserError(f"the model {config['base']['path']!r} has no layer {name}.{lost[0]}")
    about = config["base"]
    made = LowRank(network, config["layers"], config["rank"], about["path"], about["weights"])
    matrices = {}
    for i, (name, expected) in enumerate(made.matrices().items()):
        weights = files.place(folder, _folder(i, name) + PEFT_WEIGHTS)
        found = files.read_safetensors(weights)
        files.fit(weights, found, {PREFIX + key: v for key, v in expected.items()})
        if not files.is_finite(found):
            raise UserError(f"{weights} holds weights that are not finite")
        matrices[name] = {key.removeprefix(PREFIX): v for key, v in found.items()}
    made.load(matrices)
    return made


def _folder(place: int, name: str) -> str:
    """Where peft's files of a part lie: those of the first, which denoises, in the directory itself."""
    return f"{name}/" if place else ""


def merged(model: Any) -> Any:
    """A model with a LoRA in its weights, as it is loaded again; another as it is."""
    network = model.network
    if not isinstance(network, LowRank):
        return model
    return with_denoiser(model, replace(model.belief_of, network=network.merged().eval()))


def _peft() -> Any:
    """peft, or a sentence on how to have it."""
    try:
        import peft
    except ImportError:
        raise UserError('peft is needed for LoRA: pip install "langevin[lora]"') from None
    return peft
