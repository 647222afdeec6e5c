"""The key holder's log, which survives restarts: one decryption per step, whatever happens.

Events of a step, in this order:  opened -> roster -> consumed -> released | refused,  or  aborted  at any point before
a verdict.  `consumed` is durable before the secret key is used on the sum, and the key lives in memory only: after a
crash there is nothing left that could decrypt a second time, and what was released is sent again byte for byte.

The same table of legal orders guards the running key holder and the offline audit.  The file may serve several
sessions of one key holder; then steps increase over all of them.  It grows by every release it stores.  `prune` drops
the sums of old ones: what the key holder signed of them, and the hash of their sums, stay in the chain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from secagg.audit import Audit, Entry, audit
from secagg.errors import (
    LedgerError,
    ReleasePruned,
    RoundAlreadyReleased,
    StepJump,
    StepNotIncreasing,
    WrongState,
)
from secagg.eventlog import IN_MEMORY, Content, EventLog
from secagg.events import NO_HEAD, PRUNED, Event
from secagg.identity import Identity
from secagg.journal import MAX_STEP_JUMP, JournalRound, journal_rounds
from secagg.journal import PURPOSE as JOURNAL_PURPOSE
from secagg.transcript import HEADER

PURPOSE = "key holder ledger"

LEAST_KEPT = 10
"""Releases that `Ledger.prune` never drops: a member that missed some must find each of them to catch up."""

_HASH = 32  # bytes
_BEFORE = struct.Struct("<I")  # in the event of a release with a content: bytes of its head, which follow

# Kind of event -> what may stand before it in the same step.
_FOLLOWS: dict[str, tuple[str | None, ...]] = {
    "opened": (None,),
    "roster": ("opened",),
    "consumed": ("roster",),
    "released": ("consumed",),
    "refused": ("consumed",),
    "aborted": ("opened", "roster", "consumed"),
}


class Outcome(Enum):
    """How a step ended."""

    OPEN = "open"
    RELEASED = "released"
    REFUSED = "refused"
    ABORTED = "aborted"
    ABANDONED = "abandoned"  # the process that opened it ended, or failed, before a verdict


_VERDICTS = {"released": Outcome.RELEASED, "refused": Outcome.REFUSED, "aborted": Outcome.ABORTED}


@dataclass(frozen=True)
class LostRound:
    """A round without a release. header: of its offer, as `transcript` encodes it. reason: its abort's, or None."""

    step: int
    model: bytes
    round_id: bytes
    offer: bytes  # hash of the offer, 32 bytes
    header: bytes
    reason: int | None = None


def _lost(opened: Event, reason: int | None = None) -> LostRound:
    offer, header = opened.body[:_HASH], opened.body[_HASH:]
    return LostRound(opened.step, opened.model, opened.round_id, offer, header, reason)


@dataclass(frozen=True)
class StepRecord:
    """What a ledger holds about a step. offer: its hash. header: of the offer, encoded. release: its hash, or None.

    reason: of its abort, or None. refused: whether its sum failed a check.
    """

    offer: bytes
    header: bytes
    release: bytes | None
    reason: int | None
    refused: bool


