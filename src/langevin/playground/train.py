"""The tab *Train*: a network learns the score of a world, beside the exact score, while somebody watches."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import nn, samplers
from .._errors import UserError
from ..adapters.networks import denoiser
from ..denoisers import Denoiser, NetworkDenoiser
from ..distributions import Noise
from ..metrics import sliced_floor, sliced_wasserstein
from ..objectives import DenoisingLoss, LogNormal, Uniform
from ..processes import EDM, ScalarGaussian, grids
from ..worlds import GaussianMixture
from . import shapes
from .jobs import Job
from .messages import choice, number, packed, whole
from .worlds import ARROWS, BESIDE, PROJECTIONS, pictures, places

WIDTHS = (16, 32, 64, 128)
"""Features of a layer of the network."""

SIZES = (16, 64, 256, 1024, 65536)
"""Training points that can be chosen; the last are so many that none is seen twice in a short run."""

BATCH, STEPS = 256, 10_000
"""Examples a step, and steps at most."""

LEVELS = LogNormal(-1.0, 1.5)
"""Noise levels of a network that learns all of them: 95 % lie in 0.02 … 7, for data of the size of one."""

CHAIN, STEP_SIZE = 200, 0.2
"""Langevin steps at the one level of a network that knows no other, and their ε."""

EVALUATIONS = 30
"""Of the sampler of a network that knows all levels."""

SHOWN, SAMPLES, DRAWS, JUDGED = 400, 1000, 256, 1024
"""Noisy points that are shown, samples, draws at a level by which the score is judged, and points for the losses."""

PAUSE = 0.4
"""Seconds between two looks at the network."""


@dataclass(frozen=True)
class Request:
    """What a page asks for, checked.

    Args:
        name: of the world.
        world: itself.
        size: training points.
        sigma: the one noise level that is learned; all of them if None.
        width: of the network.
        rate: learning rate of the first step, which falls to 0 along a cosine.
        steps: of the optimiser.
        seed: of the data, the weights and the noise.
    """

    name: str
    world: GaussianMixture
    size: int
    sigma: float | None
    width: int
    rate: float
    steps: int
    seed: int

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Request:
        """That of a page.

        Raises:
            UserError: naming what is wrong.
        """
        name, world = shapes.asked(given)
        return cls(
            name=name,
            world=world,
            size=int(choice(given, "size", str(SIZES[-1]), [str(size) for size in SIZES])),
            sigma=None if given.get("sigma") is None else number(given, "sigma", 0.3, 0.01, 10),
            width=int(choice(given, "width", "64", [str(width) for width in WIDTHS])),
            rate=number(given, "rate", 3e-3, 1e-5, 1.0),
            steps=whole(given, "steps", 2000, 10, STEPS),
            seed=whole(given, "seed", 0, 0, 2**31 - 1),
        )

    @cached_property
    def process(self) -> ScalarGaussian:
        """x_t = x_0 + σ ε."""
        return EDM()

    @cached_property
    def time(self) -> float | None:
        """t of the one level."""
        return None if self.sigma is None else float(grids.time_of_level(self.process, self.sigma))

    @cached_property
    def data(self) -> Tensor:
        """The training points, float32."""
        return self.world.sample(self.size, seed=self.seed).float()

    @cached_property
    def sigma_data(self) -> float:
        """σ_d, by which input and output of the network are scaled."""
        return float(self.data.std())

    @cached_property
    def objective(self) -> DenoisingLoss:
        """EDM's weight, at all levels or at one."""
        law = LEVELS if self.time is None else Uniform(self.time, self.time)
        return DenoisingLoss("edm", law, {"sigma_data": self.sigma_data})

    @cached_property
    def start(self) -> Tensor:
        """Where samples begin: noise of the process, or for one level of the size of the data and that noise."""
        noise = Noise(self.seed + BESIDE, SAMPLES).step(0)
        if self.sigma is None:
            return self.process.prior((2,)).sample(noise).float()
        return math.hypot(self.sigma_data, self.sigma) * noise.normal((2,)).float()

    def sample(self, model: Denoiser) -> Tensor:
        """Samples of a belief: from noise to data by all levels, or a chain at the one level and its x̂_0."""
        noise = Noise(self.seed + BESIDE, SAMPLES)
        if self.time is None:
            plan = samplers.resolve(model, "dpmpp-2m", steps=EVALUATIONS)
            return samplers.sample(model, plan, start=self.start, noise=noise)
        chain = samplers.Langevin(CHAIN, STEP_SIZE)
        return samplers.sample(model, chain, grid=[1.0, self.time, 0.0], start=self.start, noise=noise)


