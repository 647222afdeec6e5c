"""Draw rows and columns of a tree by hashes, so that a draw does not depend on which bank holds a row.

The hash is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA
2014, section 4) of a row's id and a salt from the public seed. Who is drawn is public: it hides nobody.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fl.seeds import derive_seed

_GAMMA = 0x9E3779B97F4A7C15
_BITS = 53


def drawn_rows(ids: NDArray[np.int64], share: float, seed: int, tree: int) -> NDArray[np.bool_]:
    """bool[n]: which of the rows with these ids a tree sees."""
    if share >= 1.0:
        return np.ones(len(ids), np.bool_)
    drawn: NDArray[np.bool_] = _hashed(ids, derive_seed(seed, "rows", tree)) < np.uint64(int(share * 2**_BITS))
    return drawn


def drawn_columns(columns: int, share: float, seed: int, tree: int) -> tuple[int, ...]:
    """Ascending positions of the columns that a tree may split by: `share` of them, rounded up."""
    wanted = min(columns, -int(-share * columns // 1))
    hashes = _hashed(np.arange(columns, dtype=np.int64), derive_seed(seed, "columns", tree))
    order = sorted(range(columns), key=lambda column: (int(hashes[column]), column))
    return tuple(sorted(order[: max(wanted, 1)]))


def _hashed(ids: NDArray[np.int64], salt: int) -> NDArray[np.uint64]:
    """uint64[n], each below 2^53."""
    x = ids.astype(np.uint64) * np.uint64(_GAMMA) + np.uint64(salt)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x >> np.uint64(64 - _BITS)
