"""A client's log: one roster per offer, one use per update, and the hash of each contribution before it is sent.

Events of a step, in this order: joined -> contributing -> sealed -> finished. A signed abort can end the step at any
point before that (aborted). After a crash nothing is encrypted again under the same masks: ephemeral keys and seeds
were in memory only, so a round that was joined and not finished is abandoned, unless its contribution was already sent
and the release still arrives (`Client.settle`). The release of a round that this client was not a member of moves the
model as well: the event `caught up` stands alone, or after `joined`, and is compared with the ledger as any other
release is.

In a robust round an update is compared before the roster closes (shown). An update that was shown is never shown again,
nor sent in another step, not even after an abort: each look at it is one more that a lying aggregator could use.

The journal holds hashes, never values; an update's are keyed, because a vector of few bits could be guessed from a
plain one, and a journal is shown to others to compare it with the key holder's ledger (`ledger.compare_journal`).

An update is recognised by two hashes. The first is over the integers that are encrypted: values that differ by less
than the quantisation, or beyond the clip, are the same update. Another plan makes other integers of the same values;
the second hash, over the values as float32, finds those. Neither finds a copy that was changed on purpose.

A second training from one model gives an update much like the first, which neither hash recognises. So rosters are
counted by the model that they train from. As long as their members stay the same, the difference of their sums only
shows the difference of two trainings of all members. Once members differ, the difference of two sums is about one bank,
and each such roster needs the consent of this client's operator. Noise that is fresh in each update (differential
privacy) limits what all rosters together reveal, and replaces that consent.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from secagg import packing
from secagg.audit import Audit, Entry, audit
from secagg.errors import (
    LedgerError,
    ModelRepeated,
    ModelUnmoved,
    RosterMismatch,
    StepJump,
    StepNotIncreasing,
    UpdateReused,
    WrongState,
)
from secagg.eventlog import IN_MEMORY, EventLog
from secagg.events import Event
from secagg.gossip import Known
from secagg.identity import Identity
from secagg.messages import NOTHING_SEEN, Ending, Seen
from secagg.plan import RoundPlan
from secagg.workers import Workers

PURPOSE = "client journal"

_HASH = 32  # bytes
_CIRCUMSTANCES = struct.Struct("<32sIQ")  # hash of the senders, their number, own weight
_PLACES = struct.Struct(f"<32s32s{_CIRCUMSTANCES.size}s32s32s")  # roster, values, circumstances, integers, plan
_VALUES, _INTEGERS = _HASH, 2 * _HASH + _CIRCUMSTANCES.size  # offsets of the two names
_WIDTHS = (np.int8, np.int16, np.int32, np.int64)

_ROUNDS_KEPT = 8  # in memory, of those asked for last

MAX_STEP_JUMP = 2**20
"""How far above the last step joined an offer may be, and above 0 the first. Steps count rounds, or days: a jump of a
million is a mistake or an attack, and one to the end of the range would leave the bank no step to join."""

# Kind of event -> what may stand before it in the same step.
_FOLLOWS: dict[str, tuple[str | None, ...]] = {
    "joined": (None,),
    "shown": ("joined",),
    "contributing": ("joined", "shown"),
    "sealed": ("contributing",),
    "finished": ("sealed",),
    "aborted": ("joined", "shown", "contributing", "sealed"),
    "caught up": (None, "joined", "shown"),
}
_ACCEPTED = ("finished", "caught up")


class UpdateReuseWarning(UserWarning):
    """Warns that an update enters a second roster at the caller's request."""


class ZeroUpdateWarning(UserWarning):
    """Warns that an update of zeros alone enters a second roster: it hides no other member."""


@dataclass(frozen=True)
class UpdateName:
    """What the journal knows of an update under a plan. Hashes of 32 bytes.

    integers: keyed, of the quantised and clipped integers before the weight. values: keyed, of the values as float32.
    plan: fingerprint. zero: whether all integers are 0.
    """

    integers: bytes
    values: bytes
    plan: bytes
    zero: bool


@dataclass(frozen=True)
class Consent:
    """What this client's operator accepts. reuse: that an update enters a second roster.

    model_repeats: how many rosters may train from one model once members differ from those of its first roster; None
    for any number, because each update carries fresh noise of its own.
    """

    reuse: bool = False
    model_repeats: int | None = 0


