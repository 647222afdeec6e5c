"""Write an ablation as one HTML file: the value of each component with its interval, and the privacy-utility curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from fl.durable import replace_durably
from fl.reports.examination.plots import OTHER, OWN, Plot, plot
from fl.reports.html import rendered


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the result of an ablation as a page to `path`, whole or not at all."""
    page = rendered(
        "ablation.html.j2",
        title="What each component is worth",
        result=result,
        worth=worth(result),
        curve=curve(result),
        plotly=get_plotlyjs(),
    )
    replace_durably(path, page.encode())


def worth(result: dict[str, Any]) -> Plot:
    """Paired differences with their intervals."""
    rows = [row for row in reversed(result["variants"]) if row["average_precision"]["worth"] is not None]
    gained = [row["average_precision"]["worth"] for row in rows]
    known = [one["low"] is not None for one in gained]
    dots: dict[str, Any] = {
        "y": [row["name"].removeprefix("without ") for row in rows],
        "x": [one["mean"] for one in gained],
        "mode": "markers",
        "marker": {"size": 10, "color": [OWN if one["certain"] else OTHER for one in gained]},
        "hovertemplate": "%{y}: %{x:+.4f}<extra></extra>",
    }
    if all(known):
        dots["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": [one["high"] - one["mean"] for one in gained],
            "arrayminus": [one["mean"] - one["low"] for one in gained],
            "color": OTHER,
        }
    zero = {"zeroline": True, "zerolinecolor": "#1d2329", "title": {"text": "average precision gained"}}
    return plot([dots], zero, {"type": "category"}, height=100 + 32 * len(rows))


def curve(result: dict[str, Any]) -> Plot:
    """Average precision against epsilon; the run without privacy stands at the right end."""
    points = result["curve"]
    names = ["no privacy" if point["epsilon"] is None else f"{point['epsilon']:g}" for point in points]
    each = {
        "x": [name for name, point in zip(names, points, strict=True) for _ in point["per_seed"]],
        "y": [value for point in points for value in point["per_seed"]],
        "mode": "markers",
        "name": "one seed",
        "marker": {"color": OTHER, "size": 7},
    }
    mean = {
        "x": names,
        "y": [point["average_precision"] for point in points],
        "mode": "lines+markers",
        "name": "mean",
        "line": {"color": OWN},
        "marker": {"size": 9},
    }
    x = {"type": "category", "title": {"text": "epsilon of every bank"}}
    return plot([each, mean], x, {"title": {"text": "average precision"}, "rangemode": "tozero"})
