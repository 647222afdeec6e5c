"""What reports call the rows of a test and whom they are about: a schema without days has no "test days".

`fl.data.schema.Schema.words` makes a `Words` of a schema. A run keeps it in result.json, so that a table of the run
needs no schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """`days`: time measures days, and the data span days. `cards`: the schema names customers."""

    days: bool = True
    cards: bool = True

    @classmethod
    def of(cls, kept: Mapping[str, object] | None) -> Words:
        """The words of a result.json; None: of a run before there were any, whose tables spoke of days and cards."""
        return cls() if kept is None else cls(days=bool(kept.get("days", True)), cards=bool(kept.get("cards", True)))

    @property
    def test(self) -> str:
        return "test days" if self.days else "test rows"

    @property
    def training(self) -> str:
        return "training days" if self.days else "training rows"

    @property
    def validation(self) -> str:
        """Whose rows choose a threshold."""
        return "validation customers" if self.cards else "validation rows"

    @property
    def checked(self) -> str:
        """What investigators check: cards, or single transactions where nobody is named."""
        return "cards" if self.cards else "transactions"

    @property
    def heading(self) -> str:
        """The column of `precision_at` in a table."""
        return "cards" if self.cards else "top"

    def precision_at(self, top: int, *, short: bool = False) -> str:
        """The name of the share of frauds among the `top` most suspicious. short: without "per day"."""
        name = f"{'card ' if self.cards else ''}precision@{top}"
        return f"{name} per day" if self.days and not short else name
