"""Checks of other parties' messages that more than one role makes: who sent it, and does it belong to this round.

Order matters and is the same everywhere: first the cheap comparison with the round (wrong session, round, plan, model),
then the sender against one's own enrolment list, then the signature; only then is anything in the message used.  Each
role's module says what the role does with a verified message.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

from secagg.engines import BUDGETED_ENGINE
from secagg.enrolment import Enrolment
from secagg.errors import (
    DuplicateClient,
    MalformedMessage,
    QuorumNotMet,
    RosterMismatch,
    UnknownClient,
    WrongKey,
    WrongModel,
    WrongPlan,
    WrongRound,
)
from secagg.identity import verify
from secagg.messages import NO_ROSTER, Header, Join, Message, Offer, RobustOffer, RobustRoster, Roster
from secagg.plan import RoundPlan
from secagg.sketchplan import SketchPlan
from secagg.transcript import message_hash, public_key_hash, roster_joins, signed_bytes


def check_same_round(header: Header, expected: Header) -> None:
    """Raise unless all fields that a round's messages share are equal; sender, roster and previous are not compared."""
    for what, error, got, want in (
        ("session", WrongRound, header.session, expected.session),
        ("round", WrongRound, header.round_id, expected.round_id),
        ("step", WrongRound, header.step, expected.step),
        ("plan", WrongPlan, header.plan, expected.plan),
        ("engine", WrongPlan, header.engine, expected.engine),
        ("masking", WrongPlan, header.masked, expected.masked),
        ("public key", WrongKey, header.key, expected.key),
        ("model", WrongModel, header.model, expected.model),
    ):
        if got != want:
            raise error(f"{what}: expected {_show(want)}, got {_show(got)}: refuse this message")


def check_signature(message: Message, sender: bytes) -> bytes:
    """Raise `UnknownClient` unless `sender` is the sender, and `BadSignature` unless it signed.

    Returns the message's hash, equal to `transcript.message_hash`, without a second pass over what was signed.
    """
    if message.header.sender != sender:
        raise UnknownClient(f"sender: expected {_show(sender)}, got {_show(message.header.sender)}")
    signed = signed_bytes(message)
    verify(sender, message.signature, signed)
    return hashlib.sha256(signed).digest()


def check_offer(
    offer: Offer, enrolment: Enrolment, plan: RoundPlan, masked: bool, quorum: int, robust: bool = False
) -> bytes:
    """Check that the enrolled key holder offers this session and plan, with a well-formed key and enough of a quorum.

    robust: whether the offer must be of a robust round. Returns the offer's hash.
    """
    header = offer.header
    if isinstance(offer, RobustOffer) != robust:
        expected, got = ("a robust", "a plain") if robust else ("a plain", "a robust")
        raise WrongPlan(f"offer: expected {expected} round, got {got} one: agree on one setting")
    if header.session != enrolment.session:
        raise WrongRound(f"session: expected {_show(enrolment.session)}, got {_show(header.session)}")
    if header.plan != plan.fingerprint:
        raise WrongPlan(f"plan: expected {_show(plan.fingerprint)}, got {_show(header.plan)}")
    if header.engine != BUDGETED_ENGINE:
        raise WrongPlan(f"engine: expected code {BUDGETED_ENGINE}, got {header.engine}: update one of the parties")
    if header.masked != masked:
        raise WrongPlan(f"masking: expected {_on(masked)}, got {_on(header.masked)}: agree on one setting")
    if header.roster != NO_ROSTER:
        raise MalformedMessage("roster: expected zeros in an offer, got a hash: refuse this offer")
    if not quorum <= offer.quorum <= plan.max_clients:
        raise QuorumNotMet(f"quorum: expected at least {quorum}, got {offer.quorum}: refuse this offer")
    if offer.public_key.params != plan.params:
        raise WrongKey("the offer's key is for other parameters than the plan's: refuse this offer")
    offer.public_key.check()
    if public_key_hash(offer.public_key) != header.key:
        raise WrongKey("the offer's key is not the one that its header names: refuse this offer")
    return check_signature(offer, enrolment.key_holder.key)


def check_robust_offer(
    offer: Offer, enrolment: Enrolment, plan: RoundPlan, quorum: int, sketch: SketchPlan, rule: bytes
) -> bytes:
    """As `check_offer`, of a robust round with this rule and a well-formed second key. Returns the offer's hash."""
    offer_hash = check_offer(offer, enrolment, plan, masked=True, quorum=quorum, robust=True)
    assert isinstance(offer, RobustOffer)
    if offer.rule != rule:
        raise WrongPlan("rule: the offer names another rule, or another number of attackers: agree on one setting")
    if offer.sketch_key.params != sketch.params:
        raise WrongKey("the offer's sketch key is for other parameters than the plan's sketches: refuse this offer")
    offer.sketch_key.check()
    return offer_hash


def check_roster(
    roster: Roster, offer: Offer, enrolment: Enrolment, plan: RoundPlan, quorum: int, own: Join | None = None
) -> bytes:
    """Check a roster of this offer: enough members, all enrolled here and distinct, each with its own signed join.

    own: of the client that checks; it must be among them, unchanged. Returns the roster's hash.
    """
    check_same_round(roster.header, offer.header)
    if isinstance(roster, RobustRoster) != isinstance(offer, RobustOffer):
        raise MalformedMessage("the roster is not of the offer's kind of round, robust or plain: refuse it")
    if roster.header.previous != message_hash(offer) or roster.header.roster != NO_ROSTER:
        raise RosterMismatch("the roster answers another offer: refuse it")
    senders = [entry.sender for entry in roster.entries]
    if any(a == b for a, b in pairwise(senders)):
        raise DuplicateClient("the roster names a client twice: refuse it")
    if senders != sorted(senders):
        raise MalformedMessage("roster: expected entries in ascending order of senders: refuse it")
    needed = max(quorum, offer.quorum)
    if not needed <= len(senders) <= plan.max_clients:
        raise QuorumNotMet(f"roster: expected {needed}..{plan.max_clients} members, got {len(senders)}")
    roster_hash = check_signature(roster, enrolment.key_holder.key)
    joins = roster_joins(roster)
    if own is not None and own not in joins:
        raise RosterMismatch("the roster does not hold this client's own join: refuse the key holder")
    for join in joins:
        enrolment.client(join.header.sender)  # organisations are distinct within the enrolment list
        if join != own:  # one's own signature needs no verifying
            check_signature(join, join.header.sender)
    return roster_hash


def _show(value: object) -> str:
    return value.hex()[:16] if isinstance(value, bytes) else str(value)


def _on(masked: bool) -> str:
    return "on" if masked else "off"
