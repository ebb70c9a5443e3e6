"""Learn a solver for one model and one number of evaluations, from the model's own trajectories."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, check_integer
from ..denoisers import Denoiser, NetworkDenoiser, gaussian_frame
from ..denoisers.conditions import asked_conditions
from ..models.conditional import bind
from ..models.learned import place, stamp
from ..models.parts import Latent
from ..models.solvers import name_of
from ..numerics.frame import GaussianFrame
from ..processes import ScalarGaussian, grids, require
from ..samplers import LearnedSolver, sample, solver_to_dict
from ..samplers.gaussian.guided import widen, widening
from ..samplers.gaussian.noise_grid import remainder_times
from ..samplers.learned.file_format import WIDEST
from ..samplers.learned.sampler import NARROWEST, SolverUse
from ..samplers.learned.steps import LearnedSteps
from ..samplers.learned.table import LARGEST
from ..samplers.sampling import check_memory
from ..storage import files
from .learner import ITERATIONS, ROUNDS, STARTS, Learner, SolverTrainer, TuningProgress, follow
from .trajectories import REFERENCE, Trajectories, trajectories


def tune(
    denoiser: Denoiser,
    steps: int,
    *,
    n: int = 256,
    held_out: int = 128,
    seed: int = 0,
    clean: bool = True,
    guidance_scale: float = 1.0,
    label: int | str | None = None,
    minutes: float | None = None,
    rounds: int = ROUNDS,
    batch: int = 128,
    progress: Callable[[int, int], None] | None = None,
    reference: Trajectories | None = None,
) -> LearnedSolver:
    """Learn grid, then coefficients and shifts, of a solver with ``steps`` evaluations of this denoiser.

    L-BFGS through the unrolled loop, on the errors against the model's own accurate trajectories; what counts is the
    loss on held-out noises, and the best that they saw is kept. Moments of the data are taken where the model carries
    them, else one mean and one variance of its own samples; the frame is widened under guidance, as the default's is.

    Args:
        denoiser: on a scalar-Gaussian process and differentiable in x_t; conditions are one for all samples, or one for
            each of the ``n + held_out``.
        steps: evaluations of the denoiser, 1 to 64; a guided one asks its network twice.
        n: noises to learn from.
        held_out: noises to validate with.
        seed: of the noises.
        clean: whether samples end at clean data, or at the process's smallest time.
        guidance_scale, label: under which the sampler is picked later (see ``SolverUse``).
        minutes: at most, trajectories included; as many as it takes if not given.
        rounds: looks at the held-out noises at most, twelve L-BFGS iterations apart.
        batch: samples of a gradient at a time.
        progress: called as ``progress(done, total)``.
        reference: trajectories of ``n + held_out`` samples, if they are there already.

    Raises:
        UserError: for a request that cannot be met, before any work.
    """
    check_integer("steps", steps, 1, LARGEST)
    for name, number in (("n", n), ("held_out", held_out), ("batch", batch), ("rounds", rounds)):
        check_integer(name, number, 1)
    if minutes is not None and not minutes > 0:
        raise UserError(f"minutes must be a number > 0, got {minutes}")
    process: ScalarGaussian = require(denoiser.process, ScalarGaussian, "tuning")
    begun = time.monotonic()
    most = 25 * STARTS + round(1.25 * ITERATIONS * rounds)
    # The bar counts evaluations, of which a gradient is worth two.
    prepared = 0 if reference is not None else REFERENCE * (n + held_out)
    bar = TuningProgress(progress, begun, minutes, prepared, most, round(1.8 * n * steps))
    if reference is None:
        reference = trajectories(
            denoiser, n + held_out, seed=seed, clean=clean, batch=batch, progress=lambda k, _: bar.report(k)
        )
    if len(reference) != n + held_out:
        raise UserError(f"reference must hold n + held_out = {n + held_out} trajectories, got {len(reference)}")
    train, validation = reference.rows(0, n), reference.rows(n, n + held_out)
    frame = known = gaussian_frame(denoiser)
    assumed = None
    if frame is None:
        mean = float(train.target.mean())
        assumed = (mean, max(float(((train.target - mean) ** 2).mean()), 1e-12))
        size = math.prod(denoiser.shape)
        flat, variance = (torch.full((size,), v, dtype=torch.float64) for v in assumed)
        frame = GaussianFrame(flat, variance, spectral=False)
    widened = min(widening((1 + denoiser.extrapolation) / 2), WIDEST)
    frame = widen(frame.floor_variances(NARROWEST), widened).on(denoiser.device)
    trainer = SolverTrainer(train, validation, batch, bar, rounds)
    starts = [Learner.at(process, frame, u, clean) for u in _grids(process, steps, frame)]
    table = trainer.learn(trainer.choose(starts)).table()
    before = None
    if clean:
        with torch.no_grad():
            plain = sample(validation.denoiser, steps=steps, start=validation.start, seed=seed, batch=batch)
        before = float(validation.errors(plain.to(validation.target)).median())
    learned = LearnedSteps.of(table.tensors(), process, frame)
    with torch.no_grad():
        after = float(validation.errors(follow(learned, validation.denoiser, validation.start)).median())
    if progress is not None:
        progress(1000, 1000)
    made = {
        "n": n,
        "held_out": held_out,
        "seed": seed,
        "gradients": trainer.calls,
        "loss": trainer.best,
        "seconds": round(time.monotonic() - begun, 1),
    }
    pair = None if known is None else (known.std, known.largest)
    errors = None if before is None else (before, after)
    return LearnedSolver(table, SolverUse(process, guidance_scale, label, pair, assumed, widened, errors, made))


def _grids(process: ScalarGaussian, steps: int, frame: GaussianFrame) -> list[Tensor]:
    """u of the evaluations of grids to begin from."""
    own = remainder_times(process, steps, frame)[:-1][-steps:]
    found = [own, grids.log_snr(process, steps)[:-1], grids.karras(process, steps)[:-1]]
    at = [-0.5 * process.log_snr(times) for times in found]
    middle = at[0].mean()
    return [*at, *(middle + factor * (at[0] - middle) for factor in (0.85, 1.15))]


def bound(model: NetworkDenoiser, count: int, guidance_scale: float, label: int | None) -> tuple[Denoiser, Any]:
    """The denoiser to tune, for ``count`` samples, and how its labels are called.

    As samples are drawn: labels 0…K−1 in turn where the model takes labels and none is named.
    """
    if not math.isfinite(guidance_scale):
        raise UserError(f"guidance_scale must be a finite number, got {guidance_scale}")
    check_memory(count, model)
    condition = asked_conditions(model.condition_sizes, count, {"label": label})
    called = None if not condition else "in turn" if label is None else label
    return bind(model, condition, guidance_scale), called


def tune_model(
    model: NetworkDenoiser | Latent,
    steps: int,
    folder: str | os.PathLike[str],
    *,
    guidance_scale: float = 1.0,
    label: int | None = None,
    n: int = 256,
    held_out: int = 128,
    seed: int = 0,
    minutes: float | None = None,
    batch: int = 128,
    made: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LearnedSolver, Path]:
    """Tune a model as ``langevin.load`` gives it, and write ``solver-N.json`` into a directory, whole or not at all.

    A model directory is loaded with the files of this kind that it holds, and ``langevin.sample`` picks the one that
    fits what is asked. Of a latent model the denoiser of codes is tuned, and the file lies in the folder ``denoiser``;
    of a pipeline of diffusers it lies in a folder ``langevin`` beside the components.

    Args:
        model: what it is for; solvers it carries already are not looked at.
        steps: each one evaluation of the guided model.
        folder: the directory that the model was loaded from.
        guidance_scale: w.
        label: the one class it is for; if not given, all in turn.
        n, held_out, seed, minutes, batch, progress: see ``tune``.
        made: kept in the file beside what ``tune`` says of itself.

    Returns:
        The sampler and the file.
    """
    own: Any = model.belief_of
    denoiser, called = bound(replace(own, solvers=()), n + held_out, float(guidance_scale), label)
    where = place(Path(folder), model)
    with files.lock(where):
        sampler = tune(
            denoiser,
            steps,
            n=n,
            held_out=held_out,
            seed=seed,
            guidance_scale=float(guidance_scale),
            label=called,
            minutes=minutes,
            batch=batch,
            progress=progress,
        )
        assert sampler.use is not None
        record = {**sampler.use.made, **stamp(own), **(made or {})}
        sampler = replace(sampler, use=replace(sampler.use, made=record))
        file = where / name_of(steps, float(guidance_scale), label)
        files.replace(file, files.as_json(solver_to_dict(sampler)))
        return sampler, file
