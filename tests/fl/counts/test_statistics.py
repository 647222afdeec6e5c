"""Shared counts: exact against pandas for any number of banks, noised as planned, paid for once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import killed_after_write
from privacy_audit import noise_verdict
from till import Till

from fl.counts.columns import SharedColumns
from fl.counts.key_slots import AllSlots, KeySlots
from fl.counts.plan import (
    Noise,
    StatisticsPlan,
    Totals,
    bank_counts,
    contribution,
    fraud_blocks_plan,
    increments_plan,
    windows_plan,
)
from fl.counts.release import TOTALS, bank_salt, load_release, share_statistics
from fl.data.features import features
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import Days
from fl.data.schema_file import load_schema
from fl.errors import AggregationError, BudgetError, BudgetExhausted, BudgetLedgerError, StatisticsError
from fl.privacy.budget import BudgetLedger, ledger_path
from fl.privacy.discrete_laplace import plan_laplace
from fl.privacy.mechanisms import NoisyCounts
from fl.privacy.noise_shares import plan_noise
from fl.runs.budgets import CountsPayment, bank_budgets
from fl.secure.cost import sealing_cost
from fl.secure.session import encrypted_sum

SCHEMA = load_schema("simulated")
START = pd.Timestamp("2024-01-01")
SALT = bytes(range(32))
FIRST = (START - pd.Timestamp("1970-01-01")).days
KEYS = AllSlots((KeySlots(("T0", "T1", "T2", "T3", "T4"), 3, SALT),))
KINDS = [("terminal", KEYS.size)]
ROW = {"terminal": np.array(["T1"], object)}  # the parties of one row
SELDOM = 2.0**-41  # how often right noise, which the operating system draws, may fail a test


def slots(buckets: int = 3, salt: bytes = SALT) -> AllSlots:
    """The slots of `KEYS` with other buckets or another salt."""
    return AllSlots((replace(KEYS.kinds[0], buckets=buckets, salt=salt),))


def transactions(rows: int, banks: int, seed: int, days: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "TIME": START + pd.to_timedelta(np.sort(rng.integers(0, days * 86_400, rows)), unit="s"),
            "CUSTOMER": rng.integers(0, 50, rows).astype(str),
            "TERMINAL": [f"T{i}" for i in rng.integers(0, 12, rows)],  # some in the directory, some hashed
            "AMOUNT": rng.random(rows) * 100,
            "DESCRIPTION": "x",
            "BANK": [f"bank-{i}" for i in rng.integers(0, banks, rows)],
            "IS_FRAUD": np.where(np.arange(rows) < 2, np.arange(rows), rng.random(rows) < 0.2).astype(int).astype(str),
        }
    )


def split_by_bank(frame: pd.DataFrame, banks: int) -> list[tuple[str, Transactions]]:
    table = transactions_from_frame(frame, SCHEMA, "made up")
    return [(f"bank-{i}", table.take(frame.BANK.eq(f"bank-{i}").to_numpy())) for i in range(banks)]


def grouped(frame: pd.DataFrame, plan: StatisticsPlan) -> np.ndarray:
    """The same counts by pandas over the pooled table: int64[periods, slots, 3]."""
    day = (frame.TIME - pd.Timestamp("1970-01-01")).dt.days
    slot = pd.Series(KEYS.of("terminal", frame.TERMINAL.to_numpy(object)), index=frame.index)
    expected = np.zeros((len(plan.periods), plan.slots, 3), np.int64)
    for i, period in enumerate(plan.periods):
        within = frame.assign(slot=slot, fraud=frame.IS_FRAUD == "1")[(day >= period.first) & (day <= period.last)]
        found = within.groupby("slot").agg(n=("fraud", "size"), frauds=("fraud", "sum"), banks=("BANK", "nunique"))
        expected[i, found.index] = found.to_numpy(np.int64)
    return expected


THREE = split_by_bank(transactions(300, 3, seed=2), 3)
NOISY = fraud_blocks_plan([FIRST + 19], FIRST, 7, 5, KINDS, plan_laplace(0.05, 3, 1))
GAUSSIAN = replace(NOISY, noise=plan_noise(50.0, 3, 1))


def power_cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def interrupted(folder: Path, till: Till, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The moment that matters: noise was drawn and paid for, perhaps contributed, and no total is on disk."""
    with monkeypatch.context() as patch:
        patch.setattr("fl.counts.release.write_totals", power_cut)
        with pytest.raises(KeyboardInterrupt):
            share_statistics(THREE, NOISY, KEYS, folder, payment=till)
    return [np.load(path) for path in sorted(folder.glob("contribution-*.npy"))]


