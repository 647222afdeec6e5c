"""Steps of the noisy-or model under one shared noise: the mean of the last iterates, and how a run continues."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from example_config import EXAMPLE_CONFIG
from small_banks import CPU, FEATURES, make_banks

from fl.data.federation import BankData, Rows
from fl.errors import ModelError, TrainingError
from fl.learning.model import build_model, flatten, model_hash
from fl.learning.noisy_or import BOUND, NoisyOr, gradient_sum
from fl.learning.training import LocalTraining
from fl.privacy.mechanisms import SharedSteps
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.algorithms.state import ReleasedAverage, State
from fl.rounds.joint_noise import JointNoise, row_sensitivity
from fl.rounds.joint_steps import AVERAGED, ITERATE, ITERATES, RIDGE, VELOCITY, NoisyOrSteps
from fl.rounds.play import Rounds, Schedule, play_rounds
from fl.runs.folder import RunFolder
from fl.secure.session import plain_sum

LOCAL = LocalTraining("sgd", learning_rate=2.0, momentum=0.8, pos_weight=1.0)
STEPS = NoisyOrSteps(Everyone(4), BOUND, LOCAL)


def rows_of(rows: Rows, most: float) -> Rows:
    """The rows with a probability up to `most` in the last column."""
    x = rows.x.copy()
    x[:, -1] = most * (np.arange(len(rows)) % 3 == 0)
    return replace(rows, x=x)


def banks(most: float = 0.95) -> tuple[BankData, ...]:
    def changed(rows: Rows) -> Rows:
        return rows_of(rows, most)

    return tuple(
        BankData(bank.name, changed(bank.train), changed(bank.validation), tuple(map(changed, bank.test)))
        for bank in make_banks(4)
    )


def noisy_rounds(rounds: int, sigma: float = 2.0, engine: str | None = None) -> Rounds:
    schedule = Schedule(rounds, LOCAL, None, dropout=0.0, prior=0.1, seed=0, kind="noisy-or")
    once = SharedSteps(row_sensitivity(FEATURES), sigma**2, 3, FEATURES, 1)
    aggregate = partial(JointNoise(BOUND, 800.0, 4, once).average, engine=engine)
    return Rounds(banks(), schedule, STEPS, aggregate, clip=1.0, device=CPU, quorum=4)


def released(values: list[float], number: int = 1) -> ReleasedAverage:
    return ReleasedAverage(number, np.array(values), np.ones(len(values), bool), 4, 4)


def test_a_step_is_that_of_a_hand_computed_example_and_pulls_every_weight_but_the_constants() -> None:
    state = State(np.zeros(2, np.float32), {
        VELOCITY: np.array([0.5, 0.0]), ITERATE: np.array([1.0, -1.0], np.float32),
        ITERATES: np.array([[3.0, 5.0]], np.float32),
    })  # fmt: skip
    after = STEPS.apply(state, released([1.0, 2.0]))
    np.testing.assert_allclose(after.memory[VELOCITY], [0.8 * 0.5 + 1.0, 2.0 - RIDGE], rtol=1e-12)
    np.testing.assert_allclose(after.memory[ITERATE], [1.0 - 2 * 1.4, -1.0 - 2 * (2 - RIDGE)], rtol=1e-6)
    np.testing.assert_allclose(after.model, [(3.0 - 1.8) / 2, (5.0 - 5.0 + 2 * RIDGE) / 2], rtol=1e-4, atol=1e-6)


def test_banks_hold_the_mean_of_the_last_ten_iterates_and_step_from_the_last() -> None:
    state, made = STEPS.begin(np.zeros(3, np.float32)), []
    for number in range(1, 15):
        state = STEPS.apply(state, released([float(number), 0.5, -1.0], number))
        made.append(state.memory[ITERATE])
        np.testing.assert_allclose(state.model, np.mean(made[-AVERAGED:], axis=0), rtol=1e-6)
    assert len(state.memory[ITERATES]) == AVERAGED == 10
    seat = STEPS.timetable.seats(15)[0]
    assert (STEPS.trains_from(state, seat) == made[-1]).all() and not np.allclose(state.model, made[-1])
    assert STEPS.model_hash(state, lambda vector: str(vector.tolist())) == str(made[-1].tolist())


def test_a_round_is_one_step_along_the_sum_of_all_gradients_encrypted_or_not() -> None:
    rounds = noisy_rounds(1)
    model = NoisyOr(FEATURES, prior=0.1)
    assert model_hash(rounds.first_model()) == model_hash(model)
    total = sum(gradient_sum(model, bank.train, BOUND) for bank in rounds.banks)
    expected = flatten(model) - LOCAL.learning_rate * total / 800.0
    for engine in (None, "auto"):
        ((record, state),) = play_rounds(noisy_rounds(1, engine=engine))
        assert np.abs(state.model - expected).max() < LOCAL.learning_rate * record.aggregate.error_bound + 1e-6
        assert (record.aggregate.bytes_up > 0) == (engine == "auto")


def test_a_run_continues_from_its_checkpoint_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    schedule = Schedule(13, LOCAL, None, dropout=0.0, prior=0.1, seed=0, kind="noisy-or")
    aggregate = partial(plain_sum, clip=1.0)
    rounds = Rounds(banks(), schedule, replace(STEPS, rows=200.0), aggregate, clip=1.0, device=CPU, quorum=4)
    whole = [state for _, state in play_rounds(rounds)]
    folder = RunFolder.create(tmp_path / "run", EXAMPLE_CONFIG, run_id="r", description={}, features=())
    for finished in range(1, 12):
        folder.finish_round(finished, {}, whole[finished - 1])
        if finished not in (1, 11):
            continue
        number, kept, _ = folder.last_round()
        *_, (_, after) = play_rounds(rounds, finished=number, state=kept)
        assert number == finished and (after.model == whole[-1].model).all()
        assert all((after.memory[name] == whole[-1].memory[name]).all() for name in whole[-1].memory)


def test_steps_without_noise_divide_by_the_declared_rows_and_find_the_rows_frauds() -> None:
    schedule = Schedule(60, LOCAL, None, dropout=0.0, prior=0.1, seed=0, kind="noisy-or")
    steps = replace(STEPS, rows=200.0)
    rounds = Rounds(banks(0.0), schedule, steps, partial(plain_sum, clip=1.0), clip=1.0, device=CPU, quorum=4)
    *_, (record, state) = play_rounds(rounds)
    assert record.validation_roc_auc > 0.9 and abs(state.model[1]) > 1


def test_another_model_another_weight_of_frauds_and_a_shorter_clip_are_refused() -> None:
    rows = banks()[0].train
    with pytest.raises(TrainingError, match="pos_weight: expected 1"):
        replace(STEPS, local=replace(LOCAL, pos_weight=4.0))
    with pytest.raises(TrainingError, match="expect a noisy-or model, got Sequential"):
        STEPS.contribution(build_model(FEATURES, seed=0), rows, lambda: None)
    with pytest.raises(ModelError, match="set max_grad_norm"):
        replace(STEPS, max_grad_norm=1.0).contribution(NoisyOr(FEATURES), rows, lambda: None)
