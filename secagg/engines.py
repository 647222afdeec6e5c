"""The encryption engines: how a client turns packed coefficients into residues of a fresh ciphertext.

    seal    SEAL's own encryption, through tenseal: always available
    fast    `ckks_fast.py`, compiled by numba: available with the extra `fast`

Every plan budgets for the noisier of the two, so each client of a round may choose its own. SEAL always decrypts.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Protocol

from secagg import kernels
from secagg.arrays import U32
from secagg.errors import EngineUnavailable
from secagg.publickey import PublicKey
from secagg.workers import Workers


class Engine(Protocol):
    """Encrypts under one public key."""

    def encrypt_coefficients(self, plaintext: U32, block: U32) -> None:
        """plaintext: uint32[primes, N], coefficients, overwritten; block: uint32[2, primes, N], the result."""


ENGINES = ("seal", "fast")

BUDGETED_ENGINE = 2
"""Code in every header: plans budget for the noisiest engine, encryption at the data level (docs/parameters.md)."""


def available_engines() -> tuple[str, ...]:
    """The engines that can run here."""
    return ENGINES if find_spec("numba") is not None and kernels.NAME == "numba" else ("seal",)


def resolve_engine(name: str) -> str:
    """The engine that `name` means here; "auto" is the fastest one available. Raises `EngineUnavailable`."""
    available = available_engines()
    if name == "auto":
        return available[-1]
    if name not in ENGINES:
        raise EngineUnavailable(f"engine: expected auto or one of {', '.join(ENGINES)}, got {name!r}")
    if name not in available:
        raise EngineUnavailable(
            f"engine {name!r} needs numba: pip install -e '.[fast]' in a checkout, or use engine='seal'"
        )
    return name


def encryptor(name: str, public_key: PublicKey, workers: Workers | None = None) -> Engine:
    """An encryptor of the named engine under a public key. Raises `EngineUnavailable` or `WrongKey`."""
    if resolve_engine(name) == "fast":
        from secagg.ckks_fast import FastEncryptor

        return FastEncryptor(public_key, workers)
    from secagg.ckks import Encryptor

    return Encryptor(public_key)
