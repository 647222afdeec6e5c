"""Compute the derived columns of a schema from the cells of a file: numbers that come from one row alone.

What a category's mean is, is not computed here: it is a constant (`fl.data.constants`). Here stands the logarithm that
it is taken from.

Source of the distance: the haversine formula (Sinnott, "Virtues of the Haversine", Sky and Telescope 68, 1984), on a
sphere of the Earth's mean radius.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fl.data.conversion import MISSING, Cells
from fl.data.derived_columns import DerivedColumn
from fl.data.schema import MICROSECONDS, Schema, TimeColumn
from fl.data.signed_log import signed_log1p

EARTH_KM = 6371.0088  # mean radius (IUGG)
LATITUDE, LONGITUDE = 90.0, 180.0  # largest degrees

Values = NDArray[np.float64]


def derived_values(cells: Cells, column: DerivedColumn, schema: Schema) -> Values:
    """float64[n]: the derived column of every row; NaN where a cell is empty, or a logarithm has no value.

    Raises `DataError` naming the cell that cannot be read.
    """
    match column.kind:
        case "difference":
            first, second = (_times(cells, source, schema) for source in column.columns)
            return (first - second) / MICROSECONDS["seconds"]
        case "log_ratio":
            over, under = (cells.numbers(source, missing=True) for source in column.columns)
            positive = (over > 0) & (under > 0)
            values = np.full(len(over), np.nan)
            values[positive] = np.log(over[positive]) - np.log(under[positive])
            return values
        case "distance":
            places = [cells.numbers(source, missing=True) for source in column.columns]
            if column.unit == "plane":
                return np.hypot(places[0] - places[2], places[1] - places[3])
            for values, source in zip(places, column.columns, strict=True):
                most = LATITUDE if source in column.columns[::2] else LONGITUDE
                advice = ', set unit = "plane" in the schema if these are no degrees'
                cells.refuse(source, np.abs(values) > most, f"degrees from -{most:g} to {most:g}", advice)
            return _kilometres(*places)
        case "equal":
            one, other = (cells.as_text(source) for source in column.columns)
            return np.asarray(pc.equal(one, other).to_numpy(), np.float64)
        case "ratio_to_mean":
            number = cells.numbers(column.columns[0], missing=True)
            return signed_log1p(number)


def _times(cells: Cells, column: str, schema: Schema) -> Values:
    """float64[n]: the column in microseconds, NaN in empty cells. It is written as the schema's time column is."""
    written = TimeColumn(column) if schema.time is None else replace(schema.time, column=column)
    if written.unit == "order":  # such a column measures nothing, and another one may
        written = TimeColumn(column)
    empty = np.asarray(pc.is_in(cells.as_text(column), value_set=pa.array(MISSING)).to_numpy(), bool)
    times = np.full(len(cells.index), np.nan)
    if not empty.all():
        times[~empty] = cells.where(~empty).times(written)
    return times


def _kilometres(latitude: Values, longitude: Values, other_latitude: Values, other_longitude: Values) -> Values:
    phi, other_phi = np.radians(latitude), np.radians(other_latitude)
    across = np.radians(other_longitude - longitude)
    square = np.sin((other_phi - phi) / 2) ** 2 + np.cos(phi) * np.cos(other_phi) * np.sin(across / 2) ** 2
    kilometres: Values = 2 * EARTH_KM * np.arcsin(np.sqrt(np.clip(square, 0.0, 1.0)))
    return kilometres
