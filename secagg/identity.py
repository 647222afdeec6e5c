"""Long-lived identities: who signs. Ed25519 (RFC 8032) from pyca/cryptography.

An `Identity` holds a private key and signs; a `Member` is its public half with the organisation's name, and verifies.
A member is known on the wire by its 32-byte public key alone. Confidentiality keys are not here: those are ephemeral
and live for one round (`masks.py`, `ckks.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from secagg.errors import BadSignature, IdentityError

KEY_BYTES = 32
SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class Member:
    """The public half of an identity. key: the Ed25519 public key, 32 bytes."""

    organisation: str
    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise IdentityError(f"{self.organisation}: expected a public key of 32 bytes, got {len(self.key)}")
        if not self.organisation or self.organisation != self.organisation.strip() or len(self.organisation) > 200:
            raise IdentityError(f"organisation: expected 1..200 characters without outer blanks: {self.organisation!r}")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise `BadSignature` unless `signature` is this member's over `message`."""
        verify(self.key, signature, message)


class Identity:
    """A private signing key of one organisation. Shows nothing, pickles to nothing."""

    def __init__(self, organisation: str, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.member = Member(organisation, private_key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, organisation: str) -> Identity:
        """A fresh key from the operating system's generator."""
        return cls(organisation, Ed25519PrivateKey.generate())

    @property
    def key(self) -> bytes:
        """The public key, 32 bytes: this identity's name on the wire."""
        return self.member.key

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self._private_key.sign(message)

    def save(self, path: str | Path, passphrase: bytes | None = None) -> None:
        """Write the private key (PEM, PKCS 8), readable by this user only and never over an existing file.

        With `passphrase` the key is encrypted (PBES2: scrypt and AES-256-CBC). Raises `IdentityError`.
        """
        protection: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        )
        pem = self._private_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise IdentityError(f"{path} exists: an identity is never overwritten; choose another file") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: str | Path, organisation: str, passphrase: bytes | None = None) -> Identity:
        """Read a key that `save` wrote. Raises `IdentityError`: permissions, passphrase, or not such a key."""
        path = Path(path)
        try:
            mode = path.stat().st_mode & 0o777
            pem = path.read_bytes()
        except OSError as error:
            raise IdentityError(f"{path}: {error.strerror}; make an identity first") from error
        if mode & 0o077:
            raise IdentityError(f"{path}: readable by others (mode {mode:o}); expected 600: chmod 600 {path}")
        try:
            key = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError) as error:
            raise IdentityError(f"{path}: not a private key, or the passphrase does not open it") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(f"{path}: expected an Ed25519 key, got {type(key).__name__}")
        return cls(organisation, key)

    def __repr__(self) -> str:
        return f"Identity({self.member.organisation!r}, OMITTED)"

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("an identity is never pickled")


def verify(key: bytes, signature: bytes, message: bytes) -> None:
    """Raise `BadSignature` unless `signature` over `message` is of the holder of `key`."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"signature of {key.hex()[:16]} does not verify: refuse this message") from error
