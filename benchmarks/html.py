"""The report: one HTML file that needs neither the network nor a script.

The figures come from `figures.py`, the tables from `tables.py` and all numbers from the results file. Nothing is
computed here. `templates/report.html.j2` is the page. Several results are shown one after the other, each under its
machine, and are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import figures, tables
from benchmarks.cases.registry import default_case
from benchmarks.results import Measurement, Results
from benchmarks.statistics import Spread
from fl.durable import replace_durably
from fl.reports.html import rendered

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


@dataclass(frozen=True)
class Table:
    """One table of the page. rows: each with its style, its cells, and how many columns the last cell spans."""

    title: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str], int]]
    about: str = ""


def write_report(results: Sequence[Results], path: Path) -> None:
    """Write the report of one or more results to `path`."""
    title = "What encrypted aggregation costs"
    page = rendered("report.html.j2", "benchmarks", title=title, results=[_section(one) for one in results])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(path, page.encode())


def _section(results: Results) -> dict[str, Any]:
    """One result, as the template takes it."""
    first, *more = _tables(results)
    drawn = [(title, draw(results), caption) for title, draw, caption in FIGURES]
    return {
        "machine": tables.machine_line(results),
        "command": results.command,
        "lead": summary(results),
        "headline": first,
        "notes": (*tables.COLUMN_NOTES, *tables.notes(results)),
        "figures": [one for one in drawn if one[1] is not None],
        "tables": [one for one in more if one.rows],
    }


def _tables(results: Results) -> Iterator[Table]:
    """The headline, then all others."""
    main = tables.headline(results)
    cases = tables.averages(results, main)
    others = [m for p in tables.points_of(results) if p != main for m in tables.averages(results, p)]
    rounds, sums = tables.of_family(results, "round"), tables.of_family(results, "device")
    yield _table(tables.headline_title(results), tables.COLUMNS, cases, lambda m: (m.label, *tables.cells(results, m)))
    yield _table("Whole rounds", tables.ROUND_COLUMNS, rounds, lambda m: (m.label, *tables.round_cells(m)))
    yield _table(
        "Sums of ciphertexts on the device", tables.SUM_COLUMNS, sums, lambda m: (m.label, *tables.sum_cells(m))
    )
    yield _table(
        "All other points",
        ("values", "clients", "bits", *tables.COLUMNS),
        others,
        lambda m: (m.case, *tables.point_cells(m.workload.point), *tables.cells(results, m)),
    )
    yield _stages([m for m in cases if m.ours and m.status == "ok"])


def _table(
    title: str, heads: Sequence[str], shown: Sequence[Measurement], cells: Callable[[Measurement], Sequence[str]]
) -> Table:
    marks = ["missing" if m.status != "ok" else "ours" if m.ours else "" for m in shown]
    return Table(title, ("case", *heads), [_row(mark, cells(m)) for mark, m in zip(marks, shown, strict=True)])


def _row(mark: str, cells: Sequence[str]) -> tuple[str, Sequence[str], int]:
    """A row whose last filled cell takes the place of the empty ones after it: why a case has no times is long."""
    filled = max((number for number, cell in enumerate(cells, start=1) if cell), default=1)
    return mark, cells[:filled], len(cells) - filled + 1


def _stages(own: Sequence[Measurement]) -> Table:
    names = dict.fromkeys(name for m in own for name in m.stages())
    rows = [_row("", (name, *(_stage_cell(m, name) for m in own))) for name in names]
    return Table(
        "Stages of this project's cases",
        ("stage", *(m.case for m in own)),
        rows,
        "All contributions of a round together.",
    )


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
        text += f" The client is {ratio:,.1f} times faster than TenSEAL with its tutorial's parameters in the same run"
        few = tables.fewest_behind_ratio(results, own)
        text += f", from only {few} repetitions." if few < tables.FEWEST_REPETITIONS else "."
    for m in tables.of_family(results, "round"):
        share = tables.aggregation_share(m)
        if m.ours and share is not None:
            what = m.label.split(",")[1].strip()
            text += f" Of a whole round ({what}, a moment of training per client), {share:.1%} is not training."
    return text


def _plainly(found: Spread | None) -> str:
    return "no time" if found is None else f"{found.median * 1000:,.3g} ms"


def _stage_cell(m: Measurement, name: str) -> str:
    stage = m.stages().get(name)
    return "-" if stage is None else tables.milliseconds(stage[0])
