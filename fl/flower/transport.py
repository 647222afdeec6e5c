"""Wire bytes inside Flower messages: small ones inline, large ones in parts, never one giant message.

A call is a Flower message of type "train" ("evaluate" for that action): mods see only types that the app behind them
has a function for. Its RecordDict holds the ConfigRecord "secagg" (action, plain fields, short byte strings) and, where
there are long ones, the ArrayRecord "secagg.wires" (uint8 Arrays, which Flower moves in chunks of 5 MiB). A byte string
longer than `PART_BYTES` travels ahead of its call in "put" calls, or behind its answer in "get" calls; each holds one
part, so no process ever needs room for a large message twice.

It does not interpret the bytes. `secagg` signs and hashes them end to end and so detects a part that was lost,
repeated, exchanged or altered on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, ConfigRecordValues, RecordDict

from fl.flower.errors import TransferError
from fl.flower.fields import FREE, check_fields, check_held

CHUNK_BYTES = 5 * 2**20  # Flower's own, flwr.common.constant
PART_BYTES = CHUNK_BYTES
INLINE_BYTES = 2**18
"""Up to this length a byte string is a value of the ConfigRecord: Flower fetches every record, Array and chunk of a
message by a separate request, four times between one app and another."""

V = TypeVar("V")
Bytes = bytes | bytearray | memoryview
Fields = Mapping[str, ConfigRecordValues]

_LONGEST_S = 1e9  # longest duration that a party may report; NaN counts as no report

_STYPE = "secagg.wire"
_CALL, _WIRES = "secagg", "secagg.wires"
RECORDS = frozenset({_CALL, _WIRES})  # all records of a message of the protocol


class Outgoing:
    """A byte string to send, as its pieces: bytes are copied only when a part is taken."""

    def __init__(self, *pieces: Bytes) -> None:
        self._pieces = [memoryview(piece).cast("B") for piece in pieces if len(piece)]

    def __len__(self) -> int:
        return sum(len(piece) for piece in self._pieces)

    @property
    def parts(self) -> int:
        return max(1, -(-len(self) // PART_BYTES))

    def part(self, index: int) -> bytes:
        """Bytes [index * PART_BYTES, (index + 1) * PART_BYTES). Raises `TransferError`."""
        if not 0 <= index < self.parts:
            raise TransferError(f"part: expected 0..{self.parts - 1}, got {index}")
        start, end = index * PART_BYTES, min((index + 1) * PART_BYTES, len(self))
        cut, position = [], 0
        for piece in self._pieces:
            low, high = max(start - position, 0), min(end - position, len(piece))
            if low < high:
                cut.append(piece[low:high])
            position += len(piece)
        return b"".join(cut)

    def whole(self) -> bytes:
        """A copy of the whole byte string."""
        return b"".join(self._pieces)


class Incoming:
    """Collects the parts of a byte string of known length, in any order. A part may come several times.

    Holds only the parts that came: `total` is what the sender claims. total: bytes. limit: the most that this message
    may have; `TransferError` beyond it.
    """

    def __init__(self, total: int, limit: int) -> None:
        if not 0 < total <= limit:
            raise TransferError(f"length: expected 1..{limit} bytes, got {total}: refuse this sender")
        self.total = total
        self._data = bytearray()  # parts 0, 1, ... up to the first missing one
        self._early: dict[int, bytes] = {}  # parts behind the first missing one

    def put(self, index: int, part: Bytes) -> None:
        """Take one part. Raises `TransferError` for a part number or a length that this byte string cannot have."""
        expected = min(PART_BYTES, self.total - index * PART_BYTES)
        if index < 0 or expected <= 0 or len(part) != expected:
            raise TransferError(f"part {index}: expected {max(expected, 0)} bytes, got {len(part)}")
        if self.has(index):
            return
        if index != self._joined:
            self._early[index] = bytes(part)
            return
        self._data += part
        while (following := self._early.pop(self._joined, None)) is not None:
            self._data += following

    def has(self, index: int) -> bool:
        """Whether this part came."""
        return index < self._joined or index in self._early

    def agrees(self, first: Bytes) -> bool:
        """Whether `first` equals part 0, which came before."""
        return memoryview(self._data)[:PART_BYTES] == memoryview(first).cast("B")

    @property
    def held(self) -> int:
        """Bytes received."""
        return len(self._data) + sum(map(len, self._early.values()))

    @property
    def parts(self) -> int:
        return -(-self.total // PART_BYTES)

    @property
    def complete(self) -> bool:
        return len(self._data) == self.total

    def take(self) -> bytearray:
        """The bytes. Raises `TransferError` while parts are missing."""
        if not self.complete:
            missing = self.parts - self._joined - len(self._early)
            raise TransferError(f"{missing} parts are missing: send them before the call")
        return self._data

    @property
    def _joined(self) -> int:
        return -(-len(self._data) // PART_BYTES)


@dataclass(frozen=True)
class Call:
    """A request or an answer.

    fields: plain values. wires: byte strings by name; larger ones are held at the sender or receiver and named in
    `held` with their length.
    """

    fields: Fields = field(default_factory=dict)
    wires: Mapping[str, Bytes] = field(default_factory=dict, repr=False)
    held: Mapping[str, int] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A field that must be a string. Raises `TransferError`."""
        value = self.fields.get(name)
        if not isinstance(value, str):
            raise TransferError(f"field {name}: expected text, got {type(value).__name__}")
        return value

    def number(self, name: str) -> int:
        """A field that must be an integer. Raises `TransferError`."""
        value = self.fields.get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TransferError(f"field {name}: expected an integer, got {type(value).__name__}")
        return value

    def octets(self, name: str) -> bytes:
        """A field that must be bytes. Raises `TransferError`."""
        value = self.fields.get(name)
        if not isinstance(value, bytes):
            raise TransferError(f"field {name}: expected bytes, got {type(value).__name__}")
        return value

    def seconds(self, name: str) -> float:
        """A duration that a party reports about itself; 0.0 when it reports none. For display only."""
        value = self.fields.get(name)
        return float(value) if isinstance(value, (int, float)) and 0 <= value < _LONGEST_S else 0.0

    def wire(self, name: str) -> Bytes:
        """A byte string that must be there. Raises `TransferError`."""
        if name not in self.wires:
            raise TransferError(f"wire {name!r} is missing; got {', '.join(sorted(self.wires)) or 'none'}")
        return self.wires[name]

    def numbered(self, name: str) -> list[Bytes]:
        """Byte strings name-0, name-1, ... in order."""
        parts: list[Bytes] = []
        while f"{name}-{len(parts)}" in self.wires:
            parts.append(self.wires[f"{name}-{len(parts)}"])
        return parts


