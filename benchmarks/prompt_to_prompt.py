"""One word of a caption changed: whether it is read as asked, and how much of the rest of the picture is another.

    langevin train glyphs --network.options conditions '{"caption": 104}' --out runs/glyphs
    python benchmarks/prompt_to_prompt.py runs/glyphs            # minutes on a core

Captions are those of held-out examples of ``glyphs``, half of them of a size, a colour and a letter that were never
trained on together. In each one word is changed: the letter, its colour, its size or the background. Pictures of both
captions are drawn from the same noise, the target's plainly ("another caption") and by prompt-to-prompt, for several
shares of the steps in which attention is replaced, and with a local blend. ``glyph_reader`` says what it reads in them.

* "read as asked": the changed word is what is read in the target's picture.
* "the rest kept": everything else is read as in the source's picture: letter, colour, size, background and place, but
  the place of a letter whose size was changed, which has another middle.
* "elsewhere": the mean of |target − source| in % of the data's range, over the pixels that the word does not speak of.
  For a letter, its colour or its size these are the pixels outside of the box around the ink of either picture, with a
  pixel of margin: the ground, which none of the three is about. For a background they are those inside the ink of the
  source's picture, with a coverage above 0.9: its edges are mixed with the ground and must change. Coverage is where a
  pixel lies on the line from the colour of the ground to that of the letter, as the caption names them. A picture
  without such pixels is left out of the mean.
* "everywhere": the same over all pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import dist

import torch
from rich.table import Table
from torch import Tensor

import langevin
from langevin.data.glyphs import APART, CHARACTERS, COLOURS, SIZES, TEST, TRAIN, Glyph, glyphs_at
from langevin.tasks.edit import prompt_to_prompt
from record import show

KINDS = {"letter": "character", "colour": "colour", "size": "size", "background": "background"}
"""What is changed, and the name under which it is read."""

READ = ("character", "colour", "background", "size", "place")


def told_apart(colour: str, background: str) -> bool:
    """Whether a letter of a colour is seen on a background, as in the data."""
    return dist(COLOURS[colour], COLOURS[background]) >= APART


def options(glyph: Glyph, kind: str) -> list[str]:
    """The words that may stand in the place of the one that is there."""
    if kind == "letter":  # a digit stays one, so that one word changes
        return [c for c in CHARACTERS if c.isdigit() == glyph.character.isdigit() and c != glyph.character]
    if kind == "colour":
        return [c for c in COLOURS if c != glyph.colour and told_apart(c, glyph.background)]
    if kind == "background":
        return [c for c in COLOURS if c != glyph.background and told_apart(glyph.colour, c)]
    return [size for size in SIZES if size != glyph.size]


def changed(glyph: Glyph, kind: str, number: int) -> Glyph:
    """The same with one word changed: of those that may stand there, the one whose turn it is."""
    known = options(glyph, kind)
    word = known[number % len(known)]
    return replace(glyph, **{KINDS[kind]: word})


def held_out(n: int) -> list[Glyph]:
    """The first held-out examples."""
    return glyphs_at(torch.arange(TRAIN, TRAIN + min(n, TEST)))


def coverage(x: Tensor, glyph: Glyph) -> Tensor:
    """How far each pixel of ``(3, H, W)`` lies on the way from the ground's colour to the ink's, ``(H, W)``."""
    ink, ground = (torch.tensor(COLOURS[c]) / 127.5 - 1 for c in (glyph.colour, glyph.background))
    way = (ink - ground)[:, None, None]
    return ((x - ground[:, None, None]) * way).sum(0) / way.square().sum()


def box(covered: Tensor, margin: int = 1) -> Tensor:
    """The box around the pixels that are ink, with a margin; bool ``(H, W)``, empty if there is none."""
    ink = covered > 0.25
    found = torch.zeros_like(ink)
    if bool(ink.any()):
        rows, columns = (ink.any(axis).nonzero().flatten() for axis in (1, 0))
        top, left = max(int(rows[0]) - margin, 0), max(int(columns[0]) - margin, 0)
        found[top : int(rows[-1]) + margin + 1, left : int(columns[-1]) + margin + 1] = True
    return found


def elsewhere(kind: str, old: Tensor, new: Tensor, source: Glyph, target: Glyph) -> Tensor:
    """The pixels that the changed word does not speak of, bool ``(H, W)``; old and new are pictures ``(3, H, W)``."""
    if kind == "background":
        return coverage(old, source) > 0.9
    return ~(box(coverage(old, source)) | box(coverage(new, target)))


def scores(
    kind: str,
    old: Tensor,
    new: Tensor,
    sources: Sequence[Glyph],
    targets: Sequence[Glyph],
    before: Sequence[Mapping[str, str]],
    after: Sequence[Mapping[str, str]],
) -> dict[str, float]:
    """The four columns, in %, of pictures ``(N, 3, H, W)`` in [−1, 1] and what is read in them."""
    name = KINDS[kind]
    rest = [key for key in READ if key != name and not (kind == "size" and key == "place")]
    moved = (new - old).abs().mean(1) / 2
    where = [elsewhere(kind, *pair) for pair in zip(old, new, sources, targets)]
    outside = [float(change[free].mean()) for change, free in zip(moved, where) if bool(free.any())]
    share = lambda found: 100 * sum(found) / max(len(found), 1)
    return {
        "read as asked": share([read[name] == getattr(glyph, name) for read, glyph in zip(after, targets)]),
        "the rest kept": share([all(a[key] == b[key] for key in rest) for a, b in zip(after, before)]),
        "elsewhere": share(outside),
        "everywhere": 100 * float(moved.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a diffusion model of glyphs that is told captions")
    parser.add_argument("-n", type=int, default=100, help="held-out captions of each kind")
    parser.add_argument("--replace-steps", type=float, nargs="+", default=[0.3, 0.6], help="shares, a row each")
    parser.add_argument("--self-steps", type=float, default=0.5, help="at most; never above replace-steps")
    parser.add_argument("--guidance", type=float, default=2.0, help="scale of classifier-free guidance")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32, help="pairs")
    parser.add_argument("--sheet", help="a picture of the first pairs of each row, written here")
    parser.add_argument("--record", action="store_true")
    asked = parser.parse_args()

    from glyph_reader import read

    model, sources = langevin.load(asked.model), held_out(asked.n)
    how = {"guidance_scale": asked.guidance, "steps": asked.steps, "seed": asked.seed, "batch": asked.batch}
    controls: dict[str, dict[str, object]] = {"another caption": {"replace_steps": 0.0, "self_steps": 0.0}}
    for share in asked.replace_steps:
        both = {"replace_steps": share, "self_steps": min(share, asked.self_steps)}
        controls[f"prompt-to-prompt, {share:g}"] = both
        controls[f"prompt-to-prompt, {share:g}, blend"] = {**both, "blend": "changed"}
    title = f"{len(sources)} held-out captions, one word changed; guidance {asked.guidance:g}, {asked.steps} steps"
    table = Table(title=title)
    for column in ("changed", "by", "read as asked, %", "the rest kept, %", "elsewhere, %", "everywhere, %"):
        table.add_column(column, justify="left" if column in ("changed", "by") else "right")
    shown: list[Tensor] = []
    texts: list[str] = []
    for kind, name in KINDS.items():
        targets = [changed(glyph, kind, i) for i, glyph in enumerate(sources)]
        captions = [glyph.caption for glyph in sources], [glyph.caption for glyph in targets]
        before = None
        for by, settings in controls.items():
            made = prompt_to_prompt(model, *captions, **settings, **how)
            old, new = (x.float().clamp(-1, 1).cpu() for x in (made.source, made.target))
            before = read(old) if before is None else before
            found = scores(kind, old, new, sources, targets, before, read(new))
            if by == "another caption":
                right = sum(b[name] == getattr(g, name) for b, g in zip(before, sources))
                print(f"{kind}: in the source's pictures {100 * right / len(sources):.0f} % are read as captioned")
                shown += old[:8]
                texts += captions[0][:8]
            table.add_row(kind, by, *(f"{value:.0f}" if "read" in key or "kept" in key else f"{value:.1f}"
                                      for key, value in found.items()))  # fmt: skip
            print(kind, by, *(f"{key} {value:.1f}" for key, value in found.items()), flush=True)
            shown += new[:8]
            texts += [f"{by}: {getattr(g, name)}" for g in targets[:8]]
    if asked.sheet:
        from langevin.report.sheet import sheet

        sheet(torch.stack(shown), texts, min(8, len(sources))).save(asked.sheet)
    show("prompt-to-prompt", table)


if __name__ == "__main__":
    main()
