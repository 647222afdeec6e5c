"""Sketches of updates: short integer vectors, linear in the update, whose inner products estimate those of updates.

    identity       the quantised update, of at most N values
    count sketch   value i goes with a random sign into sum (i + shift of row i // N) mod N      (a row: N values)

Count sketch: Charikar, Chen, Farach-Colton, ICALP 2002. Two values of one row never meet in a sum, two of different
rows meet with probability 1/N over the shifts, and signs are independent: so E <Su, Sv> = <u, v>, with variance at most
(|u|^2 |v|^2 + <u, v>^2) / N (Weinberger et al., ICML 2009, appendix). The shifts replace a table of N-way choices by
additions of whole rows. Everything is exact in int64 and linear: the sketch of a sum is the sum of the sketches.

A sketch whose seed is known beforehand can be fooled by an update that it maps to a harmless one. `late_seed` depends
on a number of the key holder's that nobody else knew, and on every contribution; docs/protocol.md says when it is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secagg import kernels, packing
from secagg.arrays import I64
from secagg.masks import expand_key
from secagg.plan import RoundPlan
from secagg.sketchplan import SketchPlan

SECRET_BYTES = 32  # of the key holder's number k


def early_seed(offer: bytes) -> bytes:
    """The seed of the first sketch, known from the offer on. offer: its hash. 32 bytes."""
    return hashlib.sha256(b"secagg v2 early sketch".ljust(32, b"\0") + offer).digest()


def commitment(secret: bytes) -> bytes:
    """What the offer says about k: 32 bytes."""
    return hashlib.sha256(b"secagg v2 sketch commitment".ljust(32, b"\0") + secret).digest()


def late_seed(secret: bytes, roster: bytes, contributions: bytes) -> bytes:
    """The seed of the second sketch. roster: its hash. contributions: hash over all signed hashes, in roster order."""
    return hashlib.sha256(b"secagg v2 late sketch".ljust(32, b"\0") + secret + roster + contributions).digest()


def integer_sketch(update: NDArray[np.floating], plan: RoundPlan, sketch: SketchPlan, seed: bytes) -> I64:
    """int64[width]: the sketch of a checked update's quantised integers. seed: 32 bytes; the identity has none."""
    return _sketch(packing.quantised(update, plan), sketch, seed)


def sketch_of_sums(sums: I64, sketch: SketchPlan, seed: bytes) -> I64:
    """int64[width]: the sketch of exact integer sums, int64[length]. seed as for `integer_sketch`."""
    pieces = (sums[start : start + packing.SCAN] for start in range(0, sums.shape[0], packing.SCAN))
    return _sketch(pieces, sketch, seed)


def places(sketch: SketchPlan, seed: bytes) -> tuple[NDArray[np.intp], I64]:
    """Of a count sketch: into which sum each value goes, intp[length], and its sign, int64[length] of 1 and -1."""
    degree, index = sketch.params.degree, np.arange(sketch.length)
    odd = np.frombuffer(_stream(seed, b"secagg v2 sketch signs").update(bytes(sketch.length)), dtype=np.uint8) & 1
    return (index + _shifts(sketch, seed)[index // degree]) % degree, 1 - 2 * odd.astype(np.int64)


def _sketch(pieces: Iterable[I64], sketch: SketchPlan, seed: bytes) -> I64:
    """pieces: consecutive integers, `packing.SCAN` at a time, which is a whole number of rows."""
    if sketch.identity:
        return np.concatenate([np.array(piece) for piece in pieces])
    degree = sketch.params.degree
    total = np.zeros(degree, dtype=np.int64)
    shifts, signs = _shifts(sketch, seed), _stream(seed, b"secagg v2 sketch signs")
    row = 0
    for piece in pieces:
        for start in range(0, piece.shape[0], degree):
            values = piece[start : start + degree]
            odd = np.frombuffer(signs.update(bytes(values.shape[0])), dtype=np.uint8)
            kernels.add_rotated(values, odd, int(shifts[row]), total)
            row += 1
    return total


def _shifts(sketch: SketchPlan, seed: bytes) -> NDArray[np.intp]:
    """intp[rows], each below N. N is a power of two, so a word modulo N is uniform."""
    words = np.frombuffer(_stream(seed, b"secagg v2 sketch shifts").update(bytes(4 * sketch.rows)), dtype="<u4")
    return words.astype(np.intp) % sketch.params.degree


def _stream(seed: bytes, label: bytes) -> Any:
    """AES-256-CTR under a key that HKDF expands from the seed: a word for each row's shift, a byte for each sign."""
    return Cipher(algorithms.AES(expand_key(seed, label)), modes.CTR(bytes(16))).encryptor()
