"""What a bank's rows show of shared parties: no label of its own where an epsilon holds, and nothing of later days."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import risky_banks

from fl.counts import entity_risk
from fl.counts.key_slots import AllSlots
from fl.counts.plan import Totals, bank_counts
from fl.counts.settings import key_slots
from fl.data.federation import BankData, PartitionedTable, federation_of
from fl.learning.noisy_or import BOUND, NoisyOr, gradient_sum
from fl.runs import risk
from fl.runs.plan import RunPlan
from fl.runs.risk import RiskOfParties

SALT = bytes(32)


class Seen(NamedTuple):
    """The rows of `source`, with exact counts as the release."""

    source: PartitionedTable
    keys: AllSlots
    totals: Totals
    parties: RiskOfParties


def seen(folder: Path, rows: pd.DataFrame, totals: Totals | None = None) -> Seen:
    """`totals`: those of another table, as if its noise hid the difference; None: of these rows."""
    source = risky_banks.source(folder, rows)
    plan = RunPlan.new(risky_banks.config(folder, no_dp=True, model="noisy-or"), source)
    assert plan.config.statistics is not None and plan.sharing is not None
    keys = key_slots(source, plan.config.statistics, SALT)
    counts = [bank_counts(source.table.take(held), keys, plan.sharing) for _, held, _ in source.banks]
    released = Totals(plan.sharing, np.sum(counts, axis=0)) if totals is None else totals
    days, local = plan.config.model.history_days, federation_of(source)
    parties = RiskOfParties.of(source, local, (released, keys), "probability", learns_from=days)
    return Seen(source, keys, released, parties)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return seen(tmp_path_factory.mktemp("before"), risky_banks.frame())


WEEKS = {"weeks before training": ("2024-01-15", "2024-02-04"), "training": ("2024-02-05", "2024-02-18")}


def a_training_row(rows: pd.DataFrame, weeks: str, which: int) -> int:
    """The position of some genuine (0) or fraudulent (1) row of bank-1 that the common model learns from."""
    chosen = rows.BANK.eq("bank-1") & rows.TIME.between(*WEEKS[weeks]) & rows.FRAUD.eq(which)
    return int(np.flatnonzero(chosen)[3])


@pytest.mark.parametrize("weeks", WEEKS)
@pytest.mark.parametrize("label", [0, 1])
def test_one_label_moves_one_count_by_one_and_the_gradient_by_no_more_than_the_clip(
    before: Seen, tmp_path: Path, label: int, weeks: str
) -> None:
    rows = risky_banks.frame()
    at = a_training_row(rows, weeks, label)
    rows.loc[at, "FRAUD"] = 1 - label
    counted = seen(tmp_path, rows).totals.sums - before.totals.sums
    assert np.abs(counted).sum() == 1

    after = seen(tmp_path, rows, before.totals)  # training sees the counts only as they were released
    for old, new in zip(before.parties.released, after.parties.released, strict=True):
        assert (old.train.x == new.train.x).all()
        changed = old.train.index[old.train.y != new.train.y].tolist()
        assert changed == ([at] if old.name == "bank-1" and at in old.train.index else [])
        assert (old.validation.x == new.validation.x).all() and (old.test[0].x == new.test[0].x).all()
        model = NoisyOr(old.train.x.shape[1], prior=0.01)
        gradients = [gradient_sum(model, bank.train, BOUND) for bank in (old, new)]
        assert np.linalg.norm(gradients[1] - gradients[0]) <= BOUND * (1 + 1e-9)
        assert (gradients[0] != gradients[1]).any() == bool(changed)


def test_the_common_model_learns_from_the_weeks_before_training_too(before: Seen) -> None:
    alone = replace(before.parties, learns_from=0)
    for weeks, week in zip(before.parties.released, alone.released, strict=True):
        assert np.isin(week.train.index, weeks.train.index).all() and len(weeks.train) > 2 * len(week.train)
        assert weeks.train.day.min() == risky_banks.FIRST_DAY and weeks.train.day.max() == week.train.day.max()
        assert not set(weeks.train.customer) & set(weeks.validation.customer)
        at = np.searchsorted(weeks.train.index, week.train.index)
        assert (weeks.train.x[at] == week.train.x).all() and (weeks.validation.x == week.validation.x).all()


def test_a_training_period_longer_than_the_history_is_learned_from_whole(before: Seen) -> None:
    shorter, training = (replace(before.parties, learns_from=days) for days in (3, 0))
    for few, all_of_it in zip(shorter.released, training.released, strict=True):
        assert (few.train.index == all_of_it.train.index).all()


def test_a_label_of_the_validation_customers_moves_no_gradient(before: Seen, tmp_path: Path) -> None:
    rows = risky_banks.frame()
    at = int(before.parties.released[1].validation.index[0])
    rows.loc[at, "FRAUD"] = 1 - rows.FRAUD[at]
    after = seen(tmp_path, rows, before.totals)
    for old, new in zip(before.parties.released, after.parties.released, strict=True):
        assert (old.train.x == new.train.x).all() and (old.train.y == new.train.y).all()


def test_own_evidence_changes_what_is_scored_and_never_what_is_trained_on(before: Seen) -> None:
    released = before.parties.released
    for plain, own in zip(released, before.parties.with_evidence(released), strict=True):
        assert own.train is plain.train
        assert (own.test[0].x[:, :-1] == plain.test[0].x[:, :-1]).all()
        assert (own.test[0].x[:, -1] != plain.test[0].x[:, -1]).any()


VIEWS: dict[str, Callable[[RiskOfParties], tuple[BankData, ...]]] = {
    "released": lambda parties: parties.released,
    "with evidence": lambda parties: parties.with_evidence(parties.released),
    "at home": lambda parties: parties.at_home,
    "alone": lambda parties: parties.alone,
}


@pytest.fixture(scope="module")
def rewritten(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Other labels from a label delay before the first test day on, and other terminals but on that day itself."""
    rows = risky_banks.frame()
    unknown = rows.TIME.ge(risky_banks.TEST - pd.Timedelta(days=risky_banks.DELAY))
    rows.loc[unknown, "FRAUD"] = 1 - rows.FRAUD[unknown]
    elsewhere = unknown & (rows.TIME.dt.normalize() != risky_banks.TEST)
    rows.loc[elsewhere, "TERMINAL"] = rows.TERMINAL[elsewhere].to_numpy()[::-1]
    return seen(tmp_path_factory.mktemp("rewritten"), rows)


