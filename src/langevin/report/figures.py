"""Charts as SVG whose colours are the page's own, so that they follow its light or dark dress."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from .results import Neighbours, TrialResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, LINE, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
"""Stand-ins that the page's variables replace."""

VARIABLES = {INK: "--ink", FAINT: "--faint", LINE: "--line", ACCENT: "--accent", SECOND: "--second"}

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # what text is measured with; the page sets its own
    "font.size": 10.0,
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.minor.size": 0.0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
}


def losses(rows: list[dict[str, float | None]]) -> str:
    """Training and held-out loss by step."""
    with style():
        figure, (axes,) = figure_of(1, 6.8, 2.9)
        train = [(row["step"], row["loss"]) for row in rows if row["loss"] is not None]
        held = [(row["step"], row["val_loss"]) for row in rows if row["val_loss"] is not None]
        if train:
            axes.plot(*zip(*train), color=ACCENT, label="training scans")
        if held:
            axes.plot(*zip(*held), "o-", color=SECOND, markersize=4.5, label="held-out scans, averaged weights")
        axes.set(xlabel="step", ylabel="loss")
        axes.set_ylim(bottom=0)
        if train or held:
            axes.legend()
        return svg(figure, "losses")


def quality(rows: list[TrialResult]) -> str:
    """Two measures against the evaluations a sample costs, each sampler beside the floor of its own count."""
    with style():
        figure, (left, right) = figure_of(2, 8.6, 3.4)
        kinds = list(dict.fromkeys(row.trial.title for row in rows))
        markers = dict(zip(kinds, "sDv^oPX*"))
        for title in kinds:
            mine = [row for row in rows if row.trial.title == title]
            cost = [row.drawn.evaluations for row in mine]
            colour = ACCENT if title == "default" else FAINT
            look = {"color": colour, "marker": markers[title], "markersize": 6, "linewidth": 1.0, "label": title}
            agreed = [100 * (1 - (row.value("label-agreement") or 0.0)) for row in mine]
            left.plot(cost, agreed, **look)
            right.plot(cost, [row.value("sliced-wasserstein") for row in mine], **look)
            right.plot(
                cost, [row.value("sliced-wasserstein", "real") for row in mine], "_", color=SECOND, markersize=13
            )
        real = rows[0].value("label-agreement", "real")
        if real is not None:
            left.axhline(100 * (1 - real), color=SECOND, linewidth=1.2)
        right.plot([], [], "_", color=SECOND, markersize=13, label="real scans")
        left.set(title="samples not read as asked, %")
        right.set(title="sliced Wasserstein distance to held-out scans")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks([10, 20, 50, 100, 1000], ["10", "20", "50", "100", "1000"])
            axes.set_xlabel("network evaluations a sample")
            axes.set_ylim(bottom=0)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
        return svg(figure, "quality")


def distances(found: Neighbours) -> str:
    """Histograms of the distance to the nearest training scan."""
    with style():
        figure, (axes,) = figure_of(1, 6.8, 2.4)
        ours, held = found.samples.numpy(), found.heldout.numpy()
        top = float(max(ours.max(), held.max()))
        look: dict[str, Any] = {"bins": 40, "range": (0.0, top), "density": True, "histtype": "stepfilled"}
        axes.hist(held, color=SECOND, alpha=0.35, label="held-out scans", **look)
        axes.hist(ours, color=ACCENT, alpha=0.35, label="samples", **look)
        axes.set(xlabel="distance to the nearest training scan", yticks=[])
        axes.spines["left"].set_visible(False)
        axes.legend()
        return svg(figure, "distances")


def style() -> Any:
    import matplotlib

    return matplotlib.rc_context(STYLE)


def figure_of(panels: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = [figure.add_subplot(1, panels, i + 1) for i in range(panels)]
    for each in axes:
        each.patch.set_alpha(0)
    return figure, axes


def svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page: its text is text, its colours are variables, its ids are its own."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    opening = text.index(">", text.index("<svg"))
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]}' + text[opening:]
    )
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", text)
    # Two figures of one page must not share ids: matplotlib numbers its groups in every figure alike.
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
