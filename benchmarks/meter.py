"""What is measured of one repetition: wall time, processor time, bytes and peak memory, by phase and by stage.

A *phase* is what one party does at one point of the round. All of its wall time counts, also outside of stages:

    setup    keys, offer, joins, roster: everything before the first contribution, all parties together
    train    local training (whole rounds only)
    client   update -> contribution, ready to send; all encrypting clients together
    server   contribution as received -> added to the sum; all contributions together
    finish   what the server does once, after the last contribution
    open     encrypted sum -> average

A *stage* is a named part of a phase (pack, encrypt, mask, ...). Stages never overlap. The time of a phase outside of
all stages is its rest. The time to send is not measured, since cases pass bytes in memory.

Memory is measured in a separate repetition whose times are not used. Before each phase, free memory is returned to the
system and the kernel's high-water mark of the process is reset. After the phase the mark is read. Systems other than
Linux have no such mark, and peaks are None there.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PHASES = ("setup", "train", "client", "server", "finish", "open")
STAGES = (
    "keygen",
    "pack",
    "encrypt",
    "mask",
    "serialize",
    "check",
    "transfer",
    "sum",
    "verify",
    "decrypt",
    "unpack",
)
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass
class Stage:
    """seconds: wall time. bytes: data that the stage produced."""

    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Phase:
    """seconds: wall time; cpu_seconds: processor time of all threads; calls: how often the phase was entered.

    peak_bytes: largest memory of one call, beyond what the process held when the call began; None if unknown.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    calls: int = 0
    peak_bytes: int | None = None
    stages: dict[str, Stage] = field(default_factory=dict)


class Meter:
    """Collects one repetition. `wire_bytes`: length of one message on the wire, by kind.

    memory: measure peaks of memory. Times are then longer and must not be used.
    """

    def __init__(self, memory: bool = False) -> None:
        self.phases: dict[str, Phase] = {}
        self.wire_bytes: dict[str, int] = {}
        self._current: Phase | None = None
        self._memory = memory and _CLEAR.exists()

    @contextmanager
    def phase(self, name: str, clock: Any = None) -> Iterator[None]:
        """Time one call of a phase. clock: a `secagg.StageClock` whose stages advance meanwhile."""
        if name not in PHASES or self._current is not None:
            raise ValueError(f"phase: expected one of {PHASES}, not nested, got {name!r}")
        phase = self._current = self.phases.setdefault(name, Phase())
        before = _seconds_and_bytes(clock.stages) if clock is not None else {}
        held = self._reset_peak()
        processor, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            phase.seconds += time.perf_counter() - wall
            phase.cpu_seconds += time.process_time() - processor
            phase.calls += 1
            if held is not None:
                phase.peak_bytes = max(phase.peak_bytes or 0, memory("VmHWM") - held)
            if clock is not None:
                for stage, (seconds, produced) in _seconds_and_bytes(clock.stages).items():
                    self._add(phase, stage, seconds - before[stage][0], produced - before[stage][1])
            self._current = None

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Time a stage of the current phase; add its bytes to what is yielded."""
        if name not in STAGES or self._current is None:
            raise ValueError(f"stage: expected one of {STAGES} inside a phase, got {name!r}")
        stage = self._current.stages.setdefault(name, Stage())
        start = time.perf_counter()
        try:
            yield stage
        finally:
            stage.seconds += time.perf_counter() - start

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "wire_bytes": dict(self.wire_bytes),
            "phases": {
                name: {
                    "seconds": phase.seconds,
                    "cpu_seconds": phase.cpu_seconds,
                    "calls": phase.calls,
                    "stages": {
                        stage: {"seconds": part.seconds, "bytes": part.bytes} for stage, part in phase.stages.items()
                    },
                }
                for name, phase in self.phases.items()
            },
        }

    def _reset_peak(self) -> int | None:
        if not self._memory:
            return None
        _release_free_memory()
        _CLEAR.write_text("5")  # resets VmHWM to the present size (proc(5))
        return memory("VmRSS")

    @staticmethod
    def _add(phase: Phase, name: str, seconds: float, produced: int) -> None:
        if seconds or produced:
            stage = phase.stages.setdefault(name, Stage())
            stage.seconds += seconds
            stage.bytes += produced


def memory(entry: str) -> int:
    """A figure of this process from /proc, bytes: VmRSS, VmHWM."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(entry + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(entry)


def _release_free_memory() -> None:
    """Return freed heap to the system. Memory left by an earlier phase would hide what this phase takes."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
    if trim is not None:
        trim(0)


def _seconds_and_bytes(stages: Mapping[str, Any]) -> dict[str, tuple[float, int]]:
    return {name: (stage.seconds, stage.bytes) for name, stage in stages.items()}
