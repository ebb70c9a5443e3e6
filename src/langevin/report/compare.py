"""The report of `langevin compare`: one HTML file that holds all it shows and runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from importlib import resources

from torch import Tensor

from .. import training
from ..tasks.compare import Cell, Comparison, Side
from . import figures, images

COLOURS = ("#3d7bd9", "#c2702b", "#2d9d6f", "#b0568f", "#8571d6", "#8c8c3b", "#5f9ea8", "#a3684f")
"""Of samplers: of a middle tone, which is read on a light and on a dark page."""

MARKERS = "osDv^P*X"

Number = Callable[[Cell], float | None]

DISTANCE = "median distance to the converged path, in sd of the data"


def compare_page(found: Comparison) -> str:
    """The report of a comparison, as HTML."""
    css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(_side(side, found.tolerance, i) for i, side in enumerate(found.sides))
    models = ", ".join(dict.fromkeys(side.model for side in found.sides))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>langevin compare: {escape(models)}</title>
<style>
{css}
.sampler {{ display: grid; grid-template-columns: 110px 1fr; gap: 14px; align-items: center; margin: 6px 0; }}
.sampler span {{ color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<main>
<header>
<h1>Samplers side by side</h1>
<p class="lead">{escape(models)}: every sampler from the same noises, with the same evaluations of the model.</p>
</header>
{body}
{_protocol(found)}
<footer>Made by <code>langevin compare</code>. This page holds everything it shows and loads nothing.</footer>
</main>
</body>
</html>
"""


def _side(side: Side, tolerance: float, index: int) -> str:
    advice = side.advice(tolerance)
    said = "" if advice is None else f'<p class="lead">Take <b>{escape(advice.reason)}.</b></p>'
    notes = "".join(f"<p><small>{escape(note)}</small></p>" for note in side.notes)
    left = "".join(
        f"<p><small>Left out: {escape(name)} with {budget} evaluations: {escape(why)}.</small></p>"
        for (name, budget), why in side.left_out.items()
    )
    return f"""<h2>{escape(side.title)}</h2>
{said}
{_charts(side, tolerance, index)}
{_table(side, tolerance)}
<div class="notes">{notes}{left}</div>
{_pictures(side)}"""


def _evaluations(cell: Cell) -> float:
    return cell.evaluations


def _milliseconds(cell: Cell) -> float:
    return 1000 * cell.seconds


def _charts(side: Side, tolerance: float, index: int) -> str:
    """Quality against evaluations and against seconds: the distance of paths, and that of laws."""
    parts: list[str] = []
    for number, text, line, unresolved in (
        (lambda cell: cell.median, DISTANCE, tolerance, side.unresolved),
        (lambda cell: cell.value("frechet"), "Fréchet distance to held-out data", None, None),
        (lambda cell: cell.value("sliced-wasserstein"), "sliced Wasserstein distance to held-out data", None, None),
    ):
        if not any(number(cell) for cell in side.cells):
            continue
        name = f"compare-{index}-{len(parts)}"
        costs = (("evaluations per sample", _evaluations), ("ms per sample", _milliseconds))
        chart = _chart(side, name, number, text, costs, line, unresolved)
        parts.append(f'<figure class="chart">{chart}</figure>')
    return "\n".join(parts)


def _chart(
    side: Side,
    name: str,
    number: Number,
    text: str,
    costs: tuple[tuple[str, Callable[[Cell], float]], ...],
    line: float | None,
    unresolved: float | None,
) -> str:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    names = list(dict.fromkeys(cell.sampler for cell in side.cells))
    with figures.style():
        figure, panels = figures.figure_of(len(costs), 8.6, 3.6)
        for axes, (label, cost) in zip(panels, costs):
            for i, sampler in enumerate(names):
                mine = [cell for cell in side.cells if cell.sampler == sampler]
                known = sorted((cost(cell), v) for cell in mine if (v := number(cell)) and v < float("inf"))
                if known:
                    look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
                    axes.plot(*zip(*known), label=sampler, markersize=5, linewidth=1.2, **look)
            if line is not None:
                axes.axhline(line, color=figures.SECOND, linewidth=1.0, linestyle="--")
            axes.set_xscale("log")
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            if unresolved is not None and unresolved > low:  # below it, distances are those of the reference
                axes.axhspan(low, unresolved, color=figures.LINE, alpha=0.5)
                axes.set_ylim(low, high)
            axes.set_xlabel(label)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_formatter(NullFormatter())
            if cost is _evaluations:
                ticks = sorted({cell.budget for cell in side.cells})
                axes.set_xticks(ticks, [str(tick) for tick in ticks])
        panels[0].set_title(text)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
        return figures.svg(figure, name)


