"""Private counts of frauds: what one label moves, which labels come too late, several kinds of party, one roster."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from till import Till

from fl.counts.columns import SharedColumns, input_names, parties_at
from fl.counts.evidence import own_evidence
from fl.counts.key_slots import AllSlots, KeySlots
from fl.counts.plan import Totals, bank_counts, contribution, fraud_blocks_plan
from fl.counts.release import load_release, share_statistics
from fl.counts.settings import (
    StatisticsSettings,
    block_days,
    cost_of_frauds,
    default_settings,
    describe,
    key_slots,
    law_of_noise,
    moved,
    noise_of,
    plan_sharing,
)
from fl.data.features import features
from fl.data.federation import PartitionedTable
from fl.data.partition import Partition
from fl.data.reading import Transactions, transactions_from_frame
from fl.data.schema import Schema
from fl.data.schema_file import parse_schema
from fl.data.split import periods_for
from fl.data.split import split as split_rows
from fl.errors import StatisticsError
from fl.privacy.discrete_laplace import plan_laplace
from fl.privacy.mechanisms import LaplaceCounts, NoisyCounts
from fl.privacy.noise_shares import plan_noise

SALT = bytes(range(32))
DAYS = 40
FIRST = 19_723  # 2024-01-01
SCHEMA_TEXT = """
name = "cards"
[label]
column = "FRAUD"
delay_days = 7
{known}
[time]
column = "TIME"
[parties]
customer = "CARD"
terminal = "TERMINAL"
device = "DEVICE"
shared = {shared}
{parties}
[split]
train = [2024-01-20, 2024-01-25]
test = [[2024-02-02, 2024-02-07]]
"""


def schema(shared: str = '["terminal"]', *, known: str = "", parties: str = "") -> Schema:
    return parse_schema(SCHEMA_TEXT.format(shared=shared, known=known, parties=parties), "cards.toml")


TERMINALS = schema()
BOTH = schema('["terminal", "device"]')
SLOTS = AllSlots((KeySlots(("T0", "T1", "T2"), 2, SALT), KeySlots((), 4, SALT, "device")))
KINDS = [(each.kind, each.size) for each in SLOTS.kinds]


def frame(rows: int, seed: int, banks: int = 3) -> pd.DataFrame:
    """Transactions of 40 days; rows 0 and 1 are one genuine and one fraud."""
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, DAYS, rows))
    return pd.DataFrame(
        {
            "TIME": pd.Timestamp("2024-01-01") + pd.to_timedelta(day, unit="D"),
            "CARD": rng.integers(0, 30, rows).astype(str),
            "TERMINAL": [f"T{i}" for i in rng.integers(0, 6, rows)],
            "DEVICE": [f"D{i}" for i in rng.integers(0, 9, rows)],
            "BANK": [f"bank-{i}" for i in rng.integers(0, banks, rows)],
            "FRAUD": np.where(np.arange(rows) < 2, np.arange(rows), rng.random(rows) < 0.3).astype(int),
        }
    )


def table(rows: pd.DataFrame, of: Schema = BOTH) -> Transactions:
    return transactions_from_frame(rows, of, "made up", needs_fraud=False)


def by_bank(rows: pd.DataFrame, of: Schema = BOTH, banks: int = 3) -> list[tuple[str, Transactions]]:
    return [(f"bank-{i}", table(rows[rows.BANK.eq(f"bank-{i}")], of)) for i in range(banks)]


PLAN = fraud_blocks_plan([FIRST + 39], FIRST, 7, 3, KINDS, None)
NOISY = replace(PLAN, noise=plan_laplace(0.05, 3, 1))


@given(rows=st.integers(2, 60), seed=st.integers(0, 2**32), which=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_changing_one_label_changes_one_count_of_each_kind_by_one(rows: int, seed: int, which: int) -> None:
    before = frame(rows, seed)
    after = before.copy()
    after.loc[which % rows, "FRAUD"] = 1 - before.FRAUD[which % rows]
    change = bank_counts(table(after), SLOTS, PLAN) - bank_counts(table(before), SLOTS, PLAN)
    first, last = PLAN.days
    counted = first - FIRST <= (before.TIME[which % rows] - pd.Timestamp("2024-01-01")).days <= last - FIRST
    for section in PLAN.sections.values():
        assert np.abs(change[:, section]).sum() == counted
    assert np.abs(change).max() <= 1 and np.abs(change).sum() == counted * PLAN.moved


@given(rows=st.integers(2, 60), seed=st.integers(0, 2**32), to=st.integers(0, 2))
@settings(max_examples=30, deadline=None)
def test_moving_a_fraud_to_another_party_or_block_changes_two_counts(rows: int, seed: int, to: int) -> None:
    before = frame(rows, seed)
    before.loc[1, ["TIME", "TERMINAL"]] = [pd.Timestamp("2024-01-04"), "T0"]
    after = before.copy()
    after.loc[1, ["TIME", "TERMINAL"]] = [
        (pd.Timestamp("2024-01-04"), "T1"),
        (pd.Timestamp("2024-01-20"), "T0"),
        (pd.Timestamp("2024-01-05"), "T0"),  # the same block: 19,725 to 19,727
    ][to]
    change = bank_counts(table(after), SLOTS, PLAN) - bank_counts(table(before), SLOTS, PLAN)
    terminal, device = (np.sort(change[:, section][change[:, section] != 0]) for section in PLAN.sections.values())
    assert terminal.tolist() == ([-1, 1] if to < 2 else [])
    assert device.tolist() == ([-1, 1] if to == 1 else [])


def test_a_row_that_stands_there_several_times_counts_as_often() -> None:
    once = frame(2, 0)
    once.loc[1, "TIME"] = pd.Timestamp("2024-01-04")
    many = pd.concat([once, *[once.iloc[1:]] * 4], ignore_index=True)
    assert (bank_counts(table(many), SLOTS, PLAN) == 5 * bank_counts(table(once), SLOTS, PLAN)).all()


def test_nothing_but_frauds_is_counted() -> None:
    rows = frame(50, 3)
    with_more = pd.concat([rows, rows.assign(FRAUD=0)], ignore_index=True)
    assert PLAN.columns == 1 and PLAN.column_names == ("frauds",)
    assert (bank_counts(table(rows), SLOTS, PLAN) == bank_counts(table(with_more), SLOTS, PLAN)).all()


@given(late=st.integers(0, 20), day=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_a_label_that_comes_after_its_block_was_closed_is_left_out(late: int, day: int) -> None:
    """Days 19,725 to 19,727 are one block, which is closed when day 19,734 ends."""
    of = schema(known='known = "LABELLED"')
    rows = frame(2, 0).assign(LABELLED=pd.NaT)
    rows.loc[1, "TIME"] = pd.Timestamp("2024-01-01") + pd.Timedelta(days=day)
    rows.loc[1, "LABELLED"] = rows.TIME[1] + pd.Timedelta(days=late, hours=5)
    rows.TIME = pd.to_datetime(rows.TIME)
    slots = AllSlots(SLOTS.kinds[:1])
    plan = fraud_blocks_plan([FIRST + 39], FIRST, 7, 3, KINDS[:1], None)
    counted = bank_counts(table(rows, of), slots, plan)
    block = next(i for i, period in enumerate(plan.periods) if period.first <= FIRST + day <= period.last)
    assert plan.periods[block].last == FIRST + 4
    assert counted[block].sum() == counted.sum() == (day + late <= 4 + 7)


def test_a_released_block_does_not_change_when_labels_do(tmp_path: Path) -> None:
    banks = by_bank(frame(200, 1))
    till = Till()
    first = share_statistics(banks, NOISY, SLOTS, tmp_path, payment=till)
    corrected = by_bank(frame(200, 1).assign(FRAUD=1))
    again = share_statistics(corrected, NOISY, SLOTS, tmp_path, payment=till)
    assert (again.totals.sums == first.totals.sums).all() and len(till.held) == 1


def test_kinds_have_slots_of_their_own_and_are_counted_apart(tmp_path: Path) -> None:
    rows = frame(300, 5)
    (tmp_path / "salt").write_bytes(SALT)
    released = share_statistics(by_bank(rows), PLAN, SLOTS, tmp_path).totals
    totals, keys = load_release(tmp_path)
    assert keys == SLOTS and totals.plan == PLAN and (totals.sums == released.sums).all()
    held = table(rows)
    inside = (held.label == 1) & (held.day >= PLAN.days[0]) & (held.day <= PLAN.days[1])
    for kind, column in (("terminal", "TERMINAL"), ("device", "DEVICE")):
        expected = np.zeros(dict(KINDS)[kind])
        slot = SLOTS.of(kind, rows[column].to_numpy(object)) - PLAN.sections[kind].start
        np.add.at(expected, slot[inside], 1)
        blocks = totals.blocks(kind)
        assert (blocks.frauds.sum(axis=0) == expected).all() and expected.sum() > 50
        assert blocks.noise is None and blocks.periods == PLAN.periods
    with pytest.raises(StatisticsError, match="expected counts of frauds alone by account"):
        totals.blocks("account")
    with pytest.raises(StatisticsError, match="counts of frauds alone, expected transactions"):
        totals.counts()


def test_a_kind_without_a_register_has_buckets_that_depend_on_the_salt() -> None:
    names = np.array([f"D{i}" for i in range(300)], object)
    wide = KeySlots((), 10_000, SALT, "device")
    assert (replace(wide, salt=bytes(32)).of(names) != wide.of(names)).mean() > 0.95
    assert (replace(wide, kind="account").of(names) != wide.of(names)).mean() > 0.95  # equal names, unlike kinds
    with pytest.raises(StatisticsError, match="each once"):
        AllSlots((wide, wide))
    with pytest.raises(StatisticsError, match="expected one of"):
        AllSlots((wide,)).of("terminal", names)


def test_slots_are_named_by_all_that_they_are() -> None:
    terminal, device = SLOTS.kinds
    others = [
        AllSlots((device, terminal)),
        AllSlots((replace(terminal, salt=bytes(32)), device)),
        AllSlots((replace(terminal, buckets=3), device)),
        AllSlots((replace(terminal, directory=("T0", "T1T2", "")), device)),
        AllSlots((replace(terminal, directory=("T0", "T2", "T1")), device)),
    ]
    assert len({each.sha256 for each in [SLOTS, *others]}) == 6 and SALT.hex() not in repr(SLOTS)


# --- what a ledger is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reports", "of", "kinds"), [(1, TERMINALS, 1), (2, TERMINALS, 1), (1, BOTH, 2), (2, BOTH, 2)])
def test_kinds_and_reports_multiply_what_a_transaction_pays(reports: int, of: Schema, kinds: int) -> None:
    plan = fraud_blocks_plan([FIRST + 39], FIRST, 7, 3, KINDS[:kinds], plan_laplace(0.5, 5, 2), reports=reports)
    entry = plan.entry
    assert isinstance(entry, LaplaceCounts) and entry.shares == 3
    assert (entry.first_day, entry.last_day) == plan.days == (FIRST + 2, FIRST + 31)
    assert entry.epsilon * entry.moved == pytest.approx(0.5 * kinds * reports) and plan.moved == kinds * reports
    gaussian = replace(plan, noise=plan_noise(2.0, 5, 2)).entry
    assert isinstance(gaussian, NoisyCounts)
    once = plan_noise(2.0, 5, 2).resolution
    assert gaussian.resolution * gaussian.columns**0.5 == pytest.approx(once * reports * kinds**0.5)
    assert PLAN.entry is None


def test_epsilon_is_split_among_kinds_and_reports() -> None:
    asked = replace(default_settings(private=True), epsilon=1.2)
    for of, each in ((TERMINALS, 1.2), (BOTH, 0.6), (schema(parties='reported_by = "issuer and acquirer"'), 0.6)):
        assert noise_of(asked, of, 3) == plan_laplace(each, 3, 1)
        assert moved(of) * each == pytest.approx(1.2)


def test_m_frauds_of_one_entity_cost_m_times_as_much() -> None:
    assert NOISY.entry is not None
    assert cost_of_frauds(NOISY.entry, 5, 1e-5) == pytest.approx(5 * 0.05 * 2)
    gaussian = replace(NOISY, noise=plan_noise(4.0, 3, 1)).entry
    assert gaussian is not None
    costs = [cost_of_frauds(gaussian, m, 1e-5) for m in (1, 2, 5)]
    assert all(2 * less < more for less, more in pairwise(costs))  # above proportional, as it is for a Gaussian


# --- one roster -----------------------------------------------------------------------------------------------------


FOUR = by_bank(frame(400, 2, banks=4), banks=4)
THREE = FOUR[:3]


def power_cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def killed(banks: list[tuple[str, Transactions]], folder: Path, till: Till) -> list[np.ndarray]:
    """The drafts of a release that was paid for and perhaps summed, and whose totals never reached the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fl.counts.release.write_totals", power_cut)
        with pytest.raises(KeyboardInterrupt):
            share_statistics(banks, NOISY, SLOTS, folder, payment=till)
    return [np.load(path) for path in sorted(folder.glob("contribution-*.npy"))]