class Ledger:
    """Opened by the key holder. path: a file, or `Ledger.in_memory` for a key holder that lives for one process.

    Raises `LedgerError` for a file that is damaged, edited or of another owner, `LedgerLocked` for one in use.
    """

    def __init__(self, path: str | Path, owner: Identity) -> None:
        self._log = EventLog(path, owner, PURPOSE)
        self._live: bytes | None = None  # round id of the round that this process opened

    @classmethod
    def existing(cls, path: str | Path, owner: Identity) -> Ledger:
        """A ledger that is there already. Raises `LedgerError` for a path without one, as for a bad file."""
        if not Path(path).is_file():
            raise LedgerError(f"{path}: no such ledger: check the path")
        return cls(path, owner)

    @classmethod
    def in_memory(cls, owner: Identity) -> Ledger:
        """A ledger in memory, which is lost when the process ends."""
        return cls(IN_MEMORY, owner)

    @property
    def head(self) -> bytes:
        """Hash of the last event; anchored in the next offer, so that clients notice a ledger that was rolled back."""
        return self._log.head

    @property
    def next_step(self) -> int:
        """One above the last step opened; 1 for a new ledger."""
        last = self._log.last("opened")
        return 1 if last is None else last.step + 1

    def check_step(self, step: int) -> None:
        """Raise unless `step` may be opened: above every step before, and no further than clients follow.

        Raises `RoundAlreadyReleased`, `StepNotIncreasing` or `StepJump`.
        """
        last = self._log.last("opened")
        if last is not None and step <= last.step:
            if self.outcome(step) is Outcome.RELEASED:
                raise RoundAlreadyReleased(f"step {step} was already released: send the stored release again")
            raise StepNotIncreasing(f"step: expected more than {last.step}, the last one opened, got {step}")
        # No client would join it, and no lower step could be opened afterwards.
        highest = (0 if last is None else last.step) + MAX_STEP_JUMP
        if step > highest:
            raise StepJump(f"step: expected at most {highest}, {MAX_STEP_JUMP} above the last one opened, got {step}")

    def opened(self, step: int, model: bytes, round_id: bytes, offer: bytes, header: bytes) -> None:
        """offer: its hash, 32 bytes. header: the encoded header of the offer, to report an abandoned round."""
        self.check_step(step)
        self._append("opened", step, model, round_id, offer + header)
        self._live = round_id

    def roster_closed(self, step: int, model: bytes, round_id: bytes, roster: bytes, senders: bytes) -> None:
        """roster: its hash, 32 bytes. senders: their public keys, 32 bytes each."""
        self._append("roster", step, model, round_id, roster + senders)

    def consumed(self, step: int, model: bytes, round_id: bytes, encrypted_sum: bytes) -> None:
        """Take the step's only decryption. encrypted_sum: hash of the sum. Raises `RoundAlreadyReleased`."""
        if self._log.events(step, "consumed"):
            raise RoundAlreadyReleased(f"step {step} was consumed before: there is one decryption per step")
        self._append("consumed", step, model, round_id, encrypted_sum)

    def released(
        self, step: int, model: bytes, round_id: bytes, release: bytes, head: bytes, sums: Content, tail: bytes
    ) -> None:
        """release: its hash, 32 bytes. head, sums, tail: its bytes on the wire, to be sent again after a crash.

        The event holds head and tail, which have the key holder's signature in them, and the hash of the sums.
        """
        body = release + _BEFORE.pack(len(head)) + head + tail
        self._append("released", step, model, round_id, body, sums)

    def refused(self, step: int, model: bytes, round_id: bytes) -> None:
        """The sum failed a check; which one is not recorded."""
        self._append("refused", step, model, round_id)

    def aborted(self, step: int, model: bytes, round_id: bytes, reason: int) -> None:
        """The round ended without a verdict, or a restarted key holder reports that it did."""
        self._append("aborted", step, model, round_id, bytes([reason]))

    def let_go(self) -> None:
        """Record that this process can no longer finish the round it opened. Without a verdict it is then abandoned."""
        self._live = None

    def stored_release(self, step: int) -> bytes | None:
        """The wire bytes of the release of `step`, or None. Raises `ReleasePruned`."""
        found = self._log.events(step, "released")
        return self._wire_bytes(found[0]) if found else None

    def record(self, step: int) -> StepRecord | None:
        """What the ledger holds about `step`; None when it was never opened. Reads no release, only its hash."""
        held = {event.kind: event.body for event in self._log.starts(step, _HASH + HEADER.size)}
        if "opened" not in held:
            return None
        opened, released, aborted = held["opened"], held.get("released"), held.get("aborted")
        release, reason = released and released[:_HASH], aborted[0] if aborted else None
        return StepRecord(opened[:_HASH], opened[_HASH:], release, reason, "refused" in held)

    def release_after(self, step: int, model: bytes | None = None) -> tuple[int, bytes] | None:
        """(step, wire bytes) of the first release above `step` of a round from `model`, from any when None; or None.

        Raises `ReleasePruned` where that one was dropped: a later one would not follow from what its reader has.
        """
        found = self._log.beyond("released", step, model)
        return (found[0].step, self._wire_bytes(found[0])) if found else None

    def prune(self, keep: int) -> int:
        """Drop the sums of all releases but the last `keep`, `LEAST_KEPT` or more, and give back their space.

        Returns how many were dropped. An event of its own records it, so that an audit tells pruning from damage.
        Releases that an earlier version of the package stored, inside their events, stay. Raises `LedgerError`.
        """
        if keep < LEAST_KEPT:
            raise LedgerError(
                f"releases to keep: expected {LEAST_KEPT} or more, got {keep}: members that missed some need them"
            )
        steps = self._log.steps_of("released", keep + 1)
        dropped = 0
        if len(steps) > keep:
            (last,) = self._log.starts(steps[-1], _HASH, "released")
            dropped = self._log.drop_contents(last.step, last.model, last.round_id)
        self._log.compact()
        return dropped

    def _wire_bytes(self, event: Event) -> bytes:
        """The release that an event stores. Before there were contents, the event's body held all of it."""
        if event.content_hash is None:
            return event.body[_HASH:]
        sums = self._log.content(event)
        if sums is None:
            raise ReleasePruned(
                f"step {event.step}: the sums of this release were dropped from the ledger; ask a member that has it, "
                "or start from a later model"
            )
        (length,) = _BEFORE.unpack_from(event.body, _HASH)
        start = _HASH + _BEFORE.size
        return event.body[start : start + length] + sums + event.body[start + length :]

    def lost_after(self, step: int, model: bytes, limit: int) -> tuple[LostRound, ...]:
        """Rounds from `model` above `step` that were aborted or refused, lowest step first, at most `limit`."""
        ended = [each for kind in ("aborted", "refused") for each in self._log.beyond(kind, step, model, limit)]
        ended.sort(key=lambda event: event.step)
        return tuple(
            _lost(self._log.events(each.step, "opened")[0], each.body[0] if each.kind == "aborted" else None)
            for each in ended[:limit]
        )

    def outcome(self, step: int) -> Outcome | None:
        """How `step` ended; None when it was never opened."""
        events = _of_the_round(self._log.starts(step, 0))
        if not events:
            return None
        unfinished = Outcome.OPEN if events[0].round_id == self._live else Outcome.ABANDONED
        return _VERDICTS.get(events[-1].kind, unfinished)

    def abandoned(self) -> tuple[LostRound, ...]:
        """Rounds that an earlier process opened and never finished, in the order of their steps."""
        return tuple(
            _lost(event) for event in self._log.events(kind="opened") if self.outcome(event.step) is Outcome.ABANDONED
        )

    def close(self) -> None:
        """Release the lock on the file."""
        self._log.close()

    def _append(
        self, kind: str, step: int, model: bytes, round_id: bytes, body: bytes = b"", content: Content | None = None
    ) -> None:
        """Write an event if the table allows it. Raises `WrongState`."""
        events = _of_the_round(self._log.starts(step, 0))
        before = events[-1].kind if events else None
        if before not in _FOLLOWS[kind]:
            raise WrongState(f"step {step}: {kind} after {before or 'nothing'} is not a legal order")
        if events and (events[0].round_id, events[0].model) != (round_id, model):
            raise WrongState(f"step {step}: expected the round and the model it was opened for, got others")
        # Key and seeds ended with the process that opened the round, which can now only be reported.
        if events and kind != "aborted" and round_id != self._live:
            raise WrongState(f"step {step}: abandoned by an earlier process; report it and open the next step")
        self._log.append(kind, step, model, round_id, body, content)


