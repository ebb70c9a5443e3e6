"""Letters with captions: each a function of its index, its caption true of its picture, held-out ones never seen."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from itertools import combinations, pairwise, product

import matplotlib
import numpy as np
import PIL
import pytest
import torch

from langevin import UserError, data
from langevin.data import faces, made
from langevin.data import glyphs as made_of
from langevin.data.dataset import limited
from langevin.data.faces import CHARACTERS, FACES, LONG_SIDE, MARGIN, Face, digest
from langevin.data.glyphs import COLOURS, SIZES, TEST, TRAIN, coverage, glyphs_at, held_out, pictures
from langevin.nn.text import decode_text

FEW = torch.tensor([*range(0, TRAIN, 200), *range(TRAIN, TRAIN + TEST, 21)])
"""A hundred to train on, 48 of each held-out part."""


CAPTIONS = "b139f26ae68aaa5d7370a311c204da59517ab2796faa520a41e915940554848f"
PINNED = ("3.11.2", "13.0.0")
PIXELS = "e9f99b6c10faf1808974f37dac956694a97510f7a19df0fe792e4b93d6bcf12e"


@pytest.fixture(scope="module")
def everything():
    return glyphs_at(torch.arange(TRAIN + TEST))


def test_an_example_is_a_function_of_its_index(everything):
    """Not of the batch, its order, or how many there are: in words and in pixels."""
    some = torch.tensor([7, 20_001, 3, 12_345])
    assert glyphs_at(some) == [everything[i] for i in some]
    one_by_one = np.concatenate([pictures(glyphs_at(torch.tensor([i])), 32) for i in some.tolist()])
    assert (pictures(glyphs_at(some), 32) == one_by_one).all()
    assert len({glyph.caption for glyph in everything[:1000]}) > 900


def test_the_bytes_of_this_release(everything):
    """A model trained yesterday must be told the same today; pixels are those of the pinned fonts and Pillow."""
    told = "\n".join(glyph.caption for glyph in everything)
    assert hashlib.sha256(told.encode()).hexdigest() == CAPTIONS
    if (matplotlib.__version__, PIL.__version__) != PINNED:
        pytest.skip("another version of matplotlib or Pillow draws other pixels")
    x = pictures([everything[i] for i in FEW], 32)
    assert hashlib.sha256(x.tobytes()).hexdigest() == PIXELS


def test_captions_say_what_the_attributes_are(everything):
    """Read again word by word: every attribute but the family is in the sentence, and no other of its kind."""
    for glyph in everything[:3000]:
        words = re.findall(r"\w+", glyph.caption)
        told = glyph.attributes
        assert [w for w in words if w in SIZES] == [told["size"]]
        assert ("bold" in words) == (told["weight"] == "bold")
        assert ("italic" in words) == (told["slant"] == "italic")
        for article, next_word in pairwise(words):
            if article in ("a", "an"):
                assert (article == "an") == (next_word[0] in "aeiou"), glyph.caption
        assert [s for s in ("sans serif", "monospace") if s in glyph.caption] == [told["style"]] * (
            told["style"] != "serif"
        )
        assert ("serif" in words) == (told["style"] != "monospace")
        kind = "digit" if told["character"].isdigit() else "letter"
        assert words[words.index(kind) + 1] == told["character"]
        ground = words.index("on")
        named = words[ground + 2] if words[ground + 1] in ("a", "an") else words[ground + 1]
        assert named == told["background"]
        assert [w for w in words if w in COLOURS and w != named] == [told["colour"]]
        places = [w for w in words if w in ("top", "bottom", "left", "right", "middle")]
        assert places == (told["place"].split() if glyph.says_place else [])
    assert "a small green serif letter Q on blue" in {
        made_of.Glyph(*replaced, 0, False).caption
        for replaced in [("train", "Q", FACES[4], "small", "green", "blue", 0.3, 0.5, 0.5, (), (), ())]
    }


def test_the_longest_caption_is_not_cut():
    """The end takes a token; every combination of the longest words."""
    longest = 0
    for wording, face, colour, ground, place in product(
        range(len(made_of.WORDINGS)), FACES, COLOURS, COLOURS, ((0.9, 0.9), (0.1, 0.9), (0.5, 0.5))
    ):
        glyph = made_of.Glyph("train", "Q", face, "medium", colour, ground, 0.5, *place, (), (), (), wording, True)
        longest = max(longest, len(glyph.caption.encode()))
    assert longest + 1 <= made_of.CAPTION


def test_captions_are_true_of_the_pictures():
    """From pixels alone: the colours, the size, the place.

    Letter and ground are told apart by which of the two named colours is nearer, which draws the edge of the ink where
    half of a pixel is covered: each side of its box is right to a pixel.
    """
    side = 64
    shown = glyphs_at(FEW)
    middles = np.array(list(COLOURS.values()), dtype=float)
    nearest = lambda colour: list(COLOURS)[int(np.linalg.norm(middles - colour, axis=1).argmin())]
    for glyph, x in zip(shown, pictures(shown, side)):
        pixels = x.transpose(1, 2, 0).astype(float)
        far = [np.linalg.norm(pixels - COLOURS[name], axis=2) for name in (glyph.colour, glyph.background)]
        ink = far[0] < far[1]
        down, across = np.nonzero(ink)
        box = np.array([across.min(), down.min(), across.max() + 1, down.max() + 1]) / side
        long = max(box[2] - box[0], box[3] - box[1])
        low, high = SIZES[glyph.size]
        assert low - 2 / side <= long <= high + 2 / side, glyph.caption
        assert abs((box[0] + box[2]) / 2 - glyph.across) <= 1 / side
        assert abs((box[1] + box[3]) / 2 - glyph.down) <= 1 / side
        assert box.min() > 0, "ink at the border"
        assert box.max() < 1, "ink at the border"
        letter = glyph.face.letter(glyph.character)
        covered = coverage(letter, glyph, side)
        assert nearest(pixels[covered == 0].mean(0)) == glyph.background, glyph.caption
        core = covered > 0.95 * covered.max()
        seen = pixels[core] / covered[core][:, None] - pixels[covered == 0].mean(0) * (1 / covered[core] - 1)[:, None]
        assert nearest(seen.mean(0)) == glyph.colour, glyph.caption


def test_a_place_is_named_after_where_the_middle_is():
    at = lambda x, y: made_of.Glyph("", "A", FACES[0], "small", "red", "blue", 0.3, x, y, (), (), (), 0, True)
    assert at(0.2, 0.2).place == "top left"
    assert at(0.5, 0.8).place == "bottom"
    assert at(0.8, 0.5).caption.endswith(", on the right")
    assert at(0.5, 0.5).caption.endswith(", in the middle")


def test_another_size_is_the_same_picture():
    """Coverage at 64 averaged to 32 is that at 32.

    The box filter takes whole pixels of the large letter, of which a pixel at 64 spans at least 512/(0.86·64) = 9.3:
    the place of an edge is rounded by half of one, 0.054, for two edges along each of two axes, and half of it at 32.
    """
    for glyph in glyphs_at(torch.arange(12)):
        letter = glyph.face.letter(glyph.character)
        fine, coarse = coverage(letter, glyph, 64), coverage(letter, glyph, 32)
        averaged = fine.reshape(32, 2, 32, 2).mean((1, 3))
        assert np.abs(averaged - coarse).max() < 4 * 0.054 * 1.5 + 2 / 255
        # Rounding has no preferred side, so the ink as a whole is right to a tenth of that.
        assert abs(averaged.sum() / coarse.sum() - 1) < 0.01


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.file)
def test_letters_are_those_of_the_font(face):
    """Their shape against the outlines that matplotlib reads: the sides of the ink, to a pixel at each end."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    seen = set()
    for character in "QIJ17M":
        letter = face.letter(character)
        width, height = letter.width - 2 * MARGIN, letter.height - 2 * MARGIN
        assert letter.getbbox() == (MARGIN, MARGIN, MARGIN + width, MARGIN + height)
        assert abs(max(width, height) - LONG_SIDE) <= 4
        outline = TextPath((0, 0), character, size=LONG_SIDE, prop=FontProperties(fname=face.path)).get_extents()
        scale = max(width, height) / max(outline.width, outline.height)
        assert abs(outline.width * scale - width) <= 6
        assert abs(outline.height * scale - height) <= 6
        seen.add(letter.tobytes())
    assert len(seen) == 6


