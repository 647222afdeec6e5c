"""How the loops of this room are compiled: without fast mathematics, which would round differently on each machine."""

from __future__ import annotations

import numba


def _cache_is_writable() -> bool:
    """Whether numba finds a writable folder for compiled code; a read-only installation without a home has none."""
    try:
        numba.njit(cache=True)(_cache_is_writable)  # decorates only, compiles nothing
    except RuntimeError:
        return False
    return True


jit = numba.njit(cache=_cache_is_writable(), nogil=True, boundscheck=False, fastmath=False)
