"""Layers that stay at their bank."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
from small_banks import CPU, FEATURES, first_vector, make_algorithm, make_banks, make_schedule, play

from fl.errors import AlgorithmError
from fl.learning.evaluation import evaluate
from fl.learning.model import flatten, layout
from fl.learning.training import derive_seed, train_seeded
from fl.rounds.algorithms.heads import Heads, head_name
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.algorithms.state import Seat
from fl.rounds.play import Rounds
from fl.secure.session import plain_sum

SHAPE = layout(make_schedule().first_model(FEATURES))


def test_the_head_never_travels() -> None:
    heads = make_algorithm("heads")
    ((record, _),) = play(heads, rounds=1, encrypted=True)
    layers = {slot.name.split(".")[0] for slot in SHAPE.slots}
    assert layers == {"hidden1", "hidden2", "logit"}
    assert record.values == 64 * FEATURES + 64  # hidden1 alone
    assert record.values + int((~heads.travels(SHAPE.length)).sum()) == SHAPE.length


def test_a_bank_keeps_the_head_that_it_trained_and_shares_the_mean_below_it() -> None:
    heads, banks, first = Heads(Everyone(3), SHAPE), make_banks(3), first_vector()
    ((_, state),) = play(heads, banks=banks, rounds=1)
    shared = heads.travels(len(first))
    trained = []
    for position, bank in enumerate(banks):
        module = make_schedule().first_model(FEATURES)
        train_seeded(
            module, bank.train, make_schedule().local, seed=derive_seed(0, "batches", bank.name, 1), device=CPU
        )
        trained.append(flatten(module))
        assert state.memory[head_name(position)] == pytest.approx(trained[-1][~shared], abs=1e-6)
        assert heads.scores_with(state, position)[shared].tolist() == state.model[shared].tolist()
    mean = first + np.mean([t.astype(np.float64) - first for t in trained], axis=0)
    assert state.model[shared] == pytest.approx(mean[shared], abs=1e-6)
    assert state.model[~shared].tolist() == first[~shared].tolist()


def test_training_continues_from_the_banks_own_head() -> None:
    heads = make_algorithm("heads")
    ((_, state),) = play(heads, rounds=1)
    own = heads.trains_from(state, Seat(2, 1))
    assert own[~heads.travels(len(own))].tolist() == state.memory[head_name(2)].tolist()


def test_banks_are_measured_with_their_own_models() -> None:
    heads, banks = make_algorithm("heads"), make_banks(4)
    (*_, (_, state)) = play(heads, banks=banks)
    rounds = Rounds(banks, make_schedule(), heads, partial(plain_sum, clip=1.0), clip=1.0, device=CPU)
    models = rounds.models(state)
    assert len({id(model) for model in models}) == 4
    one = dataclasses.replace(rounds, algorithm=make_algorithm("fedavg")).models(state)
    assert len({id(model) for model in one}) == 1
    assert evaluate(banks, models, CPU).per_bank != evaluate(banks, one, CPU).per_bank


def test_a_bank_without_a_head_yet_begins_with_the_first_models() -> None:
    heads = make_algorithm("heads")
    ((_, state),) = play(heads, rounds=1)
    without = dataclasses.replace(state, memory={})
    assert heads.scores_with(without, 0) is without.model


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("output",), "no layers output: the model has hidden1, hidden2, logit"),
        (("hidden1", "hidden2", "logit"), "no layer is left to share"),
    ],
)
def test_heads_that_leave_nothing_or_do_not_exist_are_refused(layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(AlgorithmError, match=message):
        Heads(Everyone(3), SHAPE, layers)
