"""Compiled loops are kept on disk where numba may write, and work where it may not."""

from __future__ import annotations

import numpy as np
import pytest

compiled = pytest.importorskip("secagg.compiled", reason="numba is not installed (extra `fast`)").compiled

TOTAL = """
def total(values):
    found = 0.0
    for value in values:
        found += value
    return found
"""


def doubled(value: int) -> int:
    return 2 * value


def test_a_loop_of_a_file_is_kept_on_disk() -> None:
    loop = compiled()(doubled)
    assert loop(21) == 42
    assert loop.stats.cache_path


def test_a_loop_without_a_folder_for_it_is_compiled_all_the_same() -> None:
    names: dict[str, object] = {}
    exec(TOTAL, names)  # it has no source file, and so no folder that numba could use
    loop = compiled()(names["total"])
    assert loop(np.ones(5)) == 5.0
    assert loop.nopython_signatures and loop.stats.cache_path is None


def test_other_options_are_passed_on() -> None:
    def inverse(value: float) -> float:
        return 1.0 / value

    assert compiled(error_model="numpy")(inverse)(0.0) == np.inf  # without the option: ZeroDivisionError
