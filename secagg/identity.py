"""Long-lived identities: who signs. Ed25519 (RFC 8032) from pyca/cryptography.

An `Identity` holds a private key and signs; a `Member` is its public half with the organisation's name, and verifies.
A member is known on the wire by its 32-byte public key alone. Confidentiality keys are not here: those are ephemeral
and live for one round (`masks.py`, `ckks.py`).

# Strategy: the file is JSON of this package, not PKCS 8. pyca writes PKCS 8 with PBKDF2 of 2,048 iterations, which a
# graphics card computes hundreds of thousands of times a second. Here a passphrase goes through scrypt (RFC 7914) with
# 128 MiB.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from secagg import names
from secagg.errors import BadSignature, IdentityError
from secagg.private_files import refusal
from secagg.secrecy import Secret

KEY_BYTES = 32
SIGNATURE_BYTES = 64

# y of the points whose order divides 8 (order 8: the last two; libsodium, ge25519_has_small_order). Under such a public
# key anybody can sign: S*B = R + h*A holds for chosen S and R = S*B whenever h*A is zero.
_FIELD = 2**255 - 19
_Y8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset((0, 1, _FIELD - 1, _Y8, _FIELD - _Y8))

_FORMAT = "secagg identity 1"
# Fixed by the format and not read from the file, so that an edited file cannot ask for gigabytes. OWASP's first choice.
_SCRYPT = {"n": 2**17, "r": 8, "p": 1}
_SALT_BYTES, _NONCE_BYTES = 16, 12
_MAX_BYTES = 1 << 16  # of an identity's file; a real one has less than 2,000


@dataclass(frozen=True)
class Member:
    """The public half of an identity. key: the Ed25519 public key, 32 bytes. Raises `IdentityError`.

    organisation: 1..200 characters of one script, nothing in it invisible (`names.py`): a name that could look like
    another on a screen is refused where it is made.
    """

    organisation: str
    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise IdentityError(f"{self.organisation}: expected a public key of 32 bytes, got {len(self.key)}")
        reason = names.fault(self.organisation)
        if reason is not None:
            raise IdentityError(f"organisation: {reason}")
        if (int.from_bytes(self.key, "little") & (2**255 - 1)) % _FIELD in _SMALL_ORDER:
            raise IdentityError(f"{self.organisation}: anybody can sign under this public key; generate a new key")

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raise `BadSignature` unless `signature` is this member's over `message`."""
        verify(self.key, signature, message)


