"""The average of the banks' updates, and exact sums of their integers.

Sums are encrypted through `secagg`, or unencrypted for comparison.

It plays rounds by the plans of `fl.secure.cost`, and reports what they took. Unencrypted aggregation clips each
coordinate exactly as the encrypted one does, so that the two differ by quantisation alone.
"""

from __future__ import annotations

import hashlib
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

import secagg
from fl.errors import AggregationError, BanksVanished, RuleRefusedRound
from fl.options import LEAST_BANKS
from fl.secure.cost import bits_for, chunk_sizes, clip_for, plan_for
from secagg.accumulator import Accumulator, InMemory, MakeAccumulator
from secagg.device import Device
from secagg.errors import LateOutlier, RuleRefused
from secagg.journal import UpdateReuseWarning, ZeroUpdateWarning
from secagg.messages import Release
from secagg.robust import Robust
from secagg.robust_protocol import play
from secagg.rules import Rule
from secagg.session import Parties, Roles, Session, Terms

Update = NDArray[np.floating]  # what a bank contributes to an average: float32, or float64 where it sums gradients
Integers = NDArray[np.int64]
Draw = Callable[[int], Integers]  # banks in the closed roster -> a bank's integers, noise shares included

SUMS_OF_A_FEDERATION = 512  # of `IntegerRounds`: a sum of 8,000 integers of ten banks adds 60 kB to ledger and journals


@dataclass(frozen=True)
class Aggregate:
    """The average of a round, float64[length], and what it cost.

    `error_bound`: |average - exact mean of the clipped updates| per coordinate. `clipped`: per bank, how many
    coordinates were clipped. `stages`: seconds by stage over all parties. `bytes_up`, `bytes_down`: all banks
    together; 0 without encryption, where nothing is sent. `total_weight`: of all contributions.
    `value_bits`: of a coordinate; 0 where nothing was quantised. `entered`: float64[length], the same average of the
    vectors that entered the sum, where these contain the banks' noise; None where the updates entered unchanged.
    `preparation`: seconds that this process spent, once, on preparing such rounds; not in `seconds`. `kept`: positions
    of the members whose updates entered, where a robust rule has left others out; None: all.
    """

    average: NDArray[np.float64] = field(repr=False)
    error_bound: float
    clipped: tuple[int, ...]
    stages: Mapping[str, float]
    bytes_up: int
    bytes_down: int
    seconds: float
    total_weight: int
    value_bits: int = 0
    entered: NDArray[np.float64] | None = field(default=None, repr=False)
    preparation: float = 0.0
    kept: tuple[int, ...] | None = None

    def error_against(self, exact: NDArray[np.float64]) -> tuple[float, float]:
        """(largest |average - exact| over coordinates, L2 length of that difference over that of `exact`).

        Where noise is part of the sum, `entered` replaces `exact`: a distance to values without noise would be another
        release about them, without noise.
        """
        exact = exact if self.entered is None else self.entered
        difference = self.average - exact
        length = max(float(np.linalg.norm(exact)), 1e-300)
        return float(np.abs(difference).max(initial=0.0)), float(np.linalg.norm(difference)) / length


@dataclass(frozen=True)
class Joined:
    """The input of one roster. Between machines every bank holds its own part; here one process plays all banks.

    `updates`: one float[length] per bank. `weights`: integers from 1. `model_hash`: of the model or models that the
    offer is for, 64 hexadecimal digits. `number`: of the round. `vanished`: banks that vanish once the roster has
    closed (a simulation). `reuse`: whether a bank may send an update that an earlier, lost roster held.
    """

    banks: tuple[str, ...]
    updates: tuple[Update, ...] = field(repr=False)
    weights: tuple[int, ...]
    model_hash: str
    number: int = 1
    vanished: frozenset[str] = frozenset()
    reuse: bool = False


