"""The tab *Generate*: samples of a trained model, watched while they form."""

from __future__ import annotations

import base64
import json
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import samplers, training
from .._errors import UserError, shown
from .._registry import methods
from ..denoisers import Denoiser
from ..distributions import Distribution
from ..generate import Provenance, Recipe, generate, in_process, model_digest, plan, within
from ..models.conditional import bind
from ..nn.text import encode_text
from .jobs import Job, Watched
from .messages import choice, number, packed, titles, whole

if TYPE_CHECKING:
    from ..denoisers import NetworkDenoiser

PAUSE, PREVIEWED = 0.15, 16
"""Seconds between two pictures of unfinished samples, and samples that these show."""

MOST, STEPS = 64, 1000
"""Samples and steps at most."""

CAPTION = 4096
"""Characters of a caption at most."""


@dataclass(frozen=True, eq=False)
class Preview(Watched):
    """The same belief, shown to the page while samples form."""

    said: list[float] = field(default_factory=lambda: [0.0])

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Distribution:
        belief = super().__call__(x_t, t)
        if (now := time.monotonic()) - self.said[0] >= PAUSE and len(belief.mean) >= min(PREVIEWED, len(x_t)):
            self.said[0] = now
            x = self.base.read(belief.mean[:PREVIEWED])
            low, high = training.value_range(self.base.output)
            if x.ndim == 4:
                self.job.send("preview", images=packed(training.as_bytes(x, low, high)))
            elif x.ndim == 2 and x.shape[1] >= 2:
                self.job.send("preview", points=packed(x[:, :2]))
        return belief


class Models:
    """The models that a playground was started with.

    Args:
        models: what each is called, and itself.
    """

    def __init__(self, models: Sequence[tuple[str, NetworkDenoiser]]) -> None:
        self.models = dict(models)

    def choices(self) -> dict[str, Any]:
        """What the tab offers."""
        return {
            "models": [_about(name, model) for name, model in self.models.items()],
            "grids": {row.name: row.title for row in methods("grids")},
            "most": {"n": MOST, "steps": STEPS},
        }

    def run(self, job: Job) -> dict[str, Any]:
        """Draw, and say how."""
        asked = Asked.read(job.arguments, self.models)
        recipe, note = asked.recipe, ""
        if asked.tolerance is not None:

            def trying(steps: int) -> None:
                job.check()
                job.send("note", text=f"Choosing the number of steps: trying {steps} …")

            recipe, chosen = within(asked.model, recipe, asked.tolerance, asked.n, given=asked.given, trying=trying)
            note = str(chosen)
        job.check()
        guide, watched = None, Preview(asked.model, job)
        if len(asked.model.stages) == 1 and recipe.variance is None:

            def guide(model: NetworkDenoiser, condition: Mapping[str, Any]) -> tuple[Denoiser, samplers.Plan]:
                denoiser = in_process(bind(model, condition, recipe.guidance_scale), recipe)
                nonlocal watched
                watched = Preview(denoiser, job, said=[time.monotonic()])
                return watched, plan(denoiser, recipe)

        drawn = generate(asked.model, recipe, asked.n, given=asked.given, progress=job.progress, guide=guide)
        job.check()
        name, content = training.sheet(drawn.x, drawn.label, asked.model.output, asked.model.class_names)
        if name.endswith(".png"):
            content = self._provenance(asked, recipe, drawn.record).stamp(content, name)
        return {
            "name": name,
            "file": base64.b64encode(content).decode(),
            "evaluations": watched.calls or drawn.evaluations,
            "calls": drawn.evaluations,
            "seconds": drawn.seconds,
            "steps": drawn.record["steps"],
            "sampler": drawn.record["sampler"],
            "note": note,
            "command": asked.command(recipe),
            "python": asked.python(recipe),
        }

    def _provenance(self, asked: Asked, recipe: Recipe, record: Mapping[str, Any]) -> Provenance:
        chosen = {key: record.get(key) for key in ("sampler", "process", "grid", "steps", "evaluations", "label")}
        settings = {**asdict(recipe), "options": dict(recipe.options), "n": asked.n, **chosen}
        words = tuple(asked.words(recipe))
        return Provenance("sample", words, model_digest(asked.name), settings=settings, device=str(asked.model.device))


def chosen(given: Mapping[str, Any], models: Mapping[str, NetworkDenoiser]) -> tuple[str, NetworkDenoiser]:
    """The model of a request, by its name; the first if none is named.

    Raises:
        UserError: for another, or if there is none.
    """
    if not models:
        raise UserError("model: the playground was started without one; give it as `langevin play MODEL`")
    name = choice(given, "model", next(iter(models)), models)
    return name, models[name]


