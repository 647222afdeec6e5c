"""A process that holds keys shows its memory to nobody and leaves no core file; and it works on as before."""

from __future__ import annotations

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")

SAY = """
import ctypes, resource
print("dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), "core", resource.getrlimit(resource.RLIMIT_CORE))
"""
PROTECTED = "dumpable 0 core (0, 0)"


def said(script: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@linux
def test_importing_the_package_and_making_roles_changes_nothing_for_the_embedding_program():
    before = said(SAY)
    assert before.startswith("dumpable 1")
    import_all = "import secagg; [getattr(secagg, name) for name in secagg.__all__]\n"
    assert said(import_all + "secagg.Identity.generate('a')\n" + SAY) == before


@linux
def test_a_protected_process_cannot_be_dumped_or_leave_a_core_file():
    protecting = "import secagg; assert secagg.protect_process() is True; assert secagg.protect_process()\n"
    assert said(protecting + SAY) == PROTECTED


@linux
def test_the_child_of_a_protected_process_is_protected():
    forking = "import os, secagg; secagg.protect_process()\nif os.fork(): os.wait(); os._exit(0)\n"
    assert said(forking + SAY) == PROTECTED


NOBODY_IN_A_ROUND = """
import os, resource, sys
import numpy as np
import secagg
plan = secagg.plan_round(length=100, max_clients=3)
updates = [np.full(100, 0.5)] * 3
secagg.run_round(updates, plan=plan, engine="seal")  # what is imported is imported
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
secagg.protect_process()
try:
    open("/proc/self/mem", "rb")
    print("a program of the same user reads its memory")
except PermissionError:
    result = secagg.run_round(updates, plan=plan, engine="seal")
    print("the round is right" if abs(result.average - 0.5).max() <= result.error_bound else result.average)
"""


@linux
def test_without_privileges_a_protected_process_still_encrypts_and_decrypts_through_files_in_memory():
    # /proc/self then belongs to root; the links in /proc/self/fd stay open to the process itself.
    assert said(NOBODY_IN_A_ROUND) == "the round is right"


@linux
def test_a_kernel_that_refuses_is_an_error_and_not_a_promise():
    refusing = (
        "import ctypes\n"
        "class Refusing:\n"
        "    def __init__(self, *_, **__): pass\n"
        "    def prctl(self, *_): return -1\n"
        "ctypes.CDLL = Refusing\n"
        "from secagg.errors import LocalError\n"
        "from secagg.protection import protect_process\n"
        "try: protect_process()\n"
        "except LocalError as error: print(error)\n"
    )
    assert "the kernel does not protect this process's memory" in said(refusing)


def test_elsewhere_it_says_that_it_did_nothing():
    elsewhere = "import sys; sys.platform = 'darwin'\nfrom secagg import protect_process\nprint(protect_process())"
    assert said(elsewhere) == "False"


COMMAND = """
import sys
from demos.__main__ import main
sys.argv = ["demos", "plan", "--length", "10", "--json"]
try:
    main()
except SystemExit:
    pass
"""
RESIDENT = """
import contextlib, io
from fl.flower import resident
with contextlib.redirect_stderr(io.StringIO()):
    try:
        resident.main(["--supernode", "127.0.0.1:1", "--secret-file", "missing", "--app", "none:none"])
    except SystemExit:
        pass
"""


@linux
@pytest.mark.parametrize("program", [COMMAND, RESIDENT], ids=["demos", "resident process of a party"])
def test_our_own_programs_that_hold_keys_are_protected(program):
    assert said(program + SAY) == PROTECTED
