"""Restoration of held-out images: each solver of `langevin restore` beside interpolation and total variation.

    langevin train digits --out runs/digits --minutes 3
    python benchmarks/restoration.py digits runs/digits            # 200 images; also mnist
    python benchmarks/restoration.py mri runs/brain                # masked Fourier, 4- and 8-fold
    python benchmarks/restoration.py ct runs/ellipses              # 8-fold fewer views
    python benchmarks/restoration.py slice runs/ellipses           # of a scanned body; draws docs/img/ct-slice.png

Interpolation (bicubic, biharmonic) and total variation are those of scikit-image.
PSNR in dB of one posterior sample and of the mean of several, and SSIM of that mean, each the mean over the images.
The weight of total variation is the best of a list on training images of the same task, so that it is not put at a
disadvantage. Solvers take the default settings of their rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin import operators
from langevin.report import Bar

try:
    from record import show
except ImportError:  # imported by a test as benchmarks.restoration
    from benchmarks.record import show

NOT_HERE = ("exact", "smc", "ldps", "psld")
"""The exact posterior is of worlds, particles take 64 times as long, and two methods are for latent models."""

METHODS = tuple(row.name for row in langevin.methods("inverse") if row.name not in NOT_HERE)
"""All others that take a network."""

WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Of total variation, tried on training images."""


def psnr(x: Tensor, truth: Tensor) -> float:
    """Mean over images of 10 log₁₀(4 / mean square error), for data in [−1, 1]."""
    error = (x.clamp(-1, 1) - truth).square().flatten(1).mean(1)
    return float((10 * torch.log10(4 / error)).mean())


def ssim(x: Tensor, truth: Tensor) -> float:
    """Mean structural similarity, by scikit-image with its default window of 7 pixels."""
    from skimage.metrics import structural_similarity

    pairs = zip(x.clamp(-1, 1).numpy(), truth.numpy())
    return float(np.mean([structural_similarity(a, b, data_range=2.0, channel_axis=0) for a, b in pairs]))


