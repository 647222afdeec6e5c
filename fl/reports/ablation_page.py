"""An ablation as one HTML file: what each component is worth, with its interval, and the privacy-utility curve.

What it leaves to others: figures (`fl.reports.ablation`), the file around it (`fl.reports.examination.html`).
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from fl.durable import replace_durably
from fl.reports.examination.html import document, figure, paragraph, table
from fl.reports.examination.plots import OTHER, OWN, Plot, plot

TITLE = "What each component is worth"


def write_page(result: dict[str, Any], path: Path) -> None:
    """Write the result of an ablation as a page to `path`, whole or not at all."""
    replace_durably(path, document(TITLE, body(result)).encode())


def body(result: dict[str, Any]) -> str:
    """The page's content."""
    config, seeds = result["config"], result["seeds"]
    percent = f"{100 * result['confidence']:g} %"
    about = (
        f"{config['rounds']} rounds on {config['data']['source'].rsplit('/', 1)[-1]}, algorithm "
        f"{config['algorithm']['name']}, seeds {', '.join(map(str, seeds))}. Each cell was trained by itself; "
        f"differences are taken between runs of the same seed, n = {len(seeds)}, with a {percent} t-interval of "
        "their mean."
    )
    note = (
        "A component is worth what the whole run has and the run without it has not. With so few seeds intervals "
        "are wide: where one holds zero, this ablation does not tell. The last column corrects for "
        f"{result['comparisons']} comparisons at once. Under differential privacy a part of every difference is the "
        "draw of the noise, which is never seeded."
    )
    parts = [
        f'<h1>{escape(TITLE)}</h1>\n<p class="meta">{escape(about)}</p>',
        paragraph(note),
        _worth_table(result),
        figure(
            [worth(result)],
            f"Average precision that each component adds, with its {percent} interval; left of zero it costs accuracy.",
            "worth",
        ),
        "<h2>What it costs</h2>",
        _cost_table(result),
        paragraph(
            f"Masks have no switch: they cancel exactly. Of the whole run they take {result['mask_seconds']:.2f} s, "
            "all banks and rounds together.",
            "small",
        ),
    ]
    if result["curve"]:
        parts += [
            "<h2>Accuracy against privacy</h2>",
            figure(
                [curve(result)],
                "Each dot is a run, the line their mean. The right end is the run without differential privacy.",
                "curve",
            ),
        ]
    return "\n".join(parts)


def _worth_table(result: dict[str, Any]) -> str:
    heads = ("run", "n", "average precision", "component is worth", "interval", "tells")
    rows = []
    for row in result["variants"]:
        figures = row["average_precision"]
        gained = figures["worth"]
        cells = [f"{row['name']}: {row['what']}", str(row["n"]), f"{figures['mean']:.3f}"]
        if gained is None:
            cells += ["", "", ""]
        else:
            known = gained["low"] is not None
            interval = f"{gained['low']:+.3f} to {gained['high']:+.3f}" if known else "-"
            cells += [f"{gained['mean']:+.3f}", interval, "yes" if gained["certain"] else "no"]
        rows.append(("own" if gained is None else "", cells))
    return table(heads, rows)


def _cost_table(result: dict[str, Any]) -> str:
    heads = ("run", "sent per bank, kB", "training, s", "aggregation, s", "error of an average", "epsilon spent")
    rows = [
        (
            "",
            [
                row["name"],
                f"{row['bytes_up_per_bank'] / 1000:,.1f}",
                f"{row['train_seconds']:.1f}",
                f"{row['aggregate_seconds']:.1f}",
                f"{row['largest_average_error']:.1e}",
                "none kept" if row["epsilon"] is None else f"{row['epsilon']:.2f}",
            ],
        )
        for row in result["variants"]
    ]
    return table(heads, rows)


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
