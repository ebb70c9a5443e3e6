"""The report: one HTML file that holds all it shows and runs nothing."""

from __future__ import annotations

import shlex
from html import escape
from importlib import resources

import torch
from torch import Tensor

from .._duration import duration
from . import figures, images
from .results import Results, TrialResult
from .table import MEASURES, anchor, glossary, table

COLUMNS, BESIDE = 16, 5
"""Samples shown of each class, and held-out scans."""

QUICK = """<p class="warning"><strong>Quick run.</strong> Few samples, a tiny network and little training: it shows that
everything works. Do not read these figures as the quality of the method; <code>langevin demo</code> without
<code>--quick</code> gives those.</p>
"""
"""What stands at the top of a report whose figures mean nothing."""

PAIRS = 16
"""Samples shown beside their nearest training scans."""


def page(found: Results) -> str:
    """The report of a demo, as HTML."""
    css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    # A row each; those of two stand side by side where there is room.
    rows = (
        (_opening,),
        (_cards,),
        (_samples, _strip),
        (_copies, _training),
        (_samplers,),
        (_meanings,),
        (_run, _onwards),
    )
    body = "\n".join(_beside(*(part(found) for part in row)) for row in rows)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>langevin demo: digits</title>
<style>
{css}</style>
</head>
<body>
<main>
{body}
<footer>Made by <code>langevin demo</code>. This page holds everything it shows and loads nothing.</footer>
</main>
</body>
</html>
"""


def _beside(*sections: str) -> str:
    if len(sections) == 1:
        return sections[0]
    return '<div class="pair">' + "".join(f"<section>\n{section}\n</section>" for section in sections) + "</div>"


def _pan(inner: str, text: str) -> str:
    """What keeps a width at which it can be read, and is scrolled sideways in a narrow window."""
    return f'<div class="pan" tabindex="0" role="region" aria-label="{escape(text)}"><div>{inner}</div></div>'


def _meanings(found: Results) -> str:
    return f"""<h2>What the measures mean</h2>
<p>All of them hold samples, or real scans in their place, against the {len(found.dataset.test)} held-out scans.</p>
{glossary()}"""


def _opening(found: Results) -> str:
    made, seconds = found.model.config, found.seconds
    passes = made["images"] / len(found.dataset.train)
    trained = f"{duration(made['seconds'])} of training"
    whole = "in an earlier run" if found.reused else f"{duration(seconds['total'])} in all"
    return f"""<header>
<h1>Handwritten digits, learned and sampled here</h1>
<p class="lead">A diffusion model of {_parameters(found)} parameters went {passes:.0f} times through
{len(found.dataset.train):,} real 8×8 scans, in {trained} on {found.environment["machine"]["cores"]} cores ({whole}).
{len(found.dataset.test)} scans that it never saw judge what it draws.</p>
{QUICK if found.quick else ""}</header>"""


def _cards(found: Results) -> str:
    row = found.headline
    n = row.drawn.record["n"]
    cards = [
        (
            "label-agreement",
            _percent(row.value("label-agreement")),
            f"of {n:,} samples show the digit that was asked for",
            f"read by a classifier of real scans, which reads {_percent(row.value('label-agreement', 'real'))} of the "
            "held-out scans right",
        ),
        (
            "train-synthetic-test-real",
            _percent(row.value("train-synthetic-test-real")),
            "of held-out scans are read right by a classifier taught with samples alone",
            f"taught with real scans it reads {_percent(row.value('train-synthetic-test-real', 'real'))}",
        ),
        (
            "memorisation",
            _plain(row.value("memorisation"), 2),
            "times the distance of a fresh scan to the training data",
            "median distance to the nearest training scan, samples over held-out scans: copies would be near 0",
        ),
        (
            "sliced-wasserstein",
            _plain(row.value("sliced-wasserstein"), 3),
            "sliced Wasserstein distance to held-out scans",
            f"the training scans themselves are at {_plain(row.value('sliced-wasserstein', 'real'), 3)}, noise at "
            f"{_plain(row.value('sliced-wasserstein', 'noise'), 3)}",
        ),
    ]
    inner = "\n".join(
        f'<div class="card"><b>{figure}</b><span>{escape(text)}</span><small>{escape(more)}{_interval(row, measure)}. '
        f'<a href="#{anchor(measure)}">What is this?</a></small></div>'
        for measure, figure, text, more in cards
    )
    return f"""<div class="cards">
{inner}
</div>
<p class="faint" style="margin-top:14px"><small>All four at {row.drawn.evaluations} network evaluations a sample, with
the default sampler and no guidance.</small></p>"""


def _samples(found: Results) -> str:
    classes = found.dataset.info.classes
    x, label = found.dataset.test.all()["x"], found.dataset.test.labels
    drawn = found.headline.drawn
    assert label is not None
    assert drawn.label is not None
    ours = images.sheet(_by_class(drawn.x, drawn.label, len(classes), COLUMNS), COLUMNS)
    real = images.sheet(_by_class(x, label, len(classes), BESIDE), BESIDE)
    names = "".join(f"<span>{escape(name)}</span>" for name in classes)
    # In pixels of the data, with a gap of one: both sheets then come out at one scale.
    side = found.dataset.info.shape[-1] + 1
    widths = f"20px {COLUMNS * side - 1}fr {BESIDE * side - 1}fr"
    sheets = f"""<div class="classes" style="grid-template-columns:{widths}">
