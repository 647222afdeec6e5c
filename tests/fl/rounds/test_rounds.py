from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
from small_banks import CPU, rows

from fl.data.federation import BankData
from fl.errors import AggregationError, BudgetExhausted, MetricError, TrainingError
from fl.learning.evaluation import evaluate, require_measurable
from fl.learning.model import flatten, model_hash, unflatten
from fl.learning.training import LocalTraining, PrivateSteps, derive_seed, train_seeded
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.algorithms.state import State
from fl.rounds.play import Rounds, Schedule, Summation, on_grid, play_rounds, trained_models
from fl.runs.baselines import alone, pooled
from fl.runs.config import APPLIED_GRID
from fl.secure import session as secure
from fl.secure.cost import plan_for
from fl.secure.session import encrypted_average, plain_average, plain_sum

HASH = "ab" * 32


def make_banks(count: int = 3, train: int = 300) -> tuple[BankData, ...]:
    return tuple(
        BankData(f"bank {i}", rows(train, 3 * i), rows(60, 3 * i + 1), (rows(90, 3 * i + 2), rows(90, 3 * i + 7)))
        for i in range(count)
    )


def make_schedule(rounds: int = 3, private: PrivateSteps | None = None, seed: int = 0) -> Schedule:
    local = LocalTraining("sgd", learning_rate=0.1, momentum=0.5, batch_size=64)
    return Schedule(rounds, local, private, dropout=0.3, prior=0.1, seed=seed)


def with_everybody(
    banks: Sequence[BankData], schedule: Schedule, plan: secure.secagg.RoundPlan | None = None
) -> Rounds:
    """FedAvg with all of the banks, encrypted under `plan`, in plain sight without one."""
    aggregate: Summation = partial(plain_sum, clip=1.0)
    if plan is not None:
        aggregate = lambda joined: encrypted_average(joined.updates, plan=plan, model_hash=joined.model_hash)  # noqa: E731
    return Rounds(banks, schedule, FedAvg(Everyone(len(banks))), aggregate, clip=1.0, device=CPU)


def play(
    banks: Sequence[BankData], schedule: Schedule, plan: secure.secagg.RoundPlan | None = None, **options: object
) -> list[np.ndarray]:
    rounds = play_rounds(with_everybody(banks, schedule, plan), **options)  # type: ignore[arg-type]
    return [state.model for _, state in rounds]


# --- averaging
# ------------------------------------------------------------------------------------------------------


def test_the_plain_average_clips_every_coordinate_and_counts() -> None:
    updates = [np.array([2.0, -0.5, 0.25], np.float32), np.array([-0.5, -3.0, 0.75], np.float32)]
    result = plain_average(updates, clip=1.0)
    assert result.average.tolist() == [0.25, -0.75, 0.5]
    assert result.clipped == (1, 1)


def test_encrypted_and_plain_averages_differ_by_quantisation_alone() -> None:
    rng = np.random.default_rng(0)
    updates = [rng.normal(scale=0.6, size=700).astype(np.float32) for _ in range(4)]
    plan = plan_for(700, 4, 1.0, 16)
    encrypted = encrypted_average(updates, plan=plan, model_hash=HASH)
    plainly = plain_average(updates, clip=1.0)
    assert encrypted.clipped == plainly.clipped
    assert sum(plainly.clipped) > 0
    error = np.abs(encrypted.average - plainly.average).max()
    assert 0 < error <= encrypted.error_bound <= plan.max_error
    assert encrypted.bytes_up >= 4 * plan.residue_bytes
    assert encrypted.bytes_down > 0


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_banks_are_not_averaged_under_encryption(count: int) -> None:
    with pytest.raises(AggregationError, match="at least 3"):
        encrypted_average([np.zeros(5, np.float32)] * count, plan=plan_for(5, 3, 1.0, 16), model_hash=HASH)