def test_a_killed_release_is_finished_with_its_drafts_by_the_same_members(tmp_path: Path) -> None:
    till = Till(room=1)
    drafts = killed(THREE, tmp_path, till)
    done = share_statistics(THREE, NOISY, SLOTS, tmp_path, payment=till)
    assert (done.totals.sums.reshape(-1) == sum(drafts)).all() and till.held == [done.release]


@pytest.mark.parametrize("roster", [[0, 1, 3], [1, 0, 2], [3, 1, 2]])
def test_another_roster_draws_and_pays_anew(tmp_path: Path, roster: list[int]) -> None:
    """The difference of two sums with the same drafts would be one bank's counts under its own share alone."""
    till = Till()
    before = killed(THREE, tmp_path, till)
    after = killed([FOUR[i] for i in roster], tmp_path, till)
    assert len(set(till.held)) == 2
    assert all((one != other).any() for one in before for other in after)
    back = share_statistics(THREE, NOISY, SLOTS, tmp_path, payment=till)  # the first roster's drafts are gone by now
    assert len(set(till.held)) == 3 and (back.totals.sums.reshape(-1) != sum(before)).any()
    assert not list(tmp_path.glob("contribution-*.npy"))


def test_a_smaller_roster_than_planned_aborts_before_anything_is_drawn_or_paid(tmp_path: Path) -> None:
    till = Till()
    planned = replace(NOISY, noise=plan_laplace(0.05, 4, 1))
    with pytest.raises(StatisticsError, match="planned for 4 banks, got 3"):
        share_statistics(THREE, planned, SLOTS, tmp_path, payment=till)
    assert not till.held and not list(tmp_path.iterdir())
    with pytest.raises(StatisticsError, match="planned for 4 banks, and the roster holds 3"):
        contribution(np.zeros(planned.shape, np.int64), planned, roster=3)


