"""Training under one shared noise, from the command line to the ledger."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from small_banks import CPU, FEATURES, make_banks, make_schedule

from demos.train import train
from fl.errors import BudgetError, FederationError
from fl.learning.model import flatten, layout
from fl.learning.training import LocalTraining
from fl.privacy.accounting import epsilon
from fl.privacy.mechanisms import COUNTS_UNIT, UNIT, Mechanism, SharedSteps
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.algorithms.state import ReleasedAverage, State
from fl.rounds.joint_noise import GRID, JointNoise, row_sensitivity
from fl.rounds.joint_steps import VELOCITY, JointSteps, clipped_gradient_sum
from fl.rounds.play import Rounds, play_rounds
from fl.runs.asked import configuration
from fl.runs.config import BY_NOISE
from fl.runs.experiment import Experiment
from fl.runs.noise import NOISE_PER_STEP

SMALL = ["--customers", "200", "--clients", "3", "--fraud-share", "0.05", "--seed", "5", "--local-epochs", "1"]
SHARED = [*SMALL, "--noise", "shared", "--rounds", "3"]


def run(*arguments: str | Path) -> dict[str, Any]:
    done = CliRunner().invoke(train, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("shared") / "run"
    return folder, run(*SHARED, "--run-dir", folder)


def nearly_noiseless(rounds: int, engine: str | None = "auto") -> Rounds:
    """Joint steps of four banks; `engine` None: in plain sight."""
    schedule = make_schedule(rounds)
    length = layout(schedule.first_model(FEATURES)).length
    once = SharedSteps(row_sensitivity(length), 4.0, 3, length, 1)  # sigma 2 grid units in 2048: next to nothing
    aggregate = partial(JointNoise(1.0, 400.0, 4, once).average, engine=engine)
    steps = JointSteps(Everyone(4), 1.0, schedule.local)
    return Rounds(make_banks(4), schedule, steps, aggregate, clip=1.0, device=CPU, quorum=4)


def test_a_step_with_momentum_is_that_of_a_hand_computed_example() -> None:
    steps = JointSteps(Everyone(4), 1.0, LocalTraining("sgd", learning_rate=0.1, momentum=0.9))
    state = State(np.array([1.0, -1.0], np.float32), {VELOCITY: np.array([0.5, 0.0])})
    after = steps.apply(state, ReleasedAverage(1, np.array([1.0, 2.0]), np.ones(2, bool), 4, 4))
    np.testing.assert_allclose(after.memory[VELOCITY], [1.45, 2.0])
    np.testing.assert_allclose(after.model, [0.855, -1.2], rtol=1e-6)


def test_a_round_is_one_step_along_the_mean_of_all_clipped_gradients_encrypted_or_not() -> None:
    rounds = nearly_noiseless(1)
    ((record, state),) = play_rounds(rounds)
    ((plain, beside),) = play_rounds(nearly_noiseless(1, engine=None))
    model = rounds.first_model()
    gradient = sum(clipped_gradient_sum(model, bank.train, max_grad_norm=1.0, pos_weight=4.0) for bank in rounds.banks)
    expected = flatten(model) - 0.1 * gradient / 400.0
    assert np.abs(state.model - expected).max() < 0.1 * record.aggregate.error_bound + 1e-7
    assert np.abs(beside.model - expected).max() < 0.1 * record.aggregate.error_bound + 1e-7
    assert (record.aggregate.bytes_up > 0) and (plain.aggregate.bytes_up == 0)
    assert record.members == tuple(bank.name for bank in rounds.banks)
    assert record.max_abs_error == 0  # what a bank's noise has entered is compared with, and nothing without noise


def test_rounds_continue_from_a_state_and_stop_before_a_step_that_a_bank_cannot_pay() -> None:
    rounds, paid = nearly_noiseless(3), []
    states = [state for _, state in play_rounds(rounds)]
    later = play_rounds(rounds, finished=1, state=states[0], pay=lambda bank, number: paid.append((bank, number)))
    continued = [state for _, state in later]
    assert len(continued) == 2 and np.abs(continued[-1].model - states[-1].model).max() < 1e-3  # noise is never seeded
    assert paid == [(f"bank {i}", number) for number in (2, 3) for i in range(4)]
    left = iter([True, False])
    stopped = play_rounds(rounds, pay=lambda *_: paid.append(_), afford=lambda _: next(left))
    assert len(list(stopped)) == 1 and len(paid) == 8 + 4


def test_a_run_spends_counts_and_steps_from_one_ledger_and_names_unit_accountant_and_colluders(finished) -> None:
    folder, result = finished
    privacy = result["privacy"]
    assert privacy["unit"] == f"{UNIT}; {COUNTS_UNIT}" and privacy["accountant"] == "exact"
    assert 2.9 < privacy["epsilon"] <= 3.0 and privacy["steps"] == 3 and privacy["colluders"] == 1
    experiment = Experiment.resume(folder)
    for ledger in experiment.ledgers.values():
        kinds = [type(entry) for entry in ledger.history()]
        assert kinds.count(SharedSteps) == 3 and len(kinds) == 4
        assert ledger.spent() == pytest.approx(privacy["epsilon"])
    assert set(result["baselines"]) >= {"plain_without_privacy", "pooled", "alone"}
    assert "plain" not in result["baselines"], "it would be the run with other noise"
    stages = result["overhead"]["seconds"]
    assert set(stages) >= {"training", "aggregation", "noise", "encrypt", "mask", "decrypt"}
    assert (
        sum(seconds for name, seconds in stages.items() if name not in ("training", "aggregation"))
        <= (stages["aggregation"])
    )


def test_the_step_is_as_large_as_the_noise_allows_unless_a_rate_is_asked_for(finished, tmp_path: Path) -> None:
    folder, _ = finished
    experiment = Experiment.resume(folder)
    steps = [e for e in next(iter(experiment.ledgers.values())).history() if isinstance(e, SharedSteps)]
    privacy = experiment.config.privacy
    assert privacy is not None
    noise = np.sqrt(steps[0].shares * steps[0].share_variance) / GRID / (privacy.expected_batch * 3)
    assert experiment.config.training.learning_rate == BY_NOISE  # what was asked for, and beside it what came of it
    assert experiment.schedule.local.learning_rate * noise == pytest.approx(NOISE_PER_STEP)
    data = {"customers": 200, "clients": 3, "fraud_share": 0.05, "seed": 5}
    Experiment.start(configuration({**data, "noise": "shared", "rounds": 1, "lr": 0.5}), tmp_path / "run")
    assert Experiment.resume(tmp_path / "run").schedule.local.learning_rate == 0.5


def test_shared_noise_needs_less_of_it_than_noise_of_each_banks_own(finished) -> None:
    folder, _ = finished
    steps = [e for e in next(iter(Experiment.resume(folder).ledgers.values())).history() if isinstance(e, SharedSteps)]
    honest = np.sqrt(steps[0].shares * steps[0].share_variance) / steps[0].sensitivity
    assert epsilon([Mechanism(1.0, float(honest), 3)], 1e-5, "rdp") == pytest.approx(
        epsilon(steps, 1e-5, "rdp"), rel=1e-3
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--aggregation", "plain"], "encrypted"),
        (["--unit", "client", "--no-shared-statistics"], "always shares its noise"),
        (["--algorithm", "fedadam"], "leave out other algorithms"),
        (["--option", "colluders=3"], "colluders"),
    ],
)
def test_what_shared_noise_cannot_go_with_is_refused_before_any_budget_is_touched(
    tmp_path: Path, options: list[str], words: str
) -> None:
    done = CliRunner().invoke(train, [*SHARED, *options, "--run-dir", str(tmp_path / "run"), "--json"])
    assert isinstance(done.exception, (BudgetError, FederationError)) and words in str(done.exception)
    assert not (tmp_path / "run").exists()
