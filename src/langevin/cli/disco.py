"""``langevin disco``."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._duration import duration
from .._errors import UserError
from .options import Name, at_least_one, check_seed, writable
from .sample import own_device, own_images, write
from .similarity import captions_of, picture_of
from .words import provenance

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ..denoisers import ContrastiveEncoder
    from ..guidance import ClipSettings
    from ..tasks.disco import Prompt

PROGRESS = "progress"
"""The directory of pictures of the way."""

Knob = Annotated[str, arg(metavar="X")]


@dataclass(frozen=True)
class Options:
    """Draw pictures of a model that knows no captions, led to prompts by a contrastive encoder: Disco Diffusion.

    A model of pixels makes the pictures, and an encoder that is shown pieces of them at every step leads it to what is
    asked for. The knobs have the names by which they are known; where X stands, a number or a schedule over the steps
    such as "[12]*400+[4]*600" is accepted. Writes what `langevin sample` writes, every picture as a PNG of its own in
    DIR/images, and the way there in DIR/progress.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model of pictures: a directory, a name of `langevin models`, or owner/name on the Hub. If it takes conditions,
    it is given none."""
    encoder: Annotated[Positional[str], arg(metavar="ENCODER")]
    """A contrastive encoder (`langevin train DATA --objective.name contrastive`), or public CLIP weights as
    transformers keeps them: a directory, a name of `langevin models`, or owner/name on the Hub."""
    prompts: Annotated[Positional[tuple[str, ...]], arg(metavar="PROMPT ...")] = ()
    """What the pictures are to show, each as TEXT or TEXT:WEIGHT; a weight below 0 leads away."""
    image_prompts: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="FILE[:WEIGHT]")] = ()
    """A picture to be like, and its weight; may be given several times."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 4
    """How many pictures."""
    steps: Annotated[int, arg(metavar="N")] = 50
    """Steps of the whole way; 250 is the known default, for large pictures."""
    skip_steps: Annotated[int, arg(metavar="N")] = 0
    """Steps that are left out: the run begins at the initial picture, noised as it would be there."""
    init_image: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """A picture to begin from (with --skip-steps) and to stay near to (with --init-scale)."""
    init_scale: Knob = "1000"
    """Weight of the distance to the initial picture, in features of the encoder."""
    clip_guidance_scale: Knob = "5000"
    """Weight of the distance to the prompts."""
    tv_scale: Knob = "0"
    """Weight of the total variation: above 0 pictures are smoother."""
    range_scale: Knob = "150"
    """Weight of predicted colours that are out of range."""
    sat_scale: Knob = "0"
    """Weight of colours that are out of range in what the encoder is shown."""
    cutn_batches: Knob = "1"
    """Batches of cut-outs a step; more are slower, and less noisy. 4 is the known default."""
    cut_overview: Knob = "[12]*400+[4]*600"
    """Cut-outs of the whole picture in a batch."""
    cut_innercut: Knob = "[4]*400+[12]*600"
    """Cut-outs of parts of it in a batch."""
    cut_ic_pow: Knob = "1"
    """Above 1 most of the parts are small."""
    cut_icgray_p: Knob = "[0.2]*400+[0]*600"
    """Share of the parts that are grey."""
    no_clamp_grad: bool = False
    """Let the gradient be as large as it is."""
    clamp_max: Knob = "0.05"
    """Root mean square of the gradient at most: the strength of the guidance, once it is reached."""
    skip_augs: bool = False
    """Show cut-outs as they are, not turned, mirrored and recoloured (but for --cut-icgray-p): for writing, which is
    not to be mirrored."""
    eta: Annotated[float, arg(metavar="X")] = 0.8
    """Share of DDIM's noise, from 0 (none) to 1."""
    display_rate: Annotated[int, arg(metavar="N")] = 10
    """Write a picture of the way every so many steps; 0 for none."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the noise and of the cut-outs: picture i is the same for any number of pictures."""
    batch: Annotated[int, arg(metavar="N")] = 8
    """Pictures drawn at a time."""
    text_encoder: Name = None
    """Directory or Hub name of the text encoder that made the encoder's captions into features; needed only if it was
    trained with --text-encoder."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("disco")
    """Where the pictures go; those of an earlier call are overwritten."""
    no_metadata: bool = False
    """Leave out of the pictures how they were made, which `langevin replay` draws them again by."""
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Read the prompts, draw, write."""
    out = writable(options.out)
    at_least_one(n=options.n, steps=options.steps, batch=options.batch)
    check_seed(options.seed)
    if options.display_rate < 0:
        raise UserError(f"display-rate must be a number of steps, 0 for none, got {options.display_rate}")
    settings = settings_of(options)
    settings.resolved()
    from .. import training
    from ..adapters import loading
    from ..denoisers import ContrastiveEncoder
    from ..generate import model_digest
    from ..report import Bar
    from ..storage import files
    from ..tasks.disco import Prompt, disco

    texts = [Prompt.of(text) for text in options.prompts]
    like = [Prompt.of(text) for text in options.image_prompts]
    if not texts and not like:
        raise UserError("a prompt must be given: what the pictures are to show, or --image-prompts FILE")
    device = own_device(options.device)
    model = loading.load_denoiser(options.model, own=False, device=device)
    encoder = loading.load_kind(options.encoder, ContrastiveEncoder, "encoder", device=device)
    digest = model_digest(options.encoder)
    if (out / "images").exists() and not own_images(out):
        raise UserError(f"out holds {out / 'images'}, which this command did not write; choose another --out")
    vectors = vectors_of(encoder, texts, like, options.text_encoder, model.output)
    init = None if options.init_image is None else picture_of(options.init_image, model.output, "init-image")
    begun, weights = time.perf_counter(), [prompt.weight for prompt in (*texts, *like)]
    with files.lock(out):
        clear(out / PROGRESS)
        with Bar("drawing") as bar:
            made = disco(
                model,
                encoder,
                vectors,
                weights,
                n=options.n,
                steps=options.steps,
                skip_steps=options.skip_steps,
                init_image=init,
                settings=settings,
                eta=options.eta,
                seed=options.seed,
                batch=options.batch,
                show=shower(out / PROGRESS, options.display_rate, training.value_range(model.output)),
                progress=bar,
            )
        record = recorded(options, model, digest, made.steps, time.perf_counter() - begun)
        record["similarity"] = [[round(float(v), 4) for v in row] for row in made.similarity]
        how = None if options.no_metadata else provenance("disco", options, model)
        if how is not None:
            how = replace(how, inputs={**inputs_of(options, like), options.encoder: digest})
        write(out, made.x, None, model.output, record, [], True, how)
    near = made.similarity.mean(0).tolist()
    told = ", ".join(f"{value:.3f} with {prompt.text!r:.40}" for value, prompt in zip(near, (*texts, *like)))
    print(f"{out}: {options.n} pictures of {made.steps} steps in {duration(record['seconds'])}; mean cosine {told}.")


