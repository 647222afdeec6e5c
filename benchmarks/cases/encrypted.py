"""This project's own round, as measured: the roles of `secagg`, called one after the other, bytes between them.

It uses the public interface only, the same calls as `secagg.run_round`, but makes one update at a time, hands messages
over in one reused buffer instead of a new one for each, and attributes every second to a phase. So 1e8 values need the
memory of one client, one aggregator and one key holder, however many clients there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import secagg
from benchmarks.cases import CaseResult, compared
from benchmarks.errors import CaseNotRunnable, WrongResult
from benchmarks.meter import Meter
from benchmarks.workload import CHUNK, CLIP, F32, F64, Vectors
from fl.secure.session import sums_on
from secagg import wire
from secagg.masks import MaskingDisabledWarning
from secagg.messages import Contribution, EncryptedSum, Join, Message, Offer, Release, Roster

MODEL = bytes(32)  # the hash of the model that the updates refer to; there is none here
M = TypeVar("M", Offer, Join, Roster, Contribution, EncryptedSum, Release)


@dataclass(frozen=True)
class Opened:
    """average: float64[length]. sums: int64[length], exact sums of the quantised updates."""

    average: F64 = field(repr=False)
    sums: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Setting:
    """How a round is played: with which engine, masked or not, on how many threads (None: as the roles choose).

    sums_on: torch device of the aggregator's running sum; None adds in memory.
    """

    plan: secagg.RoundPlan
    engine: str
    masking: bool
    threads: int | None
    sums_on: str | None = None


def play_round(update_of: Callable[[int], F32], clients: int, setting: Setting, meter: Meter) -> Opened:
    """One whole round over `clients` updates; `update_of(i)` makes client i's just before it contributes."""
    plan, clock, post = setting.plan, secagg.StageClock(), _Post(setting.plan, meter)
    with meter.phase("setup", clock):
        banks, aggregator, key_holder = _roles(clients, setting, clock)
        offer = post.carry(key_holder.open(step=1, model=MODEL), Offer, "offer")
        for bank in banks:
            key_holder.receive_join(post.carry(bank.join(offer, MODEL), Join, "join"))
        roster = post.carry(key_holder.close_roster(), Roster, "roster")
        aggregator.open(offer, roster)
    for index, bank in enumerate(banks):
        update = update_of(index)
        with meter.phase("client", clock):
            parts = wire.encode_parts(bank.contribute(roster, update), plan)
        received = post.deliver(parts, "contribution")
        del parts, update
        with meter.phase("server", clock):
            with clock.stage("check"):
                contribution = wire.decode(received, plan)
            assert isinstance(contribution, Contribution)
            aggregator.receive(contribution)
    with meter.phase("finish", clock):
        parts = wire.encode_parts(aggregator.close(), plan)
    received = post.deliver(parts, "sum")
    del parts, aggregator
    with meter.phase("open", clock):
        encrypted_sum = wire.decode(received, plan)
        assert isinstance(encrypted_sum, EncryptedSum)
        release = key_holder.release(encrypted_sum)
        average = banks[0].accept(release).values
    meter.wire_bytes["release"] = wire.message_bytes(Release, plan)
    return Opened(average, release.sums)


def _roles(
    clients: int, setting: Setting, clock: secagg.StageClock
) -> tuple[list[secagg.Client], secagg.Aggregator, secagg.KeyHolder]:
    plan, quorum = setting.plan, min(3, clients)
    identities = [secagg.Identity.generate(f"client {i}") for i in range(clients)]
    authority, server = secagg.Identity.generate("key holder"), secagg.Identity.generate("aggregator")
    enrolment = secagg.Enrolment.of(authority.member, server.member, tuple(i.member for i in identities))
    masking, threads = setting.masking, setting.threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MaskingDisabledWarning)  # measuring without masks is what such a case is for
        key_holder = secagg.KeyHolder(authority, enrolment, plan, quorum, masking=masking, threads=threads, clock=clock)
        sums = sums_on(setting.sums_on)
        aggregator = secagg.Aggregator(server, enrolment, plan, masking=masking, accumulator=sums, clock=clock)
        banks = [
            secagg.Client(
                i, enrolment, plan, quorum, masking=masking, engine=setting.engine, threads=threads, clock=clock
            )
            for i in identities
        ]
    return banks, aggregator, key_holder


