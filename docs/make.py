"""Makes what the documentation shows: the pictures of docs/img and the table of docs/methods.md.

Run: make docs. Recorded figures are printed into the pages by benchmarks/record.py (make figures).

It is one file, of more than 400 lines, since it is a list: a function for each picture, and ``main``, which calls them.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

import langevin
from langevin import Noise, objectives, processes, samplers, worlds
from langevin._registry import methods
from langevin.nn.text import decode_text
from langevin.numerics.frame import GaussianFrame
from langevin.report.sheet import sheet
from langevin.samplers.gaussian.noise_grid import time_warp
from langevin.training import png

HERE = Path(__file__).parent
IMAGES = HERE / "img"
INK, NOISE, DATA = "#1f2937", "#94a3b8", "#2563eb"


def methods_table() -> str:
    """The registry as a page."""
    lines = [
        "# Methods",
        "",
        "Every method of the library has a row here: its name on the command line and in Python, the paper it is from,",
        "and where its code is. Look here for a method you know by its name or its paper. The last column names the",
        "tests that hold it, against exact truth, another implementation (parity) or real data. The page is made from",
        "the registry by `make docs`; `langevin methods` prints the same rows.",
    ]
    category = ""
    for method in methods():
        if method.category != category:
            category = method.category
            lines += ["", f"## {category}", "", "| name | method | arXiv | where | proof |", "|---|---|---|---|---|"]
        paper = ", ".join(f"[{n}](https://arxiv.org/abs/{n})" for n in method.arxiv.split(", ") if n)
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


def pair_error(denoiser: langevin.denoisers.Denoiser, world: worlds.TokenTable, steps: int) -> float:
    """Total variation from the truth of the pairs that ancestral sampling draws, every path summed."""
    chain = denoiser.process
    x = torch.cartesian_prod(*[torch.arange(chain.states)] * 2)
    rows = [chain.marginal(torch.arange(3)[:, None], t).probs[:, 0] for t in (1.0, 0.0)]
    law, truth = (torch.einsum("kl,ki,lj->ij", world.probs, q, q).flatten() for q in rows)
    for t, s in itertools.pairwise(samplers.grids.uniform(chain, steps).tolist()):
        each = chain.reverse(x, denoiser(x, t), t, s).probs
        law = torch.einsum("n,ni,nj->ij", law, each[:, 0], each[:, 1]).flatten()
    return float((law - truth).abs().sum() / 2)


def token_laws(name: str) -> None:
    """Q̄ of four chains at t = ¼, and the error of sampling by steps for two tokens that depend on each other."""
    chains = {
        "absorbing": processes.Absorbing,
        "uniform": processes.Uniform,
        "discretised Gaussian": lambda k: processes.DiscretisedGaussian(k, 128, beta_max=20.0 if k > 3 else 90.0),
        "neighbours": lambda k: processes.Neighbours(k, nearest=min(2, k - 1)),
    }
    figure, axes = plt.subplots(1, 5, figsize=(12, 2.8), width_ratios=(1, 1, 1, 1, 1.8))
    world = worlds.TokenTable(
        torch.softmax(1.5 * torch.randn(9, generator=torch.Generator().manual_seed(5)), 0).reshape(3, 3)
    )
    steps = [1, 2, 4, 8, 16, 32, 64, 128]
    for axis, (title, make), colour in zip(axes, chains.items(), ("#0ea5e9", "#2563eb", "#f59e0b", "#be123c")):
        axis.imshow(make(16).marginal(torch.arange(16)[:, None], 0.25).probs[:, 0], cmap="Blues", vmin=0, vmax=0.4)
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, color=INK, fontsize=10)
        denoiser = langevin.denoisers.independent(world.denoiser(make(3)))
        axes[4].loglog(steps, [pair_error(denoiser, world, n) for n in steps], color=colour, label=title)
        if title != "absorbing":
            twice = langevin.denoisers.reweighted(denoiser)
            axes[4].loglog(steps, [pair_error(twice, world, n) for n in steps], color=colour, ls=":")
    axes[4].set(xlabel="steps", title="total variation; dotted: published reverse")
    axes[4].title.set_fontsize(9)
    axes[4].legend(fontsize=6)
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


def same_law(name: str) -> None:
    """p_t on a grid, noised and brought back, under paths of the reverse SDE and of the probability flow."""
    process = processes.VP()
    world = worlds.GaussianMixture(
        torch.tensor([0.35, 0.65]), torch.tensor([[-1.2], [0.8]]), torch.tensor([0.03, 0.05])
    )
    grid, times = worlds.Grid((-3.2,), (3.2,), (320,)), torch.linspace(1, 0.002, 200, dtype=torch.float64)
    start = grid.density(lambda x: world.log_prob(x, process, 1.0))
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.6), sharey=True)
    for axis, (title, eta, shown) in zip(axes, (("reverse SDE", 1.0, 6), ("probability flow", 0.0, 24))):
        p = worlds.fokker_planck(grid, start, worlds.generative(world.denoiser(process), eta), times)
        axis.pcolormesh(times, grid.centres[:, 0], p.T.sqrt(), cmap="Greys", vmax=1.3, rasterized=True)
        x = process.prior((1,)).sample(Noise(4, shown))
        walk = langevin.trajectory(
            world.denoiser(process), samplers.EulerMaruyama(eta), grid=times, start=x, noise=Noise(4, shown)
        )
        paths = torch.stack([state.x[:, 0] for state in walk])
        axis.plot(times, paths, lw=0.9, c=DATA, alpha=0.8)
        axis.set(xlim=(1, 0), ylim=(-3.2, 3.2), xlabel="t, from noise to data")
        axis.set_title(title, color=INK, fontsize=10)
    axes[0].set_ylabel("x")
    save(figure, name)


def noise_shape(process: processes.LevyNoise, name: str) -> None:
    """Noise that is not normal: histograms of x_t for three points, through it and back."""
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


def remainder_time_warp(name: str) -> None:
    """The density of evaluations of the Gaussian remainder, the spectrum it is made of, and ten evaluations."""
    process = processes.EDM()
    shown = {"ring": worlds.ring(), "64-D mixture": fine_mixture(1), "components four times finer": fine_mixture(4)}
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.6), sharex=True, sharey=True)
    u = torch.linspace(-7, 4.4, 400, dtype=torch.float64).numpy()
    for axis, (title, world) in zip(axes, shown.items()):
        frame = GaussianFrame.from_covariance(world.mean, world.cov)
        v = time_warp(frame)
        axis.plot(torch.exp(torch.as_tensor(u)), (v(u + 1e-3) - v(u - 1e-3)) / 2e-3, c=INK)
        times = samplers.GaussianRemainder(frame).default_grid(process, 10)[1:-1]
        axis.plot(process.sigma(times), torch.full((10,), 0.005), "|", c=DATA, ms=12)
        axis.plot(frame.variances.sqrt(), torch.full_like(frame.variances, 0.3), "|", c=NOISE, ms=8)
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
            sampler = samplers.GaussianRemainder(GaussianFrame.unknown(world.shape[0])) if rule is None else rule
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


def score_levels(name: str) -> None:
    """One noise level and many, on an exact mixture: where learned scores err, and what chains make of them."""
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    import levels as shown

    figure, axes = plt.subplots(2, 3, figsize=(12, 8))
    axis = torch.linspace(-shown.HALF, shown.HALF, 120, dtype=torch.float64)
    square = torch.cartesian_prod(axis, axis)

    def error(axes: plt.Axes, denoiser: langevin.denoisers.Denoiser, t: torch.Tensor, title: str) -> None:
        found, true = shown.scores(denoiser, square, t)
        share = ((found - true).norm(dim=1) / true.norm(dim=1).clamp_min(1e-3)).reshape(120, 120).T
        drawn = axes.pcolormesh(axis, axis, share.log10(), vmin=-2, vmax=0.5, cmap="magma_r", shading="nearest")
        figure.colorbar(drawn, ax=axes, ticks=[-2, -1, 0], fraction=0.046).set_ticklabels(["1 %", "10 %", "100 %"])
        x = shown.WORLD.sample(300, 7, process=denoiser.process, t=t)
        axes.scatter(*x.T, s=3, c=DATA, linewidths=0)
        axes.set_title(title, color=INK, fontsize=10)

    def chains(axes: plt.Axes, x: torch.Tensor, title: str) -> None:
        axes.scatter(*x.T, s=2, c=DATA, alpha=0.6, linewidths=0)
        for place, part in ((5, shown.share(x)), (-5, 1 - shown.share(x))):
            axes.text(0.5 if place < 0 else -1.5, place, f"{part:.0%}", ha="center", color=INK, fontsize=12)
        axes.set_title(title, color=INK, fontsize=10)

    model, t = shown.naive(3000)
    error(axes[0, 0], model, t, "One level: error of the learned score, and data")
    chains(
        axes[0, 1], shown.chain(shown.WORLD.denoiser(model.process), t), "Langevin, exact score (truth: 80 % and 20 %)"
    )
    chains(axes[0, 2], shown.chain(model, t), "Langevin, learned score")
    model, levels = shown.many(3000)
    for i, k in enumerate((3, 6)):
        title = f"{levels.count} levels: error at σ = {float(levels.sigmas[k]):.1f}, and its draws"
        error(axes[1, i], model, levels.times(model.process)[k], title)
    chains(axes[1, 2], shown.annealed(model, levels), "Annealed Langevin, learned scores")
    for panel in axes.flat:
        panel.set(xlim=(-shown.HALF, shown.HALF), ylim=(-shown.HALF, shown.HALF), xticks=[], yticks=[], aspect="equal")
    save(figure, name)


def vdm(name: str) -> None:
    """Schedules with the same ends, the bound they add up to, and the loss at each time before and after learning."""
    world, low, high = worlds.random_mixture(8, components=4, rms=0.5, seed=3), -11.0, 6.0
    x, noise = world.sample(512, 0), Noise(1, 512)
    u = 0.001 + 0.999 * torch.linspace(0, 1, 250, dtype=torch.float64) ** 2
    straight, cosine = processes.Learned((low, high)), processes.Cosine(0.0)
    middle = -cosine.log_snr(torch.linspace(0.002, 0.998, 129, dtype=torch.float64))
    middle = low + (high - low) * (middle - middle[0]) / (middle[-1] - middle[0])
    live = processes.Learning(processes.MonotoneNetwork(low, high))
    inner = [p for n, p in live.network.named_parameters() if n not in ("low", "log_gap")]
    adam, objective = torch.optim.Adam(inner, lr=0.1), objectives.VDM()
    for step in range(150):
        adam.param_groups[0]["lr"] = 0.1 * (1 - step / 150)
        adam.zero_grad()
        objective(world.denoiser(live), world.sample(128, 10 + step), None, Noise(2, 128, draw=step)).mean().backward()
        adam.step()
    shown = {"straight line": (straight, NOISE), "cosine's": (processes.Learned(middle.tolist()), "#f59e0b")}
    shown["learned"] = (live.frozen(), DATA)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    for label, (process, colour) in shown.items():
        rate = -process.rate(process.log_snr, u)
        with torch.no_grad():
            error = [(world.denoiser(process)(process.marginal(x, t).sample(noise), t).mean - x) for t in u]
        loss = torch.stack([e.square().mean(1) for e in error]) * (rate * process.log_snr(u).exp() / 2)[:, None]
        total = torch.cumulative_trapezoid(loss.mean(1) / rate, -process.log_snr(u))
        axes[0].plot(u, -process.log_snr(u), c=colour, label=label)
        axes[1].plot(u[1:], total, c=colour)
        axes[2].plot(u, loss.mean(1), c=colour)
    for axis, title in zip(axes, ("γ(t) = −log SNR", "bound gathered up to t, nats/dim", "loss at t, nats/dim")):
        axis.set_title(title, color=INK, fontsize=10)
        axis.set(xlabel="t")
    axes[2].set_ylim(0, 6)
    axes[0].legend(fontsize=8, frameon=False)
    save(figure, name)


def start_time(name: str) -> None:
    """The parts of the bound against the time it starts from, on a ring, for two starts; and the best T of each."""
    process, world = processes.VP(), worlds.ring(8, 1.0, 0.08)
    truth, x = world.denoiser(process), world.sample(4000, 3)
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
    for axis, start, title in zip(axes, ("prior", "full"), ("the prior of the process", "a normal law fitted at T")):
        points = langevin.denoisers.dirac(truth)
        found = langevin.likelihood.start_time(points, x, start=start, truth=truth, steps=60)
        keep = found.grid[:-1] > 0.02
        t = found.grid[:-1][keep]
        axis.plot(t, found.mismatch[keep], c=NOISE, label="mismatch, KL(p_T ‖ start)")
        axis.plot(t, found.gap[keep], c="#f59e0b", label="gap, what the steps below T cost")
        above = (found.total - found.entropy)[keep]
        axis.plot(t, above, c=DATA, lw=2, label="bound − entropy: their sum")
        axis.plot(t[above.argmin()], above.min(), "o", c=DATA)
        axis.set(xscale="log", ylim=(0, 1.6), xlabel="T", title=f"start: {title}; least {above.min():.3f} nats")
        axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylabel("nats an event")
    save(figure, name)


def exact_error(name: str) -> None:
    """Error of log p against evaluations on a 64-dimensional mixture: ours, and RK45 in the process's own time."""
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    from likelihood import Fast, peer

    world = worlds.random_mixture(64, components=8, rank=16, rms=0.5, seed=0)
    x = world.sample(16, 1000)
    truth, near = world.log_prob(x), world.log_prob(x, processes.EDM(), processes.EDM().t_min)
    ours = {
        "a divergence at every evaluation": (DATA, "o-", {"divergence": "exact", "stride": 1}),
        "at every second": ("#0d9488", "s-", {"divergence": "exact", "stride": 2}),
        "one probe an evaluation": ("#9333ea", "^-", {"divergence": "hutchinson"}),
    }
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for label, (colour, style, settings) in ours.items():
        counts = (24, 32, 40, 60, 80, 100, 140)
        found = [langevin.likelihood.exact(Fast(world), x, evaluations=n, **settings) for n in counts]
        errors = [float((f.log_prob - truth).abs().mean()) for f in found]
        axes.loglog([f.evaluations for f in found], errors, style, color=colour, ms=4, label=label)
    probes = Noise(0, 16).normal((64,)).sign()
    for label, style, law in (
        ("RK45, exact divergence", "o--", None),
        ("RK45, one fixed probe", "^--", probes),
    ):
        runs = [peer(world, law, x, "RK45", tolerance) for tolerance in (1e-3, 1e-4, 1e-5, 1e-6)]
        errors = [float((log_p - near).abs().mean()) for log_p, _ in runs]
        axes.loglog([calls for _, calls in runs], errors, style, color=NOISE, ms=4, label=label)
    axes.set(xlabel="evaluations", ylabel="nats of error a point")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.3, which="both")
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