@dataclass(frozen=True)
class JournalRound:
    """What a journal knows about one round. All hashes 32 bytes, None where the round did not get so far.

    offer: answered, None for a round that this client did not join. anchor: the ledger head that the offer named.
    roster: accepted; members: its size. contribution: sealed, perhaps sent. release: accepted, as a member or catching
    up. aborted: by a signed abort of the key holder.
    """

    step: int
    model: bytes
    round_id: bytes
    offer: bytes | None
    anchor: bytes | None
    key_holder: bytes
    roster: bytes | None = None
    members: int = 0
    contribution: bytes | None = None
    release: bytes | None = None
    aborted: bool = False
    abort: bytes | None = None  # hash of the key holder's abort; older journals do not have it

    @property
    def finished(self) -> bool:
        """Whether the round has ended."""
        return self.aborted or self.release is not None


class Journal:
    """path: a file, or `Journal.in_memory` for a client that lives for one process.

    Raises `LedgerError` for a file that is damaged, edited or of another owner, `LedgerLocked` for one in use.
    """

    def __init__(self, path: str | Path, owner: Identity) -> None:
        self._log = EventLog(path, owner, PURPOSE)
        self._owner = owner
        self._rounds: dict[int, tuple[int, JournalRound | None]] = {}
        # Most updates are new. What is not among these names is in no event, and no event need be searched for it.
        self._names = {
            event.body[start : start + _HASH]
            for kind in ("contributing", "shown")
            for event in self._log.events(kind=kind)
            for start in (_VALUES, _INTEGERS)
        }

    @classmethod
    def in_memory(cls, owner: Identity) -> Journal:
        """A journal in memory, which is lost when the process ends."""
        return cls(IN_MEMORY, owner)

    @property
    def head(self) -> bytes:
        """Hash of the last event: 32 bytes."""
        return self._log.head

    @property
    def next_step(self) -> int:
        """One above the last step joined or caught up with, 1 for a new journal: the lowest that may be joined now."""
        return (self._latest() or 0) + 1

    def check_step(self, step: int) -> None:
        """Raise unless `step` is above every step joined, or caught up with, before, by at most `MAX_STEP_JUMP`.

        Raises `StepNotIncreasing` or `StepJump`.
        """
        latest = self._latest()
        if latest is not None and step <= latest:
            raise StepNotIncreasing(f"step: expected more than {latest}, the last one joined, got {step}")
        self._check_jump(step)

    def name(self, update: NDArray[np.floating], plan: RoundPlan, threads: int | None = None) -> UpdateName:
        """Both hashes of a checked update: one pass over its values and one over its integers, in small pieces.

        threads: all usable cores when None; of use are two, one for each hash.
        """
        with Workers(threads, update.nbytes, most=2) as workers:
            return self.naming(update, plan, workers)()

    def naming(self, update: NDArray[np.floating], plan: RoundPlan, workers: Workers) -> Callable[[], UpdateName]:
        """As `name`, begun: one hash is made beside what the caller does before it calls the returned function."""
        values = workers.start(lambda: _hashed_values(self._owner.keyed_hash(b"update"), update))

        def named() -> UpdateName:
            integers, zero = _hashed_integers(self._owner.keyed_hash(b"quantised update"), update, plan)
            return UpdateName(integers, values(), plan.fingerprint, zero)

        return named

    def check_update(self, update: UpdateName) -> None:
        """Raise `UpdateReused` for an update that no roster can accept any more. Call it before a round is joined.

        An update whose round was aborted passes here; `contributing` then checks that the members are the same.
        """
        for event in self._uses(update):
            lost = event.kind == "contributing" and self._log.events(event.step, "aborted")
            if not update.zero and not lost:
                raise self._reused(event)

    def joined(self, step: int, model: bytes, round_id: bytes, offer: bytes, anchor: bytes, key_holder: bytes) -> None:
        """Record a join. offer: its hash. anchor: the ledger head it names. key_holder: public key. 32 bytes each."""
        self.check_step(step)
        self._append("joined", step, model, round_id, offer + anchor + key_holder)

    def shown(self, step: int, model: bytes, round_id: bytes, offer: bytes, update: UpdateName) -> None:
        """Bind this update to this step; durable before a sketch of it is sent. offer: its hash, 32 bytes.

        Raises `UpdateReused` for an update that was shown or that entered a roster before. An update of zeros alone may
        come again.
        """
        self.check_shown(update)
        self._names |= {update.values, update.integers}
        body = _PLACES.pack(offer, update.values, bytes(_CIRCUMSTANCES.size), update.integers, update.plan)
        self._append("shown", step, model, round_id, body)

    def check_shown(self, update: UpdateName) -> None:
        """Raise `UpdateReused` for an update that was shown or that entered a roster before, however it ended."""
        for event in self._uses(update):
            if not update.zero:
                raise self._reused(event)

    def times_shown(self, model: bytes) -> int:
        """How many updates of this model were shown, in as many rounds. model: its hash, 32 bytes."""
        return len(self._log.events(kind="shown", model=model))

    def contributing(
        self,
        step: int,
        model: bytes,
        round_id: bytes,
        roster: bytes,
        members: Sequence[bytes],
        update: UpdateName,
        weight: int,
        consent: Consent,
    ) -> None:
        """Bind this offer to one roster and this update to its members; durable before anything is encrypted.

        roster: its hash, 32 bytes. members: all senders, in roster order. Raises `RosterMismatch` for a second roster
        of the same offer and `UpdateReused` for an update that entered another roster. The exception is an update whose
        round was aborted, in a roster with identical members, weight and plan: the two sums are then the same sum, even
        if both were opened. An update of zeros alone may come again, with a warning: it adds nothing to any sum, so the
        difference of two sums shows nothing of this client, and it hid no other member the first time. Raises
        `ModelRepeated` or `ModelUnmoved` for more rosters with other members from one model than `consent` allows.
        """
        if self._log.events(step, "contributing"):
            raise RosterMismatch(f"step {step}: expected one roster for this offer, got a second one: refuse it")
        senders = hashlib.sha256(b"".join(members)).digest()
        circumstances = _CIRCUMSTANCES.pack(senders, len(members), weight)
        uses = [event for event in self._uses(update) if event.step != step]
        harmless = [event for event in uses if self._harmless(event, circumstances, update)]
        if not harmless:
            self._check_model(model, senders, consent.model_repeats)
        for event in uses:
            if update.zero:
                warnings.warn(
                    f"every value of this update is 0 after quantisation, as at step {event.step}: it hides no other "
                    "member; check whether training is stuck or the clip is far too large",
                    ZeroUpdateWarning,
                    stacklevel=3,
                )
                break
            if event in harmless:
                continue
            if not consent.reuse:
                raise self._reused(event)
            warnings.warn(
                f"an update of step {event.step} enters another roster: one sum can be subtracted from the other",
                UpdateReuseWarning,
                stacklevel=3,
            )
        self._names |= {update.values, update.integers}
        body = _PLACES.pack(roster, update.values, circumstances, update.integers, update.plan)
        self._append("contributing", step, model, round_id, body)

    def sealed(self, step: int, model: bytes, round_id: bytes, contribution: bytes) -> None:
        """Record the hash of the contribution that will be sent. Only identical bytes are ever sent again."""
        self._append("sealed", step, model, round_id, contribution)

    def finished(self, step: int, model: bytes, round_id: bytes, release: bytes) -> None:
        """Record an accepted release. release: its hash, 32 bytes."""
        self._append("finished", step, model, round_id, release)

    def aborted(self, step: int, model: bytes, round_id: bytes, abort: bytes) -> None:
        """Record the key holder's signed abort. abort: its hash, 32 bytes."""
        self._append("aborted", step, model, round_id, abort)

    def caught_up(self, step: int, model: bytes, round_id: bytes, release: bytes, key_holder: bytes) -> None:
        """Record the release of a round that this client was not a member of, before it moves the model.

        release: its hash. key_holder: public key that signed it. 32 bytes each. Raises `StepNotIncreasing` unless the
        step is above every step whose release was accepted, `StepJump` for one far above, and `WrongState` for a round
        that this client contributed to or received an abort of.
        """
        accepted = self.last_accepted()
        if accepted is not None and step <= accepted.step:
            raise StepNotIncreasing(f"step: expected more than {accepted.step}, the last one accepted, got {step}")
        self._check_jump(step)
        self._append("caught up", step, model, round_id, release + key_holder)

    def last_accepted(self) -> JournalRound | None:
        """The round of the highest step whose release was accepted, as a member or catching up, or None."""
        steps = [event.step for kind in _ACCEPTED for event in self._log.events(kind=kind)]
        return self.round_of(max(steps)) if steps else None

    def round_of(self, step: int) -> JournalRound | None:
        """What became of a step; None when it was never joined."""
        events = self._log.events(step)
        count, known = self._rounds.get(step, (0, None))  # after so many events of the step, which never change
        if count == len(events):
            return known
        known = None
        for event in events:
            known = _advanced(known, event.kind, event.step, event.model, event.round_id, event.body)
        self._rounds[step] = len(events), known
        if len(self._rounds) > _ROUNDS_KEPT:
            self._rounds.pop(next(iter(self._rounds)), None)
        return known

    def known(self, step: int, key_holder: bytes) -> Known:
        """How a step of this key holder ended and which head its offer named, as far as this journal knows."""
        seen = self.round_of(step)
        if seen is None or seen.key_holder != key_holder:
            return Known()
        if seen.release is not None:
            return Known(Ending.RELEASED, seen.release, seen.anchor)
        return Known(Ending.ABORTED if seen.aborted else Ending.NONE, seen.abort, seen.anchor)

    def seen(self, key_holder: bytes) -> Seen:
        """The statement that this client's next join makes about this key holder."""
        ended, joined = (
            self._last_of(key_holder, lambda known: known.end is not None, *_ACCEPTED, "aborted"),
            self._last_of(key_holder, lambda known: known.head is not None, "joined"),
        )
        seen = NOTHING_SEEN
        if ended is not None and ended[1].end is not None:
            seen = replace(seen, ending=ended[1].ending, step=ended[0], end=ended[1].end)
        if joined is not None and joined[1].head is not None:
            seen = replace(seen, joined=joined[0], head=joined[1].head)
        return seen

    def unfinished(self) -> tuple[int, ...]:
        """Steps that were joined and neither finished nor aborted, in order."""
        joined = {event.step for event in self._log.events(kind="joined")}
        done = {event.step for kind in (*_ACCEPTED, "aborted") for event in self._log.events(kind=kind)}
        return tuple(sorted(joined - done))

    def close(self) -> None:
        """Release the lock on the file."""
        self._log.close()

    def _last_of(self, key_holder: bytes, tells: Callable[[Known], bool], *kinds: str) -> tuple[int, Known] | None:
        """The highest step that has an event of these kinds and for which `tells` is true."""
        for event in self._log.latest_first(*kinds):
            known = self.known(event.step, key_holder)
            if tells(known):
                return event.step, known
        return None

    def _latest(self) -> int | None:
        """The highest step that was joined or caught up with."""
        known = [last.step for kind in ("joined", "caught up") if (last := self._log.last(kind)) is not None]
        return max(known, default=None)

    def _check_jump(self, step: int) -> None:
        highest = (self._latest() or 0) + MAX_STEP_JUMP
        if step > highest:
            raise StepJump(
                f"step: expected at most {highest}, {MAX_STEP_JUMP} above the last one joined, got {step}: ask the key "
                "holder why its steps jump"
            )

    def _uses(self, update: UpdateName) -> list[Event]:
        """Earlier rosters that this update entered, under whichever plan, in the order of their steps."""
        if self._names.isdisjoint((update.values, update.integers)):
            return []
        return self._log.holding(("contributing", "shown"), ((_VALUES, update.values), (_INTEGERS, update.integers)))

    def _check_model(self, model: bytes, senders: bytes, allowed: int | None) -> None:
        """Count the rosters for this model from the first on whose members are not those of its first roster."""
        if allowed is None:
            return
        earlier = self._log.events(kind="contributing", model=model)
        members = [*(event.body[2 * _HASH : 3 * _HASH] for event in earlier), senders]
        further = next((len(members) - i for i, each in enumerate(members) if each != members[0]), 0)
        if further <= allowed:
            return
        first = f"the first roster from model {model.hex()[:16]} (step {earlier[0].step})"
        named = f"roster {further} with other members than {first}"
        for kind in _ACCEPTED:
            if moved := self._log.events(kind=kind, model=model):
                raise ModelUnmoved(
                    f"{named}: this bank allows {allowed}, and the release of step {moved[0].step} did not change the "
                    "model: end the training, or find out why it does not change, or raise model_repeats"
                )
        raise ModelRepeated(
            f"{named}: this bank allows {allowed}, because one sum can be subtracted from the other if a round that "
            "was reported as lost was decrypted: wait for the first members, or train with fresh noise (differential "
            "privacy), or raise model_repeats"
        )

    def _harmless(self, earlier: Event, circumstances: bytes, update: UpdateName) -> bool:
        same = (
            earlier.kind == "contributing"
            and earlier.body[2 * _HASH :] == circumstances + update.integers + update.plan
        )
        return same and bool(self._log.events(earlier.step, "aborted"))

    def _reused(self, event: Event) -> UpdateReused:
        return UpdateReused(
            f"this update entered step {event.step} with other members, weight or plan, or a round that was not "
            "aborted, or was compared in it; train a new one (with DP: new noise), or pass allow_reuse=True: the sums "
            "can then be subtracted"
        )

    def _append(self, kind: str, step: int, model: bytes, round_id: bytes, body: bytes) -> None:
        """Write an event if the table allows it. Raises `WrongState`."""
        events = self._log.events(step)
        before = events[-1].kind if events else None
        if before not in _FOLLOWS[kind] or (events and events[0].round_id != round_id):
            raise WrongState(f"step {step}: {kind} after {before or 'nothing'} is not a legal order in this round")
        self._log.append(kind, step, model, round_id, body)


