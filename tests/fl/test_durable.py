"""Files: whole or not at all, and nothing that stands in their place is followed, filled or replaced."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fl.durable import JsonLines, locked, replace_durably, replacing
from fl.errors import FileRefused

ROOT = Path(__file__).resolve().parents[2]


def write_in_parts(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"new")


def lock(path: Path) -> None:
    with locked(path):
        pass


WRITERS = {
    "replace": lambda path: replace_durably(path, b"new"),
    "replace in parts": write_in_parts,
    "append": lambda path: JsonLines(path).append(b"{}"),
    "lock": lock,
}


def link_to_a_file(path: Path) -> None:
    (path.parent / "victim").write_bytes(b"precious")
    path.symlink_to("victim")


def link_to_nothing(path: Path) -> None:
    path.symlink_to("victim")


PLANTED: dict[str, Callable[[Path], object]] = {
    "a symbolic link to a file": link_to_a_file,
    "a symbolic link to nothing": link_to_nothing,
    "a link to a device": lambda path: path.symlink_to("/dev/null"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_no_regular_file_is_never_written_to_or_replaced(tmp_path: Path, writer: str, planted: str) -> None:
    target = tmp_path / "file"
    PLANTED[planted](target)
    before = {path.name: os.lstat(path).st_ino for path in tmp_path.iterdir()}
    with pytest.raises(FileRefused, match="expected a regular file"):
        WRITERS[writer](target)
    assert {path.name: os.lstat(path).st_ino for path in tmp_path.iterdir()} == before
    victim = tmp_path / "victim"
    assert not victim.exists() or victim.read_bytes() == b"precious"


@pytest.mark.parametrize("writer", ["replace", "replace in parts"])
def test_a_device_is_never_replaced(writer: str) -> None:
    with pytest.raises(FileRefused, match="a device"):
        WRITERS[writer](Path("/dev/null"))


def test_links_planted_under_any_foreseeable_name_are_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for ending in (".new", ".part", ".partial", ".tmp", "~"):
        (tmp_path / f"file{ending}").symlink_to(victim)
    replace_durably(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new" and victim.read_bytes() == b"precious"


def test_a_block_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half of the new")
        raise KeyboardInterrupt
    assert [each.name for each in tmp_path.iterdir()] == ["file"] and path.read_bytes() == b"old"


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o600)
    replace_durably(path, b"new")
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_lock_does_not_empty_the_file_it_locks(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with locked(path, wait=False):
        assert path.read_bytes() == b"old"
        with pytest.raises(BlockingIOError), locked(path, wait=False):
            pass


# --- lines of JSON ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [b'{"b": 2', b'{"b": "\xc3', b"["])
def test_a_torn_last_line_is_left_out_and_the_next_one_begins_on_its_own(tmp_path: Path, torn: bytes) -> None:
    log = JsonLines(tmp_path / "log")
    assert log.lines() == log.read() == []
    log.append(b'{"a": 1}')
    (tmp_path / "log").write_bytes(b'{"a": 1}\n' + torn)
    assert log.read() == [{"a": 1}] and log.lines() == [b'{"a": 1}', torn]
    log.append(b'{"c": 3}')
    assert log.lines() == [b'{"a": 1}', torn, b'{"c": 3}']
    assert log.read(shared=True) == [{"a": 1}, {"c": 3}]
    with pytest.raises(ValueError, match="line 2 is not a JSON object"):
        log.read()
    assert log.read(1) == [{"a": 1}]


def test_a_last_line_that_lost_its_newline_only_is_whole(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log")
    log.path.write_bytes(b'{"a": 1}\n{"b": 2}')
    log.append(b'{"c": 3}')
    assert log.read() == [{"a": 1}, {"b": 2}, {"c": 3}]


def test_what_stands_behind_the_kept_lines_goes_and_nothing_is_written_where_there_is_none(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log")
    log.keep(0)
    assert not log.path.exists()
    log.path.write_bytes(b'{"a": 1}\n{"b": 2}\n{"c"')
    log.keep(2)
    assert log.path.read_bytes() == b'{"a": 1}\n{"b": 2}\n'
    before = log.path.stat()
    log.keep(2)
    assert log.path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("line", [b"3", b"[" * 100_000, b"9" * 10_000, b"null"])
@pytest.mark.parametrize("rest", [b"", b'{"a": 1}\n'])
def test_a_whole_line_that_is_no_object_is_named(tmp_path: Path, line: bytes, rest: bytes) -> None:
    log = JsonLines(tmp_path / "log")
    log.path.write_bytes(b"{}\n" + line + b"\n" + rest)
    with pytest.raises(ValueError, match="line 2 is not a JSON object"):
        log.read()


# What writes by other means, and why it may.
OTHERWISE = {
    "fl/durable.py": "it is the other means",
    "fl/spreadsheet.py": "it writes into memory",
    "fl/flower/logs.py": "an operator's log, which may be a pipe or standard error",
    "fl/flower/processes.py": "output of processes, in a folder made for it",
    "benchmarks/meter.py": "a switch of the kernel in /proc",
    "benchmarks/worker.py": "a copy of standard output",
}
WRITING = {"write_text", "write_bytes", "to_csv", "to_parquet", "NamedTemporaryFile", "save_file"}


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in WRITING:
        return not (name == "to_csv" and not call.args)  # without a path it returns text
    if name not in ("open", "fdopen"):
        return False
    texts = [
        each.value
        for each in [*call.args, *(keyword.value for keyword in call.keywords)]
        if isinstance(each, ast.Constant)
    ]
    return any(isinstance(text, str) and set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)


def test_every_file_is_written_by_the_functions_of_this_module() -> None:
    found = set()
    for package in ("fl", "demos", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            if any(isinstance(node, ast.Call) and _writes(node) for node in ast.walk(ast.parse(path.read_text()))):
                found.add(str(path.relative_to(ROOT)))
    assert found - set(OTHERWISE) <= {"fl/flower/certificates.py"}  # keys: created, mode 0600, never over a file
