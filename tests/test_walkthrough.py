"""The walk-through and the README: every command runs, as it stands in the document or as a shorter one of its kind."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import click
import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from demos.__main__ import cli

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "walkthrough.md"
README = ROOT / "README.md"
PYTHON = re.compile(r"(?:\.venv/bin/)?python -m (demos|benchmarks) ")


def fences(text: str, languages: tuple[str, ...]) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def command_lines(text: str, languages: tuple[str, ...]) -> list[str]:
    """Commands in the fences of these languages, their lines joined, without remarks."""
    lines = "".join(fences(text, languages)).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if PYTHON.match(line)]


def notebooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("notebook", ROOT / "docs" / "notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(line: str) -> None:
    """Let click read a command of `demos` without running it. Raises `click.UsageError`."""
    words = shlex.split(PYTHON.sub("", line).split(" > ")[0])
    command: click.Command = cli
    context = click.Context(cli, info_name="demos")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"no command {words[0]}")
        command, words = found, words[1:]
    command.make_context("demos", list(words))


LINES = [line for line in command_lines(PAGE.read_text(), ("bash",)) + command_lines(README.read_text(), ("",))]


# --- what every run of the suite looks at ----------------------------------------------------------------------------


@pytest.mark.parametrize("line", [line for line in LINES if " -m demos " in line])
def test_a_command_of_the_documents_has_options_that_exist(line: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    parse(line)


@pytest.mark.parametrize(
    "line", ["python -m demos scoring x", "python -m demos plan --lenght 5", "python -m demos score"]
)
def test_a_command_that_does_not_exist_would_be_found(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(line)


def test_the_walk_through_has_ten_steps_and_each_has_a_command() -> None:
    steps = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    numbered = [step for step in steps if re.match(r"\d+\. ", step)]
    assert [int(step.split(".")[0]) for step in numbered] == list(range(1, 11))
    assert all(fences(step, ("bash",)) for step in numbered)


def test_the_notebook_holds_all_prose_and_all_commands() -> None:
    text = PAGE.read_text()
    cells = notebooks().notebook_of(text).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert code == [notebooks().PLAIN, *(f"%%bash -e\n{block.rstrip()}" for block in fences(text, ("bash",)))]
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for line in re.sub(r"^```bash\n.*?^```\n", "", text, flags=re.DOTALL | re.MULTILINE).splitlines():
        assert line.split("](")[0] in prose
    assert "](../docs/data.md)" in prose and "](../examples/scoring_server.py)" in prose
    nbformat.validate(notebooks().notebook_of(text))


def test_an_output_keeps_its_first_and_last_lines() -> None:
    shortened, lines = notebooks().shortened, [f"line {number}\n" for number in range(100)]
    assert shortened("".join(lines[:25])) == "".join(lines[:25])
    assert shortened("".join(lines)).splitlines() == [
        *(line.strip() for line in lines[:12]), "[76 lines]", *(line.strip() for line in lines[-12:])
    ]  # fmt: skip


# --- what takes minutes ----------------------------------------------------------------------------------------------


@pytest.mark.long
def test_every_command_of_the_walk_through_runs(tmp_path: Path) -> None:
    module = notebooks()
    notebook = module.run(module.notebook_of(PAGE.read_text()), tmp_path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert len(nbformat.writes(notebook)) < 100_000  # bytes: outputs stay small
    with open(tmp_path / "scores.csv", newline="") as file:
        scored = list(csv.DictReader(file))
    assert len(scored) == 500
    assert all(0 <= float(row[name]) <= 1 for row in scored for name in ("score", "calibrated"))
    with open(tmp_path / "scores.csv.rejects.csv", newline="") as file:
        (rejected,) = csv.DictReader(file)
    assert rejected["line"] == "502" and rejected["reason"]
    assert json.loads((tmp_path / "runs" / "private" / "thresholds.json").read_text())["rule"]
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "fraud.onnx").stat().st_size > 1000
    said = "".join(output.get("text", "") for output in code[-1].outputs)
    assert "equal at all banks" in said and " 0 left" in said


@pytest.mark.long
def test_a_notebook_prints_no_bars_and_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    module = notebooks()
    text = 'a\n\n```bash\nfor i in $(seq 99); do echo $i; echo x >&2; done; echo "<$FORCE_COLOR>"\n```\n'
    cells = module.run(module.notebook_of(text), tmp_path).cells
    said = {output.name: output.text for output in cells[-1].outputs}
    assert said["stdout"].splitlines()[-1] == "<>" and "[76 lines]" in said["stdout"] and len(said) == 2
    with pytest.raises(CellExecutionError):
        module.run(module.notebook_of("```bash\nfalse\necho on\n```\n"), tmp_path)


SHORTER: dict[str, Callable[[str], str | None]] = {
    # The command in the README, by its beginning, and what runs here in its place. None: another test runs it.
    "demos attack --all": lambda _: None,  # tests/test_demos_attack.py
    "benchmarks run --preset quick": lambda _: None,  # tests/benchmarks, on a quiet machine (make test-benchmarks)
    "benchmarks report": lambda line: line.replace("benchmarks/results", str(ROOT / "benchmarks" / "results")),
    "demos round": lambda line: line.replace("1000000", "20000"),
    "demos train": lambda line: f"{line} --customers 300 --rounds 2",
    "demos evaluate": lambda line: line,
    "demos ablate": lambda line: line.replace("--seeds 3", "--seeds 1 --components history"),
    "demos card": lambda line: line,
    "demos schema --simulate": lambda line: line.replace("600", "100"),
    "demos schema --init": lambda line: line,
    "demos --help": lambda line: line,
}


def shorter(line: str) -> str | None:
    """What runs in place of a command of the README. Raises `LookupError` for one that nobody has thought of."""
    said = PYTHON.sub(r"\1 ", line)
    for beginning, change in SHORTER.items():
        if said.startswith(beginning):
            return change(line)
    raise LookupError(f"README: {line}: say in {__name__} what runs in its place")


def test_every_command_of_the_readme_has_something_that_runs_in_its_place() -> None:
    lines = command_lines(README.read_text(), ("",))
    assert len(lines) >= 8
    assert len([shorter(line) for line in lines]) == len(lines)
    with pytest.raises(LookupError):
        shorter("python -m demos nothing")


def test_every_target_of_make_in_the_readme_exists() -> None:
    made = re.findall(r"^(?:`?)make (\w[\w-]*)", README.read_text(), re.MULTILINE)
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(made) <= set(targets)


@pytest.mark.long
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    for line in command_lines(README.read_text(), ("",)):
        if (run := shorter(line)) is not None:
            command = PYTHON.sub(rf"{shlex.quote(sys.executable)} -m \1 ", run)
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{run}\n{done.stderr[-3000:]}"
    assert (tmp_path / "report.html").exists() and (tmp_path / "schema.toml").exists()
