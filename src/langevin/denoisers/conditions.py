"""The conditions a model may be told, by name: their types, shapes and how an absent one is marked.

A label or a caption reaches the network in three steps: ``as_condition`` here makes a tensor of it, ``conditioned.py``
binds that to a denoiser, and ``nn/conditioning.py`` embeds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import UserError, shown


@dataclass(frozen=True)
class ConditionKind:
    """What a condition of a name is, for one sample.

    Attributes:
        axes: names of its axes: () for a number.
        sized: the axis whose length a network fixes; None if its size counts values instead.
        integer: whether it holds integers, of which −1 is absent; else real numbers, of which not-a-number is absent.
        values: of integers, how many there are: a number, or None for the network's size.
    """

    axes: tuple[str, ...]
    sized: int | None
    integer: bool = False
    values: int | None = None

    def shape(self, size: int) -> str:
        """The accepted shapes, written out."""
        fixed = [str(size) if i == self.sized else axis for i, axis in enumerate(self.axes)]
        one = f"({', '.join(fixed)}{',' if len(fixed) == 1 else ''})"
        return f"({', '.join(['B', *fixed])}) or {one}" if fixed else "() or (B,)"


KINDS: dict[str, ConditionKind] = {
    "label": ConditionKind((), None, integer=True),
    "caption": ConditionKind(("L",), None, integer=True, values=257),
    "image": ConditionKind(("C", "H", "W"), 0),
    "mask": ConditionKind(("C", "H", "W"), 0),
    "vector": ConditionKind(("V",), 0),
    "sequence": ConditionKind(("L", "F"), 1),
}
"""``label``: a class. ``caption``: a text, as the tokens of ``nn.text``. ``image``: a picture that belongs to the
sample, such as a small or damaged one. ``mask``: where a picture is known. ``vector``: numbers. ``sequence``: features
of a sequence, such as those of a text encoder."""


def as_condition(name: str, value: Any, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A condition ``(B, …)`` as a network takes it, from one for all samples or one each.

    Args:
        name: a row of ``KINDS``.
        value: a tensor, or what torch makes one of.
        size: the network's: classes of a label, tokens of a caption, features or channels of the others.
        device, dtype: the network's.

    Raises:
        UserError: for another type, shape or range.
    """
    kind = KINDS[name]
    try:
        tensor = as_labels(value) if name == "label" else torch.as_tensor(value)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError):
        hint = f"; langevin.nn.encode_text(text, {size}) makes tokens of text" if name == "caption" else ""
        raise UserError(f"{name} must hold numbers, got {shown(value)}{hint}") from None
    real = tensor.is_floating_point()
    if kind.integer and (real or tensor.dtype == torch.bool or not tensor.numel()):
        raise UserError(f"{name} must hold integers, {kind.shape(size)}, got {tensor.dtype} {tuple(tensor.shape)}")
    came = tuple(tensor.shape)
    tensor = tensor.to(device, torch.int64 if kind.integer else dtype)
    tensor = tensor[None] if tensor.ndim == len(kind.axes) else tensor
    fits = tensor.ndim == len(kind.axes) + 1 and (kind.sized is None or tensor.shape[kind.sized + 1] == size)
    if not fits or (name == "caption" and tensor.shape[1] > size):
        at_most = f" with at most {size} tokens" if name == "caption" else ""
        raise UserError(f"{name} must be {kind.shape(size)}{at_most}, got shape {came}")
    if kind.integer:
        values = size if kind.values is None else kind.values
        check_label(tensor, values, name, absent=True)
    else:
        check_real(name, tensor)
    return tensor


def check_real(name: str, value: Tensor) -> None:
    """Refuse real numbers ``(B, …)`` of which a sample, or a token of a sequence, is neither finite nor absent.

    Raises:
        UserError: for infinities, and not-a-numbers beside numbers.
    """
    gone = value.isnan() if name == "sequence" else value.flatten(1).isnan()
    partly = gone.any(-1) & ~gone.all(-1)
    if partly.any() or value.isinf().any():
        what = "is partly not-a-number" if partly.any() else "holds an infinity"
        raise UserError(f"condition {name!r} {what}: a row is finite, or all not-a-number for none")


