"""What the plain fields of calls and answers may hold: one table, checked where records become calls.

These fields are not signed individually. A field outside its range is refused by name before any role sees it, and so
is a field that no call has. The one answer that is not checked holds what a bank's own app reports (`evaluate`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecordValues

from fl.flower.errors import TransferError

LARGEST_STEP = 2**63 - 2  # the step after it must fit as well
LARGEST_LENGTH = 2**40  # values of a model
LARGEST_WIRE = 2**48  # bytes
LONGEST_TEXT = 2**16  # characters of an explanation
FREE = "evaluate"  # the action whose answer is the app's own


@dataclass(frozen=True)
class Integer:
    """low <= value <= high."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"an integer in {self.low}..{self.high}"

    def holds(self, value: object) -> bool:
        return type(value) is int and self.low <= value <= self.high


@dataclass(frozen=True)
class Text:
    """At most `most` characters, all of it matching `pattern` where there is one."""

    most: int
    pattern: str = ""

    def __str__(self) -> str:
        return f"text of at most {self.most} characters" + (f" like {self.pattern}" if self.pattern else "")

    def holds(self, value: object) -> bool:
        whole = re.compile(self.pattern or ".*", re.DOTALL)
        return isinstance(value, str) and len(value) <= self.most and whole.fullmatch(value) is not None


@dataclass(frozen=True)
class Bytes:
    """Exactly `size` bytes."""

    size: int

    def __str__(self) -> str:
        return f"{self.size} bytes"

    def holds(self, value: object) -> bool:
        return isinstance(value, bytes) and len(value) == self.size


class Anything:
    """A duration that a party reports about itself: only for display, read with `Call.seconds`; no range is checked."""

    def __str__(self) -> str:
        return "anything"

    def holds(self, value: object) -> bool:
        return True


_HASH = Text(64, "[0-9a-f]{64}|")
_PARTIES = Text(LONGEST_TEXT, "([0-9a-f]{64}(,[0-9a-f]{64})*)?")  # public keys

FIELDS: Mapping[str, Integer | Text | Bytes | Anything] = {
    # parts of a long byte string
    "name": Text(32),
    "index": Integer(0, 2**31 - 1),
    "total": Integer(1, LARGEST_WIRE),
    # which party it is, and its step
    "challenge": Bytes(32),
    "signature": Bytes(64),
    "role": Text(16),
    "organisation": Text(256),
    "key": Text(64, "[0-9a-f]{64}"),
    "model": _HASH,
    "length": Integer(0, LARGEST_LENGTH),
    "rounds": Integer(0, 2**31 - 1),
    "step": Integer(0, LARGEST_STEP),
    "next_step": Integer(1, LARGEST_STEP),
    "finished": Integer(0, 1),
    # how a call went
    "outcome": Text(16, "[a-z]*"),
    "stored": Integer(0, 1),
    "refused": Text(LONGEST_TEXT),
    "taken": _PARTIES,
    "found_out": _PARTIES,
    "error": Text(64),
    "message": Text(LONGEST_TEXT),
    "train_seconds": Anything(),
    "seal_seconds": Anything(),
    "open_seconds": Anything(),
}


def check_fields(fields: Mapping[str, ConfigRecordValues]) -> None:
    """Raise `TransferError` for a field that no call has, or that is out of its range."""
    for name, value in fields.items():
        allowed = FIELDS.get(name)
        if allowed is None:
            raise TransferError(f"field {name[:32]!r}: expected a field of the protocol")
        if not allowed.holds(value):
            shown = repr(value) if type(value) is int else type(value).__name__
            raise TransferError(f"field {name}: expected {allowed}, got {shown}")


def check_held(name: str, length: int) -> None:
    """Raise `TransferError` for a byte string that is held back under an unknown name or with a wrong length."""
    if not FIELDS["name"].holds(name) or not FIELDS["total"].holds(length):
        raise TransferError(f"held {name[:32]!r}: expected {FIELDS['total']} bytes, got {length}")