def test_totals_of_other_banks_are_not_read(tmp_path: Path) -> None:
    till = Till()
    share_statistics(THREE, NOISY, SLOTS, tmp_path, payment=till)
    with pytest.raises(StatisticsError, match="totals of other banks"):
        share_statistics([*THREE[:2], FOUR[3]], NOISY, SLOTS, tmp_path, payment=till)


@pytest.mark.parametrize("damage", ["list", "reports", "noise", "kinds", "epsilon"])
def test_damaged_totals_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    (tmp_path / "salt").write_bytes(SALT)
    share_statistics(THREE, NOISY, SLOTS, tmp_path, payment=Till())
    with np.load(tmp_path / "totals.npz") as file:
        arrays = dict(file)
    about = json.loads(bytes(arrays["about"]))
    match damage:
        case "list":
            about = [about]
        case "reports":
            about["reports"] = 7
        case "noise":
            about["noise"] = {"sigma": "much", "banks": 3, "colluders": 1}
        case "kinds":
            about["kinds"][0]["buckets"] += 1
        case "epsilon":
            about["noise"]["epsilon"] = -1
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(tmp_path / "totals.npz", **arrays)
    with pytest.raises(StatisticsError, match=r"totals|reports|slots|expected"):
        load_release(tmp_path)


# --- public rules -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source() -> PartitionedTable:
    return partitioned(BOTH)


