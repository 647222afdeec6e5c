"""Who takes part: the enrolment list that every party holds and compares offline before the first round.

A party hands over a public entry: name, key, and a signature by that key, so that an entry altered or mistyped on its
way is noticed. The list itself is public and not signed. The parties read its fingerprint to each other over a channel
on which they know each other (`python -m demos enrol check`). Everything that a party accepts later is checked against
its own copy. docs/adr/0008 says why there is no certificate authority.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from secagg import names
from secagg.errors import BadSignature, EnrolmentError, IdentityError, UnknownClient
from secagg.identity import Identity, Member, verify

SESSION_BYTES = 16
_FORMAT = "secagg enrolment 1"
_ENTRY_FORMAT = "secagg public entry 1"


@dataclass(frozen=True)
class Enrolment:
    """session: 16 random bytes that name this federation; members with distinct organisations and keys.

    Raises `EnrolmentError`.
    """

    session: bytes
    key_holder: Member
    aggregator: Member
    clients: tuple[Member, ...]

    def __post_init__(self) -> None:
        if len(self.session) != SESSION_BYTES:
            raise EnrolmentError(f"session: expected {SESSION_BYTES} bytes, got {len(self.session)}")
        if not self.clients:
            raise EnrolmentError("clients: expected at least one, got none")
        everyone = (self.key_holder, self.aggregator, *self.clients)
        # One organisation under two keys would count twice towards the quorum, and a key holder among the clients
        # would know a member's seed and share.
        _refuse_twice("organisation", [names.comparable(member.organisation) for member in everyone])
        _refuse_lookalikes([member.organisation for member in everyone])
        _refuse_twice("key", [member.key.hex() for member in everyone])

    @classmethod
    def of(cls, key_holder: Member, aggregator: Member, clients: Sequence[Member]) -> Enrolment:
        """A new federation with a random session."""
        return cls(os.urandom(SESSION_BYTES), key_holder, aggregator, tuple(clients))

    @cached_property
    def _by_key(self) -> dict[bytes, Member]:
        return {member.key: member for member in self.clients}

    def client(self, key: bytes) -> Member:
        """The enrolled client with this key. Raises `UnknownClient`."""
        member = self._by_key.get(key)
        if member is None:
            raise UnknownClient(f"{key.hex()[:16]} is not an enrolled client: refuse it, or enrol it offline")
        return member

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over a canonical encoding. Parties with different fingerprints hold different lists.

        The order of the clients does not change it.
        """
        digest = hashlib.sha256(_FORMAT.encode() + self.session)
        clients = sorted(self.clients, key=lambda member: member.key)
        for role, member in ((b"K", self.key_holder), (b"A", self.aggregator), *((b"C", c) for c in clients)):
            name = member.organisation.encode()
            digest.update(role + member.key + struct.pack("<H", len(name)) + name)
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the list as JSON, never over an existing file. Raises `EnrolmentError`."""
        fields = {
            "format": _FORMAT,
            "session": self.session.hex(),
            "key_holder": _entry(self.key_holder),
            "aggregator": _entry(self.aggregator),
            "clients": [_entry(client) for client in self.clients],
            "fingerprint": self.fingerprint,
        }
        _write_new(Path(path), fields)

    @classmethod
    def load(cls, path: str | Path) -> Enrolment:
        """Read a list that `save` wrote. Raises `EnrolmentError`, naming what is wrong."""
        fields = _read(Path(path), _FORMAT)
        try:
            enrolment = cls(
                bytes.fromhex(fields["session"]),
                _member(fields["key_holder"]),
                _member(fields["aggregator"]),
                tuple(_member(entry) for entry in fields["clients"]),
            )
        except (KeyError, TypeError, ValueError, IdentityError, EnrolmentError) as error:
            raise EnrolmentError(f"{path}: {_described(error)}") from error
        if fields.get("fingerprint") != enrolment.fingerprint:
            raise EnrolmentError(f"{path}: the list was edited after its fingerprint was taken; ask for the original")
        return enrolment


# --- public entries -------------------------------------------------------------------------------------------------


def public_entry(identity: Identity) -> dict[str, str]:
    """What a party hands over to be enrolled: its name, its key, and the key's signature over both."""
    member = identity.member
    return {"format": _ENTRY_FORMAT, **_entry(member), "signature": identity.sign(_claim(member)).hex()}


def save_public_entry(identity: Identity, path: str | Path) -> None:
    """Write the public entry as JSON, never over an existing file. Raises `EnrolmentError`."""
    _write_new(Path(path), public_entry(identity))


def load_public_entry(path: str | Path) -> Member:
    """Read a public entry and verify that the holder of its key signed it. Raises `EnrolmentError`."""
    fields = _read(Path(path), _ENTRY_FORMAT)
    try:
        member = _member(fields)
        verify(member.key, bytes.fromhex(fields["signature"]), _claim(member))
    except (KeyError, TypeError, ValueError, IdentityError) as error:
        raise EnrolmentError(f"{path}: {_described(error)}") from error
    except BadSignature as error:
        raise EnrolmentError(f"{path}: its name or key was altered after it was signed; ask for it again") from error
    return member


def _claim(member: Member) -> bytes:
    return _ENTRY_FORMAT.encode() + member.key + member.organisation.encode()


# --- files ----------------------------------------------------------------------------------------------------------


def _entry(member: Member) -> dict[str, str]:
    return {"organisation": member.organisation, "key": member.key.hex()}


def _member(entry: dict[str, str]) -> Member:
    name = entry["organisation"]
    if not isinstance(name, str):
        raise TypeError(f"organisation: expected text, got {type(name).__name__}")
    return Member(name, bytes.fromhex(entry["key"]))


def _read(path: Path, expected: str) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EnrolmentError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EnrolmentError(f"{path}: expected JSON in UTF-8; name another file") from error
    if not isinstance(fields, dict) or fields.get("format") != expected:
        raise EnrolmentError(f"{path}: expected a file of format {expected!r}; name another file")
    return fields


def _write_new(path: Path, fields: dict[str, Any]) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    except FileExistsError as error:
        raise EnrolmentError(f"{path} exists and is not overwritten; choose another file") from error
    except OSError as error:
        raise EnrolmentError(f"{path}: cannot be written: {error.strerror}") from error


def _described(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _refuse_twice(what: str, values: list[str]) -> None:
    seen: set[str] = set()
    for name in values:
        if name in seen:
            raise EnrolmentError(f"{what} {name!r} is enrolled twice: each organisation has one role and one key")
        seen.add(name)


def _refuse_lookalikes(organisations: list[str]) -> None:
    seen: dict[tuple[int, str], str] = {}
    for organisation in organisations:
        for key in enumerate(names.skeletons(organisation)):
            other = seen.setdefault(key, organisation)
            if other != organisation:
                raise EnrolmentError(
                    f"organisations {other!a} and {organisation!a} look alike: rename one of them, or "
                    "enrol it once if they are the same"
                )