def encrypted_average(
    updates: Sequence[Update], *, plan: secagg.RoundPlan, model_hash: str, engine: str = "auto"
) -> Aggregate:
    """Average `updates` (one float32[plan.length] per bank, equal weights) without anyone seeing one of them.

    `model_hash`: of the model the updates refer to, 64 hexadecimal digits, bound into every contribution.
    All banks are needed: the quorum is their number. Raises `AggregationError` for fewer than three banks,
    `secagg.errors.SecAggError` otherwise.
    """
    if len(updates) < LEAST_BANKS:
        raise AggregationError(
            f"an encrypted average needs at least {LEAST_BANKS} banks, got {len(updates)}: with fewer, a bank could "
            "subtract its own update and see the other one"
        )
    start = time.perf_counter()
    result = secagg.run_round(updates, plan=plan, quorum=len(updates), engine=engine, model=bytes.fromhex(model_hash))
    seconds = time.perf_counter() - start
    return Aggregate(
        average=result.average,
        error_bound=result.error_bound,
        clipped=result.clipped,
        stages={name: stage.seconds for name, stage in result.stages.items()},
        bytes_up=result.bytes_up,
        bytes_down=result.bytes_down,
        seconds=seconds,
        total_weight=result.total_weight,
        value_bits=plan.value_bits,
    )


def sums_on(device: str | None) -> MakeAccumulator:
    """The factory of an aggregator's running sum on a torch device. None: the sum of `secagg`, without torch."""
    if device is None:
        return InMemory

    def on_device(plan: secagg.RoundPlan) -> Accumulator:
        import torch

        from fl.secure.device_sum import DeviceBlocks

        return DeviceBlocks(plan.blocks, plan.params.primes, plan.params.degree, torch.device(device))

    return on_device


def arithmetic_on(device: str | None) -> Device | None:
    """The arithmetic of clients and of the key holder on a torch device. None: that of `secagg`, without torch.

    Raises `AggregationError` for a device that torch does not have.
    """
    if device is None:
        return None
    from fl.secure.device_rounds import TorchDevice

    return TorchDevice(device)


