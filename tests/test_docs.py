"""What the documents claim about tests, widths and states is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fl
import secagg
from fl.data.draft import draft_schema
from fl.data.simulate import Simulation, simulate
from fl.spreadsheet import csv_bytes
from secagg import states, wire
from secagg.messages import Abort, Contribution, EncryptedSum, Join, Offer, Release, Roster
from secagg.transcript import HEADER, VERSION

ROOT = Path(__file__).resolve().parents[1]
THREATS = (ROOT / "docs" / "threat-model.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def sections(text: str, marks: str) -> dict[str, str]:
    """Headings of one level, and what stands under each."""
    parts = re.split(rf"^{marks} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(text: str) -> list[list[list[str]]]:
    """Rows of cells of each table, without head and rule."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in each.splitlines()[2:]] for each in found]


# --- tests that are named --------------------------------------------------------------------------------------------


def named_tests(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


def exists(file: str, name: str) -> bool:
    path = ROOT / file
    return path.is_file() and re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("document", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_every_test_that_a_document_names_exists(document):
    text = (ROOT / "docs" / document).read_text()
    assert [f"{file}::{name}" for file, name in named_tests(text) if not exists(file, name)] == []


def test_a_test_that_does_not_exist_would_be_found():
    assert exists("tests/test_docs.py", "test_a_test_that_does_not_exist_would_be_found")
    assert not exists("tests/test_docs.py", "test_of_nothing")
    assert not exists("tests/missing.py", "test_of_nothing")


def test_every_promise_names_a_test():
    promises = sections(sections(THREATS, "##")["Promises"], "###")
    assert len(promises) == 10
    for title, text in promises.items():
        assert named_tests(text.split("Held by")[1]), title


def test_every_promise_of_private_runs_names_a_test():
    promises = sections(sections(THREATS, "##")["Promises of private runs"], "###")
    held = {title: text for title, text in promises.items() if title != "What private runs do not promise"}
    assert len(held) == 5
    for title, text in held.items():
        assert named_tests(text.split("Held by")[1]), title


@pytest.mark.parametrize("document", sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")))
def test_links_between_documents_lead_somewhere(document):
    path = ROOT / document
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("document", ["README.md", "docs/index.md"])
def test_the_example_that_a_reader_sees_first_runs(document, capsys):
    text = (ROOT / document).read_text()
    (example,) = re.findall(r"^```python\n(import numpy.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(example, document, "exec"), {})
    assert "+-" in capsys.readouterr().out


def test_commands_of_the_readme_name_the_python_that_make_installs_into():
    pythons = re.findall(r"(\S*)python -m (?:demos|benchmarks)", (ROOT / "README.md").read_text())
    assert len(pythons) >= 6
    assert {python.lstrip("`") for python in pythons} == {".venv/bin/"}


def test_the_example_of_training_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"^```python\n(import fl.*?)^```", text, re.DOTALL | re.MULTILINE)
    shorter = example.replace("epsilon=3", "epsilon=3, rounds=1, no_baselines=True")
    assert shorter != example
    monkeypatch.chdir(tmp_path)
    frame = simulate(Simulation(customers=200, fraud_share=0.03, seed=0))
    Path("transactions.csv").write_bytes(csv_bytes(frame))
    Path("schema.toml").write_text(draft_schema(Path("transactions.csv"), None))
    exec(compile(shorter, "README.md", "exec"), {})
    assert "of 500 flagged" in capsys.readouterr().out


def test_the_site_describes_every_public_name_at_its_home():
    described = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api" / "secagg.md").read_text(), flags=re.MULTILINE)
    homes = {f"{getattr(secagg, name).__module__}.{name}" for name in secagg.__all__ if name != "errors"}
    assert sorted(described) == sorted(homes | {"secagg.errors"})


def test_the_site_describes_every_public_name_of_fl():
    described = re.findall(
        r"^::: fl\.runs\.api\.(\w+)$", (ROOT / "docs" / "api" / "fl.md").read_text(), flags=re.MULTILINE
    )
    assert sorted(described) == sorted(fl.__all__)


# --- files, modules and lines ----------------------------------------------------------------------------------------

DOCUMENTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "fl" / "flower" / "deploy").glob("*.md")),
    ROOT / "README.md",
]
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
MADE_BY_COMMANDS = {"examples/*/examples.jsonl"}  # below runs/assist
RECORDS = {"secagg.wires"}  # a record of a Flower message


