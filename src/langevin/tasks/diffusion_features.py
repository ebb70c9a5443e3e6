"""What a denoiser has learned of pictures, for other tasks: its activations at some noise levels, and heads on them."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._errors import UserError, check_integer, shown, unknown
from .._registry import register
from ..denoisers import Denoiser, check_is_denoiser
from ..distributions import Noise, Stream
from ..processes import ScalarGaussian, require
from ..processes.grids import time_of_level
from .prepare import fit_image, to_states

DECODERS = re.compile(r"(^|\.)(middle|up\.\d+|mid_block|up_blocks\.\d+)$")
"""The middle and the way up of a U-Net, of ours or of diffusers."""
BLOCKS = re.compile(r"(^|\.)(blocks|transformer_blocks)\.\d+$")
"""The blocks of a transformer, of which the second half is taken."""

PIXELS = 20_000
"""Pixels that a segmenter learns from at most, drawn from all that are labelled."""


@register(
    "tasks",
    "diffusion-features",
    title="Features of a denoiser, for segmentation and classification from few labels",
    arxiv="2112.03126",
    proof="exact: tests/tasks/test_diffusion_features.py; data: benchmarks/features.py",
)
@dataclass(frozen=True)
class DiffusionFeatures:
    r"""Activations of a denoiser's network as features of a picture (Baranchuk et al. 2021, arXiv:2112.03126 §3).

    A picture is noised to each of some levels, :math:`x_t = α_t x + σ_t ε` with one ε for all pictures, and the
    network is run once a level; the outputs of its layers are the features, a function of the picture alone. A model
    that tells noise from pictures has to know what is in them: a few labels suffice to name it.

    Args:
        model: a denoiser of pictures on a scalar-Gaussian process, or of codes of pictures; bind a condition before,
            if it is to be told one.
        levels: noise levels σ/α, each at most once; small ones tell edges, large ones what a thing is.
        layers: names of the network's modules; if none, the middle and the way up of a U-Net, or the second half of
            the blocks of a transformer.
        seed: of the noise ε.
        batch: pictures at a time.

    Raises:
        UserError: for a model without a network, a cascade, a layer that is not there (with the nearest), or a level
            out of the process's range.
    """

    model: Denoiser
    levels: tuple[float, ...] = (0.1, 0.4)
    layers: tuple[str, ...] = ()
    seed: int = 0
    batch: int = 64
    _modules: dict[str, nn.Module] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_is_denoiser(self.model, "model")
        network = getattr(self.model, "network", None)
        if not isinstance(network, nn.Module):
            raise UserError(f"model must have a network, whose layers are read, got {shown(self.model)}")
        require(self.model.process, ScalarGaussian, "features")
        several = isinstance(self.levels, (tuple, list)) and isinstance(self.layers, (tuple, list))
        if not several or not self.levels or len(set(self.levels)) < len(self.levels):
            raise UserError(
                "levels must be noise levels σ/α, at least one and none twice, as (0.1, 0.4), and layers a list of "
                f"names, got {shown(self.levels)} and {shown(self.layers)}"
            )
        for level in self.levels:
            time_of_level(self.model.process, level, "levels")
        check_integer("batch", self.batch, 1)
        modules = dict(network.named_modules())
        names = self.layers or default_layers(modules)
        object.__setattr__(self, "layers", tuple(names))
        object.__setattr__(self, "_modules", {name: _module(name, modules) for name in names})

    @torch.no_grad()
    def planes(self, x: Tensor, progress: Callable[[int, int], None] | None = None) -> Iterator[dict[str, Tensor]]:
        """The activations of batches of pictures ``(N, C, H, W)``: float32 ``(B, F, h, w)`` by ``"layer at level"``."""
        _, seen = fit_image(self.model, x, name="x")
        if seen.shape[1:] != self.model.output_shape:
            raise UserError(f"x must have the model's shape {self.model.output_shape}, got {tuple(seen.shape[1:])}")
        noise = Noise(self.seed, torch.zeros(len(seen), dtype=torch.int64))
        process: ScalarGaussian = require(self.model.process, ScalarGaussian, "features")
        for first in range(0, len(seen), self.batch):
            rows = slice(first, min(first + self.batch, len(seen)))
            clean = to_states(self.model, self.model, seen[rows])
            drawn = noise.rows(rows).to(clean.device).fold_in(Stream.RAISED)
            told, found = self.model.rows(rows), {}
            for level in self.levels:
                t = time_of_level(process, level, "levels")
                with _watched(self._modules) as kept:
                    told(process.marginal(clean, t).sample(drawn).to(clean), t)
                for name in self.layers:
                    found[f"{name} at {level}"] = _planes(name, kept, clean.shape[-2], clean.shape[-1])
            if progress is not None:
                progress(rows.stop, len(seen))
            yield found

    def maps(self, x: Tensor, progress: Callable[[int, int], None] | None = None) -> Iterator[Tensor]:
        """Features of each pixel of batches of pictures, float32 ``(B, F, H, W)``.

        Every layer is enlarged bilinearly to the picture's size.

        Args:
            x: pictures ``(N, C, H, W)`` in the range of the model's data.
            progress: called as ``progress(done, total)``.
        """
        size = tuple(self.model.output_shape[-2:])
        enlarged = lambda plane: F.interpolate(plane, size, mode="bilinear", align_corners=False)
        return (torch.cat([*map(enlarged, found.values())], 1) for found in self.planes(x, progress))

    def vectors(self, x: Tensor, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """Features of each picture, float32 ``(N, F)``: the mean of every layer over its places.

        Args:
            x: pictures ``(N, C, H, W)`` in the range of the model's data.
            progress: called as ``progress(done, total)``.
        """
        mean = lambda found: torch.cat([plane.mean((2, 3)) for plane in found.values()], 1)
        return torch.cat([mean(found) for found in self.planes(x, progress)])


def default_layers(modules: dict[str, nn.Module]) -> list[str]:
    """The layers that are read if none are named.

    Raises:
        UserError: for a network that has none of these names.
    """
    own = [name for name in modules if "conditioning" not in name.split(".")]  # that is where captions are read
    if found := [name for name in own if DECODERS.search(name)]:
        return found
    if found := [name for name in own if BLOCKS.search(name)]:
        return found[len(found) // 2 :]
    some = [name for name in modules if name and "." not in name]
    raise UserError(f"layers must be named for this network, some of its modules: {', '.join(some)}")


def _module(name: str, modules: dict[str, nn.Module]) -> nn.Module:
    """The module of a name, which may lack what comes before it where that leaves no doubt."""
    if name and name in modules:
        return modules[name]
    paths = [path for path in modules if name and path.endswith(f".{name}")]
    if len(paths) > 1:
        raise UserError(f"layer {name!r} may be {' or '.join(paths)}: write which")
    if not paths:
        short = [path.removeprefix("network.") for path in modules]
        raise unknown("layer", name, [path for path in short if path and path.count(".") < 2])
    return modules[paths[0]]


@contextlib.contextmanager
def _watched(modules: dict[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """What modules answer while this is open, by name."""
    kept: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, given, out: kept.__setitem__(name, out)

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _planes(name: str, kept: dict[str, Any], height: int, width: int) -> Tensor:
    """The output of a layer on the CPU, float32 ``(B, F, h, w)``; tokens ``(B, h · w, F)`` lie as the picture does.

    Raises:
        UserError: if it was not called, or answered neither planes nor tokens.
    """
    out = kept.get(name)
    out = out[0] if isinstance(out, (tuple, list)) and out else out
    if isinstance(out, Tensor) and out.ndim == 4:
        return out.float().cpu()
    if isinstance(out, Tensor) and out.ndim == 3:
        rows = round(math.sqrt(out.shape[1] * height / width))
        if rows and out.shape[1] % rows == 0:
            return out.float().cpu().transpose(1, 2).unflatten(2, (rows, out.shape[1] // rows))
    raise UserError(f"layers: {name} answers neither planes (B, F, h, w) nor tokens (B, h·w, F), but {shown(out)}")


@dataclass(frozen=True)
class Segmenter:
    """A class of each pixel, by logistic regression on :meth:`DiffusionFeatures.maps` (see :func:`fit_segmenter`)."""

    features: DiffusionFeatures
    head: Any = field(repr=False)

    def __call__(self, x: Tensor, progress: Callable[[int, int], None] | None = None) -> Tensor:
        """Classes int64 ``(N, H, W)`` of pictures ``(N, C, H, W)``."""
        parts = []
        for maps in self.features.maps(x, progress):
            found = self.head.predict(_pixels(maps).numpy())
            parts.append(torch.from_numpy(found).reshape(len(maps), *maps.shape[2:]))
        return torch.cat(parts).long()


def _pixels(maps: Tensor) -> Tensor:
    """``(B, F, H, W)`` as rows ``(B · H · W, F)``."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def fit_segmenter(features: DiffusionFeatures, x: Tensor, mask: Tensor, *, seed: int = 0) -> Segmenter:
    """A segmenter that learns from a few pictures with a class at every pixel (arXiv:2112.03126 §3.2).

    The head is scikit-learn's multinomial logistic regression on standardised features, of 20,000 labelled pixels at
    most, drawn by ``seed``.

    Args:
        features: of the model.
        x: pictures ``(N, C, H, W)``.
        mask: classes, integers ``(N, H, W)``; −1 where a pixel is not labelled.
        seed: of the pixels that are drawn.

    Raises:
        UserError: for a mask that does not fit, or that holds fewer than two classes.
    """
    if not isinstance(mask, Tensor) or mask.is_floating_point() or mask.shape != (len(x), *x.shape[-2:]):
        want = (len(x), *x.shape[-2:])
        raise UserError(f"mask must be integers of shape {want}, a class a pixel, got {shown(mask)}")
    target = mask.flatten()
    rows = (target >= 0).nonzero()[:, 0]
    if len(rows) > PIXELS:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:PIXELS]]
    rows, parts, first = rows.sort().values, [], 0
    for maps in features.maps(x):  # a batch at a time: the features of all pixels would be gigabytes
        flat = _pixels(maps)
        parts.append(flat[rows[(rows >= first) & (rows < first + len(flat))] - first])
        first += len(flat)
    return Segmenter(features, _head(torch.cat(parts), target[rows], "mask"))