class InProcessRounds:
    """Encrypted rounds of one federation, one after the other, with rosters that change.

    Every role lives in this process and speaks to the others in bytes. Identities, the key holder's ledger and the
    banks' journals last as long as this object, so that an update cannot enter two rosters unnoticed; the roles
    themselves are made anew for each round, whose plan may differ. `banks`: all that may ever join. `largest`: most
    members of a roster. `quorum`: fewest. `chunk`: coordinates that a bank seals at once, all when None; every chunk
    is an encrypted sum of its own, with the same members. `model_repeats`: rosters that every bank accepts for one
    model once their members differ, as they do after a round was lost; None where every update has fresh noise in it.
    `device`: a torch device to add ciphertexts on; None adds in memory. `rule`: leaves members out before they
    contribute, by inner products that the key holder sees; None: every member contributes.
    """

    def __init__(
        self,
        banks: Sequence[str],
        *,
        clip: float,
        quorum: int,
        largest: int | None = None,
        max_weight: int = 1,
        engine: str = "auto",
        chunk: int | None = None,
        model_repeats: int | None = 0,
        device: str | None = None,
        rule: Rule | None = None,
    ) -> None:
        """Raises `AggregationError` when fewer than three banks could be averaged, or a rule would see chunks."""
        if rule is not None and chunk is not None:
            raise AggregationError(
                f"a rule compares whole updates, and they are sealed in chunks of {chunk} coordinates: leave out one"
            )
        self._robust = None if rule is None else Robust(rule)
        self._sums = sums_on(device)
        self._clip, self._quorum, self._max_weight, self._engine = clip, quorum, max_weight, engine
        self._largest = len(banks) if largest is None else largest
        self._chunk, self._model_repeats = chunk, model_repeats
        if min(quorum, self._largest) < LEAST_BANKS:
            raise AggregationError(
                f"an encrypted average needs at least {LEAST_BANKS} banks, got {min(quorum, self._largest)}: with "
                "fewer, a bank could subtract its own update and see the other one"
            )
        self._session = _session(len(banks))
        self._places = {name: place for place, name in enumerate(banks)}
        self._preparation = 0.0

    def average(self, joined: Joined, value_bits: int) -> Aggregate:
        """The weighted mean of `joined`. Nobody can separate the contributions.

        Raises `BanksVanished` after the key holder's abort when a member of the roster never contributed,
        `RuleRefusedRound` when the rule keeps too few or a second look finds a member out, and
        `secagg.errors.SecAggError` otherwise.
        """
        sizes = chunk_sizes(len(joined.updates[0]), self._chunk)
        model = bytes.fromhex(joined.model_hash)
        if len(sizes) == 1:
            return self._average(joined, value_bits, model)
        ends = np.cumsum(sizes)[:-1]
        pieces = zip(*(np.split(update, ends) for update in joined.updates), strict=True)
        return _joined_up(
            [
                self._average(replace(joined, updates=piece), value_bits, _part_of(model, number, len(sizes)))
                for number, piece in enumerate(pieces)
            ]
        )

    def _average(self, joined: Joined, value_bits: int, model: bytes) -> Aggregate:
        """The mean of one chunk."""
        start = time.perf_counter()
        plan = plan_for(len(joined.updates[0]), self._largest, self._clip, value_bits, self._max_weight)
        prepared = secagg.prepare(plan, self._engine)
        self._preparation += prepared
        terms = Terms(
            plan,
            self._quorum,
            model_repeats=self._model_repeats,
            engine=self._engine,
            accumulator=self._sums,
            robust=self._robust,
        )
        roles = self._session.roles(terms, [self._places[name] for name in joined.banks])
        kept, step = None, self._session.ledger.next_step
        if self._robust is None:
            entries = [
                _Entry(name, update, weight, joined.reuse, vanishes=name in joined.vanished)
                for name, update, weight in zip(joined.banks, joined.updates, joined.weights, strict=True)
            ]
            _, average = _play(roles, step, model, entries)
        else:
            average, kept = self._judged(roles, step, model, joined)
        return Aggregate(
            average=average.values,
            error_bound=average.error_bound,
            clipped=tuple(bank.clipped for bank in roles.clients),
            stages={name: stage.seconds for name, stage in roles.observer.clock.stages.items()},
            bytes_up=roles.observer.bytes_up,
            bytes_down=roles.observer.bytes_down,
            seconds=time.perf_counter() - start - prepared,
            total_weight=average.total_weight,
            value_bits=value_bits,
            preparation=self._prepared(),
            kept=kept,
        )

    def _judged(self, roles: Roles, step: int, model: bytes, joined: Joined) -> tuple[secagg.Average, tuple[int, ...]]:
        """A robust round: its average, and the positions of those whose updates are in it."""
        if joined.vanished or joined.reuse or set(joined.weights) != {1}:
            raise AggregationError(
                "a rule is for updates of equal weight that are shown once: expected no vanished bank, no reuse and "
                f"weights of 1, got {sorted(joined.vanished)}, {joined.reuse} and {sorted(set(joined.weights))}"
            )
        try:
            played = play(roles, step, model, joined.updates)
        except RuleRefused as fault:
            raise RuleRefusedRound(str(fault), ()) from fault
        except LateOutlier as fault:
            by_organisation = {f"bank {place}": name for name, place in self._places.items()}
            found = tuple(by_organisation[name] for name in fault.organisations)
            raise RuleRefusedRound(f"{', '.join(found)}: found out by the second look", found) from fault
        return played.average, played.kept

    def _prepared(self) -> float:
        """Seconds of preparation since the last average, those of lost rosters included."""
        seconds, self._preparation = self._preparation, 0.0
        return seconds


def _session(banks: int) -> Session:
    return Session(Parties.generate([f"bank {i}" for i in range(banks)]))


@dataclass(frozen=True)
class _Entry:
    """The input of one bank to a roster.

    `update`: held already, or drawn with the roster's size once the roster has closed. `vanishes`: whether the bank
    vanishes after the roster has closed, without a contribution.
    """

    bank: str
    update: Update | Callable[[int], NDArray[np.float64]] = field(repr=False)
    weight: int = 1
    reuse: bool = False
    vanishes: bool = False

    def drawn(self, roster: int) -> NDArray[np.floating]:
        return self.update(roster) if callable(self.update) else self.update


