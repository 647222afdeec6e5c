"""Identities: a file only its owner can read, a passphrase asked for by name, and nothing that shows the key."""

from __future__ import annotations

import json
import os
import stat

import pytest

from secagg import identity as identity_module
from secagg.errors import BadSignature, IdentityError
from secagg.identity import Identity, Member, every_party_alone, verify


@pytest.fixture
def identity() -> Identity:
    return Identity.generate("Bank Ä")


def test_a_signature_verifies_under_its_own_key_and_message_only(identity):
    signature = identity.sign(b"message")
    identity.member.verify(signature, b"message")
    other = Identity.generate("other")
    for key, sig, message in (
        (other.key, signature, b"message"),
        (identity.key, signature, b"another"),
        (identity.key, signature[:-1] + bytes([signature[-1] ^ 1]), b"message"),
        (identity.key, signature[:63], b"message"),
        (b"short", signature, b"message"),
    ):
        with pytest.raises(BadSignature):
            verify(key, sig, message)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_saved_identity_comes_back_and_only_its_user_can_read_it(identity, tmp_path, passphrase):
    old = os.umask(0)  # the mode must not depend on the caller's umask
    try:
        identity.save(tmp_path / "key", passphrase)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    loaded = Identity.load(tmp_path / "key", "Bank Ä", passphrase)
    assert loaded.member == identity.member
    verify(identity.key, loaded.sign(b"x"), b"x")


def test_a_passphrase_keeps_the_private_key_out_of_the_file(identity, tmp_path):
    identity.save(tmp_path / "plain")
    identity.save(tmp_path / "sealed", b"correct horse")
    raw = identity._private_key.private_bytes_raw().hex()
    assert raw in (tmp_path / "plain").read_text()
    assert raw not in (tmp_path / "sealed").read_text()


@pytest.mark.parametrize(
    ("saved_with", "loaded_with", "said"),
    [
        (b"right", b"wrong", "the passphrase is wrong"),
        (b"right", None, "is encrypted, and no passphrase was given"),
        (b"right", b"", "passphrase: expected at least one byte"),
        (None, b"any", "is not encrypted, but a passphrase was given"),
    ],
)
def test_a_wrong_missing_or_needless_passphrase_is_refused_by_name(identity, tmp_path, saved_with, loaded_with, said):
    identity.save(tmp_path / "key", saved_with)
    with pytest.raises(IdentityError, match=said):
        Identity.load(tmp_path / "key", passphrase=loaded_with)


def test_an_empty_passphrase_never_means_an_unencrypted_file(identity, tmp_path):
    with pytest.raises(IdentityError, match="passphrase: expected at least one byte"):
        identity.save(tmp_path / "key", b"")
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620, 0o400, 0o700, 0o1600])
def test_a_file_that_others_can_reach_is_refused_with_the_command_to_fix_it(identity, tmp_path, mode):
    identity.save(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(IdentityError, match="chmod 600"):
        Identity.load(tmp_path / "key")


@pytest.mark.parametrize(
    ("link", "said"),
    [("symbolic", "is a symbolic link; name the file itself"), ("hard", "has 2 names"), ("pipe", "not a regular file")],
)
def test_a_key_file_that_is_a_link_is_not_read(identity, tmp_path, link, said):
    identity.save(tmp_path / "elsewhere")
    if link == "pipe":
        os.mkfifo(tmp_path / "key", 0o600)  # nobody writes into it: to read it would be to wait for ever
    else:
        make = (tmp_path / "key").symlink_to if link == "symbolic" else (tmp_path / "key").hardlink_to
        make(tmp_path / "elsewhere")
    with pytest.raises(IdentityError, match=said):
        Identity.load(tmp_path / "key")


def test_a_file_without_an_end_is_no_identity(tmp_path):
    (tmp_path / "key").write_bytes(b" " * (1 << 20))
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(IdentityError, match="not an identity"):
        Identity.load(tmp_path / "key")


def test_an_identity_is_never_overwritten(identity, tmp_path):
    identity.save(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(IdentityError, match="never overwritten"):
        Identity.generate("other").save(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_a_file_that_cannot_be_written_completely_leaves_none_behind(identity, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        identity.save(tmp_path / "key")
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda f: f.update(organisation="Bank B"),
        lambda f: f.update(public_key=Identity.generate("x").key.hex()),
        lambda f: f.update(
            sealed_private_key=f"{int(f['sealed_private_key'][:2], 16) ^ 1:02x}" + f["sealed_private_key"][2:]
        ),
        lambda f: f.update(salt="00" * 16),
        lambda f: f.update(nonce="00" * 12),
        lambda f: f.update(nonce=7),
        lambda f: f.update(organisation=7),
        lambda f: f.pop("sealed_private_key"),
        lambda f: f.update(private_key="00"),
        lambda f: f.update(private_key="zz"),
        lambda f: f.update(format="secagg identity 2"),
    ],
)
def test_an_edited_identity_is_refused(identity, tmp_path, edit):
    identity.save(tmp_path / "key", b"pw")
    fields = json.loads((tmp_path / "key").read_text())
    edit(fields)
    (tmp_path / "key").write_text(json.dumps(fields))
    with pytest.raises(IdentityError):
        Identity.load(tmp_path / "key", passphrase=b"pw")


def test_a_private_key_under_another_public_key_is_refused(identity, tmp_path):
    identity.save(tmp_path / "key")
    fields = json.loads((tmp_path / "key").read_text())
    fields["public_key"] = Identity.generate("x").key.hex()
    (tmp_path / "key").write_text(json.dumps(fields))
    with pytest.raises(IdentityError, match="not the one of its public key"):
        Identity.load(tmp_path / "key")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"-----BEGIN PRIVATE KEY-----", b"[" * 100_000])
