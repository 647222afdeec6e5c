"""Sketches of updates: short integer vectors, linear in the update, whose inner products estimate those of updates.

    identity       the quantised update, of at most N values
    count sketch   value i goes with a random sign into sum (i + shift of row i // N) mod N      (a row: N values)

A sign is a bit: of value c of row r bit r mod 8 of byte c of the N bytes that belong to eight rows.

Count sketch: Charikar, Chen, Farach-Colton, ICALP 2002. Two values of one row never meet in a sum, two of different
rows meet with probability 1/N over the shifts, and signs are independent: so E <Su, Sv> = <u, v>, with variance at most
(|u|^2 |v|^2 + <u, v>^2) / N (Weinberger et al., ICML 2009, appendix). The shifts replace a table of N-way choices by
additions of whole rows. Everything is exact in int64 and linear: the sketch of a sum is the sum of the sketches.

A sketch whose seed is known beforehand can be fooled by an update that it maps to a harmless one. `late_seed` depends
on a number of the key holder's that nobody else knew, and on every contribution; docs/protocol.md says when it is made.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from secagg import kernels, packing, randomness
from secagg.arrays import I64, U8
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
    if sketch.identity:
        return np.concatenate([piece.copy() for piece in packing.quantised(update, plan)])
    total = np.zeros(sketch.width, dtype=np.int64)
    kernels.quantise_rows(update, plan.clip, 1.0 / plan.step, _signs(sketch, seed), _shifts(sketch, seed), total)
    return total


def sketch_of_sums(sums: I64, sketch: SketchPlan, seed: bytes) -> I64:
    """int64[width]: the sketch of exact integer sums, int64[length]. seed as for `integer_sketch`."""
    if sketch.identity:
        return sums.copy()
    total = np.zeros(sketch.width, dtype=np.int64)
    kernels.add_rows(sums, _signs(sketch, seed), _shifts(sketch, seed), total)
    return total


def places(sketch: SketchPlan, seed: bytes) -> tuple[NDArray[np.intp], I64]:
    """Of a count sketch: into which sum each value goes, intp[length], and its sign, int64[length] of 1 and -1."""
    width, index = sketch.width, np.arange(sketch.length)
    row, column = index // width, index % width
    odd = _signs(sketch, seed)[row // 8 * width + column] >> (row % 8).astype(np.uint8) & 1
    return (index + _shifts(sketch, seed)[row]) % width, 1 - 2 * odd.astype(np.int64)


def _signs(sketch: SketchPlan, seed: bytes) -> U8:
    """uint8[ceil(rows / 8) * N]: a bit for each value."""
    return randomness.draw(_stream(seed, b"secagg v2 sketch signs"), -(-sketch.rows // 8) * sketch.width)


def _shifts(sketch: SketchPlan, seed: bytes) -> NDArray[np.intp]:
    """intp[rows], each below N. N is a power of two, so a word modulo N is uniform."""
    words = randomness.draw(_stream(seed, b"secagg v2 sketch shifts"), 4 * sketch.rows).view("<u4")
    return words.astype(np.intp) % sketch.width


def _stream(seed: bytes, label: bytes) -> Any:
    """AES-256-CTR under a key that HKDF expands from the seed: a word for each row's shift, a bit for each sign."""
    return Cipher(algorithms.AES(expand_key(seed, label)), modes.CTR(bytes(16))).encryptor()