def _hashed_values(digest: hmac.HMAC, update: NDArray[np.floating]) -> bytes:
    for start in range(0, update.shape[0], packing.SCAN):
        with np.errstate(over="ignore", under="ignore"):
            narrow = np.ascontiguousarray(update[start : start + packing.SCAN], dtype="<f4")
        narrow = narrow + np.float32(0)  # -0.0 is the value 0.0
        digest.update(narrow.data.cast("B"))
    return digest.digest()


def _hashed_integers(digest: hmac.HMAC, update: NDArray[np.floating], plan: RoundPlan) -> tuple[bytes, bool]:
    """The hash, and whether every integer is 0."""
    zero = True
    for piece in packing.quantised(update, plan):
        zero &= not _hash_integers(digest, piece)
    return digest.digest(), zero


def _hash_integers(digest: hmac.HMAC, integers: NDArray[np.int64]) -> bool:
    """Hash them in the narrowest type that holds them, the same under every plan; returns whether any is not 0."""
    largest = max(int(integers.max()), -int(integers.min()))
    width = next(each for each in _WIDTHS if largest <= np.iinfo(each).max)
    digest.update(bytes([np.dtype(width).itemsize]))
    digest.update(integers.astype(np.dtype(width).newbyteorder("<")).data.cast("B"))
    return largest > 0


