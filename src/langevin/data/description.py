"""What a model must know about the data it was trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, nearest, unknown
from ..denoisers import DataDescription
from ..denoisers.conditions import KINDS
from ..storage.untrusted import settings, typed

EVENT = 2**28
"""Numbers in an event at most: a quarter of a billion."""

LEVELS = 2**16
"""Grey levels at most, those of 16-bit images."""

RANGE = 1e12
"""Bounds of the data at most: in float32 their squares, times a million, are still numbers."""

ROUNDING = 1e-6
"""What a covariance may lack of symmetry, as a share of its largest entry, and its eigenvalues may lie below zero, as a
share of its trace: moments may have been kept in float32, whose rounding is 6e-8."""

FULL_COVARIANCE = 512
"""Events of up to this many coordinates carry a full covariance, larger ones the variances."""

MOMENTS = ("mean", "cov", "colours", "spectrum", "directions", "class_mean", "class_cov")
"""The tensors of a description."""


SOURCE = {
    "source": str,
    "size": int | None,
    "channels": int | None,
    "flip": bool,
    "crop": str,
    "limit": int | None,
    "degrade": str | None,
    "codec": str | None,
    "text_encoder": str | None,
    "streaming": bool,
}
"""What a description says of where the data came from: the arguments of :func:`langevin.data.load`."""


def _check_source(source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if key not in SOURCE:
            raise UserError(f"data.source has no {key!r}.{nearest(key, SOURCE)} Known: {', '.join(SOURCE)}.")
        typed(SOURCE[key], value, f"data.source.{key}")


def _check_covariance(name: str, value: Tensor) -> None:
    """Refuse matrices ``(…, D, D)`` that are no covariances."""
    if bool(((value - value.mT).abs().amax((-2, -1)) > ROUNDING * value.abs().amax((-2, -1))).any()):
        raise UserError(f"{name} must be symmetric")
    trace = value.diagonal(dim1=-2, dim2=-1).sum(-1)
    shift = (ROUNDING * trace).clamp_min(torch.finfo(value.dtype).tiny)[..., None, None]
    # A Cholesky factor exists where all eigenvalues are above zero, at a tenth of what computing them takes.
    moved = value + shift * torch.eye(value.shape[-1], dtype=value.dtype, device=value.device)
    if bool((trace < 0).any()) or bool(torch.linalg.cholesky_ex(moved).info.any()):
        raise UserError(f"{name} must be positive semi-definite, but has a negative eigenvalue")


def event(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """The event shape that a file says, one to eight sizes of at most 2^28 numbers in all.

    Raises:
        UserError: for anything else.
    """
    sizes = isinstance(shape, list | tuple) and all(type(n) is int and n > 0 for n in shape)
    if not sizes or not 1 <= len(shape) <= 8 or math.prod(shape) > EVENT:
        raise UserError(f"{name} must be a tuple of positive integers, at most {EVENT} numbers in all; got {shape!r}.")
    return tuple(shape)


@dataclass(frozen=True, eq=False, repr=False)
class DataInfo(DataDescription):
    r"""The description of a data set that travels with the model.

    Args:
        name: short name, for titles.
        shape: the event, e.g. ``(1, 8, 8)`` or ``(2,)``; D is its number of elements.
        low: smallest possible value, or ``None`` for unbounded points.
        high: largest possible value, or ``None`` for unbounded points.
        classes: class names, label k is ``classes[k]``; empty if there are no labels.
        tokens: names of the values a token may take, k is ``tokens[k]``; empty for real numbers. Tokens have a range
            ``low``, ``high`` if they are levels, and no moments.
        levels: number of grey levels a coordinate takes between ``low`` and ``high`` (256 for 8-bit images),
            ``None`` if continuous.
        conditions: the shape of what belongs to each example, by name: ``label`` () where there are classes,
            ``caption`` (L,), ``image`` and ``mask`` (C, H, W), ``vector`` (V,), ``sequence`` (L, F).
        mean: float64 ``(D,)``, mean of the flattened event over the training split, or ``None`` if unknown.
        cov: float64 ``(D, D)`` for D ≤ 512, else the variances ``(D,)``; ``None`` if unknown. Normalised by 1/N:
            it is the covariance of the empirical law, mirrored images counted where training mirrors.
        source: the arguments of :func:`langevin.data.load` that give the data again.
        colours: float64 ``(C, C)``, orthonormal directions of the channels as columns; for images of D > 512.
        spectrum: on which scales the data vary, where a full covariance would be too large; ``None`` if ``cov`` is full
            or unknown. Of images float64 ``(D,)``, the variances of the two-dimensional DCT of each channel along
            ``colours``; of other events ``(k + 1,)``, the variances along ``directions`` and the mean one of the rest.
        directions: float64 ``(D, k)``, the leading principal directions as columns; for D > 512 but images.
        class_mean: float64 ``(K, D)``, of each class alone, where there are classes and they have examples enough.
        class_cov: the same of covariances: ``(K, D, D)`` beside a full ``cov``, of large images ``(K, D)`` as
            ``spectrum``.

    Raises:
        UserError: for a field that contradicts another.
    """

    name: str
    shape: tuple[int, ...]
    low: float | None = -1.0
    high: float | None = 1.0
    classes: tuple[str, ...] = ()
    levels: int | None = None
    mean: Tensor | None = None
    cov: Tensor | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    colours: Tensor | None = None
    spectrum: Tensor | None = None
    directions: Tensor | None = None
    class_mean: Tensor | None = None
    class_cov: Tensor | None = None
    tokens: tuple[str, ...] = ()
    conditions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        event(self.shape)
        self._check_conditions()
        if (self.low is None) != (self.high is None):
            raise UserError(f"low and high are both numbers or both None; got {self.low!r} and {self.high!r}.")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise UserError(f"low must be below high; got {self.low} and {self.high}.")
        if self.low is not None and self.high is not None and max(-self.low, self.high) > RANGE:
            raise UserError(f"low and high must lie in ±{RANGE:g}; got {self.low} and {self.high}.")
        if self.levels is not None and (not 2 <= self.levels <= LEVELS or self.low is None):
            raise UserError(f"levels needs a range and at least 2 levels, at most {LEVELS}; got {self.levels}.")
        if len(set(self.classes)) < len(self.classes):
            raise UserError(f"classes must differ from each other; got {self.classes}.")
        if len(set(self.tokens)) < len(self.tokens) or len(self.tokens) == 1:
            raise UserError(f"tokens must be two or more names that differ from each other; got {self.tokens}.")
        for text in (self.name, *self.classes, *self.tokens):
            if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
                raise UserError(f"{text!r} is no Unicode text (a file name in another encoding?): rename it.")
        if self.tokens and self.tensors():
            raise UserError("tokens have no moments")
        if self.mean is not None and self.mean.shape != (self.dim,):
            raise UserError(f"mean must have shape ({self.dim},); got {tuple(self.mean.shape)}.")
        if self.cov is not None and self.cov.shape not in ((self.dim,), (self.dim, self.dim)):
            raise UserError(f"cov must have shape ({self.dim},) or squared; got {tuple(self.cov.shape)}.")
        self._check_spectrum()
        self._check_classes()
        self._check_moments()

    def _check_conditions(self) -> None:
        given = {name: shape for name, shape in self.conditions.items() if name != "label"}
        given |= {"label": ()} if self.classes else {}
        for name, shape in given.items():
            if name not in KINDS:
                raise unknown("condition", str(name), KINDS)
            axes = KINDS[name].axes
            if len(shape) != len(axes):
                raise UserError(f"conditions.{name} must be a shape ({', '.join(axes)}); got {shape!r}.")
            if axes:
                event(shape, f"conditions.{name}")
        object.__setattr__(self, "conditions", {name: tuple(given[name]) for name in KINDS if name in given})

    @property
    def condition_sizes(self) -> dict[str, int]:
        """The conditions as a network takes them: classes of a label, else the length of the axis that is fixed."""
        sized = {name: shape[KINDS[name].sized or 0] for name, shape in self.conditions.items() if shape}
        return {name: sized.get(name, len(self.classes)) for name in self.conditions}

    def _check_moments(self) -> None:
        known = self.tensors()
        for name, value in known.items():
            if not bool(torch.isfinite(value).all()):
                raise UserError(f"{name} must hold finite numbers")
        for name in sorted(known.keys() & {"cov", "spectrum", "class_cov"}):
            value = known[name]
            if value.ndim == (3 if name == "class_cov" else 2):
                _check_covariance(name, value)
            elif float((value + ROUNDING * value.sum(-1, keepdim=True)).min()) < 0:
                raise UserError(f"{name} must hold variances, which are not negative; got {float(value.min()):.3g}")
        for name in sorted(known.keys() & {"colours", "directions"}):
            columns = known[name]
            if float((columns.T @ columns - torch.eye(columns.shape[1]).to(columns)).abs().max()) > 1e-4:
                raise UserError(f"{name} must be orthonormal columns")

    def _check_spectrum(self) -> None:
        if (self.colours is None) + (self.directions is None) != 1 + (self.spectrum is None):
            raise UserError("spectrum is known with either colours or directions, or all of them are None")
        if self.spectrum is None:
            return
        size = self.dim
        if self.colours is not None:
            channels = self.shape[0]
            if not self.is_image or self.colours.shape != (channels, channels):
                raise UserError(f"colours must be ({channels}, {channels}) of images; got {tuple(self.colours.shape)}.")
        elif self.directions is not None:
            got = tuple(self.directions.shape)
            if len(got) != 2 or got[0] != self.dim or not 1 <= got[1] < self.dim:
                raise UserError(f"directions must be ({self.dim}, k) with 1 <= k < {self.dim}; got {got}.")
            size = got[1] + 1
        if self.spectrum.shape != (size,):
            raise UserError(f"spectrum must have shape ({size},); got {tuple(self.spectrum.shape)}.")

    def _check_classes(self) -> None:
        if (self.class_mean is None) != (self.class_cov is None):
            raise UserError("class_mean and class_cov are both known or both None")
        if self.class_mean is None or self.class_cov is None:
            return
        each = (len(self.classes) or self.class_mean.shape[:1].numel(), self.dim)
        if self.class_mean.shape != each:
            raise UserError(f"class_mean must have shape {each}; got {tuple(self.class_mean.shape)}.")
        expected = (*each, self.dim) if self.colours is None else each
        if self.class_cov.shape != expected:
            raise UserError(f"class_cov must have shape {expected}; got {tuple(self.class_cov.shape)}.")

    @property
    def dim(self) -> int:
        """D, the number of coordinates of an event."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Whether an event is (channels, height, width)."""
        return len(self.shape) == 3

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, float64 ``(D,)``."""
        if self.cov is None:
            raise UserError(f"the variance of data {self.name!r} is unknown: its covariance was not measured.")
        return self.cov if self.cov.ndim == 1 else self.cov.diagonal()

    @property
    def std(self) -> float:
        r"""RMS of the data around its mean, a coordinate: :math:`\sqrt{\mathrm{tr}\,\mathrm{Cov}/D}`."""
        return math.sqrt(float(self.variance.mean()))

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, ready for JSON."""
        beside = {name: list(shape) for name, shape in self.conditions.items() if name != "label"}
        return {
            "name": self.name,
            "shape": list(self.shape),
            "low": self.low,
            "high": self.high,
            "classes": list(self.classes),
            "levels": self.levels,
            "source": dict(self.source),
            **({"tokens": list(self.tokens)} if self.tokens else {}),
            **({"conditions": beside} if beside else {}),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are known, ready for safetensors (contiguous, under the field's name)."""
        known = {name: getattr(self, name) for name in MOMENTS}
        return {name: value.contiguous() for name, value in known.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> DataInfo:
        """The inverse of :meth:`to_dict` and :meth:`tensors`."""
        known = {f.name for f in fields(cls)} - set(MOMENTS)
        if not isinstance(values, Mapping) or not {"name", "shape"} <= set(values) <= known:
            got = sorted(values) if isinstance(values, Mapping) else type(values).__name__
            near = nearest(next((k for k in got if k not in known), ""), known) if isinstance(got, list) else ""
            raise UserError(f"a data description has name, shape and some of {sorted(known)}; got {got}.{near}")
        given = settings(cls, values, "data")
        _check_source(given.get("source", {}))
        for name, value in (tensors or {}).items():
            if name not in MOMENTS or not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise UserError(f"{name} must be finite numbers, and one of {', '.join(MOMENTS)}.")
        moments: dict[str, Any] = {name: value.double() for name, value in (tensors or {}).items()}
        return cls(**given, **moments)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DataInfo):
            return NotImplemented
        mine, theirs = self.tensors(), other.tensors()
        return (
            self.to_dict() == other.to_dict()
            and mine.keys() == theirs.keys()
            and all(torch.equal(mine[name], theirs[name]) for name in mine)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.shape, self.classes))

    def __repr__(self) -> str:
        parts = [repr(self.name), f"shape={self.shape}"]
        if self.low is not None:
            parts.append(f"range=[{self.low:g}, {self.high:g}]")
        if self.classes:
            parts.append(f"classes={len(self.classes)}")
        if beside := [name for name in self.conditions if name != "label"]:
            parts.append(f"conditions={', '.join(beside)}")
        if self.levels is not None:
            parts.append(f"levels={self.levels}")
        if self.tokens:
            parts.append(f"tokens={len(self.tokens)}")
        if self.cov is not None:
            parts.append(f"std={self.std:.3g}")
        return f"DataInfo({', '.join(parts)})"