def particles(name: str) -> None:
    """A ring, a reward that grows to the right: guidance alone, particles, and the exact tilted law."""
    world, process, n = worlds.ring(8, 1.0, 0.12), processes.VP(), 1500
    scale, reward = 1.5, lambda x: x[:, 0] - 2 * x[:, 1].square()
    denoiser = world.denoiser(process)
    guided = langevin.guidance.energy(denoiser, lambda x: -reward(x), scale=scale)
    alone = langevin.sample(guided, samplers.Heun(), n=n, steps=60)
    found = samplers.particles.fk_steering(denoiser, reward, scale=scale, n=4 * n, steps=24)
    plain = world.sample(20 * n, 3)
    chosen = samplers.particles.systematic(scale * reward(plain)[None], torch.full((1,), 0.5, dtype=torch.float64), n)
    shown = {
        "without a reward": plain[:n],
        "guidance by the reward": alone,
        "particles": found.sample(n),
        "the tilted law": plain[chosen[0]],
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(12, 3.2))
    for axis, (title, x) in zip(axes, shown.items()):
        axis.scatter(*x.T, s=2, c=NOISE if title == "without a reward" else DATA, alpha=0.5, linewidths=0)
        axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[], aspect="equal")
        axis.set_title(title, color=INK, fontsize=10)
    save(figure, name)