def settings_of(options: Options) -> ClipSettings:
    """The knobs of the guidance."""
    from ..guidance import ClipSettings

    named = {field.name for field in fields(ClipSettings)} - {"clamp_grad"}
    return ClipSettings(clamp_grad=not options.no_clamp_grad, **{name: getattr(options, name) for name in named})


def vectors_of(
    encoder: ContrastiveEncoder, texts: list[Prompt], like: list[Prompt], text_encoder: str | None, data: Any
) -> Tensor:
    """Unit vectors of prompts, those of texts first."""
    import torch

    from ..tasks.disco import image_vectors

    parts = []
    if texts:
        with torch.no_grad():
            told = captions_of(encoder, [prompt.text for prompt in texts], text_encoder)
            parts.append(encoder.encode_text(told).float().cpu())
    for prompt in like:
        parts.append(image_vectors(encoder, picture_of(Path(prompt.text), data, "image-prompts")))
    return torch.cat(parts)


def shower(folder: Path, every: int, ends: tuple[float, float]) -> Callable[[int, Tensor], None] | None:
    """What writes pictures of the way; None for none."""
    if not every:
        return None
    from .. import training
    from ..storage import files

    def show(step: int, x: Tensor) -> None:
        if step % every == 0:
            folder.mkdir(parents=True, exist_ok=True)
            grid = training.image_grid(x, low=ends[0], high=ends[1])
            files.replace(folder / f"step-{step:04d}.png", training.png(grid))

    return show


def clear(folder: Path) -> None:
    """Take away the pictures of the way of an earlier call, and nothing else.

    Raises:
        UserError: if the directory holds something else.
    """
    if not folder.exists():
        return
    held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
    if strange := [name for name in held if not re.fullmatch(r"step-\d{4,}\.png", name)]:
        raise UserError(f"out holds {folder / strange[0]}, which this command did not write; choose another --out")
    for name in held:
        (folder / name).unlink()


def recorded(options: Options, model: Any, encoder: str, steps: int, seconds: float) -> dict[str, Any]:
    """What sample.json says; ``encoder`` is the checksum of the encoder."""
    from ..generate import versions
    from .words import settings_of as every

    return {
        "model": options.model,
        "trained_steps": model.config.get("steps"),
        "encoder_digest": encoder,
        **every(options, ("out", "no_metadata", "device", "model")),
        "steps": steps,
        "sampler": f"ddim, eta {options.eta:g}",
        "process": repr(model.process),
        "evaluations": steps,
        "seconds": round(seconds, 3),
        "versions": versions(),
    }


def inputs_of(options: Options, like: list[Prompt]) -> dict[str, str]:
    """Checksums of the pictures that were read."""
    from ..generate.provenance import checksum

    read = [prompt.text for prompt in like] + ([] if options.init_image is None else [str(options.init_image)])
    return {path: checksum(path) for path in read}
