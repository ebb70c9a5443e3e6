"""``restore``: samples of the data behind a measurement, by any method."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..._errors import UserError, check_instance, check_integer, nearest, shown, unknown
from ..._registry import methods as rows
from ...denoisers import Denoiser, check_is_denoiser
from ...distributions import Noise
from ...operators import Decoded, GaussianNoise, Inpaint, LinearOperator, Measurement, MeasurementNoise, Operator
from ...processes import ScalarGaussian
from .common import Watched, fits, taken_by, takes_noise
from .latent import OnCodes, on_states

Method = Callable[..., Tensor]
"""``method(denoiser, measurement, *, noise, steps, **options) -> x``."""


def method_named(method: str | Method) -> tuple[str, Method]:
    """A solver by its name, or a function of one's own, with its name.

    Raises:
        UserError: for a name that is not known, with the nearest; for what is neither a name nor a function.
    """
    if callable(method):
        return getattr(method, "__name__", type(method).__name__), method
    known = {row.name: row.make for row in rows("inverse")}
    if not isinstance(method, str):
        raise UserError(f"method must be a name ({', '.join(sorted(known))}) or a function, got {shown(method)}")
    if method not in known:
        raise unknown("method", method, known)
    return method, known[method]


def default_method(operator: Operator, noise: MeasurementNoise | float = 0.0) -> str:
    """What is taken where no method is named: ``pigdm`` for linear operators and Gaussian noise.

    For other operators it is ``diffpir``, which asks for no more than a derivative; for other noise ``daps``. For
    latent models it is ``ldps``, which asks the decoder once an evaluation.

    Args:
        operator: on the states of the model, see ``on_states``.
        noise: its law, or its standard deviation.
    """
    if isinstance(noise, MeasurementNoise) and not isinstance(noise, GaussianNoise):
        return "daps"
    if isinstance(operator, Decoded):
        return "ldps"
    return "pigdm" if isinstance(operator, LinearOperator) else "diffpir"


def check_method(name: str, operator: Operator) -> None:
    """Refuse a method that does not take an operator on the states (see ``on_states``), with those that do.

    Raises:
        UserError: for a method of linear operators and another operator, of which the decoder of a latent model makes
            every one; for a method of latent models and another model; for PSLD and an operator that is not linear.
    """
    operators = taken_by(method_named(name)[1])
    if fits(operators, operator) or (operators == "of worlds" and not isinstance(operator, Decoded)):
        return  # a method of worlds looks at its model itself
    others = ", ".join(row.name for row in rows("inverse") if fits(taken_by(row.make), operator))
    if operators in ("linear", "of worlds") and isinstance(operator, Decoded):
        raise UserError(
            f"method must take operators that are not linear for a latent model, since its decoder is not, got "
            f"{name!r}; those that do: {others}"
        )
    if operators == "linear":
        raise UserError(
            f"operator must be linear here, got {operator!r}, which is not: method {name!r} needs a linear one. Those "
            f"of any operator: {others}"
        )
    if not isinstance(operator, Decoded):
        raise UserError(
            f"method {name!r} is for latent models, got a model of the data themselves; those for it: {others}"
        )
    raise UserError(
        f"operator must be linear in the data for method {name!r}, which takes its transpose, got "
        f"{operator.operator!r}; those of any operator: {others}"
    )


def check_noise(name: str, operator: Operator, noise: MeasurementNoise) -> None:
    """Refuse a method of Gaussian noise and another law, with those that take it.

    Raises:
        UserError: for such a method.
    """
    if not takes_noise(method_named(name)[1], noise):
        rest = [row for row in rows("inverse") if takes_noise(row.make, noise) and fits(taken_by(row.make), operator)]
        raise UserError(
            f"noise must be Gaussian for method {name!r}, got {noise!r}; methods of any noise: "
            f"{', '.join(row.name for row in rest)}"
        )


def check_options(name: str, method: Method, options: dict[str, Any]) -> None:
    """Refuse options that a method does not take."""
    parameters = inspect.signature(method).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters) and name not in _FORWARDS:
        return
    taken = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"noise", "steps"} | _FORWARDS.get(name, set())
    for key in options:
        if key not in taken:
            takes = f"It takes {', '.join(sorted(taken))}." if taken else "It takes none."
            raise UserError(f"method {name!r} has no option {key!r}.{nearest(key, taken)} {takes}")


_GRID = {"grid"}
_FORWARDS: dict[str, set[str]] = {
    "pigdm": _GRID,
    "pigdm-unit": {"grid", "sampler"},
    "pigdm-published": _GRID,
    "moment-matching": _GRID,
    "dps": _GRID,
    "dps-squared": _GRID,
    "dps-likelihood": _GRID,
    "ldps": _GRID,
    "psld": _GRID,
    "mcg": _GRID,
    "projection": _GRID,
    "ddrm": _GRID,
    "diffpir": _GRID,
    "split-gibbs-published": {"levels", "inner", "coupling"},
}
"""What methods with ``**options`` hand on."""


def restore(
    model: Denoiser,
    operator: Operator,
    y: Tensor,
    std: float | MeasurementNoise = 0.05,
    *,
    method: str | Method | None = None,
    n: int = 8,
    steps: int = 50,
    seed: int = 0,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
    put_back: bool = True,
    **options: Any,
) -> Tensor:
    """Samples of p(x | y) for a measurement y = A(x) + n of data that the model knows.

    Sample j of measurement i depends on (seed, i·n + j) alone: not on ``batch``. Of a latent model the method draws
    codes z given y = A(D(z)) + n, with its decoder D, and they are decoded.

    Args:
        model: a denoiser of the data or a latent model, conditions bound; ``langevin.load`` gives one.
        operator: A; ``langevin.operators`` has them.
        y: one measurement, ``(*measured)`` or ``(1, *measured)``, or several, ``(B, *measured)``.
        std: standard deviation of the noise, ≥ 0, in units of y, or its law (``operators.PoissonNoise``). 0 is a
            measurement without noise: known pixels are then kept.
        method: a name (``langevin methods --category inverse``) or a function
            ``method(denoiser, measurement, *, noise, steps, **options) -> x``; ``default_method`` if not given.
        n: samples a measurement.
        steps: evaluations of the model a sample, at most; of ``smc`` times its ``particles``. ``fit`` tells whether
            they were enough.
        seed: of the noise.
        batch: samples carried at a time.
        progress: called as ``progress(done, total)``, counting evaluations of samples.
        put_back: whether pixels that ``Inpaint`` knows without noise are the measurement's to the bit; else they are as
            the method leaves them.
        options: of the method.

    Returns:
        ``(n, *shape)`` for one measurement, ``(B, n, *shape)`` for several.

    Raises:
        UserError: for what cannot be met: a model of tokens or stages, an operator that does not fit the data, an
            operator that is not linear for a method that needs one, a method that a latent model has no use for, an
            unknown method or option.
    """
    check_model(model)
    check_instance("operator", operator, Operator, "a langevin.operators operator")
    for name, value in (("n", n), ("steps", steps), ("batch", batch)):
        check_integer(name, value, 1)
    if progress is not None and not callable(progress):
        raise UserError(f"progress must be a function of (done, total), got {shown(progress)}")
    inner = on_states(model, operator)
    name, rule = method_named(default_method(inner, std) if method is None else method)
    check_options(name, rule, options)
    if not callable(method):
        check_method(name, inner)
        if isinstance(std, MeasurementNoise):
            check_noise(name, inner, std)
    shape = tuple(model.output_shape)
    if isinstance(y, Tensor) and tuple(y.shape) == operator.measured(shape):
        y = y[None]
    measurement = Measurement(operator, y, std)
    operator.check(shape, y)
    check_measures_something(operator, shape)
    total, done = len(y) * n, 0
    noise, parts = Noise(seed, total), []
    measurement = Measurement(inner, y.to(model.device), measurement.noise)
    states = model if model.autoencoder is None else OnCodes(model)
    which = torch.arange(total) // n
    for first in range(0, total, batch):
        index = slice(first, min(first + batch, total))
        own, size = noise.rows(index), min(first + batch, total) - first
        asked = 0

        def tick(size: int = size, before: int = done) -> None:
            nonlocal asked
            asked = min(asked + 1, steps - 1)
            if progress is not None:
                progress(before + asked * size, total * steps)

        watched = states if progress is None else Watched(states, tick)
        told = watched.rows(which[index]) if len(y) > 1 else watched
        rows_of = measurement.rows(which[index].to(model.device))
        with torch.no_grad():
            x = rule(told, rows_of, noise=own, steps=steps, **options)
        x = _checked(x, (size, *states.shape), name)
        parts.append(x if states is model else model.read(x))
        done += size * steps
        if progress is not None:
            progress(done, total * steps)
    x = torch.cat(parts).to(model.dtype)
    x = x if len(y) == 1 else x.reshape(len(y), n, *shape)
    exact = std == 0 or (isinstance(std, GaussianNoise) and std.std == 0)
    return _kept(x, operator, y, shape) if put_back and exact and isinstance(operator, Inpaint) else x


def _kept(x: Tensor, operator: Inpaint, y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Samples with what a mask let through put back, bit for bit."""
    known = y.reshape(-1, 1, *shape).to(x)
    each = x.reshape(len(known), -1, *shape)
    return torch.where(operator.mask.to(x.device) > 0, known, each).reshape(x.shape)


