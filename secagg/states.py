"""State machines of the roles: a table of legal moves, and nothing else.

After h11: a role asks for the move first, does its checks and work, and enters the next state last; a call that raises
on the way leaves role and state as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from secagg.errors import WrongState

S = TypeVar("S", bound=Enum)


class Machine(Generic[S]):
    """The current state of one role, and its table {(state, move): next state}."""

    def __init__(self, table: Mapping[tuple[S, str], S], start: S) -> None:
        self._table = table
        self.state = start

    def require(self, move: str) -> S:
        """The state after `move`. Raises `WrongState`, naming what is possible now."""
        following = self._table.get((self.state, move))
        if following is None:
            possible = sorted(name for state, name in self._table if state is self.state)
            raise WrongState(f"{move}: not possible while {self.state.value}; possible now: {', '.join(possible)}")
        return following

    def enter(self, state: S) -> None:
        self.state = state
