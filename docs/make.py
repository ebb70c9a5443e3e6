"""Makes what the documentation shows: the pictures of docs/img and the table of docs/methods.md.

Run: make docs
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import langevin
from langevin import Noise, processes, samplers, worlds
from langevin._registry import methods
from langevin.samplers.clock import clock

HERE = Path(__file__).parent
IMAGES = HERE / "img"
INK, NOISE, DATA = "#1f2937", "#94a3b8", "#2563eb"


def methods_table() -> str:
    """The registry as a page."""
    lines = [
        "# Methods",
        "",
        "Made from the registry by `make docs`; `langevin methods` prints the same rows.",
    ]
    room = ""
    for method in methods():
        if method.room != room:
            room = method.room
            lines += ["", f"## {room}", "", "| name | method | arXiv | where | proof |", "|---|---|---|---|---|"]
        paper = f"[{method.arxiv}](https://arxiv.org/abs/{method.arxiv})" if method.arxiv else ""
        lines.append(f"| `{method.name}` | {method.title} | {paper} | `{method.where}` | {method.proof} |")
    return "\n".join(lines) + "\n"


def states(process: processes.Process, denoiser: langevin.denoisers.Denoiser, n: int, shown: list[float]) -> list:
    """The states at some times of one trajectory of 64 ancestral steps."""
    grid = samplers.default_grid(process, 64) if isinstance(process, processes.ScalarGaussian) else None
    grid = torch.linspace(1, 0, 65, dtype=torch.float64) if grid is None else grid
    noise = Noise(0, n)
    start = process.prior(denoiser.shape).sample(noise)
    walk = list(langevin.trajectory(denoiser, samplers.Ancestral(), grid=grid, start=start, noise=noise))
    picks = [min(walk, key=lambda state: abs(float(state.t) - t)) for t in shown]
    return [(float(state.t), state.x) for state in picks]


def plane(process: processes.Process, name: str, scale: bool) -> None:
    """A ring of eight components, from noise to data, through the one loop."""
    world = worlds.ring(8, 1.0, 0.08)
    shown = [1.0, 0.6, 0.3, 0.1, 0.0]
    if scale:  # where σ runs over decades, equal steps of log σ show more
        shown = [1.0, 0.03, 0.01, 0.004, 0.0] if name == "edm" else [1.0, 0.75, 0.6, 0.4, 0.0]
    picks = states(process, world.denoiser(process), 1500, shown)
    figure, axes = plt.subplots(1, len(picks), figsize=(12, 2.7))
    for axis, (t, x) in zip(axes, picks):
        x = process.read(x)
        limit = 1.15 * float(x.abs().quantile(0.995))
        axis.scatter(*x.T, s=2, c=DATA if t == 0 else NOISE, alpha=0.6, linewidths=0)
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"t = {t:.3g}", color=INK, fontsize=10)
    save(figure, name)


def tokens(process: processes.Chain, name: str) -> None:
    """Sequences of 24 tokens of one of four patterns; grey is the mask or whatever replaced a token."""
    pattern = torch.arange(24)
    points = torch.stack([(pattern // k) % 4 for k in (1, 2, 3, 6)])
    world = worlds.Empirical(points)
    picks = states(process, world.denoiser(process), 12, [1.0, 0.75, 0.5, 0.25, 0.0])
    figure, axes = plt.subplots(1, len(picks), figsize=(12, 1.9))
    colours = matplotlib.colors.ListedColormap(["#1d4ed8", "#0ea5e9", "#f59e0b", "#be123c", "#e5e7eb"])
    for axis, (t, x) in zip(axes, picks):
        axis.imshow(x, cmap=colours, vmin=0, vmax=4, aspect="auto", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"t = {t:.3g}", color=INK, fontsize=10)
    save(figure, name)


def phase(name: str) -> None:
    """Position against velocity: a 1-D world of two points of unequal weight."""
    process = processes.PhaseSpace()
    world = worlds.GaussianMixture(
        torch.tensor([0.35, 0.65]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.01, 0.01])
    )
    picks = states(process, world.denoiser(process), 2000, [1.0, 0.4, 0.2, 0.1, 0.0])
    figure, axes = plt.subplots(1, len(picks), figsize=(12, 2.7))
    for axis, (t, x) in zip(axes, picks):
        axis.scatter(x[:, 0, 0], x[:, 1, 0], s=2, c=DATA if t == 0 else NOISE, alpha=0.6, linewidths=0)
        axis.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), xticks=[], yticks=[], xlabel="x", ylabel="v")
        axis.set_title(f"t = {t:.3g}", color=INK, fontsize=10)
    save(figure, name)


def gamma(name: str) -> None:
    """Skewed noise: histograms of x_t for three points, through Gamma noise and back."""
    process = processes.GammaNoise(theta=0.5)
    world = worlds.Empirical(torch.tensor([[-1.0], [0.2], [1.5]], dtype=torch.float64), torch.tensor([0.5, 0.2, 0.3]))
    picks = states(process, world.denoiser(process), 4000, [1.0, 0.4, 0.2, 0.1, 0.0])
    figure, axes = plt.subplots(1, len(picks), figsize=(12, 2.2))
    for axis, (t, x) in zip(axes, picks):
        axis.hist(x[:, 0].numpy(), bins=80, range=(-3, 4), color=DATA if t == 0 else NOISE)
        axis.set(yticks=[])
        axis.set_title(f"t = {t:.3g}", color=INK, fontsize=10)
    save(figure, name)


def fine_mixture(factor: float) -> worlds.GaussianMixture:
    """Eight components of rank 16 in 64 dimensions, so many times finer than they are apart."""
    world = worlds.random_mixture(64, 8, 16, seed=7)
    covariances = torch.einsum("kij,kj,klj->kil", world.basis, world.values, world.basis) / factor**2
    return worlds.GaussianMixture(world.log_weights.exp(), world.means, covariances)


def remainder_clock(name: str) -> None:
    """The density of evaluations of the Gaussian remainder, the spectrum it is made of, and ten evaluations."""
    process = processes.EDM()
    shown = {"ring": worlds.ring(), "64-D mixture": fine_mixture(1), "components four times finer": fine_mixture(4)}
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.6), sharex=True, sharey=True)
    u = torch.linspace(-7, 4.4, 400, dtype=torch.float64).numpy()
    for axis, (title, world) in zip(axes, shown.items()):
        moments = samplers.Moments.of(world.mean, world.cov)
        v = clock(moments)
        axis.plot(torch.exp(torch.as_tensor(u)), (v(u + 1e-3) - v(u - 1e-3)) / 2e-3, c=INK)
        times = samplers.GaussianRemainder(moments).default_grid(process, 10)[1:-1]
        axis.plot(process.sigma(times), torch.full((10,), 0.005), "|", c=DATA, ms=12)
        axis.plot(moments.values.sqrt(), torch.full_like(moments.values, 0.3), "|", c=NOISE, ms=8)
        axis.set(xscale="log", xlabel="σ", yticks=[])
        axis.set_title(title, color=INK, fontsize=10)
    axes[0].set_ylabel("evaluations per log σ")
    save(figure, name)


def remainder_error(name: str) -> None:
    """Median error at the end of the path against evaluations, relative to the data's RMS."""
    process, counts = processes.EDM(), (5, 7, 10, 14, 20, 28, 40)
    rules = {
        "Gaussian remainder": (samplers.GaussianRemainder(), None, DATA),
        "— nothing known": (None, None, "#0ea5e9"),
        "Adams–Bashforth 4, log σ": (samplers.Multistep("eps", "log-snr", 4), "log-snr", "#be123c"),
        "DPM-Solver++(2M), Karras": (samplers.DPMSolverPP(), "karras", "#f59e0b"),
    }
    shown = {"ring": worlds.ring(), "64-D mixture": fine_mixture(1), "components four times finer": fine_mixture(4)}
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), sharey=True)
    for axis, (title, world) in zip(axes, shown.items()):
        denoiser, noise = world.denoiser(process), Noise(3, 96)
        rms = float((torch.trace(world.cov) / world.shape[0] + (world.mean**2).mean()).sqrt())
        # 400 evaluations of the same method have an error a thousand times below the smallest one shown.
        truth = samplers.sample(denoiser, samplers.GaussianRemainder(), noise=noise, steps=400)
        for label, (rule, grid, colour) in rules.items():
            sampler = samplers.GaussianRemainder(samplers.Moments.unknown(world.shape[0])) if rule is None else rule
            errors = []
            for steps in counts:
                x = samplers.sample(denoiser, sampler, noise=noise, steps=steps, grid=grid)
                errors.append(float((x - truth).square().mean(1).sqrt().median()) / rms)
            axis.plot(counts, errors, "o-", c=colour, ms=3, lw=1.2, label=label)
        axis.set(xscale="log", yscale="log", xlabel="evaluations", xticks=counts, xticklabels=counts)
        axis.minorticks_off()
        axis.set_title(title, color=INK, fontsize=10)
    axes[0].set_ylabel("median error / RMS")
    axes[0].legend(fontsize=8, frameon=False)
    save(figure, name)


