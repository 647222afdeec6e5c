"""Whole federated rounds: real local training, then the average, plain or encrypted and masked.

There are two models. The fraud model of `fl.learning.model` makes one pass over ROWS rows per client, as in an ordinary
round. ResNet-18 makes STEPS steps of BATCH images, which is less than a client would train, so the share of the time
that encryption takes is overstated rather than understated. Rows and images are random, since the time of a step does
not depend on their values.

Both ways to average use the same updates: the trained model minus the model before, clipped to [-CLIP, CLIP]. The fraud
model trains on one torch thread. Its layers are small, and more threads would make training slower and so the share of
encryption smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import secagg
from benchmarks.cases import CaseResult
from benchmarks.cases.encrypted import new_session, play_round, quantised
from benchmarks.errors import CaseNotRunnable, WrongResult
from benchmarks.machine import usable_cores
from benchmarks.meter import Meter
from benchmarks.workload import CLIP, F32, F64, Vectors
from fl.secure.session import arithmetic_on
from secagg.device import Update
from secagg.session import Terms

if TYPE_CHECKING:
    import torch
    from torch import nn

ROWS, FEATURES = 8_400, 15  # of one bank: an eighth of a week of card transactions
STEPS, BATCH, PIXELS = 8, 32, 64
LENGTHS = {"mlp": FEATURES * 64 + 64 + 64 * 32 + 32 + 32 + 1, "resnet18": 11_689_512}


class WholeRound:
    """One round of `model` ("mlp" or "resnet18") on `device`. engine: None averages without encryption.

    roles_on_device: whether updates stay on the device, and clients and key holder compute there.
    """

    def __init__(
        self,
        model: str,
        engine: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        roles_on_device: bool = False,
    ) -> None:
        self._name, self._engine, self._device_name, self._threads = model, engine, device, threads
        self._roles_on_device = roles_on_device

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        import torch

        from fl.learning.model import flatten

        if self._device_name == "cuda" and not torch.cuda.is_available():
            raise CaseNotRunnable("no CUDA device")
        self._device = torch.device(self._device_name)
        self._clients = vectors.workload.clients
        torch.manual_seed(vectors.workload.seed)
        torch.set_num_threads(1 if self._name == "mlp" else self._threads or usable_cores())
        self._train = _fraud_model(self._device) if self._name == "mlp" else _image_model(self._device)
        self._start, self._trainings = flatten(self._train.model), 0
        if len(self._start) != vectors.workload.length:
            raise CaseNotRunnable(f"this model has {len(self._start)} values, not {vectors.workload.length}")
        parameters: dict[str, Any] = {
            "threads": torch.get_num_threads(),
            "device": self._device_name,
            "training": self._train.describe,
            "engine": self._engine,
            "roles": self._device_name if self._roles_on_device else "memory",
        }
        if self._engine is not None:
            plan = secagg.plan_round(len(self._start), self._clients, CLIP, vectors.workload.value_bits)
            from secagg.engines import resolve_engine

            # A training is many rounds of one federation; fresh updates from one model, as private rounds have.
            self._terms = Terms(
                plan,
                model_repeats=None,
                engine=resolve_engine(self._engine),
                threads=_of_roles(self._threads),
                device=arithmetic_on(self._device_name if self._roles_on_device else None),
            )
            self._session = new_session(self._clients)
            parameters |= {"engine": self._terms.engine, "masking": True, "plan": plan.as_dict()}
        return parameters

    def repeat(self, meter: Meter) -> CaseResult:
        contributed = [self._local(meter) for _ in range(self._clients)]
        updates = [_in_memory(update) for update in contributed]
        exact = _mean(updates)
        if self._engine is None:
            average, allowed = self._plain(updates, meter), float(self._clients) * 2.0**-24
        else:
            opened = play_round(contributed.__getitem__, self._clients, self._terms, meter, self._session)
            _check_sums(opened.sums, updates, self._terms.plan)
            average, allowed = opened.average, self._terms.plan.max_error
        return CaseResult(float(np.abs(average - exact).max()), allowed)

    def _local(self, meter: Meter) -> Update:
        from fl.learning.model import flatten, unflatten

        unflatten(self._train.model, self._start)
        # Another one in each repetition: a journal refuses an update that has been in a round before.
        self._trainings += 1
        if self._roles_on_device:
            return self._local_on_device(meter)
        with meter.phase("train"):
            self._train.run(self._trainings)
            update: F32 = flatten(self._train.model) - self._start
        return np.clip(update, -CLIP, CLIP, out=update)

    def _local_on_device(self, meter: Meter) -> torch.Tensor:
        """The same update, which never leaves the device. Both models have parameters alone, no buffers."""
        import torch

        parameters = list(self._train.model.parameters())
        start = torch.nn.utils.parameters_to_vector(parameters).detach()
        with meter.phase("train"):
            self._train.run(self._trainings)
            update = torch.nn.utils.parameters_to_vector(parameters).detach() - start
            if self._device.type == "cuda":
                torch.cuda.synchronize()
        return update.clamp_(-CLIP, CLIP)

    def _plain(self, updates: list[F32], meter: Meter) -> F64:
        total = np.zeros(len(self._start), dtype=np.float32)
        for update in updates:
            with meter.phase("client"), meter.stage("serialize"):
                data = update.tobytes()
            with meter.phase("server"), meter.stage("sum"):
                total += np.frombuffer(data, dtype=np.float32)
        meter.wire_bytes["contribution"] = 4 * len(self._start)
        with meter.phase("open"), meter.stage("unpack"):
            average: F64 = np.multiply(total, 1.0 / self._clients, dtype=np.float64)
        return average


@dataclass(frozen=True)
class _Training:
    """A model, a description of its training, and a function that trains it in place, with another result by number."""

    model: nn.Module
    describe: str
    run: Callable[[int], None]


def _of_roles(threads: int | None) -> int | None:
    """All cores are what a role takes anyway, and then it starts no thread for a round that is too small for one."""
    return None if threads == usable_cores() else threads


def _fraud_model(device: torch.device) -> _Training:
    from fl.data.federation import Rows
    from fl.learning.model import build_model
    from fl.learning.training import LocalTraining, train_seeded

    model, local = build_model(FEATURES, seed=0).to(device), LocalTraining()
    rng = np.random.default_rng(0)
    rows = Rows(
        x=rng.standard_normal((ROWS, FEATURES), dtype=np.float32),
        y=(rng.random(ROWS) < 0.01).astype(np.float32),
        day=np.zeros(ROWS, dtype=np.int32),
        customer=np.arange(ROWS, dtype=np.int64),
        index=np.arange(ROWS, dtype=np.int64),
    )
    describe = f"{local.epochs} pass over {ROWS} rows of {FEATURES} features, batches of {local.batch_size}"
    return _Training(model, describe, lambda number: train_seeded(model, rows, local, seed=number, device=device))


def _image_model(device: torch.device) -> _Training:
    import torch

    from benchmarks.cases.resnet import CLASSES, resnet18

    model = resnet18().to(device)
    images = torch.randn(STEPS, BATCH, 3, PIXELS, PIXELS, device=device)
    labels = torch.randint(CLASSES, (STEPS, BATCH), device=device)

    def train(number: int) -> None:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01 / (1 + number / 1000), momentum=0.9)
        model.train()
        for x, y in zip(images, labels, strict=True):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()

    return _Training(model, f"{STEPS} steps of {BATCH} images of {PIXELS} x {PIXELS}", train)


def _in_memory(update: Update) -> F32:
    values: F32 = update if isinstance(update, np.ndarray) else update.cpu().numpy()
    return values


def _check_sums(sums: NDArray[np.int64], updates: Sequence[F32], plan: secagg.RoundPlan) -> None:
    """Raise `WrongResult` unless `sums` are exactly the sums of the quantised updates."""
    total = np.zeros(plan.length, dtype=np.int64)
    for update in updates:
        total += quantised(update, plan)
    if wrong := int(np.count_nonzero(sums != total)):
        raise WrongResult(f"{wrong} integer sums are not exact")


def _mean(updates: Sequence[F32]) -> F64:
    total = np.zeros(len(updates[0]), dtype=np.float64)
    for update in updates:
        total += update
    return total / len(updates)