@pytest.mark.parametrize("view", VIEWS)
def test_no_row_and_no_label_since_a_label_delay_ago_is_looked_at(before: Seen, rewritten: Seen, view: str) -> None:
    first = risky_banks.FIRST_DAY + (risky_banks.TEST - risky_banks.FIRST).days
    later_differs = []
    for old, new in zip(VIEWS[view](before.parties), VIEWS[view](rewritten.parties), strict=True):
        held, other = old.test[0], new.test[0]
        today = held.index[held.day == first]
        assert len(today) > 5 and (other.index[other.day == first] == today).all()
        assert (held.x[held.day == first] == other.x[other.day == first]).all()
        # Which customers are scored later depends on labels that are known by then: those of both tables.
        _, at, there = np.intersect1d(held.index[held.day > first], other.index[other.day > first], return_indices=True)
        later_differs.append((held.x[held.day > first][at, -1] != other.x[other.day > first][there, -1]).any())
    assert any(later_differs)


def test_the_constants_of_episodes_are_those_known_before_the_test(before: Seen, rewritten: Seen) -> None:
    assert before.parties.risk is not None and rewritten.parties.risk is not None
    assert (before.totals.sums != rewritten.totals.sums).any()
    assert before.parties.risk.episodes == rewritten.parties.risk.episodes
    assert before.parties.risk.episodes["terminal"].present


def test_a_bank_knows_its_own_constants_where_much_noise_leaves_the_release_none(before: Seen) -> None:
    silent = Totals(before.totals.plan, np.zeros_like(before.totals.sums))
    parties = before.parties.with_totals(silent)
    assert parties.risk is not None and not parties.risk.episodes["terminal"].present
    for plain, home in zip(parties.released, parties.at_home, strict=True):
        assert not plain.test[0].x[:, -1].any()
        assert home.test[0].x[:, -1].any()


def test_what_own_rows_show_is_found_once_for_copies_with_another_scale_or_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, computed = [], []
    fit, histories = entity_risk.fit_own_episodes, risk.own_histories
    monkeypatch.setattr(entity_risk, "fit_own_episodes", lambda own: found.append(own) or fit(own))
    monkeypatch.setattr(risk, "own_histories", lambda *asked: computed.append(asked) or histories(*asked))
    first = seen(tmp_path, risky_banks.frame())
    views = [first.parties, replace(first.parties, scale="log odds"), first.parties.with_totals(first.totals)]
    homes = [each.at_home for each in views]
    assert len(found) == len(risky_banks.BANKS)
    assert len(computed) == len({first.parties.learns_from, risk.HISTORY_DAYS} - {0})  # features of all rows, once
    assert [each.banks[0].train.scale for each in views] == [first.parties.scale, "log odds", first.parties.scale]
    for one, another in zip(homes[0], homes[2], strict=True):
        assert (one.test[0].x == another.test[0].x).all()


def test_of_two_constants_those_stay_whose_gain_is_larger(before: Seen) -> None:
    assert before.parties.risk is not None
    released, traffic = before.parties.risk.episodes["terminal"], 2.5
    own = {gain: replace(released, mean_days=9.0, traffic=0.1, gain=gain) for gain in (0.0, released.gain + 1)}
    assert before.parties.risk.with_clearer({"terminal": own[0.0]}, traffic).episodes["terminal"] == released
    chosen = before.parties.risk.with_clearer({"terminal": own[released.gain + 1]}, traffic).episodes["terminal"]
    assert chosen.mean_days == 9.0 and chosen.traffic == traffic
    none = replace(own[released.gain + 1], onset=0.0, present=False)
    assert before.parties.risk.with_clearer({"terminal": none}, traffic).episodes["terminal"] == released
