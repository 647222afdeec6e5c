from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from fl import privacy
from fl.calibrate import SMALLEST_NOISE, calibrate
from fl.durable import replace_durably
from fl.errors import BudgetError, BudgetExhausted, LedgerError
from fl.privacy import UNIT, Ledger, Mechanism, epsilon, ledger_path

DELTA = 1e-5


def open_ledger(folder: Path, limit: float = 3.0, bank: str = "North") -> Ledger:
    return Ledger(ledger_path(folder, bank), bank, limit, DELTA)


# --- accountants
# ----------------------------------------------------------------------------------------------------


def exact_gaussian_epsilon(noise_multiplier: float, steps: int, delta: float) -> float:
    """Balle and Wang, ICML 2018, theorem 8: the exact curve of `steps` Gaussian mechanisms without
    sampling.
    """
    mu = math.sqrt(steps) / noise_multiplier

    def spent_delta(eps: float) -> float:
        return float(norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu)) - delta

    return float(brentq(spent_delta, 1e-6, 50.0))


@pytest.mark.parametrize(("noise", "steps"), [(13.3, 100), (2.0, 1), (40.0, 30)])
def test_without_sampling_prv_is_just_above_the_exact_gaussian_curve(noise: float, steps: int) -> None:
    exact = exact_gaussian_epsilon(noise, steps, DELTA)
    assert exact <= epsilon([Mechanism(1.0, noise, steps)], DELTA) <= exact + 0.03


def test_the_accountants_agree_with_figures_checked_against_dp_accounting() -> None:
    """q = 1/16, noise 1, 16 steps: dp-accounting 0.5 gives RDP 2.764 and PLD 2.242."""
    history = [Mechanism(1 / 16, 1.0, 16)]
    assert epsilon(history, DELTA, "rdp") == pytest.approx(2.764, abs=1e-3)
    assert 2.242 <= epsilon(history, DELTA, "prv") <= 2.26


def test_splitting_steps_over_rounds_costs_nothing_more_nor_less() -> None:
    whole = epsilon([Mechanism(0.25, 3.0, 40)], DELTA)
    assert epsilon([Mechanism(0.25, 3.0, 10)] * 4, DELTA) == whole
    mixed = [Mechanism(0.25, 3.0, 20), Mechanism(0.1, 2.0, 5)]
    assert epsilon(mixed, DELTA) == epsilon(mixed[::-1], DELTA)


def test_nothing_spent_is_zero_and_hopeless_spending_is_infinite() -> None:
    assert epsilon([], DELTA) == 0.0
    assert epsilon([Mechanism(1.0, 0.01, 100)], DELTA) == math.inf


@pytest.mark.parametrize("values", [(0.0, 1.0, 1), (1.1, 1.0, 1), (0.5, 0.0, 1), (0.5, math.nan, 1), (0.5, 1.0, 0)])
def test_impossible_mechanisms_are_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(BudgetError):
        Mechanism(*values)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5])
def test_delta_outside_its_range_is_refused(delta: float) -> None:
    with pytest.raises(BudgetError, match="delta"):
        epsilon([], delta)


# --- calibration
# ----------------------------------------------------------------------------------------------------


@given(rate=st.sampled_from([0.05, 0.25, 1.0]), steps=st.integers(1, 60), limit=st.sampled_from([0.5, 3.0, 8.0]))
@settings(max_examples=8, deadline=None)
def test_calibrated_noise_stays_in_the_limit_and_no_smaller_noise_would(rate: float, steps: int, limit: float) -> None:
    noise = calibrate([], sample_rate=rate, steps=steps, epsilon_limit=limit, delta=DELTA)
    assert epsilon([Mechanism(rate, noise, steps)], DELTA) <= limit
    if noise > SMALLEST_NOISE:
        assert epsilon([Mechanism(rate, noise - 0.001, steps)], DELTA) > limit


def test_calibration_counts_what_was_spent_before() -> None:
    spent = [Mechanism(1.0, 10.0, 30)]
    fresh = calibrate([], sample_rate=1.0, steps=20, epsilon_limit=3.0, delta=DELTA)
    later = calibrate(spent, sample_rate=1.0, steps=20, epsilon_limit=3.0, delta=DELTA)
    assert later > fresh
    assert 2.98 < epsilon([*spent, Mechanism(1.0, later, 20)], DELTA) <= 3.0


def test_a_used_up_budget_cannot_be_calibrated() -> None:
    with pytest.raises(BudgetExhausted, match="used up"):
        calibrate([Mechanism(1.0, 5.0, 100)], sample_rate=0.25, steps=1, epsilon_limit=3.0, delta=DELTA)


# --- the ledger
# -----------------------------------------------------------------------------------------------------

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
    with pytest.raises(BudgetError, match="for the life of its data"):
        open_ledger(tmp_path, 3.5)
    with pytest.raises(BudgetError, match="use --delta 1e-05"):
        Ledger(ledger.path, "North", 3.0, 1e-6)
    assert open_ledger(tmp_path, 1.0).epsilon_limit == 1.0  # a run may allow itself less


def test_each_bank_has_a_file_of_its_own_whatever_it_is_called(tmp_path: Path) -> None:
    names = ["A/B", "A B", "A_B", "..", "", "Ä", "x" * 300]
    paths = {ledger_path(tmp_path, name) for name in names}
    assert len(paths) == len(names)
    assert all(path.parent == tmp_path for path in paths)
    with pytest.raises(LedgerError, match="belongs to 'North'"):
        Ledger(open_ledger(tmp_path).path, "South", 3.0, DELTA)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace('"steps": 20', '"steps": -20'),
        lambda text: text.replace('"spent"', '"spend"'),
        lambda text: text.replace(UNIT, "customer"),
        lambda text: text.replace(privacy.LEDGER_FORMAT, "fl privacy ledger 9"),
        lambda text: text.replace('"sample_rate": 0.25,', ""),
        lambda text: "[]",
    ],
)
def test_a_damaged_ledger_stops_the_run(tmp_path: Path, damage: object) -> None:
    ledger = open_ledger(tmp_path)
    ledger.spend(ROUND, run="r", round_number=1)
    ledger.path.write_text(damage(ledger.path.read_text()))  # type: ignore[operator]
    with pytest.raises(LedgerError):
        open_ledger(tmp_path)
    with pytest.raises(LedgerError):
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
        "import itertools, sys\nfrom pathlib import Path\nfrom fl.privacy import Ledger, Mechanism\n"
        "ledger = Ledger(Path(sys.argv[1]), 'North', 50.0, 1e-5)\n"
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
