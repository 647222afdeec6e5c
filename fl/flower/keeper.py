"""Ends the processes of a local network when the program that started them has ended for any reason.

A program that is killed by SIGKILL cannot stop its children. So this small process runs beside it and holds the reading
end of a pipe. Only the program holds the writing end: when the program ends, for any reason, this process kills every
process that carries the network's mark. Forked children hold the writing end too until they run a program of their own,
so none is overlooked. (Linux's parent-death signal is not enough: it follows the thread that forked, not the process,
and a grandchild in a session of its own does not get it.)

Linux only. Runs as a file, without this package: it needs only the standard library and starts fast.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "SECAGG_LOCAL_NETWORK"  # in the environment of every process of a network; its children inherit it
_PATIENCE_S = 60.0
_LOOK_S = 0.05


def marked(mark: str) -> list[int]:
    """Processes of this user that carry the mark, without this process and without zombies."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and _carries(pid, mark)]


def kill_marked(mark: str, patience_s: float = _PATIENCE_S) -> list[int]:
    """Kill every process that carries the mark, and those they start meanwhile; returns those that do not end."""
    deadline = time.monotonic() + patience_s
    while left := marked(mark):
        for pid in left:
            _kill(pid, mark)
        if time.monotonic() > deadline:
            return left
        time.sleep(_LOOK_S)
    return []


def _carries(pid: int, mark: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # another user's, or ended
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


def _kill(pid: int, mark: str) -> None:
    """Kill this process if it still carries the mark: its number may belong to another one by now."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _carries(pid, mark):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


class Keeper:
    """The process beside this one. `close` ends it; so does the end of this process."""

    def __init__(self, mark: str) -> None:
        reading, self._writing = os.pipe()  # inherited only as the keeper's standard input
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, mark],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                start_new_session=True,  # it must outlive the terminal
            )
        except BaseException:
            os.close(self._writing)
            raise
        finally:
            os.close(reading)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Let it kill the remaining processes, and wait until it ends."""
        os.close(self._writing)
        self._process.wait()


def main() -> None:
    """Wait for the end of standard input, then kill what carries the mark of the command line."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 4096):
        pass
    kill_marked(sys.argv[1])


if __name__ == "__main__":
    main()
