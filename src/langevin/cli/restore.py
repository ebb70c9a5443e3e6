"""``langevin restore``."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._duration import duration
from .._errors import UserError, unknown
from .given import conditions
from .measurement import (
    bounds,
    counts_as_picture,
    enlarged,
    job,
    larger,
    measured,
    noise_law,
    placed,
    shown_measurement,
    shown_std,
)
from .options import Name, Number, Whole, at_least_one, check_seed, device_named, json_value, writable
from .words import provenance

if TYPE_CHECKING:
    from torch import Tensor

    from ..tasks.restore import Fit


@dataclass(frozen=True)
class Options:
    """Restore damaged images: fill holes, enlarge, sharpen, colour, by samples of what the image may have been.

    IN is a damaged picture or a folder of them, and --task says what was done to them. With --simulate IN is whole: it
    is damaged first, so that PSNR, SSIM and the coverage of the samples can be told. Pictures larger than the model's
    are restored in overlapping tiles. Writes DIR/NAME-0.png, … (the samples; NAME.png with -n 1), NAME-mean.png and
    NAME-std.png (black where they agree; not with -n 1), NAME-strip.png and NAME.json, which says how. The same call
    goes on where one was stopped.
    """

    input: Annotated[Positional[str], arg(metavar="IN")]
    """A picture, or a folder of pictures."""
    model: Annotated[str, arg(metavar="MODEL")]
    """A model directory, a pipeline of diffusers, or owner/name on the Hub, of grey or colour images; a latent model
    takes pictures of its own size."""
    task: Annotated[str, arg(metavar="TASK")]
    """What was done, a name and its number. Pixels: inpaint (--mask), box=SHARE of the sides hidden, strokes=SHARE of
    the pixels hidden, random=SHARE of the pixels known, uncrop=SHARE of the sides known. Pictures:
    super-resolution=FACTOR, bicubic=FACTOR, blur=PIXELS, motion-blur=PIXELS, colourise, jpeg=QUALITY, saturate=GAIN.
    Scans: fourier=FOLD (one line in so many), coils=COUNT, radon=VIEWS or radon=VIEWS:DEGREES (over so many of 180),
    compressed-sensing=SHARE of numbers, phase=OVERSAMPLING."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("restored")
    """Where the results go."""
    mask: Name = None
    """For inpaint: a picture of the input's size, white where it is to be restored (operators in Python take the
    opposite, 1 where a pixel is known); or a folder, with one of each picture's name."""
    std: Number = None
    """Standard deviation of the noise of the measurement, in units of the data, which lie in [-1, 1]. If not given, 0
    where pixels are known (inpaint, uncrop, box, random, strokes), which then come back byte for byte, else 0.02."""
    noise: Annotated[str | None, arg(metavar="poisson=GAIN", help_behavior_hint="")] = None
    """Counts in place of --std, of any task but scans: GAIN of middle grey are expected, twice as many of white."""
    simulate: bool = False
    """The input is whole: damage it, restore it, and measure the result against it."""
    method: Name = None
    """By its name (`langevin methods --category inverse`); pigdm if not given, diffpir for what is not linear, daps
    with --noise, ldps for latent models."""
    method_options: Annotated[dict[str, str], arg(metavar="KEY VALUE ...", help_behavior_hint="")] = field(
        default_factory=dict
    )
    """Settings of the method: --method smc --method-options particles 16."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 8
    """Samples of each picture."""
    steps: Annotated[int, arg(metavar="N")] = 50
    """Evaluations of the model a sample, at most (of smc: steps, each of as many evaluations as it has particles). A
    warning tells when they were too few."""
    label: Name = None
    """The class of the pictures, by name or index, where the model takes one and it is known."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition that the model takes, as NAME=VALUE."""
    overlap: Whole = None
    """Pixels that neighbouring tiles share; a quarter of a tile if not given."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise, the same for every picture."""
    batch: Annotated[int, arg(metavar="N")] = 64
    """Images, or tiles, carried at a time; of smc each with its particles."""
    no_metadata: bool = False
    """Leave out of the pictures how they were made, which `langevin replay` draws them again by."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


REQUEST = ("task", "mask", "simulate", "label", "n", "steps", "overlap", "seed")
"""Options that results depend on, as the record has them."""

INVENTED = ("box", "random", "strokes")
"""Tasks that choose where the damage is."""

INTERVAL = 0.9
"""The probability of the intervals whose coverage is told."""


def run(options: Options) -> None:
    """Read, restore, write."""
    out = writable(options.out)
    at_least_one(n=options.n, steps=options.steps, batch=options.batch)
    check_seed(options.seed)
    import numpy as np
    import torch

    from .. import operators
    from ..adapters import loading
    from ..generate import model_digest
    from ..report import Bar
    from ..storage import files
    from ..tasks import pictures
    from ..tasks import restore as restoring

    settings = {key: json_value(text) for key, text in options.method_options.items()}
    task = options.task.partition("=")[0].strip()
    if task not in operators.NAMED:
        raise unknown("task", task, operators.NAMED)
    law = noise_law(options.noise, options.std, task)
    std = law.std if isinstance(law, operators.GaussianNoise) else None
    if options.method is not None:
        restoring.check_options(*restoring.method_named(options.method), settings)
    if (task == "inpaint") != (options.mask is not None):
        raise UserError(
            "mask must be given for the task inpaint, white where to restore, and for no other task (fourier and coils "
            "choose their lines by --seed)"
        )
    if task in INVENTED and not options.simulate:
        raise UserError(
            f"simulate must be given for the task {task}, which chooses where the damage is; for a picture that is "
            "damaged take --task inpaint --mask PICTURE, white where it is"
        )
    found = pictures.find(options.input, out)
    model = loading.load_denoiser(options.model, own=False, device=device_named(options.device))
    pictures.image_model(model)
    restoring.check_model(model)
    given = conditions(options.given, options.label, model)
    told = model.given(given) if given else model
    drawn = {name: pictures.mask_of(options.mask, name) for name, _ in found}
    request = {
        "command": "restore",
        "model": model_digest(options.model),
        "method": options.method,
        "method_options": settings,
        **{name: getattr(options, name) for name in REQUEST},
        **({"std": std} if options.noise is None else {"noise": options.noise}),
        "given": list(options.given),
    }
    beside = {name: [mask] for name, mask in drawn.items() if mask is not None}
    how = None if options.no_metadata else provenance("restore", options, model)
    results = pictures.Results(
        out, request, options.n, beside, about=("mean", "std") if options.n > 1 else (), made=how
    )
    results.check(found)
    jobs = {}
    for name, path in found:
        width, height = pictures.size_of(path)
        mask = drawn[name]
        free = None if mask is None else pictures.read_mask(mask, (height, width))
        if free is not None and bool((free == free[0, 0]).all()):
            left_out = "nothing is known" if bool(free[0, 0]) else f"nothing is to be restored; {pictures.WHITE}"
            raise UserError(f"mask {mask} is {'white' if bool(free[0, 0]) else 'black'} everywhere: {left_out}")
        jobs[name] = job(options, model, (height, width), free)
        inner = restoring.on_states(model, jobs[name][0])
        method = options.method or restoring.default_method(inner, law)
        restoring.check_options(*restoring.method_named(method), settings)
        restoring.check_method(method, inner)
        restoring.check_noise(method, inner, law)
    if how is not None:  # the method and the noise that were chosen
        results = replace(results, made=replace(how, settings={**how.settings, "method": method, "std": std}))
    left, begun = results.left(found), time.monotonic()
    with files.lock(out):
        for number, (name, path) in enumerate(left):
            operator, shape, free = jobs[name]
            picture, started = pictures.read(name, path, model), time.monotonic()
            given_x, given_pixels = placed(picture, operator, shape)
            y = measured(options, law, operator, given_x, shape)
            own = told.counted()
            title = f"restoring {name}" + (f" ({number + 1} of {len(left)})" if len(left) > 1 else "")
            with Bar(title) as bar:
                x = restoring.restore(
                    larger(own, shape, options.overlap, options.batch),
                    operator,
                    y,
                    law,
                    method=method,
                    n=options.n,
                    steps=options.steps,
                    seed=options.seed,
                    batch=options.batch,
                    progress=bar,
                    put_back=False,  # ``fit`` judges the method
                    **settings,
                ).cpu()
            # Before known pixels are put in: what the solver itself has reached.
            found_fit = restoring.fit(operators.Measurement(operator, y.cpu(), law), x, bounds(model))
            whole = picture.x if options.simulate else None
            kept = None if free is None or std != 0 else free
            if kept is not None:
                x = torch.where(kept, x, given_x.to(x))
            lost = None if model.autoencoder is None else restoring.codec_residual(model, operator, x)
            made = [pictures.to_pixels(one, model) for one in x]
            if kept is not None:
                made = [pictures.keep(one, given_pixels, kept) for one in made]
            mean, spread = x.mean(0), x.std(0, correction=0)
            several = options.n > 1
            more = [pictures.to_pixels(mean, model), pictures.to_pixels(shown_std(spread, model), model)]
            record = {
                "model": options.model,
                "trained_steps": model.config.get("steps"),
                "operator": repr(operator),
                "method": method,
                "size": list(shape),
                "calls": own.counter.calls,
                "seconds": round(time.monotonic() - started, 3),
                "residual": round(found_fit.residual, 6),
                "residual_over_std" if found_fit.std else "residual_over_range": round(found_fit.relative, 4),
                "share_outside_range": round(found_fit.outside or 0.0, 6),
                **({} if lost is None else {"codec_residual": round(lost, 6)}),
                **({"std_shown_white": float(spread.max())} if several else {}),
                **figures(x, mean, spread, whole, kept),
            }
            columns = [("input", enlarged(given_pixels, shape))]
            if free is not None:
                columns.append(("to restore", np.repeat(free.numpy()[..., None].astype(np.uint8) * 255, shape[0], 2)))
            elif options.simulate and y.ndim == 4:
                seen = counts_as_picture(y[0].cpu(), law)
                columns.append(("measured", enlarged(shown_measurement(seen, model), shape)))
            columns += [(f"sample {i}", one) for i, one in enumerate(made[: pictures.STRIP - 2])]
            if several:
                columns += [("mean", more[0]), ("std", more[1])]
            results.write(name, path, [*made, *(more if several else ())], columns, record)
            print(said(name, record))
            within = lost is not None and found_fit.residual <= lost  # a latent model's codec does no better
            if found_fit.strange or not (found_fit.fits or within):
                print(f"warning: {name}: {advice(found_fit, options.steps, lost)}", file=sys.stderr)
    skipped = f", {len(found) - len(left)} were there" if len(left) < len(found) else ""
    print(
        f"{out}: {len(left)} image{'s' * (len(left) != 1)} restored by {method}, {options.n} "
        f"sample{'s' * (options.n != 1)} each, in {duration(time.monotonic() - begun)}{skipped}."
    )


def advice(found: Fit, steps: int, lost: float | None = None) -> str:
    """What a run that does not fit is told.

    Args:
        found: how well it fits.
        steps: that it took.
        lost: the residual of the codec alone, of a latent model.
    """
    why = []
    if found.strange:
        why.append(f"{100 * (found.outside or 0.0):.0f} % of the pixels lie far outside the range of the data")
    if not found.fits:
        times = "the noise's" if found.std else "the range of the measurement"
        share = found.relative
        much = f"{share:.1f} times {times}" if found.std else f"{100 * share:.1f} % of {times}"
        why.append(f"the samples do not explain the measurement, the residual is {much}")
    if not found.fits and lost is not None:
        why[-1] += f" ({found.residual:.3g}, where the model's codec alone leaves {lost:.3g})"
    ways = [f"more steps than {steps}", "another method"]
    ways += ["a larger std if the noise is larger"] if found.std and not found.counts else []
    return f"{' and '.join(why)}. Take {', '.join(ways[:-1])} or {ways[-1]} (docs/restore.md says what each needs)."


def figures(x: Tensor, mean: Tensor, spread: Tensor, truth: Tensor | None, free: Tensor | None) -> dict[str, float]:
    """What is told of samples against the truth: PSNR, SSIM, and how often the truth lies where they say.

    Coverage is the share of restored pixels with |truth − mean| ≤ q·std·√(1 + 1/n), q the quantile of Student's law of
    n − 1 degrees of freedom: nine in ten if the truth is one more draw of a normal posterior. It is told from 4 samples
    on.
    """
    if truth is None:
        return {}
    from scipy.stats import t

    from ..metrics import psnr, ssim

    n = len(x)
    found = {
        "psnr_of_a_sample": sum(psnr(one[None], truth[None]) for one in x) / n,
        "psnr_of_the_mean": psnr(mean[None], truth[None]),
        "ssim_of_the_mean": ssim(mean[None], truth[None]),
    }
    if n >= 4:
        std = spread * (n / (n - 1)) ** 0.5
        inside = (truth - mean).abs() <= float(t(n - 1).ppf((1 + INTERVAL) / 2)) * std * (1 + 1 / n) ** 0.5
        found["coverage_of_90_percent"] = float((inside if free is None else inside[:, free]).float().mean())
    return {name: round(float(value), 4) for name, value in found.items()}


def said(name: str, record: dict[str, Any]) -> str:
    """A line about a picture."""
    over_std = record.get("residual_over_std")
    fits = (
        f"residual {100 * record['residual_over_range']:.2f} % of the range"
        if over_std is None
        else f"residual {over_std:.2f} std"
    )
    if "psnr_of_the_mean" not in record:
        return f"{name}: {record['seconds']:.1f} s, {fits}"
    coverage = record.get("coverage_of_90_percent")
    beside = "" if coverage is None else f", {100 * coverage:.0f} % of pixels in their 90 % interval"
    return (
        f"{name}: PSNR {record['psnr_of_the_mean']:.2f} dB (a sample {record['psnr_of_a_sample']:.2f}), "
        f"SSIM {record['ssim_of_the_mean']:.3f}{beside}, {fits}"
    )
