"""`masks.py` against an independent, slow reference, vectors of both, and the laws that masks must keep.

tests/reference_masks.py is written from the specification and imports nothing of the package; tests/vectors/masks.json
holds what it computes, things that must not open included. The reference itself is held to the standards' own vectors.
"""

from __future__ import annotations

import json
import pickle
from copy import deepcopy

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg import masks
from secagg.errors import BadSeal
from secagg.masks import AgreementKey, MaskStream, MaskTerm
from secagg.parameters import ALLOWED
from secagg.workers import Workers
from tests import reference_masks as reference

VECTORS = json.loads(reference.VECTORS.read_text())
SMALL = ALLOWED[0]
ROSTER_SIZES = (2, 3, 5, 17, 128, 129, 130, 200)


def agreement_key(scalar: bytes) -> AgreementKey:
    """An agreement key with a private key of our choice, which no caller of the package can make."""
    key = AgreementKey()
    key._private_key = X25519PrivateKey.from_private_bytes(scalar)
    key.public = key._private_key.public_key().public_bytes_raw()
    return key


def expanded(key: bytes, block: int, params=SMALL, negative: bool = False) -> np.ndarray:
    """PRG(key) of one block, uint32[primes, N]."""
    rows = np.zeros((len(params.primes), params.degree), dtype=np.uint32)
    MaskStream([MaskTerm(key, negative)], params).apply(block, rows)
    return rows


# --- the reference against the standards ----------------------------------------------------------------------------


def test_the_reference_agrees_with_rfc_7748():
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    u = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    expected = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    assert reference.x25519(scalar, u).hex() == expected  # section 5.2
    nine = (9).to_bytes(32, "little")
    once = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert reference.x25519(nine, nine).hex() == once  # section 5.2, iterated


def test_the_reference_agrees_with_rfc_5869():
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert reference.hkdf(secret, salt, info, 42).hex() == expected  # appendix A.1


def test_the_reference_agrees_with_fips_197():
    round_keys = reference.aes256_round_keys(bytes(range(32)))
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert reference.aes256_block(round_keys, block).hex() == "8ea2b7ca516745bfeafc49904b496089"  # appendix C.3


def test_the_reference_agrees_with_the_gcm_specification():
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    sealed = reference.aes256_gcm(
        key,
        bytes.fromhex("cafebabefacedbaddecaf888"),
        plaintext,
        bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
    )
    assert sealed[-16:].hex() == "76fc6ece0f4e1768cddf8853bb2d551b"  # test case 16 of McGrew and Viega
    assert sealed[:16].hex() == "522dc1f099567d07f47f37a32a84427d"


def test_the_vectors_are_what_the_reference_computes():
    assert json.loads(json.dumps(reference.vectors())) == VECTORS


# --- the package against the vectors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector", VECTORS["residues"], ids=lambda v: f"block {v['block']}, {len(v['primes'])} primes, {v['key'][:4]}"
)
def test_residue_streams_are_the_references(vector):
    params = next(each for each in ALLOWED if list(each.primes) == vector["primes"])
    rows = expanded(bytes.fromhex(vector["key"]), vector["block"], params)
    assert rows.shape[1] == vector["degree"]
    assert rows[:, :4].tolist() == vector["first"]
    assert reference.sha256(rows.astype("<u4").tobytes()).hex() == vector["sha256"]


def test_the_vectors_hold_streams_in_which_words_were_rejected():
    """Without one, a PRG that reduces instead of rejecting would pass."""
    assert any(vector["rejected"] for vector in VECTORS["residues"])


def library_keystream(key: bytes, length: int) -> bytes:
    """Of AES-256-CTR from counter 0, by `cryptography`: for streams that are too long for the reference."""
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(length))


def test_the_librarys_keystream_is_the_references():
    key = reference.bytes32("keystream")
    assert library_keystream(key, 5_000) == reference.aes256_ctr(key, 5_000)


