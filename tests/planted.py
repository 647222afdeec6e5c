"""Faults planted into processes of the real code: they strike at a known line, so that no test waits for its moment.

A folder with a `sitecustomize.py` goes to the front of PYTHONPATH; every Python process of the test runs that file
before anything else. `PLANTER` changes a module as soon as it is imported, `killed_after_write` ends a process with
SIGKILL once it has a certain file on disk.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


def with_path(folder: Path) -> dict[str, str]:
    """This environment, with a folder whose sitecustomize.py every Python process runs first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def killed_after_write(folder: Path, pattern: str, times: int, command: list[str]) -> None:
    """Run `python command...`, which dies of SIGKILL right after the `times`-th durable write of a matching path.

    folder: where the planted file may lie. pattern: a regular expression, searched in the path's text. A write is
    durable when `os.fsync` of the file, or `os.replace` onto it, has returned.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_KILLED_AFTER_WRITE.format(pattern=pattern, times=times))
    done = subprocess.run(
        [sys.executable, *command], env=with_path(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == -signal.SIGKILL, f"the process ended by itself: {done.stderr[-2000:]}"


PLANTER = '''
"""Changes a module of the real code in the processes of one test, as soon as it is imported."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder


class Planter(MetaPathFinder):
    def __init__(self, module, plant):
        self.module, self.plant = module, plant

    def find_spec(self, name, path=None, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.plant(module)

        spec.loader.exec_module = exec_module
        return spec
'''

_KILLED_AFTER_WRITE = """
import os
import re
import signal

left = {times}


def counted(path):
    global left
    left -= re.search(r"{pattern}", str(path)) is not None
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def fsync(descriptor, honest=os.fsync):
    honest(descriptor)
    counted(os.readlink(f"/proc/self/fd/{{descriptor}}"))


def replace(source, target, honest=os.replace, **options):
    honest(source, target, **options)
    counted(target)


os.fsync, os.replace = fsync, replace
"""
