"""Pictures and the page: whole, self-contained, and showing what they say."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image

from langevin.report import figures, images
from langevin.report.compare import COLOURS
from langevin.report.results import Neighbours

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """Tags that do not nest, and every address that is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        given = dict(attrs)
        self.loaded += [given[key] or "" for key in ("src", "href", "xlink:href", "data", "srcset") if key in given]
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_ink_is_the_value_and_gaps_are_clear() -> None:
    x = torch.stack([torch.full((1, 2, 2), -1.0), torch.full((1, 2, 2), 1.0), torch.zeros(1, 2, 2)])
    png = images.sheet(x, columns=2, scale=3)
    picture = Image.open(io.BytesIO(png))
    colour, opacity = (np.asarray(part) for part in picture.split())
    assert picture.size == (2 * 6 + 3, 2 * 6 + 3)
    assert (colour == 0).all()
    assert (opacity[:6, :6] == images.PAPER).all()
    assert (opacity[:6, 9:] == 255).all()
    assert (opacity[9:, :6] == round((images.PAPER + 255) / 2)).all()
    assert (opacity[6:9] == 0).all()
    assert (opacity[:, 6:9] == 0).all()
    assert (opacity[9:, 9:] == 0).all()


def test_values_beyond_the_range_are_full_ink_or_paper() -> None:
    png = images.sheet(torch.tensor([[[[-9.0, 9.0]]]]), columns=1, scale=1)
    assert np.asarray(Image.open(io.BytesIO(png)))[0, :, 1].tolist() == [images.PAPER, 255]


def svgs() -> dict[str, str]:
    rows: list[dict[str, float | None]] = [
        {"step": 50.0 * i, "loss": 1 / i, "val_loss": 1.1 / i if i % 2 else None} for i in range(1, 9)
    ]
    found = Neighbours(torch.arange(50), torch.linspace(1, 3, 50), torch.linspace(1, 2, 30))
    return {"losses": figures.losses(rows), "distances": figures.distances(found)}


def test_charts_are_drawn_in_the_colours_of_the_page() -> None:
    for svg in svgs().values():
        root = ET.fromstring(svg)
        assert root.attrib.keys() == {"viewBox"}
        text = svg.lower()
        assert not any(colour in text for colour in figures.VARIABLES)
        # The parts of a chart that carry no variable are clear: a black line would vanish on a dark page.
        assert "#000" not in text
        assert "var(--accent)" in text
        assert "dejavu" not in text


def test_charts_of_one_page_share_no_id() -> None:
    ids = [Page(svg).ids for svg in svgs().values()]
    assert all(ids)
    assert not set(ids[0]) & set(ids[1])
    for svg in svgs().values():
        page = Page(svg)
        assert {address.lstrip("#") for address in page.loaded} <= set(page.ids)


def test_curves_keep_their_colours() -> None:
    """A colour that begins with a letter is no name of a part."""
    with figures.style():
        figure, (axes,) = figures.figure_of(1, 4.0, 3.0)
        for colour in COLOURS:
            axes.plot([0, 1], [0, 1], color=colour, marker="o")
        svg = figures.svg(figure, "curves")
    assert set(re.findall(r"#[0-9a-f]{6}(?=[;\" ])", svg)) == set(COLOURS)
    assert "#curves-" in svg  # the names of parts have that of the chart before them


def test_charts_are_the_same_each_time() -> None:
    assert svgs() == svgs()


def test_a_run_without_held_out_losses_has_a_chart() -> None:
    assert "<svg" in figures.losses([{"step": 1.0, "loss": None, "val_loss": None}])