@pytest.mark.parametrize("piece", [None, 2**16, 2**12])
def test_a_whole_block_is_the_references_whatever_the_pieces_of_keystream(monkeypatch, piece):
    """The largest block: up to one word in 200 is rejected, and one call of the cipher is not enough."""
    params, key = ALLOWED[-1], reference.bytes32("whole block")
    rows, used = reference.residues(key, 3, params.primes, params.degree, library_keystream)
    assert used > len(params.primes) * params.degree
    assert 4 * used > len(masks._ZEROS)
    if piece is not None:
        monkeypatch.setattr(masks, "_ZEROS", memoryview(bytes(piece)))
    assert expanded(key, 3, params).tolist() == rows


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
@pytest.mark.parametrize("inverse", [False, True])
def test_masks_of_several_blocks_on_several_threads_are_those_of_one_after_the_other(threads, inverse):
    params = ALLOWED[-1]
    terms = [MaskTerm(reference.bytes32(f"term {i}"), i % 2 == 1) for i in range(3)]
    alone, shared = np.zeros((2, 5, len(params.primes), params.degree), dtype=np.uint32)
    for place in range(5):
        MaskStream(terms, params).apply(7 + place, alone[place], inverse)
    with Workers(threads) as workers:
        MaskStream(terms, params).apply_all(7, shared, workers, inverse)
    assert alone.any(axis=(1, 2)).all() and np.array_equal(alone, shared)


@pytest.mark.parametrize("vector", VECTORS["sealed_seeds"], ids=lambda v: v.get("why", "opens"))
def test_sealed_seeds_open_as_the_vectors_say(vector):
    recipient = agreement_key(bytes.fromhex(vector["recipient_scalar"]))
    arguments = [bytes.fromhex(vector[name]) for name in ("own_public", "offer", "sender")]
    sealed = bytes.fromhex(vector["sealed"])
    if vector["opens"]:
        assert masks.open_seed(sealed, recipient, *arguments).hex() == vector["seed"]
        own = agreement_key(bytes.fromhex(vector["own_scalar"]))
        assert masks.seal_seed(bytes.fromhex(vector["seed"]), own, recipient.public, *arguments[1:]) == sealed
    else:
        with pytest.raises(BadSeal):
            masks.open_seed(sealed, recipient, *arguments)


@pytest.mark.parametrize("vector", VECTORS["pair_keys"], ids=range(3))
def test_pair_keys_are_the_references_and_the_same_on_both_sides(vector):
    i, j = (agreement_key(bytes.fromhex(scalar)) for scalar in vector["scalars"])
    shared = i.shared_with(j.public)
    assert shared == j.shared_with(i.public) == bytes.fromhex(vector["shared"])
    offer, roster = bytes.fromhex(vector["offer"]), bytes.fromhex(vector["roster"])
    one, other = map(bytes.fromhex, vector["identities"])
    for pair in ((one, other), (other, one)):
        assert masks.pair_key(shared, offer, roster, *pair).hex() == vector["key"]


def test_pair_keys_differ_with_offer_roster_and_pair():
    assert len({vector["key"] for vector in VECTORS["pair_keys"]}) == len(VECTORS["pair_keys"])
    names = [reference.bytes32(str(i)) for i in range(3)]
    keys = {
        masks.pair_key(bytes(32), bytes(32), bytes(32), *pair)
        for pair in zip(names, names[1:] + names[:1], strict=True)
    }
    assert len(keys) == 3


@pytest.mark.parametrize("vector", VECTORS["graphs"], ids=lambda v: f"{v['members']} members")
def test_who_masks_with_whom_is_the_references(vector):
    roster = [reference.bytes32(f"member {i}") for i in range(vector["members"])]
    number = {key: i for i, key in enumerate(roster)}
    roster_hash = bytes.fromhex(vector["roster_hash"])
    everyone = [sorted(number[key] for key in masks.peers_of(member, roster, roster_hash)) for member in roster]
    assert everyone[0] == vector["peers_of_0"] and everyone[-1] == vector["peers_of_last"]
    assert reference.sha256(json.dumps(everyone).encode()).hex() == vector["sha256"]


