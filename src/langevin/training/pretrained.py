"""Runs that go on from a pretrained model: what learns of it, and the data as the model is told them."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import samplers
from .._errors import UserError, check_instance
from ..data import DataInfo, Dataset, Split
from ..data.captions import read_text, tokens
from ..data.dataset import with_classes
from ..denoisers import Denoiser, NetworkDenoiser
from ..denoisers.conditions import absent, asked_conditions
from ..distributions import Noise
from ..models.codes import encode
from ..models.learned import checksum
from ..models.low_rank import READ, LowRank, layers_of, parts_of
from ..models.parts import Latent
from ..nn.text import encode_texts
from ..objectives import Objective
from ..processes import Learning
from ..storage import files
from .config import Config, NetworkConfig, ObjectiveConfig, PredictionConfig, ProcessConfig, StartConfig
from .defaults import Defaults, defaults_of
from .families import Family, ResolvedParts, decode, timed
from .from_scratch import trained_from_scratch
from .model_types import MODEL_TYPES

STEPS, BATCH, EVERY = 1000, 32, 250
"""Of a run that says nothing else: optimiser steps, examples a step at most, and steps between outputs."""

PRIOR = "prior.safetensors"
"""The file of a run that keeps the samples of the pretrained model."""

PRIOR_STEPS = 24
"""Evaluations of such a sample."""


def family_of(config: Config, base: NetworkDenoiser | None) -> Family:
    """What a configuration trains.

    Raises:
        UserError: for settings of a pretrained model where none was given.
    """
    if base is not None:
        return Pretrained(base)
    start, plain = config.start, StartConfig()
    if start.model is not None:
        raise UserError(f"the run goes on from {start.model!r}, which must be given as base=langevin.load(…)")
    for name in vars(plain):
        if getattr(start, name) != getattr(plain, name):
            raise UserError(f"{name.replace('_', '-')} is of runs that go on from a pretrained model (--from)")
    return trained_from_scratch(config)


class Pretrained(Family):
    """A denoiser that has learned, and learns on.

    Args:
        base: the denoiser; of a latent model, that of codes.
    """

    def __init__(self, base: NetworkDenoiser) -> None:
        self.base = base

    def defaults(self, config: Config, data: DataInfo) -> Defaults:
        """Short runs, at a rate that falls with the square root of the number of parameters.

        A LoRA of a model of 10⁹ parameters learns at 1e-4, as is usual for Stable Diffusion, and smaller ones
        at up to 1e-3; where all weights learn it is a tenth of that.
        """
        own = defaults_of(data)
        count = sum(p.numel() for p in self.base.network.parameters())
        rate = min(1e-3, 1e-4 * (1e9 / count) ** 0.5)
        lr = rate if config.start.lora is not None else rate / 10
        return replace(own, batch=min(own.batch, BATCH), lr=lr, steps=STEPS, warmup=20, every=EVERY)

    def resolve(self, config: Config, data: DataInfo) -> ResolvedParts:
        base, plain = self.base, Config()
        for name in ("network", "process", "prediction"):
            if getattr(config, name) != getattr(plain, name):
                raise UserError(f"--{name} is chosen by the pretrained model; leave it out beside --from")
        self._check(config.start)
        about: Any = base.network.config
        options: dict[str, Any] = {"conditions": {}, **about}
        name = options.pop("name", None) or options.pop("diffusers", type(base.network).__name__)
        process = base.process.to_dict()
        made = vars(base.parameterization)
        prediction = PredictionConfig(
            name=str(made["prediction"]),
            time=str(made["time"]),
            sigma_data=made.get("sigma_data"),
            scale_input=bool(made.get("scale_input", True)),
            variance=base.variance,
        )
        return ResolvedParts(
            NetworkConfig(str(name), options),
            ProcessConfig(str(process.pop("name")), process),
            prediction,
            self._objective(config, prediction),
        )

    def _check(self, start: StartConfig) -> None:
        if isinstance(self.base.process, Learning):
            raise UserError("the pretrained model has a process that learns, which cannot be trained on with --from")
        check_start(start)
        if start.lora is not None and start.model is None:
            raise UserError("start.model must say where the pretrained model is: a LoRA is kept without it")
        if start.train_text_encoder and len(parts_of(self.base.network)) < 2:
            raise UserError(
                "train-text-encoder is of pipelines with text encoders of their own, which this model has not"
            )
        takes = self.base.conditions()
        for name, caption in (("caption", start.caption), ("prior-captions", start.prior_captions)):
            if caption is not None and "caption" not in takes:
                told = ", ".join(takes) or "no condition"
                raise UserError(f"{name} was given, but the pretrained model takes {told}")

    def _objective(self, config: Config, prediction: PredictionConfig) -> ObjectiveConfig:
        """The loss: what is asked for, else the one that the model learned by, if that is known."""
        asked, recorded = config.objective, self.base.config.get("config")
        if asked == replace(ObjectiveConfig(), dropout=asked.dropout) and isinstance(recorded, Mapping):
            return replace(Config.from_dict(recorded).objective, dropout=asked.dropout)
        if asked.name is None and prediction.variance is not None:
            asked = replace(asked, name="hybrid")
        asked = replace(asked, times_options=decode(asked.times_options))
        return MODEL_TYPES[self.base.parameterization.kind].objective(asked, prediction)

    def objective(self, config: Config) -> Objective:
        return timed(config)

    def model(self, config: Config, data: DataInfo) -> NetworkDenoiser:
        base, start = self.base, config.start
        if tuple(data.shape) != tuple(base.shape):
            raise UserError(f"the pretrained model is of data {tuple(base.shape)}, got {tuple(data.shape)}")
        # In float32: the steps of learning are smaller than half precision tells apart.
        network: Any = copy.deepcopy(base.network).to(torch.float32).requires_grad_(False)
        parts = parts_of(network)
        learning = list(parts) if start.train_text_encoder else list(parts)[:1]
        if start.lora is None:
            for name in learning:
                parts[name].requires_grad_(True)
        else:
            layers = {name: layers_of(parts[name], start.layers) for name in learning}
            network = LowRank(network, layers, start.lora, str(start.model), str(start.weights))
        return replace(
            base,
            network=network,
            data=data,
            condition={},
            config={key: value for key, value in base.config.items() if key in READ},
            solvers=(),
            learned_variances={},
            class_label=None,
        )


def check_start(start: StartConfig) -> None:
    """Refuse settings that no pretrained model fits.

    Raises:
        UserError: with the setting as it is called on the command line.
    """
    if start.lora is not None and start.lora < 1:
        raise UserError(f"lora must be a rank of at least 1, got {start.lora}")
    if start.lora is None and start.layers:
        raise UserError("layers are those of a LoRA: give lora, its rank, too")
    if start.prior_captions is not None and not start.prior:
        raise UserError("prior-captions are those of samples of the model: give prior, how many, too")
    if start.prior < 0:
        raise UserError(f"prior must be a number of samples of at least 0, got {start.prior}")


def base_of(model: Any) -> NetworkDenoiser:
    """The denoiser that learns of a pretrained model.

    Raises:
        UserError: for what has none.
    """
    base: object = model.belief_of if isinstance(model, Denoiser) else model
    check_instance("base", base, NetworkDenoiser, "a model with a denoiser of a network, as langevin.load(…) gives it")
    assert isinstance(base, NetworkDenoiser)
    return base


def with_checksum(start: StartConfig, base: NetworkDenoiser) -> StartConfig:
    """The settings with the checksum of the model's weights."""
    return replace(start, weights=checksum(base.network))


