"""Average precision against epsilon as one HTML file: every run a dot, their means a line, staying alone a level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from fl.durable import replace_durably
from fl.reports.examination.plots import OTHER, OWN, Plot, plot
from fl.reports.html import rendered

NO_PRIVACY = "no privacy"
ALONE = {"alone": "each bank alone, network", "alone_filter": "each bank alone, filter"}
DASHES = ("dot", "dash")


def write_page(curve: dict[str, Any], path: Path) -> None:
    """Write the result of `demos curve` as a page to `path`, whole or not at all."""
    page = rendered(
        "curve.html.j2",
        title="Accuracy against privacy",
        curve={**curve, "curve": _ascending(curve["curve"])},
        plot=against_epsilon(curve),
        plotly=get_plotlyjs(),
    )
    replace_durably(path, page.encode())


def against_epsilon(curve: dict[str, Any]) -> Plot:
    """Released parts alone, own evidence beside them, and what a bank reaches alone."""
    rows = _ascending(curve["curve"])
    names = {level: NO_PRIVACY if level == "none" else level for level in rows}
    each = {
        "x": [names[level] for level, row in rows.items() for _ in row["per_seed"]],
        "y": [value for row in rows.values() for value in row["per_seed"]],
        "mode": "markers",
        "name": "one run",
        "marker": {"color": OTHER, "size": 7},
    }
    lines = [_line(names, rows, "average_precision", "released parts only", OWN, "solid")]
    if all(row["own_evidence"] is not None for row in rows.values()):
        lines.append(_line(names, rows, "own_evidence", "own evidence when scoring", OWN, "dash"))
    for name, dash in zip(ALONE, DASHES, strict=True):
        if (level := curve["alone"].get(name)) is not None:
            ends = list(names.values())
            lines.append(
                {
                    "x": ends,
                    "y": [level] * len(ends),
                    "mode": "lines",
                    "name": f"{ALONE[name]}, no privacy",
                    "line": {"color": OTHER, "dash": dash},
                }
            )
    x = {"type": "category", "title": {"text": "epsilon of every bank, for everything that is released"}}
    return plot([each, *lines], x, {"title": {"text": "average precision"}, "rangemode": "tozero"})


def _ascending(rows: dict[str, Any]) -> dict[str, Any]:
    """By epsilon; the runs without privacy stand at the right end."""
    return dict(sorted(rows.items(), key=lambda row: float("inf") if row[0] == "none" else float(row[0])))


def _line(names: dict[str, str], rows: dict[str, Any], figure: str, name: str, color: str, dash: str) -> dict[str, Any]:
    return {
        "x": list(names.values()),
        "y": [row[figure] for row in rows.values()],
        "mode": "lines+markers",
        "name": name,
        "line": {"color": color, "dash": dash},
        "marker": {"size": 9},
    }
