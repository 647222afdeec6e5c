"""Compares what members saw of the key holder, so that a forked ledger is found in the next roster.

Each join states, under its client's signature, how the last round that ended for this client ended, and which ledger
head the last offer that it joined had named. A roster shows all joins to everybody. An honest key holder has one
ledger, with one offer for each step and one end of it. So for any two parties:

    if both saw a step end            both saw the same release, or the same abort
    if both joined a step             both saw the same head of the ledger before it
    if they saw offers of two steps   these name two heads, because each offer is an event that changes the head

A client compares the statements of all members with each other and with its own journal. A client that missed a
step states nothing about it. A statement about a step that this client missed is compared with the other statements
alone. The key holder compares each join with its ledger, and so notices when its own file was rolled back.

The comparison does not show which of two members tells the truth. It finds a fork only where a key holder told two
members different things.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secagg.errors import HistoryMismatch, MalformedMessage
from secagg.messages import NO_STEP, Ending, Seen

_LEDGER = "the key holder's ledger"
_WORDS = {Ending.RELEASED: "released", Ending.ABORTED: "aborted"}


@dataclass(frozen=True)
class Known:
    """What one party knows about a step. end: hash of its release or abort. head: named by its offer. None: unknown."""

    ending: Ending = Ending.NONE
    end: bytes | None = None
    head: bytes | None = None


Memory = Callable[[int], Known]  # step -> what the party that compares knows itself


def check_range(seen: Seen, step: int) -> None:
    """Raise `MalformedMessage` unless a statement in a join for `step` is about earlier steps."""
    for what, earlier in (("ended", seen.step), ("joined before", seen.joined)):
        if earlier != NO_STEP and earlier >= step:
            raise MalformedMessage(f"join for step {step}: expected a step {what} below it, got {earlier}: refuse it")


def check_with_ledger(who: str, seen: Seen, ledger: Memory) -> None:
    """Compare a statement with a ledger, which knows every step there was. Raises `HistoryMismatch`."""
    if seen.ending is not Ending.NONE:
        held = ledger(seen.step)
        if (held.ending, held.end) != (seen.ending, seen.end):
            raise _mismatch(seen.step, who, _told(seen.ending, seen.end), _LEDGER, _told(held.ending, held.end))
    if seen.joined != NO_STEP:
        head = ledger(seen.joined).head
        if head != seen.head:
            other = "holds no such offer" if head is None else f"offered it after ledger head {_short(head)}"
            raise _mismatch(seen.joined, who, f"was offered it after ledger head {_short(seen.head)}", _LEDGER, other)


def _check_with_journal(who: str, seen: Seen, own: Memory, owner: str) -> None:
    if seen.ending is not Ending.NONE:
        known = own(seen.step)
        if known.ending is not Ending.NONE and known.end is not None:
            _same_end(seen.step, who, (seen.ending, seen.end), owner, (known.ending, known.end))
        elif known.ending not in (Ending.NONE, seen.ending):
            raise _mismatch(seen.step, who, _told(seen.ending, seen.end), owner, _told(known.ending, known.end))
    if seen.joined != NO_STEP:
        head = own(seen.joined).head
        if head is not None:
            _same_head(seen.joined, who, seen.head, owner, head)


def check_statements(statements: Sequence[tuple[str, Seen]], step: int, head: bytes, own: Memory, owner: str) -> None:
    """Compare all statements of a roster, (organisation, statement), with each other and with one's own memory.

    step, head: of the offer that the roster answers. Equal statements are looked up once. Raises `HistoryMismatch`,
    naming two parties and the step.
    """
    offered: dict[bytes, tuple[str, int]] = {head: ("the key holder", step)}
    ends: dict[int, tuple[str, tuple[Ending, bytes]]] = {}
    heads: dict[int, tuple[str, bytes]] = {}
    for who, seen in statements:
        if seen.ending is not Ending.NONE:
            first, end = ends.setdefault(seen.step, (who, (seen.ending, seen.end)))
            _same_end(seen.step, who, (seen.ending, seen.end), first, end)
        if seen.joined != NO_STEP:
            first, other = heads.setdefault(seen.joined, (who, seen.head))
            _same_head(seen.joined, who, seen.head, first, other)
            first, after = offered.setdefault(seen.head, (who, seen.joined))
            if after != seen.joined:
                saw = f"was offered it after ledger head {_short(seen.head)}"
                raise _mismatch(seen.joined, who, saw, first, f"has step {after} after the same head")
    for who, seen in {seen: (who, seen) for who, seen in statements}.values():
        _check_with_journal(who, seen, own, owner)


def _same_end(step: int, a: str, end: tuple[Ending, bytes], b: str, other: tuple[Ending, bytes]) -> None:
    if end != other:
        raise _mismatch(step, a, _told(*end), b, _told(*other))


def _same_head(step: int, a: str, head: bytes, b: str, other: bytes) -> None:
    if head != other:
        a_saw = f"was offered it after ledger head {_short(head)}"
        raise _mismatch(step, a, a_saw, b, f"was offered it after ledger head {_short(other)}")


def _mismatch(step: int, a: str, saw: str, b: str, other: str) -> HistoryMismatch:
    return HistoryMismatch(
        f"step {step}: {a} {saw}, {b} {other}: the key holder's ledger was forked or rolled back, or one of the two "
        "made a false statement: stop, and compare the ledger with the journals (demos audit)"
    )


def _told(ending: Ending, end: bytes | None) -> str:
    if ending is Ending.NONE:
        return "has no record of its end"
    return f"saw it {_WORDS[ending]}{f' as {_short(end)}' if end else ''}"


def _short(digest: bytes) -> str:
    return digest.hex()[:16]
