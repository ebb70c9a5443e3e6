"""Peers on exact problems: diffusers, azula, k-diffusion and torchdiffeq, each through its own step function.

A peer gets the exact mean of the belief, converted to whatever it predicts, at the noise level at which its own table
says that it stands; it gets float64 wherever it keeps it (diffusers' multistep DPM-Solver and Euler schedulers cast
the state to float32 in between). All of them start at ρ_max and stop at ρ_min, in the σ-coordinates of ``exact``.

It is one file, of more than 400 lines, so that what one package is given can be compared with what the others are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import logging
import math
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

Mean = Callable[[Tensor, float], Tensor]


class Unsupported(Exception):
    """The peer has no such path; the reason is printed once."""


@dataclass(frozen=True)
class Path:
    """What a peer is asked to follow.

    Args:
        mean: D(y, ρ), counted.
        y: the start at ρ_max, ``(B, D)``.
        rho_max, rho_min: the ends.
        budget: evaluations that may be made.
        alphas_cumprod: the table if the process has one, float64 ``(N,)``.
        rms: of the data, which some peers call sigma_data.
        spent: where a peer that tries several tolerances says what the path it returns took.
    """

    mean: Mean
    y: Tensor
    rho_max: float
    rho_min: float
    budget: int
    alphas_cumprod: Tensor | None
    rms: float
    spent: list[int] = field(default_factory=list)

    def levels(self, grid: str, steps: int) -> Tensor:
        """``steps + 1`` values of ρ, float64: uniform in log ρ (``log``) or Karras with ρ = 7 (``karras``)."""
        if steps < 1:
            raise Unsupported("more evaluations a step than the budget")
        ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        if grid == "log":
            values = torch.exp(math.log(self.rho_max) + ramp * math.log(self.rho_min / self.rho_max))
        else:
            top, bottom = self.rho_max ** (1 / 7), self.rho_min ** (1 / 7)
            values = (top + ramp * (bottom - top)) ** 7
        values[0], values[-1] = self.rho_max, self.rho_min
        return values

    def eps(self, y: Tensor, rho: float) -> Tensor:
        """ε̂ = (y − D)/ρ."""
        return (y - self.mean(y, rho)) / rho


@dataclass(frozen=True)
class Peer:
    """A configuration of somebody's solver.

    Args:
        name: package, solver, settings, grid.
        run: from a path to y at ρ_min.
        stochastic: whether it adds noise.
        needs: ``"table"`` for one that lives on a table of β, else empty.
    """

    name: str
    run: Callable[[Path], Tensor]
    stochastic: bool = False
    needs: str = ""


def versions() -> dict[str, str]:
    """Of the packages that can be imported."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("diffusers", "azula", "k-diffusion", "torchdiffeq", "torch"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


# --- diffusers --------------------------------------------------------------------------------------------------------


def _quiet() -> None:
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="diffusers")


def _scheduler(kind: str, path: Path, settings: dict[str, Any]) -> Any:
    import diffusers

    cls = getattr(diffusers, kind)
    if kind.startswith("EDM"):
        return cls(sigma_min=path.rho_min, sigma_max=path.rho_max, sigma_data=path.rms, **settings)
    return cls(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, num_train_timesteps=1000, **settings)


