"""An object that holds round secrets or an open log belongs to the process that made it.

`os.fork()` copies memory. Two copies of a client would seal two updates under the same masks (their difference is then
readable), two copies of a key holder would release two sums of one step, and two copies of a log would write into one
file under one lock. So every role, log and key of one round remembers its process, and raises `WrongState` in any other
one. Identities and encryptors do not: Ed25519 signatures are deterministic (RFC 8032), and every encryption draws from
the operating system when it is called.

# Strategy: the mark of a process is an object that a fork hook replaces, compared by identity, so that a process
# identifier that the system hands out again means nothing. The identifier is compared as well, for a fork by native
# code that runs no hook of Python's. Threads of one process share its mark. What cannot be seen from inside is a
# process that is restored twice from one image, or a cloned virtual machine.
"""

from __future__ import annotations

import os

from secagg.errors import WrongState

_mark = object()


def _renew() -> None:
    global _mark
    _mark = object()


if hasattr(os, "register_at_fork"):  # no fork, no hook
    os.register_at_fork(after_in_child=_renew)


class Owner:
    """The process that made this object. what: the object's name in messages."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._mark, self._process = _mark, os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this process is the one."""
        return self._mark is _mark and self._process == os.getpid()

    def require(self) -> None:
        """Raise `WrongState` in any other process."""
        if not self.is_here:
            raise WrongState(
                f"{self._what}: belongs to process {self._process}, but was called in {os.getpid()}: make a new one in "
                "this process, and fork only before a round starts"
            )
