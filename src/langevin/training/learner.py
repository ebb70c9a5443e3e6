"""One optimiser step: the part of training that is run a hundred thousand times."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import UserError
from ..denoisers import EvaluationCounter, NetworkDenoiser
from ..denoisers.conditions import KINDS, hide, rows_of
from ..distributions import Noise, Stream
from ..objectives import Objective, Player
from . import snapshots
from .config import EMAConfig, OptimiserConfig
from .distributed import ProcessGroup, spread, whole
from .ema import EMA
from .optimiser import Optimiser

LARGEST = 2.0**63
"""Norm of a gradient from which on a step is skipped: its square, which Adam keeps, would be infinite in float32."""

Batch = Mapping[str, Tensor]
"""Examples: ``x`` ``(B, *shape)``, and what belongs to them by name."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_LAUNCHED: dict[str | None, Precision] = {"bf16": "bfloat16", "fp16": "float16"}
"""The names ``accelerate launch --mixed_precision`` has for precisions; its default is no wish."""


def place_of(name: str) -> int:
    """The number of a condition; a mask goes with the picture it is of."""
    return list(KINDS).index("image" if name == "mask" else name)


def learning_rate(config: OptimiserConfig, step: int, progress: float) -> float:
    r"""The rate of step n = 1, 2, …: linear in n up to ``warmup``, then constant or :math:`\tfrac12 (1 + \cos π p)`.

    Args:
        config: resolved.
        step: n.
        progress: p in [0, 1], the share of the budget that is spent.
    """
    assert config.lr is not None
    assert config.warmup is not None
    ramp = min(1.0, step / config.warmup) if config.warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, progress))) if config.schedule == "cosine" else 1.0
    return config.lr * ramp * fall


def precision(asked: Precision, device: torch.device, shape: tuple[int, ...]) -> Precision:
    """``float32``, ``bfloat16`` or ``float16``: what was asked for, or for ``auto`` what is faster here.

    bfloat16 autocast pays on images, where convolutions and matrix products outweigh the casts around them, if the
    machine multiplies bfloat16 natively (a step on 8×8 digits: 114 ms for 221). It depends on the machine and the data
    alone, never on a timing.
    """
    if asked != "auto":
        return asked
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION")  # accelerate launch --mixed_precision bf16
    if launched in _LAUNCHED:
        return _LAUNCHED[launched]
    return "bfloat16" if len(shape) == 3 and _native_bfloat16(device) else "float32"


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(check() for check in checks if check is not None)
    return False