def choices() -> dict[str, Any]:
    """What the tab offers."""
    return {"widths": WIDTHS, "sizes": SIZES, "most": {"steps": STEPS, "points": shapes.POINTS}}


def score_errors(scores: Tensor, exact: Tensor) -> list[float]:
    """E|s − ∇log p|²/E|∇log p|² at each level, of scores ``(levels, n, 2)``."""
    found: list[float] = ((scores - exact).square().sum((1, 2)) / exact.square().sum((1, 2))).tolist()
    return found


class Look:
    """What is shown of a network while it learns, beside what is exact.

    Attributes:
        exact: the pictures of the world, with training points made noisy.
        floors: the loss of the exact denoiser on training points and on new data, with the same noise.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        world, process, seed = request.world, request.process, request.seed
        eps = Noise(seed, SHOWN).step(0).normal((2,))
        x0 = request.data[torch.arange(SHOWN) % request.size].double()
        self.exact = pictures(world, process, x0, eps, frame=world)
        self.levels = self.exact.sigma[:-1]  # all but the data's own
        times = self.exact.times[:-1]
        x0 = world.sample(JUDGED, seed=seed + BESIDE)
        self._judged = (request.data[torch.arange(JUDGED) % request.size], x0.float()), Noise(seed + BESIDE, JUDGED)
        x0 = x0[:DRAWS]
        x_t = x0 + self.levels[:, None, None] * Noise(seed, DRAWS).step(1).normal((2,))
        self._drawn = x_t.flatten(0, 1), times.repeat_interleave(DRAWS)
        self._scores = torch.stack([world.score(x, process, t) for x, t in zip(x_t, times)])
        at = self.exact.half[:-1, None, None] * places(ARROWS)
        self._arrows = at.flatten(0, 1), times.repeat_interleave(ARROWS**2)
        told = world.denoiser(process)
        self.floors = self.losses(told)
        self._truth = world.sample(SAMPLES, seed=seed + 2 * BESIDE)
        self.distance_exact = self.distance(request.sample(told))
        more = world.sample(SAMPLES, seed=seed + 3 * BESIDE)
        self.distance_floor = sliced_floor(torch.cat((self._truth, more)), projections=PROJECTIONS)

    def losses(self, model: Denoiser) -> list[float]:
        """The loss on training points, and on new data."""
        points, noise = self._judged
        return [float(self.request.objective(model, x0, None, noise).mean()) for x0 in points]

    def distance(self, x: Tensor) -> float:
        """Sliced Wasserstein-2 distance to exact samples."""
        return sliced_wasserstein(x.double(), self._truth, projections=PROJECTIONS)

    def _score(self, model: Denoiser, x_t: Tensor, t: Tensor) -> Tensor:
        x_t = x_t.float()
        return self.request.process.score(x_t, model(x_t, t), t).double()

    def at(self, model: NetworkDenoiser) -> dict[str, Any]:
        """A network's arrows, its error at each level, its losses, and its samples."""
        arrows = self._score(model, *self._arrows).reshape(len(self.levels), ARROWS, ARROWS, 2)
        arrows = torch.cat((self.levels[:, None, None, None] * arrows, torch.zeros(1, ARROWS, ARROWS, 2)))
        if not bool(arrows.isfinite().all()):
            raise UserError(f"the network diverged at a learning rate of {self.request.rate:g}: take a smaller one")
        scores = self._score(model, *self._drawn).reshape(len(self.levels), DRAWS, 2)
        x = self.request.sample(model)
        return {
            "score": packed(arrows),
            "errors": score_errors(scores, self._scores),
            "losses": self.losses(model),
            "samples": packed(x / self.exact.half[-1]),
            "distance": self.distance(x),
        }