def test_the_degree_is_the_references():
    for members, degree in VECTORS["neighbours_needed"].items():
        assert masks.neighbours_needed(int(members)) == degree


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", ROSTER_SIZES)
def test_the_graph_is_symmetric_regular_and_connected(members):
    roster = [reference.bytes32(f"law {i}") for i in range(members)]
    roster_hash = reference.bytes32("law")
    peers = {member: set(masks.peers_of(member, roster, roster_hash)) for member in roster}
    degree = masks.neighbours_needed(members)
    for member in roster:
        assert len(peers[member]) == degree and member not in peers[member]
        assert all(member in peers[other] for other in peers[member])
    reached, frontier = {roster[0]}, {roster[0]}
    while frontier:
        frontier = set().union(*(peers[member] for member in frontier)) - reached
        reached |= frontier
    assert len(reached) == members


@pytest.mark.parametrize("members", [129, 1_000, 65_536])
def test_the_sparse_graph_falls_apart_with_less_than_the_stated_probability(members):
    degree = masks.neighbours_needed(members)
    log2_failure = 2 * np.log2(members) - 1 + degree * np.log2(masks.COLLUDING_FRACTION)
    assert log2_failure <= masks.GRAPH_FAILURE_LOG2 < log2_failure - 2 * np.log2(masks.COLLUDING_FRACTION)


@pytest.mark.parametrize("members", [2, 3, 6, 130])
def test_pair_terms_cancel_over_the_whole_roster_and_over_no_part_of_it(members):
    roster = sorted(reference.bytes32(f"cancel {i}") for i in range(members))
    roster_hash = reference.bytes32("cancel")
    total = np.zeros((len(SMALL.primes), SMALL.degree), dtype=np.uint32)
    for position, own in enumerate(roster):
        terms = []
        for peer in masks.peers_of(own, roster, roster_hash):
            key = reference.sha256(b"".join(sorted((own, peer))))  # stands for the agreement
            terms.append(MaskTerm(key, negative=own > peer))
        MaskStream(terms, SMALL).apply(0, total)
        if position < members - 1 and members <= 6:
            assert np.count_nonzero(total) > 0.99 * total.size
    assert not total.any()


@settings(max_examples=20, deadline=None)
@given(
    keys=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=4),
    block=st.integers(0, 2**48),
    start=st.integers(0, 2**32 - 1),
)
def test_what_is_added_is_taken_off_again_whatever_stood_there(keys, block, start):
    params = ALLOWED[1]
    rng = np.random.default_rng(start)
    rows = np.stack([rng.integers(0, prime, params.degree, dtype=np.uint32) for prime in params.primes])
    before = rows.copy()
    stream = MaskStream([MaskTerm(key, i % 2 == 1) for i, key in enumerate(keys)], params)
    stream.apply(block, rows)
    assert all((row < prime).all() for row, prime in zip(rows, params.primes, strict=True))
    stream.apply(block, rows, inverse=True)
    assert np.array_equal(rows, before)


def test_a_negative_term_is_the_inverse_of_the_positive_one():
    key, primes = reference.bytes32("sign"), np.array(SMALL.primes)[:, None]
    assert not ((expanded(key, 0).astype(np.int64) + expanded(key, 0, negative=True)) % primes).any()


def test_streams_differ_between_keys_blocks_and_primes():
    rows = [expanded(reference.bytes32(key), block) for key in "ab" for block in (0, 1, 2**33)]
    rows = [row for pair in rows for row in pair]
    for i, one in enumerate(rows):
        for other in rows[i + 1 :]:
            assert (one == other).sum() <= 3


def test_seeds_and_agreement_keys_are_fresh():
    assert len({masks.new_seed() for _ in range(50)}) == 50
    assert len({AgreementKey().public for _ in range(50)}) == 50
    assert all(len(masks.new_seed()) == masks.SEED_BYTES for _ in range(3))


def test_nothing_secret_is_shown_pickled_or_copied():
    key, term = AgreementKey(), MaskTerm(b"\xab" * 32, negative=False)
    stream = MaskStream([term], SMALL)
    secret = key._private_key.private_bytes_raw()
    for shown in (repr(key), str(key), repr(term), repr(stream), repr([term, stream])):
        assert secret.hex() not in shown and repr(secret) not in shown
        assert "ab" * 8 not in shown and "\\xab" not in shown
    for secretive in (key, term, stream):
        for copier in (pickle.dumps, deepcopy):
            with pytest.raises(TypeError):
                copier(secretive)