@given(banks=st.integers(2, 64), rows=st.integers(2, 400), seed=st.integers(0, 2**32), least=st.integers(1, 4))
@settings(max_examples=12, deadline=None)
def test_counts_of_any_number_of_banks_add_up_to_pandas(banks: int, rows: int, seed: int, least: int) -> None:
    frame = transactions(rows, banks, seed)
    plan = windows_plan([FIRST + 17, FIRST + 19], (7, 30), 7, KEYS.size, least)
    summed = sum(bank_counts(table, KEYS, plan) for _, table in split_by_bank(frame, banks))
    expected = grouped(frame, plan)
    assert (summed == expected[:, :, : plan.columns]).all()
    totals = Totals(plan, summed)
    assert (totals.suppressed == ((expected[:, :, 2] < least) & (least > 1))).all()
    assert (totals.counts() == np.where(totals.suppressed[:, :, None], 0, expected[:, :, :2])).all()


@pytest.mark.parametrize("banks", [3, 64])
def test_encrypted_totals_equal_pandas_exactly(tmp_path: Path, banks: int) -> None:
    frame = transactions(600, banks, seed=banks)
    plan = windows_plan([FIRST + 17], (7, 30), 7, KEYS.size, 1)
    (tmp_path / "salt").write_bytes(SALT)
    released = share_statistics(split_by_bank(frame, banks), plan, KEYS, tmp_path)
    assert (released.totals.sums == grouped(frame, plan)[:, :, :2]).all()
    again, keys = load_release(tmp_path)
    assert (again.sums == released.totals.sums).all() and again.plan == plan and keys == KEYS


def test_two_banks_are_refused_since_each_would_learn_the_other() -> None:
    with pytest.raises(AggregationError, match="at least 3"):
        encrypted_sum([lambda _: np.zeros(4, np.int64)] * 2, length=4, largest=1, model_hash="00" * 32)


def test_shares_are_drawn_after_the_roster_has_closed_and_for_its_size() -> None:
    sizes: list[int] = []

    def draw(roster: int) -> np.ndarray:
        sizes.append(roster)
        return np.array([7, -3], np.int64)

    summed = encrypted_sum([draw] * 5, length=2, largest=7, model_hash="00" * 32)
    assert sizes == [5] * 5 and summed.totals.tolist() == [35, -15]
    assert summed.bytes_up == 5 * sealing_cost(2, clients=5, clip=7.0, value_bits=4).bytes_up
    plan = fraud_blocks_plan([FIRST + 19], FIRST, 7, 5, KINDS, plan_laplace(0.5, 5, 1))
    with pytest.raises(StatisticsError, match="planned for 5 banks"):
        contribution(np.zeros(plan.shape, np.int64), plan, roster=4)


def test_integers_beyond_the_lane_are_refused() -> None:
    with pytest.raises(AggregationError, match="within"):
        encrypted_sum([lambda _: np.array([8])] * 3, length=1, largest=7, model_hash="00" * 32)


def released_and_exact(folder: Path, noise: Noise) -> tuple[Totals, np.ndarray]:
    """Totals of a release of 6 banks under `noise`, 33 blocks of 208 slots; what was counted, without noise."""
    frame = transactions(900, 6, seed=1, days=60)
    plan = fraud_blocks_plan([FIRST + 40], FIRST, 7, 1, [("terminal", 208)], noise)
    keys, banks = slots(buckets=203), split_by_bank(frame, 6)
    exact = sum(bank_counts(table, keys, plan) for _, table in banks)
    return share_statistics(banks, plan, keys, folder, payment=Till()).totals, exact


@pytest.mark.parametrize("colluders", [1, 4])
def test_released_gaussian_noise_is_what_the_plan_says(tmp_path: Path, colluders: int) -> None:
    noise = plan_noise(1.5, 6, colluders)
    released, exact = released_and_exact(tmp_path, noise)
    added = released.sums / released.plan.resolution - exact
    assert noise_verdict(added, noise.released_sigma, SELDOM) == "consistent"
    assert noise_verdict(added / 2, noise.released_sigma, SELDOM) == "too little"
    assert noise_verdict(added, noise.sigma, SELDOM) == "too much"
    assert not released.suppressed.any() and released.frauds().shape == exact.shape[:2]


