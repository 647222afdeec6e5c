"""The report's plots, as SVG text: vector graphics that a browser shows without a script and without the network.

Each function takes results and gives one figure, or None where the run holds nothing to show. Figures differ in the
salt of their identifiers, so that several can stand in one page.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib

matplotlib.use("svg")  # no display is needed, nor asked for

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.meter import STAGES
from benchmarks.results import Measurement, Results
from benchmarks.tables import averages, headline, of_family

COLOURS = {
    "plain": "#7f7f7f",
    "secagg": "#1b6ca8",
    "stock": "#c8553d",
    "flower": "#8a6fb3",
}
STAGE_COLOURS = dict(
    zip((*STAGES, "rest"), [matplotlib.colormaps["tab20"](i) for i in range(len(STAGES) + 1)], strict=True)
)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and uses the page's font
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "both",
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}
MARKERS = "osD^vPX*"


def cost_against_size(results: Results) -> str | None:
    """Client and server time per million values against the length, at the headline's clients and bits."""
    _, clients, bits = headline(results)
    series = _series(results, lambda m: m.workload.point[1:] == (clients, bits), lambda m: m.workload.length)
    if not series:
        return None
    figure, axes = _figure(9.5, 3.8, 2)
    for axis, metric, what in ((axes[0], "client", "client"), (axes[1], "server", "server, per contribution")):
        for index, (name, points) in enumerate(series.items()):
            x = [m.workload.length for m in points]
            y = [_median(m, metric) * 1000 / (m.workload.length / 1e6) for m in points]
            axis.loglog(x, y, marker=MARKERS[index % len(MARKERS)], color=_colour(points[0]), label=name)
        axis.set_xlabel("values per update")
        axis.set_ylabel("ms per million values")
        axis.set_title(what)
    axes[1].legend(fontsize=8, frameon=False)
    return _svg(figure, "size")


def cost_against_clients(results: Results) -> str | None:
    """Time per contribution against the number of clients."""
    lengths = {m.workload.length for m in results.measurements if m.family == "secagg"}
    best: dict[str, list[Measurement]] = {}
    for length in lengths:
        found = _series(
            results,
            lambda m, length=length: m.workload.length == length and m.workload.value_bits == 16,
            lambda m: m.workload.clients,
        )
        if sum(map(len, found.values())) > sum(map(len, best.values())):
            best = found
    if not best:
        return None
    figure, axes = _figure(9.5, 3.8, 2)
    for axis, metric, what in ((axes[0], "client", "client"), (axes[1], "server", "server, per contribution")):
        for index, (name, points) in enumerate(best.items()):
            x = [m.workload.clients for m in points]
            y = [_median(m, metric) * 1000 for m in points]
            axis.loglog(x, y, marker=MARKERS[index % len(MARKERS)], color=_colour(points[0]), label=name)
        axis.set_xlabel(f"clients ({next(iter(best.values()))[0].workload.length:,} values)")
        axis.set_ylabel("ms")
        axis.set_title(what)
    axes[1].legend(fontsize=8, frameon=False)
    return _svg(figure, "clients")


def stage_breakdown(results: Results) -> str | None:
    """What a contribution costs at client and server, by stage; once more without SEAL, where some cases use it."""
    cases = [m for m in averages(results, headline(results)) if m.status == "ok"]
    fast = [m for m in cases if m.family != "stock" and m.parameters.get("engine") != "seal"]
    if not cases:
        return None
    panels = [(cases, "all cases")] + ([(fast, "without SEAL's encryption")] if 0 < len(fast) < len(cases) else [])
    figure, axes = _figure(5 * len(panels), 0.9 + 0.42 * len(cases), len(panels))
    used: dict[str, Any] = {}
    for axis, (chosen, title) in zip(axes, panels, strict=True):
        for row, m in enumerate(chosen):
            left = 0.0
            for stage, milliseconds in _per_contribution(m):
                bar = axis.barh(row, milliseconds, left=left, color=STAGE_COLOURS[stage], height=0.7)
                used.setdefault(stage, bar[0])
                left += milliseconds
        axis.set_yticks(range(len(chosen)), [m.case for m in chosen], fontsize=8)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("ms per contribution, client and server")
        axis.set_title(title)
    ordered = [name for name in STAGE_COLOURS if name in used]
    figure.legend([used[name] for name in ordered], ordered, loc="outside lower center", ncols=6, fontsize=8)
    return _svg(figure, "stages")


def bytes_per_value(results: Results) -> str | None:
    """Bytes on the wire per value, by case."""
    cases = [m for m in averages(results, headline(results)) if m.bytes_per_value is not None]
    if not cases:
        return None
    figure, axes = _figure(7, 0.8 + 0.34 * len(cases), 1)
    sizes = [m.bytes_per_value or 0.0 for m in cases]
    axes[0].barh([m.case for m in cases], sizes, color=[_colour(m) for m in cases])
    for row, size in enumerate(sizes):
        axes[0].text(size, row, f" {size:.2f}", va="center", fontsize=8)
    axes[0].invert_yaxis()
    axes[0].grid(axis="y", visible=False)
    axes[0].set_xlabel("bytes per value of one contribution (float32 alone: 4)")
    return _svg(figure, "bytes")


