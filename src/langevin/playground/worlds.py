"""The tab *Worlds*: particles of a sampler beside the exact distribution, at every noise level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import guidance, samplers
from .._errors import UserError
from .._registry import methods
from ..denoisers import Denoiser
from ..distributions import Noise
from ..metrics import sliced_floor, sliced_wasserstein
from ..processes import Process, ScalarGaussian, create_process, grids
from ..samplers.tolerance import distances, is_deterministic, std_of
from ..worlds import GaussianMixture
from . import shapes
from .jobs import Job, Watched
from .messages import choice, number, packed, titles, whole
from .shapes import POINTS, WORLDS

FRAMES = 32
"""Noise levels at which the exact distribution is shown, beside that of the data."""

CELLS, ARROWS = 64, 15
"""Cells and arrows of the score along an axis of the picture."""

PARTICLES, STEPS = 4000, 200
"""Particles and steps at most."""

LABELLED = 12
"""Components at most of a world whose components are offered as classes."""

PROBES, CONVERGED = 64, 400
"""Particles whose paths are compared with their converged ones, and steps of those."""

PROJECTIONS = 64
"""Directions of the sliced distance."""

BESIDE = 10**9 + 7
"""Added to the seed for the exact samples that a sampler's are compared with: none of its own noise."""

ELSEWHERE = ("remainder", "dop853")
"""Samplers that are not offered: the default by its other name, and an integrator of 1e-10, which may take minutes."""

PROCESSES = ("vp", "edm", "flow", "cosine", "ddpm", "sub-vp", "ve")
"""Scalar Gaussian processes by name, the usual ones first."""


@lru_cache
def sampler_names(process: str) -> dict[str, str]:
    """The samplers that can be tried on worlds under a process, by name, with their titles."""
    found = titles(create_process(process))
    return {"default": "Default: Gaussian remainder", **{n: t for n, t in found.items() if n not in ELSEWHERE}}


@lru_cache
def own_steps(name: str, process: str) -> bool:
    """Whether a sampler chooses its steps itself."""
    return name != "default" and samplers.has_own_steps(samplers.create_sampler(name), create_process(process), 10)


def grid_names() -> dict[str, str]:
    """The grids by name, with their titles."""
    tables = ("leading", "linspace", "trailing", "optimal")
    return {row.name: row.title for row in methods("grids") if row.name not in tables}


def choices() -> dict[str, Any]:
    """What the tab offers."""
    return {
        "worlds": {name: _labels(make()) for name, make in WORLDS.items()},
        "processes": {row.name: row.title for row in methods("processes") if row.name in PROCESSES},
        "samplers": {name: sampler_names(name) for name in PROCESSES},
        "own_steps": [name for name in sampler_names("vp") if own_steps(name, "vp")],
        "grids": grid_names(),
        "most": {"particles": PARTICLES, "steps": STEPS, "points": POINTS},
    }


def _labels(world: GaussianMixture) -> int:
    return world.classes if world.classes <= LABELLED else 0


@dataclass(frozen=True)
class Request:
    """What a page asks for, checked.

    Args:
        name: of the world.
        world: itself.
        process: by name.
        sampler: registered name, or ``default``.
        grid: registered name; the sampler's own if empty.
        steps: of the sampler.
        n: particles.
        seed: of the noise.
        label: a component, or None.
        scale: w of classifier-free guidance by the label.
    """

    name: str
    world: GaussianMixture
    process: str
    sampler: str
    grid: str
    steps: int
    n: int
    seed: int
    label: int | None
    scale: float

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Request:
        """That of a page.

        Raises:
            UserError: naming what is wrong.
        """
        name, world = shapes.asked(given)
        process = choice(given, "process", "vp", PROCESSES)
        label = None if given.get("label") is None else whole(given, "label", 0, 0, world.classes - 1)
        return cls(
            name=name,
            world=world,
            process=process,
            sampler=choice(given, "sampler", "default", sampler_names(process)),
            grid=choice(given, "grid", "", {"", *grid_names()}),
            steps=whole(given, "steps", 10, 1, STEPS),
            n=whole(given, "n", 1000, 10, PARTICLES),
            seed=whole(given, "seed", 0, 0, 2**53 - 1),
            label=label,
            scale=number(given, "scale", 1.0, 0.0, 20.0),
        )

    def plan(self, denoiser: Denoiser) -> samplers.Plan:
        """The sampler with its grid."""
        if own_steps(self.sampler, self.process):
            return samplers.resolve(denoiser, self.sampler)
        named = None if self.sampler == "default" else self.sampler
        return samplers.resolve(denoiser, named, steps=self.steps, grid=self.grid or None)

    def denoiser(self, process: ScalarGaussian) -> Denoiser:
        """The exact denoiser of the world, led to the label if there is one."""
        told = self.world.denoiser(process)
        if self.label is None:
            return told
        return guidance.classifier_free(told, label=self.label, guidance_scale=self.scale)

    @property
    def truth(self) -> GaussianMixture:
        """The distribution that is asked for: the world, or its component ``label``."""
        return self.world if self.label is None else self.world.part(self.label)

    @property
    def key(self) -> tuple[Any, ...]:
        """What the exact pictures depend on."""
        means = tuple(map(tuple, self.world.means.tolist())) if self.name == "drawn" else ()
        return self.name, means, self.label, self.process, self.seed, self.n


