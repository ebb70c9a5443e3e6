"""What a sampler costs beside the network it asks: loop time over evaluations × a bare call.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py
    OMP_NUM_THREADS=1 python benchmarks/overhead.py --case tiny --case arithmetic --all
    OMP_NUM_THREADS=1 python benchmarks/overhead.py --case unet --loop rownian --loop "paths of" --rounds 40

Cases: a tiny network (a perceptron of about 28 µs a call) at batch 1 and at 64; the U-Net at 32×32 with batch 16; the
demo's U-Net at 8×8 with batch 64; and the arithmetic alone, the same loops around a network that hands back a tensor it
has ready, at 16×3×32×32, in µs a step. In each case every loop runs in the same process, one after the other in each
round, beside bare calls, bare calls again (the control: what differs from 1 there is the machine), a loop written by
hand, and what is installed of diffusers, azula and k-diffusion. Medians over rounds; ratios are to the bare calls of
the same round, as many as the loop made. Let the machine be idle, and look at the control before any other row.

Our loop is ``langevin.trajectory`` on a grid made beforehand, as a peer's is its ``step`` on its own time steps; the
row ``langevin.sample`` has everything a user pays for. Coefficients are computed once a (sampler, process, grid),
before the first round.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import langevin
import record
from langevin import Noise, processes, samplers
from langevin.denoisers import AffineParameterization, NetworkDenoiser

Loop = Callable[[], int]
"""Runs a loop to its end, and says how many times it asked the network."""


class Tiny(nn.Module):
    """A perceptron on x and the time: 2 → 64 → 64 → 2 coordinates."""

    def __init__(self, dim: int = 2, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim)
        )

    def forward(self, x: Tensor, label: Tensor, condition: object = None) -> Tensor:
        return self.body(torch.cat((x, label[:, None] / 1000), 1))


class Ready(nn.Module):
    """A network that hands back a tensor it has ready: what is left is the loop."""

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.out = out

    def forward(self, x: Tensor, label: Tensor, condition: object = None) -> Tensor:
        return self.out


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A network, a batch and a number of evaluations."""

    name: str
    network: nn.Module
    shape: tuple[int, ...]
    batch: int
    steps: int
    repeat: int

    @functools.cached_property
    def start(self) -> Tensor:
        """Float32, as users have it."""
        return Noise(0, self.batch).normal(self.shape).float()

    @functools.cached_property
    def denoiser(self) -> NetworkDenoiser:
        """The network read as ε on the table of a thousand linear β."""
        parameterization = AffineParameterization("eps", time="index", scale_input=False)
        return NetworkDenoiser(self.network, processes.DDPM(), parameterization, self.shape)


def cases(names: list[str]) -> Iterator[Case]:
    """Those asked for."""
    torch.manual_seed(0)
    made: dict[str, Callable[[], list[Case]]] = {
        "tiny": lambda: [
            Case("tiny network, batch 1", Tiny().eval(), (2,), 1, 20, 20),
            Case("tiny network, batch 64", Tiny().eval(), (2,), 64, 20, 20),
        ],
        "arithmetic": lambda: [
            Case("arithmetic at 16×3×32×32", Ready(torch.randn(16, 3, 32, 32)), (3, 32, 32), 16, 20, 5)
        ],
        "demo": lambda: [Case("U-Net at 8×8, batch 64", unet((1, 8, 8), 10), (1, 8, 8), 64, 10, 1)],
        "unet": lambda: [Case("U-Net at 32×32, batch 16", unet((3, 32, 32), 0), (3, 32, 32), 16, 10, 1)],
    }
    for name in names:
        yield from made[name]()