def test_what_is_held_out_is_never_trained_on(everything):
    train, test = everything[:TRAIN], everything[TRAIN:]
    combined = lambda glyph: (glyph.size, glyph.colour, glyph.character)
    seen = {combined(glyph) for glyph in train}
    held = {
        (size, colour, character)
        for (s, size), (c, colour), (k, character) in product(
            enumerate(SIZES), enumerate(COLOURS), enumerate(CHARACTERS)
        )
        if held_out(s, c, k)
    }
    assert len(held) == len(SIZES) * len(COLOURS) * len(CHARACTERS) // 12 == 72
    assert ("large", "green", "Q") in held
    assert not seen & held
    assert len(seen) == 864 - 72
    assert {glyph.face.family for glyph in train} == {face.family for face in FACES} - {"STIX"}
    # Every two of the three do occur together: what is new is the combination.
    for first, second in combinations(range(3), 2):
        pairs = {(one[first], one[second]) for one in seen}
        assert len(pairs) == len({p for p, _ in pairs}) * len({q for _, q in pairs})
    for part in ("family", "combination"):
        some = [glyph for glyph in test if glyph.part == part]
        assert len(some) == TEST // 2
        assert {glyph.face.family == "STIX" for glyph in some} == {part == "family"}
        assert {combined(glyph) in held for glyph in some} == {part == "combination"}
    assert {glyph.part for glyph in train} == {"train"}