def test_a_file_that_is_no_identity_is_refused(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(IdentityError, match="not an identity"):
        Identity.load(tmp_path / "key")


def test_a_missing_file_and_anothers_identity_are_refused_by_name(identity, tmp_path):
    with pytest.raises(IdentityError, match="make an identity first"):
        Identity.load(tmp_path / "key")
    identity.save(tmp_path / "key")
    with pytest.raises(IdentityError, match="expected the identity of 'Bank B'"):
        Identity.load(tmp_path / "key", "Bank B")


@pytest.mark.parametrize(
    "name", ["", " Bank", "Bank ", "x" * 201, "Bank\x1b[31m", "Ba\u200bnk", "Bank\n", "Ba\u0308nk", "\u202eknaB"]
)
def test_names_that_could_look_like_others_on_a_screen_are_refused(name):
    with pytest.raises(IdentityError, match="printable"):
        Member(name, bytes(32))


def test_a_key_of_another_length_is_refused():
    with pytest.raises(IdentityError, match="32 bytes, got 31"):
        Member("Bank", bytes(31))


def test_keyed_hashes_differ_by_identity_and_purpose(identity):
    def name(who: Identity, purpose: bytes) -> bytes:
        made = who.keyed_hash(purpose)
        made.update(b"value")
        return made.digest()

    assert name(identity, b"a") == name(identity, b"a")
    assert len({name(identity, b"a"), name(identity, b"b"), name(Identity.generate("Bank Ä"), b"a")}) == 3


# --- signatures that are known to be good -----------------------------------------------------------------------------


@pytest.fixture
def verifications(monkeypatch):
    """Counts the signatures that are really computed anew."""
    identity_module._good.clear()
    counted = []
    real = identity_module.Ed25519PublicKey

    class Counting:
        @staticmethod
        def from_public_bytes(key):
            counted.append(key)
            return real.from_public_bytes(key)

    monkeypatch.setattr(identity_module, "Ed25519PublicKey", Counting)
    yield counted
    identity_module._good.clear()


def test_a_signature_that_verified_is_not_verified_again_unless_every_party_is_to_be_alone(identity, verifications):
    signature = identity.sign(b"message")
    for _ in range(3):
        verify(identity.key, signature, b"message")
    assert len(verifications) == 1
    with every_party_alone():
        for _ in range(3):
            verify(identity.key, signature, b"message")
        verify(identity.key, identity.sign_for_roles(b"for roles"), b"for roles")
    assert len(verifications) == 5
    for _ in range(3):
        verify(identity.key, signature, b"message")
    assert len(verifications) == 6


def test_only_exactly_what_verified_is_taken_for_verified(identity, verifications):
    signature, other = identity.sign(b"message"), Identity.generate("other")
    verify(identity.key, signature, b"message")
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    moved = (identity.key + signature[:1], signature[1:])  # the same bytes, cut elsewhere
    for key, signed, message in (
        (identity.key, signature, b"message2"),
        (identity.key, flipped, b"message"),
        (other.key, signature, b"message"),
        (*moved, b"message"),
        (identity.key, signature + b"\0", b"message"),
    ):
        for _ in range(2):  # a failure is no memory either
            with pytest.raises(BadSignature):
                verify(key, signed, message)


def test_what_a_role_signs_is_good_for_roles_of_the_same_process_and_a_bare_signature_is_verified(
    identity, verifications
):
    verify(identity.key, identity.sign_for_roles(b"for roles"), b"for roles")
    assert verifications == []
    verify(identity.key, identity.sign(b"bare"), b"bare")
    assert verifications == [identity.key]
    with pytest.raises(BadSignature):
        verify(identity.key, identity.sign_for_roles(b"for roles"), b"for others")


def test_the_memory_of_good_signatures_is_bounded(identity, verifications, monkeypatch):
    monkeypatch.setattr(identity_module, "_remembered", 3)
    signatures = {number: identity.sign_for_roles(b"%d" % number) for number in range(10)}
    assert len(identity_module._good) == 3
    verify(identity.key, signatures[9], b"9")
    assert verifications == []
    verify(identity.key, signatures[0], b"0")
    assert len(verifications) == 1 and len(identity_module._good) == 3
