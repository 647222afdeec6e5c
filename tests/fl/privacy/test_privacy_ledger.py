"""A bank's ledger: what it remembers, what it refuses, and what may lie in its file."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fl.durable import replace_durably
from fl.errors import BudgetError, BudgetExhausted, BudgetLedgerError
from fl.privacy.accounting import epsilon
from fl.privacy.budget import LEDGER_FORMAT, BudgetLedger, ledger_path, read_ledger
from fl.privacy.mechanisms import UNIT, ClientRounds, Entry, LaplaceCounts, Mechanism, NoisyCounts, SharedSteps
from fl.runs.budgets import dearest

DELTA = 1e-5


def open_ledger(folder: Path, limit: float = 3.0, bank: str = "North") -> BudgetLedger:
    return BudgetLedger(ledger_path(folder, bank), bank, limit, DELTA)


ROUND = Mechanism(0.25, 3.0, 20)


def test_a_ledger_remembers_every_run(tmp_path: Path) -> None:
    open_ledger(tmp_path).spend(ROUND, run="first", round_number=1)
    later = open_ledger(tmp_path)
    later.spend(ROUND, run="second", round_number=1)
    assert [(s.run, s.round) for s in later.spends()] == [("first", 1), ("second", 1)]
    assert later.spent() == epsilon([Mechanism(0.25, 3.0, 40)], DELTA)
    assert later.spent("rdp") > later.spent("prv")
    assert json.loads(later.path.read_text())["unit"] == UNIT


def test_a_round_that_would_overspend_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    limit = epsilon([Mechanism(0.25, 3.0, 59)], DELTA)
    ledger = open_ledger(tmp_path, limit)
    ledger.spend(ROUND, run="r", round_number=1)
    ledger.spend(ROUND, run="r", round_number=2)
    before = ledger.path.read_bytes()
    with pytest.raises(BudgetExhausted, match=r"North: round 3 .*nothing was trained"):
        ledger.spend(ROUND, run="r", round_number=3)
    assert ledger.path.read_bytes() == before
    ledger.spend(Mechanism(0.25, 3.0, 19), run="r", round_number=3)  # up to the limit, and no further


def test_raising_the_limit_or_changing_delta_needs_the_bank_itself(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, 3.0)
    ledger.spend(ROUND, run="r", round_number=1)
    with pytest.raises(BudgetError, match="for the life of its data"):
        open_ledger(tmp_path, 3.5)
    with pytest.raises(BudgetError, match="use --delta 1e-05"):
        BudgetLedger(ledger.path, "North", 3.0, 1e-6)
    assert open_ledger(tmp_path, 1.0).epsilon_limit == 1.0  # a run may allow itself less


def test_each_bank_has_a_file_of_its_own_whatever_it_is_called(tmp_path: Path) -> None:
    names = ["A/B", "A B", "A_B", "..", "", "Ä", "x" * 300]
    paths = {ledger_path(tmp_path, name) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent == tmp_path for path in paths)
    north = open_ledger(tmp_path)
    north.spend(ROUND, run="r", round_number=1)
    with pytest.raises(BudgetLedgerError, match="belongs to 'North'"):
        BudgetLedger(north.path, "South", 3.0, DELTA)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"steps": 20', '"steps": -20'),
        lambda text: text.replace('"spent"', '"spend"'),
        lambda text: text.replace(UNIT, "customer"),
        lambda text: text.replace(LEDGER_FORMAT, "fl privacy ledger 9"),
        lambda text: text.replace('"sample_rate": 0.25,', ""),
        lambda text: "[]",
    ],
)
def test_a_damaged_ledger_stops_the_run(tmp_path: Path, damage: object) -> None:
    ledger = open_ledger(tmp_path)
    ledger.spend(ROUND, run="r", round_number=1)
    ledger.path.write_text(damage(ledger.path.read_text()))  # type: ignore[operator]
    with pytest.raises(BudgetLedgerError):
        open_ledger(tmp_path)
    with pytest.raises(BudgetLedgerError):
        ledger.spend(ROUND, run="r", round_number=2)


def _spend_ten(folder: Path, name: str) -> None:
    for number in range(10):
        open_ledger(folder, 50.0).spend(Mechanism(0.01, 5.0, 1), run=name, round_number=number)


def test_two_runs_at_once_lose_no_line(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:  # each opens the lock file anew, as another process would
        list(pool.map(_spend_ten, (tmp_path, tmp_path), ("a", "b")))
    assert len(open_ledger(tmp_path, 50.0).spends()) == 20


def test_a_run_killed_at_any_moment_leaves_a_ledger_that_counts_every_step_taken(tmp_path: Path) -> None:
    """The victim reports a round only after its spend returned; every reported round must be in the file."""
    program = (
        "import itertools, sys\nfrom pathlib import Path\n"
        "from fl.privacy.budget import BudgetLedger\nfrom fl.privacy.mechanisms import Mechanism\n"
        "ledger = BudgetLedger(Path(sys.argv[1]), 'North', 50.0, 1e-5)\n"
        "for number in itertools.count():\n"
        "    ledger.spend(Mechanism(0.001, 20.0, 1), run='r', round_number=number)\n"
        "    print(number, flush=True)\n"
    )
    path = ledger_path(tmp_path, "North")
    victim = subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    for _ in range(25):
        reported = int(victim.stdout.readline())
    os.kill(victim.pid, signal.SIGKILL)
    rest = victim.stdout.read().split()
    victim.wait()
    last = int(rest[-1]) if rest else reported
    recorded = [s.round for s in open_ledger(tmp_path, 50.0).spends()]
    assert recorded == list(range(len(recorded)))
    assert last <= recorded[-1] <= last + 1


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    replace_durably(path, b"old")

    def power_cut(*_: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", power_cut)
    with pytest.raises(OSError, match="power cut"):
        replace_durably(path, b"newer and longer")
    assert path.read_bytes() == b"old"


# --- what a refused run leaves behind --------------------------------------------------------------------------------

IMPOSSIBLE = [
    ("epsilon", math.nan, DELTA),
    ("epsilon", math.inf, DELTA),
    ("epsilon", 0.0, DELTA),
    ("epsilon", -3.0, DELTA),
    ("epsilon", 1e308, DELTA),
    ("epsilon", "3", DELTA),
    ("epsilon", True, DELTA),
    ("delta", 3.0, 2.0),
    ("delta", 3.0, 0.9),
    ("delta", 3.0, 0.0),
    ("delta", 3.0, -1e-5),
    ("delta", 3.0, math.nan),
]


@pytest.mark.parametrize(("name", "limit", "delta"), IMPOSSIBLE)
def test_an_impossible_budget_is_refused_before_any_file_exists(
    tmp_path: Path, name: str, limit: Any, delta: Any
) -> None:
    with pytest.raises(BudgetError, match=f"^{name}: expected a number above 0 and up to .*, got "):
        BudgetLedger(ledger_path(tmp_path / "budget", "North"), "North", limit, delta)
    assert not list(tmp_path.iterdir())


def test_a_ledger_that_nobody_spent_from_is_no_file_and_fixes_no_limit(tmp_path: Path) -> None:
    """A run that is refused after it looked at its budget must not decide what all later runs may spend."""
    refused = open_ledger(tmp_path / "budget", 0.1)
    assert refused.history() == [] and refused.spent() == 0.0
    with pytest.raises(BudgetExhausted):
        refused.spend(ROUND, run="r", round_number=1)
    assert not list((tmp_path / "budget").glob("*.json"))
    open_ledger(tmp_path / "budget", 3.0).spend(ROUND, run="r", round_number=1)
    assert read_ledger(refused.path, "North").epsilon_limit == 3.0


def test_of_two_runs_that_both_find_no_ledger_the_first_spend_decides(tmp_path: Path) -> None:
    small, large = open_ledger(tmp_path, 1.0), open_ledger(tmp_path, 3.0)
    other = BudgetLedger(small.path, "North", 1.0, 1e-6)
    small.spend(Mechanism(0.01, 5.0, 1), run="small", round_number=1)
    before = small.path.read_bytes()
    for late, words in ((large, "for the life of its data"), (other, "use --delta 1e-05")):
        with pytest.raises(BudgetError, match=words):
            late.spend(Mechanism(0.01, 5.0, 1), run="late", round_number=1)
    assert small.path.read_bytes() == before


def test_a_total_that_is_no_number_is_never_within_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(tmp_path)
    monkeypatch.setattr("fl.privacy.budget.epsilon", lambda *_: math.nan)
    with pytest.raises(BudgetExhausted, match="would bring epsilon to nan"):
        ledger.spend(ROUND, run="r", round_number=1)
    assert not ledger.path.exists()


def test_reading_a_ledger_writes_nothing(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    ledger.spend(ROUND, run="r", round_number=1)
    ledger.path.with_suffix(".lock").unlink()
    before = ledger.path.read_bytes()
    again = open_ledger(tmp_path)
    assert len(again.spends()) == 1 and again.spent() > 0.0
    again.require_room(ROUND, round_number=2)
    assert list(tmp_path.iterdir()) == [ledger.path] and ledger.path.read_bytes() == before


# --- files that were poisoned, by a run of an earlier version or by hand --------------------------------------------


def _edited(folder: Path, change: Callable[[dict[str, Any]], object], entry: Entry = ROUND) -> Path:
    ledger = open_ledger(folder, 50.0)
    ledger.spend(entry, run="r", round_number=1)
    content = json.loads(ledger.path.read_text())
    change(content)
    ledger.path.write_text(json.dumps(content))
    return ledger.path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon_limit", math.nan),
        ("epsilon_limit", math.inf),
        ("epsilon_limit", -1.0),
        ("epsilon_limit", 0),
        ("epsilon_limit", 1e308),
        ("epsilon_limit", 10**400),
        ("epsilon_limit", "50"),
        ("epsilon_limit", True),
        ("epsilon_limit", None),
        ("delta", 2.0),
        ("delta", 0.9),
        ("delta", math.nan),
        ("delta", 0.0),
    ],
)
def test_a_poisoned_limit_or_delta_is_named_and_says_what_to_do(tmp_path: Path, key: str, value: Any) -> None:
    path = _edited(tmp_path, lambda content: content.update({key: value}))
    before = path.read_bytes()
    with pytest.raises(
        BudgetLedgerError, match=rf"{key.split('_')[0]}: expected .*The 1 releases in this file stand.*itself"
    ):
        open_ledger(tmp_path, 50.0)
    assert path.read_bytes() == before
    content = json.loads(before)
    content.update({"epsilon_limit": 50.0, "delta": DELTA})  # as the message says
    path.write_text(json.dumps(content))
    assert len(open_ledger(tmp_path, 50.0).spends()) == 1


COUNTS = NoisyCounts(2, 4, 64.0, 3, 0, 30)
LAPLACE = LaplaceCounts(2.6, 1, 9, 0, 30, 1e-30)
STEPS = SharedSteps(1000.0, 2500.0**2, 16, 50, 1)
CLIENTS = ClientRounds(1000.0, 2500.0**2, 16, 50, 1)
HOSTILE: tuple[Any, ...] = (math.nan, math.inf, -1, 0, 1e308, -1e308, 10**400, True, "1", None, [], {}, 0.5)


@pytest.mark.parametrize("entry", [ROUND, COUNTS, LAPLACE, STEPS, CLIENTS], ids=lambda entry: type(entry).__name__)
def test_every_kind_of_release_is_read_as_it_was_written(tmp_path: Path, entry: Entry) -> None:
    ledger = open_ledger(tmp_path, 50.0)
    ledger.spend(entry, run="r", round_number=1, bound_to="hash")
    (spend,) = open_ledger(tmp_path, 50.0).spends()
    assert (spend.mechanism, spend.bound_to) == (entry, "hash")


@pytest.mark.parametrize("entry", [ROUND, COUNTS, LAPLACE, STEPS, CLIENTS], ids=lambda entry: type(entry).__name__)
def test_no_number_in_a_line_makes_what_was_spent_free(tmp_path: Path, entry: Entry) -> None:
    """Every field of every kind of release, with hostile values: refused by name, or counted as what it now says."""
    for field in vars(entry):
        for value in HOSTILE:
            path = _edited(tmp_path, lambda c, f=field, v=value: c["spent"][0]["mechanism"].update({f: v}), entry)
            try:
                spent = read_ledger(path, "North").spends
            except BudgetLedgerError as refused:
                assert str(path) in str(refused)
            else:
                # Types of numbers survive as they are; whatever is let through has a price.
                assert value in (-1, 0, 0.5) and epsilon([spent[0].mechanism], DELTA) > 0.0
            path.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace('"spent": [', '"spent": [], "spent": ['),
        lambda text: text.replace('"spent": [', '"spent": {}, "was": ['),
        lambda text: text.replace('"spent": [', '"spent": "", "was": ['),
        lambda text: text.replace('"round": 1', '"round": 1.5'),
        lambda text: text.replace('"round": 1', '"round": -1'),
        lambda text: text.replace('"run": "r"', '"run": 7'),
        lambda text: text.replace(f'"unit": "{UNIT}",\n   "mech', '"unit": "x",\n   "mech'),
        lambda text: "[" * 100_000,
        lambda text: text.replace("North", "\udc80"),
    ],
)
def test_a_file_that_could_be_read_in_two_ways_is_read_in_none(tmp_path: Path, damage: Callable[[str], str]) -> None:
    ledger = open_ledger(tmp_path)
    ledger.spend(ROUND, run="r", round_number=1)
    damaged = damage(ledger.path.read_text())
    assert damaged != ledger.path.read_text()
    ledger.path.write_bytes(damaged.encode("utf-8", "surrogateescape"))
    with pytest.raises(BudgetLedgerError, match="no ledger this program wrote"):
        open_ledger(tmp_path)


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_ledger_behind_a_link_is_refused_since_the_link_would_be_replaced(tmp_path: Path, target: str) -> None:
    """What was spent would be written where the link was, and the ledger that it led to would never hear of it."""
    real = open_ledger(tmp_path / "lifelong")
    if target == "there":
        real.spend(ROUND, run="r", round_number=1)
    linked = ledger_path(tmp_path / "here", "North")
    linked.parent.mkdir()
    linked.symlink_to(real.path)
    with pytest.raises(BudgetLedgerError, match="got a link"):
        open_ledger(tmp_path / "here")
    assert linked.is_symlink()


def test_a_folder_of_ledgers_may_be_a_link_and_is_the_same_folder(tmp_path: Path) -> None:
    open_ledger(tmp_path / "lifelong").spend(ROUND, run="a", round_number=1)
    (tmp_path / "here").symlink_to(tmp_path / "lifelong")
    open_ledger(tmp_path / "here").spend(ROUND, run="b", round_number=1)
    assert [spend.run for spend in open_ledger(tmp_path / "lifelong").spends()] == ["a", "b"]


def test_what_a_spend_is_bound_to_is_kept_and_ledgers_without_it_are_read(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, 50.0)
    ledger.spend(ROUND, run="r", round_number=1)
    ledger.spend(COUNTS, run="r", round_number=0, bound_to="ab" * 32)
    assert [spend.bound_to for spend in open_ledger(tmp_path, 50.0).spends()] == [None, "ab" * 32]
    assert "bound_to" not in json.loads(ledger.path.read_text())["spent"][0]  # as earlier versions wrote it


def test_a_clock_that_runs_backwards_or_stands_still_changes_no_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a line is for people: what was spent is the lines, in their order."""
    hours = iter([23, 1, 1, 0])

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(1969, 12, 31, next(hours), tzinfo=tz)

    monkeypatch.setattr("fl.privacy.budget.datetime", Clock)
    ledger = open_ledger(tmp_path, 50.0)
    for number in range(4):
        ledger.spend(ROUND, run="r", round_number=number)
    assert [spend.round for spend in ledger.spends()] == [0, 1, 2, 3]
    assert ledger.spent() == epsilon([Mechanism(0.25, 3.0, 80)], DELTA)


def test_a_figure_outside_prvs_range_is_shown_with_the_name_of_renyi_dp(tmp_path: Path) -> None:
    ledger = BudgetLedger(ledger_path(tmp_path, "North"), "North", 50.0, 1e-12)
    ledger.spend(Mechanism(0.25, 3.0, 100), run="r", round_number=1)
    told = dearest({"North": ledger})
    assert told == (ledger.spent("rdp"), "RDP") and ledger.spent() == ledger.spent("rdp")
