"""The encryption engines: how a client turns a transformed plaintext into residues of a fresh ciphertext.

Every engine has the interface of `Engine`, and every plan budgets for the noisiest of them, so each client of a round
may choose its own. Decryption is SEAL's whichever engine encrypted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from secagg.ckks import Encryptor
from secagg.errors import EngineUnavailable
from secagg.kernels_numpy import U32
from secagg.publickey import PublicKey


class Engine(Protocol):
    """Encrypts under one public key."""

    def encrypt_into(self, plaintext: U32, block: U32) -> None:
        """plaintext: uint32[primes, N], transformed; block: uint32[2, primes, N], overwritten with a ciphertext."""


ENGINE_CODES = {"seal": 1}
"""Engine -> its code on the wire. An offer names the noisiest engine that its plan budgets for."""

BUDGETED_ENGINE = 2  # plans budget for encryption at the data level, the noisiest way there is (docs/parameters.md)

_ENGINES: dict[str, Callable[[PublicKey], Engine]] = {"seal": Encryptor}


def resolve_engine(name: str) -> str:
    """The engine that `name` means here; "auto" is the fastest one available. Raises `EngineUnavailable`."""
    if name == "auto":
        return "seal"
    if name not in _ENGINES:
        raise EngineUnavailable(f"engine: expected auto or one of {', '.join(_ENGINES)}, got {name!r}")
    return name


def encryptor(name: str, public_key: PublicKey) -> Engine:
    """An encryptor of the named engine under a public key. Raises `EngineUnavailable` or `WrongKey`."""
    return _ENGINES[resolve_engine(name)](public_key)
