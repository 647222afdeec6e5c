"""Federated averaging with TenSEAL, as its documentation and NVFLARE do it.

There are three parameter sets (`SETTINGS`), all through TenSEAL's public interface. A vector is cut into pieces of N/2
slots. Each piece becomes one `CKKSVector` and is serialised. A server whose context holds no secret key deserialises it
and adds it in place. The sum is decrypted. TenSEAL runs on one thread: its thread pool does not survive a fork, and a
vector of one ciphertext has no work to divide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import CaseResult, compared
from benchmarks.meter import Meter
from benchmarks.workload import F32, F64, Vectors

Values = TypeVar("Values", bound=NDArray[Any])

ALLOWED_ERROR = 1e-6
"""CKKS is approximate. At scale 2**40 these sets have errors of about 1e-8; one above 1e-6 is a wrong result."""


@dataclass(frozen=True)
class Setting:
    """degree: N. bits: sizes of the primes in bits, with the special prime last. scale_bits: log2 of the scale.

    symmetric: True if all clients share the secret key and encrypt with it, False if they have the public key.
    """

    label: str
    degree: int
    bits: tuple[int, ...]
    scale_bits: int
    symmetric: bool


SETTINGS = {
    "tutorial": Setting(
        "TenSEAL's tutorials: public key, N = 8192 [60, 40, 40, 60], 2^40", 8192, (60, 40, 40, 60), 40, False
    ),
    "nvflare": Setting("NVFLARE's: shared secret key, N = 8192 [60, 40, 40], 2^40", 8192, (60, 40, 40), 40, True),
    "best-public": Setting(
        "the cheapest that TenSEAL's interface admits: public key, N = 4096 [60, 46], 2^40", 4096, (60, 46), 40, False
    ),
}


class StockAverage:
    """One round with one of SETTINGS."""

    def __init__(self, setting: str) -> None:
        self._setting = SETTINGS[setting]

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        self._vectors = vectors
        setting = self._setting
        return {
            "threads": 1,
            "degree": setting.degree,
            "prime_bits": list(setting.bits),
            "scale_bits": setting.scale_bits,
            "key": "secret, shared by all clients" if setting.symmetric else "public",
        }

    def repeat(self, meter: Meter) -> CaseResult:
        import tenseal

        workload = self._vectors.workload
        with meter.phase("setup"), meter.stage("keygen") as stage:
            context = context_of(self._setting)
            secret = context.secret_key()
            public = context.serialize(save_secret_key=False)
            stage.bytes += len(public)
        server = tenseal.context_from(public, n_threads=1)
        client = context if self._setting.symmetric else tenseal.context_from(public, n_threads=1)
        contributions: list[list[bytes]] = []
        total: list[Any] = []
        for arrival in range(workload.clients):
            if arrival < workload.fresh:
                update = self._vectors.update(arrival)
                contributions.append(_seal(update, client, self._setting, meter))
            with meter.phase("server"):
                with meter.stage("check"):
                    pieces = [
                        tenseal.ckks_vector_from(server, data) for data in contributions[arrival % workload.fresh]
                    ]
                with meter.stage("sum"):
                    if not total:
                        total = pieces
                    else:
                        for sum_piece, piece in zip(total, pieces, strict=True):
                            sum_piece.add_(piece)
            if workload.fresh == workload.clients:
                contributions[arrival] = []  # not needed again
        with meter.phase("finish"), meter.stage("serialize") as stage:
            sums = [piece.serialize() for piece in total]
            stage.bytes += sum(map(len, sums))
        return compared(self._open(sums, context, secret, meter), self._vectors, ALLOWED_ERROR)

    def _open(self, sums: list[bytes], context: Any, secret: Any, meter: Meter) -> F64:
        import tenseal

        workload = self._vectors.workload
        with meter.phase("open"):
            with meter.stage("check"):
                pieces = [tenseal.ckks_vector_from(context, data) for data in sums]
            with meter.stage("decrypt"):
                decrypted = [piece.decrypt(secret) for piece in pieces]
            with meter.stage("unpack") as stage:
                average: F64 = np.concatenate([np.asarray(piece, dtype=np.float64) for piece in decrypted])
                average /= workload.clients
                stage.bytes += average.nbytes
        return average


def context_of(setting: Setting) -> Any:
    """A context with the secret key of one of SETTINGS."""
    import tenseal

    kind = tenseal.ENCRYPTION_TYPE
    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS,
        poly_modulus_degree=setting.degree,
        coeff_mod_bit_sizes=list(setting.bits),
        encryption_type=kind.SYMMETRIC if setting.symmetric else kind.ASYMMETRIC,
        n_threads=1,
    )
    context.global_scale = 2.0**setting.scale_bits
    return context


def _seal(update: F32, context: Any, setting: Setting, meter: Meter) -> list[bytes]:
    """One client's contribution: its ciphertexts, serialised."""
    import tenseal

    with meter.phase("client"):
        with meter.stage("pack"):
            pieces = [piece.tolist() for piece in pieces_of(update, setting)]
        with meter.stage("encrypt"):
            sealed = [tenseal.ckks_vector(context, piece) for piece in pieces]
        with meter.stage("serialize") as stage:
            data = [vector.serialize() for vector in sealed]
            stage.bytes += sum(map(len, data))
    meter.wire_bytes["contribution"] = sum(map(len, data))
    return data


def pieces_of(values: Values, setting: Setting) -> Iterator[Values]:
    """The values of one ciphertext after the other."""
    slots = setting.degree // 2
    for start in range(0, len(values), slots):
        yield values[start : start + slots]
