"""Payload hashes equal an independent BLAKE3, bind order and length, and do not depend on threads or on forks."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
import reference_blake3 as reference
from forked import in_a_child
from hypothesis import given, settings
from hypothesis import strategies as st
from simulator import Federation, Peers, with_digest

from secagg import errors, wire
from secagg.blocks import payload_hash
from secagg.hashing import large_hash
from secagg.messages import AbortReason, Contribution
from secagg.parameters import ALLOWED
from secagg.transcript import signed_bytes

VECTORS = json.loads(reference.VECTORS.read_text(encoding="utf-8"))
LARGE = bytes(range(256)) * (5 << 12)  # 5 MiB: hashed by several threads where they are allowed


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: str(case["length"]))
def test_hashes_equal_the_vectors(case: dict[str, int | str]) -> None:
    assert payload_hash(reference.pattern(int(case["length"]))).hex() == case["hash"]


def test_the_vectors_are_what_the_reference_computes() -> None:
    for case in VECTORS["cases"]:
        if case["length"] <= 5121:
            assert reference.blake3(reference.pattern(case["length"])).hex() == case["hash"]
    # Published with the function (test_vectors.json of the BLAKE3 team): no input, and one byte of zero.
    published = ["af1349b9f5f9a1a6a0404dea36dcc949", "2d3adedff11b61f14c886e35afa03673"]
    assert [case["hash"][:32] for case in VECTORS["cases"][:2]] == published


def test_the_hash_does_not_depend_on_threads_or_on_the_kind_of_buffer() -> None:
    expected = payload_hash(LARGE, 1)
    for threads in (None, 2, 3):
        assert payload_hash(LARGE, threads) == expected
    assert payload_hash(bytearray(LARGE)) == payload_hash(memoryview(LARGE)) == expected
    assert large_hash(np.frombuffer(LARGE, dtype="<u8")) == large_hash(np.frombuffer(LARGE, dtype=np.uint8)) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_hashes_a_large_payload_after_its_parent_did() -> None:
    """A pool of threads that the child inherited would leave it waiting for ever."""
    expected = payload_hash(LARGE, 2)
    assert in_a_child(lambda: payload_hash(LARGE, 2) == expected) == "True"


@given(st.integers(1, 5), st.integers(0, 1023))
@settings(max_examples=15, deadline=None)
def test_no_node_of_the_tree_stands_for_another_payload(chunks: int, more: int) -> None:
    """A payload made of two inner nodes does not have the hash of what is above them: flags keep the kinds apart."""
    data = reference.pattern(1024 * chunks + more + 1)
    half = 1024
    while 2 * half < len(data):
        half *= 2
    nodes = reference.inner_node(data[:half]) + reference.inner_node(data[half:], half // 1024)
    assert payload_hash(nodes) != payload_hash(data)
    hashes = payload_hash(data[:half]) + payload_hash(data[half:])
    assert payload_hash(hashes) != payload_hash(data)
    assert reference.inner_node(data) != payload_hash(data)


def test_a_chunk_has_another_node_at_another_place() -> None:
    chunk = reference.pattern(1024)
    assert len({reference.inner_node(chunk, place) for place in range(4)}) == 4


@given(st.binary(min_size=1, max_size=3000), st.integers(1, 2000))
@settings(max_examples=50, deadline=None)
def test_bytes_added_or_left_out_at_an_end_change_the_hash(data: bytes, count: int) -> None:
    others = [data + bytes(count), bytes(count) + data, data[:-1], data[1:], data + data]
    hashes = {payload_hash(each) for each in {data, *others}}
    assert len(hashes) == len({data, *others})


# --- in a round -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sent() -> tuple[Peers, list[Contribution]]:
    """Contributions of three blocks each, and an aggregator that waits for them."""
    federation = Federation(length=6 * 4096, params=ALLOWED[0])
    assert federation.plan.blocks >= 3
    peers = Peers(federation)
    offer, roster, contributions = peers.contributions(1, [federation.update(seed) for seed in range(3)])
    peers.aggregator.open(offer, roster)
    return peers, contributions


def swapped(payload: bytes, size: int) -> bytes:
    return payload[size : 2 * size] + payload[:size] + payload[2 * size :]


CHANGES = {
    "two blocks change places": (swapped, errors.DigestMismatch),
    "a block stands twice": (lambda p, n: p[:n] + p[:n] + p[2 * n :], errors.DigestMismatch),
    "the last block is missing": (lambda p, n: p[:-n], errors.TruncatedMessage),
    "a block more": (lambda p, n: p + p[-n:], errors.OversizedMessage),
    "the last byte moves to the front": (lambda p, n: p[-1:] + p[:-1], errors.DigestMismatch),
}


@pytest.mark.parametrize("change", CHANGES)
def test_moved_missing_and_added_blocks_are_refused_and_change_no_sum(sent, change: str) -> None:
    peers, contributions = sent
    plan, aggregator = peers.plan, peers.aggregator
    make, error = CHANGES[change]
    before = [aggregator._running_sum().block(index).copy() for index in range(plan.blocks)]
    payload = bytes(contributions[0].payload)
    changed = make(payload, plan.params.ciphertext_bytes)
    data = bytearray(wire.encode(replace(contributions[0], payload=changed), plan))
    with pytest.raises(error):
        aggregator.receive(wire.decode(with_digest(bytes(data), plan) if len(changed) == len(payload) else data, plan))
    for index, block in enumerate(before):
        np.testing.assert_array_equal(aggregator._running_sum().block(index), block)


def test_the_hash_of_other_blocks_in_place_of_the_signed_one_is_a_bad_signature(sent) -> None:
    peers, contributions = sent
    payload = swapped(bytes(contributions[0].payload), peers.plan.params.ciphertext_bytes)
    renamed = replace(contributions[0], payload=payload, payload_hash=payload_hash(payload))
    with pytest.raises(errors.BadSignature):
        peers.aggregator.receive(renamed)


def test_signatures_name_the_version_in_which_what_they_cover_changed(sent) -> None:
    """Aborts have not changed since version 2, whose ledgers and journals hold their hashes."""
    _, contributions = sent
    assert signed_bytes(contributions[0])[:32] == b"secagg v4 contribution".ljust(32, b"\0")
    other = Peers(Federation())
    other.key_holder.open(1, bytes(32))
    abort = other.key_holder.abort(AbortReason.QUORUM)
    assert signed_bytes(abort)[:32] == b"secagg v2 abort".ljust(32, b"\0")


def test_a_signature_over_the_sha256_of_version_2_is_refused(sent) -> None:
    peers, contributions = sent
    old = hashlib.sha256(contributions[0].payload).digest()
    unsigned = replace(contributions[0], payload_hash=old, signature=b"")
    identity = next(b for b in peers.federation.banks if b.key == unsigned.header.sender)
    with pytest.raises(errors.DigestMismatch):
        peers.aggregator.receive(replace(unsigned, signature=identity.sign(signed_bytes(unsigned))))
