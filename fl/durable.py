"""Write files so that a crash leaves the old content or the new one, complete; one process writes at a time.

All code that writes a file uses this module. A file is first written under an unpredictable name in its folder, and
then renamed. A link or a half-written file at its path is therefore neither followed nor filled. Anything but a
regular file (a device, a pipe, a folder, a link) is never replaced, appended to or locked.

Leaves to others: what the files mean (`fl.privacy.budget`, `fl.runs.folder`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fl.errors import FileRefused

_NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o600


def file_name(bank: str) -> str:
    """A name for `bank`'s files: readable, and different for every bank, whatever characters its name has."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", bank)[:40]
    return f"{readable}-{hashlib.sha256(bank.encode()).hexdigest()[:8]}"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path`, complete and on disk, when the block ends.

    When the block raises, `path` stays as it was and nothing is left beside it.

    A new file gets the mode of the file that it replaces. Raises `FileRefused` when `path` is not a regular file.
    """
    mode = _mode_of(path)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666 if mode is None else _PRIVATE
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        _mode_of(path)  # again, since the block may have taken hours
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_durably(path: Path, content: bytes) -> None:
    """Replace `path` by `content`.

    After a crash, at any moment, `path` holds the old bytes or the new ones, complete. Raises `FileRefused` as
    `replacing` does.
    """
    with replacing(path) as file:
        file.write(content)


def replace_json(path: Path, content: Any) -> None:
    """Replace `path` by `content` as indented JSON, as `replace_durably` does.

    Raises `ValueError` for what JSON does not have, NaN included.
    """
    replace_durably(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


@dataclass(frozen=True)
class JsonLines:
    """A file of one JSON object a line that is only appended to. A crash can tear its last line."""

    path: Path

    def append(self, line: bytes) -> None:
        """Append a JSON object on a line of its own, even after a torn line. It is on disk when this returns.

        Raises `FileRefused` when `path` exists and is not a regular file.
        """
        with os.fdopen(_opened(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "ab") as file:
            size = os.fstat(file.fileno()).st_size
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" * torn + line + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def lines(self) -> list[bytes]:
        """The lines of the file, a torn line included, without newlines; none where there is no file."""
        return [line for line in self._content().split(b"\n") if line]

    def read(self, first: int | None = None, *, shared: bool = False) -> list[dict[str, Any]]:
        """The objects of the `first` lines (None: of all), without a torn one.

        A torn line is a last line without a newline that is not JSON. `shared`: several processes write the file and
        any of them may be killed, so torn lines may be anywhere. Raises `ValueError` naming any other line that is not
        a JSON object.
        """
        objects, content = [], self._content()
        for number, line in enumerate(content.split(b"\n")[:first], start=1):
            if not line:
                continue
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError(f"expected an object, got {type(entry).__name__}")
            except (ValueError, RecursionError) as fault:
                if not shared and number <= content.count(b"\n"):
                    raise ValueError(f"{self.path}: line {number} is not a JSON object ({fault})") from fault
            else:
                objects.append(entry)
        return objects

    def _content(self) -> bytes:
        return self.path.read_bytes() if self.path.exists() else b""

    def keep(self, first: int) -> None:
        """Remove all lines after the `first` lines."""
        kept = b"".join(line + b"\n" for line in self.lines()[:first])
        if kept != self._content():
            replace_durably(self.path, kept)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` exclusively; it is created when it does not exist.

    With `wait=False`, raises `BlockingIOError` when another process holds it. Raises `FileRefused` when `path` exists
    and is not a regular file.

    The lock is a separate file because the file that it guards is replaced. The system releases the lock when the
    process ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(_opened(path, os.O_RDWR | os.O_CREAT), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _opened(path: Path, flags: int) -> int:
    """A descriptor of a regular file; a pipe without a reader cannot make this wait."""
    _mode_of(path)
    descriptor = os.open(path, flags | os.O_NONBLOCK | _NO_LINK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was replaced after `_mode_of` looked
        os.close(descriptor)
        raise FileRefused(f"{path}: expected a regular file, got another kind of file; choose another name")
    return descriptor


def _mode_of(path: Path) -> int | None:
    """Permissions of the regular file `path`; None when there is nothing. Raises `FileRefused`."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise FileRefused(
            f"{path}: expected a regular file or none, got {_kind(status.st_mode)}; nothing was written: choose "
            "another name, or remove it yourself"
        )
    return stat.S_IMODE(status.st_mode)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"))
    return next((name for is_one, name in kinds if is_one(mode)), "a device or a socket")
