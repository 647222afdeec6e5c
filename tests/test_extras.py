"""Without an extra: one line that names it and the command for a checkout, and never an index or a traceback."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fl.extras import CORE, EXTRAS, advice
from fl.extras import command as install

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
sys.argv = {command!r}
from {module} import main
main()
"""
COMMANDS = [
    ("click", "demos", "demos", ["demos", "plan"]),
    ("rich", "demos", "demos", ["demos", "plan"]),
    ("torch", "fl", "demos", ["demos", "train", "--rounds", "1"]),
    ("pandas", "fl", "demos", ["demos", "score", "run", "file.csv"]),
    ("pydantic", "assist", "demos", ["demos", "assist", "synth", "--scenario", "x", "--rows", "2"]),
    ("flwr", "flower", "demos", ["demos", "network"]),
    ("captum", "examine", "demos", ["demos", "evaluate", "run"]),
    ("onnx", "export", "demos", ["demos", "export", "run", "--onnx", "{page}"]),
    ("plotly", "examine", "demos", ["demos", "ablate", "run.toml"]),
    ("click", "demos", "benchmarks", ["benchmarks", "run"]),
    ("matplotlib", "benchmarks", "benchmarks", ["benchmarks", "report", "{results}", "--html", "{page}"]),
    ("jinja2", "benchmarks", "benchmarks", ["benchmarks", "report", "{results}", "--html", "{page}"]),
    ("numba", "fast", "benchmarks", ["benchmarks", "floor"]),
]


@pytest.mark.parametrize(("package", "extra", "program", "command"), COMMANDS)
def test_a_command_without_its_extra_names_it_and_the_command_for_a_checkout(
    tmp_path: Path, package: str, extra: str, program: str, command: list[str]
) -> None:
    results = next(iter(sorted((ROOT / "benchmarks" / "results").rglob("*.json"))), ROOT / "setup.cfg")
    command = [part.format(results=results, page=tmp_path / "page.html") for part in command]
    code = HIDDEN.format(packages={package}, command=command, module=f"{program}.__main__")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert install(extra) in " ".join(done.stderr.split()), done.stderr


def test_every_package_of_every_extra_has_its_advice() -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    imported = {"scikit-learn": "sklearn", "xgboost-cpu": "xgboost"}
    for extra, packages in EXTRAS.items():
        lines = config["options.extras_require"][extra].split()
        names = [re.split(r"[\[<>=,]", line)[0] for line in lines if not line.startswith("%")]
        assert {imported.get(name, name) for name in names} <= set(packages), extra
        for package in packages:
            assert install(extra) in advice(ModuleNotFoundError("no", name=f"{package}.part"))
    assert all("pip install -e ." in advice(ModuleNotFoundError("no", name=package)) for package in CORE)
    with pytest.raises(ModuleNotFoundError):
        advice(ModuleNotFoundError("no", name="fl.no_such_module"))


def test_nothing_suggests_to_install_the_project_from_an_index() -> None:
    """It is on none: whoever takes the name there gets what was asked for."""
    found = []
    for path in ROOT.rglob("*"):
        inside = path.relative_to(ROOT).parts
        if path.suffix not in (".py", ".md", ".toml", ".cfg", ".txt", ".conf") or inside[0].startswith("."):
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"(install|requires?)\s+(-\S+\s+)*['\"]?secagg(-flower)?(\[|==|['\"\s]|$)", line):
                found.append(f"{path.relative_to(ROOT)}: {line.strip()}")
    assert [line for line in found if not line.startswith("tests/test_extras.py")] == []
