"""Where the scaling constants of a column come from, what they are once they are known, and how TOML holds them.

A column of numbers enters the model as (transform(value) - center) / scale, clipped to +-bound. The schema says for
each column where centre and scale come from (`ConstantsFrom`):

- "given": the schema names them. They must be public.
- "shared": the banks compute them together, in one secure round, before they train (`fl.counts.shared_constants`).
  Every bank then has the same ones.
- "bank": every bank computes them from its own training rows, and they stay there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fl import options
from fl.errors import SchemaError
from fl.toml import literal

ConstantsFrom = Literal["given", "shared", "bank"]
BOUND = 10.0  # of a column whose constants are computed, if the schema names no bound for it


@dataclass(frozen=True)
class Constant:
    """The constants of one column: `center` and `scale` are of the transformed value.

    `means`: of a ratio to the mean of a category: the mean of the transformed number by word; `rest`: of all other
    words. Both are used before `center` and `scale`.
    """

    column: Annotated[str, options.COLUMN]
    center: Annotated[float, options.CENTER]
    scale: Annotated[float, options.SCALE]
    means: Mapping[str, float] = field(default_factory=dict, repr=False)
    rest: Annotated[float, options.CENTER] = 0.0

    def __post_init__(self) -> None:
        where = f"[constants] {self.column!r} "
        options.check(self, SchemaError, where)
        for word, mean in self.means.items():
            try:
                options.CELL.of(word), options.CENTER.of(mean)
            except options.Refused as fault:
                raise SchemaError(f"{where}means: {fault}") from None


def require_no_given(source: str, where: str, *given: str) -> None:
    """Refuse constants that a column names although it says that they are computed. Raises `SchemaError`."""
    if source != "given" and given:
        raise SchemaError(
            f'{where}: expected no {" and no ".join(given)} beside constants = "{source}", which computes them; '
            "remove one of the two"
        )


def line_of(constant: Constant) -> str:
    """The constant in TOML, as an entry of the schema's [constants]."""
    return f"{literal(constant.column)} = {{ {', '.join(_parts(constant))} }}\n"


def table_of(constant: Constant) -> str:
    """The same entry as a table of its own, which may stand anywhere."""
    return "\n".join(["", f"[constants.{literal(constant.column)}]", *_parts(constant), ""])


def _parts(constant: Constant) -> list[str]:
    parts = [f"center = {literal(constant.center)}", f"scale = {literal(constant.scale)}"]
    if constant.means:
        means = ", ".join(f"{literal(word)} = {literal(mean)}" for word, mean in constant.means.items())
        parts += [f"rest = {literal(constant.rest)}", f"means = {{ {means} }}"]
    return parts
