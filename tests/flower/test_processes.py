"""Processes of a local network end with the program that started them, even one that is killed outright."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fl.flower.processes import Processes

LONGEST_S = 60  # a bound, not a wait: the tests go on as soon as what they wait for has happened

# Starts a child in a session of its own, which starts another one in a session of its own, as Flower's programs do.
GRANDCHILD = "import os, signal; os.setsid(); os.write(int({writing}), b'%d\\n' % os.getpid()); signal.pause()"
CHILD = """
import os, signal, subprocess, sys
os.write({writing}, b"%d\\n" % os.getpid())
subprocess.Popen([sys.executable, "-S", "-c", {grandchild!r}], pass_fds=[{writing}])
signal.pause()
"""
PROGRAM = """
import os, signal, sys
from pathlib import Path
import subprocess
popen = subprocess.Popen
def inheriting(*arguments, **options):
    return popen(*arguments, **options, pass_fds=[{writing}] if "-c" in arguments[0] else [])
subprocess.Popen = inheriting
from fl.flower.processes import Processes
running = Processes(Path({folder!r}), {{}})
running.start("child", [sys.executable, "-S", "-c", {child!r}])
os.write({writing}, b"%d\\n" % running._keeper.pid)
signal.pause()
"""


def ended(handles: list[int]) -> bool:
    """Whether all these processes (pidfds) end before the bound."""
    return all(select.select([handle], [], [], LONGEST_S)[0] for handle in handles)


def test_whatever_a_killed_program_started_ends_with_it(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = CHILD.format(writing=writing, grandchild=GRANDCHILD.format(writing=writing))
    code = PROGRAM.format(writing=writing, folder=str(tmp_path), child=child)
    program = subprocess.Popen([sys.executable, "-c", code], pass_fds=[writing])
    os.close(writing)
    handles: list[int] = []
    try:
        with os.fdopen(reading) as told:
            while len(handles) < 3:  # keeper, child, grandchild
                line = told.readline()
                assert line, "the program ended early"
                handles.append(os.pidfd_open(int(line)))
        program.kill()
        assert program.wait(LONGEST_S) == -signal.SIGKILL
        assert ended(handles)
    finally:
        program.kill()
        program.wait()
        for handle in handles:
            os.close(handle)


def test_stopping_ends_the_keeper_too(tmp_path: Path) -> None:
    running = Processes(tmp_path, {})
    running.start("one", [sys.executable, "-S", "-c", "import signal; signal.pause()"])
    assert running._keeper is not None
    handles = [os.pidfd_open(running.pid("one")), os.pidfd_open(running._keeper.pid)]
    running.stop_all()
    assert ended(handles) and running.marked() == []
    for handle in handles:
        os.close(handle)


def test_a_process_without_the_mark_is_left_alone(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
    try:
        running = Processes(tmp_path, {})
        running.start("one", [sys.executable, "-S", "-c", "import signal; signal.pause()"])
        assert running.marked() == [running.pid("one")]
        running.stop_all()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("times", [2])
def test_a_network_can_be_started_again_after_it_was_stopped(tmp_path: Path, times: int) -> None:
    running = Processes(tmp_path, {})
    for _ in range(times):
        running.start("one", [sys.executable, "-S", "-c", "import signal; signal.pause()"])
        assert running.alive("one")
        running.stop_all()
        assert not running.alive("one")
