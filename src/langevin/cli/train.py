"""``langevin train``."""

from __future__ import annotations

import shlex
import warnings
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, Suppress, arg

from .._errors import UserError
from ..storage.untrusted import TooLarge
from ..training import BudgetConfig, Config, ParallelConfig, StartConfig
from .entry import abandon
from .options import Name, Whole, at_least_one, device_named, writable

if TYPE_CHECKING:
    from ..training import ProcessGroup


FEW = 50
"""Examples below which a warning is given."""


@dataclass(frozen=True)
class DataOptions:
    """How the data are read."""

    size: Whole = None
    """Side of the square images to make; needed if images differ in size."""
    channels: Whole = None
    """1 for grey, 3 for colour; if not given, 3, or 1 if every image is grey."""
    flip: bool = False
    """Mirror half of the training images, drawn anew at every visit."""
    crop: Literal["center", "random"] = "center"
    """The central square of each image, or for training a random window of it."""
    limit: Whole = None
    """At most this many examples of each split, a fixed random choice."""
    degrade: Name = None
    """Train a model that restores images from this damage; it is told the damaged one as the condition image.
    resize=16, grey, blur=1.5, noise=0.1, box=0.4, uncrop=0.5 or jpeg=10, several with commas between them, alternatives
    with bars; a number may be a range, as noise=0..0.2."""
    text_encoder: Name = None
    """Encode the captions once by this frozen text encoder of transformers, a directory or owner/name or
    owner/name@revision of the Hub; the model is told its features as the condition sequence."""
    streaming: bool = False
    """Read hf:NAME while training instead of fetching it whole first: for data that no memory or disk holds."""


@dataclass(frozen=True)
class StartOptions(StartConfig):
    """A pretrained model that the run goes on from."""

    model: Annotated[str | None, arg(name="from", metavar="DIR", help_behavior_hint="")] = None
    """Go on from this pretrained model: a model directory, a pipeline of diffusers, or owner/name or
    owner/name@revision of the Hub. If nothing else is said, for 1,000 steps of at most 32 examples."""
    weights: Suppress[str | None] = None