def variances(name: str) -> None:
    """Γ and the variance of the belief by noise, and five steps from the same mean with three variances."""
    world, process = worlds.random_mixture(2, 4, rms=0.7, seed=2), processes.EDM()
    denoiser, n = world.denoiser(process), 3000
    found = langevin.denoisers.calibrate(denoiser, world.sample(2000, 5))
    figure, axes = plt.subplots(1, 5, figsize=(14, 3.1))
    fine = torch.linspace(float(found.log_snr[0]), float(found.log_snr[-1]), 300, dtype=torch.float64)
    noise = torch.exp(-fine / 2)
    axes[0].plot(noise, found.at(fine), c=DATA, label="optimal")
    axes[0].plot(noise, 1 / (1 + torch.exp(fine)), "--", c="#be123c", label="β")
    axes[0].plot(torch.exp(-found.log_snr / 2), found.error, ".", c=INK, label="measured error²")
    axes[0].set(xscale="log", yscale="log", xlabel="σ/α")
    axes[0].set_title("variance of the belief", color=INK, fontsize=10)
    axes[0].legend(fontsize=8, frameon=False)
    picks = {"β̃": langevin.denoisers.dirac, "β": langevin.denoisers.unit, "optimal, one number": found}
    sets = {title: samplers.sample(pick(denoiser), samplers.Ancestral(), n=n, steps=5) for title, pick in picks.items()}
    for axis, (title, x) in zip(axes[1:], {**sets, "the truth": world.sample(n, 1)}.items()):
        axis.scatter(*x.T, s=2, c=DATA, alpha=0.4, linewidths=0)
        axis.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"5 steps, {title}" if title in picks else title, color=INK, fontsize=10)
    save(figure, name)


