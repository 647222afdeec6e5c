"""Who takes part: the enrolment list that every party holds and compares offline before the first round.

The list is public and not signed: its fingerprint is read out between the parties (`python -m demos enrol check`).
Everything that a party accepts later is checked against *its own* copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from secagg.errors import EnrolmentError, IdentityError, UnknownClient
from secagg.identity import KEY_BYTES, Member

SESSION_BYTES = 16
_FORMAT = "secagg enrolment 1"


@dataclass(frozen=True)
class Enrolment:
    """session: 16 random bytes that name this federation; members with distinct organisations and keys."""

    session: bytes
    key_holder: Member
    aggregator: Member
    clients: tuple[Member, ...]

    def __post_init__(self) -> None:
        if len(self.session) != SESSION_BYTES:
            raise EnrolmentError(f"session: expected {SESSION_BYTES} bytes, got {len(self.session)}")
        if not self.clients:
            raise EnrolmentError("clients: expected at least one")
        everyone = (self.key_holder, self.aggregator, *self.clients)
        for what, names in (
            ("organisation", [member.organisation.casefold() for member in everyone]),
            ("key", [member.key.hex() for member in everyone]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            if twice:
                # One organisation under two keys would count twice towards the quorum, and a key holder among the
                # clients would know a member's seed and share.
                raise EnrolmentError(
                    f"{what} {twice[0]!r} is enrolled twice: each organisation has one role and one key"
                )

    @classmethod
    def of(cls, key_holder: Member, aggregator: Member, clients: tuple[Member, ...]) -> Enrolment:
        """A new federation with a random session."""
        return cls(os.urandom(SESSION_BYTES), key_holder, aggregator, clients)

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
        """SHA-256 in hexadecimal over a canonical encoding: equal at all parties, or they hold different lists."""
        digest = hashlib.sha256(_FORMAT.encode() + self.session)
        clients = sorted(self.clients, key=lambda member: member.key)
        for role, member in ((b"K", self.key_holder), (b"A", self.aggregator), *((b"C", c) for c in clients)):
            name = member.organisation.encode()
            digest.update(role + member.key + struct.pack("<H", len(name)) + name)
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the list as JSON."""
        Path(path).write_text(
            json.dumps(
                {
                    "format": _FORMAT,
                    "session": self.session.hex(),
                    "key_holder": _entry(self.key_holder),
                    "aggregator": _entry(self.aggregator),
                    "clients": [_entry(client) for client in self.clients],
                    "fingerprint": self.fingerprint,
                },
                indent=2,
            )
            + "\n"
        )

    @classmethod
    def load(cls, path: str | Path) -> Enrolment:
        """Read a list that `save` wrote. Raises `EnrolmentError`, naming the field."""
        try:
            data = json.loads(Path(path).read_text())
        except OSError as error:
            raise EnrolmentError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise EnrolmentError(f"{path}: not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise EnrolmentError(f"{path}: expected format {_FORMAT!r}")
        try:
            enrolment = cls(
                bytes.fromhex(data["session"]),
                _member(data["key_holder"]),
                _member(data["aggregator"]),
                tuple(_member(entry) for entry in data["clients"]),
            )
        except (KeyError, TypeError, ValueError, IdentityError) as error:
            raise EnrolmentError(f"{path}: {type(error).__name__}: {error}") from error
        if data.get("fingerprint") != enrolment.fingerprint:
            raise EnrolmentError(f"{path}: the list was edited after its fingerprint was taken; make it anew")
        return enrolment


def _entry(member: Member) -> dict[str, str]:
    return {"organisation": member.organisation, "key": member.key.hex()}


def _member(entry: dict[str, str]) -> Member:
    key = bytes.fromhex(entry["key"])
    if len(key) != KEY_BYTES:
        raise ValueError(f"key of {entry['organisation']!r}: expected 32 bytes, got {len(key)}")
    return Member(entry["organisation"], key)