def _sigma_loop(
    path: Path,
    kind: str,
    grid: str,
    settings: dict[str, Any],
    *,
    scaled: bool,
    calls: int = 1,
    order: int | None = None,
) -> Tensor:
    """A scheduler that keeps its noise levels in ``sigmas``: they are set to the path's, in float64.

    ``scaled``: its state is y/√(1 + ρ²), otherwise y. ``calls``: evaluations a step (2 for Heun, whose list of levels
    holds inner ones twice).
    """
    scheduler = _scheduler(kind, path, settings)
    levels = path.levels(grid, path.budget // calls)
    scheduler.set_timesteps(calls * (len(levels) - 1))
    if calls == 2:
        levels = torch.cat((levels[:1], levels[1:].repeat_interleave(2)))
    scheduler.sigmas = levels
    scheduler.timesteps = torch.arange(len(levels) - 1, 0, -1, dtype=torch.float64)
    if not kind.startswith("EDM"):
        scheduler.num_inference_steps = len(levels) - 1
    scheduler.is_scale_input_called = True
    if kind == "SASolverScheduler":
        scheduler.timestep_list = [None] * len(scheduler.timestep_list)
    first = float(levels[0])
    x = path.y / math.sqrt(1 + first**2) if scaled else path.y
    extra = {} if order is None else {"order": order}
    for i, t in enumerate(scheduler.timesteps):
        rho = float(levels[i])
        y = x * math.sqrt(1 + rho**2) if scaled else x
        if kind.startswith("EDM"):
            skip, out = path.rms**2 / (rho**2 + path.rms**2), rho * path.rms / math.hypot(rho, path.rms)
            output = (path.mean(y, rho) - skip * y) / out
        else:
            output = path.eps(y, rho)
        x = scheduler.step(output, t, x, **extra).prev_sample
        x = x.to(torch.float64)
    return x * math.sqrt(1 + float(levels[-1]) ** 2) if scaled else x


def _own_grid_loop(path: Path, kind: str, settings: dict[str, Any]) -> Tensor:
    """A DPM-type scheduler on time steps of its own choice; the levels are those in its table."""
    scheduler = _scheduler(kind, path, settings)
    scheduler.set_timesteps(path.budget)
    levels = [float(v) for v in scheduler.sigmas]
    if abs(levels[0] / path.rho_max - 1) > 1e-3 or abs(levels[-1] / path.rho_min - 1) > 1e-3:
        raise Unsupported(f"runs from ρ = {levels[0]:.4g} to {levels[-1]:.4g}")
    x = path.y / math.sqrt(1 + levels[0] ** 2)
    for i, t in enumerate(scheduler.timesteps):
        y = x * math.sqrt(1 + levels[i] ** 2)
        x = scheduler.step(path.eps(y, levels[i]), t, x).prev_sample.to(torch.float64)
    return x * math.sqrt(1 + levels[-1] ** 2)


def _table_loop(path: Path, kind: str, settings: dict[str, Any], eta: float | None = None) -> Tensor:
    """A scheduler that looks ᾱ up by index (DDIM, PNDM, DDPM), down to the first knot; its table in float64."""
    assert path.alphas_cumprod is not None
    generator = torch.Generator().manual_seed(0)
    for steps in range(path.budget, 0, -1):
        scheduler = _scheduler(kind, path, settings)
        try:
            scheduler.set_timesteps(steps)
        except ValueError:  # PNDM needs four steps to start from
            continue
        if len(scheduler.timesteps) <= path.budget:
            break
    else:
        raise Unsupported("more evaluations a step than the budget")
    table = path.alphas_cumprod
    scheduler.alphas_cumprod = table
    scheduler.final_alpha_cumprod = table[0]
    start = int(scheduler.timesteps[0])
    if start != len(table) - 1:
        raise Unsupported(f"starts at index {start} of {len(table)}")
    x = path.y * math.sqrt(float(table[-1]))
    extra = {} if eta is None else {"eta": eta, "generator": generator}
    for t in scheduler.timesteps:
        bar = float(table[int(t)])
        output = path.eps(x / math.sqrt(bar), math.sqrt((1 - bar) / bar))
        x = scheduler.step(output, t, x, **extra).prev_sample
    return x / math.sqrt(float(table[0]))


def _diffusers() -> Iterator[Peer]:
    _quiet()
    loop, own, table = _sigma_loop, _own_grid_loop, _table_loop
    vp: dict[str, tuple[str, dict[str, Any]]] = {}
    for order in (1, 2, 3):
        vp[f"DPM-Solver++({order}M)"] = (
            "DPMSolverMultistepScheduler",
            {"solver_order": order, "algorithm_type": "dpmsolver++"},
        )
    for order in (2, 3):
        vp[f"DPM-Solver-{order} multistep"] = (
            "DPMSolverMultistepScheduler",
            {"solver_order": order, "algorithm_type": "dpmsolver"},
        )
    vp["DPM-Solver++(2M) heun"] = (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "heun"},
    )
    for order in (2, 3):
        for kind in ("dpmsolver++", "dpmsolver"):
            vp[f"singlestep {kind} {order}"] = (
                "DPMSolverSinglestepScheduler",
                {"solver_order": order, "algorithm_type": kind, "lower_order_final": True},
            )
        vp[f"DEIS-{order}"] = ("DEISMultistepScheduler", {"solver_order": order})
        for b in ("bh1", "bh2"):
            vp[f"UniPC-{order} {b}"] = ("UniPCMultistepScheduler", {"solver_order": order, "solver_type": b})
        vp[f"UniPC-{order} bh2 noise"] = (
            "UniPCMultistepScheduler",
            {"solver_order": order, "solver_type": "bh2", "predict_x0": False},
        )
    for name, (kind, settings) in vp.items():
        ending = {} if kind == "DEISMultistepScheduler" else {"final_sigmas_type": "sigma_min"}
        for grid in ("log", "karras"):
            given = {**settings, **ending}
            given.setdefault("lower_order_final", False)
            run = functools.partial(loop, kind=kind, grid=grid, settings=given, scaled=True)
            yield Peer(f"diffusers {name}, {grid}", run)
        # As people use it: its own time steps, and a lower order at the end below 15 steps.
        if ending and kind != "DPMSolverSinglestepScheduler":
            given = {**settings, **ending, "timestep_spacing": "linspace"}
            yield Peer(f"diffusers {name}, linspace", functools.partial(own, kind=kind, settings=given), needs="table")
    for order in (2, 3):
        for grid in ("karras", "log"):
            settings = {"solver_order": order, "final_sigmas_type": "sigma_min", "lower_order_final": False}
            kind = "EDMDPMSolverMultistepScheduler"
            run = functools.partial(loop, kind=kind, grid=grid, settings=settings, scaled=False)
            yield Peer(f"diffusers EDM DPM-Solver++({order}M), {grid}", run)
    for grid in ("karras", "log"):
        simple = {"EDM Euler": "EDMEulerScheduler", "Euler": "EulerDiscreteScheduler"}
        for name, kind in simple.items():
            run = functools.partial(loop, kind=kind, grid=grid, settings={}, scaled=False)
            yield Peer(f"diffusers {name}, {grid}", run)
        run = functools.partial(loop, kind="HeunDiscreteScheduler", grid=grid, settings={}, scaled=False, calls=2)
        yield Peer(f"diffusers Heun, {grid}", run)
        run = functools.partial(loop, kind="LMSDiscreteScheduler", grid=grid, settings={}, scaled=False, order=4)
        yield Peer(f"diffusers LMS-4, {grid}", run)
    for spacing in ("linspace", "trailing"):
        settings = {"timestep_spacing": spacing, "set_alpha_to_one": False}
        yield Peer(
            f"diffusers DDIM, {spacing}",
            functools.partial(table, kind="DDIMScheduler", settings={**settings, "clip_sample": False}),
            needs="table",
        )
        for skip in (True, False):
            given = {**settings, "skip_prk_steps": skip}
            name = "PLMS" if skip else "PNDM"
            run = functools.partial(table, kind="PNDMScheduler", settings=given)
            yield Peer(f"diffusers {name}, {spacing}", run, needs="table")
    # Stochastic.
    for order in (1, 2, 3):
        settings = {"solver_order": order, "algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"}
        for grid in ("karras", "log"):
            run = functools.partial(loop, kind="DPMSolverMultistepScheduler", grid=grid, settings=settings, scaled=True)
            yield Peer(f"diffusers SDE-DPM-Solver++({order}M), {grid}", run, stochastic=True)
    for grid in ("karras", "log"):
        run = functools.partial(loop, kind="EulerAncestralDiscreteScheduler", grid=grid, settings={}, scaled=False)
        yield Peer(f"diffusers Euler ancestral, {grid}", run, stochastic=True)
        run = functools.partial(loop, kind="SASolverScheduler", grid=grid, settings={"tau_func": _one}, scaled=True)
        yield Peer(f"diffusers SA-Solver, {grid}", run, stochastic=True)
    settings = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "clip_sample": False}
    run = functools.partial(table, kind="DDIMScheduler", settings=settings, eta=1.0)
    yield Peer("diffusers DDIM η=1, trailing", run, stochastic=True, needs="table")


