"""Banks that are not asked, that vanish, and what their vanishing costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_banks import make_algorithm, make_banks, play

from fl.errors import AggregationError, AlgorithmError, BudgetExhausted
from fl.learning.training import PrivateSteps
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.fedbuff import Clock
from fl.rounds.algorithms.participation import Dropouts, Everyone, Sampled
from fl.rounds.algorithms.settings import ParticipationSettings
from fl.rounds.algorithms.state import Timetable, affordable_rounds, trainings
from fl.secure.session import InProcessRounds, Joined
from secagg.errors import ModelRepeated, SecAggError, UpdateReused
from secagg.journal import UpdateReuseWarning


@dataclasses.dataclass(frozen=True)
class Scripted(Dropouts):
    """Accidents as a table: (round, attempt) -> (banks that vanish before the roster, banks that vanish after)."""

    script: tuple[tuple[tuple[int, int], tuple[tuple[int, ...], tuple[int, ...]]], ...] = ()

    def vanished(self, number, attempt, banks):  # type: ignore[no-untyped-def]
        early, late = dict(self.script).get((number, attempt), ((), ()))
        return frozenset(early) & frozenset(banks), frozenset(late) & frozenset(banks)


def accidents(script: dict, **options: object) -> Scripted:
    return Scripted(script=tuple(script.items()), **options)  # type: ignore[arg-type]


FEDAVG = FedAvg(Everyone(5))
FIVE = make_banks(5, train=80)


# --- who is asked ----------------------------------------------------------------------------------------------------


@settings(deadline=None)  # a busy machine is no counterexample
@given(banks=st.integers(3, 30), fraction=st.floats(0.01, 1.0), number=st.integers(1, 1000), seed=st.integers(0, 2**32))
def test_a_sample_is_of_the_right_size_without_repetition_and_repeatable(
    banks: int, fraction: float, number: int, seed: int
) -> None:
    table = Sampled(banks, fraction, 3, seed)
    seats = table.seats(number)
    assert seats == table.seats(number)
    asked = [seat.bank for seat in seats]
    assert asked == sorted(set(asked)) and set(asked) <= set(range(banks))
    assert max(3, fraction * banks) <= len(asked) == table.largest < max(3, fraction * banks) + 1
    assert {seat.base for seat in seats} == {number - 1}


def test_every_bank_is_asked_about_as_often() -> None:
    table = Sampled(10, 0.5, 3, 0)
    asked = np.bincount([seat.bank for number in range(1, 401) for seat in table.seats(number)], minlength=10)
    assert asked.sum() == 2000 and asked.min() > 150 and asked.max() < 250


def test_only_those_who_are_asked_train_and_only_they_pay() -> None:
    algorithm = make_algorithm("fedavg", 5, ParticipationSettings(fraction=0.6))
    paid: list[tuple[str, int]] = []
    played = play(algorithm, banks=FIVE, encrypted=True, pay=lambda bank, number: paid.append((bank, number)))
    for record, _ in played:
        asked = tuple(FIVE[seat.bank].name for seat in algorithm.timetable.seats(record.number))
        assert record.members == asked and len(asked) == 3
        assert [bank for bank, number in paid if number == record.number] == list(asked)


# --- who vanishes ----------------------------------------------------------------------------------------------------


def test_a_bank_that_vanishes_before_the_roster_closes_is_left_out() -> None:
    gone = accidents({(1, 0): ((1,), ())})
    ((record, state),) = play(FEDAVG, banks=FIVE, rounds=1, encrypted=True, quorum=3, dropouts=gone)
    assert (record.vanished, record.attempts) == (("bank 1",), 1)
    four = (FIVE[0], *FIVE[2:])
    ((_, expected),) = play(FedAvg(Everyone(4)), banks=four, rounds=1)
    assert state.model == pytest.approx(expected.model, abs=1e-6)


def test_a_bank_that_vanishes_afterwards_is_named_and_left_out_of_the_retry() -> None:
    gone = accidents({(1, 0): ((), (1,))})
    ((record, _),) = play(FEDAVG, banks=FIVE, rounds=1, encrypted=True, quorum=3, dropouts=gone)
    assert record.vanished == ("bank 1",)
    assert record.attempts == 2
    assert record.members == ("bank 0", "bank 2", "bank 3", "bank 4")


def test_those_who_stayed_train_afresh_for_the_retry_and_pay_for_it() -> None:
    gone = accidents({(1, 0): ((), (1,))})
    paid: list[str] = []
    trained: list[str] = []
    play(
        FEDAVG,
        banks=FIVE,
        rounds=1,
        encrypted=True,
        quorum=3,
        dropouts=gone,
        pay=lambda bank, _: paid.append(bank),
        progress=trained.append,
    )
    names, stayed = [bank.name for bank in FIVE], ["bank 0", "bank 2", "bank 3", "bank 4"]
    assert paid == trained == [*names, *stayed]


def test_an_update_that_was_in_a_lost_roster_enters_no_other_unless_asked_to() -> None:
    rng = np.random.default_rng(0)
    names = ("a", "b", "c", "d")
    updates = tuple(rng.normal(scale=0.1, size=50).astype(np.float32) for _ in names)
    rounds = InProcessRounds(names, clip=1.0, quorum=3, model_repeats=1)
    lost = Joined(names, updates, (1,) * 4, "ab" * 32, vanished=frozenset("d"))
    with pytest.raises(AggregationError, match="d joined the roster and never contributed"):
        rounds.average(lost, 16)
    again = Joined(names[:3], updates[:3], (1,) * 3, "ab" * 32)
    with pytest.raises(UpdateReused, match="train a new one"):
        rounds.average(again, 16)
    with pytest.warns(UpdateReuseWarning):
        result = rounds.average(dataclasses.replace(again, reuse=True), 16)
    assert np.abs(result.average - np.mean(updates[:3], axis=0)).max() <= result.error_bound + 1e-9


@pytest.mark.parametrize("chunk", [None, 20])
def test_a_retry_without_the_bank_that_vanished_needs_the_consent_of_those_who_stayed(chunk) -> None:
    """Each trains anew; the two sums are from one model all the same. Chunks of one round are no repetition."""
    rng = np.random.default_rng(0)
    names = ("a", "b", "c", "d")

    def joined(members: int, vanished: frozenset[str] = frozenset()) -> Joined:
        updates = tuple(rng.normal(scale=0.1, size=50).astype(np.float32) for _ in range(members))
        return Joined(names[:members], updates, (1,) * members, "ab" * 32, vanished=vanished)

    for allowed, passes in ((0, False), (1, True), (None, True)):
        rounds = InProcessRounds(names, clip=1.0, quorum=3, chunk=chunk, model_repeats=allowed)
        rounds.average(joined(4), 16)
        rounds.average(joined(4), 16)
        if passes:
            rounds.average(joined(3), 16)
        else:
            with pytest.raises(ModelRepeated):
                rounds.average(joined(3), 16)


def test_with_reuse_the_retry_sends_the_first_training() -> None:
    gone = accidents({(1, 0): ((), (1,))}, reuse=True)
    trained: list[str] = []
    with pytest.warns(UpdateReuseWarning):
        ((_, state),) = play(
            FEDAVG, banks=FIVE, rounds=1, encrypted=True, quorum=3, dropouts=gone, progress=trained.append
        )
    assert trained == [bank.name for bank in FIVE]
    early = accidents({(1, 0): ((1,), ())})
    ((_, expected),) = play(FEDAVG, banks=FIVE, rounds=1, quorum=3, dropouts=early)
    assert state.model == pytest.approx(expected.model, abs=1e-6)


def test_retries_are_bounded_and_the_error_names_who_was_missing() -> None:
    gone = accidents({(1, attempt): ((), (attempt,)) for attempt in range(3)}, retries=1)
    with pytest.raises(AggregationError, match=r"lost 2 times \(bank 0 joined .*; bank 1 joined"):
        play(FEDAVG, banks=FIVE, rounds=1, encrypted=True, quorum=3, dropouts=gone)


def test_a_round_below_its_quorum_is_offered_again_with_what_was_trained() -> None:
    gone = accidents({(1, 0): ((0, 1, 2), ())})
    paid: list[str] = []
    ((record, _),) = play(
        FEDAVG, banks=FIVE, rounds=1, encrypted=True, quorum=3, dropouts=gone, pay=lambda bank, _: paid.append(bank)
    )
    assert record.attempts == 2 and len(record.members) == 5
    assert sorted(paid) == [bank.name for bank in FIVE]  # nobody trained twice: no roster had been closed


def test_a_bank_that_vanished_is_back_in_the_next_round() -> None:
    gone = accidents({(1, 0): ((), (1,))})
    played = play(FEDAVG, banks=FIVE, rounds=2, encrypted=True, quorum=3, dropouts=gone)
    assert [len(record.members) for record, _ in played] == [4, 5]


def test_plain_and_encrypted_rounds_lose_the_same_rosters() -> None:
    gone = Dropouts(before=0.1, after=0.15, retries=5, seed=0)
    records = {
        encrypted: [
            (record.members, record.attempts)
            for record, _ in play(FEDAVG, banks=FIVE, rounds=4, encrypted=encrypted, quorum=3, dropouts=gone)
        ]
        for encrypted in (False, True)
    }
    assert records[False] == records[True]
    assert max(attempts for _, attempts in records[True]) > 1


# --- privacy ---------------------------------------------------------------------------------------------------------

PRIVATE = PrivateSteps(0.5, 1.0, 1, 1.0, 50.0)


def test_private_retries_carry_fresh_noise_and_end_the_run_within_its_budget() -> None:
    """Three trainings each; round 1 takes two of them, so only two rounds are played."""
    gone = accidents({(1, 0): ((), (1,))})
    begun: dict[str, int] = dict.fromkeys((bank.name for bank in FIVE), 0)

    def pay(bank: str, _: int) -> None:
        begun[bank] += 1

    def afford(banks: list[str]) -> bool:
        return all(begun[bank] < 3 for bank in banks)

    played = play(
        FEDAVG,
        banks=FIVE,
        rounds=3,
        encrypted=True,
        quorum=3,
        dropouts=gone,
        private=PRIVATE,
        pay=pay,
        afford=afford,
    )
    assert len(played) == 2
    assert begun == {"bank 0": 3, "bank 1": 2, "bank 2": 3, "bank 3": 3, "bank 4": 3}


def test_a_bank_that_cannot_pay_for_the_retry_ends_the_round() -> None:
    gone = accidents({(1, 0): ((), (1,))})
    spent: list[str] = []

    def pay(bank: str, _: int) -> None:
        if spent.count(bank) == 1:
            raise BudgetExhausted(f"{bank}: nothing left")
        spent.append(bank)

    with pytest.raises(BudgetExhausted):
        play(FEDAVG, banks=FIVE, rounds=1, encrypted=True, quorum=3, dropouts=gone, private=PRIVATE, pay=pay)


@pytest.mark.parametrize("table", [Everyone(4), Sampled(6, 0.5, 3, 1), Clock((1, 2, 3, 5), 3, 8)])
def test_no_bank_trains_more_often_than_its_budget_was_calibrated_to(table: Timetable) -> None:
    allowed, begun = trainings(table, 12), dict[int, int]()
    for number in range(1, 13):
        for bank in table.starting(number):
            begun[bank] = begun.get(bank, 0) + 1
    assert max(begun.values()) == allowed <= 12


@pytest.mark.parametrize("table", [Everyone(4), Sampled(6, 0.5, 3, 1), Clock((1, 2, 3, 5), 3, 8)])
def test_a_run_killed_in_a_round_finds_how_many_more_it_can_afford(table: Timetable) -> None:
    """Killed while round 5 was trained: its trainings are paid for and lost."""
    allowed = trainings(table, 10)
    begun: dict[int, int] = {}
    for number in range(1, 6):
        for bank in table.starting(number):
            begun[bank] = begun.get(bank, 0) + 1
    last = affordable_rounds(table, 10, 4, begun, allowed)
    assert 4 <= last <= 10
    for number in range(5, last + 1):
        for bank in table.starting(number, resumed=number == 5):
            begun[bank] = begun.get(bank, 0) + 1
    assert max(begun.values()) <= allowed
    if isinstance(table, Everyone):
        assert last == 9


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"before": -0.1}, {"after": 1.5}, {"retries": -1}])
def test_impossible_accidents_are_refused(options: dict) -> None:
    with pytest.raises(AlgorithmError, match=r"dropouts: .* expected .*(probability|lost)"):
        Dropouts(**options)


def test_a_fraction_of_nobody_is_refused() -> None:
    with pytest.raises(AlgorithmError, match="fraction"):
        Sampled(5, 0.0, 3, 0)
    with pytest.raises(AlgorithmError, match="quorum of 6"):
        Sampled(5, 0.5, 6, 0)


def test_rosters_of_two_are_never_closed() -> None:
    with pytest.raises(AggregationError, match="at least 3"):
        InProcessRounds(["a", "b", "c"], clip=1.0, quorum=2)
    rounds = InProcessRounds(["a", "b", "c"], clip=1.0, quorum=3)
    with pytest.raises(SecAggError):
        rounds.average(Joined(("a", "b"), (np.zeros(4, np.float32),) * 2, (1, 1), "00" * 32), 16)
