"""`demos enrol`: the examples in its help work as printed, and every mistake ends in one line of advice."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from demos.enrol import enrol
from secagg.enrolment import Enrolment
from secagg.errors import SecAggError
from secagg.identity import Identity

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECAGG_PASSPHRASE", raising=False)
    return tmp_path


def run(*arguments: str) -> str:
    """Standard output of a command that must succeed."""
    result = CliRunner().invoke(enrol, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def examples(command: click.Command) -> list[list[str]]:
    """The command lines in a help text, as a shell would split them."""
    text = (command.help or "").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("python -m demos enrol")]


def test_the_examples_in_the_help_work_as_printed(here):
    commands = examples(enrol)
    assert len(commands) == 7
    for command in (enrol.commands["key"], enrol.commands["list"], enrol.commands["check"]):
        assert len(examples(command)) == 1
        commands += examples(command)
    for words in commands:
        run(*words[4:])
    listed = Enrolment.load("enrolment.json")
    assert [client.organisation for client in listed.clients] == ["Bank A", "Bank B", "Bank C"]
    assert Identity.load("bank-a.key").member == listed.clients[0]


def test_a_key_is_private_and_its_public_entry_is_printed_and_written(here):
    printed = json.loads(run("key", "--organisation", "Bank Ä", "--out", "a.key"))
    assert printed == json.loads((here / "a.key.public").read_text())
    assert stat.S_IMODE((here / "a.key").stat().st_mode) == 0o600
    identity = Identity.load("a.key")
    assert printed["key"] == identity.key.hex()
    assert identity._private_key.private_bytes_raw().hex() not in (here / "a.key.public").read_text()


def test_a_passphrase_from_the_environment_encrypts_the_key(here, monkeypatch):
    monkeypatch.setenv("SECAGG_PASSPHRASE", "pässphrase")
    told = json.loads(run("key", "--organisation", "Bank", "--out", "a.key", "--json"))
    assert told["encrypted"] is True
    assert Identity.load("a.key", "Bank", "pässphrase".encode()).key.hex() == told["key"]


def failing(*arguments: str) -> str:
    """The error of a command that must fail, as `main` would print it."""
    result = CliRunner().invoke(enrol, arguments)
    assert isinstance(result.exception, SecAggError), result.output
    assert result.stdout == ""
    return str(result.exception)


def test_an_empty_passphrase_is_refused_and_no_key_is_written(here, monkeypatch):
    monkeypatch.setenv("SECAGG_PASSPHRASE", "")
    assert "passphrase: expected at least one byte" in failing("key", "--organisation", "Bank", "--out", "a.key")
    assert os.listdir(here) == []


def made(here: Path) -> None:
    for name in ("k", "a", "b", "c"):
        run("key", "--organisation", f"Party {name}", "--out", f"{name}.key")
    run("list", *BASE, "--client", "b.key.public", "--client", "c.key.public", "--out", "list.json")


BASE = ("--key-holder", "k.key.public", "--aggregator", "a.key.public")


def test_nothing_is_overwritten(here):
    made(here)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    assert "choose another" in failing("key", "--organisation", "X", "--out", "k.key")
    assert "choose another" in failing("key", "--organisation", "X", "--out", "new.key", "--public", "k.key.public")
    assert "choose another file" in failing("list", *BASE, "--client", "b.key.public", "--out", "list.json")
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_the_fingerprint_is_compared_however_it_was_read_out(here):
    made(here)
    told = json.loads(run("check", "list.json", "--json"))
    assert [member["role"] for member in told["members"]] == ["key holder", "aggregator", "client", "client"]
    fingerprint = told["fingerprint"]
    spoken = " ".join(fingerprint[i : i + 4] for i in range(0, 64, 4))
    assert spoken in " ".join(run("check", "list.json").split())
    for same in (fingerprint, spoken, spoken.upper()):
        assert json.loads(run("check", "list.json", "--fingerprint", same, "--json"))["compared"] is True
    other = ("0" if fingerprint[0] != "0" else "1") + fingerprint[1:]
    for different in (other, fingerprint[:63], "", "no fingerprint"):
        assert "the parties hold different lists" in failing("check", "list.json", "--fingerprint", different)


def test_an_altered_entry_or_list_is_refused(here):
    made(here)
    entry = (here / "b.key.public").read_text()
    (here / "b.key.public").write_text(entry.replace("Party b", "Party x"))
    assert "altered" in failing("list", *BASE, "--client", "b.key.public", "--out", "other.json")
    listed = (here / "list.json").read_text()
    (here / "list.json").write_text(listed.replace("Party b", "Party x"))
    assert "edited after" in failing("check", "list.json")


def test_one_organisation_in_two_roles_is_refused(here):
    made(here)
    assert "enrolled twice" in failing("list", *BASE, "--client", "k.key.public", "--out", "other.json")
    twice = ("--client", "b.key.public", "--client", "b.key.public")
    assert "enrolled twice" in failing("list", *BASE, *twice, "--out", "other.json")


def test_markup_in_a_name_is_shown_as_it_is(here):
    made(here)
    run("key", "--organisation", "[red]Bank[/red]", "--out", "m.key")
    assert "[red]Bank[/red]" in run("list", *BASE, "--client", "m.key.public", "--out", "other.json")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["check", "missing.json"], 1, "EnrolmentError: missing.json: No such file"),
        (["key", "--organisation", " ", "--out", "a.key"], 1, "IdentityError: organisation: expected"),
        (["key", "--out", "a.key"], 2, "Missing option '--organisation'"),
        (["list", "--out", "x.json"], 2, "Missing option"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_and_have_the_right_exit_code(here, arguments, code, said):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "demos", "enrol", *arguments], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len(done.stderr.strip().splitlines()) == 1
