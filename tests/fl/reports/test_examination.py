"""An examination's figures on rows that a person can count, and on one small finished run."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_runs import open_config, simulated_csv, train
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import nn

from fl.data.schema import CategoricalColumn, FractionSplit, TimeColumn
from fl.data.simulate import Simulation
from fl.data.vocabulary import Words
from fl.durable import replace_json
from fl.errors import ExaminationError, RunFolderError
from fl.reports.compared import BASELINES, OF_RANDOM_TREES, OF_TREES, baselines_of, had
from fl.reports.examination import fairness as fairness_module
from fl.reports.examination import page, plots
from fl.reports.examination import report as report_module
from fl.reports.examination.calibration import expected_calibration_error, measured, reliability, unweighted, wilson
from fl.reports.examination.drift import drift
from fl.reports.examination.evidence import Evidence, gather
from fl.reports.examination.explanations import agreement, shap_values
from fl.reports.examination.fairness import REST, by_group, fairness, quarters
from fl.reports.examination.figures import comparison, figures
from fl.reports.examination.review import Team, review
from fl.reports.examination.timeliness import days_to_alert, timeliness
from fl.reports.spans import span
from fl.rounds.algorithms.settings import AlgorithmSettings
from fl.runs.asked import configuration
from fl.runs.config import DataSettings
from fl.runs.verdict import OWN_EVIDENCE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return simulated_csv(Simulation(400, 200, banks=3, fraud_share=0.03, seed=5), folder / "cards.csv")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = open_config(DataSettings(str(data), "simulated"), baselines=True)
    return train(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def evidence(run: Path) -> Evidence:
    return gather(run)


# --- evidence and figures --------------------------------------------------------------------------------------------


def test_a_finished_run_is_measured_as_it_measured_itself(evidence: Evidence) -> None:
    told = figures(evidence)
    assert told["largest_difference_to_run"] == 0.0
    assert told["average_precision"] == evidence.stored("metrics.json")["average_precision"]
    assert told["rows"] == len(evidence.test) == sum(bank["rows"] for bank in told["per_bank"])
    assert told["frauds"] == evidence.test.label.sum() == sum(bank["frauds"] for bank in told["per_bank"])


def test_a_bank_with_layers_of_its_own_is_scored_by_its_own_model(tmp_path: Path) -> None:
    data = DataSettings("simulated", clients=3, customers=200, fraud_share=0.05)
    config = replace(open_config(data, rounds=2), algorithm=AlgorithmSettings("heads"))
    evidence = gather(train(config, tmp_path / "run"))
    assert len({id(model) for model in evidence.models}) == 3
    assert figures(evidence)["largest_difference_to_run"] == 0.0


def test_rows_of_all_banks_stand_in_the_order_of_their_time(evidence: Evidence) -> None:
    assert (np.diff(evidence.test.day) >= 0).all()
    assert len(np.unique(evidence.test.bank[:100])) > 1


def test_figures_that_the_run_did_not_report_are_refused(evidence: Evidence, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(evidence.run, copy)
    told = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").write_text(json.dumps({**told, "roc_auc": told["roc_auc"] - 0.01}))
    with pytest.raises(ExaminationError, match=r"differs by 0\.01 from the reported one"):
        figures(replace(evidence, run=copy))


def test_a_baseline_that_was_not_run_is_named_and_not_made_up(evidence: Evidence, tmp_path: Path) -> None:
    assert comparison(evidence)["not_run"] == []
    copy = tmp_path / "run"
    shutil.copytree(evidence.run, copy)
    stored = json.loads((copy / "baselines.json").read_text())
    del stored["pooled"]
    (copy / "baselines.json").write_text(json.dumps(stored))
    told = comparison(replace(evidence, run=copy))
    assert told["not_run"] == ["pooled"]
    (row,) = [row for row in told["models"] if row["name"] == "pooled"]
    assert set(row) == {"name", "what", "ran"}


@pytest.mark.parametrize(
    ("changed", "why", "days"),
    [
        ({"time": None}, "the schema names no time", "without a time"),
        (
            {"time": TimeColumn("WHEN", "order")},
            "the time, 'WHEN', is an order of rows and measures no days",
            "in order, without days",
        ),
        (
            {"windows_days": (), "windows_minutes": (10, 60)},
            "the windows or periods of the schema are hours or minutes long, so that days are not compared",
            "on 2024-03-05",
        ),
    ],
)
def test_the_reason_why_days_are_not_compared_is_that_of_the_schema(
    evidence: Evidence, changed: dict[str, Any], why: str, days: str
) -> None:
    schema = replace(evidence.schema, **{"split": FractionSplit(), **changed})
    other = replace(evidence, federation=replace(evidence.federation, schema=schema))
    assert drift(other) == timeliness(other) == {"available": False, "why": why}
    with pytest.raises(ExaminationError, match=re.escape(f"--alerts-per day: {why}; use")):
        review(other, Team(5, "day"))
    assert span(schema, {"first_day": "2024-03-05", "last_day": "2024-03-05"}) == days


def test_baselines_are_those_that_the_configuration_makes() -> None:
    private, network = configuration({"epsilon": 3.0}), configuration({"no_dp": True})
    assert set(baselines_of(private)) == set(BASELINES) - {
        "pooled_with_statistics",
        "plain",
        "undefended",
        "without_attackers",
        *OF_TREES,
    }
    assert baselines_of(configuration({"no_dp": True, "model": "trees"})) == OF_TREES
    assert baselines_of(configuration({"model": "trees"})) == OF_RANDOM_TREES
    assert "plain" in baselines_of(network) and "plain_without_privacy" not in baselines_of(network)
    assert {"alone_filter", "alone_private", "at_home"}.isdisjoint(baselines_of(network))
    assert "pooled_with_statistics" in baselines_of(network)
    assert "at_home" not in baselines_of(configuration({"no_shared_statistics": True}))


@pytest.mark.parametrize("name", [*BASELINES, OWN_EVIDENCE])
@pytest.mark.parametrize("model", ["mlp", "trees"])
def test_every_row_of_a_comparison_says_what_it_had(name: str, model: str) -> None:
    config = configuration({"no_dp": True, "model": model})
    said = [had(name, Words(days=days), config) for days in (True, False)]
    assert all(each.endswith(".") and "{" not in each for each in said)


def test_missing_and_changed_transactions_are_named(run: Path, data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.csv"
    shutil.move(data, moved)
    try:
        with pytest.raises(ExaminationError, match=r"cards\.csv, found no file there"):
            gather(run)
        data.write_bytes(moved.read_bytes() + b"\n")
        with pytest.raises(RunFolderError, match="has changed"):
            gather(run)
    finally:
        shutil.move(moved, data)


def test_a_folder_without_a_run_and_a_run_without_a_model_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExaminationError, match=r"no config\.toml"):
        gather(tmp_path)
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match="--resume"):
        gather(copy)


# --- calibration -----------------------------------------------------------------------------------------------------


def test_calibration_of_four_rows_by_hand() -> None:
    label, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.3, 0.9])
    told = measured(label, score)
    assert told["brier"] == pytest.approx((0.01 + 0.09 + 0.49 + 0.01) / 4)
    assert told["brier_of_constant"] == 0.25
    # Bins of a tenth: {0.1}, {0.3, 0.3} with one fraud, {0.9}.
    assert told["ece"] == pytest.approx((0.1 + abs(0.6 - 1) + 0.1) / 4)
    assert told["expected_over_observed"] == pytest.approx(0.8)


def test_scores_drawn_as_probabilities_are_calibrated_and_doubled_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    score = rng.beta(1, 20, 200_000)
    label = (rng.random(len(score)) < score).astype(np.int64)
    assert expected_calibration_error(label, score) < 0.003
    assert sum(not row["low"] <= row["mean_score"] <= row["high"] for row in reliability(label, score)) <= 1
    assert expected_calibration_error(label, np.minimum(2 * score, 1)) > 0.03


@given(share=st.floats(1e-6, 1 - 1e-6), weight=st.floats(0.1, 100))
def test_the_correction_undoes_what_a_weighted_loss_does_to_a_perfect_score(share: float, weight: float) -> None:
    # The minimiser of -w p log s - (1 - p) log(1 - s).
    score = weight * share / (weight * share + 1 - share)
    assert unweighted(np.array([score]), weight)[0] == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (5, 10), (10, 10), (3, 1_000_000)])
def test_intervals_of_shares_are_wilsons(hits: int, count: int) -> None:
    share, z2 = hits / count, norm.ppf(0.975) ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * share * (1 - share) / count + z2 * z2 / (4 * count * count)) / (1 + z2 / count)
    assert wilson(hits, count) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_an_interval_by_hand() -> None:
    assert wilson(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert wilson(5, 10) == (pytest.approx(0.23659, abs=1e-5), pytest.approx(0.76341, abs=1e-5))


# --- timeliness ------------------------------------------------------------------------------------------------------


def test_days_to_the_first_alert_by_hand() -> None:
    """Party 1: fraud on day 2, alert on day 5, one before does not count. Party 2: never. Party 3: at once."""
    party = np.array([1, 1, 2, 3, 1, 1])
    day = np.array([1, 2, 3, 4, 4, 5])
    label = np.array([0, 1, 1, 1, 0, 0])
    flagged = np.array([True, False, False, True, False, True])
    wait, followed = days_to_alert(party, day, label, flagged, np.array([1, 2, 3]))
    assert wait.tolist() == [3.0, math.inf, 0.0]
    assert followed.tolist() == [3, 2, 1]


# --- groups ----------------------------------------------------------------------------------------------------------


def test_rates_per_group_are_counts_over_counts(evidence: Evidence) -> None:
    test = evidence.test
    told = by_group(evidence, "bank")
    flagged = test.score >= evidence.threshold
    for row in told["groups"]:
        own = test.bank == evidence.bank_names.index(row["group"])
        frauds = own & (test.label == 1)
        assert row["rows"] == own.sum() and row["frauds"] == frauds.sum()
        assert row["selection_rate"] == pytest.approx(flagged[own].mean())
        assert row["recall"] == pytest.approx(flagged[frauds].mean())
        assert row["false_positive_rate"] == pytest.approx(flagged[own & (test.label == 0)].mean())
        assert row["recall_low"] <= row["recall"] <= row["recall_high"]


def test_a_column_that_the_model_never_saw_can_be_a_group(evidence: Evidence) -> None:
    told = by_group(evidence, "SCENARIO")
    by_name = {row["group"]: row for row in told["groups"]}
    assert by_name["0"]["frauds"] == 0 and by_name["0"]["recall"] is None
    assert by_name["2"]["frauds"] == by_name["2"]["rows"] and by_name["2"]["false_positive_rate"] is None
    assert sum(row["rows"] for row in told["groups"]) == len(evidence.test)


def test_a_file_of_customers_can_be_the_groups(evidence: Evidence, tmp_path: Path) -> None:
    customers = evidence.table.customer
    assert customers is not None
    lines = [f"{name},{'old' if number % 2 else 'young'}" for number, name in enumerate(sorted(customers.ids))]
    (tmp_path / "ages.csv").write_text("\n".join(["CUSTOMER,AGE", *lines]) + "\n")
    told = by_group(evidence, f"{tmp_path / 'ages.csv'}:AGE")
    assert [row["group"] for row in told["groups"]] == ["old", "young"]
    assert sum(row["rows"] for row in told["groups"]) == len(evidence.test)


@pytest.mark.parametrize("column", ["CUSTOMER", "TERMINAL", "DESCRIPTION", "TIME", "IS_FRAUD"])
def test_a_column_that_names_people_or_things_is_refused(evidence: Evidence, column: str) -> None:
    with pytest.raises(ExaminationError, match="not a group"):
        fairness(evidence, [column])


def test_a_column_that_is_not_there_is_named(evidence: Evidence) -> None:
    with pytest.raises(ExaminationError, match=r"expected a column 'AGE', got .*AMOUNT"):
        fairness(evidence, ["AGE"])


def test_quarters_of_amounts_show_rounded_limits_only() -> None:
    names = quarters(np.array([1234.57, 1234.58, 1234.59, 9876.54] * 10))
    assert set(names) <= {"1: below 1200", "2: 1200 to 3400", "2: 1200 or more", "3: 3400 or more"}
    assert not any("34.5" in name or "76.5" in name for name in names)


def test_groups_of_few_rows_are_shown_together_and_small_ones_are_called_so(evidence: Evidence) -> None:
    words = np.where(np.arange(len(evidence.test)) < 5, "marked", "others").astype(object)
    from fl.reports.examination.fairness import _together

    assert set(_together(words)) == {REST, "others"}
    told = by_group(evidence, "SCENARIO")
    assert all(row["small"] for row in told["groups"] if row["frauds"] < 10 or row["rows"] < 200)


# --- features --------------------------------------------------------------------------------------------------------


def test_shap_values_of_a_linear_model_are_its_terms() -> None:
    model = nn.Sequential(nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 0.0]]))
    x = np.array([[1.0, 1.0, 5.0], [0.0, 3.0, -1.0]], np.float32)
    background = np.array([[0.5, 0.5, 0.5]], np.float32)
    values, gap = shap_values(model, x, background, seed=1)
    assert values == pytest.approx(np.array([[0.5, -1.0, 0.0], [-0.5, -5.0, 0.0]]), abs=1e-5)
    assert gap == pytest.approx([0.0, 0.0], abs=1e-5)


def test_shap_values_are_reproducible_and_leave_global_randomness_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    rng = np.random.default_rng(0)
    x, background = (rng.normal(size=(n, 4)).astype(np.float32) for n in (20, 50))
    state, torch_state = np.random.get_state()[1], torch.get_rng_state()
    first, _ = shap_values(model, x, background, seed=3)
    again, _ = shap_values(model, x, background, seed=3)
    assert np.array_equal(first, again)
    assert np.array_equal(state, np.random.get_state()[1]) and torch.equal(torch_state, torch.get_rng_state())


def test_banks_agree_as_far_as_their_rankings_do() -> None:
    same = {"a": 3.0, "b": 2.0, "c": 1.0}
    told = agreement([same, dict(same)])
    assert told is not None and told["rank_correlation"]["mean"] == pytest.approx(1.0)
    turned = agreement([same, {"a": 1.0, "b": 2.0, "c": 3.0}])
    assert turned is not None and turned["rank_correlation"]["least"] == pytest.approx(-1.0)
    assert agreement([same]) is None


def test_a_name_from_outside_is_no_markup_in_a_plot() -> None:
    group = {
        "group": "<a href='http://x'>a</a> & b",
        "recall": 0.5,
        "recall_high": 0.6,
        "recall_low": 0.4,
        "small": False,
    }
    shown = plots.groups({"groups": [group]})
    assert shown is not None
    assert shown["data"][0]["y"] == ["&lt;a href='http://x'&gt;a&lt;/a&gt; &amp; b"]
    importance = {
        "usual": {"importance": {"<b>f</b>": 1.0}},
        "per_bank": [{"bank": "<i>n</i>", "importance": {"<b>f</b>": 1.0}}],
    }
    heat = plots.by_bank(importance)["data"][0]
    assert heat["x"] == ["&lt;i&gt;n&lt;/i&gt;"] and heat["y"] == ["&lt;b&gt;f&lt;/b&gt;"] and heat["z"] == [[1.0]]


def test_a_model_that_flags_nothing_is_examined_and_the_report_says_so(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "gather", lambda run: replace(evidence, threshold=1.5))
    report = report_module.examine(tmp_path)
    replace_json(tmp_path / "report.json", report)
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["figures"]["alerts"] == 0 and told["figures"]["precision"] is None
    assert all(window["alerts"] == 0 and window["precision"] is None for window in told["figures"]["windows"])
    assert told["explanations"]["alerts"] == {"top": [], "importance": None, "rows": 0}
    assert told["comparison"]["models"][0]["precision"] is None
    assert f"flags none of {len(evidence.test):,} test transactions" in told["findings"][1]["text"]
    assert told["findings"][1]["kind"] == "concern"
    text = page.page(report)
    assert "flags none of" in text and "Nothing was flagged" in text


def test_a_column_without_any_number_is_one_group() -> None:
    assert set(quarters(np.full(3, np.nan))) == {"(empty)"}


def test_banks_whose_importances_are_all_equal_have_no_rank_correlation() -> None:
    told = agreement([{"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 2.0}])
    assert told is not None and told["rank_correlation"] is None and told["pairs"] == 1


def test_a_category_that_holds_no_groups_is_left_out_with_the_reason_unless_somebody_named_it(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = CategoricalColumn("DESCRIPTION_CODE", hash_width=8)
    schema = replace(evidence.schema, categorical=(hashed,))
    other = replace(evidence, federation=replace(evidence.federation, schema=schema))

    def refused(_: Evidence, column: str) -> dict[str, object]:
        if column == hashed.column:
            raise ExaminationError("column 'DESCRIPTION_CODE' holds 400 different words")
        return {"column": column}

    monkeypatch.setattr(fairness_module, "by_group", refused)
    told = fairness(other)
    assert [column["column"] for column in told["columns"]] == ["bank"]
    assert told["skipped"] == [{"column": hashed.column, "why": "column 'DESCRIPTION_CODE' holds 400 different words"}]
    with pytest.raises(ExaminationError, match="400"):
        fairness(other, [hashed.column])


def test_a_team_reviews_the_highest_scores_of_each_day_or_bank_or_of_all(evidence: Evidence) -> None:
    test = evidence.test
    for per, groups in (("day", np.unique(test.day)), ("bank", None), ("all", [0])):
        told = review(evidence, Team(3, per))  # type: ignore[arg-type]
        assert told is not None and told["precision"] == told["frauds"] / told["reviewed"]
        if groups is not None:
            assert told["reviewed"] == 3 * len(groups)
    best = np.argsort(-test.score, kind="stable")[:3]
    told = review(evidence, Team(3, "all"))
    assert told is not None and told["frauds"] == int(test.label[best].sum())
    assert review(evidence, None) is None