def unet(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The library's default network for such data."""
    return langevin.nn.create_network(langevin.nn.default(shape, {"label": classes})).eval()


# --- loops ------------------------------------------------------------------------------------------------------------


def bare(case: Case) -> int:
    """Network calls with nothing between them."""
    label = torch.zeros(case.batch)
    for _ in range(case.steps):
        case.network(case.start, label)
    return case.steps


def by_hand(case: Case, coefficients: list[tuple[float, float, float]]) -> int:
    """DDIM as one writes it out: three numbers a step, made beforehand."""
    x = case.start
    for index, a, b in coefficients:
        out = case.network(x, torch.full((case.batch,), index))
        x = a * x + b * out
    return len(coefficients)


def ddim_numbers(case: Case) -> list[tuple[float, float, float]]:
    """(index, a, b) of x_s = a x_t + b ε̂."""
    process = processes.DDPM()
    grid = samplers.grids.trailing(process, case.steps)
    alpha, sigma = process.alpha(grid), process.sigma(grid)
    a = alpha[1:] / alpha[:-1]
    b = sigma[1:] - a * sigma[:-1]
    index = (grid[:-1] * process.steps - 1).round()
    return list(zip(index.tolist(), a.tolist(), b.tolist()))


def own_grid(case: Case, sampler: samplers.Sampler, denoiser: NetworkDenoiser) -> Tensor:
    """The sampler's grid of so many steps, or the process's."""
    own = sampler.default_grid(denoiser.process, case.steps)
    return samplers.default_grid(denoiser.process, case.steps) if own is None else own


def ours(case: Case, sampler: samplers.Sampler, grid: Tensor, noise: Noise | None = None) -> int:
    """Our loop on a grid made beforehand."""
    counter = case.denoiser.counter
    before = counter.calls
    for _ in langevin.trajectory(case.denoiser, sampler, grid=grid, start=case.start, noise=noise):
        pass
    return counter.calls - before


def identity(case: Case) -> int:
    """Everything a user pays for: the default sampler, its grid, the noise."""
    counter = case.denoiser.counter
    before = counter.calls
    langevin.sample(case.denoiser, steps=case.steps, n=case.batch, batch=case.batch)
    return counter.calls - before


def diffusers_loop(case: Case, scheduler: Any) -> int:
    """The loop that diffusers' pipelines write out."""
    scheduler.set_timesteps(case.steps)
    x = case.start * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        out = case.network(scheduler.scale_model_input(x, t), t.float().expand(case.batch))
        x = scheduler.step(out, t, x).prev_sample
    return len(scheduler.timesteps)


def azula_loop(case: Case, sampler: Any) -> int:
    """azula's sampler around its own denoiser."""
    sampler(case.start)
    return case.steps


def k_loop(case: Case, name: str, model: Callable[..., Tensor], sigmas: Tensor, brownian: bool = False) -> int:
    """A function of k-diffusion; ``brownian`` gives it a Brownian tree."""
    import peers

    sampling = peers._k_sampling()
    extra = {}
    if brownian:
        low, high = float(sigmas[sigmas > 0].min()), float(sigmas.max())
        extra = {"noise_sampler": sampling.BrownianTreeNoiseSampler(case.start, low, high, seed=0)}
    getattr(sampling, name)(model, case.start * sigmas[0], sigmas, disable=True, **extra)
    return case.steps


# --- who takes part ---------------------------------------------------------------------------------------------------


def langevin_loops(case: Case, every: bool) -> dict[str, Loop]:
    """The samplers named in the documentation, or all of the registry."""
    made: dict[str, samplers.Sampler] = {}
    names = ("ddim", "dpmpp-2m", "dpmpp-3m", "unipc", "deis", "dpmpp-2m-sde", "ddpm", "heun")
    known = {m.name: m for m in langevin.methods("samplers")}
    for name in known if every else [n for n in names if n in known]:
        made[name] = known[name].make()
    made["default"] = samplers.default_sampler(case.denoiser.process)
    loops: dict[str, Loop] = {}
    for name, sampler in made.items():
        try:
            own = sampler.for_model(case.denoiser)
            grid = own_grid(case, own, case.denoiser)
            loops[f"langevin: {name}"] = functools.partial(ours, case, own, grid)
        except (langevin.UserError, TypeError) as reason:
            print(f"langevin: {name} is left out: {reason}")
    loops["langevin.sample, default"] = functools.partial(identity, case)
    if hasattr(langevin.distributions, "BrownianPath"):
        sde = samplers.create_sampler("dpmpp-2m-sde")
        grid = own_grid(case, sde, case.denoiser)
        path = langevin.distributions.BrownianPath(0, case.batch)
        loops["langevin: dpmpp-2m-sde on Brownian paths"] = functools.partial(ours, case, sde, grid, path)
        known = langevin.distributions.BrownianPath(0, case.batch, knots=grid)
        loops["langevin: dpmpp-2m-sde on paths of its grid"] = functools.partial(ours, case, sde, grid, known)
    return loops


def peer_loops(case: Case) -> tuple[dict[str, Loop], list[str]]:
    """What is installed."""
    loops: dict[str, Loop] = {}
    missing = []
    try:
        import diffusers

        logging.getLogger("diffusers").setLevel(logging.ERROR)
        for name, scheduler in (
            ("DDIM", diffusers.DDIMScheduler(clip_sample=False)),
            ("DPM-Solver++(2M)", diffusers.DPMSolverMultistepScheduler()),
            ("SDE-DPM-Solver++(2M)", diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")),
            ("UniPC", diffusers.UniPCMultistepScheduler()),
            ("DEIS", diffusers.DEISMultistepScheduler()),
            ("DDPM", diffusers.DDPMScheduler(clip_sample=False)),
        ):
            loops[f"diffusers: {name}"] = functools.partial(diffusers_loop, case, scheduler)
    except ImportError as error:
        missing.append(f"diffusers is left out: {error}")
    try:
        from azula.denoise import SimpleDenoiser
        from azula.noise import VPSchedule
        from azula.sample import DDIMSampler, zEABSampler

        class Backbone(nn.Module):
            """The network, with the label that azula gives."""

            def __init__(self) -> None:
                super().__init__()
                self.network = case.network

            def forward(self, x: Tensor, label: Tensor) -> Tensor:
                return self.network(x, label.expand(len(x)))

        denoiser = SimpleDenoiser(Backbone(), VPSchedule())
        for name, cls, extra in (("DDIM", DDIMSampler, {}), ("exponential AB2", zEABSampler, {"order": 2})):
            sampler = cls(denoiser, steps=case.steps, silent=True, **extra)
            loops[f"azula: {name}"] = functools.partial(azula_loop, case, sampler)
    except ImportError as error:
        missing.append(f"azula is left out: {error}")
    try:
        import peers

        peers._k_sampling()
        process = processes.DDPM()
        sigmas = torch.exp(-process.log_snr(samplers.grids.karras(process, case.steps)) / 2).float()
        sigmas[-1] = 0.0

        def model(x: Tensor, sigma: Tensor) -> Tensor:
            scale = torch.rsqrt(sigma**2 + 1).reshape(-1, *[1] * (x.ndim - 1))
            return x - sigma.reshape(scale.shape) * case.network(x * scale, sigma)

        for name in ("sample_euler", "sample_dpmpp_2m"):
            loops[f"k-diffusion: {name[7:]}"] = functools.partial(k_loop, case, name, model, sigmas)
        if len(case.shape) > 1:
            loops["k-diffusion: dpmpp_2m_sde, Brownian tree"] = functools.partial(
                k_loop, case, "sample_dpmpp_2m_sde", model, sigmas, True
            )
    except ImportError as error:
        missing.append(f"k-diffusion is left out: {error}")
    return loops, missing


# --- timing -----------------------------------------------------------------------------------------------------------


def interleaved(loops: dict[str, Loop], rounds: int, repeat: int) -> dict[str, list[float]]:
    """Seconds an evaluation of each loop by round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    with torch.no_grad():
        for number in range(rounds + 1):
            names = list(loops)
            first = number * 7 % len(names)  # nobody always runs beside the same neighbour, or last
            for name in names[first:] + names[:first]:
                loop = loops[name]
                begun = time.perf_counter()
                asked = sum(loop() for _ in range(repeat))
                seconds[name].append((time.perf_counter() - begun) / asked if number else 0.0)
    return {name: values[1:] for name, values in seconds.items()}


def together(found: dict[Case, dict[str, list[float]]]) -> Table:
    """One table of all cases: medians over rounds, × bare calls or µs a step without the call."""
    table = Table("loop", *(f"{case.name}{', µs a step' * isinstance(case.network, Ready)}" for case in found))
    for name in dict.fromkeys(name for seconds in found.values() for name in seconds):
        cells = []
        for case, seconds in found.items():
            values, base = seconds.get(name, []), seconds["bare calls"]
            if isinstance(case.network, Ready):
                cell = [f"{1e6 * statistics.median(v - b for v, b in zip(values, base)):.1f}"] if values else [""]
            else:
                cell = [f"{statistics.median(v / b for v, b in zip(values, base)):.3f}"] if values else [""]
            cells += cell
        table.add_row(name, *cells)
    return table


def tell(case: Case, seconds: dict[str, list[float]], console: Console) -> None:
    """One table."""
    base = seconds["bare calls"]
    alone = isinstance(case.network, Ready)
    head = ("µs a step without the call",) if alone else ("× bare (median)", "min", "max")
    table = Table(
        "loop", "µs an evaluation", *head, title=f"{case.name}, {case.steps} evaluations", title_justify="left"
    )
    for name, values in seconds.items():
        cells = [f"{1e6 * statistics.median(values):.1f}"]
        if alone:
            cells.append(f"{1e6 * statistics.median(v - b for v, b in zip(values, base)):.1f}")
        else:
            ratios = [v / b for v, b in zip(values, base)]
            cells += [f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}", f"{max(ratios):.3f}"]
        table.add_row(name, *cells)
    console.print(table)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ("tiny", "arithmetic", "demo", "unet")
    parser.add_argument("--case", action="append", choices=known, default=[])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--all", action="store_true", help="every sampler of the registry")
    parser.add_argument(
        "--loop", action="append", default=[], help="only loops whose name holds this, beside bare calls"
    )
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--record", action="store_true", help="keep the table for the documentation")
    settings = parser.parse_args()
    console = Console(width=110)
    console.print(
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, {settings.rounds} rounds"
    )
    warnings.simplefilter("ignore")
    found: dict[Case, dict[str, list[float]]] = {}
    for case in cases(settings.case or list(known)):
        loops: dict[str, Loop] = {
            "bare calls": functools.partial(bare, case),
            "bare calls again (control)": functools.partial(bare, case),
            "by hand: DDIM": functools.partial(by_hand, case, ddim_numbers(case)),
            **langevin_loops(case, settings.all),
        }
        if settings.peers:
            more, missing = peer_loops(case)
            loops |= more
            for line in missing:
                console.print(line, style="dim")
        if settings.loop:
            loops = {n: f for n, f in loops.items() if "bare" in n or any(part in n for part in settings.loop)}
        found[case] = interleaved(loops, settings.rounds, case.repeat)
        tell(case, found[case], console)
    record.show("overhead", together(found), width=150)


if __name__ == "__main__":
    main()
