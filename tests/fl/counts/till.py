"""Ledgers in memory, for tests of releases that are paid for."""

from __future__ import annotations

from dataclasses import dataclass, field

from fl.errors import BudgetExhausted, BudgetLedgerError


@dataclass
class Till:
    """Ledgers that have room for `room` releases."""

    room: int = 100
    held: list[str] = field(default_factory=list)

    def began(self, release: str) -> bool:
        return release in self.held

    def require_room(self, release: str | None) -> None:
        if release not in self.held and len(self.held) >= self.room:
            raise BudgetExhausted("no room")

    def pay(self, release: str) -> None:
        self.require_room(release)
        if release not in self.held:
            self.held.append(release)

    def require_paid(self, release: str | None) -> None:
        if release not in self.held:
            raise BudgetLedgerError("not paid")
