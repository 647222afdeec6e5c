"""Imports point one way, and the embeddable core stays small: no torch, no sockets, no pickle, no printing.

Sources are parsed, not grepped, so imports inside functions count and words in prose do not; two tests import the
package in a fresh interpreter and look at what came along.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CORE_DEPENDENCIES = {"numpy", "tenseal", "_sealapi_cpp", "cryptography", "blake3", "numba", "llvmlite", "secagg"}
ROLES = ("client", "aggregator", "keyholder")
CORE_FORBIDS = {
    # what the core must not do itself, although the standard library offers it
    "pickle": "no object graphs from bytes",
    "marshal": "no object graphs from bytes",
    "shelve": "no object graphs from bytes",
    "random": "randomness comes from the operating system",
    "socket": "the core opens no socket",
    "socketserver": "the core opens no socket",
    "ssl": "the core opens no socket",
    "http": "the core opens no socket",
    "urllib": "the core opens no socket",
    "asyncio": "the core does no I/O",
    "subprocess": "the core starts no process",
    "multiprocessing": "the core starts no process",
    "logging": "the core prints and logs nothing",
}


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"no sources of {package} at {ROOT}"
    return found


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.AST) -> set[str]:
    """Full names of every imported module, wherever the import stands, `import_module` with a constant included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node).endswith("import_module") and _constant(node):
            names.add(_constant(node))
    return names


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _constant(node: ast.Call) -> str:
    first = node.args[0] if node.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def roots(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] for name in imported(tree)}


def importers(package: str, of: set[str]) -> set[str]:
    """Names of the files of `package` that import any of `of`."""
    return {path.relative_to(ROOT / package).as_posix() for path in sources(package) if roots(tree_of(path)) & of}


def calls(tree: ast.AST) -> Iterator[str]:
    return (_called(node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def core_violations(tree: ast.AST) -> list[str]:
    """What a source of `secagg` must not contain."""
    found = [f"imports {name}" for name in roots(tree) - CORE_DEPENDENCIES - set(sys.stdlib_module_names)]
    found += [f"imports {name}: {CORE_FORBIDS[name]}" for name in roots(tree) & set(CORE_FORBIDS)]
    banned = ("print", "eval", "exec", "input", "breakpoint")
    found += [f"calls {name}" for name in calls(tree) if name in banned or name.startswith(("np.random.", "sys.std"))]
    return found


# --- the rules can fail ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from pandas import DataFrame",
        "def f():\n    import requests",
        "import fl.learning.model",
        "from demos import round",
        "import pickle",
        "from socket import socket",
        "import urllib.request",
        "import random",
        "print('sum')",
        "np.random.default_rng()",
        "sys.stdout.write('x')",
        "eval(data)",
        "importlib.import_module('torch')",
    ],
)
def test_a_planted_violation_is_found(source: str) -> None:
    assert core_violations(ast.parse(source))


@pytest.mark.parametrize("source", ["import numpy as np", "from secagg.plan import RoundPlan", '"""torch, print(x)"""'])
def test_what_is_allowed_is_not_flagged(source: str) -> None:
    assert core_violations(ast.parse(source)) == []


# --- the rules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sources("secagg"), ids=lambda path: path.name)
def test_the_core_needs_only_its_four_dependencies_and_does_no_io_of_its_own(path: Path) -> None:
    assert core_violations(tree_of(path)) == []


def test_only_ckks_imports_tenseal() -> None:
    assert importers("secagg", {"tenseal", "_sealapi_cpp"}) == {"ckks.py"}


def test_only_the_compiled_loops_import_numba() -> None:
    assert importers("secagg", {"numba", "llvmlite"}) == {"compiled.py", "kernels_numba.py"}


def test_only_one_module_imports_blake3() -> None:
    assert importers("secagg", {"blake3"}) == {"hashing.py"}


@pytest.mark.parametrize("kind", ["", "robust_"], ids=["plain", "robust"])
@pytest.mark.parametrize("role", ROLES)
def test_a_role_imports_no_other_role(role: str, kind: str) -> None:
    others = {f"secagg.{each}{other}" for each in ("", "robust_") for other in ROLES if other != role}
    assert imported(tree_of(ROOT / "secagg" / f"{kind}{role}.py")) & others == set()


def test_federated_learning_reaches_the_core_through_one_room() -> None:
    """fl/flower is an app of its own, which carries the roles' messages and has a pyproject of its own.

    Loops outside the room take nothing from the core but how they are compiled.
    """
    inside = {name for name in importers("fl", {"secagg"}) if not name.startswith("flower/")}
    on_a_device = {f"secure/device_{each}.py" for each in ("packing", "ring", "rounds")}
    in_memory = {f"secure/{each}.py" for each in ("cost", "session", "robust", "rule_settings")}
    loops = {"trees/compiled.py", "counts/recursion_numba.py"}
    assert inside == in_memory | on_a_device | loops
    for name in loops:
        taken = {each for each in imported(tree_of(ROOT / "fl" / name)) if each.startswith("secagg")}
        assert taken == {"secagg.compiled", "secagg.compiled.compiled"}