class Identity(Secret):
    """A private signing key of one organisation. Cannot be pickled; `repr` omits the key."""

    def __init__(self, organisation: str, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._keyed: dict[bytes, bytes] = {}  # secrets of `keyed_hash` by purpose: as secret as the private key
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

    def sign_for_roles(self, message: bytes) -> bytes:
        """As `sign`; roles in this same process need not verify what it just made."""
        signature = self.sign(message)
        _remember((self.key, signature, hashlib.sha256(message).digest()))
        return signature

    def keyed_hash(self, purpose: bytes) -> hmac.HMAC:
        """An HMAC-SHA256 that only this identity can compute. Others cannot find the hashed value by guessing.

        purpose: separates uses. The key is HKDF-SHA256 (RFC 5869) of the private key.
        """
        if purpose not in self._keyed:
            self._keyed[purpose] = HKDF(SHA256(), 32, salt=None, info=b"secagg v1 keyed hash" + purpose).derive(
                self._private_key.private_bytes_raw()
            )
        return hmac.new(self._keyed[purpose], digestmod=hashlib.sha256)

    def save(self, path: str | Path, passphrase: bytes | None = None) -> None:
        """Write the private key, readable by this user only and never over an existing file.

        With `passphrase` the key is sealed by AES-256-GCM under scrypt(passphrase). Raises `IdentityError`: the file
        exists, cannot be written, or the passphrase is empty.
        """
        fields: dict[str, str] = {
            "format": _FORMAT,
            "organisation": self.member.organisation,
            "public_key": self.key.hex(),
        }
        raw = self._private_key.private_bytes_raw()
        if passphrase is None:
            fields["private_key"] = raw.hex()
        else:
            salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
            sealed = AESGCM(_passphrase_key(passphrase, salt)).encrypt(nonce, raw, _sealed_with(self.member))
            fields |= {"salt": salt.hex(), "nonce": nonce.hex(), "sealed_private_key": sealed.hex()}
        _write_private(Path(path), (json.dumps(fields, indent=2) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path, organisation: str | None = None, passphrase: bytes | None = None) -> Identity:
        """Read an identity that `save` wrote. organisation: whose it must be; anybody's when None.

        Raises `IdentityError`: no such file, a link, another mode than 0600, not an identity, of another organisation,
        a passphrase that is missing or wrong, or one for a file that is not encrypted.
        """
        path = Path(path)
        fields = _read_private(path)
        try:
            member = Member(fields["organisation"], bytes.fromhex(fields["public_key"]))
            raw = _private_bytes(path, fields, member, passphrase)
            private_key = Ed25519PrivateKey.from_private_bytes(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IdentityError(f"{path}: damaged ({type(error).__name__}); restore it from a backup") from None
        if private_key.public_key().public_bytes_raw() != member.key:
            raise IdentityError(f"{path}: the private key is not the one of its public key; restore it from a backup")
        if organisation is not None and organisation != member.organisation:
            raise IdentityError(f"{path}: expected the identity of {organisation!r}, got {member.organisation!r}'s")
        return cls(member.organisation, private_key)

    def __repr__(self) -> str:
        return f"Identity({self.member.organisation!r}, OMITTED)"


def verify(key: bytes, signature: bytes, message: bytes) -> None:
    """Raise `BadSignature` unless `signature` over `message` is of the holder of `key`.

    A signature that verified is remembered, with the key and the message's SHA-256, and not verified a second time:
    where several roles live in one process, each of them checks the same offer, joins, roster and release.
    """
    seen = (bytes(key), bytes(signature), hashlib.sha256(message).digest())
    if seen in _good:
        return
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"signature of {key.hex()[:16]} does not verify: refuse this message") from error
    _remember(seen)


@contextmanager
def every_party_alone() -> Iterator[None]:
    """Remember no signature meanwhile, so that each role verifies all that it receives, as in a process of its own.

    For measurements of one party's cost. It holds for all threads of this process.
    """
    global _remembered
    before, _remembered = _remembered, 0
    _good.clear()
    try:
        yield
    finally:
        _remembered = before


# Signatures that verified, or that this process made, the oldest first; failures are not in it. Each of its operations
# is atomic, so that threads may share it without a lock, which a forked child could inherit closed.
_good: OrderedDict[tuple[bytes, bytes, bytes], None] = OrderedDict()
_remembered = 4096  # about 1 MB; a round of n clients has 2n + 4 signatures, twice as many if it is robust


def _remember(seen: tuple[bytes, bytes, bytes]) -> None:
    if _remembered:
        _good[seen] = None
        if len(_good) > _remembered:
            _good.popitem(last=False)


# --- the file -------------------------------------------------------------------------------------------------------


def _private_bytes(path: Path, fields: dict[str, str], member: Member, passphrase: bytes | None) -> bytes:
    if "private_key" in fields:
        if passphrase is not None:
            raise IdentityError(f"{path}: is not encrypted, but a passphrase was given; omit it or make a new file")
        return bytes.fromhex(fields["private_key"])
    sealed, salt, nonce = (bytes.fromhex(fields[name]) for name in ("sealed_private_key", "salt", "nonce"))
    if passphrase is None:
        raise IdentityError(f"{path}: is encrypted, and no passphrase was given; give its passphrase")
    try:
        return AESGCM(_passphrase_key(passphrase, salt)).decrypt(nonce, sealed, _sealed_with(member))
    except InvalidTag:
        raise IdentityError(f"{path}: the passphrase is wrong, or the file was edited; enter it again") from None


def _passphrase_key(passphrase: bytes, salt: bytes) -> bytes:
    if not passphrase:
        raise IdentityError("passphrase: expected at least one byte, got none; omit it for an unencrypted file")
    return Scrypt(salt=salt, length=32, **_SCRYPT).derive(passphrase)


def _sealed_with(member: Member) -> bytes:
    """Data authenticated with a sealed key, so that neither name nor public key in the file can be exchanged."""
    return _FORMAT.encode() + member.key + member.organisation.encode()


def _write_private(path: Path, data: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise IdentityError(f"{path} exists: an identity is never overwritten; choose another file") from error
    except OSError as error:
        raise IdentityError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)  # an incomplete file would only occupy the path
        raise


def _read_private(path: Path) -> dict[str, str]:
    try:
        # Follows no link and waits for no pipe: the file that is read is the file that was checked.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            reason = refusal(str(path), os.fstat(descriptor))
            data = file.read(_MAX_BYTES) if reason is None else b""
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise IdentityError(f"{path}: is a symbolic link; name the file itself") from error
        raise IdentityError(f"{path}: {getattr(error, 'strerror', error)}; make an identity first") from error
    if reason is not None:
        raise IdentityError(reason)
    fields = _parsed(data)
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        raise IdentityError(f"{path}: not an identity of this version; expected format {_FORMAT!r}")
    return fields


def _parsed(data: bytes) -> object:
    """The JSON value, or None. A parser's error would contain the document, which holds the key."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