def _one(t: object) -> float:
    return 1.0


# --- azula ------------------------------------------------------------------------------------------------------------


def _azula_run(path: Path, make: Callable[[Any], Any], grid: str, calls: int) -> Tensor:
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import Schedule

    steps = path.budget // calls
    levels = path.levels(grid, steps)

    class Levels(Schedule):
        """The path's levels at the sampler's own equally spaced times."""

        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            rho = levels[((1 - t) * steps).round().long()]
            return torch.ones_like(rho), rho

    class Exact(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = Levels()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: object) -> DiracPosterior:
            return DiracPosterior(path.mean(x_t, float(self.schedule(t)[1])))

    sampler = make(Exact(), steps=steps, silent=True, dtype=torch.float64)
    return sampler(path.y)


def _azula() -> Iterator[Peer]:
    from azula import sample

    for grid in ("log", "karras"):
        for order in (1, 2, 3, 4):
            for name, cls in (
                ("AB{} ε in ρ", sample.zABSampler),
                ("AB{} v", sample.vABSampler),
                ("exponential AB{} ε", sample.zEABSampler),
                ("exponential AB{} x", sample.xEABSampler),
                ("Rosenbrock AB{}", sample.REABSampler),
            ):
                if order == 1 and name != "exponential AB{} x":
                    continue  # all Euler in ρ, which is DDIM
                make = functools.partial(cls, order=order)
                run = functools.partial(_azula_run, make=make, grid=grid, calls=1)
                yield Peer(f"azula {name.format(order)}, {grid}", run)
        yield Peer(f"azula Heun, {grid}", functools.partial(_azula_run, make=sample.HeunSampler, grid=grid, calls=2))
        for name, make, calls in (
            ("DDPM", sample.DDPMSampler, 1),
            ("Itô", sample.ItoSampler, 1),
            ("PC", sample.PCSampler, 2),
        ):
            run = functools.partial(_azula_run, make=make, grid=grid, calls=calls)
            yield Peer(f"azula {name}, {grid}", run, stochastic=True)