def run(job: Job) -> dict[str, Any]:
    """Train a network; say how it stands (the event ``learned``) again and again."""
    request = Request.read(job.arguments)
    with torch.no_grad():
        look = Look(request)
    job.check()
    floor = look.distance_floor
    job.send(
        "picture",
        **look.exact.packed(),
        floors=look.floors,
        levels=look.levels.tolist(),
        distance_exact=look.distance_exact,
        distance_floor=[floor.value, floor.stderr],
        python=python(request),
    )
    with torch.random.fork_rng([]):  # the weights' numbers come from the global generator
        torch.manual_seed(request.seed)
        network = nn.MLP(2, width=request.width, depth=2)
    model = denoiser(network, process=request.process, prediction="edm", shape=(2,), sigma_data=request.sigma_data)
    return _learn(request, network, model, look, job)


def _learn(request: Request, network: nn.MLP, model: NetworkDenoiser, look: Look, job: Job) -> dict[str, Any]:
    adam = torch.optim.Adam(network.parameters(), lr=request.rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, request.steps)
    chosen = torch.Generator().manual_seed(request.seed)
    due = time.monotonic()

    def shown(step: int) -> dict[str, Any]:
        with torch.no_grad():
            return {"step": step, **look.at(model)}

    for step in range(request.steps):
        job.progress(step, request.steps)
        if (began := time.monotonic()) >= due:
            job.send("learned", **shown(step))
            due = time.monotonic() + max(PAUSE, time.monotonic() - began)  # half of the time at least is for learning
        x0 = request.data[torch.randint(request.size, (BATCH,), generator=chosen)]
        loss = request.objective(model, x0, None, Noise(request.seed, BATCH).fold_in(step)).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
    return shown(request.steps)


def python(request: Request) -> str:
    """The lines that train the same network, and draw the same samples from it."""
    head, made = shapes.python(request.name, request.world)
    law = f"LogNormal({LEVELS.mean:g}, {LEVELS.std:g})" if request.time is None else "Uniform(t, t)"
    lines = [
        *sorted({"import torch", *head}, key="import torch".__ne__),
        "from langevin.objectives import DenoisingLoss, LogNormal, Uniform",
        "",
        *made,
        f"data = world.sample({request.size}, seed={request.seed}).float()",
        "sigma_data = float(data.std())",
        'process = langevin.processes.create_process("edm")  # x_t = x_0 + sigma * noise',
        f"torch.manual_seed({request.seed})",
        f"network = langevin.nn.MLP(2, width={request.width}, depth=2)",
        "model = langevin.denoiser(",
        '    network, process=process, prediction="edm", shape=(2,), sigma_data=sigma_data',
        ")",
    ]
    if request.sigma is not None:
        lines.append(f"t = float(langevin.processes.grids.time_of_level(process, {request.sigma:g}))")
    lines += [
        f'objective = DenoisingLoss("edm", {law}, {{"sigma_data": sigma_data}})',
        f"adam = torch.optim.Adam(network.parameters(), lr={request.rate:g})",
        f"falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, {request.steps})",
        f"chosen = torch.Generator().manual_seed({request.seed})",
        f"for step in range({request.steps}):",
        f"    x0 = data[torch.randint(len(data), ({BATCH},), generator=chosen)]",
        f"    noise = langevin.Noise({request.seed}, {BATCH}).fold_in(step)",
        "    loss = objective(model, x0, None, noise).mean()",
        "    adam.zero_grad()",
        "    loss.backward()",
        "    adam.step()",
        "    falling.step()",
        "",
    ]
    begin = request.seed + BESIDE
    if request.sigma is None:
        lines.append(
            f'x = langevin.sample(model, "dpmpp-2m", n={SAMPLES}, steps={EVALUATIONS}, seed={begin})',
        )
    else:
        lines += [
            f"noise = langevin.Noise({begin}, {SAMPLES})",
            f"start = (sigma_data**2 + {request.sigma:g}**2) ** 0.5 * noise.step(0).normal((2,)).float()",
            f"chain = langevin.samplers.Langevin({CHAIN}, {STEP_SIZE:g})",
            "x = langevin.sample(model, chain, grid=[1.0, t, 0.0], start=start, noise=noise)",
        ]
    return "\n".join(lines)
