"""``langevin guide``."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from .._duration import duration
from .._errors import UserError, check_numbers
from .given import conditions
from .options import Name, Number, Unscaled, Whole, at_least_one, check_guidance, class_index, writable
from .sample import condition_checksum, own_device, own_images, write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..denoisers import Denoiser, NetworkDenoiser
    from ..generate import Recipe, Samples
    from ..report import Bar
    from ..samplers import Plan
    from ..tasks.guide import Similar


@dataclass(frozen=True)
class Options:
    """Draw samples of a trained model under any guidance.

    Writes what `langevin sample` writes: DIR/samples.npz, a picture, and DIR/sample.json, which says how.
    A scale above 1 makes samples more typical of the condition and less varied; it does not sample p(x) p(y|x)^W. With
    --particles the law itself that a classifier or a similarity aims at is reached, by weighted particles. The same
    call, once it is finished, draws nothing.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A model directory, a name of `langevin models`, or owner/name on the Hub."""
    method: Annotated[str, arg(metavar="NAME")] = "classifier-free"
    """classifier-free, classifier, similarity, autoguidance, apg, cfg-zero-star, cfg-plus-plus or conjunction."""
    scale: Annotated[float | None, arg(metavar="W", help_behavior_hint="")] = None
    """Of the guidance: 1 is the plain conditional model (cfg-plus-plus takes 0 to 1, and 1 is strong). If not given: 1
    for classifier and similarity, 2 for autoguidance, 0.6 for cfg-plus-plus, 3 for the others."""
    interval: Annotated[tuple[float, float] | None, arg(metavar="LOW HIGH", help_behavior_hint="")] = None
    """Noise levels sigma/alpha between which there is guidance; everywhere if not given."""
    rescale: Annotated[float, arg(metavar="X")] = 0.0
    """For classifier-free: from 0 to 1, how far the contrast of the conditional model is kept."""
    negative_label: Name = None
    """The class that is led away from, in place of none."""
    also: UseAppendAction[tuple[str, ...]] = ()
    """For conjunction: another class that must hold, by name or index; may be given several times."""
    threshold: Number = None
    """Dynamic thresholding of x_0 at this percentile, from 0 to 1; 0.995 is usual."""
    classifier: Name = None
    """For classifier: the directory of one, trained with `langevin train DATA --objective.name cross-entropy`."""
    weak: Name = None
    """For autoguidance: the directory of a worse model of the same data."""
    encoder: Name = None
    """For similarity: an encoder, trained with `langevin train DATA --objective.name contrastive`, or CLIP's: a
    directory, a name of `langevin models`, or owner/name on the Hub."""
    text: Name = None
    """For similarity: the caption that samples are led to."""
    image: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """For similarity: the picture that samples are led to, in place of a caption."""
    measure: Name = None
    """For similarity to a picture: content (the default), structure or style."""
    text_encoder: Name = None
    """For similarity: directory or Hub name of the text encoder that made the encoder's captions into features; needed
    only if it was trained with --text-encoder."""
    particles: Whole = None
    """For classifier and similarity: so many particles, weighted and resampled, from which the samples are chosen."""
    n: Annotated[int, arg(aliases=("-n",), metavar="N")] = 64
    """How many samples."""
    label: Name = None
    """Class of all samples, by name or index; if not given, classes 0, 1, ... in turn."""
    given: UseAppendAction[tuple[str, ...]] = ()
    """Another condition that the model takes, as NAME=VALUE."""
    out: Annotated[Path, arg(metavar="DIR")] = Path("guided")
    """Where they go; samples of another request that an earlier call left there are overwritten."""
    images: bool = False
    """Write every sample as a PNG of its own too, in DIR/images."""
    sampling: Annotated[Unscaled, arg(name="")] = field(default_factory=Unscaled)
    device: Name = None
    """cpu or cuda; cuda if there is one, if not given."""


def run(options: Options) -> None:
    """Guide, sample, write."""
    out = writable(options.out)
    at_least_one(n=options.n, particles=options.particles)
    ends = {f"interval[{i}]": end for i, end in enumerate(options.interval or ())}
    check_numbers(**ends, **({} if options.rescale is None else {"rescale": options.rescale}))
    if options.scale is not None:
        check_guidance(options.scale, "scale")
    recipe = options.sampling.recipe()
    import torch

    from ..adapters import loading
    from ..generate import generate, in_process, model_digest, plan
    from ..guidance import noise_level
    from ..report import Bar
    from ..storage import files
    from ..tasks.guide import METHODS, Guidance

    early = Guidance(options.method, options.scale)  # what needs no model
    early.refuse_others(classifier=options.classifier, weak=options.weak, labels=options.also or None)
    early.refuse_others(**{name: getattr(options, name) for name in ("encoder", "text", "image", "measure")})
    early.refuse_others(negative=options.negative_label)
    recipe = replace(recipe, sampler=recipe.sampler or METHODS[options.method].sampler)
    if METHODS[options.method].on_grid and recipe.process is not None:
        raise UserError(f"process must be the model's own for {options.method!r}, which is made for its steps")
    device = own_device(options.device)
    model = loading.load_denoiser(options.model, own=False, device=device)
    names = model.class_names
    also = tuple(index for label in options.also if (index := class_index(label, names, "also")) is not None)
    asked = Guidance(
        options.method,
        options.scale,
        options.interval,
        options.rescale,
        class_index(options.negative_label, names, "negative-label"),
        also,
        options.threshold,
    )
    others = {"classifier": options.classifier, "weak": options.weak, "encoder": options.encoder}
    similar: Similar | None = None
    told: dict[str, Any] = {}
    if options.encoder is not None:
        similar, told = similar_to(options, model, device)
    classifier = None
    if options.classifier is not None:
        from ..denoisers import NoisyClassifier

        classifier = loading.load_kind(options.classifier, NoisyClassifier, "classifier", device=device)
    weak = None if options.weak is None else loading.load_denoiser(options.weak, own=False, device=device)
    beside: dict[str, Any] = {}
    if classifier is not None and "label" not in model.condition_sizes:
        # The classifier alone knows the classes; the model is asked as it is.
        names = list(classifier.data.classes)
        one = class_index(options.label, names)
        beside["label"] = torch.arange(options.n) % len(names) if one is None else torch.full((options.n,), one)
    given = conditions(options.given, None if beside else options.label, model)
    by_class = options.method == "classifier"
    if options.particles is not None and (options.label is None if by_class else options.method != "similarity"):
        raise UserError("particles are for --method classifier with one --label, whose law they reach, or similarity")
    request = {
        "command": "guide",
        "model": model_digest(options.model),
        **{name: None if place is None else model_digest(place) for name, place in others.items()},
        **asdict(asked),
        "scale": asked.weight,
        **told,
        "recipe": recipe.words(),
        **{name: getattr(options, name) for name in ("n", "label", "particles", "images")},
        "given": {name: v if isinstance(v, int) else condition_checksum(v) for name, v in given.items()},
    }
    request = json.loads(files.as_json(request))
    if finished(out, request):
        print(f"{out}: the {options.n} samples of this request are there; nothing was drawn.")
        return

    def guide(own: NetworkDenoiser, condition: Mapping[str, Any]) -> tuple[Denoiser, Plan]:
        all_given = {**beside, **condition}
        if METHODS[asked.method].on_grid:  # the steps must be known before there is a guided denoiser
            how = plan(own, recipe)
            guided = asked.bind(own, all_given, classifier=classifier, weak=weak, similar=similar, grid=how.grid)
        else:
            guided = in_process(asked.bind(own, all_given, classifier=classifier, weak=weak, similar=similar), recipe)
            how = plan(guided, recipe)
        if asked.interval is not None:
            low, high = asked.interval
            levels = noise_level(guided.process, how.grid[:-1])
            if not bool(((levels >= low) & (levels <= high)).any()):
                warnings.warn(
                    f"interval {low:g} {high:g} holds no step: noise levels σ/α go from {float(levels.max()):.3g} to "
                    f"{float(levels.min()):.3g}, so nothing is guided",
                    stacklevel=2,
                )
        return guided, how

    with files.lock(out):
        about = {**asdict(asked), "scale": asked.weight, **others, **told}
        with Bar("sampling") as bar:
            if options.particles is None:
                drawn = generate(model, recipe, options.n, given=given, progress=bar, guide=guide)
            else:
                label = None if not by_class else int(beside["label"][0]) if beside else given["label"]
                single, _ = guide(model, {**given, **({} if label is None else {"label": label})})
                drawn, weights = reached(single, model, options, recipe, bar)
                about |= weights
        label = beside.get("label", drawn.label)
        record = {"model": options.model, "trained_steps": model.config.get("steps"), **drawn.record, "guidance": about}
        record["request"] = request
        write(out, drawn.x, label, model.output, record, names, options.images)
    print(
        f"{out}: {options.n} samples by {options.method} guidance at {asked.weight:g} in {duration(drawn.seconds)}, "
        f"{drawn.evaluations} network evaluations each (sampler {record['sampler']})."
    )


def finished(out: Path, request: Mapping[str, Any]) -> bool:
    """Whether a directory holds the samples of a request, whole."""
    from ..storage import files

    try:
        record = files.read_json(files.place(out, "sample.json"))
        if record.get("request") != request:
            return False
        files.agree(out, record["files"])
    except UserError:
        return False
    return not request["images"] or own_images(out)


def similar_to(options: Options, model: Denoiser, device: str | None) -> tuple[Similar, dict[str, Any]]:
    """What samples are to be like, and what a request says of it.

    Raises:
        UserError: for a directory that holds no encoder, both or none of text and image, or a picture that is none.
    """
    from ..adapters import loading
    from ..denoisers import ContrastiveEncoder
    from ..storage import files
    from ..tasks.guide import Similar
    from .similarity import captions_of, picture_of

    assert options.encoder is not None
    if (options.text is None) == (options.image is None):
        raise UserError("similarity is to a text or to an image: give --text or --image")
    encoder = loading.load_kind(options.encoder, ContrastiveEncoder, "encoder", device=device)
    told: dict[str, Any] = {"text": options.text, "image": None, "measure": options.measure}
    text = image = None
    if options.text is not None:
        text = captions_of(encoder, [options.text], options.text_encoder)
    if options.image is not None:
        image = picture_of(options.image, model.output)
        told["image"] = files.digest(image.numpy().tobytes())["sha256"]
    return Similar(encoder, text, image, options.measure or "content"), told


def reached(
    guided: Denoiser, model: NetworkDenoiser, options: Options, recipe: Recipe, bar: Bar
) -> tuple[Samples, dict[str, Any]]:
    """Samples of the law that a classifier's guidance aims at, by particles, and what is told of these."""
    import time

    from ..generate import Samples, versions
    from ..samplers.particles import twisted_smc

    begun = time.perf_counter()
    assert options.particles is not None
    found = twisted_smc(
        guided, n=options.particles, steps=recipe.steps, grid=recipe.grid, seed=recipe.seed, progress=bar
    )
    x = found.sample(options.n, recipe.seed).float().cpu()
    if model.output.low is not None:
        x = x.clamp(model.output.low, model.output.high)
    steps = found.ess.shape[1] - 1
    record = {
        "n": options.n,
        "sampler": "twisted-smc",
        "rule": f"twisted SMC, {options.particles} particles",
        "process": repr(guided.process),
        "steps": steps,
        "evaluations": steps,
        "seed": recipe.seed,
        "seconds": round(time.perf_counter() - begun, 3),
        "versions": versions(),
    }
    told = {"ess": [round(float(v), 1) for v in found.ess[0]], "log_evidence": float(found.log_evidence[0])}
    return Samples(x, None, steps, time.perf_counter() - begun, record), told