# The rooms of `fl`. Each may import what stands before it; the single files stand before all rooms.
ROOMS = ("data", "privacy", "learning", "secure", "trees", "counts", "rounds", "runs", "reports", "assist", "flower")


def room_of(parts: tuple[str, ...]) -> int:
    """Place of a module in the order of rooms: 0 for a single file beside them."""
    return 1 + ROOMS.index(parts[0]) if parts and parts[0] in ROOMS else 0


def upward_imports(path: Path, tree: ast.AST) -> list[str]:
    """What a file of `fl` imports from rooms after its own."""
    own = room_of(path.relative_to(ROOT / "fl").with_suffix("").parts)
    names = sorted(name for name in imported(tree) if name.startswith("fl."))
    return [name for name in names if room_of(tuple(name.split(".")[1:])) > own]


@pytest.mark.parametrize("path", sources("fl"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_of_fl_imports_only_what_stands_before_it(path: Path) -> None:
    if path != ROOT / "fl" / "__init__.py":  # the door, which loads what is named only when it is asked for
        assert upward_imports(path, tree_of(path)) == []


def test_importing_fl_brings_no_framework_along() -> None:
    assert fresh_interpreter(f"import sys, fl; print([name for name in {HEAVY[:-2]} if name in sys.modules])") == "[]"


def test_an_import_from_a_later_room_would_be_found() -> None:
    tree = ast.parse("from fl.runs.folder import RunFolder\nfrom fl.errors import RunFolderError")
    assert upward_imports(ROOT / "fl" / "rounds" / "play.py", tree) == ["fl.runs.folder", "fl.runs.folder.RunFolder"]
    assert upward_imports(ROOT / "fl" / "reports" / "cards.py", tree) == []


def test_every_folder_of_fl_is_a_room() -> None:
    folders = {path.parent.name for path in (ROOT / "fl").glob("*/__init__.py")}
    assert folders == set(ROOMS)


def test_federated_learning_knows_neither_demos_nor_benchmarks() -> None:
    assert importers("fl", {"demos", "benchmarks"}) == set()


def swallowing_handlers(tree: ast.AST) -> list[int]:
    """Lines of handlers that catch everything and do not raise it again."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            if broad and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("path", sources("secagg"), ids=lambda path: path.name)
def test_nothing_catches_everything_without_raising_it_again(path: Path) -> None:
    assert swallowing_handlers(tree_of(path)) == []


def test_a_swallowing_handler_is_found() -> None:
    assert swallowing_handlers(ast.parse("try: f()\nexcept Exception: pass")) == [2]
    assert swallowing_handlers(ast.parse("try: f()\nexcept: undo()")) == [2]
    assert swallowing_handlers(ast.parse("try: f()\nexcept BaseException:\n    undo()\n    raise")) == []


# --- what an interpreter sees ---------------------------------------------------------------------------------------


def fresh_interpreter(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = ("torch", "pandas", "sklearn", "openai", "flwr", "requests", "opacus", "pyarrow", "matplotlib", "fl", "demos")


def test_importing_every_part_of_the_core_brings_no_framework_along() -> None:
    parts = [f"import secagg.{path.stem}" for path in sources("secagg") if path.stem != "__init__"]
    program = "\n".join(["import sys", *parts, f"print([name for name in {HEAVY} if name in sys.modules])"])
    assert fresh_interpreter(program) == "[]"


@pytest.mark.parametrize("module", ["aggregator", "robust_aggregator"])
def test_the_aggregator_loads_no_crypto_library(module: str) -> None:
    program = f"import sys, secagg.{module}; print('tenseal' in sys.modules, 'secagg.ckks' in sys.modules)"
    assert fresh_interpreter(program) == "False False"


def _round_under(hook: str) -> Callable[[], str]:
    program = f"""
import sys
import numpy as np
events = []
def hook(event, arguments):
    {hook}
import secagg
sys.addaudithook(hook)
plan = secagg.plan_round(length=100, max_clients=3)
secagg.run_round([np.zeros(100)] * 3, plan=plan, quorum=3)
print(events)
"""
    return lambda: fresh_interpreter(program)


def test_a_whole_round_in_process_opens_no_socket_and_starts_no_process() -> None:
    hook = "if event.split('.')[0] in ('socket', 'subprocess') or event == 'os.system': events.append(event)"
    assert _round_under(hook)() == "[]"


def test_the_audit_hook_of_the_test_above_sees_what_it_looks_for() -> None:
    assert _round_under("if event == 'import' and arguments[0] == 'secagg.ckks': events.append('seen')")() == "['seen']"
