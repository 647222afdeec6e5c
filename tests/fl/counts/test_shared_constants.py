"""The secure round for constants: what it computes, what it costs, and that it happens once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from five_sites import five_sites

from fl.counts.shared_constants import CONSTANTS, ConstantsPlan, constants_plan, contribution, share_constants
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.scaling import by_bank, counts_in, exact_constants
from fl.data.schema_file import parse_schema
from fl.errors import BudgetExhausted, StatisticsError
from fl.privacy.accounting import epsilon
from fl.privacy.budget import BudgetLedger
from fl.privacy.mechanisms import NoisyCounts
from fl.privacy.noise_shares import plan_noise
from fl.runs.budgets import CountsPayment

SCHEMA = """
[label]
column = "FRAUD"
[time]
column = "PAID_AT"
[[numeric]]
columns = ["VOLUME", "BALANCE"]
transform = "signed_log1p"
constants = "shared"
[partition]
column = "SITE"
[features]
windows_days = []
"""
DAYS = (19_723, 19_782)


@pytest.fixture(scope="module")
def banks() -> list[tuple[str, Transactions]]:
    schema = parse_schema(SCHEMA, "sites.toml")
    return list(by_bank(transactions_from_frame(five_sites(200), schema, "made", bank_column="SITE")).items())


def plan_of(banks: list[tuple[str, Transactions]], sigma: float | None = None) -> ConstantsPlan:
    noise = None if sigma is None else plan_noise(sigma, len(banks), 1)
    return constants_plan(banks[0][1].schema, noise, DAYS)


def payment_of(folder: Path, plan: ConstantsPlan, limit: float = 10.0) -> CountsPayment:
    assert plan.entry is not None
    names = [f"site-{i}" for i in range(1, 6)]
    return CountsPayment({n: BudgetLedger(folder / f"{n}.json", n, limit, 1e-5) for n in names}, "run", plan.entry)


def test_the_encrypted_round_gives_the_constants_of_all_rows_together(
    banks: list[tuple[str, Transactions]], tmp_path: Path
) -> None:
    shared = share_constants(banks, plan_of(banks), tmp_path)
    assert shared.constants == exact_constants(dict(banks))
    assert shared.bytes_up > 0 and [each.column for each in shared.constants] == ["BALANCE", "VOLUME"]


def test_one_more_row_moves_as_many_counts_as_the_ledger_is_told(banks: list[tuple[str, Transactions]]) -> None:
    plan = plan_of(banks, 20.0)
    table = banks[0][1]
    difference = counts_in(table, plan.counted) - counts_in(table.take(np.arange(1, len(table))), plan.counted)
    assert np.abs(difference).max() == 1 and np.abs(difference).sum() == plan.moved
    entry = plan.entry
    assert isinstance(entry, NoisyCounts)
    assert entry.columns == plan.moved == 2 * 3 and entry.shares == 4
    assert entry.resolution**2 / (4 * entry.share_variance) == pytest.approx(1 / 20.0**2, rel=0.01)


def test_a_noisy_round_is_in_every_ledger_before_its_constants_exist(
    banks: list[tuple[str, Transactions]], tmp_path: Path
) -> None:
    plan = plan_of(banks, 4.0)
    payment = payment_of(tmp_path, plan)
    share_constants(banks, plan, tmp_path / "run", payment=payment, engine=None)
    assert plan.entry is not None
    for ledger in payment.ledgers.values():
        assert ledger.history() == [plan.entry]
        assert ledger.spent() == pytest.approx(epsilon([plan.entry], 1e-5))


def test_the_round_is_played_and_paid_once(banks: list[tuple[str, Transactions]], tmp_path: Path) -> None:
    plan = plan_of(banks, 4.0)
    payment = payment_of(tmp_path, plan)
    first = share_constants(banks, plan, tmp_path / "run", payment=payment, engine=None)
    again = share_constants(banks, plan, tmp_path / "run", payment=payment, engine=None)
    assert again.constants == first.constants
    assert all(len(ledger.history()) == 1 for ledger in payment.ledgers.values())


def test_a_process_killed_after_paying_contributes_the_same_integers_again(
    banks: list[tuple[str, Transactions]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(banks, 4.0)
    payment = payment_of(tmp_path, plan)
    seen: list[list[np.ndarray]] = []

    def killed(draws: list[Any], **_: object) -> None:
        seen.append([draw(len(banks)) for draw in draws])
        raise KeyboardInterrupt

    monkeypatch.setattr("fl.counts.shared_constants.encrypted_sum", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            share_constants(banks, plan, tmp_path / "run", payment=payment)
    assert all(np.array_equal(one, other) for one, other in zip(*seen, strict=True))
    assert all(len(ledger.history()) == 1 for ledger in payment.ledgers.values())


def test_nothing_is_counted_where_a_ledger_has_no_room(banks: list[tuple[str, Transactions]], tmp_path: Path) -> None:
    plan = plan_of(banks, 0.5)
    payment = payment_of(tmp_path, plan, limit=0.1)
    with pytest.raises(BudgetExhausted):
        share_constants(banks, plan, tmp_path / "run", payment=payment)
    assert not (tmp_path / "run").exists() and not any(ledger.history() for ledger in payment.ledgers.values())


def test_another_roster_than_planned_is_refused(banks: list[tuple[str, Transactions]]) -> None:
    with pytest.raises(StatisticsError, match="planned for 5 banks, and the roster holds 4"):
        contribution(banks[0][1], plan_of(banks, 4.0), 4)


def test_a_noisy_round_without_ledgers_is_refused(banks: list[tuple[str, Transactions]], tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="expected the banks' ledgers"):
        share_constants(banks, plan_of(banks, 4.0), tmp_path)


def test_constants_of_another_round_and_a_damaged_file_are_refused(
    banks: list[tuple[str, Transactions]], tmp_path: Path
) -> None:
    share_constants(banks, plan_of(banks), tmp_path, engine=None)
    with pytest.raises(StatisticsError, match="constants of another round"):
        share_constants(banks, replace(plan_of(banks), days=(0, 1)), tmp_path, engine=None)
    content = json.loads((tmp_path / CONSTANTS).read_text())
    for damaged in ("{", json.dumps({**content, "sigma": "much"}), json.dumps({**content, "constants": [3]})):
        (tmp_path / CONSTANTS).write_text(damaged)
        with pytest.raises(StatisticsError, match="no shared constants that can be read"):
            share_constants(banks, plan_of(banks), tmp_path, engine=None)
