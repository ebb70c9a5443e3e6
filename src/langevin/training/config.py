"""What can be asked of a training run: nested dataclasses, fit for a command line.

Nothing here needs torch: `langevin train --help` is printed from these classes alone. ``resolve`` chooses and checks.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ..storage.untrusted import settings

Options = Annotated[dict[str, str], dict[str, Any]]
"""Settings by name: text on a command line, any JSON in a file."""


@dataclass(frozen=True)
class NetworkConfig:
    """The network."""

    name: str | None = None
    """Backbone: unet, unet2d (for diffusers), dit, mlp or transformer, edm-unet or lucidrains (of other programs); vae,
    an autoencoder; coupling, a normalizing flow; encoder, of image classifiers; dual-encoder, of pictures and captions;
    if not given, one that suits the data."""
    options: Options = field(default_factory=dict)
    """Its settings as KEY VALUE pairs, a value as JSON: width 96 multipliers [1,2,2]."""


@dataclass(frozen=True)
class ProcessConfig:
    """How data become noise."""

    name: str | None = None
    """Process: edm, vp, sub-vp, ve, flow, cosine, ddpm, learned or phase-space for real data, absorbing, uniform,
    discretised-gaussian or neighbours for tokens; if not given, edm for real data and absorbing for tokens."""
    options: Options = field(default_factory=dict)
    """Its settings as KEY VALUE pairs: sigma_max 160."""


@dataclass(frozen=True)
class PredictionConfig:
    """What the network is asked for."""

    name: str | None = None
    """Prediction: eps, x0, v, flow, score or edm for real data, levels for data with levels, eps, score, mixed or edm
    for phase space, evidence, logits or ordinal for tokens; if not given, flow for the flow process, edm for every
    other, and evidence for tokens."""
    time: str | None = None
    """How the network is told the time: log_sigma (log(sigma/alpha)/4), index or nearest-index (of a table), time
    (1000 t), t, sigma, log_snr or none; if not given, time for tokens, else log_sigma."""
    sigma_data: float | None = None
    """RMS of the data a coordinate, in units of the data; measured if not given."""
    scale_input: bool = True
    """Whether the input is divided by its standard deviation."""
    variance: str | None = None
    """A variance the network learns too: range (between those of DDPM) or posterior; objectives hybrid and vlb teach
    it."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss."""

    name: str | None = None
    """Weight of the error at each time: simple (the network's own target), x0, dsm, likelihood, edm or min-snr;
    scheduled-sampling, at states that the model has made; another way of score matching: sliced, sliced-vr, implicit or
    explicit; vlb or hybrid, which learn a variance; vdm for the process learned; d3pm for tokens; elbo for vae; gan, a
    generator and a discriminator; cross-entropy, a classifier of noisy data; contrastive, an encoder of pictures and
    captions (CLIP); maximum-likelihood for coupling. If not given: simple; likelihood for the prediction levels; d3pm
    for tokens; elbo for vae."""
    options: Options = field(default_factory=dict)
    """Its settings as KEY VALUE pairs: gamma 5; of gan: loss least-squares, r1 0.5, diffuse vp, every 2; of
    contrastive: clean 0.5; of scheduled-sampling: probability 0.5 ramp 1000 reach 2 steps 1 eta 0."""
    times: str | None = None
    """Law of the times: uniform, log-normal, table, importance, levels or likelihood-importance; if not given:
    likelihood-importance for likelihood and levels, uniform for vdm and tokens, log-normal for the prediction edm, else
    uniform."""
    times_options: Options = field(default_factory=dict)
    """Its settings as KEY VALUE pairs: mean -1.2 std 1.2."""
    stratified: bool = True
    """Whether the times of a batch are spread evenly over their law."""
    dropout: dict[str, float] = field(default_factory=dict)
    """Share of training samples that a condition is hidden from, in [0, 1], by its name: label 0.2 image 0; 0.1 where
    it is not given, which is what classifier-free guidance needs."""


