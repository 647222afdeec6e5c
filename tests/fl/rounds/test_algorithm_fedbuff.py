"""Rounds that wait for nobody: who is seated when, from which model, bound to which list of models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_banks import make_algorithm, make_banks, play

import secagg
from fl.rounds.algorithms.fedbuff import Clock, FedBuff, base_models_hash, staleness_weight
from fl.rounds.algorithms.state import Seat
from secagg.errors import WrongModel
from secagg.session import Parties, Session, Terms

clocks = st.builds(
    lambda durations, buffer: Clock(tuple(durations), min(buffer, len(durations)), 8),
    st.lists(st.integers(1, 9), min_size=3, max_size=8),
    st.integers(1, 5),
)


def test_the_first_rounds_are_those_of_a_table_made_by_hand() -> None:
    """Three banks of 1, 1 and 3 ticks, K = 2. Ticks:  1: a, b join, round 1.  2: a, b, round 2.  3: a, b, c finish
    together; a and b come first, round 3.  c, from model 0, joins round 4 with a (tick 4), which began at model 3.
    """
    clock = Clock((1, 1, 3), 2, 8)
    assert [clock.seats(number) for number in (1, 2, 3)] == [(Seat(0, n, 8), Seat(1, n, 8)) for n in (0, 1, 2)]
    assert clock.seats(4) == (Seat(0, 3, 8), Seat(2, 0, staleness_weight(3, 8)))
    assert clock.starting(1) == (0, 1, 2) and clock.starting(4) == (0, 1)
    assert clock.starting(4, resumed=True) == (0, 1, 2)


@settings(deadline=None)  # a busy machine is no counterexample
@given(clocks, st.integers(1, 40))
def test_every_seat_belongs_to_a_training_that_was_begun_and_is_still_under_way(clock: Clock, rounds: int) -> None:
    under_way: dict[int, int] = {}
    for number in range(1, rounds + 1):
        for bank in clock.starting(number):
            assert bank not in under_way
            under_way[bank] = number - 1
        assert frozenset(under_way.values()) <= clock.bases(number - 1)
        seats = clock.seats(number)
        assert len(seats) == clock.buffer == len({seat.bank for seat in seats})
        for seat in seats:
            assert under_way.pop(seat.bank) == seat.base < number
            assert seat.weight == staleness_weight(number - 1 - seat.base, 8)


@settings(deadline=None)  # a busy machine is no counterexample
@given(clocks)
def test_nobody_waits_for_ever(clock: Clock) -> None:
    rounds = len(clock.durations) * max(clock.durations) + 1
    assert {seat.bank for number in range(1, rounds + 1) for seat in clock.seats(number)} == set(
        range(len(clock.durations))
    )


def test_a_thousand_rounds_are_no_recursion() -> None:
    assert len(Clock((1, 2, 3, 7), 3, 8).seats(5000)) == 3


def test_the_state_holds_exactly_the_models_that_somebody_trains_from() -> None:
    algorithm = make_algorithm("fedbuff")
    for record, state in play(algorithm, rounds=6):
        clock = algorithm.timetable
        assert isinstance(clock, Clock)
        assert set(state.memory) == {f"model {base}" for base in clock.bases(record.number)} | {
            f"model {record.number}"
        }
        assert state.memory[f"model {record.number}"] is state.model


def test_rosters_are_of_k_and_weights_of_their_staleness() -> None:
    played = play(make_algorithm("fedbuff"), rounds=4, encrypted=True)
    assert [len(record.members) for record, _ in played] == [3, 3, 3, 3]
    clock = make_algorithm("fedbuff").timetable
    weights = [sum(seat.weight for seat in clock.seats(record.number)) for record, _ in played]
    assert [record.aggregate.total_weight for record, _ in played] == weights
    assert min(weights) < 24  # some update was stale


def test_a_bank_answers_no_offer_for_another_list_of_models() -> None:
    """One base more, one fewer, or one exchanged: another hash, and the role refuses the offer."""
    honest = {3: "aa" * 32, 4: "bb" * 32}
    fewer, more, exchanged = {4: "bb" * 32}, {**honest, 2: "cc" * 32}, {**honest, 4: "cc" * 32}
    lists = [honest, fewer, more, exchanged, {2: "aa" * 32, 4: "bb" * 32}]
    assert len({base_models_hash(models) for models in lists}) == len(lists)
    assert base_models_hash(dict(reversed(honest.items()))) == base_models_hash(honest)

    plan = secagg.plan_round(length=8, max_clients=3, max_weight=8)
    roles = Session(Parties.generate(["bank 0", "bank 1", "bank 2"])).roles(Terms(plan))
    offer = roles.key_holder.open(1, bytes.fromhex(base_models_hash(more)))
    with pytest.raises(WrongModel):
        roles.clients[0].join(offer, bytes.fromhex(base_models_hash(honest)))


def test_offers_are_bound_to_every_model_that_the_state_holds() -> None:
    algorithm = make_algorithm("fedbuff")
    (*_, (_, state)) = play(algorithm, rounds=2)
    hashes = {name: f"{i:02x}" * 32 for i, name in enumerate(state.memory)}
    by_vector = {id(vector): hashes[name] for name, vector in state.memory.items()}
    expected = base_models_hash({int(name.split()[1]): value for name, value in hashes.items()})
    assert algorithm.model_hash(state, lambda vector: by_vector[id(vector)]) == expected


def test_every_training_that_begins_is_paid_for_also_those_that_end_in_no_round() -> None:
    algorithm, paid = make_algorithm("fedbuff"), list[tuple[str, int]]()
    banks = make_banks(4)
    played = play(algorithm, banks=banks, rounds=3, pay=lambda bank, number: paid.append((bank, number)))
    joined = sum(len(record.members) for record, _ in played)
    assert len(paid) == 4 + 3 + 3 > joined
    assert [bank for bank, number in paid if number == 1] == [bank.name for bank in banks]


def test_equal_banks_and_a_full_buffer_are_fedavg() -> None:
    buffered = FedBuff(Clock((1, 1, 1, 1), 4, 8))
    averaged = make_algorithm("fedavg")
    for (_, one), (_, other) in zip(play(buffered), play(averaged), strict=True):
        assert one.model == pytest.approx(other.model, abs=1e-6)
    stale = replace(buffered, server_lr=0.5)
    assert not np.allclose(play(stale)[0][1].model, play(averaged)[0][1].model)
