"""The key holder's memory across restarts: one decryption per step, whatever happens.

Events of a step, in this order:  opened -> roster -> consumed -> released | refused,  or  aborted  at any point before
a release.  `consumed` is durable before the secret key is used on the sum, and the key lives in memory only: after a
crash there is nothing left that could decrypt a second time, and what was released is sent again byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from secagg.errors import LedgerError, RoundAlreadyReleased, StepNotIncreasing
from secagg.eventlog import IN_MEMORY, Audit, Event, EventLog, audit
from secagg.identity import Identity

PURPOSE = "key holder ledger"


class Outcome(Enum):
    """What became of a step."""

    OPEN = "open"
    RELEASED = "released"
    REFUSED = "refused"
    ABORTED = "aborted"
    ABANDONED = "abandoned"  # the process ended between opening and a verdict


class Ledger:
    """Opened by the key holder. path: a file, or `Ledger.in_memory` for a key holder that lives for one process."""

    def __init__(self, path: str | Path, owner: Identity) -> None:
        self._log = EventLog(path, owner, PURPOSE)
        self._live: bytes | None = None  # round id of the round that this process opened

    @classmethod
    def in_memory(cls, owner: Identity) -> Ledger:
        """A ledger that forgets everything when the process ends."""
        return cls(IN_MEMORY, owner)

    @property
    def head(self) -> bytes:
        """Hash of the last event; anchored in the next offer, so that clients notice a ledger that was rolled back."""
        return self._log.head

    def check_step(self, step: int, model: bytes) -> None:
        """Raise unless `step` may be opened: above every step before, and never consumed."""
        last = self._log.last("opened")
        if last is not None and step <= last.step:
            if self.outcome(step) is Outcome.RELEASED:
                raise RoundAlreadyReleased(f"step {step} was released: send the stored release again")
            raise StepNotIncreasing(f"step: expected more than {last.step}, the last one opened, got {step}")

    def opened(self, step: int, model: bytes, round_id: bytes, offer: bytes) -> None:
        """offer: hash of the offer."""
        self.check_step(step, model)
        self._log.append("opened", step, model, round_id, offer)
        self._live = round_id

    def roster_closed(self, step: int, model: bytes, round_id: bytes, roster: bytes) -> None:
        """roster: its hash, 32 bytes, and the senders."""
        self._log.append("roster", step, model, round_id, roster)

    def consumed(self, step: int, model: bytes, round_id: bytes, encrypted_sum: bytes) -> None:
        """Take the step's only decryption. encrypted_sum: hash of the sum. Raises `RoundAlreadyReleased`."""
        if self._log.events(step, "consumed"):
            raise RoundAlreadyReleased(f"step {step} was consumed before: there is one decryption per step")
        self._log.append("consumed", step, model, round_id, encrypted_sum)

    def released(self, step: int, model: bytes, round_id: bytes, release: bytes) -> None:
        """release: its bytes on the wire, to be sent again after a crash."""
        self._log.append("released", step, model, round_id, release)
        self._live = None

    def refused(self, step: int, model: bytes, round_id: bytes) -> None:
        """The sum failed a check; which one is not recorded."""
        self._log.append("refused", step, model, round_id)
        self._live = None

    def aborted(self, step: int, model: bytes, round_id: bytes, reason: bytes) -> None:
        self._log.append("aborted", step, model, round_id, reason)
        self._live = None

    def stored_release(self, step: int) -> bytes | None:
        """The wire bytes of the release of `step`, or None."""
        found = self._log.events(step, "released")
        return found[0].body if found else None

    def outcome(self, step: int) -> Outcome | None:
        """What became of `step`; None when it was never opened."""
        return _outcome(self._log.events(step), self._live)

    def abandoned_steps(self) -> tuple[int, ...]:
        """Steps that an earlier process opened and never finished."""
        steps = sorted({event.step for event in self._log.events(kind="opened")})
        return tuple(step for step in steps if self.outcome(step) is Outcome.ABANDONED)

    def close(self) -> None:
        """Release the lock on the file."""
        self._log.close()


def _outcome(events: list[Event], live: bytes | None) -> Outcome | None:
    if not events:
        return None
    kinds = {event.kind for event in events}
    for kind, outcome in (
        ("released", Outcome.RELEASED),
        ("refused", Outcome.REFUSED),
        ("aborted", Outcome.ABORTED),
    ):
        if kind in kinds:
            return outcome
    return Outcome.OPEN if events[0].round_id == live else Outcome.ABANDONED


# --- offline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LedgerReport:
    """steps: (step, model, outcome) in order. head: hash of the last event."""

    path: str
    owner: bytes
    events: int
    head: bytes
    steps: tuple[tuple[int, bytes, Outcome], ...]


def audit_ledger(path: str | Path) -> LedgerReport:
    """Verify a ledger file offline: chain, signatures, and the rules of the steps. Raises `LedgerError`."""
    found = audit(path)
    if found.purpose != PURPOSE:
        raise LedgerError(f"{path} is a {found.purpose}, expected a {PURPOSE}")
    return LedgerReport(found.path, found.owner, len(found.events), found.head, _checked_steps(found))


_ORDER = {"opened": 0, "roster": 1, "consumed": 2, "released": 3, "refused": 3, "aborted": 3}


def _checked_steps(found: Audit) -> tuple[tuple[int, bytes, Outcome], ...]:
    """Steps increase, and no step has an event twice, out of order, or a verdict without a consumption."""
    by_step: dict[int, list[Event]] = {}
    for event in found.events:
        if event.kind not in _ORDER:
            raise LedgerError(f"{found.path}: event {event.sequence} is of an unknown kind {event.kind!r}")
        if event.kind == "opened" and by_step and event.step <= max(by_step):
            raise LedgerError(f"{found.path}: step {event.step} opened after step {max(by_step)}")
        by_step.setdefault(event.step, []).append(event)
    report = []
    for step, events in by_step.items():
        ranks = [_ORDER[event.kind] for event in events]
        kinds = {event.kind for event in events}
        if ranks != sorted(set(ranks)) or ranks[0] != 0:
            raise LedgerError(f"{found.path}: the events of step {step} are out of order or doubled")
        if kinds & {"released", "refused"} and not kinds >= {"roster", "consumed"}:
            raise LedgerError(f"{found.path}: step {step} has a verdict without a consumption")
        outcome = _outcome(events, None)
        assert outcome is not None
        report.append((step, events[0].model, outcome))
    return tuple(report)


def compare(one: str | Path, other: str | Path) -> str:
    """How two copies of one owner's ledger relate: "equal", "extends" (the first continues the second), or "behind".

    Raises `LedgerError` when they have different owners or contradict each other: then one was forked or rolled back
    and continued.
    """
    a, b = audit(one), audit(other)
    if a.owner != b.owner:
        raise LedgerError(f"{one} and {other} belong to different key holders")
    shared = min(len(a.events), len(b.events))
    if shared and a.events[shared - 1].hash != b.events[shared - 1].hash:
        first = next(i for i in range(shared) if a.events[i].hash != b.events[i].hash)
        raise LedgerError(f"{one} and {other} differ from event {first + 1} on: one of them was forked or rolled back")
    if len(a.events) == len(b.events):
        return "equal"
    return "extends" if len(a.events) > len(b.events) else "behind"