# --- offline --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JournalReport:
    """rounds: in the order of their steps. head: hash of the last event."""

    path: str
    owner: bytes
    events: int
    head: bytes
    rounds: tuple[JournalRound, ...]


def audit_journal(path: str | Path) -> JournalReport:
    """Verify a journal file offline: chain, signatures, and the order of each step. Raises `LedgerError`."""
    found = audit(path)
    if found.purpose != PURPOSE:
        raise LedgerError(f"{path}: expected a {PURPOSE}, got a {found.purpose}: name the right file")
    rounds = tuple(journal_rounds(found).values())
    return JournalReport(found.path, found.owner, len(found.entries), found.head, rounds)


def journal_rounds(found: Audit) -> dict[int, JournalRound]:
    """The rounds of an audited journal by step. Raises `LedgerError` where the order of events breaks the rules."""
    rounds: dict[int, JournalRound] = {}
    last: dict[int, Entry] = {}
    for entry in found.entries:
        before = last.get(entry.step)
        legal = (before.kind if before else None) in _FOLLOWS.get(entry.kind, ())
        if (
            not legal
            or (before and before.round_id != entry.round_id)
            or (not before and entry.step <= _floor(entry.kind, rounds))
        ):
            raise LedgerError(
                f"{found.path}: event {entry.sequence} ({entry.kind}, step {entry.step}) is not a legal next event"
            )
        last[entry.step] = entry
        rounds[entry.step] = _advanced(
            rounds.get(entry.step), entry.kind, entry.step, entry.model, entry.round_id, entry.start
        )
    return rounds