def _of_the_round(events: list[Event]) -> list[Event]:
    """Those that belong to the round of their step: a pruning is recorded long after it."""
    return [event for event in events if event.kind != PRUNED]


# --- offline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LedgerReport:
    """steps: (step, model, outcome) in order. head: hash of the last event. decryptions: steps consumed.

    dropped: releases of which only the signed head and the hash of the sums are left (`Ledger.prune`).
    """

    path: str
    owner: bytes
    events: int
    head: bytes
    steps: tuple[tuple[int, bytes, Outcome], ...]
    decryptions: int
    dropped: int = 0


def audit_ledger(path: str | Path) -> LedgerReport:
    """Verify a ledger file offline: chain, signatures, and the rules of the steps. Raises `LedgerError`."""
    found = _audited(path)
    steps = tuple(
        (step, entries[0].model, _VERDICTS.get(entries[-1].kind, Outcome.ABANDONED))
        for step, entries in _steps(found).items()
    )
    decryptions = sum(entry.kind == "consumed" for entry in found.entries)
    pruned = max((entry.step for entry in found.entries if entry.kind == PRUNED), default=-1)
    dropped = sum(entry.has_content and entry.step <= pruned for entry in found.entries)
    return LedgerReport(found.path, found.owner, len(found.entries), found.head, steps, decryptions, dropped)


def compare(ledger: str | Path, copy: str | Path) -> int:
    """Check that a ledger continues an earlier copy of itself; returns how many events it has beyond it.

    Raises `LedgerError` when they have different owners, when they contradict each other (one was forked, or rolled
    back and continued), or when the copy has events that the ledger lacks (it was rolled back).
    """
    a, b = _audited(ledger), _audited(copy)
    if a.owner != b.owner:
        raise LedgerError(f"{ledger} and {copy} belong to different key holders: name a copy of this ledger")
    for first, second in zip(a.entries, b.entries, strict=False):
        if first.hash != second.hash:
            raise LedgerError(
                f"{ledger} and {copy} differ from event {first.sequence} on: one was forked, or rolled back and "
                "continued; keep both and investigate"
            )
    if len(a.entries) < len(b.entries):
        raise LedgerError(
            f"{ledger} ends after event {len(a.entries)}, {copy} after event {len(b.entries)}: the first was rolled "
            "back, or is the older copy"
        )
    return len(a.entries) - len(b.entries)