COLUMNS: tuple[tuple[str, Number, str], ...] = (
    ("median distance", lambda cell: cell.median, ".3g"),
    ("Fréchet", lambda cell: cell.value("frechet"), ".3g"),
    ("precision", lambda cell: cell.value("precision"), ".2f"),
    ("recall", lambda cell: cell.value("recall"), ".2f"),
    ("sliced Wasserstein", lambda cell: cell.value("sliced-wasserstein"), ".3g"),
)


def _table(side: Side, tolerance: float) -> str:
    advice = side.advice(tolerance)
    used = [column for column in COLUMNS if any(column[1](cell) is not None for cell in side.cells)]
    heads = ["sampler", "allowed", "evaluations", "of the network", "ms per sample", *(title for title, *_ in used)]
    lines = []
    for cell in side.cells:
        taken = advice is not None and (cell.sampler, cell.evaluations) == (advice.sampler, advice.evaluations)
        row = [escape(cell.sampler), str(cell.budget), str(cell.evaluations), str(cell.network)]
        row.append(f"{1000 * cell.seconds:.3g}")
        row += ["–" if (v := number(cell)) is None else format(v, how) for _, number, how in used]
        lines.append(f"<tr{' class=headline' if taken else ''}>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>")
    head = "".join(f"<th>{escape(title)}</th>" for title in heads)
    best = ""
    if advice is not None:
        each = (f"{budget}: {escape(name)} ({value:.3g})" for budget, (name, value) in advice.best.items())
        best = f"<p><small>The best at each budget. {'; '.join(each)}.</small></p>"
    return f"""<div class="wide" tabindex="0" role="region" aria-label="samplers side by side"><table>
<thead><tr>{head}</tr></thead>
<tbody>{"".join(lines)}</tbody>
</table></div>
{best}"""


def _pictures(side: Side) -> str:
    """A row a sampler from the same noises, the converged paths first, at each budget."""
    parts = []
    for budget in dict.fromkeys(cell.budget for cell in side.cells):
        rows = [] if side.reference is None else [("converged", side.reference)]
        rows += [(cell.sampler, cell.shown) for cell in side.cells if cell.budget == budget]
        shown = [f'<div class="sampler"><span>{escape(name)}</span>{_picture(x, name, side)}</div>' for name, x in rows]
        parts.append(f"<figure>{''.join(shown)}<figcaption>{budget} evaluations.</figcaption></figure>")
    said = "A column is one noise. The first row is the model's own converged path from it."
    return f"<h3>From the same noises</h3>\n<p>{said}</p>\n" + "\n".join(parts)


def _picture(x: Tensor, name: str, side: Side) -> str:
    text = f"samples of {name}"
    if not x.is_floating_point():
        return f"<span>{escape(str(x[0].tolist()))}</span>"
    if x.ndim != 4:
        png = training.png(training.scatter(x.flatten(1)))
    elif x.shape[1] == 1:
        sheet = images.sheet(x, len(x), low=side.low, high=side.high, scale=max(1, 48 // x.shape[-1]))
        return f'<img class="ink" alt="{escape(text)}" src="{images.embedded(sheet)}">'
    else:
        png = training.png(training.image_grid(x, len(x), low=side.low, high=side.high))
    return f'<img alt="{escape(text)}" src="{images.embedded(png)}">'


def _protocol(found: Comparison) -> str:
    said = found.protocol
    facts = {
        "samples per row": f"{said['n']}, from the noises of seed {said['seed']}",
        "distance": f"{said['distance']}; of {said['paths']} paths, against {said['reference']}",
        "good enough": f"a median distance of {found.tolerance:g}, the dashed line",
        "resolved": "; ".join(
            f"{side.title}: from {side.unresolved:.2g} upwards" for side in found.sides if side.unresolved is not None
        ),
        "data": "; ".join(f"{side.title}: {side.data or 'not known'}" for side in found.sides),
        "machine": ", ".join(f"{k} {v}" for k, v in said["machine"].items()),
        "versions": ", ".join(f"{k} {v}" for k, v in said["versions"].items() if v != "-"),
    }
    inner = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text)
    return f"<h2>What was run</h2>\n<dl>\n{inner}\n</dl>"