def save(figure: plt.Figure, name: str) -> None:
    """One PNG, small enough to keep in the repository."""
    IMAGES.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / f"{name}.png", dpi=80)
    plt.close(figure)
    print(f"docs/img/{name}.png")


def main() -> None:
    """All of it."""
    (HERE / "methods.md").write_text(methods_table())
    print("docs/methods.md")
    plane(processes.VP(), "vp", False)
    plane(processes.SubVP(), "sub-vp", False)
    plane(processes.VE(), "ve", True)
    plane(processes.EDM(), "edm", True)
    plane(processes.RectifiedFlow(), "flow", False)
    plane(processes.Cosine(), "cosine", False)
    plane(processes.DDPM(), "ddpm", False)
    tokens(processes.Absorbing(4), "absorbing")
    tokens(processes.Uniform(4), "uniform")
    step = (1 - 1 / torch.arange(64, 0, -1, dtype=torch.float64)).reshape(-1, 1, 1)
    near = (
        torch.roll(torch.eye(4, dtype=torch.float64), 1, 0) * 0.5
        + torch.roll(torch.eye(4, dtype=torch.float64), -1, 0) * 0.5
    )
    mix = torch.linalg.matrix_power(0.5 * torch.eye(4, dtype=torch.float64) + 0.5 * near, 8)
    tokens(processes.FiniteChain(step * torch.eye(4, dtype=torch.float64) + (1 - step) * mix), "chain")
    phase("phase-space")
    gamma("gamma")
    variances("variance")
    remainder_clock("remainder-clock")
    remainder_error("remainder-error")


if __name__ == "__main__":
    main()
