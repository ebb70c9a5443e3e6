"""Networks from elsewhere, as denoisers: any callable, read by its own conventions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import UserError
from ..data import DataInfo
from ..denoisers import AffineParameterization, Denoiser, NetworkDenoiser
from ..denoisers.check import noisy_mode
from ..nn import Backbone
from ..processes import DDPM, EDM, VE, Process, create_process


class Foreign(nn.Module):
    """A callable ``network(x, time)`` or ``network(x, time, label)`` as a network of this library.

    Args:
        network: a module or any other callable; it returns a tensor, an object whose ``sample`` is one, or a tuple that
            begins with one.
        classes: number of labels, 0 if it takes none.
        null_label: what an unlabelled sample is told; None hands it None in place of labels.
        whole: hand the time as int64.
        like: a tensor of the dtype and on the device of the network, if it is no module with parameters.
    """

    foreign = True
    """What it holds may do more than compute when it is called: its memory is not measured by calling it."""

    def __init__(
        self, network: Callable[..., Any], classes: int, null_label: int | None, whole: bool, like: Tensor | None
    ) -> None:
        super().__init__()
        if isinstance(network, nn.Module):
            self.network = network
        else:
            self.__dict__["network"] = network  # no child: what it holds is not known to be a module's
        if like is not None:  # a module without parameters has no dtype, and a denoiser asks its network for one
            self.anchor = nn.Parameter(like, requires_grad=False)
        self.classes, self.null_label, self.whole = classes, null_label, whole
        self.config = {"conditions": {"label": classes} if classes else {}}

    def forward(self, x: Tensor, time: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        time = (time.round().to(torch.int64) if self.whole else time).expand(len(x))
        if not self.classes:
            return _tensor(self.network(x, time))
        label = None if condition is None else condition["label"]
        if label is None:
            label = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        absent = label < 0
        if self.null_label is not None:
            return _tensor(self.network(x, time, torch.where(absent, self.null_label, label)))
        if bool(absent.all()):
            return _tensor(self.network(x, time, None))
        if not bool(absent.any()):
            return _tensor(self.network(x, time, label))
        # Some samples with a label and some without (guidance asks for both at once): None is for all of a call.
        out = _tensor(self.network(x[~absent], time[~absent], label[~absent]))
        whole = out.new_empty((len(x), *out.shape[1:]))
        whole[~absent] = out
        whole[absent] = _tensor(self.network(x[absent], time[absent], None))
        return whole

    def extra_repr(self) -> str:
        return "" if isinstance(self.network, nn.Module) else str(self.network)


def _tensor(out: Any) -> Tensor:
    """The tensor of what a network returned."""
    if isinstance(out, Tensor):
        return out
    inner = getattr(out, "sample", None)
    if inner is None and isinstance(out, (tuple, list)) and len(out):
        inner = out[0]
    if not isinstance(inner, Tensor):
        raise UserError(
            "network must return a tensor, an object with a tensor as .sample, or a tuple that begins with a tensor, "
            f"got {type(out).__name__}"
        )
    return inner


def denoiser(
    network: Callable[..., Any],
    *,
    process: Process | str | Mapping[str, Any],
    prediction: str,
    shape: tuple[int, ...],
    time: str | None = None,
    scale_input: bool | None = None,
    sigma_data: float = 0.5,
    classes: int = 0,
    null_label: int | None = None,
    variance: str | None = None,
    data: DataInfo | None = None,
    low: float | None = None,
    high: float | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> NetworkDenoiser:
    r"""A denoiser of your own network, for every sampler, guidance and likelihood of this library.

    The network is called as ``network(x, time)``, or ``network(x, time, label)`` with ``classes``: x_t of shape
    ``(B, *shape)`` in the network's dtype, a time ``(B,)``, labels int64 ``(B,)``. It is asked once here, at states of
    noise, so that what cannot be called or returns another shape is found at once. :func:`langevin.check_denoiser`
    finds out with data whether it is read by the right conventions.

    What is chosen where an argument is left out:

    =============================== ============ ================================ ============
    process                         prediction   ``time``                         input scaled
    =============================== ============ ================================ ============
    ``DDPM`` (a table of β)         all but edm  ``index``: n − 1, from 0 to N−1  no
    ``EDM``, ``VE``                 all but edm  ``sigma``: σ(t)                  no
    others (``VP``, ``flow``, …)    all but edm  ``t``: from 0 to 1 (noise)       no
    any                             edm          ``log_sigma``: ¼·log(σ/α)        yes
    =============================== ============ ================================ ============

    Args:
        network: a ``torch.nn.Module`` or any callable. It returns a tensor, an object whose ``sample`` is a tensor (as
            those of diffusers do), or a tuple that begins with one. It is used as it is: call ``eval()`` on a module.
        process: the noising it was trained with, or its registered name.
        prediction: what it returns: ``eps``, ``x0`` (a denoiser D(x, σ) too), ``v``, ``flow`` (the velocity dx/dt
            towards noise), ``score``, or ``edm`` (the raw network F inside EDM's preconditioning).
        shape: of one datum, without the batch.
        time: a row of ``denoisers.TIME_INPUTS``; see the table. With ``index``, a network that refuses fractions (an
            embedding table) is handed the nearest index as int64, which is ``nearest-index``.
        scale_input: divide x_t by :math:`\sqrt{σ^2 + α^2 σ_d^2}` first.
        sigma_data: σ_d, > 0; used by ``edm`` and by the scale of the input.
        classes: number of class labels, if the network takes them as its third argument.
        null_label: what a sample without a label is told, often the number of classes; if None, the third argument is
            None for such samples.
        variance: how a second half of the output's channels is read: ``range`` (improved DDPM) or ``posterior``.
        data: the description of the data, e.g. ``langevin.data.load(…).info``: solvers use its mean and covariance.
        low, high: in place of ``data``, the smallest and largest value of the data.
        dtype, device: of a network that is no module with parameters of its own; float32 and the CPU if not given.

    Raises:
        UserError: for an argument that is not one of these, and for a network that cannot be called so.
    """
    if isinstance(network, Denoiser):
        raise UserError(
            f"network must be a network, got a denoiser ({type(network).__name__}), which needs no wrapping"
        )
    if isinstance(network, type) or not callable(network):
        what = f"the class {network.__name__}" if isinstance(network, type) else f"{network!r:.80}"
        raise UserError(f"network must be a torch.nn.Module or a function network(x, time), got {what}")
    if not isinstance(process, Process):
        if isinstance(process, type):
            raise UserError(
                f"process must be an instance, got the class {process.__name__}: write {process.__name__}()"
            )
        process = create_process(process)
    if not isinstance(prediction, str):
        raise UserError(f"prediction must be the name of what the network returns, such as 'eps', got {prediction!r}")
    shape = _shape(shape)
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 0:
        raise UserError(f"classes must be a number of classes (an integer >= 0), got {classes!r}")
    if null_label is not None and (isinstance(null_label, bool) or not isinstance(null_label, int) or null_label < 0):
        raise UserError(f"null_label must be an integer >= 0 or None, got {null_label!r}")
    if null_label is not None and not classes:
        raise UserError(
            f"null_label needs classes, the number of labels, which was not given (null_label={null_label})"
        )
    if time is None:
        kinds = ((DDPM, "index"), ((EDM, VE), "sigma"))
        time = next((told for kind, told in kinds if isinstance(process, kind)), "t")
        time = "log_sigma" if prediction == "edm" else time
    parameterization = AffineParameterization(prediction, sigma_data, time, scale_input)
    about = _data(data, shape, classes, low, high)
    if isinstance(network, Backbone):
        return NetworkDenoiser(network, process, parameterization, shape, variance, about)
    if isinstance(network, nn.Module) and noisy_mode(network):
        warnings.warn(
            "network is in training mode, in which dropout or batch statistics change what it returns; call eval()",
            stacklevel=2,
        )
    like = _like(network, dtype, device)
    for whole in (False, True) if time == "index" else (time == "nearest-index",):
        if whole and time == "index":
            parameterization = AffineParameterization(prediction, sigma_data, "nearest-index", scale_input)
        made = NetworkDenoiser(
            Foreign(network, classes, null_label, whole, like), process, parameterization, shape, variance, about
        )
        try:
            _try(made)
            return made
        except UserError:
            raise
        except Exception as error:
            failed = error
            if whole or time != "index":
                break
    raise _uncallable(failed, made) from failed


def _shape(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, int) and not isinstance(shape, bool):
        shape = (shape,)
    if not isinstance(shape, (tuple, list)) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise UserError(
            f"shape must be that of one datum, a tuple of positive integers such as (3, 32, 32), got {shape!r}"
        )
    return tuple(shape)


def _data(data: Any, shape: tuple[int, ...], classes: int, low: float | None, high: float | None) -> DataInfo | None:
    if data is None:
        return None if low is None and high is None else DataInfo("own", shape, low=low, high=high)
    if low is not None or high is not None:
        raise UserError("low and high are in place of data, which says them already; give one or the other")
    if not isinstance(data, DataInfo):
        raise UserError(f"data must be a description of data (langevin.data.load(…).info), got {type(data).__name__}")
    if tuple(data.shape) != shape:
        raise UserError(f"shape must be that of the data, {tuple(data.shape)}, got {shape}")
    return data


def _like(network: Any, dtype: torch.dtype | None, device: torch.device | str | None) -> Tensor | None:
    """A tensor as a network without parameters computes in, or None for one that has them."""
    if isinstance(network, nn.Module) and next(network.parameters(), None) is not None:
        if dtype is not None or device is not None:
            raise UserError("dtype and device are for functions; the network has its own: use network.to(…)")
        return None
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"dtype must be a floating torch.dtype such as torch.float32, got {dtype!r}")
    try:
        return torch.zeros((), dtype=dtype or torch.float32, device=device)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device must be one that torch knows here, got {device!r}: {_line(error)}") from None


def _try(made: NetworkDenoiser) -> None:
    """Ask for two beliefs at states of noise, between two knots of a table, leaving a module as it was."""
    network = made.network
    modes = [(m, m.training) for m in network.modules()]
    network.eval()  # batch statistics must not learn from these states
    try:
        with torch.no_grad():
            x = torch.linspace(-1, 1, 2 * math.prod(made.shape)).reshape(2, *made.shape)
            made(x.to(made.device), torch.tensor([0.50025, 0.50025], dtype=torch.float64))
            if isinstance(network, Foreign) and network.classes:
                made.given(label=0)(x.to(made.device), 0.5)
    finally:
        for module, training in modes:
            module.training = training
        made.counter.calls = 0


def _uncallable(error: Exception, made: NetworkDenoiser) -> UserError:
    network = made.network
    assert isinstance(network, Foreign)
    third = ", label" if network.classes else ""
    hint = "" if network.classes else " (if it takes a label as its third argument, say classes=…)"
    dtype = str(made.dtype).removeprefix("torch.")
    return UserError(
        f"network could not be called as network(x, time{third}) with x of shape {(2, *made.shape)} in {dtype} and two "
        f"times{hint}: {type(error).__name__}: {_line(error)}"
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
