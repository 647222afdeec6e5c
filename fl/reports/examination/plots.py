"""The plots of a report's page, as plain Plotly specifications: {"data": [...], "layout": {...}}.

Every value comes from the report as it is, in its own unit; axes show shares as percentages. A plot without data is
None.
"""

from __future__ import annotations

from html import escape
from textwrap import wrap
from typing import Any

Plot = dict[str, Any]
OWN, OTHER, FRAUD, PALE, ALARM = "#1b6ca8", "#8b949e", "#c8553d", "#a9cbe4", "#b7791f"
FONT = {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": "#1d2329"}
LABEL_WIDTH = 24  # characters
GRID = {"gridcolor": "#e3e7eb", "zeroline": False, "linecolor": "#8b949e", "automargin": True}


def plot(data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], *, height: int = 340, **more: Any) -> Plot:
    """A specification in the page's one style; `x`, `y`: axes."""
    layout = {
        "height": height,
        "font": FONT,
        "margin": {"l": 60, "r": 20, "t": 34, "b": 50},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": {**GRID, **x},
        "yaxis": {**GRID, **y},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "hovermode": "closest",
        **more,
    }
    return {"data": data, "layout": layout}


def label(name: str) -> str:
    """A name from outside, escaped for Plotly, whose labels interpret <b>, <a> and entities."""
    return escape(name, quote=False)


def folded(name: str) -> str:
    """A label in lines of at most `LABEL_WIDTH` characters: a narrow page has no room for a long one."""
    return "<br>".join(label(line) for line in wrap(name, LABEL_WIDTH))


def _title(text: str) -> dict[str, Any]:
    return {"title": {"text": text}}


def models(comparison: dict[str, Any]) -> Plot | None:
    """Average precision of the model and of each baseline that ran."""
    rows = [row for row in reversed(comparison["models"]) if row["ran"]]
    colours = [OWN if row["name"] == "federated" else OTHER for row in rows]
    values = [row["average_precision"] for row in rows]
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [folded(row["what"]) for row in rows],
        "x": values,
        "marker": {"color": colours},
        "texttemplate": "%{x:.3f}",
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "%{y}: %{x:.4f}<extra></extra>",
    }
    axis = {**_title("average precision"), "rangemode": "tozero"}
    # The right margin holds the figure of the longest bar.
    margin = {"l": 60, "r": 56, "t": 34, "b": 50}
    return plot([bar], axis, {}, height=90 + 36 * len(rows), margin=margin)


def precision_recall(figures: dict[str, Any]) -> Plot:
    """Precision against recall, the threshold marked, and what chance would have."""
    curve, chance = figures["curves"]["precision_recall"], figures["fraud_share"]
    line = {
        "x": curve["recall"],
        "y": curve["precision"],
        "mode": "lines",
        "line": {"color": OWN, "width": 2},
        "name": "this model",
    }
    at = {
        "x": [figures["recall"]],
        "y": [figures["precision"]],
        "mode": "markers",
        "marker": {"color": FRAUD, "size": 11},
        "name": "at the threshold",
    }
    flat = {
        "x": [curve["recall"][0], curve["recall"][-1]],
        "y": [chance, chance],
        "mode": "lines",
        "line": {"color": OTHER, "dash": "dot"},
        "name": "chance",
    }
    return plot(
        [line, flat] if figures["precision"] is None else [line, at, flat],
        {**_title("share of frauds found (recall)"), "tickformat": ".0%"},
        {**_title("frauds among alerts (precision)"), "tickformat": ".0%", "rangemode": "tozero"},
    )


def scores(figures: dict[str, Any]) -> Plot:
    """How many frauds and others have which score; counts on a logarithmic axis."""
    scores = figures["curves"]["scores"]
    bars = [
        {
            "type": "bar",
            "x": scores["edges"][:-1],
            "y": scores[kind],
            "name": kind,
            "marker": {"color": colour},
            "offset": 0,
            "width": scores["edges"][1],
            "opacity": 0.75,
        }
        for kind, colour in (("others", PALE), ("frauds", FRAUD))
    ]
    line = {
        "type": "line",
        "x0": figures["threshold"],
        "x1": figures["threshold"],
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": "#1d2329", "dash": "dash", "width": 1},
    }
    return plot(
        bars, _title("score"), {**_title("transactions"), "type": "log"}, barmode="overlay", shapes=[line], bargap=0
    )


def reliability(calibration: dict[str, Any]) -> Plot:
    """Share of frauds against mean score, as it is and corrected; a good probability lies on the diagonal."""
    data: list[dict[str, Any]] = []
    for key, name, colour in (("as_is", "score as it is", OTHER), ("corrected", "corrected", OWN)):
        rows = [row for row in calibration[key]["reliability"] if row["frauds"] and row["mean_score"] > 0]
        data.append(
            {
                "x": [row["mean_score"] for row in rows],
                "y": [row["fraud_share"] for row in rows],
                "customdata": [[row["low"], row["high"], row["rows"]] for row in rows],
                "hovertemplate": "mean score %{x:.2%}<br>frauds %{y:.2%} (%{customdata[0]:.2%} to %{customdata[1]:.2%})"
                "<br>%{customdata[2]:,} rows<extra>" + name + "</extra>",
                "mode": "lines+markers",
                "name": name,
                "line": {"color": colour},
                "marker": {"size": 8},
            }
        )
    ends = [1e-4, 1]
    data.append({"x": ends, "y": ends, "mode": "lines", "name": "ideal", "line": {"color": "#1d2329", "dash": "dot"}})
    axis = {"type": "log", "range": [-4, 0.05], "tickformat": "~p"}
    return plot(data, {**_title("mean score"), **axis}, {**_title("share of frauds"), **axis}, height=400)


