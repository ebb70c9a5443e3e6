"""Prompt-to-prompt: a picture changed by changing words of its caption, through the network's attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..._errors import UserError, check_instance, check_integer, check_numbers, shown
from ..._registry import register
from ...denoisers import Denoiser, Tiled
from ...denoisers.conditions import KINDS, as_condition
from ...distributions import Noise
from ...nn.text import decode_text
from ...samplers import DDIM, Sampler, encoded, resolve, sample
from ..prepare import bound
from .alignment import Alignment, align, words
from .attention import AttentionEdit, AttentionMaps, attention_edit, of_tokens
from .base import EditMethod, Request
from .captions import Words, caption_reader
from .null_text import null_text, with_null
from .pairs import LocalBlend, PairedDenoiser, blend_mask, interleaved, networks


@dataclass(frozen=True)
class Controls:
    """How far attention is replaced: what ``prompt_to_prompt`` and the editing method share.

    Attributes:
        replace_steps: τ_c, the share of the steps in which the attention to the caption is replaced.
        self_steps: τ_s, that of the picture's attention to itself.
        reweight: factors of words of the target caption.
        blend: words outside of whose attention the picture stays that of the source; "changed", alone or beside other
            words, for those that are swapped, added or left out; None for none.
        threshold: of the blend, as a share of the largest attention.
    """

    replace_steps: float = 0.6
    self_steps: float = 0.5
    reweight: Mapping[str, float] | None = None
    blend: Words | None = None
    threshold: float = 0.3

    def __post_init__(self) -> None:
        check_numbers(replace_steps=self.replace_steps, self_steps=self.self_steps, threshold=self.threshold)
        for name in ("replace_steps", "self_steps"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie in [0, 1], a share of the steps, got {getattr(self, name)}")
        if not 0 < self.threshold < 1:
            raise UserError(f"threshold must lie in (0, 1), got {self.threshold}")
        if self.reweight is not None:
            check_instance("reweight", self.reweight, Mapping, "a mapping such as {'red': 2.0}")
        if self.blend is not None and not isinstance(self.blend, str):
            fits = isinstance(self.blend, Sequence) and all(isinstance(word, str) for word in self.blend)
            if not fits or not self.blend:
                raise UserError(f"blend must be a word or a list of words, got {shown(self.blend)}")

    def blended(self, alignments: Sequence[Alignment], length: int) -> tuple[Tensor, Tensor] | None:
        """The tokens of the words of ``blend``, bool ``(P, L)`` in the sources and in the targets; None for none."""
        if self.blend is None:
            return None
        found = torch.zeros(2, len(alignments), length, dtype=torch.bool)
        for i, one in enumerate(alignments):
            asked = [self.blend] if isinstance(self.blend, str) else self.blend
            named = one.of([word for word in asked if word != CHANGED])
            changed = one.changed() if CHANGED in asked else ([], [])
            for side, tokens in enumerate(zip(named, changed)):
                found[side, i, [*tokens[0], *tokens[1]]] = True
        return found[0], found[1]

    def untils(self, grid: Tensor) -> tuple[float, float]:
        """The times above which attention is replaced, of a grid of n steps: those of its first ⌊τ n + ½⌋ steps.

        What a solver asks at the end of the last of them, as Heun's does, is at that time and not replaced.
        """
        steps = len(grid) - 1
        cross, own = (float(grid[int(share * steps + 0.5)]) for share in (self.replace_steps, self.self_steps))
        return cross, own


CHANGED = "changed"
"""The word that stands for all that are changed."""


@dataclass(frozen=True, eq=False)
class Edited:
    """Pictures of two captions from the same noises.

    Attributes:
        source, target: ``(n, *shape)``, of the source captions and of the target captions.
        alignments: one for all, or one each.
        maps: mean attention ``(2n, L, h, w)`` to each token, sources and targets in turn; None unless asked for.
        mask: where the target may differ from the source, bool ``(n, 1, H, W)`` of states; None without a blend.
    """

    source: Tensor
    target: Tensor
    alignments: tuple[Alignment, ...]
    maps: Tensor | None = None
    mask: Tensor | None = None

    def attention(self, word: str, side: str = "target") -> Tensor:
        """The attention to a word of the source or the target captions, ``(n, h, w)``; 0 where a caption lacks it.

        Raises:
            UserError: for a word in no caption, maps that were not asked for, or a side that is neither.
        """
        if self.maps is None:
            raise UserError("maps were not kept: ask for them with maps=True")
        if side not in ("source", "target"):
            raise UserError(f"side must be 'source' or 'target', got {shown(side)}")
        chosen = torch.zeros(len(self.alignments), self.maps.shape[1], dtype=torch.bool)
        for row, one in zip(chosen, self.alignments):
            row[one.tokens_of(word, side)] = True
        if not bool(chosen.any()):
            known = sorted({known for one in self.alignments for known in words(getattr(one, side))})
            raise UserError(f"no {side} caption has the word {word!r}; there are {', '.join(known)}")
        return of_tokens(self.maps[side == "target" :: 2], chosen)


@register(
    "tasks",
    "prompt-to-prompt",
    title="Prompt-to-prompt from noise",
    arxiv="2208.01626",
    proof="exact: tests/tasks/test_prompt_to_prompt.py; data: benchmarks/prompt_to_prompt.py",
)
def prompt_to_prompt(
    model: Denoiser,
    source: Words,
    target: Words,
    *,
    replace_steps: float = 0.6,
    self_steps: float = 0.5,
    reweight: Mapping[str, float] | None = None,
    blend: Words | None = None,
    threshold: float = 0.3,
    maps: bool = False,
    n: int | None = None,
    steps: int | None = None,
    sampler: Sampler | str | None = None,
    grid: str | None = None,
    guidance_scale: float = 1.0,
    seed: int = 0,
    noise: Noise | None = None,
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
    **condition: Any,
) -> Edited:
    r"""Pictures of two captions from the same noise, the target's drawn with the source's attention.

    Hertz et al. 2022, arXiv:2208.01626 §3.2: in the first τ_c of the steps the attention to words that both captions
    have is the source's, and that to a word which is swapped is given to the new one; in the first τ_s the picture's
    attention to itself is the source's too. Words that were added keep their own. See ``AttentionEdit`` for the rows of
    a softmax over both, and ``align`` for which word stands for which. The rest is ordinary sampling: any sampler, grid
    and guidance. The paper's τ_c = 0.8 and τ_s = 0.4 of uniform steps of Stable Diffusion's table end at σ/α = 0.57 and
    2.3; on the default grid of a model of ours about 0.6 and 0.5 of the steps do, which are the defaults.

    Args:
        model: one that is told captions and reads them by attention (``unet``, ``dit``, Stable Diffusion 1 and 2), or a
            latent model of one.
        source, target: a caption each, or lists of captions, one pair a picture.
        replace_steps: τ_c in [0, 1]; 0 is plain sampling of the target.
        self_steps: τ_s in [0, 1]: how far layout and shape are kept.
        reweight: words of the target and the factor c of the attention to each, at every step: ``{"red": 2.0}``.
        blend: a word or words, in either caption: where they do not look, after each step the target's state is the
            source's. "changed", alone or beside other words, stands for all that are swapped, added or left out.
        threshold: of that mask, as a share of the largest attention; 0.3 in the paper.
        maps: keep the attention to each word.
        n: pictures of one pair of captions; 1 if not given.
        steps, sampler, grid: as ``langevin.sample`` takes them.
        guidance_scale: of classifier-free guidance by the captions.
        seed: of the noise; picture i depends on (seed, i) alone.
        noise: instead of ``seed``, that of given pictures.
        batch: pairs carried at a time.
        progress: called as ``progress(done, total)``.
        condition: further conditions, the same for source and target: one for all pictures, or one each.

    Raises:
        UserError: for a model without captions or whose attention cannot be replaced, a caption longer than the model
            takes, a word in no caption, a share outside [0, 1], another number of conditions.
    """
    controls = Controls(replace_steps, self_steps, reweight, blend, threshold)
    reader = caption_reader(model)
    networks(model)
    olds, news = reader.check("source", source), reader.check("target", target)
    count = max(len(olds), len(news))
    if len(olds) not in (1, count) or len(news) not in (1, count):
        raise UserError(f"source and target must be one caption, or as many each, got {len(olds)} and {len(news)}")
    if count > 1 and n is not None and n != count:
        raise UserError(f"n must be left out for {count} pairs of captions, which have a picture each; got {n}")
    if "caption" in condition:
        raise UserError("caption must be left out: source and target are the captions")
    check_integer("batch", batch, 1)
    if n is None:
        n = count if count > 1 or noise is None else len(noise)
    total = check_integer("n", n, 1)
    noise = Noise(seed, total) if noise is None else noise
    if len(noise) != total:
        raise UserError(f"noise is for {len(noise)} samples, but there are {total}")
    pairs = [(olds[i % len(olds)], news[i % len(news)]) for i in range(count)]
    longest = max(reader.length(caption) for caption in (*olds, *news))
    joint = Joint.of([align(*pair, reader.tokenizer) for pair in pairs], controls, reader.keys(longest))
    both = [caption for pair in pairs for caption in pair] * (1 if count > 1 else total)
    told = {"caption": reader.to_condition(both, longest), **_of_pairs(model, condition, total)}
    base = bound(model, told, guidance_scale)
    plan = resolve(base, sampler, steps=steps, grid=grid)
    steps = 2 * (len(plan.grid) - 1)  # of a pair
    made: list[Tensor] = []
    seen: list[Tensor | None] = []
    free: list[Tensor | None] = []
    for first in range(0, total, batch):
        rows = slice(first, min(first + batch, total))
        of_pairs = noise.rows(torch.arange(rows.start, rows.stop).repeat_interleave(2))
        some = joint.rows(rows).of_batch(base.rows(slice(2 * rows.start, 2 * rows.stop)), plan.grid, maps)
        counted = None if progress is None else _from(progress, first * steps, total * steps)
        rule = some.sampler(plan.sampler)
        x = sample(some.denoiser, rule, grid=plan.grid, noise=of_pairs, batch=len(of_pairs), progress=counted)
        made.append(x)
        seen.append(some.maps.mean() if maps else None)
        free.append(some.mask())
    x = torch.cat(made)
    return Edited(x[0::2], x[1::2], joint.alignments, _joined(seen), _joined(free))


def _of_pairs(model: Denoiser, condition: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The conditions of n pairs, one for all or two rows of a pair, for its source and its target."""
    sizes, found = model.belief_of.condition_sizes, dict(condition)
    for name in sizes.keys() & KINDS.keys() & {name for name, value in condition.items() if value is not None}:
        each = as_condition(name, condition[name], sizes[name], torch.device("cpu"), torch.float64)
        if len(each) not in (1, n):
            raise UserError(f"{name} must be one for all pictures or {n}, one each; got {len(each)}")
        found[name] = each.repeat_interleave(2, 0) if len(each) > 1 else each
    return found


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None


