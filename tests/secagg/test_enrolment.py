"""Enrolment: one role and one key per organisation, a fingerprint over all of it, and no edited list or entry."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from secagg.enrolment import Enrolment, load_public_entry, public_entry, save_public_entry
from secagg.errors import EnrolmentError, UnknownClient
from secagg.identity import Identity, Member


def member(name: str, number: int) -> Member:
    return Member(name, bytes([number]) * 32)


KEY_HOLDER, AGGREGATOR = member("Key Holder", 1), member("Aggregator", 2)
BANKS = (member("Bank A", 3), member("Bank B", 4), member("Bank C", 5))


@pytest.fixture
def enrolment() -> Enrolment:
    return Enrolment(bytes(range(16)), KEY_HOLDER, AGGREGATOR, BANKS)


def test_the_fingerprint_is_pinned(enrolment):
    # SHA-256 over: format, session, then role letter, key, length of the name (u16) and name; clients by key.
    import hashlib

    encoded = b"secagg enrolment 1" + bytes(range(16))
    for letter, each in ((b"K", KEY_HOLDER), (b"A", AGGREGATOR), *((b"C", bank) for bank in BANKS)):
        encoded += letter + each.key + len(each.organisation).to_bytes(2, "little") + each.organisation.encode()
    assert enrolment.fingerprint == hashlib.sha256(encoded).hexdigest()


def test_the_order_of_clients_does_not_change_the_fingerprint():
    made = {Enrolment(bytes(16), KEY_HOLDER, AGGREGATOR, order).fingerprint for order in permutations(BANKS)}
    assert len(made) == 1


@pytest.mark.parametrize(
    "other",
    [
        Enrolment(bytes(16), KEY_HOLDER, AGGREGATOR, BANKS),
        Enrolment(bytes(range(16)), AGGREGATOR, KEY_HOLDER, BANKS),
        Enrolment(bytes(range(16)), KEY_HOLDER, BANKS[0], (AGGREGATOR, *BANKS[1:])),
        Enrolment(bytes(range(16)), KEY_HOLDER, AGGREGATOR, BANKS[:2]),
        Enrolment(bytes(range(16)), KEY_HOLDER, AGGREGATOR, (*BANKS[:2], member("Bank D", 5))),
        Enrolment(bytes(range(16)), KEY_HOLDER, AGGREGATOR, (*BANKS[:2], member("Bank C", 6))),
    ],
)
def test_any_other_session_role_name_or_key_changes_the_fingerprint(enrolment, other):
    assert enrolment.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("clients", "said"),
    [
        ((), "at least one"),
        ((*BANKS, member("Bank A", 9)), "'bank a' is enrolled twice"),
        ((*BANKS, member("BANK A", 9)), "'bank a' is enrolled twice"),
        ((*BANKS, member("Ｂank A", 9)), "'bank a' is enrolled twice"),
        ((*BANKS, member("Bank D", 3)), "key '03"),
        ((*BANKS, member("Key Holder", 9)), "'key holder' is enrolled twice"),
        ((*BANKS, member("Bank D", 1)), "key '01"),
        ((*BANKS, member("aggregator", 9)), "'aggregator' is enrolled twice"),
    ],
)
def test_an_organisation_with_two_keys_or_two_roles_is_refused(clients, said):
    with pytest.raises(EnrolmentError, match=said):
        Enrolment(bytes(16), KEY_HOLDER, AGGREGATOR, clients)


def test_two_federations_of_the_same_members_differ():
    assert (
        Enrolment.of(KEY_HOLDER, AGGREGATOR, BANKS).fingerprint
        != Enrolment.of(KEY_HOLDER, AGGREGATOR, BANKS).fingerprint
    )


def test_a_stranger_is_unknown(enrolment):
    assert enrolment.client(BANKS[1].key) == BANKS[1]
    for key in (KEY_HOLDER.key, AGGREGATOR.key, bytes(32)):
        with pytest.raises(UnknownClient):
            enrolment.client(key)


def test_a_saved_list_comes_back_and_is_never_overwritten(enrolment, tmp_path):
    enrolment.save(tmp_path / "list.json")
    assert Enrolment.load(tmp_path / "list.json") == enrolment
    with pytest.raises(EnrolmentError, match="choose another file"):
        Enrolment.of(KEY_HOLDER, AGGREGATOR, BANKS).save(tmp_path / "list.json")
    assert Enrolment.load(tmp_path / "list.json") == enrolment


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda f: f["clients"].pop(), "edited after"),
        (lambda f: f["clients"][0].update(organisation="Bank X"), "edited after"),
        (lambda f: f["clients"][0].update(organisation=7), "expected text"),
        (lambda f: f["clients"][0].update(key="00"), "32 bytes"),
        (lambda f: f["clients"][0].update(key=7), "fromhex"),
        (lambda f: f.update(clients=7), "iterable"),
        (lambda f: f.update(clients=["x"]), "indices"),
        (lambda f: f.update(session="00"), "session: expected 16 bytes"),
        (lambda f: f.pop("key_holder"), "'key_holder' is missing"),
        (lambda f: f.pop("fingerprint"), "edited after"),
        (lambda f: f.update(format="else"), "expected a file of format"),
    ],
)
def test_an_edited_list_is_refused_with_the_fact(enrolment, tmp_path, edit, said):
    enrolment.save(tmp_path / "list.json")
    fields = json.loads((tmp_path / "list.json").read_text())
    edit(fields)
    (tmp_path / "list.json").write_text(json.dumps(fields))
    with pytest.raises(EnrolmentError, match=said):
        Enrolment.load(tmp_path / "list.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_list_is_refused(tmp_path, content):
    (tmp_path / "list.json").write_bytes(content)
    with pytest.raises(EnrolmentError, match=r"list\.json"):
        Enrolment.load(tmp_path / "list.json")


def test_a_public_entry_comes_back_and_an_altered_one_does_not(tmp_path):
    identity = Identity.generate("Bank Ä")
    save_public_entry(identity, tmp_path / "entry")
    assert load_public_entry(tmp_path / "entry") == identity.member
    for change in (
        {"organisation": "Bank B"},
        {"key": Identity.generate("x").key.hex()},
        {"signature": "00" * 64},
        {"signature": 7},
        {"organisation": None},
    ):
        altered = tmp_path / f"altered {'-'.join(change)} {len(list(tmp_path.iterdir()))}"
        altered.write_text(json.dumps({**public_entry(identity), **change}))
        with pytest.raises(EnrolmentError):
            load_public_entry(altered)


def test_an_entry_holds_no_private_key():
    identity = Identity.generate("Bank")
    assert identity._private_key.private_bytes_raw().hex() not in json.dumps(public_entry(identity))
