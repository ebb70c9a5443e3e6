"""The benchmark of prompt-to-prompt: what it changes, what it leaves, what it counts; a tiny run of it, with a stub."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

from captioned import captioned
from langevin import models
from langevin.data.glyphs import draw

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import prompt_to_prompt as bench


def picture(glyph, side: int = 32) -> torch.Tensor:
    return torch.from_numpy(draw(glyph, glyph.face.letter(glyph.character), side)).float() / 127.5 - 1


def attributes(glyph) -> dict[str, str]:
    return {name: getattr(glyph, name) for name in bench.READ}


@pytest.mark.parametrize("kind", bench.KINDS)
def test_one_word_is_changed(kind):
    """The attribute alone, to another value that the data could have, and in turn to all of them."""
    glyphs = bench.held_out(40)
    for i, glyph in enumerate(glyphs):
        new = bench.changed(glyph, kind, i)
        differ = {name for name in bench.READ if getattr(new, name) != getattr(glyph, name)}
        assert differ == {bench.KINDS[kind]}
        assert new.caption != glyph.caption
        assert bench.told_apart(new.colour, new.background)
        assert new.character.isdigit() == glyph.character.isdigit()
        words = set(new.caption.split()) ^ set(glyph.caption.split())
        assert len(words - {"a", "an"}) in (1, 2)  # one, where the new word stands in the caption already
    many = {getattr(bench.changed(glyphs[0], kind, i), bench.KINDS[kind]) for i in range(40)}
    assert many == set(bench.options(glyphs[0], kind))


def test_pixels_that_a_word_does_not_speak_of():
    """Of renderings, whose coverage is known: the ground outside of both boxes, or the inside of the letter."""
    glyph = next(g for g in bench.held_out(50) if g.size == "medium" and g.colour == "red")
    old = picture(glyph)
    covered = bench.coverage(old, glyph)
    # A colour lies within 12 of its middle a channel, a ground's brightness within 20 %, both well below half of the
    # way from one to the other (140 at least): ink and paper are told apart.
    assert ((covered > 0.5).sum() - (covered > 0.25).sum()).abs() < 40  # but for edges
    new = picture(bench.replace(glyph, size="small", extent=0.32))
    free = bench.elsewhere("size", old, new, glyph, glyph)
    assert (old - new).abs()[:, free].max() < 1e-6
    assert 0.4 < free.float().mean() < 0.8
    other = bench.changed(glyph, "background", 1)
    ground = torch.tensor(bench.COLOURS[other.background])
    recoloured = picture(bench.replace(other, ground=tuple(ground.tolist())))
    inside = bench.elsewhere("background", old, recoloured, glyph, other)
    assert 10 < inside.sum() < (covered > 0.25).sum()
    # The ink is the same; a coverage of 0.9 leaves at most 0.1 + 0.2 of the ground to change.
    assert (old - recoloured).abs()[:, inside].mean() < 0.1
    assert not bench.elsewhere("background", torch.full_like(old, 1.0), new, other, other).all()


def test_scores_of_perfect_and_of_lazy_edits():
    """Renderings of the target score 100; the source, unchanged, is read as asked by nobody and differs nowhere."""
    sources = bench.held_out(12)
    for kind in bench.KINDS:
        targets = [bench.changed(g, kind, i) for i, g in enumerate(sources)]
        old = torch.stack([picture(g) for g in sources])
        new = torch.stack([picture(g) for g in targets])
        before, after = ([attributes(g) for g in gs] for gs in (sources, targets))
        perfect = bench.scores(kind, old, new, sources, targets, before, after)
        assert perfect["read as asked"] == perfect["the rest kept"] == 100
        lazy = bench.scores(kind, old, old, sources, targets, before, before)
        assert (lazy["read as asked"], lazy["the rest kept"]) == (0, 100)
        assert lazy["elsewhere"] == lazy["everywhere"] == 0
    wrong = [{**read, "colour": "none"} for read in after]
    assert bench.scores("background", old, new, sources, targets, before, wrong)["the rest kept"] == 0


def test_a_tiny_run(tmp_path, monkeypatch, capsys):
    """From a model directory to the table, with a reader that says what it likes."""
    model = captioned("unet", torch.float32)
    network = model.network
    longer = type(network)(
        **{**{k: v for k, v in network.config.items() if k != "name"}, "conditions": {"caption": 104}}
    )
    models.save(bench.replace(model, network=longer.eval()), tmp_path / "model")
    stub = types.ModuleType("glyph_reader")
    stub.read = lambda x: [dict.fromkeys(bench.READ, "red")] * len(x)
    monkeypatch.setitem(sys.modules, "glyph_reader", stub)
    words = ["bench", str(tmp_path / "model"), "-n", "3", "--steps", "2", "--replace-steps", "0.5"]
    monkeypatch.setattr(sys, "argv", [*words, "--sheet", str(tmp_path / "sheet.png")])
    bench.main()
    said = capsys.readouterr().out
    assert said.count("another caption") == 2 * len(bench.KINDS)  # told at once, and in the table
    assert (tmp_path / "sheet.png").stat().st_size > 1000
