"""State machines of the roles: a table of legal moves, and the process that may make them.

After h11: a role asks for the move first, does its checks and work, and enters the next state last; a call that raises
on the way leaves role and state as they were. Both ends ask whose process it is (`ownership.py`): a call in whose
middle somebody forks ends in one process only.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from secagg.errors import WrongState
from secagg.ownership import Owner

S = TypeVar("S", bound=Enum)


class Machine(Generic[S]):
    """The current state of one role, and its table {(state, move): next state}. role: its name, for messages."""

    def __init__(self, table: Mapping[tuple[S, str], S], start: S, role: str) -> None:
        self._table = table
        self._owner = Owner(role)
        self.state = start

    def require_own_process(self) -> None:
        """Raise `WrongState` in another process than the role's: for calls that are no moves."""
        self._owner.require()

    def require(self, move: str) -> S:
        """The state after `move`. Raises `WrongState`, naming what is possible now, or whose process the role is."""
        self._owner.require()
        following = self._table.get((self.state, move))
        if following is None:
            possible = sorted(name for state, name in self._table if state is self.state)
            raise WrongState(f"{move}: not possible while {self.state.value}; possible now: {', '.join(possible)}")
        return following

    def enter(self, state: S) -> None:
        """Be in `state` from now on. Raises `WrongState` in another process."""
        self._owner.require()
        self.state = state
