"""What a schema says of derived columns: numbers that are computed from several columns of the same row.

A model of numbers alone does not see that two times lie close together or that a payment was made far from home. One
line of the schema's [derived] table makes such a number a feature. `fl.data.deriving` computes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

from fl import options
from fl.data.constants import BOUND, ConstantsFrom
from fl.errors import SchemaError

DerivedKind = Literal["difference", "log_ratio", "distance", "equal", "ratio_to_mean"]
KINDS_OF_DERIVED: tuple[DerivedKind, ...] = get_args(DerivedKind)
SOURCES = {  # columns that each kind is computed from
    "difference": ("a time", "an earlier time"),
    "log_ratio": ("a number", "the number that it is divided by"),
    "distance": ("latitude or x", "longitude or y", "latitude or x of the other place", "longitude or y of it"),
    "equal": ("a column", "the column that it is compared with"),
    "ratio_to_mean": ("a number", "a category"),
}
Plane = Literal["degrees", "plane"]
Monotone = Literal["up", "down"]  # the direction in which a larger value may move the score of trees


@dataclass(frozen=True)
class DerivedColumn:
    """One derived column, called `name`.

    `difference`: seconds between two times, the first minus the second. `log_ratio`: natural log of the first number
    over the second, both above 0. `distance`: between two places, in kilometres along the sphere for `degrees`, in the
    columns' own unit for `plane`. `equal`: 1 where two cells hold the same text, else 0. `ratio_to_mean`: log of one
    plus the number, minus the mean of these logs in the row's category.

    Every kind but `equal` also has a 0/1 column that marks rows in which a value is missing. `center` and `scale`:
    only with `constants` "given"; of the transformed value, whose transform is a signed log for `difference` and
    `distance`, and none for the others.
    """

    name: Annotated[str, options.COLUMN]
    kind: DerivedKind
    columns: Annotated[tuple[str, ...], options.Listed(options.COLUMN)]
    constants: ConstantsFrom = "shared"
    center: Annotated[float, options.CENTER] = 0.0
    scale: Annotated[float, options.SCALE] = 1.0
    bound: Annotated[float, options.BOUND] = BOUND
    unit: Plane = "degrees"  # of a distance
    monotone: Monotone | None = field(default=None, repr=False)  # as of a numeric column

    def __post_init__(self) -> None:
        where = f"[derived] {self.name!r}"
        options.check(self, SchemaError, f"{where} ")
        wanted = SOURCES[self.kind]
        if len(self.columns) != len(wanted) or len(set(self.columns)) != len(wanted):
            raise SchemaError(
                f"{where} {self.kind}: expected {len(wanted)} different columns ({', '.join(wanted)}), got "
                f"{list(self.columns)}"
            )
        if self.kind == "ratio_to_mean" and self.constants == "given":
            raise SchemaError(
                f'{where} ratio_to_mean: expected constants = "shared" or "bank", because the means are computed from '
                'rows, got "given"'
            )

    @property
    def is_scaled(self) -> bool:
        """Whether the column has constants: 0 and 1 have none."""
        return self.kind != "equal"

    @property
    def transform(self) -> Literal["identity", "signed_log1p"]:
        return "signed_log1p" if self.kind in ("difference", "distance") else "identity"