def _from(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: progress(before + done, total)


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of pairs: its belief, and where its attention is counted."""

    denoiser: PairedDenoiser
    joint: Joint

    @property
    def maps(self) -> AttentionMaps:
        assert self.denoiser.maps is not None
        return self.denoiser.maps

    def sampler(self, rule: Sampler) -> Sampler:
        """The rule, with the blend if there is one."""
        if self.joint.blended is None:
            return rule
        return LocalBlend(rule, self.maps, *self.joint.blended, self.joint.controls.threshold)

    def mask(self) -> Tensor | None:
        """Where targets may differ from their sources, bool ``(P, 1, H, W)``; None for everywhere."""
        if self.joint.blended is None:
            return None
        return blend_mask(self.maps.mean(), *self.joint.blended, self.joint.controls.threshold, self.maps.size)


@dataclass(frozen=True, eq=False)
class Joint:
    """What pairs of captions say of how their pictures are drawn.

    Attributes:
        alignments: one for all pairs, or one each.
        controls: the settings.
        edit: of the attention.
        blended: the tokens of the words of the blend, bool ``(P or 1, L)`` in sources and targets; None without one.
    """

    alignments: tuple[Alignment, ...]
    controls: Controls
    edit: AttentionEdit
    blended: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, alignments: Sequence[Alignment], controls: Controls, length: int) -> Joint:
        """Of one pair for all, or one each, whose captions are ``length`` keys of attention."""
        edit = attention_edit(alignments, controls.reweight, length)
        return cls(tuple(alignments), controls, edit, controls.blended(alignments, length))

    @property
    def length(self) -> int:
        """L, the keys of attention that are of captions."""
        return self.edit.matrix.shape[-1]

    def rows(self, index: slice) -> Joint:
        """Of some of the pairs."""
        if len(self.alignments) == 1:
            return self
        blended = None if self.blended is None else (self.blended[0][index], self.blended[1][index])
        return Joint(self.alignments[index], self.controls, self.edit.rows(index), blended)

    def of_batch(self, base: Denoiser, grid: Tensor, keep: bool) -> Batch:
        """A batch of pairs on a grid, ``base`` told both captions; its attention is kept for maps if asked for."""
        maps = AttentionMaps(self.length, (base.shape[-2], base.shape[-1])) if keep or self.blended else None
        return Batch(PairedDenoiser(base, self.edit, *self.controls.untils(grid), maps), self)


@register(
    "edit",
    "prompt-to-prompt",
    title="Prompt-to-prompt on pictures, by inversion",
    arxiv="2208.01626, 2211.09794",
    proof="exact: tests/tasks/test_prompt_to_prompt.py, tests/tasks/test_null_text.py",
)
@dataclass(frozen=True)
class PromptToPrompt(EditMethod, Controls):
    """``prompt_to_prompt`` on a picture (arXiv:2208.01626 §3.3; null-text optimisation 2211.09794).

    The picture is encoded by DDIM under ``source``, its own caption, up to the level of the edit, and decoded from
    there as a pair. Under guidance the decoded source leaves the encoded path; with ``iterations`` of null-text
    optimisation the unconditional side learns to keep it there, see ``null_text``.

    Args:
        replace_steps, self_steps, reweight, blend, threshold: see ``prompt_to_prompt``; shares are of the steps that
            are taken. With ``blend`` pixels outside of the mask are those of the picture.
        iterations: of null-text optimisation, a step; 0 for none. At a guidance scale of 1 there is nothing to learn,
            and they are refused.
        fixed_point: iterations of the encoding, see ``samplers.encode``.
    """

    compares: ClassVar[bool] = True
    iterations: int = 0
    fixed_point: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("iterations", self.iterations, 0)
        check_integer("fixed_point", self.fixed_point, 0)

    def sampler(self) -> Sampler:
        return DDIM()

    def __call__(self, request: Request) -> tuple[Tensor, Tensor | None]:
        if isinstance(request.plain, Tiled):
            raise UserError("image must have the model's size for prompt-to-prompt: a caption is of a whole picture")
        if request.free is not None:
            raise UserError("mask is not taken by prompt-to-prompt, which finds one itself: blend names the words")
        if self.iterations and request.guidance_scale == 1:
            raise UserError(
                "iterations must be 0 at a guidance scale of 1, where null-text optimisation has nothing to learn, got "
                f"{self.iterations}; give a guidance_scale such as 3"
            )
        reader = caption_reader(request.plain)
        networks(request.plain)
        old, new = dict(request.source.condition), dict(request.denoiser.condition)
        if "caption" not in old or "caption" not in new:
            raise UserError("prompt-to-prompt needs two captions: caption, and source={'caption': …} of the picture")
        if old["caption"].is_floating_point():
            raise UserError("prompt-to-prompt edits pictures by models that are told bytes; others draw from noise")
        if len(request.times) < 3:
            raise UserError("strength must leave two steps of the grid or more for prompt-to-prompt; take more steps")
        rule, count, scale = request.sampler or self.sampler(), len(request.image), request.guidance_scale
        both = interleaved(old, new, count)
        captions = [decode_text(row) for row in both["caption"].cpu()]
        longest = max(map(reader.length, captions))
        aligned = [align(*pair, reader.tokenizer) for pair in zip(captions[0::2], captions[1::2])]
        joint = Joint.of(aligned, self, reader.keys(longest))
        both["caption"] = both["caption"][:, :longest]
        path = encoded(request.source, request.image, sampler=rule, grid=request.times, fixed_point=self.fixed_point)
        base = bound(request.plain, both, scale)
        if self.iterations:
            guided = bound(request.plain, old, scale)
            nulls = null_text(guided, request.image, path, rule, request.times, self.iterations)
            base = with_null(base, {t: null.repeat_interleave(2, 0) for t, null in nulls.items()})
        some = joint.of_batch(base, request.times, False)
        twice = torch.arange(count).repeat_interleave(2)
        down = replace(request, denoiser=some.denoiser, noise=request.noise.rows(twice.to(request.noise.sample.device)))
        x = down.down(some.sampler(rule), path[-1].x[twice])[1::2]
        free = some.mask()
        return x, None if free is None else free.expand_as(x)