def named_files(text: str) -> set[str]:
    """Paths from the root of the repository, which may hold `*`."""
    paths = re.findall(r"(?<![\w/])(?:benchmarks|demos|examples|fl|secagg|tests)/[\w./*-]*\w", text)
    return set(paths) - MADE_BY_COMMANDS


def named_modules(text: str) -> set[str]:
    """Dotted names such as fl.data.stream.stream_file."""
    dotted = set(re.findall(r"(?<![\w/.])(?:benchmarks|demos|fl|secagg)(?:\.\w+)+", text))
    return {name for name in dotted if not name.endswith(".md")} - RECORDS


def leads_somewhere(dotted: str) -> bool:
    """Whether a name is a module, or is written in the module that the name before it leads to."""
    path = ROOT / dotted.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    parent = path.parent / "__init__.py" if path.parent.is_dir() else path.parent.with_suffix(".py")
    return parent.is_file() and re.search(rf"\b{path.name}\b", parent.read_text()) is not None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_and_module_that_a_document_names_exists(document):
    text = document.read_text()
    assert [name for name in sorted(named_files(text)) if not any(ROOT.glob(name))] == []
    assert [name for name in sorted(named_modules(text)) if not leads_somewhere(name)] == []


def test_a_file_or_module_that_does_not_exist_would_be_found():
    assert named_files("see `fl/nothing.py` and tests/flower/test_network_*.py.") == {
        "fl/nothing.py",
        "tests/flower/test_network_*.py",
    }
    assert named_modules("`fl.nothing.here`, docs/api/secagg.md") == {"fl.nothing.here"}
    assert leads_somewhere("fl.data.stream") and leads_somewhere("fl.data.stream.stream_file")
    assert not leads_somewhere("fl.stream") and not leads_somewhere("fl.data.stream.no_such_name")


def can_be_split(line: str) -> bool:
    """Rows of tables and names of tests cannot be split."""
    return not line.startswith("|") and "::test_" not in line


@pytest.mark.parametrize("document", [*DOCUMENTS, *DECISIONS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_of_documents_end_below_120_characters(document):
    assert [line for line in document.read_text().splitlines() if len(line) >= 120 and can_be_split(line)] == []


# --- widths ----------------------------------------------------------------------------------------------------------

PLAN = secagg.plan_round(length=100, max_clients=8)
MEMBERS = 5
KINDS = {
    "Offer": Offer,
    "Join": Join,
    "Roster": Roster,
    "Contribution": Contribution,
    "Sum": EncryptedSum,
    "Release": Release,
    "Abort": Abort,
}
PAYLOADS = {
    "public key": PLAN.params.ciphertext_bytes + 6 * 2 * PLAN.params.degree,
    "residues": PLAN.residue_bytes,
    "sums": PLAN.length * -(-(2 * PLAN.max_lane).bit_length() // 8),
}


def width(cell: str) -> int:
    if cell.endswith("each"):
        return MEMBERS * int(cell.removesuffix("each"))
    return int(cell) if cell.isdigit() else PAYLOADS[cell]


def total(section: str) -> int:
    (table,) = tables(sections(PROTOCOL, "##")[section])
    return sum(width(row[1]) for row in table)


def test_the_version_of_messages_is_that_of_the_code():
    assert f"| version | 2 | {VERSION} |" in PROTOCOL
    assert f"**Versions.** Version {VERSION} differs from version {VERSION - 1} in" in PROTOCOL
    assert f"`secagg v{VERSION} offer`" in PROTOCOL


def test_the_header_is_as_wide_as_the_protocol_says():
    assert total("Header") == HEADER.size == 234


@pytest.mark.parametrize("section", KINDS)
def test_a_message_is_as_long_as_its_table_adds_up_to(section):
    expected = total("Frame") + total("Header") + total(section)
    assert wire.message_bytes(KINDS[section], PLAN, MEMBERS) == expected


def test_the_states_are_those_of_the_code():
    (rows,) = tables(sections(PROTOCOL, "##")["States"])
    told = {(role, state, move, after) for role, states, move, after in rows for state in states.split(", ")}
    found = {
        (role, state.value, move, after.value)
        for role, table in (
            ("key holder", states.KEY_HOLDER_MOVES),
            ("client", states.CLIENT_MOVES),
            ("aggregator", states.AGGREGATOR_MOVES),
        )
        for (state, move), after in table.items()
    }
    assert told == found