def _play(roles: Roles, step: int, model: bytes, entries: Sequence[_Entry]) -> tuple[Release, secagg.Average]:
    """One round, as `secagg.run_round` plays it, in which banks may vanish. `entries`: one per client, in their order.

    Raises `BanksVanished` after the key holder's abort.
    """
    key_holder, aggregator, sent = roles.key_holder, roles.aggregator, roles.sent

    # 1. Offer, joins, roster: from here on, exactly these members.
    offer = sent(key_holder.open(step, model))
    for bank in roles.clients:
        key_holder.receive_join(sent(bank.join(offer, model)))
    roster = sent(key_holder.close_roster())

    # 2. Every bank seals its update for this roster and no other.
    aggregator.open(offer, roster)
    present = [(bank, entry) for bank, entry in zip(roles.clients, entries, strict=True) if not entry.vanishes]
    for bank, entry in present:
        update = entry.drawn(len(roster.entries))
        aggregator.receive(sent(bank.contribute(roster, update, entry.weight, allow_reuse=entry.reuse)))
    if aggregator.missing():
        abort = sent(key_holder.abort())
        aggregator.abort(abort)
        for bank, _ in present:
            bank.abort(abort)
        raise vanished(entry.bank for entry in entries if entry.vanishes)

    # 3. One sum, one decryption, one release; every bank divides.
    release = sent(key_holder.release(sent(aggregator.close())))
    averages = [bank.accept(release) for bank in roles.clients]
    return release, averages[0]


def _part_of(model: bytes, number: int, parts: int) -> bytes:
    """The model hash of one chunk. Journals count rosters by model, so chunks need hashes of their own."""
    return hashlib.sha256(b"fl v1 part of a model" + struct.pack("<II", number, parts) + model).digest()


def _joined_up(chunks: Sequence[Aggregate]) -> Aggregate:
    """The chunks of one round as one aggregate."""
    stages: dict[str, float] = {}
    for chunk in chunks:
        for name, seconds in chunk.stages.items():
            stages[name] = stages.get(name, 0.0) + seconds
    return Aggregate(
        average=np.concatenate([chunk.average for chunk in chunks]),
        error_bound=max(chunk.error_bound for chunk in chunks),
        clipped=tuple(map(sum, zip(*(chunk.clipped for chunk in chunks), strict=True))),
        stages=stages,
        bytes_up=sum(chunk.bytes_up for chunk in chunks),
        bytes_down=sum(chunk.bytes_down for chunk in chunks),
        seconds=sum(chunk.seconds for chunk in chunks),
        total_weight=chunks[0].total_weight,
        value_bits=chunks[0].value_bits,
        preparation=sum(chunk.preparation for chunk in chunks),
    )


@dataclass(frozen=True)
class IntegerSum:
    """The exact sum of a round, int64[length], and what it cost; as in `Aggregate`."""

    totals: Integers = field(repr=False)
    bytes_up: int
    bytes_down: int
    seconds: float
    value_bits: int
    preparation: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)


