"""Guidance of a trained model, as it is asked for in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .. import guidance
from .._errors import UserError, check_integer, check_numbers, shown, unknown
from ..denoisers import ContrastiveEncoder, Denoiser, NetworkDenoiser, NoisyClassifier
from ..models.conditional import dropout


@dataclass(frozen=True)
class Guidance:
    """What is asked for.

    Args:
        method: a name of ``METHODS``.
        scale: 1 is the plain conditional model; for ``classifier``, s of s·log p(label | x_t); for ``cfg-plus-plus``
            λ in [0, 1]. The method's own of ``METHODS`` if not given.
        interval: noise levels σ/α between which there is guidance; everywhere if not given.
        rescale: φ in [0, 1] of classifier-free guidance.
        negative: the label that is led away from, in place of no label.
        labels: for ``conjunction``, what else must hold.
        threshold: percentile of dynamic thresholding, in (0, 1]; none if not given.
    """

    method: str = "classifier-free"
    scale: float | None = None
    interval: tuple[float, float] | None = None
    rescale: float = 0.0
    negative: int | None = None
    labels: tuple[int, ...] = ()
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("guidance", self.method, METHODS)
        self.refuse_others(**{name: getattr(self, name) or None for name in ("rescale", "labels")})
        self.refuse_others(negative=self.negative)
        for label in self.labels:
            check_integer("labels", label, 0)
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise UserError(f"threshold must lie in (0, 1], a share such as 0.995, got {self.threshold:g}")
        if self.scale is not None:
            check_numbers(scale=self.scale)
        own = METHODS[self.method]
        if own.most is not None and self.scale is not None and not 0 <= self.scale <= own.most:
            raise UserError(
                f"scale must lie in [0, {own.most:g}] for guidance {self.method!r}, got {self.scale:g}; --scale "
                f"{own.scale:g} is usual"
            )

    @property
    def weight(self) -> float:
        """The scale that was asked for, or the method's own."""
        return METHODS[self.method].scale if self.scale is None else self.scale

    def refuse_others(self, **given: Any) -> None:
        """Refuse settings, by the names of ``METHODS``, that are given (not None) and that the method does not take.

        Raises:
            UserError: it names the option of the command, and the methods that take it.
        """
        for name, value in given.items():
            if value is not None and name not in METHODS[self.method].takes:
                some = ", ".join(other for other, method in METHODS.items() if name in method.takes)
                raise UserError(
                    f"{OPTIONS.get(name, name)} is not taken by guidance {self.method!r}, got {shown(value)}; it is "
                    f"by {some}"
                )

    def bind(
        self,
        model: NetworkDenoiser,
        condition: Mapping[str, Any],
        *,
        classifier: NoisyClassifier | None = None,
        weak: Denoiser | None = None,
        similar: Similar | None = None,
        grid: Any = None,
    ) -> Denoiser:
        """The guided denoiser of a model under conditions, one value each or one a sample.

        Args:
            model: as ``langevin.load`` gives it.
            condition: by name.
            classifier: for ``classifier``, trained on noisy data.
            weak: for ``autoguidance``, a worse model of the same data.
            similar: for ``similarity``, what is to be alike, and by which encoder.
            grid: for ``cfg-plus-plus``, the times of the sampler.

        Raises:
            UserError: for what a method needs and is not given, or is given and does not take, or a model that cannot
                be asked without a condition.
        """
        self.refuse_others(classifier=classifier, weak=weak, encoder=similar)
        plain, guided = METHODS[self.method].make(self, model, condition, Beside(classifier, weak, grid, similar))
        if self.interval is not None:
            guided = guidance.interval(plain, guided, self.interval)
        return guided if self.threshold is None else guidance.threshold(guided, self.threshold)


@dataclass(frozen=True)
class Similar:
    """What samples are to be like: arguments of ``guidance.similarity``."""

    encoder: ContrastiveEncoder
    text: Any = None
    image: Any = None
    measure: str = "content"
    noisy: bool | None = None


@dataclass(frozen=True)
class Beside:
    """What some methods need beside the model.

    Attributes:
        classifier, weak, grid, similar: see ``Guidance.bind``.
    """

    classifier: NoisyClassifier | None = None
    weak: Denoiser | None = None
    grid: Any = None
    similar: Similar | None = None


Make = Callable[[Guidance, NetworkDenoiser, Mapping[str, Any], Beside], tuple[Denoiser, Denoiser]]


@dataclass(frozen=True)
class Method:
    """A guidance by name.

    Args:
        make: the plain and the guided denoiser.
        help: one line.
        takes: settings that only some take.
        scale: if none is given.
        most: the largest scale there is, for one that must lie in [0, most].
        sampler: the registered name of the one it is meant for, taken if none is named.
        on_grid: whether it is made for the times of the sampler's steps.
    """

    make: Make
    help: str
    takes: tuple[str, ...] = ()
    scale: float = 3.0
    most: float | None = None
    sampler: str | None = None
    on_grid: bool = False


OPTIONS = {
    "negative": "negative-label",
    "labels": "also (labels)",
}
"""Names of settings on the command line, where they differ."""