def conditions(given: Mapping[str, Any], model: NetworkDenoiser) -> dict[str, Any]:
    """The class and the caption of a request, for a model that takes them.

    Raises:
        UserError: for what it does not take.
    """
    told: dict[str, Any] = {}
    if given.get("label") is not None:
        told["label"] = whole(given, "label", 0, 0, len(model.class_names) - 1)
    if (caption := given.get("caption")) is not None:
        if not isinstance(caption, str) or len(caption) > CAPTION:
            raise UserError(f"caption must be text of at most {CAPTION} characters, got {shown(caption)}")
        if "caption" not in model.condition_sizes:
            raise UserError("caption was given, but this model takes none")
        told["caption"] = encode_text(caption, model.condition_sizes["caption"])
    return told


def _about(name: str, model: NetworkDenoiser) -> dict[str, Any]:
    data = model.output
    return {
        "name": name,
        "shape": list(model.output_shape),
        "data": None if data is None else data.name,
        "classes": model.class_names,
        "caption": model.condition_sizes.get("caption", 1) - 1,
        "needs": [c for c in model.condition_sizes if c not in ("label", "caption")],
        "samplers": titles(model.process),
    }


@dataclass(frozen=True)
class Asked:
    """What a page asks for, checked.

    Args:
        name: of the model.
        model: itself.
        recipe: how samples are drawn.
        n: samples.
        given: conditions by name.
        caption: as it was typed; None if none is given.
        tolerance: in place of steps; None for those of the recipe.
    """

    name: str
    model: NetworkDenoiser
    recipe: Recipe
    n: int
    given: Mapping[str, Any]
    caption: str | None
    tolerance: float | None

    @classmethod
    def read(cls, given: Mapping[str, Any], models: Mapping[str, NetworkDenoiser]) -> Asked:
        """That of a page.

        Raises:
            UserError: naming what is wrong.
        """
        name, model = chosen(given, models)
        told = conditions(given, model)
        named = {row.name for row in methods("samplers")}
        sampler = None if given.get("sampler") in (None, "") else choice(given, "sampler", "", named)
        grids = {row.name for row in methods("grids")}
        grid = None if given.get("grid") in (None, "") else choice(given, "grid", "", grids)
        tolerance = None if given.get("tolerance") is None else number(given, "tolerance", 1e-2, 1e-6, 10.0)
        return cls(
            name=name,
            model=model,
            recipe=Recipe(
                sampler=sampler,
                steps=None if tolerance is not None else whole(given, "steps", 12, 1, STEPS),
                grid=grid,
                guidance_scale=number(given, "scale", 1.0, 0.0, 50.0),
                seed=whole(given, "seed", 0, 0, 2**53 - 1),
            ),
            n=whole(given, "n", 16, 1, MOST),
            given=told,
            caption=given.get("caption"),
            tolerance=tolerance,
        )

    @cached_property
    def _label(self) -> str | None:
        label = self.given.get("label")
        return None if label is None else self.model.class_names[label]

    def words(self, recipe: Recipe) -> list[str]:
        """The words of ``langevin sample`` that draw the same."""
        found = [self.name, "-n", str(self.n), *recipe.words()]
        found += [] if self._label is None else ["--label", self._label]
        return found + ([] if self.caption is None else ["--given", f"caption={self.caption}"])

    def command(self, recipe: Recipe) -> str:
        """The command that draws the same."""
        return shlex.join(["langevin", "sample", *self.words(recipe), "--out", "samples"])

    def python(self, recipe: Recipe) -> str:
        """The lines that draw the same."""
        told = []
        if (label := self.given.get("label")) is not None:
            told.append(f"label={label}")
        elif self.caption is None and self.model.class_names:
            told.append(f"label=torch.arange({self.n}) % {len(self.model.class_names)}")
        if self.caption is not None:
            told.append(f"caption={json.dumps(self.caption, ensure_ascii=False)}")
        lines = ["import torch"] * any("torch." in text for text in told)
        lines += ["import langevin", "", f"model = langevin.load({json.dumps(self.name)})"]
        if told and not math.isclose(recipe.guidance_scale, 1):
            scale = f"guidance_scale={recipe.guidance_scale:g}"
            lines.append(f"model = langevin.guidance.classifier_free(model, {', '.join([*told, scale])})")
        elif told:
            lines.append(f"model = model.given({', '.join(told)})")
        words = [] if recipe.sampler is None else [f'"{recipe.sampler}"']
        words += [f"n={self.n}", f"steps={recipe.steps}", f"seed={recipe.seed}"]
        words += [] if recipe.grid is None else [f'grid="{recipe.grid}"']
        return "\n".join([*lines, f"x = langevin.sample(model, {', '.join(words)})"])