class Scale:
    """The number a loss is multiplied by, so that its gradients in float16 are not too small (arXiv:1710.03740 §3.2).

    It is halved after a step whose gradient was not finite and doubled after 2000 that were, as that of
    ``torch.amp.GradScaler`` is; every process of a team makes the same of it. A power of two: float32 loses nothing.

    Attributes:
        value: 1 where the arithmetic is not float16, and then it stays.
        good: finite steps since it last changed.
    """

    FIRST, EVERY = 2.0**16, 2000

    def __init__(self, used: bool) -> None:
        self.used, self.value, self.good = used, self.FIRST if used else 1.0, 0

    def after(self, finite: bool) -> None:
        """Take in the outcome of a step."""
        if not self.used:
            return
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.value = max(self.value / 2, 2.0**-24)
        elif self.good == self.EVERY:
            self.value, self.good = min(self.value * 2, 2.0**24), 0

    def state(self) -> dict[str, float]:
        """As plain JSON."""
        return {"value": self.value, "good": self.good} if self.used else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of ``state``."""
        if state.keys() != self.state().keys():
            raise UserError(f"the scale of the loss must hold {sorted(self.state())}, got {sorted(state)}")
        if not self.used:
            return
        value, good = state["value"], state["good"]
        power = isinstance(value, float) and 0 < value < math.inf and math.frexp(value)[0] == 0.5
        if not power or type(good) is not int or not 0 <= good < self.EVERY:
            raise UserError(f"the scale of the loss must be a power of two and a number of steps, got {dict(state)}")
        self.value, self.good = value, good


class Turn:
    """A player with its optimiser.

    Attributes:
        taken: steps it has taken.
    """

    def __init__(self, name: str, player: Player, optimiser: OptimiserConfig) -> None:
        self.name, self.player, self.taken = name, player, 0
        self.optimiser = Optimiser(player.module, optimiser, player.betas)
        self.parameters = self.optimiser.parameters


class Learner:
    """A network that learns, with the optimisers of its players and its moving average.

    Attributes:
        denoiser: of the network that learns.
        average: of the moving average of its weights, in evaluation mode.
        tracked: averages of the lengths that snapshots store, by width, if the run stores any; ``ema`` may be one.
        objective: what is made small.

    Args:
        denoiser: its network is trained in place.
        objective: gives the losses.
        optimiser: its resolved settings.
        ema: settings of the moving average.
        batch: samples a step, over all processes.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        team: the processes that share each batch; this one alone, if not given.
        parts: micro-batches that this process's rows are cut into, whose gradients are added up.
        sharded: spread weights, gradients and the optimiser over the team.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser,
        objective: Objective,
        *,
        optimiser: OptimiserConfig,
        ema: EMAConfig,
        batch: int,
        precision: str = "float32",
        team: ProcessGroup | None = None,
        parts: int = 1,
        sharded: bool = False,
    ) -> None:
        self.objective, self.batch, self.parts = objective, batch, parts
        self.device = denoiser.device
        self.team = ProcessGroup(0, 1, self.device) if team is None else team
        self.network = denoiser.network.train()
        self.ema = EMA(self.network, batch, ema.width if ema.kind == "power" else None, ema.half_life)
        self.average = objective.prepare(replace(denoiser, network=self.ema.network, counter=EvaluationCounter()))
        same = lambda width: ema.kind == "power" and ema.width == width
        self.tracked: dict[float, EMA] = {}
        if ema.snapshots:
            self.tracked = {w: self.ema if same(w) else EMA(self.network, batch, w) for w in snapshots.WIDTHS}
        # What is asked for more than its output is not wrapped: its gradients are averaged by hand.
        wrapped = self.team.wrap(self.network, sharded) if isinstance(denoiser, NetworkDenoiser) else None
        self._by_hand = wrapped is None
        self.denoiser = denoiser if wrapped is None else replace(denoiser, network=wrapped)
        for average in (self.ema, *self.beside.values()) if sharded and wrapped is not None else ():
            average.shard(self.network)
            if not self.team.first:  # the others use their whole copy at the end alone
                average.network.to("cpu")
        self.named = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        self.frozen = {name for name, p in self.network.named_parameters() if not p.requires_grad}
        self.clip = math.inf if optimiser.clip is None else optimiser.clip
        self.turns = [Turn(name, player, optimiser) for name, player in objective.players(denoiser).items()]
        self._half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
        self.scale = Scale(precision == "float16")
        self._generators: list[torch.Generator] = []
        self._dropouts = [m for m in self.network.modules() if isinstance(m, nn.Dropout) and m.p > 0]
        for module in self._dropouts:
            module.register_forward_hook(self._drop)

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """The precision the network computes in."""
        return torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None)

    def step(
        self, batch: Batch, noise: Noise, *, number: int, rate: float, dropout: Mapping[str, float] | None = None
    ) -> tuple[Tensor, float]:
        """Step n = ``number``: losses, gradients, and unless they are not finite, new weights and a new average.

        Args:
            batch: this process's rows: ``x``, and conditions by name.
            noise: of these samples.
            number: n = 1, 2, …
            rate: learning rate.
            dropout: share of each condition to hide, by name; which ones is decided by the noise.

        Returns:
            The losses ``(B,)`` of these rows and the mean loss of the whole batch, that of the first player in turn;
            NaN if it or a gradient was not finite on any process. A player whose gradient is not finite changes nothing
            on any process, and the average is not moved.
        """
        due = [turn for turn in self.turns if number % turn.player.every == 0] or self.turns[:1]
        results = [self._turn(turn, batch, noise, rate, dropout or {}) for turn in due]
        finite = all(math.isfinite(mean) for _, mean in results)
        if finite:
            for average in (self.ema, *self.beside.values()):
                average.update(self.network, number)
        self.scale.after(finite)
        losses, mean = results[0]
        return losses, mean if finite else math.nan

    def _turn(
        self, turn: Turn, batch: Batch, noise: Noise, rate: float, dropout: Mapping[str, float]
    ) -> tuple[Tensor, float]:
        """A player's step: its losses, and their mean; NaN if that or a gradient is not finite, and nothing changed."""
        for other in self.turns:
            for parameter in other.parameters:
                parameter.requires_grad_(other is turn)
        losses = []
        for part in range(self.parts):
            rows = slice(part * len(batch["x"]) // self.parts, (part + 1) * len(batch["x"]) // self.parts)
            with self.team.apart(self.denoiser.network, part + 1 < self.parts):
                losses.append(self._backward(turn, rows_of(batch, rows), noise.rows(rows), dropout))
        gradients = [p.grad for p in turn.parameters if p.grad is not None]
        if self._by_hand:
            self.team.average(gradients)
        # A team takes the mean over its processes, each of which gave the sum over its rows.
        if (factor := self.team.size / self.scale.value) != 1:
            torch._foreach_mul_(gradients, factor)
        norm = float(whole(nn.utils.clip_grad_norm_(turn.parameters, self.clip)))
        (mean,) = self.team.sum(float(torch.cat(losses).sum()) / self.batch)
        finite = math.isfinite(mean) and norm < LARGEST
        if finite:
            turn.optimiser.step(rate)
            turn.taken += 1
        turn.optimiser.zero_grad()
        return torch.cat(losses), mean if finite else math.nan

    def warm(self, batch: Batch, noise: Noise) -> None:
        """A backward pass that teaches nothing, if several processes average their gradients.

        DDP packs gradients anew after its first, in the order in which they came, and more than two processes add up a
        number in an order that depends on its place in the pack: without this the first step of a run that is resumed
        would differ in its last bits from the same step of one that was not.
        """
        if isinstance(self.denoiser.network, nn.parallel.DistributedDataParallel):
            rows = slice(0, len(batch["x"]) // self.parts)
            self._backward(self.turns[0], rows_of(batch, rows), noise.rows(rows), {})
            self.turns[0].optimiser.zero_grad()

    def _taken(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """x_0 and the conditions that the network takes, on its device."""
        names = (*self.average.conditions(), *self.objective.reads)
        held = {name: v.to(self.device, non_blocking=True) for name, v in batch.items() if name in ("x", *names)}
        return held.pop("x"), held

    def _backward(self, turn: Turn, batch: Batch, noise: Noise, dropout: Mapping[str, float]) -> Tensor:
        """A player's losses of a micro-batch, whose gradients are added to what is there."""
        noise = noise.to(self.device)
        x0, condition = self._taken(batch)
        for name, share in dropout.items():
            if name in condition and share:
                hidden = noise.fold_in(Stream.CONDITIONS + place_of(name)).uniform(()) < share
                condition[name] = hide(condition[name], hidden)
        if self._dropouts:
            words = noise.fold_in(Stream.NETWORK).uniform((2,)).mul(2.0**32).long().tolist()
            self._generators = [torch.Generator(self.device).manual_seed(high << 32 | low) for high, low in words]
        with self.arithmetic():
            losses = turn.player.loss(self.denoiser, x0, condition or None, noise)
        (losses.sum() * (self.scale.value / self.batch)).backward()
        return losses.detach()

    def _drop(self, module: nn.Dropout, given: tuple[Tensor], made: Tensor) -> Tensor:
        """Dropout by masks of each sample's own numbers, whatever batch it stands in."""
        (x,) = given
        if not module.training or not self._generators:
            return made
        keep, turns = 1 - module.p, self._generators
        masks = [torch.empty_like(row).bernoulli_(keep, generator=turns[i % len(turns)]) for i, row in enumerate(x)]
        return x * torch.stack(masks).div_(keep)

    @torch.no_grad()
    def loss(self, batch: Batch, noise: Noise) -> Tensor:
        """The losses ``(B,)`` of the moving average, under the steady form of the objective."""
        x0, condition = self._taken(batch)
        with self.arithmetic():
            return self.objective.for_validation()(self.average, x0, condition or None, noise.to(self.device))

    @torch.no_grad()
    def accuracy(self, batch: Batch, noise: Noise) -> Tensor | None:
        """What share of each sample's decisions the moving average has right, ``(B,)``; None if it decides nothing."""
        x0, condition = self._taken(batch)
        with self.arithmetic():
            return self.objective.for_validation().accuracy(self.average, x0, condition or None, noise.to(self.device))

    @property
    def beside(self) -> dict[str, EMA]:
        """The averages that are tracked beside ``ema``, by the stem of their files."""
        return {snapshots.stem(width): average for width, average in self.tracked.items() if average is not self.ema}

    def averages(self) -> dict[float, dict[str, Tensor]]:
        """The tracked averages of the weights that learn and that the model keeps: what a snapshot stores, by width.

        Whole tensors on rank 0; every process of a team that shares them must call.
        """
        for average in self.tracked.values():
            average.gather()
        made = self.objective.finish(self.average).network  # a discriminator is no part of it
        names = [name for name, _ in made.named_parameters() if name not in self.frozen]
        named = {width: dict(average.network.named_parameters()) for width, average in self.tracked.items()}
        return {width: {name: own[name].detach() for name in names} for width, own in named.items()}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything that is kept of the ``model``, its averages (``ema``, …) and the ``optimizer``, by name.

        Whole tensors on rank 0; every process of a team that shares them must call. Weights of a pretrained model that
        do not learn are not kept: they are where they came from.
        """
        averages = {"ema": self.ema, **self.beside}
        for average in averages.values():
            average.gather()
        model = {name: whole(v) for name, v in self.kept(self.network).items()}
        kept = {name: self.kept(average.network) for name, average in averages.items()}
        return {"model": model, **kept, "optimizer": self.optimiser_state()}

    def kept(self, network: nn.Module) -> dict[str, Tensor]:
        """The state of the network, or of its average, but for the weights that do not learn."""
        return {name: v for name, v in network.state_dict().items() if name not in self.frozen}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the weights of ``tensors()["model"]``."""
        for name, mine in self.kept(self.network).items():
            mine.copy_(spread(tensors[name].to(mine.device), mine))

    def optimiser_state(self) -> dict[str, Tensor]:
        """The optimiser's tensors by parameter: ``NAME/exp_avg``, ``NAME/exp_avg_sq``, ``NAME/step``, or
        ``NAME/momentum_buffer``.
        """
        state = {p: turn.optimiser.state(p) for turn in self.turns for p in turn.parameters}
        # In one order on every process of a team: putting a spread tensor together is a meeting of all of them.
        return {
            f"{name}/{key}": whole(v) for name, p in self.named.items() for key, v in sorted(state.get(p, {}).items())
        }

    def restore_optimiser(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of ``optimiser_state``; before the first step there is none."""
        optimiser = {p: turn.optimiser for turn in self.turns for p in turn.parameters}
        for name, parameter in self.named.items():
            mine = {key.rpartition("/")[2]: v for key, v in tensors.items() if key.rpartition("/")[0] == name}
            optimiser[parameter].restore(parameter, mine)
