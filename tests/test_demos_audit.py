"""`demos audit`: an intact ledger is shown, a damaged, rolled back or forked one ends in exit code 1 and the fact."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from simulator import Federation, Peers

from demos.audit import audit
from secagg.errors import LedgerError
from secagg.identity import Identity
from secagg.journal import Journal

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """ledger.db with a release and a refusal, early.db after the release alone, and two clients' journals."""
    folder = tmp_path_factory.mktemp("audit")
    federation = Federation(clients=2, folder=folder)
    peers = Peers(federation)
    peers.round(1, [federation.update(1), federation.update(2)])
    peers.key_holder._ledger.close()
    shutil.copy(federation.ledger_file, folder / "early.db")
    peers.key_holder = federation.key_holder()
    peers.roster(2)
    peers.key_holder._ledger.close()
    for client in peers.clients:
        client._journal.close()
    return folder


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(audit, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_a_ledger_is_shown_with_its_steps_and_decryptions(files):
    told = run(files / "ledger.db")
    assert (told["kind"], told["intact"], told["events"], told["decryptions"]) == ("ledger", True, 6, 1)
    assert [(each["step"], each["outcome"]) for each in told["steps"]] == [(1, "released"), (2, "abandoned")]
    assert told["against"] == []
    text = CliRunner().invoke(audit, [str(files / "ledger.db")], catch_exceptions=False).stdout
    assert told["head"] in text.replace("\n", "") and "abandoned" in text


def test_earlier_copies_and_journals_are_compared(files):
    told = run(
        files / "ledger.db",
        *("--against", files / "early.db", "--against", files / "ledger.db"),
        *("--against", files / "journal-0.db", "--against", files / "journal-1.db"),
    )
    assert [each["verdict"] for each in told["against"]] == [
        "the ledger has 2 more events",
        "equal",
        "2 rounds agree",
        "2 rounds agree",
    ]


def test_a_journal_can_be_audited_by_itself(files):
    told = run(files / "journal-0.db")
    assert (told["kind"], told["intact"]) == ("journal", True)
    assert [(each["step"], each["outcome"]) for each in told["steps"]] == [(1, "finished"), (2, "unfinished")]
    assert "journal of" in CliRunner().invoke(audit, [str(files / "journal-0.db")]).stdout


def failing(*arguments: object) -> str:
    result = CliRunner().invoke(audit, list(map(str, arguments)))
    assert isinstance(result.exception, LedgerError), result.output
    return str(result.exception)


def test_a_release_that_a_client_caught_up_with_is_shown_and_must_stand_in_the_ledger(files, tmp_path):
    owner = Identity.generate("bank 9")
    authority = bytes.fromhex(run(files / "ledger.db")["owner"])
    journal = Journal(tmp_path / "journal-9.db", owner)
    journal.caught_up(7, b"m" * 32, b"r" * 16, b"f" * 32, authority)
    journal.close()
    (step,) = run(tmp_path / "journal-9.db")["steps"]
    assert (step["step"], step["outcome"]) == (7, "caught up")
    with pytest.raises(LedgerError, match="step 7: the client caught up with its release, and the ledger has no such"):
        run(files / "ledger.db", "--against", tmp_path / "journal-9.db")


def test_a_ledger_rolled_back_contradicts_a_later_copy_and_a_journal(files):
    assert "rolled back" in failing(files / "early.db", "--against", files / "ledger.db")
    assert "rolled back" in failing(files / "early.db", "--against", files / "journal-0.db")


def test_a_damaged_ledger_and_a_damaged_journal_are_refused(files, tmp_path):
    for name in ("ledger.db", "journal-0.db"):
        shutil.copy(files / name, tmp_path / name)
        connection = sqlite3.connect(tmp_path / name)
        name_of_it = "SELECT sql FROM sqlite_master WHERE name = 'events_are_final'"
        (trigger,) = connection.execute(name_of_it).fetchone()
        edit = "UPDATE events SET body = x'00' WHERE sequence = 1"
        connection.executescript(f"DROP TRIGGER events_are_final; {edit}; {trigger}")
        connection.close()
        assert "damaged or edited at event 1" in failing(tmp_path / name)
    assert "damaged" in failing(files / "ledger.db", "--against", tmp_path / "journal-0.db")


def test_a_journal_against_something_is_no_ledger(files):
    assert "expected a key holder ledger" in failing(files / "journal-0.db", "--against", files / "ledger.db")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["missing.db"], 1, "LedgerError: missing.db: no such file"), ([], 2, "Missing argument 'LEDGER'")],
)
def test_errors_are_one_line_and_have_the_right_exit_code(tmp_path, arguments, code, said):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "demos", "audit", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr and "Traceback" not in done.stderr