def prepare(
    dataset: Dataset, model: Any, start: StartConfig, progress: Callable[[int, int], None] | None = None
) -> Dataset:
    """A data set as a pretrained model is told it: its classes by their names, a caption for all, codes.

    Args:
        dataset: images of the size and the channels of the model's.
        model: as ``langevin.load`` gives it.
        start: ``caption`` is read of it.
        progress: of encoding, called as ``progress(done, total)``.

    Raises:
        UserError: for data of another shape or range, and for classes that the model does not know.
    """
    base, known = base_of(model), model.output
    shape = tuple(base.shape) if known is None else tuple(known.shape)
    info = dataset.info
    if dataset.stream is not None:
        raise UserError("streaming is of new models: data that a pretrained one is told are in memory; give --limit")
    if tuple(info.shape) != shape:
        hint = ""
        if len(shape) == 3 and info.is_image:
            hint = f"; give --size {shape[1]} and --channels {shape[0]}"
        raise UserError(f"the pretrained model makes data of shape {shape}, but these have {tuple(info.shape)}{hint}")
    if known is not None and known.low is not None and (info.low, info.high) != (known.low, known.high):
        raise UserError(
            f"the pretrained model makes data in [{known.low:g}, {known.high:g}], but these are in "
            f"[{info.low}, {info.high}]"
        )
    dataset = _told(dataset, base, known, start.caption)
    return encode(dataset, model.codec, progress=progress) if isinstance(model, Latent) else dataset


