"""The table of samplers."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from .results import TrialResult

Cell = Callable[[float], str]

MEASURES: tuple[tuple[str, str, Cell], ...] = (
    ("label-agreement", "read as asked", lambda v: f"{100 * v:.1f} %"),
    ("train-synthetic-test-real", "taught with samples alone", lambda v: f"{100 * v:.1f} %"),
    ("sliced-wasserstein", "sliced Wasserstein", lambda v: f"{v:.3f}"),
    ("frechet/pixels", "Fréchet, pixels", lambda v: f"{v:.2f}"),
    ("precision/pixels", "precision", lambda v: f"{v:.2f}"),
    ("recall/pixels", "recall", lambda v: f"{v:.2f}"),
    ("memorisation", "distance to training", lambda v: f"{v:.2f}"),
)
"""Columns: the measure, its heading, how its numbers are written."""


MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        "label-agreement",
        "Read as asked",
        "The share of samples in which a classifier of real scans reads the digit that was asked for; it is as good as "
        "the classifier at best, and says nothing of variety.",
    ),
    (
        "train-synthetic-test-real",
        "Taught with samples alone",
        "The share of held-out scans that a classifier reads right which has seen samples only: it falls if samples "
        "are wrong, or too much alike.",
    ),
    (
        "sliced-wasserstein",
        "Sliced Wasserstein",
        "How far, in units of the pixels, samples have to be moved to become the held-out scans, along lines in all "
        "directions; 0 would be the same law, and real scans show what so few examples reach.",
    ),
    (
        "frechet/pixels",
        "Fréchet, pixels",
        "The distance of two Gaussians with the means and covariances of samples and held-out scans; too large by "
        "what the covariances err, so it is not given with fewer samples than pixels.",
    ),
    (
        "precision/pixels",
        "Precision",
        "The share of samples that lie as near to some held-out scan as its third neighbour does: do samples look "
        "real?",
    ),
    (
        "recall/pixels",
        "Recall",
        "The same with sides exchanged: is every held-out scan near some sample? Scattered samples get much of it too, "
        "so it counts beside precision alone.",
    ),
    (
        "memorisation",
        "Distance to training",
        "The median distance of a sample to the nearest training scan over that of a held-out scan: about 1 for new "
        "digits, near 0 for copies, far above 1 for what is no digit.",
    ),
)
"""What each measure says, in a sentence."""


def anchor(measure: str) -> str:
    """The id of a measure's sentence on the page."""
    return "measure-" + measure.replace("/", "-")


def glossary() -> str:
    """The sentences, as HTML."""
    inner = "\n".join(
        f'<dt id="{anchor(measure)}">{escape(title)}</dt><dd>{escape(text)}</dd>' for measure, title, text in MEANINGS
    )
    return f'<dl class="meanings">\n{inner}\n</dl>'


def table(rows: list[TrialResult], headline: TrialResult) -> str:
    """Sampler × evaluations × quality × time, as HTML; what real scans get stands under each value, notes below."""
    links = [f'<a href="#{anchor(measure)}">{escape(title)}</a>' for measure, title, _ in MEASURES]
    heads = ["sampler", "evaluations", *links, "samples", "ms a sample"]
    head = "".join(f"<th>{title}</th>" for title in heads)
    notes: list[str] = []
    body = "\n".join(_line(row, row is headline, notes) for row in rows)
    below = "".join(f'<li id="note-{i}">{escape(note)}</li>' for i, note in enumerate(notes, 1))
    return (
        '<p class="cue"><small>The table is wider than this window: scroll it sideways.</small></p>\n'
        '<div class="wide" tabindex="0" role="region" aria-label="samplers side by side"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
        + (f'\n<ol class="marks">{below}</ol>' if notes else "")
    )


def _line(row: TrialResult, marked: bool, notes: list[str]) -> str:
    n = row.drawn.record["n"]
    cells = [escape(row.trial.title), f"{row.drawn.evaluations:,}"]
    for measure, title, written in MEASURES:
        value, floor, note = row.value(measure), row.value(measure, "real"), row.note(measure)
        below = "" if floor is None else f"<small>{written(floor)}</small>"
        mark = ""
        if note is not None:
            note = f"{title[0].upper()}{title[1:]}: {note[0].lower()}{note[1:]}"
            notes += [note] * (note not in notes)
            number = notes.index(note) + 1
            mark = f'<sup><a href="#note-{number}">{number}</a></sup>'
        cells.append(("–" if value is None else written(value)) + mark + below)
    cells += [f"{n:,}", f"{1000 * row.drawn.seconds / n:.1f}"]
    return f"<tr{' class=headline' if marked else ''}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