@dataclass(frozen=True)
class FeatureClassifier:
    """A class of each picture, by logistic regression on :meth:`DiffusionFeatures.vectors` (:func:`fit_classifier`)."""

    features: DiffusionFeatures
    head: Any = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Classes int64 ``(N,)`` of pictures ``(N, C, H, W)``."""
        return torch.from_numpy(self.head.predict(self.features.vectors(x).numpy())).long()


def fit_classifier(features: DiffusionFeatures, x: Tensor, label: Tensor) -> FeatureClassifier:
    """A classifier that learns from a few labelled pictures: logistic regression on the mean features of each.

    Args:
        features: of the model.
        x: pictures ``(N, C, H, W)``.
        label: classes, integers ``(N,)``.

    Raises:
        UserError: for labels that do not fit, or of fewer than two classes.
    """
    if not isinstance(label, Tensor) or label.is_floating_point() or label.shape != (len(x),):
        raise UserError(f"label must be integers of shape ({len(x)},), a class a picture, got {shown(label)}")
    return FeatureClassifier(features, _head(features.vectors(x), label, "label"))


def _head(flat: Tensor, target: Tensor, name: str) -> Any:
    """Logistic regression on standardised features ``(N, F)``."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(target.unique()) < 2:
        raise UserError(f"{name} must hold at least two classes, got {target.unique().tolist()}")
    # C = 0.01: there are more features than labels, and a picture's pixels are alike.
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return head.fit(flat.numpy(), target.numpy())
