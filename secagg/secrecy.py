"""The base class of objects that hold a key, a seed or plaintext: they can be neither pickled nor copied.

A pickle would put a secret into an unprotected file, and a copy would keep it after its owner dropped it. Hiding fields
from `repr` is left to the classes themselves. Nothing here wipes memory: Python cannot promise it
(docs/threat-model.md).
"""

from __future__ import annotations

from typing import Any


class Secret:
    """Base of objects that are never serialised. Pickling and copying raise `TypeError`, as for other such objects."""

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"{type(self).__name__} holds secrets: it is never pickled or copied")
