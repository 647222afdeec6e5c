"""Files that an earlier version wrote still count, open, or are refused by name.

`vectors/before` was written by revision 5bd6581 (22 November 2026), by its own commands: a finished private run with
its lifelong ledgers, and the identities, ledger, journal and messages of one round of three clients. The run's figures
were printed by that revision.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import fl
import secagg
from demos.__main__ import cli
from fl.errors import BudgetError, ExaminationError, RunFolderError
from fl.runs.scoring import load_model, score_frame

BEFORE = Path(__file__).parent / "vectors" / "before"
# By each of three banks, PRV at delta 1e-5. Its grid has become finer at the edges since: a millionth more.
SPENT = pytest.approx(2.9996007, abs=2e-6)
PLAN = secagg.plan_round(length=20, max_clients=3, clip=1.0, value_bits=8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BEFORE / "run", tmp_path / "run"))


@pytest.fixture
def core(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(BEFORE / "core", tmp_path / "core"))
    for path in folder.iterdir():
        path.chmod(0o600)  # as they were written; a checkout does not keep modes
    return folder


def command(*arguments: object) -> dict:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_was_spent_before_still_counts(run: Path) -> None:
    banks = command("budget", run, "--json")["banks"]
    assert [bank["bank"] for bank in banks] == ["bank-0", "bank-1", "bank-2"]
    assert [bank["spent"] for bank in banks] == [SPENT] * 3
    assert not any(bank["affordable"] for bank in banks)


def test_a_new_run_on_old_ledgers_is_refused_when_nothing_is_left(run: Path, tmp_path: Path) -> None:
    ledgers = {path: path.read_bytes() for path in (run / "budget").glob("*.json")}
    options = ["--customers", "300", "--clients", "3", "--fraud-share", "0.03", "--rounds", "1", "--no-baselines"]
    with pytest.raises(BudgetError):
        command("train", *options, "--budget-dir", run / "budget", "--run-dir", tmp_path / "new", "--json")
    assert len(ledgers) == 3 and all(path.read_bytes() == content for path, content in ledgers.items())


def test_an_old_finished_run_is_read_again_with_the_figures_it_had(run: Path) -> None:
    before = json.loads((BEFORE / "run" / "result.json").read_text())
    weights = load_file(BEFORE / "run" / "model.safetensors")
    again = fl.load(run)
    assert again.result == before
    assert again.result["privacy"]["epsilon"] == SPENT
    assert np.isfinite(before["metrics"]["average_precision"])
    now = again.model.module.state_dict()
    assert {name: value.shape for name, value in now.items()} == {name: each.shape for name, each in weights.items()}
    assert all(np.array_equal(now[name].numpy(), weights[name]) for name in weights)


def test_an_old_run_on_embedded_data_is_not_continued_on_those_of_today(run: Path) -> None:
    """The generator draws other transactions since; rounds, ledgers and figures of the run stay as they are."""
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match="another version of fl, which makes other embedded"):
        command("train", "--resume", run, "--json")
    with pytest.raises(ExaminationError, match=r"expected the rows, schema and partition of manifest\.json"):
        command("evaluate", run, "--json")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_an_old_ledger_and_journal_open_with_all_that_they_hold(core: Path) -> None:
    key_holder = secagg.Identity.load(core / "key-holder.json")
    ledger = secagg.Ledger(core / "ledger.db", key_holder)
    assert ledger.outcome(1) is not None
    with pytest.raises(secagg.errors.RoundAlreadyReleased):
        ledger.check_step(1)
    ledger.check_step(2)
    bank = secagg.Identity.load(core / "bank-0.json")
    journal = secagg.Journal(core / "journal-0.db", bank)
    assert journal.unfinished() == ()
    enrolment = secagg.Enrolment.load(core / "enrolment.json")
    client = secagg.Client(bank, enrolment, PLAN, journal=journal)
    opener = secagg.KeyHolder(key_holder, enrolment, PLAN, ledger=ledger)
    client.join(opener.open(2, bytes(32)), bytes(32))  # the next step of both


def test_an_old_model_scores_with_the_features_that_it_lists(run: Path) -> None:
    model = load_model(run)
    assert len(model.features) == 20 < max(model.columns) + 1
    columns = ["TIME", "CUSTOMER", "TERMINAL", "AMOUNT", "BANK"]
    past = [
        [f"2024-03-{day:02}T{10 + i}:00:00", f"C{i}", f"T{i % 2}", 20.0 + 30 * i, f"bank-{i}", int((day, i) == (2, 1))]
        for day in range(1, 20)
        for i in range(3)
    ]
    new = [["2024-03-20T12:00:00", f"C{i}", f"T{i % 2}", 900.0, f"bank-{i}"] for i in range(3)]
    scored = score_frame(model, pd.DataFrame(new, columns=columns), pd.DataFrame(past, columns=[*columns, "IS_FRAUD"]))
    # Printed by revision 27fc89b, the last that computed no other features.
    assert scored.score == pytest.approx([0.01036734, 0.01056971, 0.01043449], abs=1e-8)


@pytest.mark.parametrize("name", ["offer", "join-0", "roster", "contribution-0", "release"])
def test_an_old_message_is_refused_by_its_version(core: Path, name: str) -> None:
    with pytest.raises(secagg.errors.UnsupportedVersion, match="expected version 4, got 1"):
        secagg.decode((core / f"{name}.bin").read_bytes(), PLAN)
