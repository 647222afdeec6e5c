"""Results that no machine measured, with noise that a test chooses, and a case that can be made slow or wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.results import Measurement, Results
from benchmarks.workload import Workload

MACHINE = {
    "processor": "an imagined processor",
    "cores": 2,
    "threads": 2,
    "memory_bytes": 8 << 30,
    "system": "Linux",
    "architecture": "x86_64",
    "device": "cpu",
    "python": "3.11",
    "versions": {"numpy": "2.4.6"},
    "source": "0123456789abcdef",
    "revision": "unknown",
}
WORKLOAD = Workload(1_000_000, 8, 16)


def repetition(
    cycle: int, client: float, server: float, opened: float, size: int = 5_400_000, core_share: float = 1.0
) -> dict[str, Any]:
    """Seconds of all contributions together for client and server; three quarters of the client's are encryption.

    core_share: processor time over wall time.
    """

    def phase(seconds: float, **stages: float) -> dict[str, Any]:
        return {
            "seconds": seconds,
            "cpu_seconds": seconds * core_share,
            "calls": 8,
            "stages": {name: {"seconds": part, "bytes": 1000} for name, part in stages.items()},
        }

    return {
        "cycle": cycle,
        "largest_error": 1e-5,
        "allowed_error": 2e-5,
        "wire_bytes": {"contribution": size},
        "phases": {
            "client": phase(client, pack=client / 4, encrypt=client * 3 / 4),
            "server": phase(server, sum=server),
            "open": phase(opened, decrypt=opened / 2),
        },
    }


def measurement(
    case: str,
    seconds: float,
    *,
    ours: bool,
    drift: list[float],
    noise: float = 0.0,
    seed: int = 0,
    workload: Workload = WORKLOAD,
    size: int = 5_400_000,
    slower: float = 1.0,
    core_shares: list[float] | None = None,
) -> Measurement:
    """`case` taking `seconds * slower` per phase, times the machine's drift in each cycle, times random noise.

    core_shares: per cycle, the share of a core that it got; wall times grow accordingly, processor times do not.
    """
    rng = np.random.default_rng(seed)

    def once() -> float:
        return float(seconds * slower * np.exp(noise * rng.standard_normal()))

    shares = core_shares or [1.0] * len(drift)
    repetitions = tuple(
        repetition(cycle, *(once() * factor / share for _ in range(3)), size, share)
        for cycle, (factor, share) in enumerate(zip(drift, shares, strict=True))
        for _ in range(3)
    )
    return Measurement(
        case=case,
        label=f"the case {case}",
        family="secagg" if ours else "plain",
        ours=ours,
        workload=workload,
        status="ok",
        parameters={"engine": "fast", "masking": True} if ours else {"threads": 1},
        peak_bytes={"client": 20_000_000},
        repetitions=repetitions,
    )


def results(*measurements: Measurement, complete: bool = True, **machine: Any) -> Results:
    """A run of these measurements."""
    return Results(
        {**MACHINE, **machine}, "python -m benchmarks run", "2026-01-01T00:00:00Z", {}, complete, measurements
    )
