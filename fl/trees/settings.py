"""What a federation of trees agrees on before its first round: columns, settings, how many banks, and for what."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fl import options
from fl.errors import TreesError

MOST_CATEGORIES = 4096  # of a column
MOST_ROWS = 2**22  # of one bank


@dataclass(frozen=True)
class Column:
    """A column of the rows. `categories`: 0 of a column of numbers; else its values are the integers below it.

    `monotone`: 1 where a higher number may only raise the score, -1 where it may only lower it, 0 for neither.
    """

    name: Annotated[str, options.COLUMN]
    categories: Annotated[int, options.Whole(0, MOST_CATEGORIES, "categories; 0: numbers")] = 0
    monotone: Annotated[int, options.Whole(-1, 1, "direction")] = 0

    def __post_init__(self) -> None:
        options.check(self, TreesError, f"column {self.name!r:.60}: ")
        if self.categories and self.monotone:
            raise TreesError(f"column {self.name!r}: categories have no order, and monotone is {self.monotone}: set 0")


@dataclass(frozen=True)
class TreeSettings:
    """How trees grow. The figures of docs/adr/0032-trees.md were measured with the defaults.

    `rate`: share of a leaf's step that is taken. `penalty`: lambda of Chen and Guestrin, XGBoost (KDD 2016), equation
    5. `class_weight`: of a fraud, against 1 of a genuine row; a power of two, so that weighing rounds nothing.
    `least_hessian`, `least_rows`, `least_gain`: of a split. `row_share`, `column_share`: drawn for each tree.
    `patience`: trees without a lower validation loss after which training stops, and the trees after the lowest are
    left out; 0: never, and validation rows are not looked at. `category_penalty`, `category_smoothing` and
    `most_categories`: of a split by categories, as in LightGBM (Ke et al., NIPS 2017). `seed`: public; it draws rows
    and columns, nothing else.
    """

    trees: Annotated[int, options.TREES] = 50
    depth: Annotated[int, options.TREE_DEPTH] = 4
    rate: Annotated[float, options.TREE_RATE] = 0.2
    penalty: Annotated[float, options.TREE_PENALTY] = 5.0
    bins: Annotated[int, options.BINS] = 64
    class_weight: Annotated[int, options.CLASS_WEIGHT] = 1
    least_hessian: Annotated[float, options.LEAST_HESSIAN] = 1.0
    least_rows: Annotated[int, options.LEAST_ROWS] = 1
    least_gain: Annotated[float, options.LEAST_GAIN] = 0.0
    row_share: Annotated[float, options.DRAWN_SHARE] = 1.0
    column_share: Annotated[float, options.DRAWN_SHARE] = 1.0
    patience: Annotated[int, options.PATIENCE] = 0
    category_penalty: Annotated[float, options.LEAST_GAIN] = 10.0
    category_smoothing: Annotated[float, options.TREE_PENALTY] = 10.0
    most_categories: Annotated[int, options.Whole(1, MOST_CATEGORIES, "categories of one side")] = 32
    seed: Annotated[int, options.SEED] = 0

    def __post_init__(self) -> None:
        options.check(self, TreesError)
        if self.class_weight & (self.class_weight - 1):
            raise TreesError(
                f"class_weight: expected a power of two, so that sums stay exact, got {self.class_weight}: "
                f"take {1 << (self.class_weight.bit_length() - 1)} or {1 << self.class_weight.bit_length()}"
            )

    @property
    def weight_bits(self) -> int:
        """log2 of the class weight."""
        return self.class_weight.bit_length() - 1


@dataclass(frozen=True)
class Terms:
    """All of it is public. `members`: banks, whose sums these are. `purpose`: SHA-256 of whatever else is agreed on,
    such as the schema and the run; 64 hexadecimal digits."""

    columns: tuple[Column, ...]
    settings: TreeSettings
    members: Annotated[int, options.BANKS]
    purpose: Annotated[str, options.Text("64 hexadecimal digits")] = "0" * 64

    def __post_init__(self) -> None:
        options.check(self, TreesError, "terms: ")
        if not self.columns:
            raise TreesError("trees need at least one column, got none")
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names):
            raise TreesError(f"columns: expected different names, got {', '.join(names)}")
        if len(self.purpose) != 64 or not set(self.purpose) <= set("0123456789abcdef"):
            raise TreesError(f"purpose: expected 64 hexadecimal digits, got {self.purpose!r:.80}")

    @property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).digest()

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> Terms:
        """Terms that a stranger wrote. Raises `TreesError`."""
        try:
            fields = dict(content)
            columns = tuple(Column(**each) for each in fields.pop("columns"))
            return cls(columns, TreeSettings(**fields.pop("settings")), **fields)
        except (TypeError, ValueError, KeyError, AttributeError) as fault:
            raise TreesError(f"terms: expected columns, settings, members and purpose ({fault})") from fault