def partitioned(of: Schema) -> PartitionedTable:
    rows = table(frame(2000, 9), of)
    periods = periods_for(of, rows)
    banks = tuple(
        (f"bank-{i}", at, split_rows(rows.take(at), periods, 0))
        for i, at in enumerate(np.array_split(np.arange(2000), 3))
    )
    return PartitionedTable(rows, Partition("made up", clients=3), periods, banks, 0)


@pytest.mark.parametrize(
    ("epsilon", "days"), [(0.7, 7), (1.2, 7), (1.21, 3), (1.9, 3), (2.6, 2), (4.0, 2), (4.1, 1), (7.2, 1)]
)
def test_the_noisier_a_count_the_more_days_are_in_a_block(source: PartitionedTable, epsilon: float, days: int) -> None:
    assert block_days(epsilon, 3, 1) == block_days(epsilon, 10, 1) == days
    asked = replace(default_settings(private=True), epsilon=2 * epsilon)  # for two kinds
    plan = plan_sharing(source, asked, noise_of(asked, BOTH, 3))
    assert {len(period) for period in plan.periods} == {days} and plan.counts_frauds and plan.moved == 2
    chosen = replace(asked, increment_days=4)
    assert {len(period) for period in plan_sharing(source, chosen, noise_of(chosen, BOTH, 3)).periods} == {4}