@dataclass(frozen=True)
class Exact:
    """What is known exactly, at the noise levels of the picture.

    Attributes:
        times: float64 ``(F + 1,)``, falling to 0.
        alpha: of the process at these times, and ``sigma``.
        half: half-width of the picture at each, in units of the state.
        density: ``(F + 1, C, C)``, of its largest value at each time, uint8; rows from the bottom.
        score: ``(F + 1, A, A, 2)``, σ times the gradient of the log density.
        forward: ``(F + 1, n, 2)``, clean particles made noisy.
    """

    times: Tensor
    alpha: Tensor
    sigma: Tensor
    half: Tensor
    density: Tensor
    score: Tensor
    forward: Tensor

    def packed(self) -> dict[str, Any]:
        """For a page: particles in half-widths."""
        return {
            **{name: getattr(self, name).tolist() for name in ("times", "alpha", "sigma", "half")},
            "density": packed(self.density),
            "score": packed(self.score),
            "forward": packed(self.forward / self.half[:, None, None]),
        }


def half_width(world: GaussianMixture, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The half-width of a picture that shows the particles at a noise level: the data's own reach, and 2.5 σ."""
    reach = (world.means.abs().amax(1) + 2.5 * world.values.amax(-1).sqrt()).max()
    return alpha * torch.clamp(1.1 * reach, min=1.0) + 2.5 * sigma


def places(cells: int) -> Tensor:
    """Centres of the cells of a picture of half-width 1, ``(cells², 2)``, rows from the bottom."""
    along = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * 2 - 1
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack((x, y), -1).flatten(0, 1)


def exact(request: Request) -> Exact:
    """The exact distribution at the noise levels of the picture."""
    x0 = request.truth.sample(request.n, seed=request.seed + BESIDE)
    eps = Noise(request.seed, request.n).step(0).normal((2,))
    return pictures(request.truth, create_process(request.process), x0, eps, frame=request.world)


def pictures(truth: GaussianMixture, process: Process, x0: Tensor, eps: Tensor, *, frame: GaussianMixture) -> Exact:
    """A world at the noise levels of the picture, with clean particles made noisy, in a frame that shows another."""
    assert isinstance(process, ScalarGaussian)
    times = grids.karras(process, FRAMES)
    alpha, sigma = process.alpha(times), process.sigma(times)
    half = half_width(frame, alpha, sigma)
    forward = alpha[:, None, None] * x0 + sigma[:, None, None] * eps
    density, score = [], []
    for t, h, s in zip(times, half, sigma):
        clean = float(t) == 0
        log = truth.log_prob(h * places(CELLS)) if clean else truth.log_prob(h * places(CELLS), process, t)
        density.append((255 * (log - log.max()).exp().sqrt()).round().to(torch.uint8).reshape(CELLS, CELLS))
        at = h * places(ARROWS)
        arrows = s * truth.score(at, process, t) if not clean else torch.zeros_like(at)
        score.append(arrows.reshape(ARROWS, ARROWS, 2))
    return Exact(times, alpha, sigma, half, torch.stack(density), torch.stack(score), forward)


_KEPT: dict[tuple[Any, ...], Exact] = {}


def _exact(request: Request) -> Exact:
    """The same, kept for the last few requests."""
    found = _KEPT.get(request.key)
    if found is None:
        found = exact(request)
        while len(_KEPT) >= 16:
            _KEPT.pop(next(iter(_KEPT)), None)
        _KEPT[request.key] = found
    return found


def straightness(path: Tensor) -> float:
    """Distance from start to end over the length of the path, the mean over particles: 1 for straight paths.

    Args:
        path: ``(F, n, D)``, states on the way, each over √(α² + σ²).
    """
    length = path.diff(dim=0).norm(dim=-1).sum(0)
    return float(((path[-1] - path[0]).norm(dim=-1) / length.clamp_min(1e-12)).mean())


def run(job: Job) -> dict[str, Any]:
    """Sample a world, show it (the event ``picture``), and say how far it is from the truth."""
    request = Request.read(job.arguments)
    process = create_process(request.process)
    assert isinstance(process, ScalarGaussian)
    with torch.no_grad():
        return _run(request, process, job)


def _run(request: Request, process: ScalarGaussian, job: Job) -> dict[str, Any]:
    known = _exact(request)
    job.check()
    counted = Watched(request.denoiser(process), job)
    plan = request.plan(counted)
    noise = Noise(request.seed, request.n)
    start = process.prior((2,)).sample(noise.step(0))
    states: list[samplers.State] = []
    for state in samplers.trajectory(counted, plan.sampler, grid=plan.grid, start=start, noise=noise):
        job.progress(len(states), len(plan.grid))
        states.append(state)
    path = torch.stack([state.x for state in states])
    if not bool(path[-1].isfinite().all()):
        raise UserError(f"{request.sampler} diverged in {request.steps} steps: take more, or a smaller guidance scale")
    grid = torch.stack([state.t.double() for state in states])
    alpha, sigma = process.alpha(grid), process.sigma(grid)
    half = half_width(request.world, alpha, sigma)
    evaluations = counted.calls
    job.send(
        "picture",
        **known.packed(),
        places=_place(grid, known.times),
        path=packed(path / half[:, None, None]),
        python=python(request),
        evaluations=evaluations,
    )
    flat = path / (alpha**2 + sigma**2).sqrt()[:, None, None]
    return {
        "evaluations": evaluations,
        "straightness": None if own_steps(request.sampler, request.process) else straightness(flat),
        **_measures(request, process, path[-1], job),
    }


def _place(times: Tensor, shown_times: Tensor) -> list[float]:
    """Where times lie on the way from noise (0) to data (1), as the picture's slider has them."""
    along = np.linspace(1, 0, len(shown_times))
    found: list[float] = np.interp(times.numpy(), shown_times.flip(0).numpy(), along).tolist()
    return found


def _measures(request: Request, process: ScalarGaussian, x: Tensor, job: Job) -> dict[str, Any]:
    truth = request.truth
    fresh = truth.sample(request.n, seed=request.seed + 2 * BESIDE)
    more = truth.sample(request.n, seed=request.seed + 3 * BESIDE)
    job.check()
    floor = sliced_floor(torch.cat((fresh, more)), projections=PROJECTIONS)
    job.check()
    return {
        "distance": sliced_wasserstein(x, fresh, projections=PROJECTIONS),
        "floor": [floor.value, floor.stderr],
        "path_error": path_error(request, process, job),
        "log_likelihood": float(truth.log_prob(x).mean()),
        "own_log_likelihood": float(truth.log_prob(fresh).mean()),
    }


def path_error(request: Request, process: ScalarGaussian, job: Job) -> float | None:
    """Root mean square distance of particles to the ends of their converged paths, in the data's standard deviation.

    None for a sampler that draws noise on its way, which follows no path.
    """
    told = Watched(request.denoiser(process), job)
    noise = Noise(request.seed, min(request.n, PROBES))
    start = process.prior((2,)).sample(noise.step(0))

    def end(plan: samplers.Plan, draw: int = 0) -> Tensor:
        own = noise.fold_in(draw) if draw else noise
        *_, state = samplers.trajectory(told, plan.sampler, grid=plan.grid, start=start, noise=own)
        return state.x

    plan = request.plan(told)
    if not is_deterministic(lambda draw: end(plan, draw)):
        return None
    converged = end(samplers.resolve(told, "dpmpp-3m", steps=CONVERGED))
    apart = distances(end(plan), converged).square().mean().sqrt()
    return float(apart) / std_of(request.truth, converged)


def python(request: Request) -> str:
    """The lines that draw the same particles."""
    head, made = shapes.python(request.name, request.world)
    lines = [*made]
    lines.append(f'denoiser = world.denoiser(langevin.processes.create_process("{request.process}"))')
    if request.label is not None:
        lines.append(
            f"denoiser = langevin.guidance.classifier_free(denoiser, label={request.label}, "
            f"guidance_scale={request.scale:g})"
        )
    words = [] if request.sampler == "default" else [f'"{request.sampler}"']
    words.append(f"n={request.n}")
    if not own_steps(request.sampler, request.process):
        words.append(f"steps={request.steps}")
        words += [f'grid="{request.grid}"'] if request.grid else []
    words.append(f"seed={request.seed}")
    lines.append(f"x = langevin.sample(denoiser, {', '.join(words)})")
    return "\n".join([*head, "", *lines])
