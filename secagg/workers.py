"""A few threads for the loops that release the GIL. One `Workers` serves one contribution or one sum.

The threads belong to the process. A job never waits for another job, so parties in several threads can share them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from secagg import counts
from secagg.ownership import Owner
from secagg.plan import RoundPlan

T = TypeVar("T")


ALONE_BELOW = 1 << 20  # bytes of residues: for less work, starting a second thread costs more than it saves


GROUP = 1 << 22  # bytes of residues held at once, or one block for each thread


class Workers:
    """Splits ranges over threads. threads: all usable cores when None; 1 runs everything in the caller.

    work: bytes of residues of the contribution or sum; below `ALONE_BELOW`, None means one thread. most: threads that
    can be of use. Leaving its `with` waits for the jobs that were started. The threads stay, for the next contribution
    of this process: a new thread has nothing warm, and cost a client of a million values 2 ms (ADR 0033).

    No job runs on after its call has ended, also where an interruption ended it: what the job writes to may be used
    again by then. In a forked child nothing waits for the jobs of its parent, whose threads the child does not have.
    """

    def __init__(self, threads: int | None = None, work: int = ALONE_BELOW, most: int | None = None) -> None:
        threads = threads_for(threads, work)
        self.threads = max(1, threads if most is None else min(threads, most))
        self._started: list[_Job[Any]] = []

    def over(self, count: int, job: Callable[[int, int], None]) -> None:
        """Call `job(start, stop)` on consecutive parts of range(count), one per thread; the first error is raised.

        After an error, what has not begun is not done. Raises `WrongState` in a child that was forked meanwhile.
        """
        parts = min(self.threads, count)
        if parts < 2:
            job(0, count)
            return
        edges = [count * part // parts for part in range(parts + 1)]
        pool, others = _pool(self.threads - 1), list[_Job[None]]()
        try:
            for part in range(1, parts):
                others.append(_Job(partial(job, edges[part], edges[part + 1])))
                pool.submit(others[-1])
            job(edges[0], edges[1])
            for other in others:
                other.result()
        finally:
            _end(others)

    def start(self, job: Callable[[], T]) -> Callable[[], T]:
        """Run `job` in parallel; the returned function waits for its result. Jobs begin in the order of the calls.

        With one thread a job runs when its result is asked for. A job must not use any workers itself.
        """
        if self.threads < 2:
            return job
        started = _Job(job)
        self._started.append(started)
        _pool(self.threads - 1).submit(started)
        return started.result

    def close(self) -> None:
        """Wait for what was started; what has not begun is not done."""
        _end(self._started)
        self._started.clear()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Job(Generic[T]):
    """Work for another thread. Its caller knows it before a thread does, so that an interruption loses none."""

    def __init__(self, run: Callable[[], T]) -> None:
        self._run = run
        self._future: Future[T] = Future()
        self._owner = Owner("a job on another thread")

    def __call__(self) -> None:
        """Do it, on the other thread, unless it was dropped."""
        if not self._future.set_running_or_notify_cancel():
            return
        try:
            result = self._run()
        except BaseException as error:
            self._future.set_exception(error)
            del self  # the error's traceback holds this frame, and they would keep each other alive
            raise  # to the pool, whose thread takes the next job
        self._future.set_result(result)

    def result(self) -> T:
        """Wait for what it returns or raises."""
        self._owner.require()  # the threads of a forked child's parent do not exist there
        return self._future.result()

    def drop(self) -> bool:
        """Drop it if it has not begun. False if it has, here, so that there is something to wait for.

        In a forked child always true: its parent does the job.
        """
        return not self._owner.is_here or self._future.cancel()

    def wait(self) -> None:
        """Wait until it has ended, whichever way."""
        self._future.exception()


def _end(jobs: Sequence[_Job[Any]]) -> None:
    """Drop those that have not begun, and wait for the others. An interruption is raised after that."""
    try:
        for job in [job for job in jobs if not job.drop()]:
            job.wait()
    except BaseException:
        _end(jobs)
        raise


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
