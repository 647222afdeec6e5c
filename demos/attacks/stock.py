"""The system that most controls attack: federated averaging as TenSEAL's tutorials build it.

The key holder has one long-lived key pair with the parameters of the tutorial (N = 8192, [60, 40, 40, 60], scale
2**40). The aggregator adds ciphertexts. The key holder decrypts what the aggregator sends and publishes the float64
average. No defence was removed for the attacks: that design has no signatures, rosters or masks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tenseal
import tenseal.sealapi as seal

from secagg.arrays import F64, U64

NAME = "stock TenSEAL"
DEGREE = 8192
CHAIN_BITS = [60, 40, 40, 60]  # the last prime is special and never part of a ciphertext
SCALE = 2.0**40
SLOTS = DEGREE // 2
UPDATE_SCALE = 0.02

DECODING_ERROR = 1e-6
"""A recovered update counts as exact up to this error. CKKS itself adds about 1e-8 with these parameters, which is the
largest of 4096 sub-Gaussian errors of about 2e-9. For every sum of these attacks the limit is more than fifty of its
standard deviations away."""


class StockAggregation:
    """Key holder and clients of a stock CKKS federation; the aggregator is whoever calls."""

    def __init__(self) -> None:
        self.context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=DEGREE, coeff_mod_bit_sizes=CHAIN_BITS, n_threads=1
        )
        self.context.global_scale = SCALE

    def encrypt(self, update: F64) -> Any:
        """A client's contribution: a CKKSVector of up to 4096 values."""
        return tenseal.ckks_vector(self.context, update)

    def release(self, total: Any, clients: int) -> F64:
        """What the key holder does: it decrypts any sum and divides it by the stated number of clients."""
        return np.array(total.decrypt()) / clients

    def load(self, data: bytes) -> Any:
        """A contribution from bytes, by TenSEAL's own loader."""
        return tenseal.ckks_vector_from(self.context, data)


def updates(clients: int) -> list[F64]:
    """One full ciphertext of values for each client."""
    rng = np.random.default_rng()
    return [rng.normal(scale=UPDATE_SCALE, size=SLOTS) for _ in range(clients)]


def added(vectors: Sequence[Any]) -> Any:
    """The aggregator's sum."""
    total = vectors[0].copy()
    for vector in vectors[1:]:
        total += vector
    return total


def data_primes() -> list[int]:
    """The primes of a ciphertext, in SEAL's order."""
    return [int(modulus.value()) for modulus in seal.CoeffModulus.Create(DEGREE, CHAIN_BITS)[:-1]]


def ciphertext_residues(vector: Any) -> U64:
    """What the aggregator holds of a vector: uint64[2, primes, N], in SEAL's transformed order."""
    ciphertext = _reloaded(vector.ciphertext()[0], seal.Ciphertext)
    return _elements(ciphertext, (2, len(CHAIN_BITS) - 1, DEGREE))


def secret_key_residues(stock: StockAggregation) -> U64:
    """The true secret key, for comparison with what an attack found: uint64[primes, N], in SEAL's transformed order."""
    key = _reloaded(stock.context.secret_key().data, seal.SecretKey)
    return _elements(key.data(), (len(CHAIN_BITS), DEGREE))[:-1]


def _elements(source: Any, shape: tuple[int, ...]) -> U64:
    count = int(np.prod(shape))
    return np.fromiter(map(source.dyn_array().at, range(count)), dtype=np.uint64, count=count).reshape(shape)


def _reloaded(source: Any, kind: Any) -> Any:
    """TenSEAL's object as one of `tenseal.sealapi`, whose residues can be read."""
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(DEGREE, CHAIN_BITS))
    target = kind()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "object")
        source.save(path)
        target.load(seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128), path)
    return target