class _Post:
    """Carries messages as bytes. Delivery copies into the receiver's buffer, which costs no party any time."""

    def __init__(self, plan: secagg.RoundPlan, meter: Meter) -> None:
        self._plan = plan
        self._meter = meter
        self._buffer = bytearray()

    def deliver(self, parts: tuple[Any, ...], kind: str) -> memoryview:
        """The received bytes; valid until the next delivery."""
        size = sum(len(part) for part in parts)
        self._meter.wire_bytes[kind] = size
        if len(self._buffer) != size:
            self._buffer = bytearray(size)
        view, start = memoryview(self._buffer), 0
        for part in parts:
            view[start : start + len(part)] = part
            start += len(part)
        return view

    def carry(self, message: Message, kind: type[M], name: str) -> M:
        """A small message, there and then."""
        data = secagg.encode(message, self._plan)
        self._meter.wire_bytes[name] = len(data)
        received = secagg.decode(data, self._plan)
        assert isinstance(received, kind)
        return received


class EncryptedAverage:
    """A round with one engine, masked or not. sums_on: torch device that ciphertexts are added on; None: in memory."""

    def __init__(
        self, engine: str = "auto", masking: bool = True, threads: int | None = None, sums_on: str | None = None
    ) -> None:
        self._engine, self._masking, self._threads, self._sums_on = engine, masking, threads, sums_on

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        from secagg.engines import resolve_engine
        from secagg.kernels import NAME
        from secagg.masks import neighbours_needed

        if self._sums_on is not None and self._sums_on != "cpu":
            import torch

            if not torch.cuda.is_available():
                raise CaseNotRunnable("no CUDA device")
        workload = vectors.workload
        self._vectors = vectors
        self.setting = Setting(
            secagg.plan_round(workload.length, workload.clients, CLIP, workload.value_bits),
            resolve_engine(self._engine),
            self._masking,
            self._threads,
            self._sums_on,
        )
        return {
            "engine": self.setting.engine,
            "masking": self._masking,
            "neighbours": neighbours_needed(workload.clients) if self._masking else 0,
            "kernels": NAME,
            "threads": self._threads,
            "sums_on": self._sums_on or "memory",
            "plan": self.setting.plan.as_dict(),
        }

    def repeat(self, meter: Meter) -> CaseResult:
        opened = play_round(self._vectors.update, self._vectors.workload.clients, self.setting, meter)
        check_sums(opened.sums, self._vectors, self.setting.plan)
        return compared(opened.average, self._vectors, self.setting.plan.max_error)


def check_sums(sums: NDArray[np.int64], vectors: Vectors, plan: secagg.RoundPlan) -> None:
    """Raise `WrongResult` unless `sums` are exactly the sums of the quantised updates."""
    for start, expected in _exact_sums(vectors, plan):
        wrong = int(np.count_nonzero(sums[start : start + len(expected)] != expected))
        if wrong:
            raise WrongResult(f"{wrong} integer sums from value {start} on are not exact")


def _exact_sums(vectors: Vectors, plan: secagg.RoundPlan) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for start in range(0, plan.length, CHUNK):
        total = np.zeros(min(CHUNK, plan.length - start), dtype=np.int64)
        for client in range(vectors.workload.clients):
            total += quantised(vectors.chunk(client, start), plan)
        yield start, total


def quantised(update: F32, plan: secagg.RoundPlan) -> NDArray[np.int64]:
    """The integers that an update enters a sum with, worked out apart from `secagg`."""
    values = np.clip(update.astype(np.float64), -plan.clip, plan.clip)
    return np.rint(values * (1.0 / plan.step)).astype(np.int64)
