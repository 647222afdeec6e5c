"""Checks of the files that hold a key or a log: only their user may have access.

With a link, somebody else may choose the file, or a backup or another user may know it by a second name. A wider mode
lets others read or write it. Both are refused before a byte is read, with a message that says what to do. Not checked:
who owns the file and who may write into its folder. Keep keys and logs in a folder that only their user can write to,
because anybody who can write there can exchange them.
"""

from __future__ import annotations

import os
import stat
from shlex import quote

MODE = 0o600


def refusal(path: str, status: os.stat_result, *, any_mode: bool = False) -> str | None:
    """Why a file with this `lstat` is not to be used, and what to do; None when the file may be used.

    any_mode: accept every mode and refuse only links and special files, for files that are read and hold no secret.
    """
    if stat.S_ISLNK(status.st_mode):
        return f"{path}: is a symbolic link; name the file itself"
    if not stat.S_ISREG(status.st_mode):
        return f"{path}: is not a regular file; choose another one"
    if any_mode:
        return None
    if status.st_nlink > 1:
        return (
            f"{path}: has {status.st_nlink} names (hard links), expected 1; remove the others, or move it away and "
            f"copy it back: mv {quote(path)} {quote(path + '.old')} && cp -p {quote(path + '.old')} {quote(path)}"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode != MODE:
        others = "readable by others" if mode & 0o044 else "writable by others" if mode & 0o022 else "an unusual mode"
        return f"{path}: {others} (mode {mode:o}); expected {MODE:o}: chmod {MODE:o} {quote(path)}"
    return None