@pytest.mark.parametrize(("epsilon", "days"), [(0.75, 7), (2.6, 7), (3.5, 3), (5.0, 2), (7.2, 1), (500.0, 1)])
def test_where_all_other_banks_may_collude_their_noise_makes_blocks_longer(epsilon: float, days: int) -> None:
    assert block_days(epsilon, 10, 9) == days


def test_the_noise_of_counts_is_laplace_unless_asked_otherwise(source: PartitionedTable) -> None:
    asked = replace(default_settings(private=True), epsilon=2.6)
    assert law_of_noise(asked) == "laplace" and law_of_noise(replace(asked, count_noise="gaussian")) == "gaussian"
    gaussian = replace(asked, count_noise="gaussian", sigma=1.5)
    assert noise_of(gaussian, BOTH, 3) == plan_noise(1.5, 3, 1)
    plan = plan_sharing(source, gaussian, noise_of(gaussian, BOTH, 3))
    assert plan.noise == plan_noise(1.5, 3, 1) and {len(period) for period in plan.periods} == {block_days(1.3, 3, 1)}
    with pytest.raises(StatisticsError, match="need the epsilon"):
        noise_of(default_settings(private=True), BOTH, 3)


def test_settings_of_an_earlier_version_plan_what_it_released() -> None:
    old = StatisticsSettings(1, increment_days=5, sigma=3.672)
    assert old.of_earlier_version and not replace(old, epsilon=1.5).of_earlier_version
    plan = plan_sharing(partitioned(TERMINALS), old, noise_of(old, TERMINALS, 3))
    assert plan.mode == "private increments" and plan.columns == 2
    assert old.undecided() == StatisticsSettings(1, increment_days=5)


def test_exact_counts_of_frauds_have_blocks_of_one_day_and_suppress_nothing(source: PartitionedTable) -> None:
    asked = default_settings(private=False, fraud_blocks=True)
    plan = plan_sharing(source, asked, None, fraud_blocks=True)
    assert plan.counts_frauds and plan.noise is None and {len(period) for period in plan.periods} == {1}
    with pytest.raises(StatisticsError, match="expected 1, got 3: use --min-banks 1"):
        plan_sharing(source, default_settings(private=False), None, fraud_blocks=True)


