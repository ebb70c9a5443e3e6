"""Phase space beside VP on point sets: the same network, steps, batch and noise; sliced W2 at equal evaluations.

    python benchmarks/phase.py --out runs/phase                 trains what is not there yet, then prints the table
    python benchmarks/phase.py --out runs/phase --sets moons

The floor is the distance between two independent sets of the truth of the same size, its mean over pairs and the mean
plus four standard deviations; nothing can be told apart below the latter.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import langevin
from langevin import data, samplers, training
from langevin.data import toys
from langevin.denoisers import Denoiser, convert, dirac
from langevin.distributions import Noise
from langevin.metrics import sliced_wasserstein
from langevin.processes import PhaseSpace, expand
from langevin.samplers import Sampler, State

MODELS = {
    "VP eps": ("vp", "eps"),
    "VP edm": ("vp", "edm"),
    "phase mixed": ("phase-space", "mixed"),
    "phase edm": ("phase-space", "edm"),
    "phase, of VP edm": ("vp", "edm"),
}
"""Process and prediction; the last is the network of the second, its belief carried over to phase space."""

EVALUATIONS = (10, 20, 50, 100)


@dataclass(frozen=True)
class EulerMaruyama(Sampler):
    """The reverse SDE of phase space by Euler–Maruyama, what SSCS is compared with in arXiv:2112.07068."""

    def step(self, state: State, s: Tensor, denoiser: Denoiser, noise: Noise) -> State:
        process: PhaseSpace = denoiser.process  # type: ignore[assignment]
        z, h = state.x, expand(state.t - s, state.x)
        x, v = z.unbind(1)
        score = process.score(z, denoiser(z, state.t), state.t)[:, 1]
        move = torch.stack((-v, x + 2 * v + 4 * score), 1) * process.beta
        kick = torch.stack((torch.zeros_like(v), 2 * noise.normal(tuple(v.shape[1:])).to(v)), 1)
        return state.move(z + h * move + torch.sqrt(process.beta * h) * kick, s)


SAMPLERS: dict[str, dict[str, tuple[Sampler | None, str | None, int]]] = {
    "VP": {
        "default (Gaussian remainder)": (None, None, 1),
        "DPM-Solver++(2M), Karras": (samplers.DPMSolverPP(), "karras", 1),
        "DDIM, quadratic": (samplers.DDIM(), "quadratic", 1),
        "DDPM β̃, quadratic": (samplers.DDPM(), "quadratic", 1),
        "Euler–Maruyama, quadratic": (samplers.EulerMaruyama(), "quadratic", 1),
    },
    "phase": {
        "default (Gaussian remainder of the look)": (None, None, 1),
        "phase-projected DPM-Solver++(2M), Karras": (samplers.PhaseProjected(samplers.DPMSolverPP()), "karras", 1),
        "SSCS, quadratic": (samplers.SSCS(), "quadratic", 1),
        "phase-2m, quadratic": (samplers.PhaseMultistep(), "quadratic", 1),
        "Euler–Maruyama, quadratic": (EulerMaruyama(), "quadratic", 1),
        "ancestral β̃, quadratic": (samplers.Ancestral(belief=dirac), "quadratic", 1),
        "ancestral η = 0, quadratic": (samplers.Ancestral(0.0, dirac), "quadratic", 1),
    },
}
"""A sampler, its grid, and the evaluations a step."""


def truth(name: str, n: int, seed: int) -> Tensor:
    """Fresh points of a set."""
    points = getattr(toys, name).__wrapped__(n, np.random.RandomState(1000 + seed))[0]
    return torch.from_numpy(np.asarray(points)).double()


def model(name: str, kind: str, out: Path, steps: int, seed: int) -> Denoiser:
    """The model of a set, trained if it is not there."""
    process, prediction = MODELS[kind]
    folder = out / f"{name}-{process}-{prediction}-{steps}-{seed}"
    if not (folder / "model.safetensors").exists():
        config = training.Config(
            seed=seed,
            batch=256,
            network=training.NetworkConfig("mlp", {"width": 64, "depth": 3, "conditions": {}}),  # type: ignore[dict-item]
            process=training.ProcessConfig(process),
            prediction=training.PredictionConfig(prediction),
            budget=training.BudgetConfig(steps=steps),
            output=training.OutputConfig(sample_every=0, checkpoint_every=0),
        )
        training.train(config, data.load(name), folder, device="cpu")
    made = langevin.load(folder, device="cpu")
    return convert(made, PhaseSpace()) if kind.startswith("phase,") else made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/phase"))
    parser.add_argument("--sets", nargs="+", default=["swissroll", "mixture"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each model, whose distances are averaged")
    options = parser.parse_args()
    distance = lambda x, y: sliced_wasserstein(x.double(), y)
    for name in options.sets:
        sets = [truth(name, options.n, i) for i in range(24)]
        floors = torch.tensor([distance(a, b) for a, b in zip(sets[::2], sets[1::2])])
        print(f"{name}: floor {floors.mean():.4f}, {floors.mean() + 4 * floors.std():.4f}", flush=True)
        print(f"| model | sampler | {' | '.join(map(str, EVALUATIONS))} |\n|---|---|{'---|' * len(EVALUATIONS)}")
        for kind in options.models:
            models = [model(name, kind, options.out, options.steps, seed) for seed in range(options.seeds)]
            for sampler, (rule, grid, cost) in SAMPLERS[kind.split()[0].strip(",")].items():
                row = []
                for count in EVALUATIONS:
                    made = [
                        langevin.sample(m, rule, n=options.n, steps=count // cost, grid=grid, seed=7, batch=options.n)
                        for m in models
                    ]
                    row.append(sum(distance(x, sets[i]) for i, x in enumerate(made)) / len(made))
                print(f"| {kind} | {sampler} | {' | '.join(f'{v:.4f}' for v in row)} |", flush=True)


if __name__ == "__main__":
    main()
