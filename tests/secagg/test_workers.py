"""Threads that contributions and sums share: every part is done, the first error is raised, nothing runs on behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from forked import in_a_child

from secagg import workers as module
from secagg.workers import Workers, rows_of_blocks

any_threads = pytest.mark.parametrize("threads", [1, 2, 3, 9])


@any_threads
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_every_number_is_in_one_part_and_parts_follow_each_other(threads: int, count: int) -> None:
    parts: list[tuple[int, int]] = []
    with Workers(threads) as workers:
        workers.over(count, lambda start, stop: parts.append((start, stop)))
    assert sorted(number for start, stop in parts for number in range(start, stop)) == list(range(count))
    assert len(parts) == max(1, min(threads, count))


@any_threads
def test_an_error_of_one_part_is_raised_once_every_other_part_has_ended(threads: int) -> None:
    begun, ended, all_begun = list[int](), list[int](), threading.Barrier(threads)

    def job(start: int, stop: int) -> None:
        all_begun.wait(60)
        if start == 0:
            raise ValueError("the first part")
        begun.append(start)
        time.sleep(0.05)  # longer than it takes to raise
        ended.append(start)

    with Workers(threads) as workers, pytest.raises(ValueError, match="the first part"):
        workers.over(threads, job)
    assert sorted(ended) == sorted(begun) == list(range(1, threads))


def test_an_error_of_another_thread_is_raised_too() -> None:
    def job(start: int, stop: int) -> None:
        if start:
            raise ValueError("the second part")

    with Workers(2) as workers, pytest.raises(ValueError, match="the second part"):
        workers.over(2, job)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("call", ["over", "leaving"])
def test_an_interruption_while_others_work_is_raised_once_they_have_ended(call: str) -> None:
    begun, ended = threading.Event(), []

    def long_job() -> None:
        begun.set()
        time.sleep(0.05)  # the caller waits for this job by now
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        ended.append("long")

    def part(start: int, stop: int) -> None:
        if start:
            long_job()

    def interrupted() -> None:
        with Workers(2) as workers:
            if call == "over":
                workers.over(2, part)
            else:
                workers.start(long_job)
                assert begun.wait(60)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended == ["long"]


def test_a_part_that_was_handed_over_when_an_error_came_is_not_begun_later(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    waiting: list[object] = []

    class NoSecondThread(ThreadPoolExecutor):
        def submit(self, job, /, *arguments, **named):  # as the executor: the job is in its queue before a thread is
            waiting.append(job)
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "_pool", lambda helpers: NoSecondThread(helpers))
    with Workers(2) as workers:
        with pytest.raises(RuntimeError, match="start new thread"):
            workers.over(2, lambda start, stop: done.append(start))
        with pytest.raises(RuntimeError, match="start new thread"):
            workers.start(lambda: done.append(7))
    for job in waiting:
        assert callable(job)
        job()
    assert len(waiting) == 2 and done == []


def test_leaving_waits_for_what_was_started_and_drops_what_was_not_begun() -> None:
    begun, free, done = threading.Event(), threading.Event(), []

    def long_job() -> None:
        begun.set()
        free.wait(60)
        done.append("long")

    def leave() -> None:
        with Workers(2) as workers:
            workers.start(long_job)
            workers.start(lambda: done.append("behind it"))
            assert begun.wait(60)
            threading.Timer(0.05, free.set).start()

    leave()
    assert done == ["long"]


def test_threads_stay_for_the_next_contribution_of_the_process() -> None:
    found: list[int] = []
    for _ in range(5):
        with Workers(2) as workers:
            found.append(workers.start(threading.get_ident)())
    assert len(set(found)) == 1 and threading.get_ident() not in found


def test_parties_in_several_threads_share_the_threads_and_all_end() -> None:
    sums = [0] * 8

    def party(number: int) -> None:
        for _ in range(50):
            parts: list[int] = []
            with Workers(2) as workers:
                workers.over(6, lambda start, stop, parts=parts: parts.append(sum(range(start, stop))))
            sums[number] += sum(parts)

    parties = [threading.Thread(target=party, args=(number,)) for number in range(8)]
    for each in parties:
        each.start()
    for each in parties:
        each.join(60)
    assert sums == [50 * 15] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_has_threads_of_its_own() -> None:
    workers = Workers(2)
    assert workers.start(lambda: 1)() == 1  # the parent's thread, which the child does not have
    child = os.fork()
    if child == 0:
        os._exit(0 if workers.start(lambda: 2)() == 2 and Workers(2).start(lambda: 3)() == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_waits_for_no_job_of_its_parent() -> None:
    begun, free = threading.Event(), threading.Event()
    workers = Workers(2)
    result = workers.start(lambda: begun.set() or free.wait(60))
    assert begun.wait(60)
    try:
        assert in_a_child(result).startswith("WrongState: a job on another thread: belongs to")
        assert in_a_child(workers.close) == "None"
    finally:
        free.set()
    assert result() is True


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_call_in_whose_middle_the_process_forks_does_not_wait_in_the_child() -> None:
    here, there = os.pipe()
    child = -1

    def part(start: int, stop: int) -> None:
        nonlocal child
        if start == 0:
            child = os.fork()
            if child == 0:
                signal.alarm(60)

    try:
        Workers(2).over(2, part)
        ended = "it returned"
    except BaseException as error:
        ended = type(error).__name__
    finally:
        if child == 0:
            os.write(there, ended.encode())
            os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        in_child = pipe.read().decode()
    os.waitpid(child, 0)
    assert (in_child, ended) == ("WrongState", "it returned")


def test_rows_of_blocks_are_told_by_block_and_primes() -> None:
    found = [(block, list(range(5))[primes]) for block, primes in rows_of_blocks(3, 12, 5)]
    assert found == [(0, [3, 4]), (1, [0, 1, 2, 3, 4]), (2, [0, 1])]
    assert not list(rows_of_blocks(4, 4, 2))