def _told(dataset: Dataset, base: NetworkDenoiser, known: DataInfo | None, caption: str | None) -> Dataset:
    """The data with the conditions that the model takes."""
    takes = base.condition_sizes
    if left := [name for name in dataset.info.conditions if name not in takes]:
        what = ", ".join(takes) or "no condition"
        warnings.warn(f"the pretrained model takes {what}; {', '.join(left)} of these data is ignored", stacklevel=4)
    classes = () if known is None or "label" not in takes else tuple(known.classes)
    if classes and dataset.info.classes:
        dataset = with_classes(dataset, classes, "the pretrained model's")
    splits = []
    for split in (dataset.train, dataset.test):
        some = copy.copy(split)
        some.conditions = {name: value for name, value in split.conditions.items() if name in takes}
        if "caption" in takes and caption is not None:
            some.conditions["caption"] = _captioned(some.conditions.get("caption"), caption, len(split))
        splits.append(some)
    shapes = {name: tuple(value.shape[1:]) for name, value in splits[0].conditions.items() if name != "label"}
    if splits[0].degrade is not None:
        shapes |= {name: shape for name, shape in dataset.info.conditions.items() if name in ("image", "mask")}
    own = dataset.info.classes if "label" in takes else ()
    told = replace(dataset.info, classes=classes or own, conditions=shapes)
    if told.classes != dataset.info.classes:
        told = replace(told, class_mean=None, class_cov=None)
    return replace(dataset, info=told, train=splits[0], test=splits[1])


def _captioned(held: Tensor | None, caption: str, count: int) -> Tensor:
    """Captions ``(N, L)`` with one for those that lack it."""
    (own,) = encode_texts([caption], max(len(caption.encode()) + 1, 1 if held is None else held.shape[1]))
    if held is None:
        return own.to(torch.int16).expand(count, -1)
    wide = torch.nn.functional.pad(held, (0, len(own) - held.shape[1]), value=-1)
    return torch.where(wide[:, :1] < 0, own.to(wide), wide)


