"""The engines: how a client encrypts packed coefficients, and how the key holder decrypts their sum.

    seal    SEAL's own encryption and decryption, through tenseal: always available
    fast    `ckks_fast.py`, compiled by numba: available with the extra `fast`

Every plan budgets for the noisier of the two, so each client of a round may choose its own. Both decrypt to the same
residues, so the key holder's choice changes no result. SEAL generates the keys of both.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import numpy as np

from secagg import kernels
from secagg.arrays import U32
from secagg.errors import EngineUnavailable
from secagg.parameters import ParameterSet
from secagg.publickey import PublicKey
from secagg.workers import Workers

if TYPE_CHECKING:
    from secagg.ckks import SecretKey
    from secagg.ckks_fast import FastSecretKey


class Engine(Protocol):
    """Encrypts under one public key."""

    def encrypt_coefficients(self, plaintext: U32, block: U32) -> None:
        """plaintext: uint32[primes, N], coefficients, overwritten; block: uint32[2, primes, N], the result."""

    def encrypt_blocks(self, plaintexts: U32, blocks: U32, workers: Workers) -> None:
        """As `encrypt_coefficients`, of several blocks: uint32[blocks, primes, N], uint32[blocks, 2, primes, N]."""


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


def encryptor(name: str, public_key: PublicKey) -> Engine:
    """An encryptor of the named engine under a public key. Raises `EngineUnavailable` or `WrongKey`."""
    if resolve_engine(name) == "fast":
        from secagg.ckks_fast import FastEncryptor

        return FastEncryptor(public_key)
    from secagg.ckks import Encryptor

    return Encryptor(public_key)


class DecryptionKey(Protocol):
    """What the secret keys of both engines have in common."""

    def decrypt(self, block: U32) -> U32:
        """c0 + c1*s of one checked block uint32[2, primes, N]; returns uint32[primes, N], coefficients."""

    def decrypt_transformed(self, block: U32) -> U32:
        """As `decrypt`, still in SEAL's transformed order."""

    def wipe(self) -> None:
        """End the key. Later calls raise `WrongState`."""


def residues_of(secret: DecryptionKey, params: ParameterSet) -> U32:
    """The secret itself, uint32[primes, N] in SEAL's transformed order: what (0, 1) decrypts to; wipe it."""
    unit = np.zeros((2, len(params.primes), params.degree), dtype=np.uint32)
    unit[1] = 1  # the polynomial 1 has value 1 in every slot
    return secret.decrypt_transformed(unit)


def decryption_keys(name: str, params: ParameterSet) -> tuple[PublicKey, SecretKey | FastSecretKey]:
    """A fresh key pair whose secret half decrypts by the named engine.

    Raises `EngineUnavailable`, or `KeySelfTestFailed` where SEAL makes unsound keys.
    """
    if resolve_engine(name) == "fast":
        from secagg.ckks import generate_readable_keys
        from secagg.ckks_fast import FastSecretKey

        public, residues = generate_readable_keys(params)
        return public, FastSecretKey(params, residues)
    from secagg.ckks import generate_keys

    return generate_keys(params)
