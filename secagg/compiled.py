"""How loops are compiled by numba (extra `fast`): kept on disk for the next process where numba may write, no GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Loop], Loop]:
    """A decorator of loops over arrays: `numba.njit` without the GIL and without bounds checks.

    Where numba finds no writable folder for a function, for instance in a read-only installation without a home, the
    function is compiled in each process anew. options: more of njit's.
    """

    def decorate(loop: Loop) -> Loop:
        try:
            found: Loop = numba.njit(cache=True, nogil=True, boundscheck=False, **options)(loop)  # compiles nothing yet
        except RuntimeError:  # what numba raises for the lack of a folder
            found = numba.njit(nogil=True, boundscheck=False, **options)(loop)
        return found

    return decorate