def compare_journal(ledger: str | Path, journal: str | Path) -> int:
    """Check a ledger against what a client saw; returns the number of rounds compared.

    For each round of this key holder in the journal: the offer that the client answered stands in the ledger, right
    after the event whose hash the offer anchored; the roster is the one the client accepted; the release it accepted,
    as a member or catching up, is the stored one; and no round that the client received an abort of was released. Copy
    the ledger after the journal. Raises `LedgerError` with the first contradiction.
    """
    found, seen = _audited(ledger), audit(journal)
    if seen.purpose != JOURNAL_PURPOSE:
        raise LedgerError(f"{journal}: expected a {JOURNAL_PURPOSE}, got a {seen.purpose}: name the right file")
    steps, heads = _steps(found), [NO_HEAD, *(entry.hash for entry in found.entries)]
    rounds = [each for each in journal_rounds(seen).values() if each.key_holder == found.owner]
    for each in rounds:
        contradiction = _contradiction(each, steps.get(each.step, []), heads)
        if contradiction is not None:
            raise LedgerError(f"{ledger} contradicts {journal} at step {each.step}: {contradiction}")
    return len(rounds)


def _contradiction(seen: JournalRound, entries: list[Entry], heads: list[bytes]) -> str | None:
    """How the ledger's entries of one step contradict what the client saw, or None."""
    held = {entry.kind: entry for entry in entries}
    opened = held.get("opened")
    if opened is None:
        met = "joined it" if seen.offer is not None else "caught up with its release"
        return f"the client {met}, and the ledger has no such step: it was rolled back, or is older than the journal"
    if seen.offer is not None and opened.start[:_HASH] != seen.offer:
        return "the client answered another offer: the ledger was forked, or rolled back and continued"
    if opened.round_id != seen.round_id:
        return "the client caught up with another round: the ledger was forked, or rolled back and continued"
    if seen.anchor is not None and heads[opened.sequence - 1] != seen.anchor:
        return "the offer named another ledger head: events before it were exchanged"
    for kind, own, what in (("roster", seen.roster, "roster"), ("released", seen.release, "release")):
        entry = held.get(kind)
        if own is not None and (entry is None or entry.start[:_HASH] != own):
            return f"the client accepted a {what} that the ledger does not hold"
    if seen.aborted and "released" in held:
        return "the client received an abort of it, and the ledger released it"
    return None


def _audited(path: str | Path) -> Audit:
    found = audit(path)
    if found.purpose != PURPOSE:
        raise LedgerError(f"{path}: expected a {PURPOSE}, got a {found.purpose}: name the right file")
    return found


def _steps(found: Audit) -> dict[int, list[Entry]]:
    """Entries by step, in order. Raises `LedgerError` unless steps increase and each follows the table of orders."""
    steps: dict[int, list[Entry]] = {}
    latest, released = -1, list[int]()
    for entry in found.entries:
        if entry.kind == PRUNED:
            _check_pruning(entry, steps.get(entry.step, []), released, found.path)
            continue
        where = f"{found.path}: event {entry.sequence} ({entry.kind}, step {entry.step})"
        before = steps[entry.step][-1].kind if entry.step in steps else None
        if before not in _FOLLOWS.get(entry.kind, ()):
            raise LedgerError(f"{where} after {before or 'nothing'} is not a legal order: keep it and investigate")
        if entry.kind == "opened":
            if entry.step <= latest:
                raise LedgerError(f"{where}: expected a step above {latest}: keep the file and investigate")
            latest = entry.step
            steps[entry.step] = []
        elif entry.kind != "aborted" and entry.step != latest:
            raise LedgerError(f"{where}: expected the last step opened: keep the file and investigate")
        elif entry.round_id != steps[entry.step][0].round_id or entry.model != steps[entry.step][0].model:
            raise LedgerError(f"{where}: names another round or model than its step: keep it and investigate")
        steps[entry.step].append(entry)
        if entry.kind == "released":
            released.append(entry.step)
    return steps


def _check_pruning(entry: Entry, own: list[Entry], released: list[int], path: str) -> None:
    """Raise `LedgerError` unless a pruning names a released step, and as many releases after it stay as must.

    own: the entries of its step. released: all steps released so far, ascending.
    """
    of_it = bool(own) and own[-1].kind == "released"
    of_it = of_it and (own[-1].model, own[-1].round_id) == (entry.model, entry.round_id)
    if not of_it or len(released) < LEAST_KEPT or released[-LEAST_KEPT] <= entry.step:
        raise LedgerError(
            f"{path}: event {entry.sequence} drops releases up to step {entry.step}, which was not released or is one "
            f"of the last {LEAST_KEPT}: keep the file and investigate"
        )