def test_a_letter_stands_out_from_its_ground(everything):
    assert all(glyph.colour != glyph.background for glyph in everything)
    assert {(glyph.colour, glyph.background) for glyph in everything} >= {("green", "blue"), ("blue", "green")}


def test_data():
    """Labels, captions, attributes and pictures are of the same example, and a limit chooses among those of all."""
    found = data.load("glyphs", size=16, limit=60)
    assert (len(found.train), len(found.test)) == (60, 60)
    assert found.info.shape == (3, 16, 16)
    assert found.info.classes == tuple(CHARACTERS)
    assert found.info.conditions == {"label": (), "caption": (made_of.CAPTION,)}
    assert found.info.source == {"source": "glyphs", "size": 16, "limit": 60}
    batch = found.train.all()
    chosen = limited([str(i) for i in range(TRAIN)], np.zeros(TRAIN, dtype=bool), 60)
    for i, glyph in enumerate(glyphs_at(torch.from_numpy(chosen))):
        assert decode_text(batch["caption"][i]) == glyph.caption
        assert CHARACTERS[batch["label"][i]] == glyph.character == found.train.attributes["character"][i]
        assert {name: column[i] for name, column in found.train.attributes.items()} == glyph.attributes
        assert ((batch["x"][i] + 1) * 127.5).round().byte().numpy().tobytes() == pictures([glyph], 16).tobytes()
    assert set(found.test.attributes["part"]) == {"family", "combination"}


@pytest.mark.parametrize(
    "wrong", [{"size": 8}, {"size": 65}, {"channels": 1}, {"flip": True}, {"size": 32, "crop": "random"}]
)
def test_refusals(wrong):
    with pytest.raises(UserError, match="in colour, whole and never mirrored, with a size of 16 to 64"):
        data.load("glyphs", **wrong)


def test_fonts_that_are_not_there_or_draw_nothing():
    gone = Face("none.ttf", "None", "serif")
    with pytest.raises(UserError, match=r"the font .*none\.ttf cannot be read"):
        gone.letter("A")
    with pytest.raises(UserError, match=r"the font .*none\.ttf cannot be read"):
        digest((gone,))
    with pytest.raises(UserError, match=r"DejaVuSans\.ttf draws nothing for ' '"):
        FACES[0].letter(" ")


@pytest.mark.parametrize("face", [face for face in FACES if face.family.startswith("DejaVu")], ids=lambda f: f.file)
def test_the_tables_of_a_font_say_what_it_looks_like(face):
    """Of the fonts of matplotlib whose looks are known, those whose files say so themselves."""
    found = faces.read_face(str(face.path))
    assert found is not None
    assert (found.style, found.bold, found.italic) == (face.style, face.bold, face.italic)