<div class="rows">{names}</div>
{_ink(ours, "samples, a row for each digit")}
{_ink(real, "held-out scans, a row for each digit")}
</div>"""
    return f"""<h2>Samples by class</h2>
<p>The first {COLUMNS} samples of each digit, none left out; on the right real scans that the model never saw.</p>
<figure>
{_pan(sheets, "samples by class")}
</figure>"""


def _by_class(x: Tensor, labels: Tensor, classes: int, count: int) -> Tensor:
    """The first ``count`` of each class, a class after the other; blank where there are fewer."""
    blank = x.new_full((1, *x.shape[1:]), -1.0)
    parts = [torch.cat([x[labels == k][:count], blank.expand(count, *x.shape[1:])])[:count] for k in range(classes)]
    return torch.cat(parts)


def _strip(found: Results) -> str:
    strip = found.strip
    levels = "".join(f"<span>{_level(float(v))}</span>" for v in strip.levels)
    count, columns = strip.states.shape[1], len(strip.times)
    pictures = []
    for k in range(count):
        pair = torch.cat((strip.states[:, k], strip.beliefs[:, k]))
        pictures.append(f'<div class="strip">{_ink(images.sheet(pair, columns), "a digit as it forms")}</div>')
    return f"""<h2>From noise to digit</h2>
<p>Each step asks the network once. Above, the state, noise and digit together; below, what the network then believes
the digit to be.</p>
<figure>
{_pan(f'<div class="levels">{levels}</div>' + "".join(pictures), "from noise to digit")}
<figcaption>Numbers: noise over signal, σ/α. States are shown at the contrast of the data.</figcaption>
</figure>"""


def _copies(found: Results) -> str:
    x, near = found.headline.drawn.x, found.neighbours
    # The nearest pairs of all: if anything was copied it shows here.
    order = near.samples.argsort()[: PAIRS // 2]
    first = torch.arange(PAIRS - len(order))
    chosen = torch.cat([order, first])
    train = found.dataset.train.all()["x"]
    pairs = torch.cat((x[chosen], train[near.index[chosen]]))
    median = float(near.samples.median()), float(near.heldout.median())
    return f"""<h2>Are they copies?</h2>
<p>Above, samples; below each, the training scan nearest to it. The left half are the {len(order)} closest pairs of all
{len(x):,} samples, the right half the first {len(first)} samples as they came.</p>
<figure>{_pan(_ink(images.sheet(pairs, PAIRS), "samples above their nearest training scans"), "nearest scans")}</figure>
<figure>{_pan(figures.distances(near), "distances to the training scans")}
<figcaption>Median {median[0]:.2f} for samples, {median[1]:.2f} for held-out scans, with pixels from −1 to 1. A model
that repeats its training data would pile up at 0.</figcaption>
</figure>"""


def _training(found: Results) -> str:
    made = found.model.config
    return f"""<h2>Training</h2>