class WithPrior(Split):
    """A split of which every second example is one of a fixed set: samples of a pretrained model.

    Args:
        split: the data.
        x: the samples ``(N, *shape)``.
        conditions: what they were made under, by name; those of the data that are missing count as absent.
    """

    def __init__(self, split: Split, x: Tensor, conditions: Mapping[str, Tensor]) -> None:
        super().__init__(x, conditions)
        self.split, self.flip, self.half = split, False, max(len(split), len(x))

    @property
    def own(self) -> int:
        return len(self.split)

    def __len__(self) -> int:
        return 2 * self.half

    def batch(self, indices: Tensor, *, seed: int = 0, draw: int = 0) -> dict[str, Tensor]:
        # An example that comes round several times in an epoch is augmented anew each time.
        turns = -(-self.half // self.own)
        return self._joined(indices, lambda some, turn: self.split.batch(some, seed=seed, draw=draw * turns + turn))

    def plain(self, indices: Tensor) -> dict[str, Tensor]:
        return self._joined(indices, lambda some, turn: self.split.plain(some))

    def _joined(self, indices: Tensor, read: Callable[[Tensor, int], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Examples of the data, read with the number of times they have come in the epoch, and samples between them."""
        place, first = torch.arange(len(indices)), indices < self.half
        turns, parts = indices[first] // self.own, []
        for turn in turns.unique().tolist():
            some = turns == turn
            parts.append((place[first][some], read(indices[first][some] % self.own, turn)))
        rest = (indices[~first] - self.half) % len(self._x)
        told = {name: held[rest] for name, held in self.conditions.items()}
        parts.append((place[~first], self._with_conditions(self._take(rest), told, None, Noise(0, rest))))
        return _put_together([part for part in parts if len(part[0])], len(indices))


def _put_together(parts: list[tuple[Tensor, dict[str, Tensor]]], count: int) -> dict[str, Tensor]:
    """Examples in their places; what some of them lack is absent, and shorter captions are filled up."""
    names = dict.fromkeys(name for _, part in parts for name in part)
    found = {}
    for name in names:
        held = [(place, part[name]) for place, part in parts if name in part]
        longest = max((value for _, value in held), key=lambda value: value.shape[1:].numel())
        whole = absent(longest, count)
        for place, value in held:
            fitting = whole if value.shape[1:] == longest.shape[1:] else whole[:, : value.shape[1]]
            fitting[place] = value.to(whole)
        found[name] = whole
    return found


def with_prior(
    dataset: Dataset,
    model: Any,
    start: StartConfig,
    out: Path,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """A data set with samples of the pretrained model, which are kept in the run's directory.

    Args:
        dataset: as the model is told it.
        model: as ``langevin.load`` gives it; of a latent one the samples are codes.
        start: ``prior``, how many, and ``prior_captions`` are read of it.
        out: the directory of the run.
        seed: of the samples.
        progress: called as ``progress(done, total)``.
    """
    if not start.prior:
        return dataset
    base, file = base_of(model), out / PRIOR
    if not file.exists():
        given = {**_prior_captions(start), **_prior_labels(start.prior, base, dataset.train.labels)}
        told = asked_conditions(base.condition_sizes, start.prior, given)
        made = samplers.sample(
            base.given(told), n=start.prior, steps=PRIOR_STEPS, seed=seed, batch=64, progress=progress
        )
        held = {name: torch.as_tensor(value) for name, value in told.items()}
        files.replace(file, files.as_safetensors({"x": made.float().cpu(), **held}))
    held = files.read_safetensors(file)
    x = held.pop("x", torch.empty(0))
    if x.shape != (start.prior, *base.shape) or not held.keys() <= set(base.conditions()):
        raise UserError(f"{file} must hold {start.prior} samples of shape {tuple(base.shape)}, got {tuple(x.shape)}")
    return replace(dataset, train=WithPrior(dataset.train, x, held))


def _prior_labels(count: int, base: NetworkDenoiser, seen: Tensor | None) -> dict[str, Tensor]:
    """The classes of the samples of a pretrained model: in turn, those that the data do not show, or all."""
    classes = torch.arange(base.condition_sizes.get("label", 0))
    if not len(classes):
        return {}
    others = classes if seen is None else classes[~torch.isin(classes, seen)]
    others = others if len(others) else classes
    return {"label": others[torch.arange(count) % len(others)]}


def _prior_captions(start: StartConfig) -> dict[str, Tensor]:
    """The captions of the samples of a pretrained model, as tokens.

    Raises:
        UserError: for a file without a caption, or that is not read.
    """
    given = start.prior_captions
    if given is None:
        return {}
    texts = [given]
    if os.path.isfile(given):
        texts = [line.strip() for line in read_text(given).splitlines() if line.strip()]
        if not texts:
            raise UserError(f"prior-captions must be a caption, or a file with one a line, got {given}, an empty file")
    caption = tokens([texts[i % len(texts)] for i in range(start.prior)], given)
    return {} if caption is None else {"caption": caption}