def numbered(name: str, wires: Sequence[Bytes]) -> dict[str, Bytes]:
    """The inverse of `Call.numbered`."""
    return {f"{name}-{index}": wire for index, wire in enumerate(wires)}


def message_type(action: str) -> str:
    """The Flower message type that carries an action."""
    return "evaluate" if action == "evaluate" else "train"


def action_of(records: RecordDict) -> str | None:
    """The action of a message's content; None if it is not of the protocol."""
    config = records.config_records.get(_CALL)
    action = None if config is None else config.get("action")
    return action if isinstance(action, str) else None


def to_records(call: Call, action: str) -> RecordDict:
    """A call, or the answer to it, as Flower's records."""
    config = ConfigRecord({**call.fields, "action": action})
    config["held_names"] = list(call.held)
    config["held_lengths"] = list(call.held.values())
    short = {name: bytes(wire) for name, wire in call.wires.items() if len(wire) <= INLINE_BYTES}
    config["short_names"] = list(short)
    config["short_wires"] = list(short.values())
    records = RecordDict({_CALL: config})
    arrays = {
        name: Array(dtype="uint8", shape=(len(wire),), stype=_STYPE, data=bytes(wire))
        for name, wire in call.wires.items()
        if name not in short
    }
    if arrays:
        records[_WIRES] = ArrayRecord(array_dict=dict(arrays))
    return records


def from_records(records: RecordDict) -> Call:
    """The inverse of `to_records`. Raises `TransferError` for records that no call has, or fields out of range."""
    config = records.config_records.get(_CALL)
    if config is None:
        raise TransferError(f"expected the record {_CALL!r}, got {', '.join(map(repr, records)) or 'none'}")
    fields = {name: value for name, value in config.items() if name != "action"}
    held = _paired(fields, "held_names", "held_lengths", int)
    wires: dict[str, Bytes] = dict(_paired(fields, "short_names", "short_wires", bytes))
    for name, length in held.items():
        check_held(name, length)
    if action_of(records) != FREE:
        check_fields(fields)
    for name, array in records.array_records.get(_WIRES, ArrayRecord()).items():
        if array.stype != _STYPE or array.dtype != "uint8" or tuple(array.shape) != (len(array.data),):
            raise TransferError(
                f"wire {name!r}: expected {_STYPE} bytes, got {array.stype} {array.dtype} {array.shape}"
            )
        wires[name] = array.data
    return Call(fields, wires, held)


def _paired(fields: dict[str, Any], first: str, second: str, kind: type[V]) -> dict[str, V]:
    """Names and values that a ConfigRecord carries as two lists; both are taken out of `fields`."""
    names, values = fields.pop(first, None), fields.pop(second, None)
    if not isinstance(names, list) or not isinstance(values, list) or len(names) != len(values):
        raise TransferError(f"call: expected {first} and as many {second}: send both lists")
    if not all(isinstance(name, str) for name in names) or not all(type(value) is kind for value in values):
        raise TransferError(f"{second}: expected {kind.__name__} values by name")
    return dict(zip(names, values, strict=True))