<figure>{_pan(figures.losses(found.losses), "losses")}
<figcaption>{made["steps"]:,} steps of {made["config"]["batch"]} scans. The held-out loss is that of the averaged
weights, which are what is saved and sampled.</figcaption>
</figure>"""


def _samplers(found: Results) -> str:
    notes = "".join(
        f"<p><small>{escape(row.trial.title)}, {row.drawn.record['steps']:,} steps: "
        f"{escape(row.trial.note)}.</small></p>"
        for row in found.rows
        if row.trial.note
    )
    return f"""<h2>Samplers side by side</h2>
<p>One network, several update rules. Numbers in grey are the reference: what real scans get in the samples' place,
by the same measure. A heading leads to a sentence on what it measures.</p>
{table(found.rows, found.headline)}
<figure class="chart">{_pan(figures.quality(found.rows), "quality and cost")}
<figcaption>Lower is better, and orange is what real scans get. On the right that is more where samples, and the
scans that stand in for them, are fewer.</figcaption>
</figure>
<div class="notes">{notes}</div>"""


def _run(found: Results) -> str:
    env, made = found.environment, found.model.config
    config = made["config"]
    machine = env["machine"]
    facts = {
        "data": f"digits (scikit-learn), {len(found.dataset.train):,} scans to train on, "
        f"{len(found.dataset.test)} held out",
        "network": f"{config['network']['name']}, {_parameters(found)} parameters",
        "process": f"{found.model.process}, prediction {config['prediction']['name']}",
        "training": f"{made['steps']:,} steps of {config['batch']}, AdamW at {config['optimiser']['lr']:g}, seed "
        f"{config['seed']}, {config['precision']}, labels hidden from {config['objective']['dropout']['label']:.0%}",
        "samples": f"seed {found.headline.drawn.record['seed']}, {found.headline.drawn.record['dtype']}",
        "machine": f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} used, {machine['device']}, "
        f"{machine['system']}",
        "versions": ", ".join(f"{name} {version}" for name, version in env["versions"].items()),
        "time": ", ".join(f"{name} {duration(value)}" for name, value in found.seconds.items()),
        "date": env["date"],
    }
    inner = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"""<h2>What was run</h2>
<dl>
{inner}
</dl>
<p style="margin-top:18px" class="faint"><small>Every figure with its protocol (features, counts, split, seeds) is in
<code>report.json</code>, beside this file.</small></p>"""


def _onwards(found: Results) -> str:
    place = shlex.quote(found.place)
    again = " ".join(["langevin", "evaluate", place, *found.headline.trial.recipe.words()])
    blocks = [
        ("More of these:", f"langevin sample {place} -n 1000 --label 3 --guidance-scale 1.5 --steps 12 --out samples"),
        ("A figure of the table again, with another seed, or more samples:", f"{again} --seed 1 -n 5000"),
        (
            "Your own pictures, in a folder; sub-folders are classes:",
            "langevin train ./photos --size 32 --out runs/photos\nlangevin sample runs/photos -n 64 --out samples\n"
            "langevin evaluate runs/photos",
        ),
        (
            "In Python:",
            f"import langevin\nmodel = langevin.load({found.place!r})\n"
            "x = langevin.sample(model.given(label=3), n=64, steps=12, seed=0)",
        ),
    ]
    inner = "\n".join(f"<p>{escape(title)}</p>\n<pre>{escape(text)}</pre>" for title, text in blocks)
    return f"""<h2>Going on</h2>
{inner}"""


def _ink(png: bytes, text: str) -> str:
    return f'<img class="ink" alt="{escape(text)}" src="{images.embedded(png)}">'


def _interval(row: TrialResult, measure: str) -> str:
    """The 95 % interval of a card's figure, as it is written."""
    found = row.interval(measure)
    if found is None:
        return ""
    written = next(how for name, _, how in MEASURES if name == measure)
    return f"; 95 % interval {written(found[0])} to {written(found[1])}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _level(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}"


def _parameters(found: Results) -> str:
    count = sum(p.numel() for p in found.model.network.parameters())
    return f"{count / 1e6:.2f} million" if count >= 1e5 else f"{count:,}"
