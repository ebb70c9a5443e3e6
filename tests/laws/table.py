"""The conformance table: what every row must satisfy by being a row.

A new process, sampler, grid, guidance or prediction is one line here; the tests beside this file run all of them, and
fail while a registered method, class or function, has no line (``without_row``) and is not exempt.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from langevin import Noise, guidance, processes, samplers, worlds
from langevin._registry import methods
from langevin.denoisers import Denoiser, dirac, gaussian
from langevin.samplers import Sampler

PROCESSES = {
    "vp": processes.VP(),
    "sub-vp": processes.SubVP(),
    "ve": processes.VE(),
    "edm": processes.EDM(),
    "flow": processes.RectifiedFlow(),
    "cosine": processes.Cosine(),
    "ddpm": processes.DDPM(),
    "ddpm-cosine": processes.DDPM(processes.cosine_betas()),
    "ddpm-scaled": processes.DDPM(processes.scaled_linear_betas()),
    "learned": processes.Learned([-13.3, -6.0, -3.5, -1.0, 5.0]),
    "ddpm-own": processes.DDPM([0.01 * 1.2**i for i in range(25)]),
}

ROWS = torch.softmax(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double(), -1)

CHAINS = {
    "absorbing": processes.Absorbing(3),
    "absorbing-cosine": processes.Absorbing(3, "cosine"),
    "uniform": processes.Uniform(3),
    "uniform-information": processes.Uniform(3, "mutual-information"),
    "discretised-gaussian": processes.DiscretisedGaussian(3, 64, 0.2, 60.0),
    "neighbours": processes.Neighbours(3, [[0.0], [1.0], [1.5]], 1),
    "chain": processes.FiniteChain((0.95 * torch.eye(4).double() + 0.05 * ROWS).expand(64, 4, 4), 3),
}
"""Chains on tokens of three classes; those on a table have 64 steps."""

FAST = ("vp", "edm", "flow", "ddpm")
"""One process of each kind: in every run of the tests each row is held to everything on one of
them, in turn. The rest is ``slow``."""

SMOOTH = ("vp", "sub-vp", "ve", "edm", "flow", "cosine")
"""Processes without kinks in t, on which orders are measured."""

PREDICTIONS = ("eps", "x0", "v", "flow", "score", "edm")

GRIDS = ("uniform", "shifted", "quadratic", "log-snr", "karras", "optimal")

TABLE_GRIDS = ("leading", "linspace", "trailing")


@dataclass(frozen=True)
class Setting:
    """What a guidance may need: the world, the denoiser it guides (of the world, or of a network), a label, a grid."""

    world: worlds.World
    denoiser: Denoiser
    label: int | torch.Tensor
    grid: torch.Tensor

    @property
    def given(self) -> Denoiser:
        """The denoiser under the label."""
        return self.denoiser.given(label=self.label)


@dataclass(frozen=True)
class Guide:
    """A guidance and what it claims.

    Args:
        make: the guided denoiser of a setting.
        evaluations: of the network, in one call.
        exact: with exact parts it is the belief under the label.
        whole: it needs whole beliefs, which networks have not.
        phase, tokens: it is defined in phase space, on tokens; elsewhere it is refused.
        on_grid: it is for samplers that ask at the times of the grid alone.
    """

    make: Callable[[Setting], Denoiser]
    evaluations: int
    exact: bool = False
    whole: bool = False
    phase: bool = True
    tokens: bool = True
    on_grid: bool = False


def size(x0: torch.Tensor) -> torch.Tensor:
    """A loss: half the square of the norm."""
    return x0.flatten(1).square().sum(1) / 2


GUIDANCE = {
    "classifier": Guide(
        lambda s: guidance.classifier(s.denoiser, s.world.classifier(s.denoiser.process), label=s.label),
        1,
        exact=True,
        phase=False,
        tokens=False,
    ),
    "classifier-4": Guide(
        lambda s: guidance.classifier(s.denoiser, s.world.classifier(s.denoiser.process), label=s.label, scale=4.0),
        1,
        phase=False,
        tokens=False,
    ),
    "classifier-free": Guide(
        lambda s: guidance.classifier_free(s.denoiser, label=s.label, guidance_scale=1.0), 1, exact=True
    ),
    "classifier-free-4": Guide(lambda s: guidance.classifier_free(s.denoiser, label=s.label, guidance_scale=4.0), 2),
    "negative": Guide(
        lambda s: guidance.classifier_free(s.denoiser, label=s.label, guidance_scale=4.0, negative={"label": 0}), 2
    ),
    "rescaled": Guide(
        lambda s: guidance.classifier_free(s.denoiser, label=s.label, guidance_scale=4.0, rescale=0.7), 2, tokens=False
    ),
    "rescale": Guide(lambda s: guidance.rescale(guidance.autoguidance(s.given, s.denoiser, 2.0), 0.7), 2, tokens=False),
    "interval": Guide(
        lambda s: guidance.interval(
            s.given, guidance.classifier_free(s.denoiser, label=s.label, guidance_scale=4.0), (0.2, math.inf)
        ),
        2,
        tokens=False,
    ),
    "autoguidance": Guide(lambda s: guidance.autoguidance(s.given, s.denoiser, 2.0), 2),
    "apg": Guide(
        lambda s: guidance.apg(s.denoiser, label=s.label, guidance_scale=4.0, norm_threshold=1.0), 2, tokens=False
    ),
    "cfg-plus-plus": Guide(
        lambda s: guidance.cfg_plus_plus(s.denoiser, label=s.label, scale=0.6, grid=s.grid),
        2,
        phase=False,
        tokens=False,
        on_grid=True,
    ),
    "cfg-zero-star": Guide(
        lambda s: guidance.cfg_zero_star(s.denoiser, label=s.label, guidance_scale=4.0),
        2,
        phase=False,
        tokens=False,
    ),
    "energy": Guide(lambda s: guidance.energy(s.denoiser, size, scale=0.5), 1, phase=False, tokens=False),
    "threshold": Guide(lambda s: guidance.threshold(s.given, 0.9), 1, tokens=False),
    "linear": Guide(lambda s: guidance.linear([s.given, s.denoiser], [0.4, 0.6]), 2),
    "conjunction": Guide(lambda s: guidance.conjunction(s.denoiser, [{"label": s.label}, {"label": 0}], [2.0, 1.0]), 3),
    "negate": Guide(lambda s: guidance.negate(s.given, s.denoiser, 0.5), 2),
    "product": Guide(lambda s: guidance.product([s.given, s.denoiser]), 2, whole=True),
}
"""Functions from denoisers to a denoiser, on a model that takes a label."""


@dataclass(frozen=True)
class Law:
    """A sampler and what it claims.

    Args:
        sampler: the update rule.
        order: of the ODE solver; None for a stochastic one.
        steps: on which its law on the mixtures is tested.
        exact: within the Monte-Carlo floor at ``steps``; otherwise its bias must fall with four times as many.
        evaluations: times at which a step from t to s asks the denoiser: a letter each, or a function of
            (process, t, s); None where they follow from the state or from the grid as a whole.
        second: the same of the second step, if it differs.
        signal: it carries ε̂ from steps where α is 1e-3, which amplifies an error of ε̂ beyond any useful bound, so the
            network's rounding is measured on times uniform in t from log-SNR −4.
    """

    sampler: Sampler
    order: int | None
    steps: int
    exact: bool
    evaluations: str | Callable[[processes.Process, float, float], list[float]] | None = "t"
    second: str = ""
    signal: bool = False


def nodes(sampler: samplers.DPMSolver | samplers.Tableau) -> Callable[[processes.Process, float, float], list[float]]:
    """t and the nodes of a single-step solver; t alone in a step to clean data."""

    def times(process: processes.Process, t: float, s: float) -> list[float]:
        ends = (torch.tensor(v, dtype=torch.float64) for v in (t, s))
        return [t, *(map(float, sampler.times(process, *ends)) if s > 0 else ())]

    return times


def single(sampler: samplers.DPMSolver | samplers.Tableau, order: int | None, steps: int) -> Law:
    """Without an order: it is measured in tests/samplers/test_singlestep.py, since processes differ only in time."""
    return Law(sampler, order, steps, True, evaluations=nodes(sampler))


SAMPLERS = {
    "ancestral": Law(samplers.Ancestral(), None, 4, True),
    "optimal-variance": Law(samplers.Ancestral(belief=gaussian), None, 90, True),
    "ddpm": Law(samplers.DDPM(), None, 40, False),
    "ml-sde": Law(samplers.MaximumLikelihoodSDE(0.7), None, 40, False),
    "ddpm-large": Law(samplers.DDPMLarge(), None, 40, False),
    "ddim": Law(samplers.DDIM(), 1, 40, False),
    "ddim-half": Law(samplers.DDIM(eta=0.5), None, 40, False),
    "dpmpp-2m": Law(samplers.DPMSolverPP(), 2, 120, True),
    "dpmpp-2m-sde": Law(samplers.DPMSolverPPSDE(), None, 120, True),
    "dpmpp-3m": Law(samplers.DPMSolverPP3M(start="corrected"), 3, 120, True),
    "dpmpp-3m-sde": Law(samplers.DPMSolverPP3MSDE(), None, 120, True),
    "dpmpp-4m": Law(samplers.DPMSolverPP(order=4, start="corrected"), 4, 120, True, second="tt"),
    "dpm-multistep": Law(samplers.DPMSolverMultistep(3, start="corrected"), 3, 120, True, signal=True),
    "multistep": Law(samplers.Multistep("v", "angle", 3, start="corrected"), 3, 120, True),
    "multistep-flow": Law(samplers.Multistep("flow", "sigma", 2), 2, 120, True),
    "deis": Law(samplers.DEIS(start="corrected"), 3, 120, True, signal=True),
    "deis-rho": Law(samplers.DEISRho(4, start="corrected"), 4, 120, True, second="tt"),
    "unipc": Law(samplers.UniPC(), 3, 120, True),
    "unipc-b1": Law(samplers.UniPC(1, "eps", "B1"), 2, 120, True, signal=True),
    "plms": Law(samplers.PLMS(), 2, 120, True, signal=True),
    "remainder": Law(samplers.GaussianRemainder(prefix=False), 4, 120, True),
    "remainder-3": Law(samplers.GaussianRemainder(order=3, prefix=False), 3, 120, True),
    "remainder-sde": Law(samplers.GaussianRemainder(eta=1.0, prefix=False), None, 120, True),
    "learned": Law(samplers.LearnedSolver(), 1, 40, False),
    "euler": Law(samplers.Euler(), 1, 40, False),
    "heun": Law(samplers.Heun(), 2, 120, True, evaluations="ts"),
    "euler-maruyama": Law(samplers.EulerMaruyama(), None, 40, False),
    "pc": Law(samplers.PredictorCorrector(), None, 40, False, evaluations="ts"),
    "dpm-2": single(samplers.DPMSolver(2), 2, 60),
    "dpm-3": single(samplers.DPMSolver(3), 3, 40),
    "dpmpp-2s": single(samplers.DPMSolverPP2S(), None, 60),
    "dpmpp-3s": single(samplers.DPMSolverPP3S(), None, 40),
    "rho-midpoint": single(samplers.RhoMidpoint(), None, 60),
    "rho-heun": single(samplers.RhoHeun(), None, 60),
    "rho-kutta3": single(samplers.RhoKutta3(), None, 40),
    "rho-rk4": single(samplers.RhoRK4(), 4, 30),
    "prk": single(samplers.PRK(), None, 40),  # of order 2, and 4 where σ/α is linear in t: tests/samplers
    "dpm-fast": Law(samplers.DPMSolverFast(), None, 40, True, evaluations=None),
    "dpm-12": Law(samplers.DPMSolver12(0.04, 0.004), None, 5, True, evaluations=None),
    "dpm-23": Law(samplers.DPMSolver23(0.02, 0.002), None, 5, True, evaluations=None),
    "rk45": Law(samplers.RK45(1e-3, 1e-3), None, 5, True, evaluations=None),
    "dop853": Law(samplers.DOP853(1e-2, 1e-2), None, 5, True, evaluations=None),
    "edm-euler": Law(samplers.EDMEuler(churn=10), None, 40, False, evaluations=None),
    "edm-heun": Law(samplers.EDMHeun(churn=10, s_noise=1.0), None, 150, True, evaluations=None),
    "pndm": Law(
        samplers.PNDM(), None, 80, True, evaluations=None, signal=True
    ),  # its order: tests/samplers/test_pndm.py
    "ddim-hat": Law(samplers.DDIMHat(), None, 40, False),
    "quasi-taylor": Law(samplers.QuasiTaylor(), 1, 40, False),
    "quasi-taylor-sde": Law(samplers.QuasiTaylor(eta=1.0), None, 40, False),
    "reverse-diffusion": Law(samplers.ReverseDiffusion(), None, 40, False),
    "consistent-annealing": Law(samplers.ConsistentAnnealing(0.1), None, 40, False),
    "preconditioned": Law(samplers.Preconditioned(), None, 40, False),
    "adaptive-sde": Law(samplers.AdaptiveSDE(0.1, 0.05), None, 5, True, evaluations=None),
    "boomerang": Law(samplers.Boomerang(0.4, 2), None, 4, True, evaluations=None),
    "heavy-ball": Law(samplers.HeavyBall(order=1), 1, 40, False),
    "heavy-ball-2": Law(samplers.HeavyBall(), 2, 120, True),
    "annealed-corrected": Law(samplers.Ancestral().then(samplers.AnnealedLangevin(2, 0.02)), None, 4, True, "tss"),
    "momentum-corrected": Law(samplers.Ancestral().then(samplers.MomentumLangevin(2, 0.3)), None, 4, True, "tsss"),
    "ancestral-corrected": Law(samplers.Ancestral().then(samplers.Langevin(2, 0.02)), None, 4, True, evaluations="tss"),
}

PHASES = {"phase-space": processes.PhaseSpace(), "phase-space-soft": processes.PhaseSpace(4.0, 0.5)}
"""Processes whose state has a velocity."""

PHASE_SAMPLERS = {
    "sscs": Law(samplers.SSCS(), None, 40, False, evaluations=lambda p, t, s: [(t + s) / 2 if s > 0 else t]),
    "ancestral": Law(samplers.Ancestral(), None, 4, True),
    "ancestral-half": Law(samplers.Ancestral(0.5), None, 4, True),
    "ancestral-mean": Law(samplers.Ancestral(belief=dirac), None, 60, False),
    "flow-mean": Law(samplers.Ancestral(0.0, dirac), 1, 40, False),
    "phase-projected": Law(samplers.PhaseProjected(samplers.GaussianRemainder(prefix=False)), None, 60, True),
    "phase-projected-sde": Law(samplers.PhaseProjected(samplers.Ancestral()), None, 4, True),
    "phase-2m": Law(samplers.PhaseMultistep(), 2, 60, True),
    "euler": Law(samplers.Euler(), 1, 60, False),
    "heun": Law(samplers.Heun(), 2, 120, True, evaluations="ts"),
    "rk45": Law(samplers.RK45(1e-3, 1e-3), None, 5, True, evaluations=None),
}
"""The rows that run on them."""

EXEMPT = {
    "samplers/mala": "it needs a density, which networks have not: tests/samplers/test_langevin.py",
    "samplers/denoising-mcmc": "it needs a density, which networks have not: tests/samplers/test_denoising_mcmc.py",
    "samplers/preconditioned-langevin": "its filter has the width of the data: tests/samplers/test_langevin.py",
    "samplers/splitting": "it splits off a guidance, and a plain denoiser has none: tests/samplers/test_splitting.py",
    "samplers/reverse-momentum": "it is for one guidance, which most denoisers have not: tests/guidance/test_apg.py",
    "samplers/jump": "it is for models of one step, which are exact by what they are: tests/samplers/test_jump.py",
    "processes/gamma": "its noise is not normal; it has ancestral steps alone: tests/processes/test_gamma.py",
    "processes/mixture": "its noise is not normal; it has ancestral steps alone: tests/processes/test_mixture_noise.py",
    "samplers/projection": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/repaint": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/dps": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/psld": "it needs a measurement of decoded codes: tests/tasks/test_restore_codes.py",
    "samplers/mcg": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/pigdm": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/ddrm": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/diffpir": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/daps": "it needs a measurement: tests/samplers/test_inverse.py",
    "samplers/split-gibbs": "it needs a measurement: tests/samplers/test_inverse.py",
    "guidance/clip": "it needs an encoder: tests/guidance/test_clip_guidance.py",
    "guidance/similarity": "it needs an encoder: tests/guidance/test_similarity.py",
    "guidance/dps": "it needs a measurement: tests/guidance/test_measurement_guidance.py",
    "guidance/pigdm": "it needs a measurement: tests/guidance/test_measurement_guidance.py",
    "guidance/moment-matching": "it needs a measurement: tests/guidance/test_measurement_guidance.py",
}
"""Registered methods without a row, each with the reason and the tests that prove it."""


def made_by(node: ast.AST) -> set[str]:
    """What the samplers and processes of an expression are made by: of ``a.F(b.G()).then(b.H())``, F and H."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(), attr=name)) | ast.Name(id=name):
            return {name}
    return set().union(*map(made_by, ast.iter_child_nodes(node)))


