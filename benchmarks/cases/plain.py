"""Plaintext FedAvg, with which all encryption is compared: float32 vectors, added in float32 and divided once.

Source: McMahan et al., AISTATS 2017. One version uses numpy, the other torch on a device, where the transfer of a
contribution to the device is a separate stage. As in a plain system, nothing is checked. The case is a lower bound of
cost, not a recommendation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cases import CaseResult, compared
from benchmarks.errors import CaseNotRunnable
from benchmarks.meter import Meter
from benchmarks.workload import F32, F64, Vectors


def allowed_error(clients: int) -> float:
    """Bound on the rounding error of a float32 sum of `clients` values below 1, divided by `clients`."""
    return float(clients) * 2.0**-24


class NumpyAverage:
    """Sums in numpy, one thread."""

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        self._vectors = vectors
        return {"threads": 1, "arithmetic": "float32"}

    def repeat(self, meter: Meter) -> CaseResult:
        workload, total = self._vectors.workload, np.zeros(self._vectors.workload.length, dtype=np.float32)
        for arrival in range(workload.clients):
            update = self._vectors.update(workload.contribution_of(arrival))
            data = _send(update, meter, counted=arrival < workload.fresh)
            with meter.phase("server"), meter.stage("sum") as stage:
                total += np.frombuffer(data, dtype=np.float32)
                stage.bytes += total.nbytes
        with meter.phase("open"), meter.stage("unpack") as stage:
            average: F64 = np.multiply(total, 1.0 / workload.clients, dtype=np.float64)
            stage.bytes += average.nbytes
        return compared(average, self._vectors, allowed_error(workload.clients))


class TorchAverage:
    """Sums in torch on `device` ("cpu" or "cuda")."""

    def __init__(self, device: str = "cpu") -> None:
        self._device_name = device

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        import torch

        if self._device_name == "cuda" and not torch.cuda.is_available():
            raise CaseNotRunnable("no CUDA device")
        self._torch, self._vectors = torch, vectors
        self._device = torch.device(self._device_name)
        return {"threads": torch.get_num_threads(), "arithmetic": "float32", "device": self._device_name}

    def repeat(self, meter: Meter) -> CaseResult:
        torch, workload = self._torch, self._vectors.workload
        total = torch.zeros(workload.length, dtype=torch.float32, device=self._device)
        for arrival in range(workload.clients):
            update = self._vectors.update(workload.contribution_of(arrival))
            data = bytearray(_send(update, meter, counted=arrival < workload.fresh))
            with meter.phase("server"):
                with meter.stage("transfer") as stage:
                    received = torch.frombuffer(data, dtype=torch.float32).to(self._device)
                    self._wait()
                    stage.bytes += len(data)
                with meter.stage("sum") as stage:
                    total += received
                    self._wait()
                    stage.bytes += len(data)
        with meter.phase("open"), meter.stage("unpack") as stage:
            average: F64 = (total.to("cpu", torch.float64) / workload.clients).numpy()
            stage.bytes += average.nbytes
        return compared(average, self._vectors, allowed_error(workload.clients))

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)


def _send(update: F32, meter: Meter, *, counted: bool) -> bytes:
    """An update as bytes. counted=False: not timed, since this client's contribution was counted before."""
    if not counted:
        return update.tobytes()
    with meter.phase("client"), meter.stage("serialize") as stage:
        data = update.tobytes()
        stage.bytes += len(data)
    meter.wire_bytes["contribution"] = len(data)
    return data
