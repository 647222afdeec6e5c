"""A few threads for the loops that release the GIL. One `Workers` serves one contribution or one sum.

The threads belong to the process. A job never waits for another job, so parties in several threads can share them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, TypeVar

from secagg import counts
from secagg.plan import RoundPlan

T = TypeVar("T")


ALONE_BELOW = 1 << 20  # bytes of residues: for less work, starting a second thread costs more than it saves


GROUP = 1 << 22  # bytes of residues held at once, or one block for each thread


class Workers:
    """Splits ranges over threads. threads: all usable cores when None; 1 runs everything in the caller.

    work: bytes of residues of the contribution or sum; below `ALONE_BELOW`, None means one thread. most: threads that
    can be of use. Leaving its `with` waits for the jobs that were started. The threads stay, for the next contribution
    of this process: a new thread has nothing warm, and cost a client of a million values 2 ms (ADR 0033).
    """

    def __init__(self, threads: int | None = None, work: int = ALONE_BELOW, most: int | None = None) -> None:
        threads = threads_for(threads, work)
        self.threads = max(1, threads if most is None else min(threads, most))
        self._started: list[Future[Any]] = []

    def over(self, count: int, job: Callable[[int, int], None]) -> None:
        """Call `job(start, stop)` on consecutive parts of range(count), one per thread; the first error is raised."""
        parts = min(self.threads, count)
        if parts < 2:
            job(0, count)
            return
        edges = [count * part // parts for part in range(parts + 1)]
        pool = _pool(self.threads - 1)
        others = [pool.submit(job, edges[part], edges[part + 1]) for part in range(1, parts)]
        try:
            job(edges[0], edges[1])
        finally:
            wait(others)
        for other in others:
            other.result()

    def start(self, job: Callable[[], T]) -> Callable[[], T]:
        """Run `job` in parallel; the returned function waits for its result. Jobs begin in the order of the calls.

        With one thread a job runs when its result is asked for. A job must not use any workers itself.
        """
        if self.threads < 2:
            return job
        started = _pool(self.threads - 1).submit(job)
        self._started.append(started)
        return started.result

    def close(self) -> None:
        """Wait for what was started; what has not begun is not done."""
        for started in self._started:
            started.cancel()
        wait(self._started)
        self._started.clear()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_POOLS: dict[int, ThreadPoolExecutor] = {}
"""The threads of this process, by their number. A child of a fork has none of them and begins anew."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOLS.clear)


def _pool(helpers: int) -> ThreadPoolExecutor:
    pool = _POOLS.get(helpers)
    return pool or _POOLS.setdefault(helpers, ThreadPoolExecutor(helpers, thread_name_prefix="secagg"))


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
