"""Chooses the inner loops once, at import: numba's where it is installed, numpy's elsewhere.

``SECAGG_KERNELS=numpy`` or ``numba`` in the environment forces one of them; asking for numba where it cannot be
imported is an error, not a fallback.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from secagg.errors import EngineUnavailable


def _choose() -> tuple[str, ModuleType]:
    asked = os.environ.get("SECAGG_KERNELS", "")
    if asked not in ("", "numpy", "numba"):
        raise EngineUnavailable(f"SECAGG_KERNELS: expected numpy or numba, got {asked!r}")
    if asked != "numpy":
        try:
            return "numba", importlib.import_module("secagg.kernels_numba")
        except ImportError as error:
            if asked == "numba":
                raise EngineUnavailable(
                    "SECAGG_KERNELS=numba, but numba cannot be imported: run pip install -e '.[fast]' in a checkout"
                ) from error
    return "numpy", importlib.import_module("secagg.kernels_numpy")


NAME, _module = _choose()

forward_ntt = _module.forward_ntt
inverse_ntt = _module.inverse_ntt
quantise_onto = _module.quantise_onto
pack_lanes = _module.pack_lanes
unpack_lanes = _module.unpack_lanes
unpack_sums = _module.unpack_sums
unpack_transformed = _module.unpack_transformed
add_modular = _module.add_modular
subtract_modular = _module.subtract_modular
in_range = _module.in_range
pack30 = _module.pack30
unpack30 = _module.unpack30
pack_sums = _module.pack_sums
unpack_sums_of = _module.unpack_sums_of
scale_sums = _module.scale_sums
fold_packed = _module.fold_packed
fold_words = _module.fold_words
add_rows = _module.add_rows
quantise_rows = _module.quantise_rows
fill_ternary = _module.fill_ternary
fill_binomial = _module.fill_binomial
hide_pair = _module.hide_pair
signed_sum = _module.signed_sum
product_sums = _module.product_sums
multiply = _module.multiply
quotients = _module.quotients
multiply_onto = _module.multiply_onto
