"""The report: one HTML file that a person can decide from, without the network and without a script.

The figures come from `figures.py`, the tables from `tables.py`, all numbers from the results file; nothing is computed
here. Several results stand one after the other, each under its machine, and are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from benchmarks import figures, tables
from benchmarks.cases.registry import default_case
from benchmarks.results import Measurement, Results
from benchmarks.statistics import Spread
from fl.durable import replace_durably

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2329; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; }
p, li { max-width: 48rem; } .machine { color: #57606a; font-size: .85rem; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #e3e7eb; white-space: nowrap; }
th { background: #f4f6f8; font-weight: 600; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 11rem; }
tr.ours td { background: #eef5fb; } tr.missing td { color: #8a5a00; }
figure { margin: .8rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #57606a; font-size: .85rem; }
.lead { font-size: 1.02rem; } code { background: #f4f6f8; padding: .05rem .3rem; }
"""

FIGURES: tuple[tuple[str, Callable[[Results], str | None], str], ...] = (
    (
        "Where the time goes",
        figures.stage_breakdown,
        "Milliseconds of client and server per contribution, by stage. TenSEAL encodes and encrypts in one call.",
    ),
    ("What travels", figures.bytes_per_value, "Bytes per value of one contribution, message framing included."),
    (
        "How cost grows with the update",
        figures.cost_against_size,
        "A flat line is linear growth: the same milliseconds for every million values.",
    ),
    (
        "How cost grows with the clients",
        figures.cost_against_clients,
        "Masks cost each client one expansion per neighbour: all others up to 128 clients, a bounded number beyond.",
    ),
    (
        "What it means for a round",
        figures.round_overhead,
        "Real local training, then the average; the percentage is the share that is not training. Every client trains "
        "for a moment only, so a real round's share is smaller.",
    ),
    (
        "Precision against bytes",
        figures.precision_against_bytes,
        "This project's sums of quantised values are exact: its error is the quantisation that was asked for. CKKS as "
        "it is usually used pays bytes for precision that an update rarely has.",
    ),
)


def write_report(results: Sequence[Results], path: Path) -> None:
    """Write the report of one or more results to `path`."""
    parts = [_section(one) for one in results]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>What encrypted aggregation costs</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>What encrypted aggregation costs</h1>\n{''.join(parts)}</body>\n</html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, page.encode())


def _section(results: Results) -> str:
    main = tables.headline(results)
    cases = tables.averages(results, main)
    parts = [f'<p class="machine">{escape(tables.machine_line(results))}<br><code>{escape(results.command)}</code></p>']
    lead = summary(results)
    if lead:
        parts.append(f'<p class="lead">{escape(lead)}</p>')
    parts.append(f"<h2>{escape(tables.title_of(main))}</h2>")
    parts.append(_table(("case", *tables.COLUMNS), cases, lambda m: (m.label, *tables.cells(results, m))))
    parts.append(_list((*tables.COLUMN_NOTES, *tables.notes(results))))
    for title, draw, caption in FIGURES:
        drawn = draw(results)
        if drawn is not None:
            text = escape(caption)
            parts.append(f"<h2>{escape(title)}</h2><figure>{drawn}<figcaption>{text}</figcaption></figure>")
    parts += _more_tables(results, main)
    return "\n".join(parts) + "\n"


def _more_tables(results: Results, main: tables.Point) -> list[str]:
    parts = []
    rounds = tables.of_family(results, "round")
    if rounds:
        parts.append("<h2>Whole rounds</h2>")
        parts.append(_table(("case", *tables.ROUND_COLUMNS), rounds, lambda m: (m.label, *tables.round_cells(m))))
    sums = tables.of_family(results, "device")
    if sums:
        parts.append("<h2>Sums of ciphertexts on the device</h2>")
        parts.append(_table(("case", *tables.SUM_COLUMNS), sums, lambda m: (m.label, *tables.sum_cells(m))))
    others = [m for p in tables.points_of(results) if p != main for m in tables.averages(results, p)]
    if others:
        parts.append("<h2>All other points</h2>")
        heads = ("case", "values", "clients", "bits", *tables.COLUMNS)
        parts.append(
            _table(heads, others, lambda m: (m.case, *tables.point_cells(m.workload.point), *tables.cells(results, m)))
        )
    own = [m for m in tables.averages(results, main) if m.ours and m.status == "ok"]
    if own:
        parts.append("<h2>Stages of this project's cases</h2><p>All contributions of a round together.</p>")
        names = list(dict.fromkeys(name for m in own for name in m.stages()))
        rows = [("", (name, *(_stage_cell(m, name) for m in own))) for name in names]
        parts.append(_rows(("stage", *(m.case for m in own)), rows))
    return parts


def summary(results: Results) -> str:
    """The run in a few sentences, from the headline point."""
    main = tables.headline(results)
    own = results.find(default_case(), main) or next((m for m in results.measurements if m.ours), None)
    client = own.spread("client") if own is not None and own.status == "ok" else None
    if own is None or client is None or own.workload.point != main:
        return ""
    server, opened = own.spread("server"), own.spread("open")
    length, clients, _ = main
    text = (
        f"For {length:,} values and {clients:,} clients, sealing an update takes a client "
        f"{_plainly(client)}, checking and adding it takes the server {_plainly(server)}, opening the sum takes "
        f"{_plainly(opened)} once, and {own.bytes_per_value:.2f} bytes travel per "
        "value (4 would in the clear)."
    )
    ratio = tables.times_faster(results, own)
    if ratio is not None:
        text += f" The client is {ratio:,.1f} times faster than TenSEAL with its tutorial's parameters in the same run."
    for m in tables.of_family(results, "round"):
        share = tables.aggregation_share(m)
        if m.ours and share is not None:
            what = m.label.split(",")[1].strip()
            text += f" Of a whole round ({what}, a moment of training per client), {share:.1%} is not training."
    return text


def _table(
    heads: Sequence[str], measurements: Sequence[Measurement], cells: Callable[[Measurement], Sequence[str]]
) -> str:
    marks = ["missing" if m.status != "ok" else "ours" if m.ours else "" for m in measurements]
    return _rows(heads, list(zip(marks, map(cells, measurements), strict=True)))


def _rows(heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        f'<tr class="{mark}">' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n"
        for mark, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _plainly(found: Spread | None) -> str:
    return "no time" if found is None else f"{found.median * 1000:,.3g} ms"


def _stage_cell(m: Measurement, name: str) -> str:
    stage = m.stages().get(name)
    return "-" if stage is None else tables.milliseconds(stage[0])
