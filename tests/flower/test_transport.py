"""Byte strings through Flower's records: round trips, parts, and what a hostile sender can put there."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fl.flower import transport
from fl.flower.errors import TransferError
from fl.flower.transport import CHUNK_BYTES, PART_BYTES, Call, Incoming, Outgoing, from_records, numbered, to_records

fields = st.dictionaries(
    st.text("abcdef_", min_size=1, max_size=8).filter(lambda name: name != "action"),
    st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False), st.text(max_size=20)),
    max_size=5,
)


@given(
    fields,
    st.dictionaries(st.text("xyz-", min_size=1, max_size=6), st.binary(max_size=200), max_size=4),
    st.sampled_from([0, 50, 10**6]),
)
def test_a_call_arrives_as_it_was_sent(plain: dict[str, object], wires: dict[str, bytes], inline: int) -> None:
    original, transport.INLINE_BYTES = transport.INLINE_BYTES, inline
    sent = Call(plain, wires, {"sum": 12_345})  # type: ignore[arg-type]
    try:
        records = to_records(sent, "evaluate")  # the one action whose fields are the app's own
    finally:
        transport.INLINE_BYTES = original
    arrived = from_records(records)
    assert dict(arrived.fields) == plain
    assert {name: bytes(wire) for name, wire in arrived.wires.items()} == wires
    assert arrived.held == {"sum": 12_345}
    assert transport.action_of(records) == "evaluate"


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 17))
def test_parts_put_together_in_any_order_give_the_bytes(pieces: list[bytes], part_bytes: int) -> None:
    whole = b"".join(pieces)
    original, transport.PART_BYTES = transport.PART_BYTES, part_bytes
    try:
        outgoing = Outgoing(*pieces)
        assert outgoing.whole() == whole and len(outgoing) == len(whole)
        if not whole:
            return
        incoming = Incoming(len(whole), limit=len(whole))
        order = list(np.random.default_rng(len(whole)).permutation(outgoing.parts))
        for index in [*order, order[0]]:  # one of them twice
            assert len(outgoing.part(int(index))) <= part_bytes
            incoming.put(int(index), outgoing.part(int(index)))
        assert bytes(incoming.take()) == whole
    finally:
        transport.PART_BYTES = original


def test_a_part_is_one_of_flowers_chunks() -> None:
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

    assert CHUNK_BYTES == FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE == 5 * 2**20
    records = to_records(Call({}, {"part": bytes(PART_BYTES)}), "put")
    (array,) = records.array_records["secagg.wires"].values()
    assert [len(chunk.data) for _, chunk in array.slice_array()] == [CHUNK_BYTES]


@pytest.mark.parametrize("total", [0, -1, 101])
def test_a_length_beyond_what_a_message_may_have_allocates_nothing(total: int) -> None:
    with pytest.raises(TransferError, match=r"1\.\.100 bytes"):
        Incoming(total, limit=100)


@pytest.mark.parametrize(("index", "length"), [(1, 50), (-1, 50), (0, 49), (0, 51), (10**9, 1)])
def test_a_part_that_the_message_does_not_have_is_refused(index: int, length: int) -> None:
    incoming = Incoming(50, limit=100)
    with pytest.raises(TransferError, match="part"):
        incoming.put(index, bytes(length))
    assert not incoming.complete


def test_bytes_with_a_part_missing_are_not_handed_out() -> None:
    incoming = Incoming(PART_BYTES + 1, limit=2 * PART_BYTES)
    incoming.put(1, b"x")
    with pytest.raises(TransferError, match="1 parts are missing"):
        incoming.take()


def record(**changes: object) -> RecordDict:
    lists = {"held_names": [], "held_lengths": [], "short_names": [], "short_wires": []}
    return RecordDict({"secagg": ConfigRecord({"action": "join", **lists, **changes})})  # type: ignore[dict-item]


def with_array(array: Array) -> RecordDict:
    records = record()
    records["secagg.wires"] = ArrayRecord({"join": array})
    return records


def test_the_record_that_the_next_test_damages_is_a_call() -> None:
    assert from_records(record()) == Call()


@pytest.mark.parametrize(
    "records",
    [
        RecordDict(),
        RecordDict({"secagg": ConfigRecord({"action": "join"})}),
        record(held_names=["a"]),
        record(held_names=[1], held_lengths=[1]),
        record(held_names=["a"], held_lengths=["b"]),
        record(held_names=["a"], held_lengths=[1.5]),
        record(short_names=["a"], short_wires=["text"]),
        record(short_names="a", short_wires=b"a"),
        with_array(Array(np.zeros(3))),
        with_array(Array(dtype="uint8", shape=(4,), stype="secagg.wire", data=b"abc")),
    ],
)
def test_records_that_no_call_has_are_refused_by_name(records: RecordDict) -> None:
    with pytest.raises(TransferError):
        from_records(records)


def test_a_field_of_another_type_is_refused_where_it_is_read() -> None:
    call = Call({"step": "seven", "name": 7, "flag": True, "train_seconds": "long"})
    for read in (lambda: call.number("step"), lambda: call.text("name"), lambda: call.number("flag")):
        with pytest.raises(TransferError):
            read()
    assert call.seconds("train_seconds") == 0.0  # for display only: never worth a round
    with pytest.raises(TransferError, match="missing"):
        call.wire("offer")


def test_numbered_byte_strings_keep_their_order() -> None:
    wires = [bytes([value]) for value in range(12)]
    assert Call({}, numbered("join", wires)).numbered("join") == wires
