"""The messages that cross a role boundary: frozen, without logic, in the order of a round.

    offer         key holder -> clients, aggregator    here is a round: key, plan, model, step
    join          client -> key holder                 I take part: ephemeral key, sealed seed
    roster        key holder -> clients, aggregator    exactly these take part, with their own signed joins
    contribution  client -> aggregator                 my update, encrypted and masked
    sum           aggregator -> key holder             the sum of all of them, with every signed hash
    release       key holder -> clients                the exact integer sums
    abort         key holder -> clients, aggregator    this round ends without a release

A robust round has its own offer, join, roster and sum, which hold more, and five messages besides (docs/protocol.md):

    intake        aggregator -> clients                seal your sketches to this key
    sketch        client -> aggregator                 my update in short, encrypted and sealed
    products      aggregator -> key holder             hidden inner products of all sketches
    tally         aggregator -> key holder             every signed hash, before the sum
    late seed     key holder -> clients, aggregator    the seed of the second sketch

`transcript.py` says which bytes a signature covers, `wire.py` turns messages into bytes and back. Payloads are packed
residues (`blocks.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from secagg.arrays import I64
from secagg.blocks import Payload
from secagg.publickey import PublicKey
from secagg.sketchkey import SketchKey

NO_ROSTER = bytes(32)
NO_STEP = 2**64 - 1  # in a statement about an earlier step: there is none


@dataclass(frozen=True)
class Header:
    """What every signature covers besides its own body; all fields of fixed width.

    session, round_id: 16 bytes.  step: [0, 2**63).  sender: Ed25519 public key, 32 bytes.  plan: plan fingerprint, 32.
    engine: code of the noisiest engine allowed.  masked: whether pairwise masks are on.  key: hash of the public
    key, 32.  model: hash of the model that updates refer to, 32.  roster: roster hash, zero before there is one, 32.
    previous: hash of the message that this one answers, 32.
    """

    session: bytes
    round_id: bytes
    step: int
    sender: bytes
    plan: bytes
    engine: int
    masked: bool
    key: bytes
    model: bytes
    roster: bytes
    previous: bytes

    def reply(self, sender: bytes, previous: bytes, roster: bytes | None = None) -> Header:
        """The header of an answer in the same round."""
        # Spelled out: `dataclasses.replace` takes five times as long, and a roster of n has n of them at each client.
        return Header(
            self.session,
            self.round_id,
            self.step,
            sender,
            self.plan,
            self.engine,
            self.masked,
            self.key,
            self.model,
            self.roster if roster is None else roster,
            previous,
        )


@dataclass(frozen=True)
class Offer:
    header: Header
    quorum: int
    agreement_key: bytes  # X25519 public key for the sealed seeds, 32 bytes
    public_key: PublicKey = field(repr=False)
    signature: bytes = field(repr=False)


class Ending(IntEnum):
    """How a round ended for a client."""

    NONE = 0
    RELEASED = 1
    ABORTED = 2


@dataclass(frozen=True, repr=False)
class Seen:
    """What a client saw of this key holder before it joined, for all others to compare (`gossip.py`).

    step: the highest that ended for it.  end: hash of the release or the abort, 32 bytes.  joined: the highest step
    joined before this one.  head: the ledger head that its offer named, 32 bytes.  `NO_STEP` and zeros: there is none.
    """

    ending: Ending
    step: int
    end: bytes
    joined: int
    head: bytes

    def __repr__(self) -> str:
        end, head = self.end.hex()[:16], self.head.hex()[:16]
        return f"Seen({self.ending.name}, step={self.step}, end={end}, joined={self.joined}, head={head})"


NOTHING_SEEN = Seen(Ending.NONE, NO_STEP, bytes(32), NO_STEP, bytes(32))


@dataclass(frozen=True)
class Join:
    header: Header
    agreement_key: bytes  # the client's ephemeral X25519 public key, 32 bytes
    sealed_seed: bytes = field(repr=False)  # AES-256-GCM, 32 + 16 bytes
    seen: Seen
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class RosterEntry:
    """A join without what all joins of a round have in common."""

    sender: bytes
    agreement_key: bytes
    sealed_seed: bytes = field(repr=False)
    seen: Seen
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class Roster:
    header: Header
    entries: tuple[RosterEntry, ...]  # strictly ascending by sender
    signature: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Contribution:
    header: Header
    payload_hash: bytes
    payload: Payload = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class SignedHash:
    """The part of a contribution that the sum names."""

    payload_hash: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class EncryptedSum:
    header: Header
    parts: tuple[SignedHash, ...]  # in roster order
    payload_hash: bytes
    payload: Payload = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Release:
    """contributors: number of clients in the sum. sums: int64[length], exact sums of w * quantised update."""

    header: Header
    contributors: int
    total_weight: int
    sums: I64 = field(repr=False)
    signature: bytes = field(repr=False)


class AbortReason(IntEnum):
    """Why a round ended without a release. Other parties get no more detail than this."""

    REFUSED = 1  # the sum failed a check
    QUORUM = 2  # too few joined
    ABANDONED = 3  # a party vanished, or the key holder restarted
    OUTLIER = 4  # of a robust round: too few stay, or the second look found somebody out


@dataclass(frozen=True)
class Abort:
    header: Header
    reason: AbortReason
    signature: bytes = field(repr=False)


# --- robust rounds --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RobustOffer(Offer):
    """sketch_key: the second key. commitment: to the number k, 32 bytes. rule: `robust.rule_bytes`, 20 bytes."""

    sketch_key: SketchKey = field(repr=False)
    commitment: bytes
    rule: bytes


@dataclass(frozen=True)
class Intake:
    header: Header
    agreement_key: bytes  # the aggregator's ephemeral X25519 public key, 32 bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class RobustJoin(Join):
    sketch_hash: bytes  # hash of the first sketch's residues, 32 bytes


@dataclass(frozen=True)
class RobustEntry(RosterEntry):
    sketch_hash: bytes


@dataclass(frozen=True)
class RobustRoster(Roster):
    left_out: tuple[bytes, ...]  # senders of the joins that the verdict leaves out, strictly ascending


@dataclass(frozen=True, eq=False)
class Sketch:
    """number: 1 or 2. payload_hash: of the residues. sealed: the residues under AES-256-GCM, 16 bytes longer."""

    header: Header
    number: int
    agreement_key: bytes  # the client's, as in its join
    payload_hash: bytes
    sealed: Payload = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class SketchPart:
    """What the products name of a sketch."""

    sender: bytes
    payload_hash: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class Products:
    """parts: in ascending order of senders. payload: `gram.hidden_products` in that order."""

    header: Header
    number: int
    parts: tuple[SketchPart, ...]
    payload_hash: bytes
    payload: Payload = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class Tally:
    header: Header
    parts: tuple[SignedHash, ...]  # in roster order
    signature: bytes = field(repr=False)


@dataclass(frozen=True)
class LateSeed:
    """secret: k, 32 bytes. hashes: of all contributions' payloads, in roster order."""

    header: Header
    secret: bytes
    hashes: tuple[bytes, ...]
    signature: bytes = field(repr=False)


@dataclass(frozen=True, eq=False)
class RobustSum(EncryptedSum):
    """sketches: the sum of the members' last sketches, one block. sketches_hash: its hash."""

    sketches_hash: bytes
    sketches: Payload = field(repr=False)


Message = (
    Offer
    | Join
    | Roster
    | Contribution
    | EncryptedSum
    | Release
    | Abort
    | Intake
    | Sketch
    | Products
    | Tally
    | LateSeed
)
