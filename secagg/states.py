"""The states of the three roles, every legal move between them, and the machine that holds a role to its moves.

Theory of operation, after h11's `_state.py`. A round is driven by calls: the program that carries the messages calls a
role's methods, and each method that moves the round forward is a move of the role's table below. A move that the table
does not list for the present state raises `WrongState`, names the moves that are possible, and changes nothing. Every
role works in the same order:

1. `require(move)`: is the move legal now, and in this process? The answer is the state after it.
2. The checks of the message, the work, and writing what must be on disk before an answer (`ledger.py`, `journal.py`).
3. `enter(state)`, last. A call that raises on the way leaves role and state as they were; `KeyHolder.release` alone
   enters its state before it uses the key, because a sum that fails its checks must burn the step as well.

What the tables do not say: which round a message belongs to (`verification.py`), which steps may be opened or joined
(`ledger.py`, `journal.py`), and what a caller does with a round that never ends: it calls `abort`. A state says nothing
about other roles. The machine is not a lock: a role is for one thread at a time. It does detect a fork
(`ownership.py`): both ends of a move check the process, so a call during which the process forks ends in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from secagg.errors import WrongState
from secagg.ownership import Owner


class KeyHolderState(Enum):
    IDLE = "idle"
    OFFERED = "offered"
    CLOSED = "closed"
    SPENT = "spent"
    SEEDED = "seeded"
    JUDGED = "judged"


class ClientState(Enum):
    IDLE = "idle"
    JOINED = "joined"
    CONTRIBUTED = "contributed"
    SKETCHED = "sketched"


class AggregatorState(Enum):
    IDLE = "idle"
    COLLECTING = "collecting"
    GATHERING = "gathering"
    MULTIPLIED = "multiplied"
    TALLIED = "tallied"
    REGATHERING = "regathering"
    COMPARED = "compared"


KEY_HOLDER_MOVES = {
    (KeyHolderState.IDLE, "open"): KeyHolderState.OFFERED,
    (KeyHolderState.OFFERED, "receive_join"): KeyHolderState.OFFERED,
    (KeyHolderState.OFFERED, "close_roster"): KeyHolderState.CLOSED,
    (KeyHolderState.CLOSED, "release"): KeyHolderState.IDLE,
    (KeyHolderState.OFFERED, "abort"): KeyHolderState.IDLE,
    (KeyHolderState.CLOSED, "abort"): KeyHolderState.IDLE,
    # after a restart: signed aborts of the rounds that the process before left open
    (KeyHolderState.IDLE, "report_abandoned"): KeyHolderState.IDLE,
}

CLIENT_MOVES = {
    (ClientState.IDLE, "join"): ClientState.JOINED,
    (ClientState.JOINED, "contribute"): ClientState.CONTRIBUTED,
    (ClientState.CONTRIBUTED, "accept"): ClientState.IDLE,
    (ClientState.JOINED, "abort"): ClientState.IDLE,
    (ClientState.CONTRIBUTED, "abort"): ClientState.IDLE,
    # the end of an earlier round, which only the journal remembers
    (ClientState.IDLE, "settle"): ClientState.IDLE,
}

AGGREGATOR_MOVES = {
    (AggregatorState.IDLE, "open"): AggregatorState.COLLECTING,
    (AggregatorState.COLLECTING, "receive"): AggregatorState.COLLECTING,
    (AggregatorState.COLLECTING, "close"): AggregatorState.IDLE,
    (AggregatorState.COLLECTING, "abort"): AggregatorState.IDLE,
}

# --- robust rounds: one look where a sketch is the update itself, two looks at count sketches -------------------------

S = TypeVar("S", bound=Enum)


def _without(table: Mapping[tuple[S, str], S], move: tuple[S, str]) -> dict[tuple[S, str], S]:
    return {legal: after for legal, after in table.items() if legal != move}


_ONE_LOOK_KEY_HOLDER = {
    (KeyHolderState.IDLE, "open"): KeyHolderState.OFFERED,
    (KeyHolderState.OFFERED, "receive_join"): KeyHolderState.OFFERED,
    # While it uses the key the role is spent, and stays so if nobody passes: products are opened once.
    (KeyHolderState.OFFERED, "judge"): KeyHolderState.CLOSED,
    (KeyHolderState.CLOSED, "release"): KeyHolderState.IDLE,
    (KeyHolderState.OFFERED, "abort"): KeyHolderState.IDLE,
    (KeyHolderState.SPENT, "abort"): KeyHolderState.IDLE,
    (KeyHolderState.CLOSED, "abort"): KeyHolderState.IDLE,
    (KeyHolderState.IDLE, "report_abandoned"): KeyHolderState.IDLE,
}
ROBUST_KEY_HOLDER_MOVES = {
    1: _ONE_LOOK_KEY_HOLDER,
    2: {
        **_without(_ONE_LOOK_KEY_HOLDER, (KeyHolderState.CLOSED, "release")),
        (KeyHolderState.CLOSED, "reveal"): KeyHolderState.SEEDED,
        (KeyHolderState.SEEDED, "judge_again"): KeyHolderState.JUDGED,
        (KeyHolderState.JUDGED, "release"): KeyHolderState.IDLE,
        (KeyHolderState.SEEDED, "abort"): KeyHolderState.IDLE,
        (KeyHolderState.JUDGED, "abort"): KeyHolderState.IDLE,
    },
}

_ONE_LOOK_CLIENT = {
    (ClientState.IDLE, "join_with_sketch"): ClientState.JOINED,
    (ClientState.JOINED, "contribute"): ClientState.CONTRIBUTED,
    (ClientState.CONTRIBUTED, "accept"): ClientState.IDLE,
    (ClientState.JOINED, "abort"): ClientState.IDLE,
    (ClientState.CONTRIBUTED, "abort"): ClientState.IDLE,
    (ClientState.IDLE, "settle"): ClientState.IDLE,
}
ROBUST_CLIENT_MOVES = {
    1: _ONE_LOOK_CLIENT,
    2: {
        **_without(_ONE_LOOK_CLIENT, (ClientState.CONTRIBUTED, "accept")),
        (ClientState.CONTRIBUTED, "sketch_again"): ClientState.SKETCHED,
        (ClientState.SKETCHED, "accept"): ClientState.IDLE,
        (ClientState.SKETCHED, "abort"): ClientState.IDLE,
    },
}

_ONE_LOOK_AGGREGATOR = {
    (AggregatorState.IDLE, "prepare"): AggregatorState.GATHERING,
    (AggregatorState.GATHERING, "receive_sketch"): AggregatorState.GATHERING,
    (AggregatorState.GATHERING, "multiply"): AggregatorState.MULTIPLIED,
    (AggregatorState.MULTIPLIED, "open"): AggregatorState.COLLECTING,
    (AggregatorState.COLLECTING, "receive"): AggregatorState.COLLECTING,
    (AggregatorState.COLLECTING, "close"): AggregatorState.IDLE,
    **{
        (state, "abort"): AggregatorState.IDLE
        for state in (AggregatorState.GATHERING, AggregatorState.MULTIPLIED, AggregatorState.COLLECTING)
    },
}
ROBUST_AGGREGATOR_MOVES = {
    1: _ONE_LOOK_AGGREGATOR,
    2: {
        **_without(_ONE_LOOK_AGGREGATOR, (AggregatorState.COLLECTING, "close")),
        (AggregatorState.COLLECTING, "tally"): AggregatorState.TALLIED,
        (AggregatorState.TALLIED, "reopen"): AggregatorState.REGATHERING,
        (AggregatorState.REGATHERING, "receive_sketch"): AggregatorState.REGATHERING,
        (AggregatorState.REGATHERING, "multiply"): AggregatorState.COMPARED,
        (AggregatorState.COMPARED, "close"): AggregatorState.IDLE,
        **{
            (state, "abort"): AggregatorState.IDLE
            for state in (AggregatorState.TALLIED, AggregatorState.REGATHERING, AggregatorState.COMPARED)
        },
    },
}


class Machine(Generic[S]):
    """The current state of one role, and its table {(state, move): next state}. role: its name, for messages."""

    def __init__(self, table: Mapping[tuple[S, str], S], start: S, role: str) -> None:
        self._table = table
        self._owner = Owner(role)
        self.state = start

    def require_own_process(self) -> None:
        """Raise `WrongState` in another process than the role's: for calls that are not moves."""
        self._owner.require()

    def require(self, move: str) -> S:
        """The state after `move`. Raises `WrongState`, naming the possible moves, or the role's process."""
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
