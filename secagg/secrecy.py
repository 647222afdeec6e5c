"""What holds a key, a seed or plaintext says so by its base class, and can be neither pickled nor copied.

A pickle is a file that nobody guards, and a copy is a secret that nobody forgets. Hiding fields from `repr` is left to
the classes themselves. Nothing here wipes memory: Python cannot promise it (docs/threat-model.md).
"""

from __future__ import annotations

from typing import Any


class Secret:
    """Base of objects that are never serialised. Pickling and copying raise `TypeError`, as for other such objects."""

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(f"{type(self).__name__} holds secrets: it is never pickled or copied")
