"""A model as Flower carries it (named arrays), as secagg averages it (one vector), and its hash.

The vector holds the floating-point arrays in their order; integer arrays (counters) stay unchanged at every party.
Numpy only: another Flower app may use any framework, and neither the key holder nor the aggregator needs one.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from fl.flower.errors import ModelMismatch

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MAX_DIMENSIONS, _MAX_SIDE = 32, 2**40
_FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, eq=False)
class FlatModel:
    """Named arrays of one model, in order. Equal digests mean equal names, dtypes, shapes and bytes."""

    arrays: Mapping[str, NDArray[np.generic]] = field(repr=False)

    @classmethod
    def from_record(cls, record: ArrayRecord) -> FlatModel:
        """From Flower's arrays.

        Raises `ModelMismatch` for bytes that are not an array, and for dtypes that cannot be averaged or kept.
        """
        arrays = {name: _read(name, array) for name, array in record.items()}
        for name, array in arrays.items():
            if (array.dtype.kind == "f" and array.dtype not in _FLOATS) or array.dtype.kind not in "fiub":
                raise ModelMismatch(
                    f"{name}: expected float16, float32, float64, integers or booleans, got {array.dtype}"
                )
        if not any(array.dtype.kind == "f" for array in arrays.values()):
            raise ModelMismatch("model: expected at least one floating-point array to average, got none")
        return cls(arrays)

    def record(self) -> ArrayRecord:
        """As Flower's arrays."""
        return ArrayRecord({name: Array(np.asarray(array)) for name, array in self.arrays.items()})

    @property
    def length(self) -> int:
        """Values in the vector."""
        return sum(array.size for array in self._floats().values())

    @cached_property
    def vector(self) -> NDArray[np.float32] | NDArray[np.float64]:
        """float32[length], or float64[length] when any array is float64."""
        floats = self._floats()
        wide = any(array.dtype == np.float64 for array in floats.values())
        dtype = np.float64 if wide else np.float32
        vector: NDArray[np.float32] | NDArray[np.float64] = np.concatenate(
            [array.reshape(-1).astype(dtype, copy=False) for array in floats.values()]
        )
        return vector

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over names, dtypes, shapes and little-endian bytes, every variable field preceded by its length."""
        digest = hashlib.sha256(b"fl.flower model v1")
        for name, array in self.arrays.items():
            for text in (name, array.dtype.newbyteorder("<").str):
                encoded = text.encode()
                digest.update(struct.pack("<Q", len(encoded)) + encoded)
            digest.update(struct.pack(f"<Q{array.ndim}Q", array.ndim, *array.shape))
            digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.digest()

    def update_to(self, trained: FlatModel) -> NDArray[np.float32] | NDArray[np.float64]:
        """trained - self as a vector. Raises `ModelMismatch` for another architecture."""
        self.require_alike(trained)
        difference: NDArray[np.float32] | NDArray[np.float64] = trained.vector - self.vector
        return difference

    def moved_by(self, average: NDArray[np.float64]) -> FlatModel:
        """self + average, each array in its own dtype. average: float64[length].

        Raises `ModelMismatch` for another length, and for a sum that is not finite in its array's dtype: 1e5 would be
        infinite in float16.
        """
        if average.shape != (self.length,):
            raise ModelMismatch(f"average: expected shape ({self.length},), got {average.shape}")
        moved: dict[str, NDArray[np.generic]] = {}
        start = 0
        for name, array in self.arrays.items():
            if array.dtype.kind != "f":
                moved[name] = array
                continue
            part = average[start : start + array.size].reshape(array.shape)
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                moved[name] = np.add(array, part, dtype=np.float64).astype(array.dtype)
            if beyond := int((~np.isfinite(moved[name])).sum()):
                raise ModelMismatch(
                    f"{beyond} of {array.size} values of {name} would be NaN or beyond {array.dtype}; "
                    "nothing was moved: keep the model in float32"
                )
            start += array.size
        return FlatModel(moved)

    def to_bytes(self, rounds: int, step: int) -> bytes:
        """As a file: arrays, rounds applied, and the step of the last one."""
        buffer = io.BytesIO()
        named = {f"{index:06d} {name}": array for index, (name, array) in enumerate(self.arrays.items())}
        np.savez(buffer, allow_pickle=False, progress=np.array([rounds, step], dtype=np.int64), **named)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[FlatModel, int, int]:
        """(model, rounds, step) of a file that `to_bytes` made."""
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            rounds, step = (int(value) for value in stored["progress"])
            names = sorted(name for name in stored.files if name != "progress")
            return cls({name[7:]: stored[name] for name in names}), rounds, step

    def _floats(self) -> dict[str, NDArray[np.generic]]:
        return {name: array for name, array in self.arrays.items() if array.dtype.kind == "f"}

    def require_alike(self, other: FlatModel) -> None:
        """Raises `ModelMismatch` unless names, shapes and dtypes of all arrays are equal, and their order."""
        mine = {name: (array.shape, array.dtype) for name, array in self.arrays.items()}
        theirs = {name: (array.shape, array.dtype) for name, array in other.arrays.items()}
        if list(mine.items()) != list(theirs.items()):
            changed = [name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name)] or [
                "the order of arrays"
            ]
            raise ModelMismatch(f"training changed the architecture: {', '.join(sorted(changed)[:5])}")


def _read(name: str, array: Array) -> NDArray[np.generic]:
    """A Flower Array of one .npy, as long as its header says.

    The first model comes from a SuperLink, which may have written any bytes: they are checked before numpy allocates
    the memory that a header asks for. Raises `ModelMismatch`.
    """
    stream = io.BytesIO(array.data)
    try:
        read = _HEADERS[np.lib.format.read_magic(stream)]
        shape, _, dtype = read(stream)
    except Exception as error:  # numpy parses the header as Python, and may raise anything for a forged one
        raise ModelMismatch(f"{name}: expected the bytes of a numpy array, got a header that cannot be read") from error
    left = len(array.data) - stream.tell()
    fits = len(shape) <= _MAX_DIMENSIONS and all(type(side) is int and 0 <= side <= _MAX_SIDE for side in shape)
    fits = fits and left == math.prod(shape) * dtype.itemsize
    if not fits or dtype.hasobject or dtype.subdtype is not None or array.stype != "numpy.ndarray":
        raise ModelMismatch(f"{name}: expected {shape} values of {dtype}, got {left} bytes of {array.stype}")
    try:
        return np.asarray(array.numpy(), order="C")
    except Exception as error:  # numpy may still refuse a forged array, and does not say with which errors
        raise ModelMismatch(f"{name}: numpy cannot read {shape} values of {dtype} from the bytes") from error