def test_the_model_that_updates_refer_to_is_bound_into_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    honest = secure.secagg.run_round

    def watched(*args: object, **options: object) -> object:
        seen.append((options["model"], options["quorum"]))
        return honest(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(secure.secagg, "run_round", watched)
    banks, schedule = make_banks(), make_schedule(rounds=2)
    start = schedule.first_model(3)
    plan = plan_for(len(flatten(start)), 3, 1.0, 16)
    first, _ = play(banks, schedule, plan=plan)
    expected = [bytes.fromhex(model_hash(start))]
    unflatten(start, first)
    expected.append(bytes.fromhex(model_hash(start)))
    assert seen == [(model, 3) for model in expected]


# --- rounds
# ---------------------------------------------------------------------------------------------------------


def test_a_round_adds_the_mean_of_the_banks_own_updates_to_the_global_model() -> None:
    banks, schedule = make_banks(), make_schedule(rounds=1)
    before = flatten(schedule.first_model(3))
    updates = []
    for bank in banks:
        model = schedule.first_model(3)
        train_seeded(model, bank.train, schedule.local, seed=derive_seed(0, "batches", bank.name, 1), device=CPU)
        updates.append(flatten(model).astype(np.float64) - before)
    (after,) = play(banks, schedule)
    assert after == pytest.approx(before + np.mean(updates, axis=0), abs=1e-6)


def test_every_bank_weighs_the_same_however_many_rows_it_has() -> None:
    small, large, other = make_banks()
    tiny = dataclasses.replace(small, train=rows(20, 0))
    (with_tiny,) = play((tiny, large, other), make_schedule(rounds=1))
    before = flatten(make_schedule().first_model(3))
    model = make_schedule().first_model(3)
    train_seeded(model, tiny.train, make_schedule().local, seed=derive_seed(0, "batches", tiny.name, 1), device=CPU)
    (without,) = play((large, other), make_schedule(rounds=1))
    third = (flatten(model) - before) / 3
    assert with_tiny - before == pytest.approx(third + (without - before) * 2 / 3, abs=1e-6)


def test_the_order_of_the_banks_does_not_matter() -> None:
    banks = make_banks()
    forward, backward = play(banks, make_schedule()), play(banks[::-1], make_schedule())
    assert forward[-1] == pytest.approx(backward[-1], abs=1e-6)


def test_rounds_continued_from_a_checkpoint_equal_rounds_played_through() -> None:
    banks, schedule = make_banks(), make_schedule(rounds=5)
    through = play(banks, schedule)
    continued = play(banks, schedule, finished=2, state=State(through[1]))
    assert [v.tolist() for v in continued] == [v.tolist() for v in through[2:]]


def test_encryption_changes_the_model_by_no_more_than_quantisation() -> None:
    banks, schedule = make_banks(), make_schedule(rounds=3)
    plan = plan_for(len(flatten(schedule.first_model(3))), 3, 1.0, 24)
    encrypted = play(banks, schedule, plan=plan)
    assert encrypted[-1] == pytest.approx(play(banks, schedule)[-1], abs=1e-5)


def test_on_the_applied_grid_encrypted_and_plain_rounds_end_at_the_same_bits() -> None:
    banks = make_banks()
    schedule = dataclasses.replace(make_schedule(rounds=4), applied_grid=APPLIED_GRID)
    length = flatten(schedule.first_model(banks[0].train.x.shape[1])).shape[0]
    plan = plan_for(length, len(banks), 1.0, 40)
    encrypted = play(banks, schedule, plan=plan)
    assert all((a == b).all() for a, b in zip(encrypted, play(banks, schedule), strict=True))
    off_grid = play(banks, dataclasses.replace(schedule, applied_grid=0.0))
    assert np.abs(encrypted[-1] - off_grid[-1]).max() > 0


def test_averages_are_moved_to_the_nearest_multiple_of_the_grid_and_by_no_more_than_half_of_it() -> None:
    average = np.array([0.26, -0.26, 0.1, 0.0])
    assert on_grid(average, 0.5).tolist() == [0.5, -0.5, 0.0, 0.0]
    assert on_grid(average, 0.0) is average


def test_all_banks_pay_before_any_bank_trains() -> None:
    events: list[str] = []
    banks = make_banks()
    for _ in play_rounds(
        with_everybody(banks, make_schedule(rounds=2)),
        pay=lambda bank, number: events.append(f"pay {bank} {number}"),
        progress=lambda bank: events.append(f"trained {bank}"),
    ):
        pass
    names = [bank.name for bank in banks]
    expected = [[f"pay {n} {r}" for n in names] + [f"trained {n}" for n in names] for r in (1, 2)]
    assert events == expected[0] + expected[1]


def test_a_bank_that_cannot_pay_ends_the_round_before_any_training() -> None:
    trained: list[str] = []

    def pay(bank: str, number: int) -> None:
        if bank == "bank 2":
            raise BudgetExhausted("no")

    with pytest.raises(BudgetExhausted):
        play(make_banks(), make_schedule(), pay=pay, progress=trained.append)
    assert trained == []


def test_private_rounds_take_noise_that_no_seed_repeats() -> None:
    private = PrivateSteps(0.5, 1.0, 2, 1.0, 100.0)
    schedule = dataclasses.replace(make_schedule(rounds=1), private=private)
    first, second = (play(make_banks(), schedule)[0] for _ in range(2))
    assert not np.array_equal(first, second)


def test_a_diverging_bank_is_named() -> None:
    schedule = make_schedule()
    wild = dataclasses.replace(schedule, local=LocalTraining("sgd", learning_rate=1e6, pos_weight=1e6, epochs=2))
    with pytest.raises(TrainingError, match="bank 0, round 1: training diverged"):
        play(make_banks(), wild)


# --- measuring
# ------------------------------------------------------------------------------------------------------


def test_evaluation_is_the_mean_over_test_windows_of_all_banks_together() -> None:
    banks, schedule = make_banks(), make_schedule()
    model = schedule.first_model(3)
    figures = evaluate(banks, [model] * 3, CPU)
    assert len(figures.windows) == 2
    assert [w.rows for w in figures.windows] == [270, 270]
    mean = (figures.windows[0].average_precision + figures.windows[1].average_precision) / 2
    assert figures.mean["average_precision"] == pytest.approx(mean)
    assert set(figures.per_bank) == {"bank 0", "bank 1", "bank 2"}


def test_each_bank_is_scored_by_its_own_model() -> None:
    banks = make_banks()
    good, bad = (make_schedule().first_model(3) for _ in range(2))
    train_seeded(good, rows(3000, 5), LocalTraining("sgd", 0.1, epochs=5), seed=0, device=CPU)
    unflatten(bad, -flatten(good))
    figures = evaluate(banks, [good, bad, good], CPU)
    scores = figures.per_bank
    assert min(scores["bank 0"], scores["bank 2"]) > 0.5 > scores["bank 1"]  # type: ignore[type-var, operator]


def test_rows_that_could_not_be_measured_are_refused_before_training() -> None:
    banks = make_banks()
    require_measurable(banks)
    honest = [
        dataclasses.replace(b, test=(b.test[0], dataclasses.replace(b.test[1], y=0 * b.test[1].y))) for b in banks
    ]
    with pytest.raises(MetricError, match="test window 2: 0 frauds in 270 rows"):
        require_measurable(honest)


def test_baselines_learn_from_the_rows_they_are_named_for() -> None:
    banks, schedule = make_banks(train=1500), make_schedule(rounds=6)
    everything = dataclasses.replace(banks[0], train=rows(4500, 0))
    for figures in (alone(banks, schedule, CPU), pooled(banks, everything, schedule, CPU)):
        assert figures.mean["average_precision"] > 0.5
    federated = trained_models(with_everybody(banks, schedule))
    assert evaluate(banks, federated, CPU).mean["average_precision"] > 0.5


def test_alone_uses_no_other_banks_training_rows() -> None:
    banks = make_banks()
    changed = (banks[0], dataclasses.replace(banks[1], train=rows(300, 99)), banks[2])
    first, second = (alone(b, make_schedule(), CPU).per_bank for b in (banks, changed))
    assert first["bank 0"] == second["bank 0"]
    assert first["bank 1"] != second["bank 1"]


def test_trained_models_are_those_after_the_last_round_and_the_first_one_without_any() -> None:
    banks, schedule = make_banks(), make_schedule()
    models = trained_models(with_everybody(banks, schedule))
    assert len(models) == 3 and all(model is models[0] for model in models)
    assert flatten(models[0]).tolist() == play(banks, schedule)[-1].tolist()
    untrained = trained_models(with_everybody(banks, make_schedule(rounds=0)))
    assert flatten(untrained[0]).tolist() == flatten(schedule.first_model(3)).tolist()
