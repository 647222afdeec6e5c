"""One HTML file that needs no network: its style, Plotly once, and the parts a report is made of.

What it does: `document` puts a body into a whole file whose content policy forbids it to fetch anything; `paragraph`,
`table` and `figure` make its parts, with all text escaped.

What it leaves to others: what a report says (`page.py`, `fl.reports.ablation_page`) and what a plot shows (`plots.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from plotly.offline import get_plotlyjs

from fl.reports.examination.plots import Plot, drawn

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d2329; margin: 0;
  background: #fff; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .4rem; padding-top: 1rem; border-top: 1px solid #d0d7de; }
h3 { font-size: 1rem; margin: 1.8rem 0 .2rem; }
p { max-width: 46rem; margin: .5rem 0; } .meta, figcaption, .small { color: #57606a; font-size: .875rem; }
nav { font-size: .875rem; margin: .8rem 0 0; } nav a { margin-right: 1rem; display: inline-block; }
a { color: #1b6ca8; }
ul.findings { list-style: none; padding: 0; margin: 1rem 0; max-width: 52rem; }
ul.findings li { display: grid; grid-template-columns: 6.2rem 1fr; gap: .8rem; padding: .45rem 0;
  border-bottom: 1px solid #eaeef2; }
.kind { font-size: .75rem; font-weight: 600; letter-spacing: .02em; text-align: center; border-radius: 3px;
  padding: .15rem .2rem; align-self: start; margin-top: .15rem; }
.good { background: #dff3e4; color: #175c2c; } .note { background: #eef1f4; color: #47515b; }
.concern { background: #fde8d7; color: #8a3b12; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .7rem 0; }
th, td { padding: .32rem .7rem; text-align: right; border-bottom: 1px solid #e3e7eb; white-space: nowrap; }
th { font-weight: 600; color: #47515b; border-bottom: 1px solid #8b949e; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; padding-left: 0; min-width: 6rem; }
tr.own td { font-weight: 600; } tr.small td { color: #6e7781; }
figure { margin: 1rem 0 1.6rem; } figcaption { max-width: 46rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .875rem; }
dt { color: #57606a; }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { nav { display: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


def document(title: str, body: str) -> str:
    """The whole file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind`: its style."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table; each row with its style and its cells."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        f'<tr class="{mark}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for mark, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def figure(drawings: Sequence[Plot | None], caption: str, name: str) -> str:
    """Plots with one caption; nothing where there is nothing to show."""
    shown = drawn(drawings)
    if not shown:
        return ""
    parts = []
    for number, drawing in enumerate(shown):
        place = f"plot-{name}-{number}"
        # A "<" inside a script could end it; escaped, JSON means the same.
        data, layout = (json.dumps(drawing[key], allow_nan=False).replace("<", "\\u003c") for key in ("data", "layout"))
        parts.append(
            f'<div id="{place}"></div><script>Plotly.newPlot("{place}", {data}, {layout}, '
            '{"displayModeBar": false, "responsive": true});</script>\n'
        )
    return f"<figure>{''.join(parts)}<figcaption>{escape(caption)}</figcaption></figure>"
