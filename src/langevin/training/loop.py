"""The one trainer: a run from its first line to its last.

It is one file, of more than 400 lines, so that what happens in a run can be read in the order in which it happens.
"""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._duration import duration
from .._errors import UserError, check_instance, check_path
from ..data import Dataset
from ..denoisers import NetworkDenoiser
from ..distributions import Noise, Stream
from ..models import directory
from ..models.custom import CustomFormat
from ..models.low_rank import merged
from ..models.parts import Latent
from ..models.timing import CLOCK, SECONDS
from ..objectives import ImplicitScoreMatching, SlicedScoreMatching
from ..processes import Learning
from ..storage import files
from . import budget as budgets
from . import checkpoint, loggers, pictures, snapshots
from .checkpoint import Progress
from .config import Config
from .distributed import ProcessGroup
from .interrupts import Interrupts
from .learner import Learner, learning_rate, precision
from .loader import InOrder, Loader, Order
from .logging import SKIPPED, Bar, Metrics, MetricsRow, forecast, opening, skipped
from .pretrained import base_of, prepare, with_checksum, with_prior
from .resolve import build
from .resume import plan

NOISES = 64
"""Noises at which one held-out example is asked for at most."""

PATIENCE = 20
"""Steps in a row whose gradient is not finite, after which a run is given up."""


