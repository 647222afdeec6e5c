"""Sums of ciphertexts on a torch device, with several contributions per pass.

The case shows which number of contributions per pass is fastest, and which share of the device's copy bandwidth it
uses.

Only the aggregator's addition is measured, on random residues of the shape that the plan gives. Transfers to the device
are a separate stage, because an aggregator can overlap them with other work. On "cpu" the same code uses CPU tensors.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import secagg
from benchmarks.cases import CaseResult
from benchmarks.errors import CaseNotRunnable, WrongResult
from benchmarks.meter import Meter
from benchmarks.workload import CLIP, Vectors

if TYPE_CHECKING:
    from fl.secure.device_sum import DeviceAccumulator, Kernel

COPIED = {"cpu": 256 << 20, "cuda": 2 << 30}  # bytes of the tensor whose copy measures the device's bandwidth
SOURCES = 4  # different contributions; further clients send the same ones again


class DeviceSum:
    """Adds `stacked` contributions per pass on `device`. kernel: see `fl.secure.device_sum.DeviceAccumulator`."""

    def __init__(self, device: str = "cpu", stacked: int = 1, kernel: Kernel = "auto") -> None:
        self._device_name, self._stacked, self._kernel = device, stacked, kernel

    def prepare(self, vectors: Vectors) -> dict[str, Any]:
        import torch

        if self._device_name == "cuda" and not torch.cuda.is_available():
            raise CaseNotRunnable("no CUDA device")
        workload = vectors.workload
        if workload.clients % self._stacked:
            raise CaseNotRunnable(f"{workload.clients} clients is not a multiple of {self._stacked} per pass")
        self._torch, self._device = torch, torch.device(self._device_name)
        self._vectors = vectors
        self._plan = secagg.plan_round(workload.length, workload.clients, CLIP, workload.value_bits)
        self._primes = np.array(self._plan.params.primes, dtype=np.uint32)
        self._contributions = self._random_residues(min(SOURCES, workload.clients), workload.seed)
        return {
            "threads": torch.get_num_threads(),
            "device": self._device_name,
            "stacked": self._stacked,
            "kernel": self._new_total().kernel,
            "copy_bytes_per_second": self._copy_bandwidth(),
            "residue_bytes": int(self._contributions[0].nbytes),
            "plan": self._plan.as_dict(),
        }

    def repeat(self, meter: Meter) -> CaseResult:
        clients = self._vectors.workload.clients
        total = self._new_total()
        stack = total.room(self._stacked)
        for first in range(0, clients, self._stacked):
            with meter.phase("server"):
                with meter.stage("transfer") as stage:
                    for place in range(self._stacked):
                        total.to_device(self._contributions[(first + place) % len(self._contributions)], stack[place])
                    self._wait()
                    stage.bytes += stack.nbytes
                with meter.stage("sum") as stage:
                    total.add(stack)
                    self._wait()
                    stage.bytes += stack.nbytes
        with meter.phase("finish"), meter.stage("transfer") as stage:
            residues = total.residues()
            stage.bytes += residues.nbytes
        self._check(residues)
        return CaseResult(0.0, 0.0)

    def _new_total(self) -> DeviceAccumulator:
        from fl.secure.device_sum import DeviceAccumulator

        params = self._plan.params
        return DeviceAccumulator(self._plan.blocks, params.primes, params.degree, self._device, self._kernel)

    def _check(self, residues: NDArray[np.uint32]) -> None:
        expected = np.zeros(residues.shape, dtype=np.uint64)
        rounds, rest = divmod(self._vectors.workload.clients, len(self._contributions))
        for place, contribution in enumerate(self._contributions):
            expected += np.multiply(contribution, rounds + (place < rest), dtype=np.uint64)
        expected %= self._primes.astype(np.uint64)[None, None, :, None]
        if not np.array_equal(expected, residues):
            raise WrongResult("the device's sum of residues differs from the sum modulo the primes")

    def _random_residues(self, count: int, seed: int) -> list[NDArray[np.uint32]]:
        rng = np.random.default_rng(seed)
        shape = (self._plan.blocks, 2, len(self._primes), self._plan.params.degree)
        limits = self._primes[None, None, :, None]
        return [rng.integers(0, limits, size=shape, dtype=np.uint32) for _ in range(count)]

    def _copy_bandwidth(self) -> float:
        """Bytes read and written per second by a copy on the device, best of five."""
        torch = self._torch
        copied = COPIED[self._device_name]
        source = torch.zeros(copied // 4, dtype=torch.int32, device=self._device)
        target = torch.empty_like(source)
        best = float("inf")
        for _ in range(5):
            self._wait()
            start = time.perf_counter()
            target.copy_(source)
            self._wait()
            best = min(best, time.perf_counter() - start)
        return 2 * copied / best

    def _wait(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.synchronize(self._device)
