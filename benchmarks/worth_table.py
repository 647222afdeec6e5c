"""Figures of `benchmarks.private_worth` as tables: means over draws and weeks, and how far both reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

Cells = Sequence[Mapping[str, Any]]
Place = tuple[int, str, str, float | None]  # shift, law, noise, epsilon


@dataclass(frozen=True)
class Worth:
    """One figure at one epsilon: average precision over the test weeks, by draws."""

    shift: int
    law: str
    noise: str
    epsilon: float | None  # None: no noise at all
    figure: str
    draws: int
    mean: float
    error: float | None  # standard error of the mean over draws; None for fewer than two
    deviation: float | None  # standard deviation of one draw
    draws_range: tuple[float, float]  # of the means over weeks
    weeks_range: tuple[float, float]  # of the means over draws


def summary(cells: Cells) -> list[Worth]:
    """Every figure of every place, in the order of the files."""
    found: dict[tuple[Place, str], list[Sequence[float]]] = {}
    for cell in cells:
        for figure, weeks in cell["figures"].items():
            found.setdefault((_place(cell), figure), []).append(weeks)
    return [_worth(place, figure, draws) for (place, figure), draws in found.items()]


def as_json(cells: Cells) -> dict[str, Any]:
    """The summary, and what each epsilon costs and protects."""
    privacy = {
        " ".join(str(each) for each in _place(cell)): cell["privacy"] for cell in cells if cell["epsilon"] is not None
    }
    return {"worth": [asdict(each) for each in summary(cells)], "privacy": privacy}


def show(cells: Cells, console: Console | None = None) -> None:
    """The tables on stdout: one for each shift, law and kind of noise, with a column for each epsilon."""
    console = console or Console(markup=False, emoji=False)
    every = summary(cells)
    groups: dict[tuple[int, str, str], list[Worth]] = {}
    for each in every:
        groups.setdefault((each.shift, each.law, each.noise), []).append(each)
    for shift, law, noise in sorted(groups):
        members = groups[shift, law, noise]
        if all(each.epsilon is None for each in members):
            continue
        epsilons = sorted({each.epsilon for each in members if each.epsilon is not None})
        title = f"average precision; {law} counts, {noise} noise" + (f", days shifted by {shift}" if shift else "")
        table = Table(title=title)
        table.add_column("figure")
        for epsilon in epsilons:
            table.add_column(f"epsilon {epsilon:g}", justify="right")
        for figure in dict.fromkeys(each.figure for each in members if each.epsilon is not None):
            by_epsilon = {each.epsilon: each for each in members if each.figure == figure}
            table.add_row(figure, *(told(by_epsilon.get(epsilon)) for epsilon in epsilons))
        for name, of in PROTECTION:
            values = [_protection(cells, (shift, law, noise, epsilon)) for epsilon in epsilons]
            table.add_row(name, *(f"{100 * of(value):.2f} %" for value in values))
        console.print(table)
    baselines = [each for each in every if each.epsilon is None]
    for shift in sorted({each.shift for each in baselines}):
        table = Table(title="average precision without noise" + (f", days shifted by {shift}" if shift else ""))
        table.add_column("figure")
        table.add_column("mean [weeks]", justify="right")
        for each in baselines:
            if each.shift == shift:
                table.add_row(each.figure, told(each))
        console.print(table)
    console.print("mean ± standard error of the mean over draws {draws}, [least and largest week, each over all draws]")


def told(worth: Worth | None) -> str:
    """One figure: .571 ± .002 {20} [.55 .60]."""
    if worth is None:
        return "-"
    low, high = (_short(each) for each in worth.weeks_range)
    error = "" if worth.error is None else f" ± {_short(worth.error)}"
    count = "" if worth.epsilon is None else f" {{{worth.draws}}}"
    return f"{_short(worth.mean)}{error}{count} [{low} {high}]"


PROTECTION = (
    ("attack accuracy", lambda found: found["attack_accuracy"]),
    ("highest posterior", lambda found: found["highest_posterior"]),
    ("attack accuracy, several frauds of one card", lambda found: found["accuracy_for_frauds"]),
)


def _protection(cells: Cells, place: Place) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(cell["privacy"]["protection"] for cell in cells if _place(cell) == place)
    return found


def _place(cell: Mapping[str, Any]) -> Place:
    return cell["shift"], cell["law"], cell["noise"], cell["epsilon"]


def _worth(place: Place, figure: str, draws: Sequence[Sequence[float]]) -> Worth:
    means = [fmean(weeks) for weeks in draws]
    deviation = stdev(means) if len(means) > 1 else None
    error = None if deviation is None else deviation / math.sqrt(len(means))
    weeks = [fmean(week) for week in zip(*draws, strict=True)]
    shift, law, noise, epsilon = place
    return Worth(
        shift,
        law,
        noise,
        epsilon,
        figure,
        len(means),
        fmean(means),
        error,
        deviation,
        (min(means), max(means)),
        (min(weeks), max(weeks)),
    )


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