def test_fonts_that_are_no_latin_text_are_left_out(tmp_path):
    (tmp_path / "a.ttf").write_text("no font")
    for path in (tmp_path / "a.ttf", tmp_path / "gone.ttf", FACES[0].path.parent / "STIXNonUni.ttf"):
        assert faces.read_face(str(path)) is None


def test_the_fonts_of_the_machine_are_added(tmp_path, monkeypatch):
    """A family of another name is drawn and split by that name; one that ships with matplotlib is not there twice."""
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda fontext: [str(f.path) for f in FACES])
    assert faces.system_faces() == ()
    own = [shutil.copy(face.path, tmp_path / f"own-{face.file}") for face in FACES if face.family.startswith("DejaVu")]
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda fontext: [str(path) for path in own])
    assert faces.system_faces() == ()
    read = faces.read_face
    installed = lambda path: replace(found, family=f"Own {found.family}") if (found := read(path)) else None
    monkeypatch.setattr(faces, "read_face", installed)
    more = faces.system_faces()
    assert len(more) == len({(face.family, face.bold, face.italic) for face in more}) == 12
    split = {face.family: made_of.held_out_family(face.family) for face in (*FACES, *more)}
    assert split["STIX"]
    assert not split["DejaVu Sans"]
    shares = [made_of.held_out_family(f"Family {k}") for k in range(4000)]
    assert abs(sum(shares) - 1000) < 5 * (4000 * 3 / 16) ** 0.5
    shown = glyphs_at(torch.tensor([*range(400), *range(TRAIN, TRAIN + 200)]), (*FACES, *more))
    for part in ("family", "train"):
        wanted = {family for family, held in split.items() if held is (part == "family")}
        assert {glyph.face.family for glyph in shown if glyph.part == part} == wanted
    found = data.load("glyphs-system", size=16, limit=20)
    assert found.info.name == "glyphs-system"
    assert set(found.train.attributes["family"]) - {face.family for face in FACES}


def test_the_cache(tmp_path, monkeypatch):
    """Made once; made again where the file is damaged, or for other words; and without a cache, with a warning."""
    monkeypatch.setenv("LANGEVIN_CACHE", str(tmp_path))
    calls = []

    def make():
        calls.append(1)
        return np.full((2, 3), len(calls), np.uint8)

    assert made.kept("a", ("x",), make).max() == made.kept("a", ("x",), make).max() == 1
    assert made.kept("a", ("y",), make).max() == 2
    (file,) = [f for f in (tmp_path / "made").iterdir() if made.kept("a", ("x",), make) is not None][:1]
    for kept in (tmp_path / "made").iterdir():
        content = bytearray(kept.read_bytes())
        content[-100] ^= 1
        kept.write_bytes(content)
    assert made.kept("a", ("x",), make).max() == 3
    assert file.is_file()
    monkeypatch.setenv("LANGEVIN_CACHE", str(file))  # a file, in which nothing can lie
    with pytest.warns(UserWarning, match="a is not kept, and will be made again"):
        assert made.kept("a", ("x",), make).max() == 4


@pytest.mark.slow
def test_all_of_it(tmp_path, monkeypatch):
    """The whole set from the cache is the set as it was made, and a limit is a part of it."""
    monkeypatch.setenv("LANGEVIN_CACHE", str(tmp_path))
    first, again = data.load("glyphs"), data.load("glyphs")
    assert (len(first.train), len(first.test)) == (TRAIN, TEST)
    assert first.info == again.info
    x = first.train.all()["x"]
    assert torch.equal(x, again.train.all()["x"])
    rows = {row.numpy().tobytes() for row in x}
    assert all(row.numpy().tobytes() in rows for row in data.load("glyphs", limit=30).train.all()["x"])
    # Shares of a uniform choice among 36, within five standard deviations.
    share = torch.bincount(first.train.labels, minlength=36) / TRAIN
    assert (share - 1 / 36).abs().max() < 5 * (1 / 36 / TRAIN) ** 0.5