def _with_and_without(
    make: Callable[[Guidance, NetworkDenoiser, Mapping[str, Any], Beside], Denoiser],
) -> Make:
    """A guidance between the model with and without its conditions, one of which its training must have hidden."""

    def bind(
        asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], beside: Beside
    ) -> tuple[Denoiser, Denoiser]:
        if not condition:
            raise UserError(f"guidance {asked.method!r} needs a condition, such as a label, and none is given")
        hidden = dropout(model)
        if all(hidden.get(name) == 0 for name in condition):
            raise UserError(
                f"guidance {asked.method!r} needs the model without {', '.join(condition)}, which it always had"
            )
        return model.given(condition), make(asked, model, condition, beside)

    return bind


def _negative(asked: Guidance) -> dict[str, Any] | None:
    return None if asked.negative is None else {"label": asked.negative}


def _classifier_free(asked: Guidance, model: NetworkDenoiser, given: Mapping[str, Any], beside: Beside) -> Denoiser:
    return guidance.classifier_free(
        model, given, guidance_scale=asked.weight, rescale=asked.rescale, negative=_negative(asked)
    )


def _apg(asked: Guidance, model: NetworkDenoiser, given: Mapping[str, Any], beside: Beside) -> Denoiser:
    return guidance.apg(model, given, guidance_scale=asked.weight, negative=_negative(asked))


def _zero_star(asked: Guidance, model: NetworkDenoiser, given: Mapping[str, Any], beside: Beside) -> Denoiser:
    return guidance.cfg_zero_star(model, given, guidance_scale=asked.weight, negative=_negative(asked))


def _plus_plus(asked: Guidance, model: NetworkDenoiser, given: Mapping[str, Any], beside: Beside) -> Denoiser:
    return guidance.cfg_plus_plus(model, given, scale=asked.weight, grid=beside.grid, negative=_negative(asked))


def _conjunction(asked: Guidance, model: NetworkDenoiser, given: Mapping[str, Any], beside: Beside) -> Denoiser:
    if not asked.labels:
        raise UserError("also (labels) must be given for guidance 'conjunction': --also LABEL, what else must hold")
    every = [given, *({"label": label} for label in asked.labels)]
    return guidance.conjunction(model, every, [asked.weight] * len(every))


def _autoguidance(
    asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], beside: Beside
) -> tuple[Denoiser, Denoiser]:
    weak = beside.weak
    if weak is None:
        raise UserError("weak must be given for guidance 'autoguidance': --weak DIR, a worse model of the same data")
    strong = model.given(condition) if condition else model
    same = {name: value for name, value in condition.items() if name in weak.conditions()}
    return strong, guidance.autoguidance(strong, weak.given(same) if same else weak, asked.weight)


def _classifier(
    asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], beside: Beside
) -> tuple[Denoiser, Denoiser]:
    if beside.classifier is None:
        raise UserError("classifier must be given for guidance 'classifier': --classifier DIR, trained on noisy data")
    if "label" not in condition:
        raise UserError("label must be given for guidance 'classifier': the class to lead to, --label NAME")
    rest = {name: value for name, value in condition.items() if name != "label"}
    plain = model.given(rest) if rest else model
    return plain, guidance.classifier(plain, beside.classifier, label=condition["label"], scale=asked.weight)


def _similarity(
    asked: Guidance, model: NetworkDenoiser, condition: Mapping[str, Any], beside: Beside
) -> tuple[Denoiser, Denoiser]:
    if beside.similar is None:
        raise UserError(
            "encoder must be given for guidance 'similarity': --encoder DIR, trained with `langevin train DATA "
            "--objective.name contrastive`, with --text or --image"
        )
    plain = model.given(condition) if condition else model
    return plain, guidance.similarity(plain, scale=asked.weight, **vars(beside.similar))


METHODS: dict[str, Method] = {
    "classifier-free": Method(
        _with_and_without(_classifier_free),
        "uncond + W (cond - uncond), with --rescale and --negative-label",
        ("rescale", "negative"),
    ),
    "classifier": Method(
        _classifier, "by the gradient of a classifier of noisy data, --classifier DIR", ("classifier",), 1.0
    ),
    "autoguidance": Method(_autoguidance, "away from a worse model of the same data, --weak DIR", ("weak",), 2.0),
    "apg": Method(_with_and_without(_apg), "classifier-free, without what only makes contrast stronger", ("negative",)),
    "cfg-zero-star": Method(
        _with_and_without(_zero_star), "classifier-free, with the unconditional velocity scaled to fit", ("negative",)
    ),
    "cfg-plus-plus": Method(
        _with_and_without(_plus_plus),
        "for DDIM, W in [0, 1]: the noise of a step is the unconditional one",
        ("negative",),
        scale=0.6,
        most=1.0,
        sampler="ddim",
        on_grid=True,
    ),
    "similarity": Method(
        _similarity,
        "to a caption or a picture, by a contrastive encoder: --encoder DIR with --text or --image",
        ("encoder", "text", "image", "measure"),
        1.0,
    ),
    "conjunction": Method(_with_and_without(_conjunction), "several labels at once, --also LABEL", ("labels",)),
}
"""By the name that `langevin guide --method` takes."""
