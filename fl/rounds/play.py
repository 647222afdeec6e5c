"""Play the rounds of a run: which banks train, what they send, and the model that all banks hold afterwards.

`play_rounds` plays `Rounds` with any algorithm, including lost rounds and retries. It handles neither budgets nor
files: a run records its spending through `pay`.

All banks have the same weight, except for staleness: a weight by the number of rows would publish that number and,
under differential privacy, would be a function of the rows without noise.

Each round starts from the state alone. Optimiser state of local training is not kept, so that a round is a function of
(state, round number, rows) and a run continues from a checkpoint with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl.data.federation import BankData
from fl.errors import AggregationError, BanksVanished, CompressionError, RuleRefusedRound, TrainingError
from fl.learning.evaluation import validation_figures
from fl.learning.kinds import ModelKind, model_of
from fl.learning.model import flatten, layout, model_hash, unflatten
from fl.learning.training import PHYSICAL_BATCH, LocalTraining, PrivateSteps, derive_seed, train_private, train_seeded
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.fedbuff import FedBuff
from fl.rounds.algorithms.participation import Dropouts
from fl.rounds.algorithms.state import ReleasedAverage, Seat, State, Vector
from fl.rounds.attackers import Attackers
from fl.rounds.compression import Compression, compression_of, frozen
from fl.secure.session import Aggregate, Joined, Update, plain_average, plain_sum

Summation = Callable[[Joined], Aggregate]  # raises `BanksVanished` or `RuleRefusedRound`
Payment = Callable[[str, int], None]  # (bank, round): records a bank's spending, or raises to end the rounds
Affordable = Callable[[Sequence[str]], bool]  # whether the budget of each of these banks allows another training
Progress = Callable[[str], None]  # takes the bank that has finished its part of a round


@dataclass(frozen=True)
class Schedule:
    """The settings that all banks share in every round. All of them are public."""

    rounds: int
    local: LocalTraining
    private: PrivateSteps | None  # None: without differential privacy
    dropout: float
    prior: float  # public guess of the fraud share
    seed: int  # of the first model, batch order and dropout; never of sampling or noise under privacy
    applied_grid: float = 0.0  # steps in which averages enter the model, encrypted or not; 0: as they are
    kind: ModelKind = "mlp"

    def first_model(self, inputs: int) -> nn.Module:
        """The model that every bank holds before round 1."""
        seed = derive_seed(self.seed, "model")
        return model_of(self.kind, inputs, seed=seed, dropout=self.dropout, prior=self.prior)


@dataclass(frozen=True)
class RoundRecord:
    """The record of one round. Validation figures are for the experimenter and are not released."""

    number: int
    validation_average_precision: float
    validation_roc_auc: float
    train_seconds: float  # over all banks and attempts
    aggregate: Aggregate
    max_abs_error: float  # largest |average - float64 mean of what entered it, clipped| over coordinates
    relative_error: float  # L2 length of that difference over that of the mean
    members: tuple[str, ...]  # whose updates are in the released average
    vanished: tuple[str, ...]  # had a seat, and did not take part
    attempts: int
    values: int  # number of coordinates that were sent
    bank_seconds: Mapping[str, float] = field(default_factory=dict)  # of each bank's training
    as_in_plain_sight: bool = False  # the banks moved by the very numbers that an average without encryption has
    rejected: tuple[str, ...] = ()  # took part, and a robust rule left their updates out

    def as_json(self) -> dict[str, object]:
        """This record as one line of metrics.jsonl."""
        return {
            "validation_average_precision": self.validation_average_precision,
            "validation_roc_auc": self.validation_roc_auc,
            "train_seconds": self.train_seconds,
            "bank_seconds": dict(self.bank_seconds),
            "aggregate_seconds": self.aggregate.seconds,
            "prepare_seconds": self.aggregate.preparation,
            "stage_seconds": dict(self.aggregate.stages),
            "bytes_up": self.aggregate.bytes_up,
            "bytes_down": self.aggregate.bytes_down,
            "clipped": list(self.aggregate.clipped),
            "error_bound": self.aggregate.error_bound,
            "max_abs_error": self.max_abs_error,
            "relative_error": self.relative_error,
            "value_bits": self.aggregate.value_bits,
            "members": list(self.members),
            "left_out": list(self.vanished),
            "rejected": list(self.rejected),
            "attempts": self.attempts,
            "values": self.values,
            "total_weight": self.aggregate.total_weight,
            "as_in_plain_sight": self.as_in_plain_sight,
        }


@dataclass(frozen=True)
class Rounds:
    """The options that all rounds of a run have in common.

    `clip`: that of the aggregation, to measure its error. `quorum`: fewest members of a roster. `compression`: None
    for all coordinates in every round. `at_once`: by bank, rows in memory while it trains. `attackers`: banks that
    poison the model, a simulation; None: all are honest.
    """

    banks: Sequence[BankData]
    schedule: Schedule
    algorithm: FedAvg
    aggregate: Summation
    clip: float
    device: torch.device
    quorum: int = 1
    dropouts: Dropouts = Dropouts()  # noqa: RUF009 - frozen
    compression: Compression | None = None
    at_once: Mapping[str, int] = field(default_factory=dict)
    attackers: Attackers | None = None

    def first_model(self) -> nn.Module:
        """The model that every bank holds before round 1, on the device."""
        return self.schedule.first_model(self.banks[0].train.x.shape[1]).to(self.device)

    def begin(self) -> State:
        """The state before round 1."""
        return self.algorithm.begin(flatten(self.first_model()))

    def models(self, state: State) -> list[nn.Module]:
        """The model that each bank scores with after `state`, in the order of `banks`; one object if all are equal."""
        vectors = [self.algorithm.scores_with(state, position) for position in range(len(self.banks))]
        by_vector: dict[int, nn.Module] = {}
        for vector in vectors:
            if id(vector) not in by_vector:
                by_vector[id(vector)] = self.first_model()
                unflatten(by_vector[id(vector)], vector)
        return [by_vector[id(vector)] for vector in vectors]


def play_rounds(
    rounds: Rounds,
    *,
    finished: int = 0,
    state: State | None = None,
    pay: Payment | None = None,
    afford: Affordable | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[RoundRecord, State]]:
    """Play rounds `finished + 1` to the schedule's last; yield each round's record and state.

    `state`: after round `finished`; the algorithm's first one when None. `pay`: called for every bank that begins a
    training, before any bank trains. The rounds end early when `afford` returns False. Raises
    `AggregationError` when a round was lost more often than `dropouts.retries`; other errors of `pay` and `aggregate`
    end the rounds, too.
    """
    scratch = rounds.first_model()
    if state is None:
        state = rounds.begin()
    compression = rounds.compression or compression_of(None, layout(scratch), 0)
    require_layers_to_send(rounds.algorithm, compression)
    stage = _Stage(rounds, scratch, compression)
    for number in range(finished + 1, rounds.schedule.rounds + 1):
        played = _Attempts(stage, number, state, pay, afford, progress).play(resumed=number == finished + 1 > 1)
        if played is None:
            return
        record, state = played
        yield record, state


def require_layers_to_send(algorithm: FedAvg, compression: Compression) -> None:
    """Raise `CompressionError` where the layers of a round cannot be sent with this algorithm."""
    if len(compression.groups) > 1 and isinstance(algorithm, FedBuff):
        raise CompressionError(
            "layers in turn need all banks to train for the same round, and with fedbuff they do not: give one group"
        )
    travels = algorithm.travels(compression.model.length)
    for turn, group in enumerate(compression.groups, start=1):
        if not (travels & compression.sent(turn)).any():
            raise CompressionError(f"layers: {', '.join(group)} stay at their banks: a round would send nothing")


def trained_models(rounds: Rounds) -> list[nn.Module]:
    """The model that each bank scores with after all of `rounds`. No ledger records these rounds."""
    state = rounds.begin()
    for _, after in play_rounds(rounds):
        state = after
    return rounds.models(state)


@dataclass(frozen=True)
class _Stage:
    """A run's rounds, and a module of the model's shape as scratch memory."""

    rounds: Rounds
    scratch: nn.Module
    compression: Compression

    @property
    def travels(self) -> NDArray[np.bool_]:
        """bool[length]: coordinates that may leave a bank at all."""
        return self.rounds.algorithm.travels(self.compression.model.length)

    def sent(self, number: int) -> NDArray[np.bool_]:
        """bool[length]: coordinates that are sent in round `number`."""
        return self.travels & self.compression.sent(number)

    def hash_of(self, vector: Vector) -> str:
        unflatten(self.scratch, vector)
        return model_hash(self.scratch)

    def contribution(self, seat: Seat, base: Vector, attempt: int) -> Update:
        """The contribution of the bank in `seat`, which holds the model `base`."""
        rounds, bank, number = self.rounds, self.rounds.banks[seat.bank], seat.base + 1
        at_once = rounds.at_once.get(bank.name, PHYSICAL_BATCH)
        schedule, mu, device = rounds.schedule, rounds.algorithm.proximal, rounds.device
        rows = bank.train if rounds.attackers is None else rounds.attackers.trains_on(seat.bank, bank.train)

        def train() -> None:
            model, local, noisy = self.scratch, schedule.local, schedule.private
            if noisy is not None:
                train_private(model, rows, local, noisy, device=device, proximal=mu, at_once=at_once)
                return
            # A retry must differ: an update enters one roster only.
            labels = ("batches", bank.name, number, *((attempt,) if attempt else ()))
            seed = derive_seed(schedule.seed, *labels)
            train_seeded(model, rows, local, seed=seed, device=device, proximal=mu, at_once=at_once)

        unflatten(self.scratch, base)
        # Layers that never leave their bank are trained in every round.
        trained = self.compression.sent(number) | ~self.travels
        try:
            with frozen(self.scratch, self.compression.model, trained):
                return rounds.algorithm.contribution(self.scratch, rows, train)
        except TrainingError as fault:
            raise TrainingError(f"{bank.name}, round {number}: {fault}") from fault


@dataclass
class _Attempts:
    """One round, offered again until a roster is released.

    `updates`: updates for this round that have not entered a lost roster.
    """

    stage: _Stage
    number: int
    state: State
    pay: Payment | None
    afford: Affordable | None
    progress: Progress | None
    updates: dict[int, Update] = field(default_factory=dict, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)

    def play(self, *, resumed: bool) -> tuple[RoundRecord, State] | None:
        """The round's record and the state after it; None when a bank cannot pay for the training it would begin."""
        rounds, timetable = self.stage.rounds, self.stage.rounds.algorithm.timetable
        seats = seated = timetable.seats(self.number)
        beginning: Sequence[int] = timetable.starting(self.number, resumed=resumed)
        lost: list[str] = []
        judged = False  # whether the last loss was a rule's doing
        for attempt in range(rounds.dropouts.retries + 1):
            # 1. Every bank records the spending of its training; a bank whose budget does not allow it ends the round
            # before any training.
            if not self._paid([rounds.banks[bank].name for bank in beginning]):
                return None
            early, late = rounds.dropouts.vanished(self.number, attempt, [seat.bank for seat in seats])
            joining = [seat for seat in seats if seat.bank not in early]
            if len(joining) < rounds.quorum:
                judged = False
                # No roster was closed, so nobody has seen the updates and they can be used again.
                lost.append(f"expected {rounds.quorum} or more banks, {len(joining)} joined")
                beginning = ()
                continue
            try:
                # 2. Every bank makes its contribution, such as the difference that training makes. 3. The contributions
                # become one average; nobody sees a single one.
                result, joined, sent = self._delivered(joining, late, attempt)
            except (BanksVanished, RuleRefusedRound) as fault:
                lost.append(str(fault))
                judged = isinstance(fault, RuleRefusedRound)
                seats = tuple(seat for seat in seats if rounds.banks[seat.bank].name not in fault.banks)
                # A sketch of an update was shown to the rule, and two sketches say more about it than one.
                if not rounds.dropouts.reuse or judged:
                    for seat in joining:
                        del self.updates[seat.bank]
                beginning = [seat.bank for seat in seats if seat.bank not in self.updates and seat in joining]
                continue
            # 4. Every bank applies the same average.
            after = self._applied(joining, result, sent)
            vanished = [rounds.banks[s.bank].name for s in seated if s not in joining]
            return self._record(result, joined, sent, after, vanished, attempt + 1), after
        raise AggregationError(f"round {self.number} was lost {len(lost)} times ({'; '.join(lost)}): {_advice(judged)}")

    def _paid(self, names: Sequence[str]) -> bool:
        if self.afford is not None and not self.afford(names):
            return False
        if self.pay is not None:
            for name in names:
                self.pay(name, self.number)
        return True

    def _delivered(
        self, joining: Sequence[Seat], late: frozenset[int], attempt: int
    ) -> tuple[Aggregate, Joined, NDArray[np.bool_]]:
        stage, rounds, algorithm = self.stage, self.stage.rounds, self.stage.rounds.algorithm
        for seat in joining:
            if seat.bank not in self.updates:
                clock, name = time.perf_counter(), rounds.banks[seat.bank].name
                base = algorithm.trains_from(self.state, seat)
                self.updates[seat.bank] = stage.contribution(seat, base, attempt)
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - clock
                if self.progress is not None:
                    self.progress(name)
        sent = stage.sent(self.number)
        updates = tuple(self.updates[seat.bank][sent] for seat in joining)
        if rounds.attackers is not None:
            updates = rounds.attackers.sent([seat.bank for seat in joining], updates, self.number)
        joined = Joined(
            banks=tuple(rounds.banks[seat.bank].name for seat in joining),
            updates=updates,
            weights=tuple(seat.weight for seat in joining),
            model_hash=algorithm.model_hash(self.state, stage.hash_of),
            number=self.number,
            vanished=frozenset(rounds.banks[bank].name for bank in late),
            reuse=rounds.dropouts.reuse,
        )
        return rounds.aggregate(joined), joined, sent

    def _applied(self, joining: Sequence[Seat], result: Aggregate, sent: NDArray[np.bool_]) -> State:
        rounds, algorithm, state = self.stage.rounds, self.stage.rounds.algorithm, self.state
        for seat in joining:
            state = algorithm.keep(state, seat, self.updates[seat.bank])
        average = np.zeros(len(sent))
        average[sent] = on_grid(result.average, rounds.schedule.applied_grid)
        contributors = len(joining) if result.kept is None else len(result.kept)
        return algorithm.apply(state, ReleasedAverage(self.number, average, sent, contributors, result.total_weight))

    def _record(
        self,
        result: Aggregate,
        joined: Joined,
        sent: NDArray[np.bool_],
        after: State,
        vanished: Sequence[str],
        attempts: int,
    ) -> RoundRecord:
        """The record of the round, with validation figures and the error of the average, for the experimenter."""
        rounds = self.stage.rounds
        precision, auc = validation_figures(rounds.banks, rounds.models(after), rounds.device)
        kept = range(len(joined.banks)) if result.kept is None else result.kept
        entered = [joined.updates[i] for i in kept]
        exact = plain_average(entered, clip=rounds.clip, weights=[joined.weights[i] for i in kept]).average
        largest, relative = result.error_against(exact)
        grid, plain = rounds.schedule.applied_grid, plain_sum(replace(joined, vanished=frozenset()), clip=rounds.clip)
        equal = np.array_equal(on_grid(result.average, grid), on_grid(plain.average, grid))
        return RoundRecord(
            self.number,
            precision,
            auc,
            sum(self.seconds.values()),
            result,
            largest,
            relative,
            tuple(joined.banks[i] for i in kept),
            tuple(vanished),
            attempts,
            int(sent.sum()),
            self.seconds,
            as_in_plain_sight=equal,
            rejected=tuple(name for i, name in enumerate(joined.banks) if i not in kept),
        )


def _advice(judged: bool) -> str:
    if judged:
        return "these banks differ too much for this rule; choose another, or train longer in a round"
    return "find out which banks are missing, or allow more retries or a smaller quorum"


def on_grid(average: NDArray[np.float64], grid: float) -> NDArray[np.float64]:
    """`average` rounded to the nearest multiple of `grid`; unchanged if `grid` is 0.

    Training amplifies the last bit of a float32. On a grid that is far coarser than a quantisation of 40 bits, an
    encrypted average and a plain one are the same numbers, except for one value in a million.
    """
    return np.rint(average / grid) * grid if grid else average
