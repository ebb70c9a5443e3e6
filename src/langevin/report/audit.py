"""The page of the state of the samplers: one HTML file that holds all it shows and runs nothing."""

from __future__ import annotations

from html import escape
from importlib import resources

from ..tasks.audit import State
from ..tasks.audit.page import COLUMNS, COMMAND, OPENING, lines

STYLE = """
main { max-width: 1240px; }
table { border-collapse: collapse; font-size: 14px; width: 100%; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.WRONG, tr.WRONG td:last-child { color: var(--second); font-weight: 600; }
td.ok { color: var(--good); }
details { margin: 10px 0; }
summary { cursor: pointer; }
"""


def as_html(state: State) -> str:
    """The page."""
    css = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    heads = "".join(f'<th title="{escape(text)}">{escape(name)}</th>' for name, text in COLUMNS)
    table = "\n".join(
        f'<tr class="{"WRONG" if line.wrong else "ok"}">'
        + "".join(f"<td>{escape(c)}</td>" for c in line.cells)
        + "</tr>"
        for line in lines(state)
    )
    meanings = "".join(f"<li><em>{escape(name)}</em>: {escape(text)}</li>" for name, text in COLUMNS)
    details = "\n".join(one(state, i) for i in range(len(state.audited)))
    left = "".join(f"<li>{escape(e.title)}: {escape(e.why_not)}</li>" for e in state.entries if e.report is None)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>State of the samplers: diffusers {escape(state.release)}</title>
<style>
{css}{STYLE}</style>
</head>
<body>
<main>
<h1>State of the samplers: diffusers {escape(state.release)}</h1>
<p class="lead">{escape(OPENING.format(release=state.release))}</p>
<pre>{escape(COMMAND)}</pre>
<ul>{meanings}</ul>
<div class="pan" tabindex="0" role="region" aria-label="Schedulers"><div><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{table}
</tbody></table></div></div>
<h2>Every row</h2>
{details}
<h2>Not audited</h2>
<ul>{left}</ul>
<footer>Made by <code>langevin audit</code>. This page holds everything it shows and loads nothing.</footer>
</main>
</body>
</html>
"""


def one(state: State, i: int) -> str:
    """All rows of a scheduler."""
    entry = state.audited[i]
    assert entry.report is not None
    rows = "\n".join(
        f'<tr><td>{escape(row.check)}</td><td class="{row.verdict.replace("/", "")}">{row.verdict}</td>'
        f"<td>{escape(row.figure)}</td><td>{escape(row.expected)}</td></tr>"
        for row in entry.report.rows
    )
    count = len(entry.report.wrong)
    said = f"{count} wrong" if count else "nothing wrong"
    return (
        f"<details><summary>{escape(entry.title)}: {said}</summary><table><thead><tr><th>check</th><th>verdict</th>"
        f"<th>figure</th><th>expected</th></tr></thead><tbody>\n{rows}\n</tbody></table></details>"
    )
