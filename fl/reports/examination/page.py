"""A report (`report.py`) as one HTML page, to be read from top to bottom and without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from fl.durable import replace_durably
from fl.reports.examination import plots
from fl.reports.examination.findings import percent
from fl.reports.html import rendered

TITLE = "Examination of a fraud model"


def write_page(report: dict[str, Any], path: Path) -> None:
    """Write `report` as a page to `path`, whole or not at all."""
    replace_durably(path, page(report).encode())


def page(report: dict[str, Any]) -> str:
    """The whole file."""
    return rendered(
        "examination.html.j2", title=TITLE, report=report, plots=plots, percent=percent, plotly=get_plotlyjs()
    )