def distance_to(law: np.ndarray, samples: np.ndarray) -> float:
    """Largest distance between the distribution of integers and a law on -reach to reach."""
    reach = len(law) // 2
    values, times = np.unique(np.clip(samples, -reach, reach), return_counts=True)
    found = np.zeros(len(law))
    found[values + reach] = times
    return float(np.abs(np.cumsum(found) / samples.size - np.cumsum(law)).max())


@pytest.mark.parametrize("colluders", [1, 4])
def test_released_laplace_noise_has_the_law_of_the_plan(tmp_path: Path, colluders: int) -> None:
    noise = plan_laplace(0.7, 6, colluders)
    released, exact = released_and_exact(tmp_path, noise)
    added = released.sums - exact
    # Dvoretzky, Kiefer, Wolfowitz, with Massart's constant (Annals of Probability 18, 1990).
    furthest = np.sqrt(np.log(2 / SELDOM) / (2 * added.size))
    assert distance_to(noise.pmf(), added) < furthest
    assert distance_to(noise.pmf(2), added) > furthest
    blocks = released.blocks()
    assert (blocks.frauds == released.sums[:, :, 0]).all() and blocks.resolution == 1
    assert blocks.noise is not None and (blocks.noise == noise.pmf()).all()


@given(block=st.integers(1, 9), first=st.integers(0, 30), ahead=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_blocks_count_every_fraud_once_and_only_when_its_label_is_known(block: int, first: int, ahead: int) -> None:
    days = [FIRST + 40, FIRST + 45 + ahead]
    plan = fraud_blocks_plan(days, FIRST + first, 7, block, KINDS, None)
    held = [day for period in plan.periods for day in range(period.first, period.last + 1)]
    assert held == list(range(held[0], held[-1] + 1)) and {len(period) for period in plan.periods} == {block}
    assert FIRST + first <= held[0] < FIRST + first + block
    assert days[-1] - 7 - block <= held[-1] + 1 <= days[-1] - 7
    assert all(period.first % block == 0 for period in plan.periods)


def test_blocks_that_overlap_or_do_not_fit_are_refused() -> None:
    with pytest.raises(StatisticsError, match="disjoint"):
        StatisticsPlan("private fraud counts", (Days(0, 5), Days(5, 9)), 1, 1, plan_laplace(1.0, 3, 1))
    with pytest.raises(StatisticsError, match=r"no block of 9 days fits .* --increment-days"):
        fraud_blocks_plan([FIRST + 12], FIRST, 7, 9, KINDS, None)
    with pytest.raises(StatisticsError, match=r"expected 1, got 3: use --min-banks 1"):
        replace(NOISY, min_banks=3)
    with pytest.raises(StatisticsError, match="expected 1 or 2 banks"):
        replace(NOISY, reports=3)
    with pytest.raises(StatisticsError, match="slots in all"):
        replace(NOISY, kinds=(("terminal", 3),))


def test_counts_of_an_earlier_version_are_read_and_never_made_again() -> None:
    old = increments_plan([FIRST + 19], 10, 7, 5, KEYS.size, 1, plan_noise(2.0, 3, 1))
    assert Totals(old, np.ones(old.shape, np.int64)).counts().shape == (*old.shape[:2], 2)
    with pytest.raises(StatisticsError, match="start the run anew"):
        bank_counts(THREE[0][1], KEYS, old)


@pytest.mark.parametrize("mode", ["exact windows", "private increments", "private fraud counts"])
def test_a_feature_of_a_day_uses_no_total_of_a_label_not_yet_known(mode: str) -> None:
    days = list(range(FIRST + 30, FIRST + 50))
    match mode:
        case "exact windows":
            plan = windows_plan(days, (7, 30), 7, KEYS.size, 1)
        case "private increments":
            plan = increments_plan(days, 30, 7, 5, KEYS.size, 1, plan_noise(2.0, 3, 1))
        case _:
            plan = fraud_blocks_plan(days, FIRST, 7, 2, KINDS, plan_laplace(0.7, 3, 1))
    sums = np.random.default_rng(0).integers(0, 4, plan.shape)
    today = np.array([FIRST + 40], np.int32)
    own, key = np.zeros((1, len(features(SCHEMA))), np.float32), ROW
    before = SharedColumns(SCHEMA, KEYS, Totals(plan, sums)).extend(own, today, key)
    later = np.array([period.last >= FIRST + 40 - 7 for period in plan.periods])
    changed = np.where(later[:, None, None], sums + 1, sums)
    after = SharedColumns(SCHEMA, KEYS, Totals(plan, changed)).extend(own, today, key)
    everything = SharedColumns(SCHEMA, KEYS, Totals(plan, sums + 1)).extend(own, today, key)
    assert later.any() and (before == after).all() and (before != everything).any()


def own_columns(value: float) -> tuple[np.ndarray, list[int]]:
    """A row of own features, 0 but for `value` in those that exact windows replace; where these end up."""
    names = [feature.name for feature in features(SCHEMA)]
    replaced = [name.startswith("terminal_") and not name.endswith("_1d") for name in names]
    row = np.where(replaced, value, 0.0).astype(np.float32)[None]
    return row, list(range(len(names) - sum(replaced), len(names)))


@pytest.mark.parametrize("least", [1, 3])
def test_before_the_first_release_a_bank_keeps_its_own_windows(least: int) -> None:
    plan = windows_plan([FIRST + 30], (7, 30), 7, KEYS.size, least)
    columns = SharedColumns(SCHEMA, KEYS, Totals(plan, np.full(plan.shape, 5)))
    own, shared = own_columns(0.75)
    early = columns.extend(own, np.array([FIRST + 29], np.int32), ROW)
    later = columns.extend(own, np.array([FIRST + 30], np.int32), ROW)
    assert (early[0, shared] == 0.75).all() and (later[0, shared] != 0.75).all()


@pytest.mark.parametrize("here", [0, 2, 3, 5])
def test_a_suppressed_cell_leaves_the_banks_own_window_and_nothing_of_the_total(here: int) -> None:
    plan = windows_plan([FIRST + 30], (7, 30), 7, KEYS.size, 3)
    own, shared = own_columns(0.75)
    rows = []
    for total in (10, 90):
        sums = np.broadcast_to(np.array([total, 7, here]), plan.shape).copy()
        columns = SharedColumns(SCHEMA, KEYS, Totals(plan, sums))
        rows.append(columns.extend(own, np.array([FIRST + 30], np.int32), ROW)[0, shared])
    assert (rows[0] == rows[1]).all() == (here < 3) and (rows[0] == 0.75).all() == (here < 3)


def test_keys_outside_the_directory_depend_on_the_salt_and_on_nothing_else() -> None:
    names = np.array([f"new-{i}" for i in range(200)] + ["T3"], object)
    wide = KeySlots(("T3",), 10_000, bytes(32))
    slots = wide.of(names)
    assert slots[-1] == 0 and (slots[:-1] >= 1).all() and slots.max() < wide.size
    assert (wide.of(names[::-1])[::-1] == slots).all()
    assert (KeySlots(("T3",), 10_000, bytes([1]) * 32).of(names) != slots).mean() > 0.95
    assert len(set(slots.tolist())) > 190 and "T3" not in repr(wide) and "salt" not in repr(wide)


@pytest.mark.parametrize(
    ("slots", "words"),
    [((("a", "a"), 1, bytes(32)), "more than once"), (((), 0, bytes(32)), "buckets"), (((), 1, b"short"), "salt")],
)
def test_impossible_key_slots_are_refused(slots: tuple[tuple[str, ...], int, bytes], words: str) -> None:
    with pytest.raises(StatisticsError, match=words):
        KeySlots(*slots)


def test_a_key_with_too_many_transactions_is_refused_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl.counts.plan.LARGEST_COUNT", 20)
    [(_, table)] = split_by_bank(transactions(600, 1, seed=0), 1)
    with pytest.raises(StatisticsError, match="shorter periods"):
        bank_counts(table, KEYS, windows_plan([FIRST + 17], (30,), 7, KEYS.size, 1))


def test_an_interrupted_release_sends_the_same_noised_integers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = Till(room=1)
    drafts = interrupted(tmp_path, till, monkeypatch)
    assert len(drafts) == 3 and len(till.held) == 1
    again = share_statistics(THREE, NOISY, KEYS, tmp_path, payment=till)
    assert (again.totals.sums.reshape(-1) == sum(drafts)).all()
    assert not list(tmp_path.glob("contribution-*.npy")) and len(till.held) == 1
    read = share_statistics(THREE, NOISY, KEYS, tmp_path, payment=till)
    assert (read.totals.sums == again.totals.sums).all() and read.release == till.held[0]
    with pytest.raises(StatisticsError, match="another plan"):
        share_statistics(THREE, replace(NOISY, noise=plan_laplace(5.0, 3, 1)), KEYS, tmp_path, payment=till)


def test_drafts_are_on_disk_before_they_are_paid_for_and_paid_for_before_any_is_contributed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr("fl.counts.kept_drafts.replace_durably", lambda path, _: order.append(path.name))

    class Watched(Till):
        def pay(self, release: str) -> None:
            order.append("paid")

    def summed(draws: Sequence[Callable[[int], np.ndarray]], **_: object) -> None:
        for draw in draws:
            draw(3)
            order.append("contributed")
        raise KeyboardInterrupt

    monkeypatch.setattr("fl.counts.release.encrypted_sum", summed)
    with pytest.raises(KeyboardInterrupt):
        share_statistics(THREE, NOISY, KEYS, tmp_path, payment=Watched())
    assert order == [f"contribution-{i}.npy" for i in range(3)] + ["paid"] + ["contributed"] * 3


def test_totals_that_were_lost_are_released_again_only_for_another_payment(tmp_path: Path) -> None:
    """Their drafts are gone: other noise on the same counts is a second release, whatever the run is called."""
    till = Till(room=1)
    first = share_statistics(THREE, NOISY, KEYS, tmp_path, payment=till)
    (tmp_path / TOTALS).unlink()
    with pytest.raises(BudgetExhausted):
        share_statistics(THREE, NOISY, KEYS, tmp_path, payment=till)
    assert not list(tmp_path.glob("*")) and len(till.held) == 1
    till.room = 2
    second = share_statistics(THREE, NOISY, KEYS, tmp_path, payment=till)
    assert len(set(till.held)) == 2 and (second.totals.sums != first.totals.sums).any()


@pytest.mark.parametrize("damage", ["gone", "cut", "changed", "another shape", "another type", "pickled"])
def test_a_draft_that_is_not_the_one_paid_for_makes_all_of_them_be_drawn_and_paid_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    till = Till()
    before, path = interrupted(tmp_path, till, monkeypatch), tmp_path / "contribution-1.npy"
    kept = np.load(path)
    match damage:
        case "gone":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "changed":
            np.save(path, kept + (np.arange(len(kept)) == 5))
        case "another shape":
            np.save(path, kept[:-1])
        case "another type":
            np.save(path, kept.astype(np.float64))
        case "pickled":
            np.save(path, np.array([object()]), allow_pickle=True)
    after = interrupted(tmp_path, till, monkeypatch)
    assert len(set(till.held)) == 2
    assert all((old != new).any() for old, new in zip(before, after, strict=True))  # the other banks' drafts, too


def test_drafts_that_were_drawn_and_not_paid_for_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the draft and the payment: nothing was contributed, and fresh noise costs no more."""
    unpaid = Till(room=100)
    monkeypatch.setattr(unpaid, "pay", power_cut)
    with pytest.raises(KeyboardInterrupt):
        share_statistics(THREE, NOISY, KEYS, tmp_path, payment=unpaid)
    before = [np.load(path) for path in sorted(tmp_path.glob("contribution-*.npy"))]
    till = Till(room=1)
    released = share_statistics(THREE, NOISY, KEYS, tmp_path, payment=till)
    assert len(before) == 3 and len(till.held) == 1
    assert (released.totals.sums.reshape(-1) != sum(before)).any()


def test_drafts_made_under_another_salt_or_plan_are_not_those_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    till = Till()
    interrupted(tmp_path, till, monkeypatch)
    share_statistics(THREE, NOISY, slots(salt=b"another salt".ljust(len(SALT))), tmp_path, payment=till)
    (tmp_path / TOTALS).unlink()
    interrupted(tmp_path, till, monkeypatch)
    louder = replace(NOISY, noise=plan_laplace(0.04, 3, 1))
    share_statistics(THREE, louder, KEYS, tmp_path, payment=till)
    assert len(set(till.held)) == 4


def test_totals_whose_payment_no_ledger_holds_are_not_read(tmp_path: Path) -> None:
    share_statistics(THREE, NOISY, KEYS, tmp_path, payment=Till())
    with pytest.raises(BudgetLedgerError, match="not paid"):
        share_statistics(THREE, NOISY, KEYS, tmp_path, payment=Till())
    with pytest.raises(StatisticsError, match="expected the banks' ledgers"):
        share_statistics(THREE, NOISY, KEYS, tmp_path)


def test_totals_without_their_salt_are_not_read_under_a_new_one(tmp_path: Path) -> None:
    """Reading makes no salt: under another one every bucket would be another terminal's."""
    plan = windows_plan([FIRST + 19], (10,), 7, KEYS.size, 1)
    share_statistics(THREE, plan, slots(salt=bank_salt(tmp_path)), tmp_path)
    load_release(tmp_path)
    (tmp_path / "salt").unlink()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StatisticsError, match="salt is gone"):
        load_release(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


PRIVATE = ["--customers", "300", "--clients", "3", "--fraud-share", "0.03", "--rounds", "2", "--local-steps", "1"]


@pytest.mark.long
def test_a_run_killed_while_sharing_and_resumed_spends_what_the_ledger_says(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["-m", "demos", "train", *PRIVATE, "--no-baselines", "--run-dir", str(folder), "--json"]
    killed_after_write(tmp_path / "planted", r"/budget/.*\.json$", 2, command)  # two of three banks have paid
    assert len(list((folder / "statistics").glob("contribution-*.npy"))) == 3
    assert len(list((folder / "budget").glob("*.json"))) == 2 and not (folder / "statistics" / "totals.npz").exists()
    resumed = subprocess.run(
        [sys.executable, "-m", "demos", "train", "--resume", str(folder), "--json"], capture_output=True, check=True
    )
    result = json.loads(resumed.stdout)
    for account in bank_budgets(folder):
        assert account.spent <= account.limit and account.releases == 3  # one of counts, two rounds
        assert account.spent == result["privacy"]["per_bank"][account.bank]["epsilon"]
    for path in (folder / "budget").glob("*.json"):
        kinds = [line["kind"] for line in json.loads(path.read_text())["spent"]]
        assert kinds == ["shared counts under Laplace noise", "training steps", "training steps"]
    assert result["statistics"]["sensitivity"] == 1.0 and result["rounds_lost"] == 0


def test_a_release_that_would_overspend_is_refused_before_any_count(tmp_path: Path) -> None:
    ledger = BudgetLedger(tmp_path / "bank.json", "bank", 1.0, 1e-5)
    entry = NoisyCounts(columns=3, resolution=1, share_variance=4.0, shares=1, first_day=0, last_day=9)
    payment = CountsPayment({"bank": ledger}, "run", entry)
    with pytest.raises(BudgetError, match="transaction in shared counts"):
        share_statistics(THREE, NOISY, KEYS, tmp_path / "statistics", payment=payment)
    assert not list(tmp_path.iterdir())


def test_a_payment_of_counts_is_known_by_what_it_paid_for_and_never_by_the_runs_name(tmp_path: Path) -> None:
    ledgers = {bank: BudgetLedger(ledger_path(tmp_path, bank), bank, 3.0, 1e-5) for bank in ("North", "South")}
    entry = NoisyCounts(columns=2, resolution=4, share_variance=400.0, shares=2, first_day=0, last_day=9)
    run, copy = CountsPayment(ledgers, "run", entry), CountsPayment(ledgers, "run", entry)
    ledgers["North"].spend(entry, run="run", round_number=0, bound_to="a")  # killed before South's was recorded
    assert run.began("a") and not run.began("b")
    run.pay("a")
    run.pay("a")
    copy.pay("b")
    assert {bank: [s.bound_to for s in ledger.spends()] for bank, ledger in ledgers.items()} == {
        "North": ["a", "b"],
        "South": ["a", "b"],
    }
    assert not CountsPayment(ledgers, "run", replace(entry, share_variance=900.0)).began("a")
    run.require_paid("b")
    with pytest.raises(BudgetLedgerError, match="does not hold it"):
        run.require_paid("c")
    with pytest.raises(BudgetLedgerError, match="does not hold it"):
        run.require_paid(None)


def test_totals_of_an_earlier_version_are_read_where_the_run_has_paid_by_name(tmp_path: Path) -> None:
    """They are there already, so that nothing is released; a second release asks for a payment of its own."""
    ledger = BudgetLedger(ledger_path(tmp_path, "North"), "North", 3.0, 1e-5)
    entry = NoisyCounts(columns=2, resolution=4, share_variance=400.0, shares=2, first_day=0, last_day=9)
    ledger.spend(entry, run="run", round_number=0)
    CountsPayment({"North": ledger}, "run", entry).require_paid(None)
    with pytest.raises(BudgetLedgerError, match="does not hold it"):
        CountsPayment({"North": ledger}, "another", entry).require_paid(None)
