"""The loop over days exists twice: both give the same numbers, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl.counts import recursion_numpy
from fl.counts.day_filter import Chain
from fl.counts.durations import ending
from fl.counts.layout import Days, Floats, Transitions
from fl.counts.recursion import Recursion

ROOT = Path(__file__).resolve().parents[3]
NUMBA = pytest.importorskip("fl.counts.recursion_numba", reason="numba is not installed (extra fast)")


def transitions(mean: float, shape: float, longest: int) -> Transitions:
    chain = Chain(0.002, ending(mean, shape, longest))
    return Transitions(chain.onset, chain.ends, *chain.stationary(), *chain.ahead(8))


def days(slots: int, lengths: tuple[int, ...], *, own: bool, blocks: bool = True, seed: int = 7) -> Days:
    """Some forty days with blocks of these lengths and gaps between them, and evidence of every strength."""
    drawn = np.random.default_rng(seed)
    elapsed: list[int] = []
    closes: list[int] = []
    kind: list[int] = []
    while len(elapsed) < 40:
        if not blocks or drawn.random() < 0.2:
            elapsed, closes = [*elapsed, 0], [*closes, -1]
            continue
        which = int(drawn.integers(len(lengths)))
        elapsed += range(1, lengths[which] + 1)
        closes += [-1] * (lengths[which] - 1) + [len(kind)]
        kind.append(which)
    return Days(
        np.array(elapsed),
        np.array(closes),
        np.array(kind, np.int64),
        drawn.integers(9, size=(len(kind), slots)),
        tuple(np.exp(2 * drawn.normal(size=(length + 1, 9))) for length in lengths) if blocks else (),
        np.exp(4 * drawn.normal(size=(len(elapsed), slots))) if own else None,
        np.array([-1, 0, 11, 11, len(elapsed) - 1]),
    )


def advanced(module: Recursion, chain: Transitions, shown: Days) -> tuple[Floats, Floats]:
    slots = shown.code.shape[1]
    predicted, totals = np.full((len(shown.wanted), slots), np.nan), np.full((len(shown.elapsed), slots), np.nan)
    module.advance(chain, shown, predicted, totals)
    return predicted, totals


@pytest.mark.parametrize("own", [False, True], ids=["counts", "counts and own rows"])
@pytest.mark.parametrize("lengths", [(1,), (2,), (7,), (1, 2, 9)])
@pytest.mark.parametrize(("mean", "shape"), [(3.0, 1.0), (28.0, 50.0), (300.0, 2.0)])
@pytest.mark.parametrize("slots", [1, 2, 65, 130])
def test_numba_and_numpy_agree_to_the_last_bit(
    slots: int, mean: float, shape: float, lengths: tuple[int, ...], own: bool
) -> None:
    chain, shown = transitions(mean, shape, max(lengths)), days(slots, lengths, own=own)
    for ours, theirs in zip(advanced(NUMBA, chain, shown), advanced(recursion_numpy, chain, shown), strict=True):
        assert np.isfinite(ours).all()
        np.testing.assert_array_equal(ours, theirs)


def test_they_agree_on_own_rows_without_any_release() -> None:
    chain, shown = transitions(14.0, 6.0, 1), days(50, (), own=True, blocks=False)
    for ours, theirs in zip(advanced(NUMBA, chain, shown), advanced(recursion_numpy, chain, shown), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("module", [NUMBA, recursion_numpy], ids=["numba", "numpy"])
def test_a_slot_does_not_depend_on_the_slots_beside_it(module: Recursion) -> None:
    chain, shown = transitions(28.0, 20.0, 2), days(130, (2,), own=True)
    assert shown.own is not None
    one = Days(
        shown.elapsed, shown.closes, shown.kind, shown.code[:, 77:78], shown.ratio, shown.own[:, 77:78], shown.wanted
    )
    for alone, among in zip(advanced(module, chain, one), advanced(module, chain, shown), strict=True):
        np.testing.assert_array_equal(alone, among[:, 77:78])


def chosen(environment: dict[str, str], before: str = "") -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "SECAGG_KERNELS"}
    program = f"{before}\nfrom fl.counts.recursion import recursion\nprint(recursion().__name__)"
    return subprocess.run(
        [sys.executable, "-c", program], env=clean | environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


WITHOUT_NUMBA = "import sys; sys.modules['numba'] = None"


@pytest.mark.parametrize(
    ("environment", "before", "name"),
    [
        ({}, "", "fl.counts.recursion_numba"),
        ({"SECAGG_KERNELS": "numpy"}, "", "fl.counts.recursion_numpy"),
        ({}, WITHOUT_NUMBA, "fl.counts.recursion_numpy"),
    ],
)
def test_numba_is_chosen_where_it_is_installed_and_not_refused(
    environment: dict[str, str], before: str, name: str
) -> None:
    assert chosen(environment, before).stdout.strip() == name


@pytest.mark.parametrize(
    ("asked", "before", "told"),
    [("numba", WITHOUT_NUMBA, "pip install -e '.[fast]'"), ("fortran", "", "expected numpy or numba, got 'fortran'")],
)
def test_what_cannot_be_had_is_an_error_and_no_fallback(asked: str, before: str, told: str) -> None:
    done = chosen({"SECAGG_KERNELS": asked}, before)
    assert done.returncode != 0
    assert "StatisticsError" in done.stderr
    assert told in done.stderr
