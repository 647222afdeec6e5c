"""The base class of objects that hold a key, a seed or plaintext: they can be neither pickled nor copied.

A pickle would put a secret into an unprotected file, and a copy would keep it after its owner dropped it. The classes
themselves hide fields from `repr`. `wipe` overwrites an array; it cannot reach copies that Python, numpy or a compiled
loop made on the way, so nothing is promised about memory (docs/threat-model.md).
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray


class Secret:
    """Base of objects that are never serialised. Pickling and copying raise `TypeError`, as for other such objects."""

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"{type(self).__name__} holds secrets: it cannot be pickled or copied")


def wipe(*arrays: NDArray[Any] | bytearray) -> None:
    """Overwrite each with zeros, in place."""
    for array in arrays:
        if isinstance(array, bytearray):
            array[:] = bytes(len(array))
        else:
            array.fill(0)
