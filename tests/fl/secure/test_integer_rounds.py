"""Exact sums of one federation, one after the other: exact each time, whatever a bank repeats, and each a new step."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest

from fl.errors import AggregationError
from fl.secure import session
from fl.secure.session import IntegerRounds, IntegerSum

NAMES = [f"{number:064x}" for number in range(1, 9)]


def drawn(values: list[int], roster: int) -> np.ndarray:
    return np.array(values, np.int64)


def summed(rounds: IntegerRounds, values: list[list[int]], name: str) -> IntegerSum:
    return rounds.sum([partial(drawn, each) for each in values], length=len(values[0]), largest=100, model_hash=name)


def test_sums_of_one_federation_are_exact_and_each_has_a_step_of_its_own() -> None:
    rounds = IntegerRounds(3)
    first = summed(rounds, [[1, 2], [3, -4], [100, 100]], NAMES[0])
    second = summed(rounds, [[5, 6, 7], [1, 1, 1], [0, 0, 2]], NAMES[1])
    assert first.totals.tolist() == [104, 98] and second.totals.tolist() == [6, 7, 10]
    assert rounds._session.ledger.next_step == 3
    assert first.bytes_up == second.bytes_up > 0 and first.bytes_down > 0


def test_what_a_bank_repeats_is_summed_again_without_a_warning() -> None:
    """A validation loss that did not change, or a node in which a bank has no row."""
    rounds = IntegerRounds(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES[:2]:
            assert summed(rounds, [[7], [0], [9]], name).totals.tolist() == [16]


def test_a_new_federation_takes_over_before_ledger_and_journals_grow_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session, "SUMS_OF_A_FEDERATION", 2)
    rounds, seen = IntegerRounds(3), []
    for number, name in enumerate(NAMES[:5]):
        assert summed(rounds, [[number], [1], [1]], name).totals.tolist() == [number + 2]
        seen.append((rounds._session.parties.enrolment.session, rounds._session.ledger.next_step))
    assert [step for _, step in seen] == [2, 3, 2, 3, 2]
    assert len({federation for federation, _ in seen}) == 3


def test_two_banks_are_refused_and_so_is_another_number_of_banks_than_the_federation_has() -> None:
    with pytest.raises(AggregationError, match="at least 3 banks, got 2"):
        IntegerRounds(2)
    with pytest.raises(AggregationError, match="of 3 banks, got those of 4"):
        summed(IntegerRounds(3), [[1]] * 4, NAMES[0])


@pytest.mark.parametrize("value", [101, -101, 2**63 - 1, -(2**63)])
def test_an_integer_beyond_the_largest_is_refused_and_the_next_sum_is_exact(value: int) -> None:
    rounds = IntegerRounds(3)
    with pytest.raises(AggregationError, match="within"):
        summed(rounds, [[1], [value], [1]], NAMES[0])
    assert summed(rounds, [[1], [-100], [1]], NAMES[0]).totals.tolist() == [-98]