# --- k-diffusion ------------------------------------------------------------------------------------------------------


@functools.cache
def _k_sampling() -> Any:
    """k_diffusion.sampling; without torchvision it is loaded by path.

    Its one import from the package, ``utils``, wants torchvision for pictures. Then a module of that name holds
    ``append_dims`` alone, compiled from the installed file: the one function that sampling.py takes from it.
    """
    with contextlib.suppress(ImportError):
        return importlib.import_module("k_diffusion.sampling")
    import ast
    from importlib.metadata import files

    paths = {f.name: f.locate() for f in files("k-diffusion") or [] if f.parent.name == "k_diffusion"}
    tree = ast.parse(paths["utils.py"].read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "append_dims"]
    package, utils = types.ModuleType("_k_diffusion"), types.ModuleType("_k_diffusion.utils")
    exec(compile(tree, str(paths["utils.py"]), "exec"), utils.__dict__)
    package.__path__ = []
    package.utils = utils  # type: ignore[attr-defined]
    sys.modules.update({"_k_diffusion": package, "_k_diffusion.utils": utils})
    spec = importlib.util.spec_from_file_location("_k_diffusion.sampling", paths["sampling.py"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _k_run(path: Path, name: str, grid: str, calls: int, extra: dict[str, Any]) -> Tensor:
    function = getattr(_k_sampling(), name)
    generator = torch.Generator().manual_seed(0)
    fresh = lambda *_: torch.randn(path.y.shape, generator=generator, dtype=torch.float64)
    if "noise_sampler" in inspect.signature(function).parameters:
        extra = {**extra, "noise_sampler": fresh}

    def model(x: Tensor, sigma: Tensor, **_: object) -> Tensor:
        return path.mean(x, float(sigma.reshape(-1)[0]))

    if name == "sample_dpm_fast":
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)  # it makes its times itself
        try:
            return function(model, path.y, path.rho_min, path.rho_max, path.budget, disable=True, **extra)
        finally:
            torch.set_default_dtype(default)
    return function(model, path.y, path.levels(grid, path.budget // calls), disable=True, **extra)


def _k_diffusion() -> Iterator[Peer]:
    _k_sampling()
    for grid in ("karras", "log"):
        for name, calls, stochastic in (
            ("sample_euler", 1, False),
            ("sample_heun", 2, False),
            ("sample_dpm_2", 2, False),
            ("sample_lms", 1, False),
            ("sample_dpmpp_2m", 1, False),
            ("sample_euler_ancestral", 1, True),
            ("sample_dpm_2_ancestral", 2, True),
            ("sample_dpmpp_2s_ancestral", 2, True),
            ("sample_dpmpp_sde", 2, True),
            ("sample_dpmpp_2m_sde", 1, True),
            ("sample_dpmpp_3m_sde", 1, True),
        ):
            run = functools.partial(_k_run, name=name, grid=grid, calls=calls, extra={})
            yield Peer(f"k-diffusion {name.removeprefix('sample_')}, {grid}", run, stochastic=stochastic)
    yield Peer(
        "k-diffusion dpm_fast, log", functools.partial(_k_run, name="sample_dpm_fast", grid="log", calls=1, extra={})
    )


# --- torchdiffeq ------------------------------------------------------------------------------------------------------


def _odeint(path: Path, method: str, grid: str, calls: int, variable: str) -> Tensor:
    from torchdiffeq import odeint

    levels = path.levels(grid, path.budget // calls)
    if variable == "ρ":
        slope = lambda rho, y: path.eps(y, float(rho))
        times = levels
    else:
        slope = lambda u, y: y - path.mean(y, math.exp(float(u)))
        times = torch.log(levels)
    return odeint(slope, path.y, times, method=method)[-1]


def _adaptive(path: Path, method: str) -> Tensor:
    """In log ρ, at the tolerance that spends most of the budget without passing it."""
    from torchdiffeq import odeint

    spent = 0

    def slope(u: Tensor, y: Tensor) -> Tensor:
        nonlocal spent
        spent += 1
        if spent > path.budget:
            raise Unsupported("needs more")
        return y - path.mean(y, math.exp(float(u)))

    ends = torch.tensor([math.log(path.rho_max), math.log(path.rho_min)], dtype=torch.float64)
    best, low, high = None, -12.0, 3.0
    for _ in range(9):
        spent, middle = 0, (low + high) / 2
        try:
            best = odeint(slope, path.y, ends, method=method, rtol=10**middle, atol=10**middle)[-1]
            path.spent[:] = [spent]
            high = middle
        except (Unsupported, AssertionError):
            low = middle
    if best is None:
        raise Unsupported("no tolerance is loose enough for the budget")
    return best


def _torchdiffeq() -> Iterator[Peer]:
    for grid in ("log", "karras"):
        for method, calls in (("euler", 1), ("midpoint", 2), ("heun3", 3), ("rk4", 4)):
            for variable in ("log ρ", "ρ"):
                run = functools.partial(_odeint, method=method, grid=grid, calls=calls, variable=variable)
                yield Peer(f"torchdiffeq {method} in {variable}, {grid}", run)
    for method in ("dopri5", "bosh3"):
        yield Peer(f"torchdiffeq {method} in log ρ, adaptive", functools.partial(_adaptive, method=method))


FAMILIES: dict[str, Callable[[], Iterator[Peer]]] = {
    "diffusers": _diffusers,
    "azula": _azula,
    "k-diffusion": _k_diffusion,
    "torchdiffeq": _torchdiffeq,
}


def peers() -> tuple[list[Peer], list[str]]:
    """All configurations of what is installed, and a line for each package that is not."""
    found: list[Peer] = []
    missing = []
    for family, make in FAMILIES.items():
        try:
            found += list(make())
        except ImportError as error:
            missing.append(f"{family} is left out: {error}")
    return found, missing


def run(peer: Peer, path: Path) -> Tensor:
    """y at ρ_min, with the peer's own noise fixed."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (theirs may draw from it)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peer.run(path)