def absent(like: Tensor, count: int) -> Tensor:
    """``count`` samples that lack a condition such as ``like`` ``(B, …)``."""
    gone = torch.nan if like.is_floating_point() else -1
    return torch.full((count, *like.shape[1:]), gone, dtype=like.dtype, device=like.device)


def hide(value: Tensor, hidden: Tensor) -> Tensor:
    """A condition ``(B, …)`` with that of some samples, ``hidden`` ``(B,)``, marked absent."""
    gone = torch.nan if value.is_floating_point() else -1
    return torch.where(hidden.view(-1, *[1] * (value.ndim - 1)), gone, value)


def rows_of(condition: Mapping[str, Tensor], rows: slice | Tensor) -> dict[str, Tensor]:
    """The conditions of some samples."""
    return {name: value[rows] for name, value in condition.items()}


def labels_in_turn(sizes: Mapping[str, int], given: Mapping[str, Any]) -> bool:
    """Whether samples are asked for the classes 0…K−1 in turn: of a model with labels that is given none and no text.

    A caption, or the features of one, says itself what is to be drawn; a class beside it would say something else.
    """
    told = {name for name, value in given.items() if value is not None}
    return "label" in sizes and not told & {"label", "caption", "sequence"}


def asked_conditions(
    sizes: Mapping[str, int], n: int, given: Mapping[str, Any] | None = None, first: int = 0
) -> dict[str, Any]:
    """The conditions of ``n`` samples: what was given, and the classes 0…K−1 in turn where neither one nor a text was.

    Args:
        sizes: the conditions that a model takes, as ``NetworkDenoiser.condition_sizes``.
        n: samples.
        given: conditions by name, for all samples or ``(n, …)`` one each; None stands for one that is not given.
        first: index of the first of them.

    Raises:
        UserError: for a condition that the model does not take, another number of them, or a label that is none of its
            classes.
    """
    asked = {name: value for name, value in (given or {}).items() if value is not None}
    for name in asked:
        if name not in sizes:
            accepted = f"takes {', '.join(sizes)}" if sizes else "was trained without conditions"
            raise UserError(f"{name} was given, but this model {accepted}")
        shape: tuple[int, ...] = tuple(getattr(asked[name], "shape", ()))
        if name != "label" and len(shape) == len(KINDS[name].axes) + 1 and shape[0] not in (1, n):
            raise UserError(f"{name} must be one for all samples or {n}, one each; got {shape[0]}")
    if labels_in_turn(sizes, asked):
        return {"label": torch.arange(first, first + n) % sizes["label"], **asked}
    if "label" not in asked:
        return asked
    count = sizes["label"]
    label = as_labels(asked["label"])
    if label.shape not in ((), (n,)):
        raise UserError(f"label must be an integer, or {n} of them, got {label.dtype} {tuple(label.shape)}")
    check_label(label, count, absent=True)
    return asked


def as_labels(value: Any) -> Tensor:
    """Labels as integers ``()`` or ``(B,)``; ``check_label`` checks their range.

    Raises:
        UserError: for anything else.
    """
    try:
        label = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        label = None
    if label is None or label.is_floating_point() or label.dtype == torch.bool or label.ndim > 1 or not label.numel():
        got = shown(value) if label is None else f"{label.dtype} {tuple(label.shape)}"
        raise UserError(f"label must hold integers, () or (B,), got {got}")
    return label


def check_label(label: Tensor | int, count: int | None, name: str = "label", *, absent: bool = False) -> None:
    """Refuse labels outside [0, count).

    Args:
        label: one, or a tensor of any shape; an empty one is accepted.
        count: how many there are; None where that is not known yet.
        name: for messages.
        absent: whether −1, which stands for none, is accepted.

    Raises:
        UserError: with the first eight that do not fit.
    """
    low, high = -1 if absent else 0, math.inf if count is None else count
    values = label.unique().tolist() if isinstance(label, Tensor) else [label]
    wrong = [value for value in values if not low <= value < high]
    if wrong:
        accepted = "be at least 0" if count is None else f"lie in [0, {count})"
        got = wrong[:8] if isinstance(label, Tensor) else label
        raise UserError(f"{name} must {accepted}{' (-1 is none)' if absent else ''}, got {got}")
