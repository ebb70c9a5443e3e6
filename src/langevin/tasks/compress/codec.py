"""Levels to bytes and back: a noisy sample sent step by step, and after it, if asked for, the levels themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..._errors import UserError, unknown
from ..._registry import register
from ...denoisers import NetworkDenoiser
from ...distributions import Noise
from . import container, tree
from .chain import Chain, between, checked, fingerprint, gap, plan
from .container import Header
from .decoders import DECODERS, Progress
from .pixels import Levels, coder
from .rates import time_of_levels, time_of_quality


@dataclass(frozen=True)
class Compressed:
    """A file's bytes and what was spent on what.

    Attributes:
        content: the file.
        header: its header.
        information: KL(q ‖ p) of every step along the path that was sent, in bits of all images.
        residual: −log₂ probability of the exact levels at the end, 0 in a lossy file.
    """

    content: bytes
    header: Header
    information: tuple[float, ...]
    residual: float

    @property
    def payload(self) -> int:
        """Bytes of choices and residual; all others are the header's, with magic and checksum."""
        return -(-sum(layout.total for layout in self.header.layouts()) // 8) + self.header.residual

    @property
    def predicted(self) -> float:
        """Bytes that the model needs: KL of every step, and −log₂ probability of the levels."""
        return (sum(self.information) + self.residual) / 8

    @property
    def bits_per_dim(self) -> float:
        """Bits of the whole file a coordinate."""
        return 8 * len(self.content) / self.header.size

    def __str__(self) -> str:
        return (
            f"{len(self.content)} bytes, {self.bits_per_dim:.3f} bits/dim: {self.payload} of payload "
            f"({self.predicted:.0f} by the model), {len(self.content) - self.payload} of header"
        )


@register(
    "tasks",
    "compress",
    title="Coding by a diffusion model, lossy and exact",
    arxiv="2206.08889",
    proof="exact: tests/tasks/test_compress.py, tests/tasks/test_tree.py; data: benchmarks/codec.py",
)
def compress(
    model: NetworkDenoiser,
    levels: Tensor,
    *,
    step: float | None = None,
    quality: float | None = None,
    items: Sequence[tuple[str, int, int]] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> Compressed:
    r"""Code levels into a file; exactly, if neither ``step`` nor ``quality`` is given.

    A noisy sample x_t goes to the receiver in steps, :math:`q(x_s | x_t, x_0)` by reverse channel coding against
    :math:`p(x_s | x_t)` (arXiv:2006.11239 §4.3; 2206.08889 §2), all coordinates of all images in one code. The belief
    is normal, around x̂_0 with the mean squared error of this very data, sent as a byte a step. In a lossless file the
    levels follow, entropy-coded under the belief at the last time.

    Args:
        model: a network on a scalar-Gaussian process, of data with levels.
        levels: integers ``(N, *shape)`` in 0…levels − 1.
        step: the time t of the sample that is sent, in (0, 1]: the smaller, the more bits and the better the images.
        quality: instead, the signal-to-noise ratio in dB (peak) that decoding by the flow is to have; t is found.
        items: name, height and width of the images that the events are tiles of.
        seed: of the shared noise.
        progress: called as ``progress(done, total)``.

    Raises:
        UserError: for levels that are not the model's, or a model that cannot code.
    """
    scale = Levels.of(checked(model))
    if levels.dtype.is_floating_point or tuple(levels.shape[1:]) != tuple(model.shape) or not len(levels):
        shape = ", ".join(map(str, model.shape))
        raise UserError(f"levels must be integers (N, {shape}), got {levels.dtype} {tuple(levels.shape)}")
    if int(levels.min()) < 0 or int(levels.max()) >= scale.count:
        raise UserError(f"levels must lie in 0…{scale.count - 1}, got {int(levels.min())}…{int(levels.max())}")
    if step is not None and quality is not None:
        raise UserError(f"give step or quality, not both; got {step} and {quality}")
    lossless = step is None and quality is None
    if lossless:
        coder()  # before long work
    x0 = scale.values(levels)

    def report(share: float, low: float, high: float) -> None:
        if progress is not None:
            progress(round(1000 * (low + share * (high - low))), 1000)

    begin = 0.0 if step is not None else 0.1  # what finding t takes, roughly
    if quality is not None:
        step = time_of_quality(model, x0, quality, seed, lambda done, total: report(done / total, 0.0, begin))
    elif step is None:
        step = time_of_levels(model, x0, seed, lambda done, total: report(done / total, 0.0, begin))
    size = levels.numel()
    steps = plan(model, step, size, exact=lossless)
    noise = Noise(seed, 1)

    x: Tensor | None = None
    bits: list[int] = []
    spread: list[int] = []
    information: list[float] = []
    choices: list[Tensor] = []
    for i in range(len(steps)):
        if x is None:
            p = steps.first(len(x0))
        else:
            mean = steps.mean(x, steps.times[i - 1])
            spread.append(steps.byte(float((x0 - mean).square().mean())))
            p = steps.reverse(x, mean, spread[-1], i)
        apart, u, v = (part.flatten() for part in gap(p, steps.forward(x, x0, i)))
        information.append(float(tree.information(apart, u, v).sum()))
        # A bit an image at least: what a reader is asked to hold is bounded by the size of the file.
        least = 1 if choices else len(x0)
        bits.append(min(max(least, math.ceil(information[-1])), tree.DEEP * size))

        walked = lambda share, i=i: report((i + share) / len(steps), begin, 1.0)
        chosen, z = tree.send(v.sqrt() * apart / u, (1 - v / u) / 2, bits[-1], noise.step(i), walked)
        choices.append(chosen)
        x = p[0] + p[1].sqrt() * z.reshape(x0.shape)
    assert x is not None
    words, residual = b"", 0.0
    scales: tuple[int, ...] = ()
    if lossless:
        words, scales, residual = scale.encode(steps.mean(x, steps.times[-1]), levels)
    header = Header(
        model=fingerprint(model),
        shape=tuple(model.shape),
        levels=scale.count,
        count=len(levels),
        items=tuple(items),
        seed=seed,
        times=(float(steps.times[0]), float(steps.times[-1])),
        bits=tuple(bits),
        spread=tuple(spread),
        scales=scales,
        residual=len(words),
    )
    return Compressed(container.pack(header, choices, words), header, tuple(information), residual)


@dataclass(frozen=True, eq=False)
class Received:
    """What a file says: the noisy sample x of the last time, and in a lossless file the exact levels."""

    header: Header
    steps: Chain
    x: Tensor
    levels: Tensor | None

    def decode(self, how: str = "flow", progress: Progress | None = None) -> Tensor:
        """Levels, int64 ``(N, *shape)``: the exact ones of a lossless file, else by a row of ``DECODERS``."""
        if how not in DECODERS:
            raise unknown("decoder", how, DECODERS)
        if self.levels is not None:
            return self.levels
        return self.steps.levels.nearest(DECODERS[how](self.steps, self.x, self.header.seed, progress))


def decompress(model: NetworkDenoiser, content: bytes, *, progress: Progress | None = None) -> Received:
    """Read a file of :func:`compress` with the model it was written with.

    Raises:
        UserError: for a file that is foreign, damaged or cut short, or of another model.
    """
    scale = Levels.of(checked(model))
    header, choices, words = container.unpack(content)
    if header.lossless:
        coder()
    mine = fingerprint(model)
    if header.model != mine:
        raise UserError(f"the file was written with another model: fingerprint {header.model}, this one has {mine}")
    if header.shape != tuple(model.shape) or header.levels != scale.count:
        raise UserError(f"the file contradicts itself: {header.shape} of {header.levels} levels for {model.shape}")
    steps = between(model, *header.times, len(header.spread), exact=header.lossless)
    noise = Noise(header.seed, 1)
    x: Tensor | None = None
    for i, (chosen, layout) in enumerate(zip(choices, header.layouts())):
        if x is None:
            mean, v = steps.first(header.count)
        else:
            mean, v = steps.reverse(x, steps.mean(x, steps.times[i - 1]), header.spread[i - 1], i)
        x = mean + v.sqrt() * tree.receive(chosen, layout, noise.step(i)).reshape(mean.shape)
        if progress is not None:
            progress(i + 1, len(choices))
    assert x is not None
    levels = scale.decode(steps.mean(x, steps.times[-1]), words, header.scales) if header.lossless else None
    return Received(header, steps, x, levels)
