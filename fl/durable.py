"""Files that survive a crash: replaced whole or not at all, and written by one process at a time.

Leaves to others: what the files mean (`fl.privacy`, `fl.run_folder`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content` so that after a crash, at any moment, it holds the old bytes or the new
    ones, complete.
    """
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append_durably(path: Path, line: bytes) -> None:
    """Append `line` and a newline to `path`, on disk when this returns. A crash can leave a torn last
    line.
    """
    with open(path, "ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`, which is created, alone. With `wait=False` raises `BlockingIOError` when
    another holds it.

    The lock is a file of its own, since what it guards is replaced; the system releases it when the process
    dies.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
