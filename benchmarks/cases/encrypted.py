"""This project's own round: the roles of `secagg`, called one after the other, with messages as bytes between them.

It makes the same calls as `secagg.run_round`, with three differences: it makes one update at a time, it passes messages
in one reused buffer, and it assigns every second to a phase. 1e8 values therefore need the memory of one client, one
aggregator and one key holder, for any number of clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import secagg
from benchmarks.cases import CaseResult, compared
from benchmarks.errors import CaseNotRunnable, WrongResult
from benchmarks.meter import Meter
from benchmarks.workload import CHUNK, CLIP, F32, F64, Vectors
from fl.secure.session import arithmetic_on, sums_on
from secagg import wire
from secagg.device import Update
from secagg.identity import every_party_alone
from secagg.messages import Contribution, EncryptedSum, Release
from secagg.session import Observer, Parties, Session, Terms

MODEL = bytes(32)  # the hash of the model that the updates refer to; there is none here


@dataclass(frozen=True)
class Opened:
    """average: float64[length]. sums: int64[length], exact sums of the quantised updates."""

    average: F64 = field(repr=False)
    sums: NDArray[np.int64] = field(repr=False)


def new_session(clients: int) -> Session:
    """The parties of a federation, with ledgers and journals in memory."""
    return Session(Parties.generate([f"client {i}" for i in range(clients)]))


def play_round(
    update_of: Callable[[int], Update], clients: int, terms: Terms, meter: Meter, session: Session | None = None
) -> Opened:
    """Play one round over `clients` updates. `update_of(i)` makes client i's update just before it contributes.

    session: of a federation whose rounds follow each other in one process, where a signature that one party has
    verified is not verified again for another. None: a new federation, whose parties each verify all that they
    receive, as they do in processes of their own.
    """
    with every_party_alone() if session is None else nullcontext():
        return _played(update_of, clients, terms, meter, session)


def _played(
    update_of: Callable[[int], Update], clients: int, terms: Terms, meter: Meter, session: Session | None
) -> Opened:
    plan, observer, post = terms.plan, Observer(), _Post(meter)
    clock = observer.clock
    with meter.phase("setup", clock):
        session = session or new_session(clients)
        step = session.ledger.next_step
        roles = session.roles(replace(terms, quorum=min(3, clients)), observer=observer)
        key_holder, aggregator = roles.key_holder, roles.aggregator
        offer = roles.sent(key_holder.open(step, MODEL))
        for client in roles.clients:
            key_holder.receive_join(roles.sent(client.join(offer, MODEL)))
        roster = roles.sent(key_holder.close_roster())
        aggregator.open(offer, roster)
    for index, client in enumerate(roles.clients):
        update = update_of(index)
        with meter.phase("client", clock):
            parts = wire.encode_parts(client.contribute(roster, update), plan)
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
    del parts
    with meter.phase("open", clock):
        encrypted_sum = wire.decode(received, plan)
        assert isinstance(encrypted_sum, EncryptedSum)
        release = key_holder.release(encrypted_sum)
        average = roles.clients[0].accept(release).values
    meter.wire_bytes |= observer.message_bytes | {"release": wire.message_bytes(Release, plan)}
    return Opened(average, release.sums)


class _Post:
    """Delivers large messages as bytes. The copy into the receiver's buffer is outside of every phase, so not timed."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._buffer = bytearray()

    def deliver(self, parts: tuple[Any, ...], kind: str) -> memoryview:
        """The received bytes. They are valid until the next delivery."""
        size = sum(len(part) for part in parts)
        self._meter.wire_bytes[kind] = size
        if len(self._buffer) != size:
            self._buffer = bytearray(size)
        view, start = memoryview(self._buffer), 0
        for part in parts:
            view[start : start + len(part)] = part
            start += len(part)
        return view


class EncryptedAverage:
    """A round with one engine, masked or not.

    sums_on: torch device that adds ciphertexts, or None for numpy. device: torch device on which the clients' updates
    lie as tensors, and on which clients and key holder compute; None for numpy and the engine.
    """

    def __init__(
        self,
        engine: str = "auto",
        masking: bool = True,
        threads: int | None = None,
        sums_on: str | None = None,
        device: str | None = None,
    ) -> None:
        self._engine, self._masking, self._threads, self._sums_on = engine, masking, threads, sums_on
        self._device = device

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        from secagg.engines import resolve_engine
        from secagg.kernels import NAME
        from secagg.masks import neighbours_needed

        if "cuda" in (self._sums_on, self._device):
            import torch

            if not torch.cuda.is_available():
                raise CaseNotRunnable("no CUDA device")
        workload = vectors.workload
        self._vectors = vectors
        self.terms = Terms(
            secagg.plan_round(workload.length, workload.clients, CLIP, workload.value_bits),
            masking=self._masking,
            engine=resolve_engine(self._engine),
            threads=self._threads,
            accumulator=sums_on(self._sums_on),
            device=arithmetic_on(self._device),
        )
        return {
            "engine": self.terms.engine,
            "masking": self._masking,
            "neighbours": neighbours_needed(workload.clients) if self._masking else 0,
            "kernels": NAME,
            "threads": self._threads,
            "sums_on": self._sums_on or "memory",
            "device": self._device or "memory",
            "plan": self.terms.plan.as_dict(),
        }

    def repeat(self, meter: Meter) -> CaseResult:
        opened = play_round(self._update, self._vectors.workload.clients, self.terms, meter)
        check_sums(opened.sums, self._vectors, self.terms.plan)
        return compared(opened.average, self._vectors, self.terms.plan.max_error)

    def _update(self, client: int) -> Update:
        """A client's update where its training would leave it: moving it to a device is not part of a round."""
        values = self._vectors.update(client)
        if self._device is None:
            return values
        import torch

        moved = torch.from_numpy(values).to(self._device)
        if self._device == "cuda":
            torch.cuda.synchronize()
        return moved


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
    """An update as the integers that enter a sum, int64, computed without `secagg`."""
    values = np.clip(update.astype(np.float64), -plan.clip, plan.clip)
    return np.rint(values * (1.0 / plan.step)).astype(np.int64)