@pytest.mark.parametrize("of", [BOTH, schema('["device"]'), schema(parties='reported_by = "issuer and acquirer"')])
def test_exact_windows_of_other_parties_than_the_terminal_are_refused(of: Schema) -> None:
    with pytest.raises(StatisticsError, match="exact windows count terminals alone"):
        plan_sharing(partitioned(of), default_settings(private=False), None)


def test_only_terminals_have_a_register(source: PartitionedTable) -> None:
    terminal, device = key_slots(source, default_settings(private=True), SALT).kinds
    assert terminal.directory == tuple(f"T{i}" for i in range(6)) and terminal.buckets == 1024
    assert device.kind == "device" and device.directory == () and device.buckets == 1024


def test_the_result_says_what_was_shared_and_what_several_frauds_cost(tmp_path: Path) -> None:
    released = share_statistics(THREE, NOISY, SLOTS, tmp_path, payment=Till())
    told = describe(released, SLOTS, 1e-5)
    assert told["mode"] == "private fraud counts" and told["columns"] == ["frauds"] and told["noise"] == "laplace"
    assert told["epsilon"] == pytest.approx(0.1) and told["sensitivity"] == 2.0 and told["increment_days"] == 3
    assert told["cost_of_frauds"] == pytest.approx({"2": 0.2, "5": 0.5, "10": 1.0})
    assert told["frauds_in_one_hand"] == ["device"] and told["kinds"] == ["terminal", "device"]
    exact = replace(released, totals=Totals(PLAN, released.totals.sums))
    assert "exact counts of frauds" in describe(exact, SLOTS, None)["warning"]
    json.dumps(told)


def test_columns_are_sums_of_the_newest_blocks_over_their_noise() -> None:
    sums = np.zeros(NOISY.shape, np.int64)
    sums[-1, SLOTS.of("terminal", np.array(["T1"], object))] = 30
    columns = SharedColumns(BOTH, SLOTS, Totals(NOISY, sums))
    held = table(frame(4, 0).assign(TERMINAL=["T0", "T1", "T1", "T2"], TIME=pd.Timestamp("2024-02-09")))
    x = columns.extend(
        np.zeros((4, len(features(BOTH))), np.float32), held.day, parties_at(held, ["terminal", "device"])
    )
    names = input_names(BOTH, NOISY)
    assert x.shape == (4, len(names)) and names[-1].startswith("device_frauds_")
    newest = x[:, names.index("terminal_frauds_3d_all_banks")]
    assert NOISY.noise is not None
    assert newest.tolist() == pytest.approx([0.0, *[0.5 * 30 / NOISY.noise.released_sigma] * 2, 0.0])
    assert not x[:, [name.startswith("device_frauds") for name in names]].any()


@pytest.mark.parametrize("known", ["", 'known = "LABELLED"'])
def test_a_banks_own_evidence_is_what_it_counted_in_the_release(known: str) -> None:
    of = schema('["terminal", "device"]', known=known)
    rows = frame(400, 11)
    delay = pd.to_timedelta(np.random.default_rng(1).integers(0, 14, 400), unit="D")
    rows["LABELLED"] = rows.TIME + delay
    held = table(rows, of)
    counts = bank_counts(held, SLOTS, PLAN)[:, :, 0]
    for kind, section in PLAN.sections.items():
        evidence = own_evidence(held, SLOTS, kind, PLAN.periods)
        counted = evidence.frauds if evidence.counted is None else evidence.counted
        for i, period in enumerate(PLAN.periods):
            days = slice(period.first - evidence.first_day, period.last + 1 - evidence.first_day)
            assert (counted[days].sum(axis=0) == counts[i, section]).all()
    assert evidence.transactions.sum() == 400
    alone = own_evidence(held, SLOTS, "terminal")
    in_time = rows.FRAUD.eq(1) & (delay.days <= 7 if known else True)
    assert alone.frauds.sum() == in_time.sum() and alone.slots == KINDS[0][1]
    assert alone.frauds.sum() + len(alone.late.known) == rows.FRAUD.sum()
    assert (len(alone.late.known) > 0) == bool(known)