def without_row() -> set[str]:
    """Registered samplers, grids, guidances and processes by which no row of this file is made."""
    body = ast.parse(Path(__file__).read_text(encoding="utf-8")).body
    made = {ast.unparse(n.targets[0]): made_by(n.value) for n in body if isinstance(n, ast.Assign)}
    rows = {
        "samplers": made["SAMPLERS"] | made["PHASE_SAMPLERS"],
        "guidance": made["GUIDANCE"],
        "processes": made["PROCESSES"] | made["CHAINS"] | made["PHASES"],
    }
    lacking = {f"{c}/{m.name}" for c, names in rows.items() for m in methods(c) if m.make.__name__ not in names}
    # The rows of grids are names, which the registry makes.
    return lacking | {f"grids/{m.name}" for m in methods("grids") if m.name not in (*GRIDS, *TABLE_GRIDS)}


def mixture(dim: int) -> worlds.World:
    """The worlds of the table: anisotropic mixtures with an RMS of 0.7 a coordinate and no direction finer than 0.2.

    Finer ones would measure where a table's first knot stands (σ = 0.03 for the scaled-linear one), not the sampler.
    """
    world = worlds.random_mixture(dim, components=4, rms=0.7, seed=dim)
    covariances = torch.einsum("kij,kj,klj->kil", world.basis, world.values + 0.04, world.basis)
    return worlds.GaussianMixture(world.log_weights.exp(), world.means, covariances)


def remembers(sampler, denoiser, x):
    """Whether a sampler keeps the times at which it knows values."""
    first, second = torch.tensor([0.5, 0.4], dtype=torch.float64)
    memory = sampler.step(samplers.State(x, first), second, denoiser, Noise(0, len(x))).memory
    kept = memory if isinstance(memory, tuple) and not hasattr(memory, "times") else (memory,)
    return any(getattr(part, "times", ()) for part in kept)


def check_law(law: Law, run: Callable[[int], tuple[float, float]], floor: float) -> None:
    """Hold a sampler to a law.

    Args:
        law: what it claims.
        run: for a number of steps the distance of its samples to the law, and the gap of their mean log p.
        floor: of the distance.
    """
    distance, gap = run(law.steps)
    most, widest = floor, 4.0
    if not law.exact:
        most, widest = max(floor, 0.6 * distance), 4 + 0.35 * gap
        distance, gap = run(4 * law.steps)
    assert distance < most, (distance, most)
    assert gap < widest, (gap, widest)