@dataclass(frozen=True)
class OptimiserConfig:
    """What moves the weights."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for the weights of linear and convolutional layers and adamw for all others (docs/models.md)."""
    lr: float | None = None
    """Learning rate after warm-up, > 0; if not given, one that suits the data."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the running mean of the gradient and of its square, in [0, 1)."""
    weight_decay: float = 0.0
    """Decoupled weight decay, >= 0."""
    warmup: int | None = None
    """Steps over which the learning rate grows from 0; if not given, a number that suits the data."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """After warm-up: constant, or a half cosine to 0 at the end of the budget."""
    clip: float | None = 1.0
    """Largest norm of the gradient, > 0; None never clips."""


@dataclass(frozen=True)
class EMAConfig:
    """The moving average of the weights, which is what is saved as the model."""

    kind: Literal["power", "constant"] = "power"
    """power: its memory grows with training (arXiv:2312.02696); constant: a fixed half-life."""
    width: float = 0.1
    """power: spread of its memory over the length of training, in (0, 0.28]."""
    half_life: float = 500_000.0
    """constant: half-life in images, > 0."""
    snapshots: int = 0
    """Snapshots over the run, to make an EMA of any length of afterwards (docs/ema.md): 8 to 32, or 0 for none."""
    snapshot_precision: Literal["float32", "float16"] = "float32"
    """What stored averages are rounded to."""


@dataclass(frozen=True)
class StartConfig:
    """A pretrained model that a run goes on from."""

    model: str | None = None
    """Directory of a model or of a pipeline of diffusers, or owner/name or owner/name@revision of the Hub."""
    lora: int | None = None
    """Rank of a LoRA, low-rank matrices that are added to the weights and learn in their place; if not given, all
    weights learn."""
    layers: tuple[str, ...] = ()
    """Endings of the names of the layers that the LoRA is for, or all; if not given, those of attention, or all where
    these are few."""
    train_text_encoder: bool = False
    """Whether the model's own text encoders learn too; they stay as they are if not."""
    caption: str | None = None
    """Caption of every example that has none."""
    prior: int = 0
    """Samples of the pretrained model that are learned along with the data, so that it forgets less (prior
    preservation, arXiv:2208.12242)."""
    prior_captions: str | None = None
    """Caption of these samples, or a text file with one a line, taken in turn; if not given, they have none. Of a model
    that is told classes, they are in turn of its classes that the data do not show, or of all."""
    weights: str | None = None
    """SHA-256 of the pretrained model's weights; it is found out."""


@dataclass(frozen=True)
class BudgetConfig:
    """How long; steps or minutes, not both. If neither is given, a number of steps that suits the data; of images
    above 16 pixels it also follows the speed measured in the first steps, and is kept from then on."""

    steps: int | None = None
    """Optimiser steps; if neither is given, what suits the data: for images above 16 pixels as many as are useful
    within 50 minutes at 32 pixels, 2 h 45 min at 64 and 8 hours from 128 on (longer above 1,000 images), told after the
    first steps."""
    minutes: float | None = None
    """Minutes on the clock, all included."""


@dataclass(frozen=True)
class ParallelConfig:
    """How the work of a step is divided: what is learned is the same up to the order of float additions."""

    accumulate: int = 1
    """Parts that a process cuts its share of each batch into, one in memory at a time; their gradients are added up."""
    workers: int = 0
    """Threads that read batches ahead. Data are in memory, and a batch of 64 images of 64x64 takes 2 ms: worth it where
    that is a good part of a step."""
    shard_weights: bool = False
    """Spread weights, gradients and optimiser over the processes (FSDP) instead of keeping all on each (DDP)."""


@dataclass(frozen=True)
class OutputConfig:
    """What is written, and how often. A number of steps of 0 means never."""

    log_every: int = 50
    """Steps from one row of metrics.csv to the next."""
    validate_every: int | None = None
    """Steps from one loss on held-out data to the next; if not given, a number that suits the data."""
    validate_on: int = 1024
    """Pairs of a held-out example and its noise that this loss is of, the same every time; at most 64 an example."""
    sample_every: int | None = None
    """Steps from one picture of samples to the next; if not given, a number that suits the data."""
    checkpoint_every: int | None = None
    """Steps from one checkpoint to the next; if not given, a number that suits the data."""
    keep: int = 2
    """Checkpoints kept, at least 1."""
    tensorboard: bool = False
    """Write TensorBoard logs too (pip install "langevin[log]")."""
    wandb: bool = False
    """Log to Weights & Biases too (pip install "langevin[log]"); WANDB_MODE=offline sends nothing."""
    wandb_project: str | None = None
    """Project of Weights & Biases; if not given, WANDB_PROJECT of the environment, else langevin."""


@dataclass(frozen=True)
class Config:
    """A training run.

    What is not given is chosen for the data by ``resolve_config``: a run's checkpoint holds the resolved configuration.
    """

    seed: int = 0
    """Seed of the weights, of the order of the data and of all noise."""
    batch: int | None = None
    """Examples a step, over all processes; if not given, a number that suits the data."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the network; auto is bfloat16 where the machine gains from it. Weights and losses stay float32;
    under float16 the loss is scaled."""
    start: StartConfig = field(default_factory=StartConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    prediction: PredictionConfig = field(default_factory=PredictionConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    work: ParallelConfig = field(default_factory=ParallelConfig)

    @property
    def pretrained(self) -> bool:
        """Whether the run goes on from a pretrained model, whose checksum is known then."""
        return self.start.weights is not None

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """The inverse of ``to_dict``.

        Raises:
            UserError: for a key that is not known (with the nearest), or a value of another type.
        """
        return cls(**settings(cls, values, "config"))