def tilted_samples(world: worlds.World, label: int, scale: float, n: int) -> torch.Tensor:
    """Draws of p(x) p(label | x)^scale, normalised on a fine grid of the plane."""
    axis = torch.linspace(-3, 3, 601, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    process = processes.VP()
    log = world.log_prob(points) + scale * world.classifier(process)(points, 1e-9)[:, label]
    cumulative = torch.cumsum(torch.softmax(log, 0), 0)
    u = Noise(7, n).uniform(())
    cell = torch.searchsorted(cumulative, u * cumulative[-1]).clamp_max(len(points) - 1)
    return points[cell] + (Noise(8, n).uniform((2,)) - 0.5) * (axis[1] - axis[0])


def guided_world() -> worlds.GaussianMixture:
    """Three classes in the plane that overlap."""
    turn = lambda v, c: torch.tensor([[v, c], [c, v]])
    covariances = torch.stack([turn(0.12, 0.10), turn(0.12, -0.10), turn(0.06, 0.0)])
    return worlds.GaussianMixture(torch.ones(3), torch.tensor([[-0.2, 0.0], [0.2, 0.0], [0.0, 0.8]]), covariances)


def guidance(name: str) -> None:
    """What classifier-free guidance at a scale of 5 samples, beside the law p(x) p(y | x)⁵."""
    world, scale, label, n = guided_world(), 5.0, 0, 2000
    free = world.denoiser(processes.VP())
    guided = langevin.guidance.classifier_free(free, label=label, guidance_scale=scale)
    corrected = samplers.DDPM().then(samplers.Langevin(10, 0.2))
    draws = {
        "p(x | y): w = 1": world.part(label).sample(n, 1),
        "p(x) p(y | x)⁵": tilted_samples(world, label, scale, n),
        "w = 5, DDIM, 100 steps": langevin.sample(guided, samplers.DDIM(), n=n, steps=100, batch=n),
        "w = 5, DDPM, 400 steps": langevin.sample(guided, samplers.DDPM(), n=n, steps=400, batch=n),
        "w = 5, with a corrector": langevin.sample(guided, corrected, n=n, steps=100, batch=n),
    }
    truth, again = draws["p(x) p(y | x)⁵"], tilted_samples(world, label, scale, 2 * n)[n:]
    figure, axes = plt.subplots(1, len(draws), figsize=(12, 2.8))
    everything = world.sample(n, 2)
    print(f"sliced W2 of two sets of the tilted law: {sliced_w2(truth, again):.3f}")
    for axis, (title, x) in zip(axes, draws.items()):
        axis.scatter(*everything.T, s=2, c=NOISE, alpha=0.25, linewidths=0)
        axis.scatter(*x.T, s=2, c=DATA, alpha=0.6, linewidths=0)
        axis.set(xlim=(-1.7, 1.5), ylim=(-1.7, 1.5), xticks=[], yticks=[], aspect="equal")
        axis.set_title(title, color=INK, fontsize=9)
        print(f"{title}: sliced W2 to it {sliced_w2(x, truth):.3f}, mean {[round(float(v), 2) for v in x.mean(0)]}")
    save(figure, name)


def sliced_w2(x: torch.Tensor, y: torch.Tensor) -> float:
    """Sliced 2-Wasserstein distance of two sets of equal size, over 64 directions."""
    angles = torch.linspace(0, torch.pi, 65, dtype=x.dtype)[:-1]
    directions = torch.stack((torch.cos(angles), torch.sin(angles)))
    return float(((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean().sqrt())


def glyphs(name: str) -> None:
    """Letters to train on, and a row of held-out combinations of size, colour and letter."""
    data = langevin.data.load("glyphs", limit=500)
    unseen = [i for i, part in enumerate(data.test.attributes["part"]) if part == "combination"]
    parts = [data.train.batch(torch.arange(16)), data.test.batch(torch.tensor(unseen[:8]))]
    x = torch.cat([part["x"] for part in parts])
    texts = [decode_text(tokens) for part in parts for tokens in part["caption"]]
    (IMAGES / f"{name}.png").write_bytes(png(sheet(x, texts, 8)))
    print(f"docs/img/{name}.png")


def formulas(name: str) -> None:
    """Formulas to train on, and a row of held-out ones with a fraction right under a root."""
    data = langevin.data.load("formulas", limit=60)
    nested = [i for i, part in enumerate(data.test.attributes["part"]) if part == "nested"]
    parts = [(data.train, list(range(8))), (data.test, nested[:4])]
    x = torch.cat([split.batch(torch.tensor(rows))["x"] for split, rows in parts])
    (IMAGES / f"{name}.png").write_bytes(
        png(sheet(x, [s.attributes["markup"][i] for s, rows in parts for i in rows], 4))
    )
    print(f"docs/img/{name}.png")


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
    token_laws("token-laws")
    phase("phase-space")
    noise_shape(processes.GammaNoise(theta=0.5), "gamma")
    noise_shape(processes.MixtureNoise(share=0.8), "mixture")
    score_levels("score-levels")
    start_time("start-time")
    same_law("fokker-planck")
    variances("variance")
    remainder_time_warp("remainder-time-warp")
    remainder_error("remainder-error")
    vdm("vdm")
    exact_error("exact-error")
    particles("particles")
    guidance("guidance")
    glyphs("glyphs")
    formulas("formulas")


if __name__ == "__main__":
    main()
