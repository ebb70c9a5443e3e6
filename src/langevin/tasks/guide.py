"""Guidance of a trained model, as it is asked for in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import guidance
from .._errors import UserError, check_integer, unknown
from ..denoisers import Denoiser, NetworkDenoiser, NoisyClassifier
from ..models.conditional import dropout


@dataclass(frozen=True)
class Guidance:
    """What is asked for.

    Args:
        method: a name of ``METHODS``.
        scale: 1 is the plain conditional model; for ``classifier``, s of s·log p(label | x_t).
        interval: noise levels σ/α between which there is guidance; everywhere if not given.
        rescale: φ in [0, 1] of classifier-free guidance.
        negative: the label that is led away from, in place of no label.
        labels: for ``conjunction``, what else must hold.
        threshold: percentile of dynamic thresholding, in (0, 1]; none if not given.
    """

    method: str = "classifier-free"
    scale: float = 3.0
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    negative: int | None = None
    labels: tuple[int, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("guidance", self.method, METHODS)
        taken = METHODS[self.method].takes
        for name, plain in (("rescale", 0.0), ("negative", None), ("labels", ())):
            if getattr(self, name) != plain and name not in taken:
                raise UserError(f"{name} is not taken by guidance {self.method!r}, got {getattr(self, name)}")
        for label in self.labels:
            check_integer("labels", label, 0)

    def bind(
        self,
        model: NetworkDenoiser,
        condition: Mapping[str, Any],
        *,
        classifier: NoisyClassifier | None = None,
        weak: Denoiser | None = None,
        grid: Any = None,
    ) -> Denoiser:
        """The guided denoiser of a model under conditions, one value each or one a sample.

        Args:
            model: as ``langevin.load`` gives it.
            condition: by name.
            classifier: for ``classifier``, trained on noisy data.
            weak: for ``autoguidance``, a worse model of the same data.
            grid: for ``cfg-plus-plus``, the times of the sampler.

        Raises:
            UserError: for what a method needs and is not given, or a model that cannot be asked without a condition.
        """
        plain, guided = METHODS[self.method].make(self, model, condition, classifier, weak, grid)
        if self.interval is not None:
            guided = guidance.interval(plain, guided, self.interval)
        return guided if self.threshold is None else guidance.threshold(guided, self.threshold)


Make = Callable[
    [Guidance, NetworkDenoiser, Mapping[str, Any], NoisyClassifier | None, Denoiser | None, Any],
    tuple[Denoiser, Denoiser],
]


@dataclass(frozen=True)
class Method:
    """A guidance by name.

    Args:
        make: the plain and the guided denoiser.
        help: one line.
        takes: settings that only some take.
    """

    make: Make
    help: str
    takes: tuple[str, ...] = ()


def _label(model: NetworkDenoiser, condition: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """The conditions, checked to hold one that the model was trained to do without."""
    if not condition:
        raise UserError(f"guidance {method!r} needs a condition, such as a label, and this model was given none")
    hidden = dropout(model)
    if all(hidden.get(name) == 0 for name in condition):
        raise UserError(f"guidance {method!r} needs the model without {', '.join(condition)}, which it always had")
    return condition


def _negative(asked: Guidance) -> dict[str, Any] | None:
    return None if asked.negative is None else {"label": asked.negative}


def _classifier_free(
    asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], *_: Any
) -> tuple[Denoiser, Denoiser]:
    given = _label(model, condition, asked.method)
    how = {"guidance_scale": asked.scale, "rescale": asked.rescale, "negative": _negative(asked)}
    return model.given(given), guidance.classifier_free(model, given, **how)  # type: ignore[arg-type]


def _apg(asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], *_: Any) -> tuple[Denoiser, Denoiser]:
    given = _label(model, condition, asked.method)
    return model.given(given), guidance.apg(model, given, guidance_scale=asked.scale, negative=_negative(asked))


def _zero_star(
    asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], *_: Any
) -> tuple[Denoiser, Denoiser]:
    given = _label(model, condition, asked.method)
    guided = guidance.cfg_zero_star(model, given, guidance_scale=asked.scale, negative=_negative(asked))
    return model.given(given), guided


def _plus_plus(
    asked: Guidance,
    model: NetworkDenoiser,
    condition: Mapping[str, Any],
    classifier: NoisyClassifier | None,
    weak: Denoiser | None,
    grid: Any,
) -> tuple[Denoiser, Denoiser]:
    given = _label(model, condition, asked.method)
    guided = guidance.cfg_plus_plus(model, given, scale=asked.scale, grid=grid, negative=_negative(asked))
    return model.given(given), guided


def _conjunction(
    asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], *_: Any
) -> tuple[Denoiser, Denoiser]:
    given = _label(model, condition, asked.method)
    if not asked.labels:
        raise UserError("labels must be given for guidance 'conjunction': what must hold beside the label")
    every = [given, *({"label": label} for label in asked.labels)]
    return model.given(given), guidance.conjunction(model, every, [asked.scale] * len(every))


def _autoguidance(
    asked: Guidance,
    model: NetworkDenoiser,
    condition: Mapping[str, Any],
    classifier: NoisyClassifier | None,
    weak: Denoiser | None,
    grid: Any,
) -> tuple[Denoiser, Denoiser]:
    if weak is None:
        raise UserError("weak must be given for guidance 'autoguidance': a worse model of the same data")
    strong = model.given(condition) if condition else model
    same = {name: value for name, value in condition.items() if name in weak.conditions()}
    return strong, guidance.autoguidance(strong, weak.given(same) if same else weak, asked.scale)


def _classifier(
    asked: Guidance,
    model: NetworkDenoiser,
    condition: Mapping[str, Any],
    classifier: NoisyClassifier | None,
    weak: Denoiser | None,
    grid: Any,
) -> tuple[Denoiser, Denoiser]:
    if classifier is None:
        raise UserError("classifier must be given for guidance 'classifier': a model trained on noisy data")
    if "label" not in condition:
        raise UserError("label must be given for guidance 'classifier': the class to lead to")
    rest = {name: value for name, value in condition.items() if name != "label"}
    plain = model.given(rest) if rest else model
    return plain, guidance.classifier(plain, classifier, label=condition["label"], scale=asked.scale)


METHODS: dict[str, Method] = {
    "classifier-free": Method(
        _classifier_free, "uncond + W (cond - uncond), with --rescale and --negative-label", ("rescale", "negative")
    ),
    "classifier": Method(_classifier, "by the gradient of a classifier of noisy data, --classifier DIR"),
    "autoguidance": Method(_autoguidance, "away from a worse model of the same data, --weak DIR"),
    "apg": Method(_apg, "classifier-free, without what only makes contrast stronger", ("negative",)),
    "cfg-zero-star": Method(
        _zero_star, "classifier-free, with the unconditional velocity scaled to fit", ("negative",)
    ),
    "cfg-plus-plus": Method(
        _plus_plus, "for DDIM, W in [0, 1]: the noise of a step is the unconditional one", ("negative",)
    ),
    "conjunction": Method(_conjunction, "several labels at once, --also LABEL", ("labels",)),
}
"""By the name that `langevin guide --method` takes."""