class IntegerRounds:
    """Exact encrypted sums of one federation of `banks`, one after the other, all of them in every sum.

    Identities, the key holder's ledger and the banks' journals last for many sums, as `InProcessRounds` has them for
    many averages; each sum has a step and keys of its own. After `SUMS_OF_A_FEDERATION` sums a new federation
    takes over: ledger and journals are in memory and grow with each sum.
    """

    def __init__(self, banks: int, *, engine: str = "auto") -> None:
        """Raises `AggregationError` for fewer than three banks."""
        if banks < LEAST_BANKS:
            raise AggregationError(f"an encrypted sum needs at least {LEAST_BANKS} banks, got {banks}")
        self._banks, self._engine = banks, engine
        self._session = _session(banks)

    def sum(self, draws: Sequence[Draw], *, length: int, largest: int, model_hash: str) -> IntegerSum:
        """As `encrypted_sum`, of as many `draws` as there are banks."""
        if len(draws) != self._banks:
            raise AggregationError(f"expected the integers of {self._banks} banks, got those of {len(draws)}")
        start, bits, model = time.perf_counter(), bits_for(largest), bytes.fromhex(model_hash)
        plan = secagg.plan_round(length=length, max_clients=len(draws), clip=clip_for(bits), value_bits=bits)
        preparation = secagg.prepare(plan, self._engine)
        step = self._session.ledger.next_step
        if step > SUMS_OF_A_FEDERATION:
            self._session, step = _session(self._banks), 1
        roles = self._session.roles(Terms(plan, quorum=len(draws), engine=self._engine))

        def checked(draw: Draw, roster: int) -> NDArray[np.float64]:
            values = draw(roster)
            # Not the largest of |values|: in int64, |-2**63| is -2**63.
            if values.shape != (length,) or max(int(values.max(initial=0)), -int(values.min(initial=0))) > largest:
                raise AggregationError(f"a bank's integers: expected shape ({length},) within +-{largest}, got others")
            return values.astype(np.float64)

        entries = [_Entry(f"bank {i}", partial(checked, draw), reuse=True) for i, draw in enumerate(draws)]
        with warnings.catch_warnings():
            # Each sum is of other integers, and every bank is in all of them. Integers that a bank happens to repeat,
            # such as a loss that did not change, tell nothing about it that the two exact sums do not tell.
            warnings.simplefilter("ignore", UpdateReuseWarning)
            warnings.simplefilter("ignore", ZeroUpdateWarning)
            release, _ = _play(roles, step, model, entries)
        return IntegerSum(
            release.sums,
            bytes_up=roles.observer.bytes_up,
            bytes_down=roles.observer.bytes_down,
            seconds=time.perf_counter() - start - preparation,
            value_bits=bits,
            preparation=preparation,
            stages={name: stage.seconds for name, stage in roles.observer.clock.stages.items()},
        )


def encrypted_sum(
    draws: Sequence[Draw], *, length: int, largest: int, model_hash: str, engine: str = "auto"
) -> IntegerSum:
    """Sum one int64[length] per bank, |value| <= `largest`, without anyone seeing one of them.

    Every bank's `draws[i]` is called with the roster's size once the roster has closed, and its result enters
    that roster alone. `model_hash`: 64 hexadecimal digits that name what is summed, bound into every contribution.
    The clip is the largest quantised value, so that the quantisation step is 1 and the sum exact. Raises
    `AggregationError` for fewer than three banks or integers beyond `largest`, `secagg.errors.SecAggError` otherwise.
    """
    rounds = IntegerRounds(len(draws), engine=engine)
    return rounds.sum(draws, length=length, largest=largest, model_hash=model_hash)


def plain_average(updates: Sequence[Update], *, clip: float, weights: Sequence[int] | None = None) -> Aggregate:
    """Average `updates` without encryption: float64 mean of the updates clipped to [-clip, clip] per coordinate.

    `weights`: integers from 1; all 1 when None.
    """
    start = time.perf_counter()
    stacked = np.stack([np.asarray(update, dtype=np.float64) for update in updates])
    inside = np.clip(stacked, -clip, clip)
    counts = [1] * len(updates) if weights is None else list(weights)
    average = inside.mean(axis=0) if weights is None else np.average(inside, axis=0, weights=counts)
    clipped = tuple(int(count) for count in (np.abs(stacked) > clip).sum(axis=1))
    return Aggregate(
        average,
        error_bound=0.0,
        clipped=clipped,
        stages={},
        bytes_up=0,
        bytes_down=0,
        seconds=time.perf_counter() - start,
        total_weight=sum(counts),
    )


def plain_sum(joined: Joined, *, clip: float) -> Aggregate:
    """Average `joined` without encryption. Raises `BanksVanished` in the same cases as the encrypted sum."""
    if joined.vanished:
        raise vanished(joined.vanished)
    weights = None if set(joined.weights) == {1} else joined.weights
    return plain_average(joined.updates, clip=clip, weights=weights)


def vanished(banks: Iterable[str]) -> BanksVanished:
    """The error for a roster that cannot be completed."""
    names = tuple(sorted(banks))
    return BanksVanished(f"{', '.join(names)} joined the roster and never contributed", names)