def waiting(timeliness: dict[str, Any]) -> Plot | None:
    """Share of compromised parties with an alert, by days since their first fraud."""
    if not timeliness["available"]:
        return None
    data = [
        {
            "x": [row["days"] for row in timeliness[party]["within"]],
            "y": [row["share"] for row in timeliness[party]["within"]],
            "customdata": [[row["alerted"], row["followed"]] for row in timeliness[party]["within"]],
            "hovertemplate": "%{x} days: %{y:.1%} (%{customdata[0]} of %{customdata[1]})<extra>" + party + "</extra>",
            "mode": "lines+markers",
            "name": party,
            "line": {"color": colour},
        }
        for party, colour in (("cards", OWN), ("terminals", FRAUD))
        if party in timeliness and timeliness[party]["within"]
    ]
    if not data:
        return None
    y = {**_title("with an alert"), "tickformat": ".0%", "range": [0, 1]}
    return plot(data, {**_title("days since the first fraud"), "dtick": 1}, y)


def stability(drift: dict[str, Any]) -> Plot | None:
    """PSI of the score and of every feature, by test day."""
    if not drift["available"]:
        return None
    names = sorted(drift["psi"], key=lambda name: drift["largest_psi"][name])
    heat = {
        "type": "heatmap",
        "x": drift["days"],
        "y": [label(name) for name in names],
        "z": [drift["psi"][name] for name in names],
        "zmin": 0,
        "zmax": 2 * drift["limits"]["psi"],
        "colorscale": [[0, "#f4f6f8"], [0.5, PALE], [0.5, "#f0b37e"], [1, FRAUD]],
        "colorbar": {"title": {"text": "PSI"}, "thickness": 14},
        "hovertemplate": "%{y}<br>%{x}: %{z:.3f}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    x = {"type": "category", "tickangle": -40, "nticks": 14}
    return plot([heat], x, {}, height=130 + 20 * len(names))


def days(drift: dict[str, Any]) -> Plot | None:
    """Mean score and share of frauds by test day, with the days on which something alarmed."""
    if not drift["available"]:
        return None
    data = [
        {
            "x": drift["days"],
            "y": drift[key],
            "mode": "lines+markers",
            "name": name,
            "line": {"color": colour},
        }
        for key, name, colour in (("mean_score", "mean score", OWN), ("fraud_share", "share of frauds", FRAUD))
    ]
    shown = sorted({alarm["day"] for alarm in drift["alarms"]} & set(drift["days"]))
    lines = [
        {
            "type": "line",
            "x0": day,
            "x1": day,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": ALARM, "dash": "dash"},
        }
        for day in shown
    ]
    x = {"type": "category", "tickangle": -40, "nticks": 14}
    return plot(data, x, {"tickformat": ".1%", "rangemode": "tozero"}, shapes=lines)


def groups(column: dict[str, Any]) -> Plot | None:
    """Recall of each group with its interval; small groups pale."""
    rows = [row for row in reversed(column["groups"]) if row["recall"] is not None]
    if not rows:
        return None
    dots = {
        "y": [label(row["group"]) for row in rows],
        "x": [row["recall"] for row in rows],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [row["recall_high"] - row["recall"] for row in rows],
            "arrayminus": [row["recall"] - row["recall_low"] for row in rows],
            "color": OTHER,
        },
        "mode": "markers",
        "marker": {"size": 10, "color": [PALE if row["small"] else OWN for row in rows]},
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
    }
    x = {**_title("share of frauds found"), "tickformat": ".0%", "range": [0, 1]}
    return plot([dots], x, {"type": "category"}, height=100 + 28 * len(rows))


def importance(explanations: dict[str, Any]) -> Plot:
    """Mean absolute SHAP value of each feature, over usual transactions and over alerts."""
    kinds = [("usual", "sampled transactions", OWN), ("alerts", "alerts", FRAUD)]
    shown = [kind for kind in kinds if explanations[kind[0]].get("rows") != 0]
    names = list(reversed(explanations[shown[-1][0]]["importance"]))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": [label(name) for name in names],
            "x": [explanations[key]["importance"][name] for name in names],
            "name": what,
            "marker": {"color": colour},
        }
        for key, what, colour in shown
    ]
    return plot(data, _title("mean |SHAP value|, logit"), {}, height=110 + 26 * len(names), barmode="group")


def by_bank(explanations: dict[str, Any]) -> Plot:
    """Mean absolute SHAP value by feature and bank."""
    names = list(reversed(explanations["usual"]["importance"]))
    banks = explanations["per_bank"]
    heat = {
        "type": "heatmap",
        "x": [label(bank["bank"]) for bank in banks],
        "y": [label(name) for name in names],
        "z": [[bank["importance"][name] for bank in banks] for name in names],
        "colorscale": [[0, "#f4f6f8"], [1, OWN]],
        "colorbar": {"title": {"text": "logit"}, "thickness": 14},
        "hovertemplate": "bank %{x}, %{y}: %{z:.3f}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    return plot([heat], {**_title("bank"), "type": "category"}, {}, height=130 + 20 * len(names))
