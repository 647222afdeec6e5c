"""Small banks and algorithms for the tests of `fl.rounds.algorithms`: seconds, not minutes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fl.data.federation import BankData, Rows
from fl.learning.model import flatten, layout, unflatten
from fl.learning.training import LocalTraining, PrivateSteps
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Dropouts
from fl.rounds.algorithms.settings import AlgorithmSettings, ParticipationSettings, algorithm_of
from fl.rounds.algorithms.state import State
from fl.rounds.compression import Compression
from fl.rounds.play import RoundRecord, Rounds, Schedule, Summation, play_rounds
from fl.secure.session import InProcessRounds, plain_sum

CPU = torch.device("cpu")
FEATURES = 3

# Every algorithm, with options that differ from FedAvg visibly.
ALGORITHMS = {
    "fedavg": AlgorithmSettings(),
    "fedprox": AlgorithmSettings("fedprox", mu=0.5),
    "fedadam": AlgorithmSettings("fedadam", server_lr=0.02),
    "heads": AlgorithmSettings("heads", head="hidden2,logit"),
    "fedbuff": AlgorithmSettings("fedbuff", buffer=3, durations="1,2,3,5"),
}


def rows(n: int, seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, FEATURES)).astype(np.float32)
    y = (x[:, 0] + 0.5 * rng.standard_normal(n) > 1.2).astype(np.float32)
    y[:2] = (0.0, 1.0)  # both kinds, however few rows
    index = np.arange(n, dtype=np.int64)
    return Rows(x, y, (index % 3).astype(np.int32), index + 1000 * seed, index)


def make_banks(count: int = 4, train: int = 200) -> tuple[BankData, ...]:
    return tuple(
        BankData(f"bank {i}", rows(train, 3 * i), rows(60, 3 * i + 1), (rows(90, 3 * i + 2),)) for i in range(count)
    )


def make_schedule(rounds: int = 3, private: PrivateSteps | None = None) -> Schedule:
    local = LocalTraining("sgd", learning_rate=0.1, momentum=0.5, batch_size=64)
    return Schedule(rounds, local, private, dropout=0.0, prior=0.1, seed=0)


def make_algorithm(
    name: str, banks: int = 4, participation: ParticipationSettings | None = None, seed: int = 0
) -> FedAvg:
    shape = layout(make_schedule().first_model(FEATURES))
    return algorithm_of(ALGORITHMS[name], participation, banks=banks, model=shape, seed=seed)


def first_vector() -> np.ndarray:
    return flatten(make_schedule().first_model(FEATURES))


def play(
    algorithm: FedAvg,
    *,
    banks: tuple[BankData, ...] | None = None,
    rounds: int = 3,
    encrypted: bool = False,
    quorum: int | None = None,
    dropouts: Dropouts | None = None,
    private: PrivateSteps | None = None,
    compression: Compression | None = None,
    **options: object,
) -> list[tuple[RoundRecord, State]]:
    """All rounds, in plain sight or encrypted."""
    banks = make_banks() if banks is None else banks
    least = algorithm.timetable.largest if quorum is None else quorum
    aggregate: Summation = partial(plain_sum, clip=1.0)
    if encrypted:
        secure = InProcessRounds(
            [bank.name for bank in banks],
            clip=1.0,
            quorum=least,
            largest=algorithm.timetable.largest,
            max_weight=algorithm.max_weight,
            model_repeats=None if private else (dropouts or Dropouts()).retries,
        )
        if compression is None:
            aggregate = partial(secure.average, value_bits=32)
        else:
            aggregate = lambda joined: secure.average(joined, compression.bits_of(joined.number))  # noqa: E731
    all_rounds = Rounds(
        banks,
        make_schedule(rounds, private),
        algorithm,
        aggregate,
        clip=1.0,
        device=CPU,
        quorum=least,
        dropouts=dropouts or Dropouts(),
        compression=compression,
    )
    return list(play_rounds(all_rounds, **options))  # type: ignore[arg-type]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace local training by moving every weight by a fixed amount: `scripted(0.1, 0.2)` for banks 0 and 1."""

    def script(*moves: float) -> None:
        by_rows = {id(bank.train): move for bank, move in zip(BANKS, moves, strict=True)}

        def train(module: nn.Module, held: Rows, *_: object, **__: object) -> None:
            unflatten(module, flatten(module) + np.float32(by_rows[id(held)]))

        monkeypatch.setattr("fl.rounds.play.train_seeded", train)

    return script


BANKS = make_banks()