def check_model(model: Denoiser) -> None:
    """Refuse a model that is neither of the data that are measured nor of their codes.

    Raises:
        UserError: for what is no denoiser, and for one of tokens or of stages.
    """
    check_is_denoiser(model, "model")
    if not isinstance(model.process, ScalarGaussian):
        raise UserError(
            f"model must be one of real numbers under Gaussian noise, got one of {type(model.process).__name__}"
        )
    coded = model.autoencoder is not None
    if len(model.stages) > 1 or (tuple(model.output_shape) != tuple(model.shape) and not coded):
        raise UserError(
            f"model must be of the data themselves or of their codes, got one of stages: its states are "
            f"{tuple(model.shape)}, its data {tuple(model.output_shape)}"
        )


def check_measures_something(operator: Operator, shape: tuple[int, ...]) -> None:
    """Refuse a linear operator that is 0 on all data."""
    if not isinstance(operator, LinearOperator) or operator.svd(shape) is not None:
        known = operator.svd(shape) if isinstance(operator, LinearOperator) else None
        if known is not None and not bool((known.values > 0).any()):
            raise UserError(f"operator must measure something, got {operator!r}, whose singular values are all 0")
        return
    if not bool((operator(Noise(0, 1).normal(shape)) != 0).any()):
        raise UserError(f"operator must measure something, got {operator!r}, which is 0 on random data")


def _checked(x: object, shape: tuple[int, ...], name: str) -> Tensor:
    if not isinstance(x, Tensor) or tuple(x.shape) != shape:
        raise UserError(f"method {name!r} must return samples {shape}, got {shown(x)}")
    if not math.isfinite(float(x.sum())) and not bool(x.isfinite().all()):
        raise UserError(
            f"method {name!r} diverged: samples that are not finite; take more steps or a smaller step size"
        )
    return x.detach()
