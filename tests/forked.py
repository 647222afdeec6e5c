"""A real `os.fork()`, and what a piece of work comes to in the child."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def in_a_child(work: Callable[[], object]) -> str:
    """The value of `work()` in a forked copy of this process as text, or the name and text of what it raised."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)  # a child that hangs dies, and its parent reads no answer
            try:
                answer = repr(work())
            except BaseException as error:  # whatever it is, the parent is told and the child ends here
                answer = f"{type(error).__name__}: {error}"
            os.write(there, answer.encode()[:4096])
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer
