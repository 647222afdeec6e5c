"""Starts, watches and stops the processes of a local network, with all their descendants.

Flower's programs start further programs in new sessions, so a process group is not enough. Every process gets a mark
in its environment, which children inherit; `stop_all` searches /proc for the mark and ends every process that has it.
If this process is killed, its keeper (`keeper.py`) does the same. Linux only. Processes without the mark are never
ended.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fl.flower.certificates import LOCALHOST
from fl.flower.errors import NetworkError
from fl.flower.keeper import MARK, Keeper, kill_marked, marked
from fl.text import printable

_GRACE_S = 5.0


def program(name: str) -> str:
    """The path of a console script of this interpreter's environment."""
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port on 127.0.0.1 on which no process listens now."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


class Processes:
    """Named processes with a common mark. logs: folder for what each of them prints."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs = logs
        self._mark = secrets.token_hex(8)
        # Entries of the caller's environment that could name a key, a proxy or a telemetry endpoint are not passed on.
        kept = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV") if name in os.environ
        }
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        self._environment = {**kept, "PATH": path, **environment, MARK: self._mark}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._keeper: Keeper | None = None  # beside the first process
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process under a name that is free. Its output goes to logs/<name>.txt."""
        if self.alive(name):
            raise NetworkError(f"{name} runs already: stop it first")
        if self._keeper is None:
            self._keeper = Keeper(self._mark)
        with open(self.output(name), "ab") as output:
            self._running[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self._environment, **(environment or {})},
                start_new_session=True,  # Ctrl-C reaches only the caller, which then stops everything in order
            )

    def alive(self, name: str) -> bool:
        process = self._running.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def output(self, name: str) -> Path:
        """The file with the process's output."""
        return self._logs / f"{name}.txt"

    def tail(self, name: str, characters: int = 800) -> str:
        """The end of its output."""
        path = self.output(name)
        said = path.read_text(encoding="utf-8", errors="replace")[-characters:] if path.exists() else ""
        return printable(said, keep="\n")

    def require_alive(self, names: Sequence[str]) -> None:
        """Raise `NetworkError`, with its last lines, for the first process that has ended."""
        for name in names:
            if not self.alive(name):
                raise NetworkError(f"{name} ended: {self.tail(name)}")

    def wait_for_port(self, name: str, port: int, timeout_s: float) -> None:
        """Wait until a process listens. Raises `NetworkError`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.require_alive([name])
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((LOCALHOST, port)) == 0:
                    return
            time.sleep(0.1)
        raise NetworkError(f"{name} does not listen on port {port} after {timeout_s:g} s: {self.tail(name)}")

    def kill(self, name: str) -> None:
        """End a process and its descendants at once, as a power cut would."""
        process = self._running.pop(name)
        for pid in [process.pid, *_descendants(process.pid)]:
            _send(pid, signal.SIGKILL)
        process.wait()

    def stop(self, name: str) -> None:
        """Ask a process to end, and end it when it does not."""
        process = self._running.pop(name)
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        """End every process that carries the mark; returns when none is left."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE_S
        while time.monotonic() < deadline and any(process.poll() is None for process in self._running.values()):
            time.sleep(0.05)
        for process in self._running.values():
            process.kill()
            process.wait()
        self._running.clear()
        left = kill_marked(self._mark, _GRACE_S)
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
        if left:
            raise NetworkError(f"processes {left} of this network cannot be ended: end them by hand")

    def marked(self) -> list[int]:
        """Processes that carry this network's mark."""
        return marked(self._mark)


def _descendants(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    children = [int(child) for child in listed]
    return children + [each for child in children for each in _descendants(child)]


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