def _floor(kind: str, rounds: Mapping[int, JournalRound]) -> int:
    """The step that a new one must be above: the last one joined, or, to catch up, the last one accepted."""
    steps = (step for step, each in rounds.items() if kind != "caught up" or each.release is not None)
    return max(steps, default=-1)


def _advanced(
    known: JournalRound | None, kind: str, step: int, model: bytes, round_id: bytes, body: bytes
) -> JournalRound:
    """The round after one more event."""
    if known is None and kind == "caught up":
        return JournalRound(step, model, round_id, None, None, body[_HASH : 2 * _HASH], release=body[:_HASH])
    if known is None:
        offer, anchor, key_holder = body[:_HASH], body[_HASH : 2 * _HASH], body[2 * _HASH : 3 * _HASH]
        return JournalRound(step, model, round_id, offer, anchor, key_holder)
    match kind:
        case "shown":
            return known
        case "contributing":
            # Older journals have no second hash and end here. They stay readable, and their first hashes still count.
            if len(body) < _INTEGERS:
                raise LedgerError(f"step {step}: contribution: expected {_INTEGERS} bytes or more, got {len(body)}")
            _, members, _ = _CIRCUMSTANCES.unpack_from(body, 2 * _HASH)
            return replace(known, roster=body[:_HASH], members=members)
        case "sealed":
            return replace(known, contribution=body[:_HASH])
        case "finished" | "caught up":
            return replace(known, release=body[:_HASH])
        case _:
            return replace(known, aborted=True, abort=body[:_HASH] or None)