@dataclass(frozen=True, kw_only=True)
class Options(Config):
    """Train a model and leave it in a directory that `langevin sample` reads.

    What is not given is chosen for the data. Under `torchrun -m langevin train ...` or `accelerate launch -m langevin
    train ...` several processes share each batch. Ctrl-C writes a checkpoint, from which --resume goes on.
    """

    source: Annotated[Positional[str], arg(metavar="DATA")]
    """A set by name (digits, moons, words, ...), a folder of images, a .npy or .npz file, or hf:NAME."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Directory of the run."""
    start: Annotated[StartOptions, arg(name="")] = field(default_factory=StartOptions)
    budget: Annotated[BudgetConfig, arg(name="")] = field(default_factory=BudgetConfig)
    work: Annotated[ParallelConfig, arg(name="")] = field(default_factory=ParallelConfig)
    data: Annotated[DataOptions, arg(name="")] = field(default_factory=DataOptions)
    codec: Annotated[str | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Train a denoiser of the codes that the codec in DIR makes of the data: latent diffusion."""
    recipe: Literal["ncsn", "ncsnv2"] | None = None
    """A published choice of noise levels, prediction, loss and average for the data; what else is asked for holds."""
    resume: bool = False
    """Go on from the last checkpoint in DIR."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""

    def config(self) -> Config:
        """What the trainer is asked for."""
        start = StartConfig(**vars(self.start))
        if start.model is not None and Path(start.model).expanduser().is_dir():  # a run may be moved
            start = replace(start, model=str(Path(start.model).expanduser().resolve()))
        return Config(**{f.name: getattr(self, f.name) for f in fields(Config) if f.name != "start"}, start=start)


def run(options: Options) -> None:
    """Train, and say what to type next."""
    from ..training import ProcessGroup

    device = device_named(options.device)
    team = ProcessGroup.join(device)
    with team.guard():
        _run(options, team, device)


def _run(options: Options, team: ProcessGroup, device: str | None) -> None:
    from .. import models, training
    from ..adapters import loading
    from ..data import load
    from ..data.dataset import FEWEST_TO_MEASURE
    from ..data.hub import PREFIX
    from ..data.text_features import is_directory
    from ..denoisers import ContrastiveEncoder, Denoiser
    from ..report import Bar

    out = writable(options.out)
    at_least_one(steps=options.budget.steps)
    if options.budget.minutes is not None and not options.budget.minutes > 0:
        raise UserError(f"minutes must be a number > 0, got {options.budget.minutes}")
    if options.budget.steps is not None and options.budget.minutes is not None:
        raise UserError("give steps or minutes, not both")
    held = bool(training.checkpoints(out)) or any((out / name).exists() for name in ("config.json", "model_index.json"))
    if held and not options.resume:
        raise UserError(f"{out} already holds a run; go on with --resume, or choose another --out")
    config, read, base = options.config(), vars(options.data), None
    if options.start.model is not None:
        for name in ("codec", "recipe"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} is of new models; a pretrained one (--from) brings its own")
        training.check_start(config.start)
        base = loading.load(options.start.model, device=device)
        read = _as_told(base, read)
    elif options.data.size is not None:
        _check_memory(config, options.data)
    dataset = load(options.source, **read)
    if options.codec is not None:
        with Bar("encoding") as bar:
            dataset = models.encode(dataset, models.load(options.codec, device=device), progress=bar)
    if 1 < dataset.examples < FEW and base is None:
        warnings.warn(
            f"{dataset.info.name}: {len(dataset.train)} examples to train on; a network copies so few instead of "
            "learning what they have in common",
            stacklevel=2,
        )
    if options.recipe is not None and not options.resume:  # a run that is resumed has its own configuration
        config = training.recipe(options.recipe, dataset, config)
    with Bar("preparing") as bar:
        made = training.train(
            config,
            dataset,
            out,
            resume=options.resume,
            device=device,
            leave=abandon("langevin train"),
            base=base,
            progress=bar,
        )
    if team.first and isinstance(made, ContrastiveEncoder):
        more = f" --data {shlex.quote(options.source)}" if options.source.startswith(PREFIX) else ""
        if (words := options.data.text_encoder) is not None and not is_directory(words):
            more += f" --text-encoder {shlex.quote(words)}"
        print(f"Next:\n  langevin evaluate {shlex.quote(str(out))}{more}")
    if team.first and isinstance(made, Denoiser):
        here, samples = shlex.quote(str(out)), shlex.quote(str(out / "samples"))
        how, more = "", "" if dataset.info.tokens else f"\n  langevin evaluate {here}"
        if more and len(dataset.test) < FEWEST_TO_MEASURE:
            more = f"\n  langevin evaluate {here} --data MORE_OF_THE_SAME_KIND"
        if more and options.source.startswith(PREFIX):
            more += f" --data {shlex.quote(options.source)}"  # which is not fetched unless it is named
        if more and (encoder := options.data.text_encoder) is not None and not is_directory(encoder):
            more += f" --text-encoder {shlex.quote(encoder)}"
        if config.objective.times == "levels":
            how = f" --sampler annealed-langevin --steps {int(config.objective.times_options.get('count', 10)) + 1}"
        print(f"Next:\n  langevin sample {here} -n 64{how} --out {samples}{more}")


def _as_told(base: Any, read: dict[str, Any]) -> dict[str, Any]:
    """How data are read for a pretrained model: images of its size and its channels, where nothing else is said."""
    about = getattr(base, "output", None)
    if about is None or not about.is_image:
        return read
    channels, height, width = about.shape
    return {
        **read,
        "size": read["size"] if read["size"] is not None or height != width else height,
        "channels": channels if read["channels"] is None and channels in (1, 3) else read["channels"],
    }


def _check_memory(config: Config, data: DataOptions) -> None:
    """Refuse a size that the network has no memory for, before a picture is read at it.

    What else is wrong with the configuration is said once the data are known.
    """
    from ..data import DataInfo
    from ..training.resolve import check_memory

    # The spread of the data is not known yet, and takes no memory.
    config = replace(config, prediction=replace(config.prediction, sigma_data=config.prediction.sigma_data or 0.5))
    try:
        size = data.size or 1
        check_memory(config, DataInfo("pictures", (data.channels or 1, size, size)))
    except TooLarge:
        raise
    except UserError:
        pass
