"""Suggest derived columns for a draft: what two columns of the same row say together and neither says alone.

A line that is likely to help and costs one or two inputs is written into the draft. A line that is a mere possibility
stands there as a comment. Nothing is suggested from a column that may be the label in disguise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fl.data.deriving import LATITUDE, LONGITUDE
from fl.data.drafting import names
from fl.data.drafting.looks import Look
from fl.toml import literal

LATITUDES, LONGITUDES = {"lat", "latitude", "breite", "y"}, {"lon", "lng", "long", "longitude", "laenge", "x"}
USUAL = {"avg", "average", "mean", "median", "typical", "usual", "limit", "balance", "listed", "list"}
MOST_EMPTY = 0.5  # of a date's cells: a date that most rows lack is known later than the transaction
MOST_WORDS = 300  # of a column that is compared with another one
IN_COMMON = 0.5  # of the words of the column with fewer words
MOST_OF_A_KIND = 4  # suggestions


@dataclass(frozen=True)
class Suggestion:
    """One line of [derived]: `name` and `entry` in TOML, and why. `sure`: written as it is; otherwise as a comment.

    `sources`: columns that it reads.
    """

    name: str
    entry: str
    reason: str
    sure: bool
    sources: tuple[str, ...]


def suggest_derived(
    columns: Sequence[Look], time: Look | None = None, amount: Look | None = None
) -> tuple[Suggestion, ...]:
    """Lines for [derived] from columns that may be inputs, second dates among them.

    `time`, `amount`: the columns with these roles, if there are any.
    """
    others = [look for look in columns if look is not time]
    found = [
        *_differences(others, time),
        *_distances(others),
        *_equalities(others),
        *_ratios(others, amount),
        *_ratios_to_means(others, amount),
    ]
    taken = {look.name for look in columns}
    return tuple(each for each in found if each.name.strip('"') not in taken)


def _entry(name: str, kind: str, *sources: str, reason: str, sure: bool, more: str = "") -> Suggestion:
    listed = literal(list(sources))
    return Suggestion(literal(name), f"{{ {kind} = {listed}{more} }}", reason, sure, sources)


def _differences(columns: Sequence[Look], time: Look | None) -> Iterable[Suggestion]:
    """The time of the transaction and every other date that is written alike."""
    if time is None or time.moment is None:
        return
    dates = [look for look in columns if look.moment is not None and look.empties <= MOST_EMPTY * look.rows]
    for look in dates[:MOST_OF_A_KIND]:
        assert look.moment is not None
        alike = (look.moment.format, look.moment.unit, look.moment.origin) == (
            time.moment.format,
            time.moment.unit,
            time.moment.origin,
        )
        reason = f"seconds from {look.name} to {time.name}"
        if not alike:
            reason += "; the two are written differently, so write one as the other first"
        yield _entry(f"{look.name}_TO_{time.name}", "difference", time.name, look.name, reason=reason, sure=alike)


def _distances(columns: Sequence[Look]) -> Iterable[Suggestion]:
    """Places are pairs of coordinates whose names differ in nothing else."""
    places: dict[tuple[str, ...], dict[str, Look]] = {}
    for look in columns:
        words = names.words_of(look.name)
        for axis, known in (("first", LATITUDES), ("second", LONGITUDES)):
            if look.numbers is not None and len(hits := [word for word in words if word in known]) == 1:
                places.setdefault(tuple(word for word in words if word != hits[0]), {})[axis] = look
    pairs = [(place, axes) for place, axes in places.items() if len(axes) == 2]
    for (one, axes), (other, others) in list(combinations(pairs, 2))[:MOST_OF_A_KIND]:
        used = (axes["first"], axes["second"], others["first"], others["second"])
        degrees = all(
            float(np.abs(look.numbers).max()) <= (LATITUDE if place % 2 == 0 else LONGITUDE)
            for place, look in enumerate(used)
            if look.numbers is not None
        )
        between = "_".join(["DISTANCE", *one, *other]).upper()
        more, unit = ("", "kilometres") if degrees else (', unit = "plane"', "the columns' own unit")
        yield _entry(
            between,
            "distance",
            *(look.name for look in used),
            reason=f"of the two places, in {unit}",
            sure=True,
            more=more,
        )


def _equalities(columns: Sequence[Look]) -> Iterable[Suggestion]:
    """Categories that have most of their words in common."""
    worded = [look for look in columns if look.numbers is None and look.complete and 3 <= len(look.words) <= MOST_WORDS]
    worded = [look for look in worded if look.moment is None and not look.is_text]
    pairs = []
    for one, other in combinations(worded, 2):
        common = len(set(one.words) & set(other.words)) / min(len(one.words), len(other.words))
        if common >= IN_COMMON:
            pairs.append((one, other))
    for one, other in pairs[:MOST_OF_A_KIND]:
        yield _entry(
            f"{one.name}_IS_{other.name}", "equal", one.name, other.name, reason="they have words in common", sure=True
        )


def _ratios(columns: Sequence[Look], amount: Look | None) -> Iterable[Suggestion]:
    """The amount over a column that says what is usual."""
    if amount is None or amount.numbers is None or not (amount.numbers > 0).mean() > 0.99:
        return
    usual = [look for look in columns if look.numbers is not None and look is not amount and _is_usual(look)]
    for look in usual[:MOST_OF_A_KIND]:
        yield _entry(
            f"{amount.name}_OVER_{look.name}",
            "log_ratio",
            amount.name,
            look.name,
            reason="log of the ratio",
            sure=False,
        )


def _is_usual(look: Look) -> bool:
    assert look.numbers is not None
    return bool(set(names.words_of(look.name)) & USUAL) and bool((look.numbers > 0).mean() > 0.9)


def _ratios_to_means(columns: Sequence[Look], amount: Look | None) -> Iterable[Suggestion]:
    """The amount against what is usual in a category."""
    if amount is None:
        return
    described = [
        look
        for look in columns
        if look.numbers is None
        and look.complete
        and 2 <= len(look.words) <= 24
        and set(names.words_of(look.name)) & names.DESCRIPTION_WORDS
    ]
    for look in described[:MOST_OF_A_KIND]:
        yield _entry(
            f"{amount.name}_IN_{look.name}",
            "ratio_to_mean",
            amount.name,
            look.name,
            reason="log of the amount over what is usual in the category; the category needs a vocabulary",
            sure=False,
        )
