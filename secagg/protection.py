"""Protects a process's memory: it leaves no core file, and no other process of the same user can read it.

A core file is a copy of every key in the process, and a debugger of the same user can read the keys while the process
runs. Both are switched off for a whole process, permanently. The embedding program has to decide this: it may need a
profiler, or share graphics memory with another process. So nothing here runs on import or when a role is made. Whoever
starts a process for a party calls `protect_process` first, as all programs of this project do that hold a party's keys.
"""

from __future__ import annotations

import ctypes
import os
import sys

from secagg.errors import LocalError

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4  # linux/prctl.h


def protect_process() -> bool:
    """Make this process undumpable (Linux, prctl(2): PR_SET_DUMPABLE 0) and core files empty (RLIMIT_CORE 0).

    Call it before keys are made or read. From then on no process of the same user, without CAP_SYS_PTRACE, can attach
    to this one or read its memory, its environment or its open files under /proc, and no crash leaves a core file. The
    process itself runs on as before. A forked child stays protected; a program it starts keeps the limit on core files
    and is otherwise its own. No call here undoes it: to use a profiler or debugger, start the process without it.

    Returns whether this system can do it: True on Linux, False elsewhere, where nothing is changed. Raises `LocalError`
    where Linux refuses, for instance in a sandbox that filters prctl.
    """
    if not sys.platform.startswith("linux"):
        return False
    import resource  # Unix only

    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if done != 0 or libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LocalError(f"the kernel does not protect this process's memory ({reason}): allow prctl in the sandbox")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return True
