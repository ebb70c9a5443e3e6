"""Semantic guidance: the belief, moved to what an encoder finds like a caption or like a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._errors import UserError, check_instance, check_numbers, unknown
from .._registry import register
from ..denoisers import ContrastiveEncoder, Denoiser, check_is_denoiser
from ..distributions import Distribution, Noise, Stream
from .cutouts import coloured, resized
from .tilt import Tilted

MEASURES = ("content", "structure", "style")
"""What of a picture is to be alike: the vector as a whole, the features place by place, their correlations."""


@dataclass(frozen=True, eq=False)
class SimilarityGuided(Tilted):
    """The base, tilted by the similarity of x_t to a reference at the same noise."""

    encoder: ContrastiveEncoder
    scale: float
    measure: str
    text: Tensor | None
    image: Tensor | None
    seed: int
    asks_belief: ClassVar[bool] = False

    def shown(self, x_t: Tensor, t: Tensor, belief: Distribution) -> tuple[Tensor, Tensor | float]:
        """What is compared, and its time."""
        return x_t, t

    def log_factor(self, x_t: Tensor, t: Tensor, belief: Distribution) -> Tensor:
        x, at = self.shown(x_t, t, belief)
        value = self._similarity(x, at)
        return self.scale * value.to(torch.promote_types(x_t.dtype, torch.float32))

    def _similarity(self, x: Tensor, t: Tensor | float) -> Tensor:
        if self.measure == "content":
            vector = self.encoder.encode_image(self._sized(x), t)
            target = self.text if self.text is not None else self._of_image(self.encoder.encode_image, t)
            scale = self.encoder.scale.detach().to(vector)
            return scale * (vector * self._each(target, len(x)).to(vector)).sum(1)
        made = self.encoder.feature_map(self._sized(x), t)
        target = self._each(self._of_image(self.encoder.feature_map, t), len(x)).to(made)
        if self.measure == "style":
            made, target = gram(made), gram(target)
        return -(made - target).square().flatten(1).sum(1)

    def _of_image(self, encode: Any, t: Tensor | float) -> Tensor:
        """What the encoder makes of the reference, at the noise of what it is compared with, the same at all times."""
        assert self.image is not None
        y = self.image.to(self.base.device)
        if isinstance(t, Tensor):
            if bool((t != t.reshape(-1)[0]).any()):
                raise UserError("t must be one time for all samples where a picture is noised to be compared with")
            t = t.reshape(-1)[0]
            # A stream of its own: else a run of the same seed begins at the noise of its reference.
            noise = Noise(self.seed, len(y)).fold_in(Stream.REFERENCE)
            y = self.base.process.marginal(y, t).sample(noise.to(y.device))
        with torch.no_grad():
            found: Tensor = encode(self._sized(y), t)
        return found

    def _sized(self, x: Tensor) -> Tensor:
        """Clean pictures in the size and the colours that the encoder reads."""
        shape = self.encoder.shape
        return x if tuple(x.shape[1:]) == shape else resized(coloured(x, shape[0]), (shape[1], shape[2]))

    def _each(self, target: Tensor, count: int) -> Tensor:
        if len(target) not in (1, count):
            raise UserError(f"text or image was given for {len(target)} samples, but the batch has {count}")
        return target

    def rows(self, index: slice | Tensor) -> Denoiser:
        cut = lambda value: value[index] if value is not None and len(value) > 1 else value
        return replace(self, base=self.base.rows(index), text=cut(self.text), image=cut(self.image))


@dataclass(frozen=True, eq=False)
class CleanSimilarityGuided(SimilarityGuided):
    """The base, tilted by the similarity of the predicted clean data."""

    asks_belief: ClassVar[bool] = True

    def shown(self, x_t: Tensor, t: Tensor, belief: Distribution) -> tuple[Tensor, Tensor | float]:
        return belief.mean, 0.0


@register(
    "guidance",
    "similarity",
    title="Semantic guidance by similarity to a caption or a picture",
    arxiv="2112.05744",
    proof="exact: tests/guidance/test_similarity.py",
)
def similarity(
    denoiser: Denoiser,
    encoder: ContrastiveEncoder,
    *,
    text: str | Sequence[str] | Tensor | None = None,
    image: Tensor | None = None,
    scale: float = 1.0,
    measure: str = "content",
    noisy: bool | None = None,
    seed: int = 0,
) -> Denoiser:
    r"""Semantic diffusion guidance (Liu et al. 2023, arXiv:2112.05744, alg. 1 and eq. 5–8):

    .. math:: \hat x_0' = \hat x_0 + s\,\frac{σ_t^2}{α_t} ∇_{x_t} F(x_t, t)

    with u(x_t, t) the vector of the encoder, v that of a caption, y a picture, y_t the picture noised to t, f the
    features over places j, and G their Gram matrix over places:

    .. math::
        \text{content:}\quad & F = τ ⟨u(x_t, t), v⟩ \quad\text{or}\quad τ ⟨u(x_t, t), u(y_t, t)⟩ \\
        \text{structure:}\quad & F = -\textstyle\sum_j |f(x_t, t)_j - f(y_t, t)_j|^2 \\
        \text{style:}\quad & F = -|G(f(x_t, t)) - G(f(y_t, t))|^2

    The scale τ of the encoder, the inverse of the usual temperature, is part of F, so that s = 1 is Bayes' rule for a
    caption as far as the encoder is right: its logit is log p(y | x_t) up to what does not depend on x_t
    (``objectives.Contrastive``). A larger s does not sample :math:`p(x) p(y | x)^s`; particle methods do
    (docs/particles.md). Guidances by several references can be nested: their terms add up (eq. 9).

    Args:
        denoiser: the belief, on a scalar-Gaussian process.
        encoder: as ``langevin.load`` gives one that was trained by contrast.
        text: a caption for all samples or one each, as ``encoder.encode_text`` takes them.
        image: a picture in place of a caption, ``(1, *shape)`` for all samples or ``(B, *shape)``, one each.
        scale: s.
        measure: ``content``, or, of a picture, ``structure`` or ``style``.
        noisy: ask the encoder of the noisy state, as published; if not, of the predicted clean data at t = 0, through
            the denoiser (2302.07121). What the encoder knows, if not given.
        seed: of the noise of y_t, the same at every t.

    Raises:
        UserError: for both or none of text and image, a measure that is of pictures alone, an encoder that is asked of
            noisy data and knows clean ones alone, or the other way round, another process or another shape than the
            denoiser's where it is asked of the noisy state.
    """
    check_is_denoiser(denoiser)
    check_instance("encoder", encoder, ContrastiveEncoder, "a contrastive encoder, as langevin.load gives it")
    check_numbers(scale=scale)
    if measure not in MEASURES:
        raise unknown("measure", str(measure), MEASURES)
    if (text is None) == (image is None):
        raise UserError("similarity is to a text or to an image: give one of the two")
    if measure != "content" and image is None:
        raise UserError(f"measure {measure!r} is of pictures: give an image in place of the text")
    if noisy is None:
        noisy = encoder.noisy and encoder.process == denoiser.process and encoder.shape == tuple(denoiser.shape)
    if not noisy:
        encoder.check_clean()
    if noisy and not encoder.noisy:
        raise UserError("noisy must be false for an encoder that knows clean data alone")
    if noisy and encoder.process != denoiser.process:
        raise UserError(
            f"encoder must be of noisy data of {denoiser.process}, got one of {encoder.process}; with noisy=False it "
            "is asked of the predicted clean data"
        )
    if encoder.shape != tuple(denoiser.shape):
        if noisy:
            raise UserError(
                f"encoder must be of noisy data of shape {tuple(denoiser.shape)}, got {encoder.shape}; with "
                "noisy=False predicted clean pictures are brought to its size"
            )
        if len(encoder.shape) != 3 or len(denoiser.shape) != 3:
            raise UserError(f"encoder must be of data of shape {tuple(denoiser.shape)}, got {encoder.shape}")
        coloured(torch.zeros(1, *denoiser.shape), encoder.shape[0])
    vectors = None
    if text is not None:
        with torch.no_grad():
            vectors = encoder.encode_text(text)
    if image is not None:
        check_instance("image", image, Tensor, f"pictures (1, *{denoiser.shape}) or one a sample")
        if tuple(image.shape[1:]) != tuple(denoiser.shape):
            raise UserError(f"image must have shape (1, *{tuple(denoiser.shape)}), got {tuple(image.shape)}")
    kind = SimilarityGuided if noisy else CleanSimilarityGuided
    return kind(denoiser, encoder, float(scale), measure, vectors, image, seed)


def gram(features: Tensor) -> Tensor:
    """The mean over places of products of features ``(B, C, h, w)`` with each other, ``(B, C, C)`` (1508.06576)."""
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[2]