def round_overhead(results: Results) -> str | None:
    """Whole rounds: training and aggregation, all parties one after the other."""
    rounds = [m for m in of_family(results, "round") if m.status == "ok"]
    if not rounds:
        return None
    models = list(dict.fromkeys(m.workload.length for m in rounds))
    figure, axes = _figure(4.8 * len(models), 3.0, len(models))
    for axis, length in zip(axes, models, strict=True):
        chosen = [m for m in rounds if m.workload.length == length]
        train = [_median(m, "train") * m.workload.clients for m in chosen]
        rest = [_median(m, "round") - spent for m, spent in zip(chosen, train, strict=True)]
        names = ["encrypted, masked" if m.ours else "plain" for m in chosen]
        axis.barh(names, train, color="#b9c4cc", label="local training")
        axis.barh(names, rest, left=train, color=COLOURS["secagg"], label="set-up and aggregation")
        for row, (spent, more) in enumerate(zip(train, rest, strict=True)):
            axis.text(spent + more, row, f" {more / (spent + more):.1%}", va="center", fontsize=9)
        axis.set_title(f"{chosen[0].label.split(',')[1].strip()},\n{length:,} values")
        axis.set_xlabel(f"seconds, all {chosen[0].workload.clients} clients one after the other")
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.18)
    axes[0].legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.32), ncols=2)
    return _svg(figure, "rounds")


def precision_against_bytes(results: Results) -> str | None:
    """Largest error of the average against bytes per value; the project's points by value bits."""
    length, clients, _ = headline(results)
    chosen = [
        m
        for m in results.measurements
        if m.status == "ok"
        and m.workload.length == length
        and m.workload.clients == clients
        and m.family in COLOURS
        and m.bytes_per_value is not None
        and (m.family != "secagg" or m.parameters.get("masking"))
    ]
    if len(chosen) < 2:
        return None
    figure, axes = _figure(7, 4.2, 1)
    seen: set[str] = set()
    own = sorted(_one_engine(chosen), key=lambda m: m.workload.value_bits)
    for m in [m for m in chosen if m.family != "secagg"] + own:
        axes[0].loglog(
            m.bytes_per_value or 1,
            m.largest_error or 1e-12,
            marker={"plain": "s", "stock": "^", "flower": "D", "secagg": "o"}[m.family],
            linestyle="",
            color=_colour(m),
        )
        text = {"secagg": str(m.workload.value_bits), "plain": "plain float32"}.get(m.family, m.case)
        if text not in seen:
            axes[0].annotate(
                text,
                (m.bytes_per_value or 1, m.largest_error or 1e-12),
                xytext=(6, 4),
                textcoords="offset points",
                fontsize=8,
            )
        seen.add(text)
    axes[0].margins(0.15)
    axes[0].set_xlabel("bytes per value of one contribution")
    axes[0].set_ylabel("largest error of the average (values in -1 .. 1)")
    axes[0].set_title("numbers: value bits of this project's plans")
    return _svg(figure, "precision")


def _one_engine(chosen: Sequence[Measurement]) -> list[Measurement]:
    """The points of the engine that was swept over value bits; precision and bytes are the same for all engines."""
    own = [m for m in chosen if m.family == "secagg"]
    counts = {m.case: sum(other.case == m.case for other in own) for m in own}
    best = max(counts, key=lambda case: counts[case], default="")
    return [m for m in own if m.case == best]


def _per_contribution(m: Measurement) -> Iterable[tuple[str, float]]:
    """(stage, ms per contribution) of client and server, in the order of the stages."""
    sums: dict[str, float] = {}
    for name, (found, _) in m.stages().items():
        phase, stage = name.split("/")
        if phase in ("client", "server"):
            per = m.workload.fresh if phase == "client" else m.workload.clients
            sums[stage] = sums.get(stage, 0.0) + found.median * 1000 / per
    return [(stage, sums[stage]) for stage in STAGE_COLOURS if sums.get(stage)]


def _series(results: Results, keep: Any, coordinate: Any) -> dict[str, list[Measurement]]:
    """Cases with at least two points along a coordinate."""
    series: dict[str, list[Measurement]] = {}
    for m in results.measurements:
        if m.status == "ok" and m.family in COLOURS and keep(m):
            series.setdefault(m.case, []).append(m)
    return {name: sorted(points, key=coordinate) for name, points in series.items() if len(points) > 1}


def _median(m: Measurement, metric: str) -> float:
    found = m.spread(metric)
    return found.median if found is not None else 0.0


def _colour(m: Measurement) -> str:
    return COLOURS.get(m.family, "#444444")


def _figure(width: float, height: float, columns: int) -> tuple[Figure, list[Any]]:
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", squeeze=False)
    return figure, list(axes[0])


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an <svg> element; the same results give the same text."""
    text = io.StringIO()
    with plt.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(figure)
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
