"""Each algorithm's update against numbers worked out by hand, encrypted, and against the same sums in plain sight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from small_banks import ALGORITHMS, BANKS, CPU, first_vector, make_algorithm, make_banks, make_schedule, play, scripted

from fl.data.federation import load_federation
from fl.data.simulate import Simulation
from fl.errors import AlgorithmError
from fl.learning.evaluation import evaluate
from fl.learning.model import layout
from fl.rounds.algorithms.fedadam import FedAdam
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.fedbuff import Clock, FedBuff, staleness_weight
from fl.rounds.algorithms.fedprox import FedProx, require_stable_pull
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.algorithms.settings import AlgorithmSettings, algorithm_of
from fl.rounds.algorithms.state import ReleasedAverage, State
from fl.rounds.play import Rounds, Schedule, play_rounds
from fl.secure.session import InProcessRounds, plain_sum
from secagg.journal import ZeroUpdateWarning

__all__ = ["scripted"]  # a fixture

STEP = 2.0**-30  # quantisation of 32 bits, and a float32 of weights below 1


def released(values: list[float], sent: list[bool] | None = None, **options: int) -> ReleasedAverage:
    average = np.array(values)
    mask = np.ones(len(values), bool) if sent is None else np.array(sent)
    settings = {"number": 1, "contributors": 3, "total_weight": 3, **options}
    return ReleasedAverage(average=average, sent=mask, **settings)


# --- by hand --------------------------------------------------------------------------------------------------------


def test_fedavg_adds_the_mean_of_the_updates() -> None:
    state = FedAvg(Everyone(3)).apply(State(np.array([1.0, -2.0], np.float32)), released([0.25, 0.5]))
    assert state.model.tolist() == [1.25, -1.5]


def test_fedadam_takes_the_papers_two_first_steps() -> None:
    """server_lr 0.1, betas 0.5, tau 1: round 1 with d = 2, round 2 with d = 0."""
    fedadam = FedAdam(Everyone(3), server_lr=0.1, beta1=0.5, beta2=0.5, tau=1.0)
    first = fedadam.apply(fedadam.begin(np.zeros(1, np.float32)), released([2.0]))
    assert (first.memory["m"][0], first.memory["v"][0]) == (1.0, 2.5)  # 0.5 * 2; 0.5 * 1 + 0.5 * 4
    assert first.model[0] == pytest.approx(0.1 * 1.0 / (math.sqrt(2.5) + 1.0), rel=1e-6)
    second = fedadam.apply(first, released([0.0]))
    assert (second.memory["m"][0], second.memory["v"][0]) == (0.5, 1.25)
    assert second.model[0] - first.model[0] == pytest.approx(0.1 * 0.5 / (math.sqrt(1.25) + 1.0), rel=1e-5)


def test_fedadam_leaves_alone_what_did_not_travel() -> None:
    fedadam = FedAdam(Everyone(3))
    moved = fedadam.apply(fedadam.begin(np.zeros(2, np.float32)), released([0.5, 0.0], [True, True]))
    still = fedadam.apply(moved, released([0.5, 0.0], [False, False]))
    assert still.model.tolist() == moved.model.tolist()
    assert still.memory["m"].tolist() == moved.memory["m"].tolist()


def test_fedbuff_scales_the_buffers_sum_by_staleness() -> None:
    """Weights 8, 8, 4 of 8: the released average is their weighted mean, the step is sum(s * update) / K."""
    buffer = FedBuff(Clock((1, 1, 1), 3, 8), server_lr=0.5)
    average = (8 * 0.1 + 8 * 0.2 + 4 * 0.4) / 20
    state = buffer.apply(buffer.begin(np.zeros(1, np.float32)), released([average], total_weight=20))
    assert state.model[0] == pytest.approx(0.5 * (0.1 + 0.2 + 0.5 * 0.4) / 3, rel=1e-6)


def test_staleness_weights_are_the_papers_inverse_root_as_integers() -> None:
    assert [staleness_weight(s, 8) for s in (0, 1, 3, 8, 1000)] == [8, 6, 4, 3, 1]


# --- whole rounds, encrypted, with training replaced by a known move ------------------------------------------------

MOVES = (0.01, 0.02, 0.03, 0.06)


def moved_by(name: str, rounds: int) -> list[float]:
    """How far an encrypted round moved the model's first weight, per round; all shared weights move alike."""
    played = play(make_algorithm(name), banks=BANKS, rounds=rounds, encrypted=True)
    models = [first_vector(), *(state.model for _, state in played)]
    return [float(b[0]) - float(a[0]) for a, b in pairwise(models)]


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "heads"])
def test_a_round_moves_by_the_mean_of_what_the_banks_moved(scripted: Callable[..., None], name: str) -> None:
    scripted(*MOVES)
    assert moved_by(name, 2) == pytest.approx([0.03, 0.03], abs=1e-7)


def test_banks_whose_updates_are_all_rounded_away_meet_again_and_are_warned(scripted: Callable[..., None]) -> None:
    scripted(0.0, 0.0, 0.0, 0.0)
    with pytest.warns(ZeroUpdateWarning, match="hides no other member"):
        played = play(make_algorithm("fedavg"), banks=BANKS, rounds=2, encrypted=True)
    assert [len(record.members) for record, _ in played] == [4, 4]
    assert (played[-1][1].model == first_vector()).all()