def total_variation(
    operator: operators.LinearOperator, y: Tensor, start: Tensor, weight: float, steps: int = 150
) -> Tensor:
    """argmin ½|A x − y|² + weight·TV(x) by proximal gradient steps, the proximal map by scikit-image."""
    from skimage.restoration import denoise_tv_chambolle

    probe = torch.randn(1, *start.shape[1:], generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    for _ in range(30):  # the largest singular value squared, by power iteration
        probe = operator.adjoint(operator(probe / probe.norm()))
    size = 1 / float(probe.norm())
    x = start
    for _ in range(steps):
        x = x - size * operator.adjoint(operator(x) - y)
        x = torch.stack([torch.from_numpy(denoise_tv_chambolle(v.numpy(), weight * size, channel_axis=0)) for v in x])
    return x


def best_weight(
    operator: operators.LinearOperator, images: Tensor, std: float, start: Callable[[Tensor], Tensor]
) -> float:
    """The weight of total variation of the highest PSNR on training images."""
    y = operators.measure(operator, images, std, seed=99).y
    return max(WEIGHTS, key=lambda w: psnr(total_variation(operator, y, start(y), w), images))


class Task:
    """A measurement, and how the images are restored without a model."""

    def __init__(
        self, name: str, operator: operators.LinearOperator, std: float, plain: str, start: Callable[[Tensor], Tensor]
    ) -> None:
        self.name, self.operator, self.std, self.plain, self.start = name, operator, std, plain, start


def image_tasks(shape: tuple[int, ...]) -> list[Task]:
    """Inpainting, super-resolution, deblurring and compressed sensing of small images."""
    side = shape[-1]
    box = operators.box_mask(shape, 0.5)
    inpaint = operators.Inpaint(box)
    coarse = operators.SuperResolution(2)
    blur = operators.gaussian_blur(1.0)
    sensing = operators.compressed_sensing(shape, side * side // 2)

    def filled(y: Tensor) -> Tensor:
        from skimage.restoration import inpaint_biharmonic

        hole = (~box).numpy()
        return torch.stack([torch.from_numpy(inpaint_biharmonic(v.numpy(), hole, channel_axis=0)) for v in y])

    def enlarged(y: Tensor) -> Tensor:
        from skimage.transform import resize

        size = 2 * y.shape[-2], 2 * y.shape[-1]
        # mode="edge" repeats the border; nothing is smoothed, as nothing gets smaller.
        cubic = lambda channel: resize(channel, size, order=3, mode="edge", anti_aliasing=False)
        return torch.stack([torch.from_numpy(np.stack([cubic(c) for c in v.numpy()])) for v in y])

    return [
        Task("inpaint box", inpaint, 0.0, "biharmonic", filled),
        Task("super-resolution 2", coarse, 0.02, "bicubic", enlarged),
        Task("blur 1.0", blur, 0.05, "as it is", lambda y: y),
        Task("compressed sensing 1/2", sensing, 0.02, "pseudo-inverse", sensing.pseudo_inverse),
    ]


def mri_tasks(size: int, coils: int) -> list[Task]:
    """Lines of the Fourier plane, for one coil or several (which take as many conjugate gradients a step)."""
    found = []
    maps = operators.coil_maps(coils, (size, size)) if coils > 1 else None
    for fold in (4, 8):
        operator = operators.Fourier(operators.cartesian_mask(size, fold), maps)
        found.append(
            Task(f"{fold}-fold, {coils} coil{'s' * (coils > 1)}", operator, 0.01, "zero-filled", operator.adjoint)
        )
    return found


def ct_tasks(size: int) -> list[Task]:
    """A view in eight of as many as a full scan has, over a half turn."""
    full = 2 * size
    operator = operators.Radon(full // 8, size)
    return [Task(f"{full // 8} views of {full}", operator, 0.02 * size / 8, "FBP", operator.filtered_back_projection)]


def scanned(size: int) -> Tensor:
    """The CT slice that pydicom carries, ``(1, 1, size, size)``: −1 is air, 1 is 1000 Hounsfield units and more.

    Air outside the circle that every view covers, as in a full scan.
    """
    from pydicom import examples

    found = examples.ct
    hounsfield = torch.from_numpy(found.pixel_array.astype(np.float64)) * float(found.RescaleSlope)
    density = ((hounsfield + float(found.RescaleIntercept) + 1000) / 2000).clamp(0, 1)
    factor = len(density) // size
    image = 2 * torch.nn.functional.avg_pool2d(density[None, None], factor) - 1
    at = (torch.arange(size, dtype=torch.float64) + 0.5) * (2 / size) - 1
    return torch.where(at[:, None] ** 2 + at**2 < 0.95**2, image, -1.0)


def picture(panels: dict[str, Tensor], file: Path) -> None:
    """Images ``(1, H, W)`` beside each other, under their names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(2.1 * len(panels), 2.4), layout="constrained")
    for ax, (name, image) in zip(axes, panels.items()):
        low, high = (-1, 1) if "std" not in name else (0, float(image.max()))
        ax.imshow(image[0], cmap="gray", vmin=low, vmax=high)
        ax.set_title(name, fontsize=8)
        ax.axis("off")
    figure.savefig(file, dpi=150)


def slice_table(model: langevin.denoisers.Denoiser, options: argparse.Namespace) -> Table:
    """The scanned slice from few views by each way, as a table and a picture."""
    size = model.shape[-1]
    truth, (task,) = scanned(size), ct_tasks(size)
    found = langevin.data.load(model.data.name, size=size)
    learn = found.train.batch(torch.linspace(0, len(found.train) - 1, 16).long())["x"].double()
    y = operators.measure(task.operator, truth, task.std, seed=0).y
    plain = task.start(y)
    weight = best_weight(task.operator, learn, task.std, task.start)
    smooth = total_variation(task.operator, y, plain, weight)
    with Bar("slice") as bar:
        how = {"std": task.std, "method": options.methods[0], "n": 16, "steps": options.steps, "progress": bar}
        x = langevin.restore(model, task.operator, y.float(), batch=options.batch, **how).double().cpu()
    ways = {"slice": truth[0], "FBP": plain[0], f"TV, {weight:g}": smooth[0], "a sample": x[0], "mean of 16": x.mean(0)}
    shown = Table("way", "PSNR", "SSIM", box=None)
    for name, image in ways.items():
        if name != "slice":
            shown.add_row(name, f"{psnr(image[None], truth):.2f}", f"{ssim(image[None], truth):.3f}")
    picture({**ways, "std of 16": x.std(0)}, Path(__file__).parents[1] / "docs" / "img" / "ct-slice.png")
    return shown


class Kept(dict[str, list[str]]):
    """Figures of an earlier, interrupted run of the same command, in a file."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(json.loads(path.read_text()) if path is not None and path.exists() else {})
        self.path = path

    def __setitem__(self, key: str, value: list[str]) -> None:
        super().__setitem__(key, value)
        if self.path is not None:
            self.path.write_text(json.dumps(self))


def restored(
    model: langevin.denoisers.Denoiser,
    task: Task,
    y: Tensor,
    truth: Tensor,
    method: str,
    title: str,
    options: argparse.Namespace,
) -> list[str]:
    """The figures of a method."""
    begun = time.perf_counter()
    try:
        with Bar(title) as bar:
            how = {"std": task.std, "method": method, "n": options.n, "steps": options.steps, "progress": bar}
            x = langevin.restore(model, task.operator, y.float(), batch=options.batch, **how).double().cpu()
    except langevin.UserError as error:  # dps-squared divides by the noise
        print(f"{title}: {error}")
        return ["diverged" if "finite" in str(error) else "needs noise", "", "", ""]
    took = (time.perf_counter() - begun) / len(truth)
    x = x[:, None] if x.ndim == truth.ndim else x
    one, mean = x[:, 0], x.mean(1)
    return [f"{psnr(one, truth):.2f}", f"{psnr(mean, truth):.2f}", f"{ssim(mean, truth):.3f}", f"{took:.2f}"]


def table(kind: str, model: langevin.denoisers.Denoiser, tasks: list[Task], options: argparse.Namespace) -> Table:
    """Every task by every method."""
    found = langevin.data.load(model.data.name, size=model.shape[-1] if kind in ("mri", "ct") else None)
    count = min(options.images, len(found.test))
    truth = found.test.batch(torch.linspace(0, len(found.test) - 1, count).long())["x"].double()
    learn = found.train.batch(torch.linspace(0, len(found.train) - 1, 16).long())["x"].double()
    shown = Table(
        "task", "method", "PSNR, a sample", f"PSNR, mean of {options.n}", "SSIM of the mean", "s an image", box=None
    )
    kept = Kept(options.kept)
    for task in tasks:
        y = operators.measure(task.operator, truth, task.std, seed=0).y
        plain = task.start(y)
        shown.add_row(task.name, task.plain, f"{psnr(plain, truth):.2f}", "", f"{ssim(plain, truth):.3f}", "")
        weight = best_weight(task.operator, learn, task.std, task.start)
        begun = time.perf_counter()
        smooth = total_variation(task.operator, y, plain, weight)
        took = (time.perf_counter() - begun) / count
        shown.add_row(
            "", f"TV, {weight:g}", f"{psnr(smooth, truth):.2f}", "", f"{ssim(smooth, truth):.3f}", f"{took:.2f}"
        )
        for method in options.methods:
            key = f"{task.name}: {method}"
            if key not in kept:
                kept[key] = restored(model, task, y, truth, method, key, options)
            shown.add_row("", method, *kept[key])
    return shown


def main() -> None:
    """Run one kind of task on a trained model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["digits", "mnist", "mri", "ct", "slice"])
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("-n", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--coils", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--kept", type=Path, help="a JSON file that keeps the figures of a run that is interrupted")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    model = langevin.load(options.model)
    side = model.shape[-1]
    if options.kind == "slice":
        show("restoration-slice", slice_table(model, options))
        return
    kinds = {"mri": lambda: mri_tasks(side, options.coils), "ct": lambda: ct_tasks(side)}
    tasks = kinds.get(options.kind, lambda: image_tasks(tuple(model.shape)))()
    name = f"restoration-{options.kind}" + (f"-{options.coils}-coils" if options.coils > 1 else "")
    show(name, table(options.kind, model, tasks, options))


if __name__ == "__main__":
    main()