def train(
    config: Config,
    dataset: Dataset,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: torch.device | str | None = None,
    quiet: bool = False,
    leave: Callable[[str], None] | None = None,
    base: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Train a denoiser and leave it in a directory that ``load`` reads.

    ``out`` gets ``config.json``, ``model.safetensors`` (the moving average), ``data.safetensors``, ``metrics.csv``,
    ``pictures/``, ``checkpoints/``, ``clock.json`` and, with ``ema.snapshots``, ``averages/``. Everything drawn is a
    function of the seed, the step and the place in the batch, so a run that was interrupted after any step and resumed
    ends with the same files, byte for byte, as one that was not, on the same platform and versions; only ``clock.json``
    and the logs of TensorBoard and Weights & Biases tell the time. (A budget in minutes is a wish about the clock, and
    so is what it trains.)

    Under ``torchrun`` or ``accelerate launch`` the processes share each batch, and the result is the same up to the
    order of float additions: each row keeps its noise, its time, its dropout and its weight, and the sums of gradients
    are split. So are they by ``work.accumulate``. A run may be resumed on another number of processes, or divided
    otherwise: it says so in a line, and goes on with the same batches; bits are equal for the same division alone. If a
    process fails, one of them says why, and all stop; an interrupt of the launcher leaves a checkpoint.

    Args:
        config: what is asked; what it leaves open is chosen for the data.
        dataset: its training split is learned, its held-out split is measured on.
        out: a directory, made if it does not exist.
        resume: go on from the last checkpoint in ``out``. Its configuration holds; the budget and the output may be
            asked for anew, anything else that is asked for must agree.
        device: a CUDA device if there is one, else the CPU, if not given.
        quiet: say nothing.
        leave: for programs that do nothing else. After a second Ctrl-C Python regains control only when the computation
            under way returns; if that takes more than a second, this is called in another thread with the sentence that
            says how to go on, and may end the process (``os._exit``). If not given, the computation is waited for.
        base: a pretrained model, as ``langevin.load`` gives it, to go on from: ``config.start`` says what of it learns.
            A copy learns; ``dataset`` is the images, also where the model is one of codes.
        progress: called as ``progress(done, total)`` while the data are encoded for ``base``, and its samples drawn.

    Returns:
        The denoiser of the averaged weights, as ``load(out)`` gives it; for a codec, an ``Autoencoder``.

    Raises:
        UserError: for a request that cannot be met, before any work, one while another process writes in ``out`` among
            them; when the disk is full, or the loss was not finite for 20 steps in a row. The last checkpoint stands,
            and the sentence says how to go on.
        KeyboardInterrupt: after Ctrl-C (or SIGTERM), with a checkpoint of the last step written and a sentence that
            says how to go on. A second Ctrl-C does not wait for the end of the step, only for a checkpoint that is
            being written, unless a launcher started the processes: it passes on a signal that they have had already,
            and ends them itself if they take too long.
        SystemExit: in the processes of a team but the one that raises one of the above.
    """
    check_instance("config", config, Config, "a langevin.training.Config")
    check_instance("dataset", dataset, Dataset, "a dataset, as langevin.data.load(…) gives it")
    check_path("out", out)
    team = ProcessGroup.join(device)
    with team.guard():
        return _train(config, dataset, Path(out).expanduser(), team, resume, quiet, leave, base, progress)


def _train(
    config: Config,
    dataset: Dataset,
    folder: Path,
    team: ProcessGroup,
    resume: bool,
    quiet: bool,
    leave: Callable[[str], None] | None,
    pretrained: Any,
    waiting: Callable[[int, int], None] | None,
) -> Any:
    used = [team.device] if team.device.type == "cuda" else []
    locked = files.lock(folder) if team.first else nullcontext()
    with locked, torch.random.fork_rng(used):
        asked, base = config, None
        if pretrained is not None:
            base = base_of(pretrained)
            dataset = prepare(dataset, pretrained, config.start, waiting if team.first else None)
            config = replace(config, start=with_checksum(config.start, base))
        config, last = plan(config, dataset.info, folder, resume, base)
        batch = config.batch
        assert batch is not None
        if batch < team.size * config.work.accumulate:
            parts = f"{team.size} processes, accumulate {config.work.accumulate}"
            raise UserError(f"batch must have a row for each part of it ({parts}), got {batch}")
        sharded = config.work.shard_weights
        if sharded and team.size == 1 and last is None:
            raise UserError("shard-weights spreads weights over several processes, and this run has one; use torchrun")
        loggers.check(config.output)
        if pretrained is not None:
            dataset = with_prior(dataset, pretrained, config.start, folder, config.seed, waiting)
        torch.manual_seed(config.seed)
        try:
            denoiser, objective = build(config, dataset.info, base)
        except UserError as error:
            raise (error if last is None else UserError(f"{last / checkpoint.STATE}: {error}")) from None
        if objective.whole_batch and team.size * config.work.accumulate > 1:
            raise UserError(
                f"objective {config.objective.name!r} compares the examples of a batch with each other, so that it is "
                f"not divided; got {team.size} process{'es' * (team.size > 1)}, accumulate {config.work.accumulate}"
            )
        config = replace(config, precision=precision(config.precision, team.device, denoiser.shape))
        denoiser.network.to(team.device)
        if isinstance(denoiser, NetworkDenoiser):
            denoiser.check_memory(-(-batch // (team.size * config.work.accumulate)), learning=True)
        if dataset.codec is not None and not isinstance(denoiser, NetworkDenoiser):
            raise UserError(f"a codec is for denoisers of its codes, got a {denoiser.kind} to train; leave out --codec")
        if sharded and not isinstance(denoiser, NetworkDenoiser):
            raise UserError(f"shard-weights spreads the network of a denoiser, got {type(denoiser).__name__}")
        if sharded and isinstance(denoiser.process, Learning):
            raise UserError("shard-weights cannot spread a process that learns: its weights work beside the network")
        if sharded and (
            getattr(denoiser.network, "energy", False)
            or isinstance(objective, (ImplicitScoreMatching, SlicedScoreMatching))
        ):
            raise UserError("shard-weights cannot spread a network whose loss takes a gradient itself (energy, sliced)")
        if sharded and config.optimiser.name == "muon":
            raise UserError("shard-weights cannot spread matrices that optimiser.name muon needs whole; take adamw")
        if config.ema.snapshots:
            _check_snapshots(denoiser)
        learner = Learner(
            denoiser,
            objective,
            optimiser=config.optimiser,
            ema=config.ema,
            batch=batch,
            precision=config.precision,
            team=team,
            parts=config.work.accumulate,
            sharded=sharded,
        )
        progress = Progress() if last is None else checkpoint.restore(last, learner)
        free = last is None and asked.budget == Config().budget
        return Run(config, dataset, folder, team, learner, progress, quiet, leave, free).go()


def _check_snapshots(model: Any) -> None:
    """Refuse to store averages of what is not made again by weights alone.

    Raises:
        UserError: for a process that learns, a LoRA, and a pipeline of diffusers.
    """
    where = "ema.snapshots stores averages of the weights of a network of this library"
    if isinstance(getattr(model, "process", None), Learning):
        raise UserError(f"{where}, and this run learns its process too; leave it out")
    if isinstance(model.network, CustomFormat):
        raise UserError(f"{where}, and this run trains a LoRA or a pipeline of diffusers; leave it out")


class _Stop(Exception):
    """A signal was seen at the end of a step."""


@dataclass
class Run:
    """A run under way."""

    config: Config
    dataset: Dataset
    out: Path
    team: ProcessGroup
    learner: Learner
    progress: Progress
    quiet: bool
    leave: Callable[[str], None] | None = None
    free: bool = False
    """Whether the budget was left to the run."""
    right: float | None = None
    """The share of decisions about held-out data that was right when last looked, of what decides something."""

    def go(self) -> Any:
        budget, first = self.config.budget, self.team.first
        size, work = int(self.config.batch or 0), self.config.work
        seed, train, stream = self.config.seed, self.dataset.train, self.dataset.stream
        self.rows = self.team.share(size)
        if stream is None:
            self.batches = Loader(train, Order(len(train), seed), size, self.rows, seed, work.workers)
        else:
            self.batches = Loader(stream, InOrder(), size, self.rows, seed, work.workers)
        self.saved: Path | None = next(iter(checkpoint.found(self.out)[::-1]), None)
        self.busy, self.images = 0.0, 0
        self.marks: list[float] | None = []  # when steps ended, until the speed is known
        self.bar = Bar(budget.steps, budget.minutes, first and not self.quiet)
        self.metrics: Metrics | None = None
        # A launcher passes on the Ctrl-C of a terminal that its processes have had themselves.
        launched = self.team.size > 1 or "LOCAL_RANK" in os.environ
        self.signals = Interrupts(launched, self._acknowledge, self._abandon)
        self._compare()
        self.stored = self._snapshots()
        try:
            if first:
                snapshots.remove_after(self.out, self.progress.step)  # of steps that a killed run took, and forgot
                told = loggers.opened(self.out, self.progress.step, self.config.output, self.quiet)
                self.metrics = Metrics(self.out, self.progress.rows, told)
                self.metrics.settings(self.config)
            with self.signals.watch():
                self._open()
                self._before()
                self._loop()
                self._finish()
        except (_Stop, KeyboardInterrupt):
            raise KeyboardInterrupt(self._stopped()) from None
        except OSError as error:
            raise UserError(f"stopped at step {self.progress.step}: {error}; {self._resume()}") from error
        finally:
            self.batches.close()
            self.bar.close()
            if self.metrics is not None:
                self.metrics.close()
        model = merged(self._model())
        model.network.to(self.team.device)
        return model.counted()

    def _stopped(self) -> str:
        return f"stopped at step {self.progress.step}; {self._resume()}"

    def _acknowledge(self) -> None:
        """Say that a signal was heard, while the step goes on."""
        if not self.team.first:
            return
        ending = "finishing this step; the checkpoint is written then"
        if self.signals.patient:
            return self.bar.say(ending)
        kept = f"the last checkpoint of step {_step_of(self.saved)} is kept" if self.saved else "no checkpoint is kept"
        self.bar.say(f"{ending} (Ctrl-C again leaves now, {kept})")

    def _abandon(self) -> None:
        """A second signal, and the main thread is in a computation that does not return."""
        if self.leave is None:
            return self.bar.say("stopping as soon as the computation under way returns")
        self.bar.close()  # it hides the cursor
        self.leave(self._stopped())

    def _compare(self) -> None:
        """Say if the run is divided otherwise than the part of it that is there."""
        work, size = self.config.work, self.team.size
        spread = ", weights spread" * (work.shard_weights and size > 1)
        now = f"{size} process{'es' * (size > 1)}, accumulate {work.accumulate}{spread}"
        if self.progress.step and self.progress.division != now:
            told = f"before: {self.progress.division}; now: {now}"
            self.bar.say(f"divided anew ({told}): the same batches and noise, gradients summed in another order")
        self.progress.division = now

    def _loop(self) -> None:
        progress = self.progress
        clock = progress.clock
        begun = time.monotonic() - clock.seconds
        if self._spent() < 1:
            noise = self._noise(int(self.config.batch or 0), 0)
            self.learner.warm(self.batches[progress.step + 1], noise.rows(self.rows))
        while self._spent() < 1:
            losses, mean = self._step()
            # The processes agree on the time and on when to stop; steps and learning rates hang on both.
            stop, seconds = self.team.sum(self.signals.seen, (time.monotonic() - begun) / self.team.size)
            clock.seconds = max(clock.seconds, seconds)
            self._count(losses, mean)
            self._measure(seconds)
            step = progress.step
            last = self._spent() >= 1
            due = lambda every, step=step: bool(every) and step % every == 0
            out = self.config.output
            validate = out.validate_every != 0 and (due(out.validate_every) or last)
            if due(out.log_every) or validate or last:
                self._row(validate)
            picture = out.sample_every != 0 and (due(out.sample_every) or last)
            if picture:
                self._picture()
            if self.stored < self._snapshots():
                self._snapshot()
            if due(out.checkpoint_every):
                self._checkpoint()
            if (validate or picture or due(out.checkpoint_every)) and not stop:
                (stop,) = self.team.sum(self.signals.seen)  # these take a while: a signal may have come meanwhile
            if stop and not last:
                if not due(out.checkpoint_every):
                    self._checkpoint()
                self.team.sum(0.0)  # nobody leaves before the checkpoint is written: a launcher would end the others
                raise _Stop
            if self.team.first:
                self.bar.step(step, clock.seconds, mean, self.speed)

    def _spent(self) -> float:
        """The share of the budget that is spent: none of one that is not chosen yet."""
        budget, progress = self.config.budget, self.progress
        if budget.steps is not None:
            return progress.step / budget.steps
        return 0.0 if budget.minutes is None else progress.clock.seconds / (60 * budget.minutes)

    def _snapshots(self) -> int:
        """How many of the run's snapshots are due by now: spread evenly over the budget, the last at its end."""
        count, budget = self.config.ema.snapshots, self.config.budget
        if budget.steps is not None:
            return count * self.progress.step // budget.steps  # in integers: a resumed run takes them at the same steps
        return int(count * min(1.0, self._spent()))

    def _open(self) -> None:
        """Say what will be trained, on what."""
        if self._spent() >= 1:
            return
        for line in opening(self.dataset, self.learner.network, self.config, self.team.device, self.team.size):
            self.bar.say(line)
        if self.dataset.skipped and self.team.first:
            path, count = self.out / SKIPPED, len(self.dataset.skipped)
            files.replace(path, skipped(self.dataset))
            self.bar.say(f"{count} file{'s were' if count > 1 else ' was'} skipped: {path} has the reason for each")
        if self.progress.step:
            spent = duration(self.progress.clock.seconds)
            self.bar.say(f"going on after step {self.progress.step}, {spent} of training")

    def _before(self) -> None:
        """Draw what a pretrained model makes, from the noises of every later picture."""
        if self.config.pretrained and not self.progress.step and self.config.output.sample_every != 0:
            self._picture()

    def _measure(self, seconds: float) -> None:
        """Choose what was left to the speed of the first steps, once it is known, and say how long all will take.

        Every process chooses the same: ``seconds`` are those of the whole team. What is chosen is the run's from then
        on, and in each of its checkpoints; the learning rate of the steps before does not depend on it.
        """
        if self.marks is None or self._spent() >= 1:
            return
        self.marks.append(seconds)
        speed = budgets.measured(self.marks)
        if speed is None:
            return
        self.marks = None
        self.config = budgets.choose(self.config, self.dataset.info.shape, self.dataset.examples, speed)
        if self.metrics is not None:
            self.metrics.settings(self.config)
        budget, progress = self.config.budget, self.progress
        self.bar.plan(budget.steps, budget.minutes)
        if budget.steps is not None:
            left = (budget.steps - progress.step) * speed / budgets.SPARE
        else:
            left = 60 * (budget.minutes or 0) - progress.clock.seconds
        self.bar.say(forecast(budget.steps, progress.step, progress.clock.seconds, left, speed, self.free))

    def _step(self) -> tuple[Tensor, float]:
        config = self.config
        assert config.batch is not None
        begun = time.monotonic()
        rate = learning_rate(config.optimiser, self.progress.step + 1, self._spent())
        self.progress.step += 1
        step = self.progress.step
        losses, mean = self.learner.step(
            self.batches[step],
            # The place in the batch, not the example: a stratified law spreads times over neighbours.
            self._noise(config.batch, step).rows(self.rows),
            number=step,
            rate=rate,
            dropout=config.objective.dropout,
        )
        self.rate = rate
        self.images += config.batch
        self.busy += time.monotonic() - begun
        self.speed = self.images / max(self.busy, 1e-9)
        return losses, mean

    def _noise(self, batch: int, step: int) -> Noise:
        return Noise(self.config.seed, batch, draw=step)

    def _count(self, losses: Tensor, mean: float) -> None:
        """Take in the outcome of a step, the same on every process."""
        progress, objective = self.progress, self.learner.objective
        if objective.learns:
            batch = int(self.config.batch or 0)
            objective.observe(self.team.gather(losses, batch).cpu(), self._noise(batch, progress.step))
        if math.isfinite(mean):
            progress.loss_sum += mean
            progress.loss_count += 1
            progress.in_a_row = 0
            return
        progress.skipped += 1
        progress.in_a_row += 1
        if progress.in_a_row >= PATIENCE:
            raise UserError(
                f"the loss or its gradient was not finite for {PATIENCE} steps in a row, up to step {progress.step}; "
                f"lower --optimiser.lr (now {self.config.optimiser.lr}), raise --optimiser.warmup, use --precision "
                f"float32, or look for outliers in the data. {self._resume()}"
            )

    def _row(self, validate: bool) -> None:
        progress = self.progress
        loss = progress.loss_sum / progress.loss_count if progress.loss_count else None
        progress.loss_sum, progress.loss_count = 0.0, 0
        if validate:
            self.learner.ema.gather()
        if not self.team.first:
            return
        val = self._validate() if validate else None
        row: MetricsRow = {
            "step": progress.step,
            "loss": loss,
            "val_loss": val if val is not None and math.isfinite(val) else None,
            "lr": self.rate,
            "skipped": progress.skipped,
        }
        clock = progress.clock
        clock.rows.append({"step": progress.step, "seconds": clock.seconds, "images_per_second": self.speed})
        progress.rows.append(row)
        if self.metrics is not None:
            self.metrics.add(row, self.speed)
        self.busy, self.images = 0.0, 0

    def _validate(self) -> float:
        """The loss of the average on held-out data: the same examples and the same noise every time."""
        test, pairs, batch = self.dataset.test, self.config.output.validate_on, int(self.config.batch or 1)
        pairs = min(pairs, NOISES * len(test))  # more noises of so few examples tell nothing more
        order = Order(len(test), self.config.seed)
        noise = Noise(self.config.seed, pairs).fold_in(Stream.VALIDATION)
        if self.learner.objective.whole_batch and pairs > batch:
            pairs -= pairs % batch  # a loss that depends on the others of a batch is of batches of one size
        total, right = 0.0, []
        for first in range(0, pairs, batch):
            rows = slice(first, min(first + batch, pairs))
            # One permutation, over and over: a small set is asked under several noises.
            indices = order.permutation(0)[torch.arange(rows.start, rows.stop) % len(test)]
            held = test.batch(indices)
            total += float(self.learner.loss(held, noise.rows(rows)).sum())
            share = self.learner.accuracy(held, noise.rows(rows))
            right += [] if share is None else [share.cpu()]
        self.right = float(torch.cat(right).nanmean()) if right else None
        self.bar.validated(total / pairs, self.right)
        return total / pairs

    def _picture(self) -> None:
        self.learner.ema.gather()
        if not self.team.first:
            return
        path = self.out / "pictures" / f"step-{self.progress.step:07d}.png"
        model, held = self._model(), self.dataset.test
        reference = held.plain(torch.arange(min(pictures.examples(model), len(held))))
        path = pictures.snapshot(model, path, seed=self.config.seed, reference=reference)
        if self.metrics is not None:
            self.metrics.picture(path, self.progress.step)

    def _snapshot(self) -> None:
        """Store the averages from which others are made after the run."""
        self.stored = self._snapshots()
        averages = self.learner.averages()
        if self.team.first:
            dtype = snapshots.DTYPES[self.config.ema.snapshot_precision]
            with self.signals.shielded():
                snapshots.save(self.out, self.progress.step, averages, dtype)

    def _checkpoint(self) -> None:
        with self.signals.shielded():
            self._write()

    def _write(self) -> None:
        tensors = self.learner.tensors()
        if not self.team.first:
            self.saved = checkpoint.place(self.out, self.progress.step)
            return
        self.saved = checkpoint.save(self.out, self.learner, tensors, self.progress, self.config, self.dataset.info)
        self._keep()

    def _keep(self) -> None:
        """Write what the run is for."""
        directory.save(self._model(), self.out)
        files.replace(self.out / CLOCK, files.as_json(vars(self.progress.clock)))

    def _finish(self) -> None:
        self._checkpoint()
        if self.team.first and self.config.pretrained:
            together = pictures.before_after(self.out / "pictures")
            if together is not None:
                self.bar.say(f"{together} shows the samples of before and after, from the same noises")
        made = self._made()
        if made["skipped"]:
            self.bar.say(f"{made['skipped']} steps were skipped: their gradient was not finite.")
        val = "" if made["val_loss"] is None else f", held-out loss {made['val_loss']:.4f}"
        val += "" if self.right is None else f", {100 * self.right:.1f} % right"
        self.bar.say(
            f"{made['steps']} steps in {duration(self.progress.clock.seconds)}{val}: the model is in {self.out}"
        )

    def _model(self) -> Any:
        """What the run has made so far."""
        model = replace(self.learner.objective.finish(self.learner.average), config=self._made())
        return model if self.dataset.codec is None else Latent(model, self.dataset.codec)

    def _made(self) -> dict[str, Any]:
        """How the model was made, for ``config.json``."""
        progress = self.progress
        last = progress.rows[-1] if progress.rows else {}
        val = next((row["val_loss"] for row in reversed(progress.rows) if row["val_loss"] is not None), None)
        return {
            **self.learner.denoiser.config,
            "objective": self.learner.objective.to_dict(),
            "steps": progress.step,
            "images": progress.step * int(self.config.batch or 0),
            "loss": last.get("loss"),
            "val_loss": val,
            "skipped": progress.skipped,
            "processes": self.team.size,
            SECONDS: progress.clock.seconds,
            "config": self.config.to_dict(),
        }

    def _resume(self) -> str:
        """A sentence that says how the run is gone on with."""
        if self.saved is None:
            return "no checkpoint was written yet."
        source = {"source": self.dataset.info.name, **self.dataset.info.source}
        source.pop("codec", None)  # named by its directory, below
        words = ["langevin", "train", str(source.pop("source"))]
        for option, value in source.items():
            words += [f"--{option}"] if value is True else [f"--{option}", str(value)]
        if self.config.pretrained:
            words += ["--from", str(self.config.start.model)]
        elif self.dataset.codec is not None:
            words += ["--codec", str(self.out / "codec")]
        command = shlex.join([*words, "--out", str(self.out), "--resume"])
        return f"the checkpoint of step {_step_of(self.saved)} is whole; go on with: {command}"


def _step_of(saved: Path) -> int:
    return int(saved.name.rpartition("-")[2])