def test_a_fedadam_round_moves_by_its_formula(scripted: Callable[..., None]) -> None:
    scripted(*MOVES)
    m, v, expected = 0.0, 1e-6, []
    for _ in range(2):
        m, v = 0.9 * m + 0.1 * 0.03, 0.99 * v + 0.01 * 0.03**2
        expected.append(0.02 * m / (math.sqrt(v) + 1e-3))
    assert moved_by("fedadam", 2) == pytest.approx(expected, abs=1e-6)


def test_fedbuff_rounds_move_by_those_who_had_finished(scripted: Callable[..., None]) -> None:
    """Durations 1, 2, 3, 5 and K = 3. Round 1 closes at tick 3 with banks 0, 1, 2. They start again; bank 3 joins at
    tick 5, after bank 0 (4) and together with bank 1 (5). Its model is one round old: weight 6 of 8.
    """
    scripted(*MOVES)
    expected = [(0.01 + 0.02 + 0.03) / 3, (0.01 + 0.02 + 0.06 * 6 / 8) / 3]
    assert moved_by("fedbuff", 2) == pytest.approx(expected, abs=1e-7)


# --- encrypted and in plain sight ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated() -> tuple:
    made = Simulation(customers=400, terminals=200, banks=4, fraud_share=0.03, seed=5)
    return load_federation("simulated", seed=5, simulation=made).banks


@pytest.mark.parametrize("name", ALGORITHMS)
def test_encrypted_and_plain_sums_find_the_same_fraud(simulated: tuple, name: str) -> None:
    """Average precision on the test week of simulated data, to 0.001."""
    figures = {}
    for encrypted in (False, True):
        schedule = dataclasses.replace(make_schedule(2), dropout=0.3)
        width = simulated[0].train.x.shape[1]
        figures[encrypted] = precision(simulated, schedule, name, width, encrypted)
    assert 0.02 < figures[True] < 1.0
    assert abs(figures[True] - figures[False]) <= 0.001


def precision(banks: tuple, schedule: Schedule, name: str, width: int, encrypted: bool) -> float:
    shape = layout(schedule.first_model(width))
    algorithm = algorithm_of(ALGORITHMS[name], None, banks=len(banks), model=shape, seed=0)
    members = algorithm.timetable.largest
    secure = InProcessRounds(
        [b.name for b in banks], clip=1.0, quorum=members, largest=members, max_weight=algorithm.max_weight
    )
    aggregate = partial(secure.average, value_bits=32) if encrypted else partial(plain_sum, clip=1.0)
    rounds = Rounds(banks, schedule, algorithm, aggregate, clip=1.0, device=CPU, quorum=members)
    *_, (record, state) = play_rounds(rounds)
    assert record.max_abs_error <= (record.aggregate.error_bound if encrypted else 0.0)
    return evaluate(banks, rounds.models(state), CPU).mean["average_precision"]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_rounds_continued_from_a_checkpoint_equal_rounds_played_through(name: str) -> None:
    algorithm = make_algorithm(name)
    through = play(algorithm, rounds=5)
    continued = play(algorithm, rounds=5, finished=2, state=through[1][1])
    for (_, one), (_, other) in zip(through[2:], continued, strict=True):
        assert one.model.tolist() == other.model.tolist()
        assert {k: v.tolist() for k, v in one.memory.items()} == {k: v.tolist() for k, v in other.memory.items()}


# --- laws and refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 1e-9])
def test_fedprox_without_a_pull_is_fedavg(mu: float) -> None:
    banks = make_banks(3, train=70)
    algorithms = (FedAvg(Everyone(3)), FedProx(Everyone(3), mu))
    one, other = (play(a, banks=banks, rounds=1)[0][1].model for a in algorithms)
    assert one == pytest.approx(other, abs=1e-7)


def test_fedprox_stays_closer_to_the_model_it_started_from() -> None:
    first = first_vector()
    distance = {
        mu: float(np.linalg.norm(play(FedProx(Everyone(4), mu), rounds=1)[0][1].model - first))
        for mu in (0.0, 1.0, 5.0)
    }
    assert distance[0.0] > distance[1.0] > distance[5.0] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "fedavg", "mu": 0.1}, "mu is an option of fedprox, and the algorithm is fedavg"),
        ({"name": "heads", "server_lr": 0.1}, "server_lr is an option of fedadam and fedbuff"),
        ({"name": "krum"}, "expected one of fedavg"),
    ],
)
def test_options_of_another_algorithm_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(AlgorithmError, match=message):
        AlgorithmSettings(**settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedProx(Everyone(3), -1.0), "fedprox: mu: expected a number from 0"),
        (lambda: require_stable_pull(0.07, 30.0, 0.0), "overshoots .* expected mu below 0.0667"),
        (lambda: FedAdam(Everyone(3), tau=0.0), "fedadam: tau: expected a number above 0"),
        (lambda: FedBuff(Clock((1, 1, 1), 3, 8), 0.0), "server_lr"),
        (lambda: Clock((1, 1), 3, 8), "cannot be filled by 2 banks"),
        (lambda: Clock((1, 0, 1), 3, 8), "fedbuff: durations: .* got 0"),
    ],
)
def test_options_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(AlgorithmError, match=message):
        make()
