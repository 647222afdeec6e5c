"""Long byte strings that this party receives in parts: limits of their memory and time.

Anyone who reaches a node through its SuperLink may send parts. Memory is allocated as parts come, never for the length
that a header claims. All byte strings together hold at most one largest message, and one that gets no new part in time
is dropped. Content and signature are checked when a call takes the byte string.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fl.flower.errors import TransferError
from fl.flower.transport import Bytes, Incoming

EXPIRES_S = 300.0  # after the last new part; WaitLimits.part_s allows 60 s for a window of parts
MAX_OPEN = 8  # byte strings


class Transfers:
    """limit: bytes that all half-open byte strings may hold together, and the longest that one may become.

    clock: seconds, for tests.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._open: dict[str, Incoming] = {}
        self._touched: dict[str, float] = {}

    @property
    def held(self) -> int:
        """Bytes of all parts received."""
        return sum(incoming.held for incoming in self._open.values())

    def __len__(self) -> int:
        return len(self._open)

    def put(self, name: str, index: int, total: int, part: Bytes) -> None:
        """Take one part. Part 0 opens a byte string; another part 0, or another length, begins it anew.

        Raises `TransferError`; the parts that came before are then unchanged.
        """
        self.expire()
        known = self._open.get(name)
        if known is not None and (known.total != total or (index == 0 and not known.agrees(part))):
            known = None  # the sender stopped sending that one and sends another
            if index:
                raise TransferError(f"{name!r}: expected the length it began with, got {total}: send part 0 first")
        if known is None and index:
            raise TransferError(f"{name!r}: expected part 0 first, got part {index}: send part 0")
        if known is None and name not in self._open and len(self._open) >= MAX_OPEN:
            raise TransferError(f"{name!r}: expected at most {MAX_OPEN} unfinished byte strings: finish one first")
        incoming = known if known is not None else Incoming(total, self._limit)
        freed = self._open[name].held if known is None and name in self._open else 0
        more = 0 if incoming.has(index) else len(part)
        if self.held - freed + more > self._limit:
            raise TransferError(
                f"{self.held} bytes of unfinished byte strings are held, at most {self._limit} are allowed: finish "
                f"those first, or wait {EXPIRES_S:g} s"
            )
        incoming.put(index, part)
        self._open[name] = incoming
        if more or known is None:
            self._touched[name] = self._clock()

    def take(self, name: str, length: int) -> Bytes:
        """A whole byte string, which is no longer held here. Raises `TransferError` while parts are missing."""
        incoming = self._open.get(name)
        if incoming is None or incoming.total != length:
            raise TransferError(f"{name!r}: expected all {length} bytes before the call, got fewer: send them first")
        data = incoming.take()
        self._drop(name)
        return data

    def expire(self) -> None:
        """Drop byte strings for which no new part came for `EXPIRES_S`."""
        now = self._clock()
        for name in [name for name, when in self._touched.items() if now - when > EXPIRES_S]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        del self._open[name], self._touched[name]
