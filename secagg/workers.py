"""A few threads for the loops that release the GIL. One `Workers` serves one contribution or one sum."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from secagg import counts
from secagg.plan import RoundPlan

T = TypeVar("T")


ALONE_BELOW = 1 << 20  # bytes of residues: for less work, starting a second thread costs more than it saves


GROUP = 1 << 22  # bytes of residues held at once, or one block for each thread


class Workers:
    """Splits ranges over threads. threads: all usable cores when None; 1 runs everything in the caller.

    work: bytes of residues of the contribution or sum; below `ALONE_BELOW`, None means one thread. most: threads that
    can be of use.
    """

    def __init__(self, threads: int | None = None, work: int = ALONE_BELOW, most: int | None = None) -> None:
        threads = threads_for(threads, work)
        self.threads = max(1, threads if most is None else min(threads, most))
        self._pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None

    def over(self, count: int, job: Callable[[int, int], None]) -> None:
        """Call `job(start, stop)` on consecutive parts of range(count), one per thread; the first error is raised."""
        parts = min(self.threads, count)
        if self._pool is None or parts < 2:
            job(0, count)
            return
        edges = [count * part // parts for part in range(parts + 1)]
        others = [self._pool.submit(job, edges[part], edges[part + 1]) for part in range(1, parts)]
        try:
            job(edges[0], edges[1])
        finally:
            for other in others:
                other.result()

    def start(self, job: Callable[[], T]) -> Callable[[], T]:
        """Run `job` in parallel; the returned function waits for its result. Jobs begin in the order of the calls.

        With one thread a job runs when its result is asked for. A job must not use these workers itself.
        """
        return job if self._pool is None else self._pool.submit(job).result

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def threads_for(threads: int | None, work: int) -> int:
    """How many threads `threads` means for `work` bytes of residues."""
    wanted = counts.threads(threads)
    if wanted is not None:
        return wanted
    return usable_cores() if work >= ALONE_BELOW else 1


def blocks_at_once(plan: RoundPlan, workers: Workers) -> int:
    """Blocks that a party holds as residues at once: few waits of threads for each other, and bounded memory."""
    fitting = GROUP // (4 * len(plan.params.primes) * plan.params.degree)
    return min(plan.blocks, max(fitting, workers.threads))


def rows_of_blocks(start: int, stop: int, primes: int) -> Iterator[tuple[int, slice]]:
    """(block, its primes) for rows start..stop-1 of several blocks of `primes` rows each."""
    for block in range(start // primes, -(-stop // primes)):
        yield block, slice(max(start - block * primes, 0), min(stop - block * primes, primes))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
