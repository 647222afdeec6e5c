"""Recognise dates in many notations, and numbers that count seconds, milliseconds or microseconds from 1970."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from fl.data.conversion import cut_to_microseconds, iso_instants
from fl.data.drafting.names import TIME
from fl.data.schema import EPOCH, MICROSECONDS, TimeUnit

TRIED_CELLS = 300
DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%b-%Y", "%d %b %Y", "%d%b%Y")
SHORT_DAYS = ("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%b-%y")
CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p", ":%H:%M:%S")
FORMATS = (
    *(day + clock for day in (*DAYS, *SHORT_DAYS) for clock in CLOCKS),
    *("%Y%m%d%H%M%S", "%Y%m%d %H:%M:%S", "%Y%m%dT%H%M%S", "%Y%m%d", "%d%m%Y"),
)
EPOCH_UNITS: tuple[TimeUnit, ...] = ("seconds", "milliseconds", "microseconds")
FIRST_US, LAST_US = 631_152_000_000_000, 2_208_988_800_000_000  # 1990-01-01 and 2040-01-01


@dataclass(frozen=True)
class Moment:
    """How cells write a date: `unit` and `format` as [time] has them; `origin` where 0 is a date.

    instants: int64[filled cells of the sample], microseconds.  others: formats that fit as well.
    """

    unit: TimeUnit
    format: str | None
    origin: dt.date | None
    instants: NDArray[np.int64] = field(repr=False)
    others: tuple[str, ...] = ()

    @property
    def ascends(self) -> bool:
        return bool((np.diff(self.instants) >= 0).all())


def moment_of(name: str, cells: NDArray[np.object_], numbers: NDArray[np.float64] | None) -> Moment | None:
    """How these filled cells write dates; None where they do not."""
    if len(cells) == 0:
        return None
    if numbers is not None:
        return _counted(name, numbers) or (_formatted(cells, ("%Y%m%d%H%M%S", "%Y%m%d")) if TIME.search(name) else None)
    return _iso(cells) or _formatted(cells, FORMATS)


def _counted(name: str, numbers: NDArray[np.float64]) -> Moment | None:
    """Numbers from 1970: between the years 1990 and 2040, ascending or with a name that speaks of time."""
    ascends = bool((np.diff(numbers) >= 0).all())
    for unit in EPOCH_UNITS:
        width = MICROSECONDS[unit]
        if numbers.min() * width >= FIRST_US and numbers.max() * width <= LAST_US:
            varied = float(numbers.max() - numbers.min()) * width >= MICROSECONDS["minutes"]
            if varied and (ascends or TIME.search(name)):
                return Moment(unit, None, EPOCH, np.rint(numbers * width).astype(np.int64))
    return None


def _iso(cells: NDArray[np.object_]) -> Moment | None:
    """ISO 8601, as `fl.data.conversion` reads it."""
    instants = iso_instants(cut_to_microseconds(pa.chunked_array([pa.array(cells, pa.string())])))
    return None if instants is None else Moment("datetime", None, None, instants)


def _formatted(cells: NDArray[np.object_], formats: tuple[str, ...]) -> Moment | None:
    """The format under which the cells ascend, or span the fewest days, of those that read all cells."""
    if not any(character.isdigit() for character in str(cells[0])):
        return None
    tried = pd.Series(cells[:: max(1, len(cells) // TRIED_CELLS)])
    fitting = [format for format in formats if _read(tried, format) is not None]
    read = {format: instants for format in fitting if (instants := _read(pd.Series(cells), format)) is not None}
    if not read:
        return None

    def fit(format: str) -> tuple[bool, int]:
        instants = read[format]
        return bool((np.diff(instants) >= 0).all()), -int(instants.max() - instants.min())

    best = max(read, key=fit)
    return Moment("datetime", best, None, read[best], tuple(other for other in read if other != best))


def _read(cells: pd.Series, format: str) -> NDArray[np.int64] | None:
    try:
        parsed = pd.to_datetime(cells, format=format, errors="raise")
    except (ValueError, OverflowError):
        return None
    if not parsed.dt.year.between(1900, 2100).all():
        return None
    instants: NDArray[np.int64] = parsed.to_numpy("datetime64[us]").astype(np.int64)
    return instants
