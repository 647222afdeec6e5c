"""Trees inside the noisy-or link, from their options to their exports: where banks share counts, and a filter has q."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import killed_trees
import numpy as np
import pandas as pd
import pytest
import risky_banks
from click.testing import CliRunner
from finished_runs import played
from killed_trees import records

import fl
from demos.__main__ import cli
from fl.counts import release
from fl.counts.plan import Totals
from fl.counts.risk_columns import RISK, RiskColumns
from fl.data.federation import PartitionedTable, pooled_local
from fl.data.schema_file import parse_schema
from fl.errors import ModelError, StatisticsError
from fl.learning.noisy_or import NoisyOr
from fl.reports.ablation import COMPONENTS
from fl.reports.cards import cards, read_run
from fl.reports.compared import baselines_of
from fl.reports.examination.report import examine
from fl.runs.asked import configuration
from fl.runs.config import RunConfig, config_from_toml, config_to_toml
from fl.runs.experiment import Experiment
from fl.runs.kinds import begun, resumed
from fl.runs.onnx_file import disagreement, onnx_model, open_session
from fl.runs.plan import RunPlan
from fl.runs.tree_baselines import grown_in_one_place, tree_rows
from fl.runs.tree_experiment import TreeExperiment
from fl.runs.tree_module import TreeScores, beside
from fl.runs.tree_outline import tree_outline
from fl.trees.model_file import model_to_json

SMALL = {"model": "trees", "no_dp": True, "trees": 3, "depth": 3, "bins": 16}
SUMS = 1 + 3 * 3
WINDOW = "terminal_risk_7d"  # of the bank's own


def config(data: Path, **given: Any) -> RunConfig:
    return risky_banks.config(data, **{**SMALL, **given})


@pytest.fixture(scope="module")
def run(data: Path) -> fl.Run:
    """A finished run with its baselines, on encrypted sums."""
    experiment = played(begun(config(data, no_baselines=False), data / "run"))
    assert list(experiment.baselines())
    experiment.result()
    return fl.load(data / "run")


@pytest.fixture(scope="module")
def split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(past, new): rows before the test days, and those of the test days."""
    earlier = rows.TIME < risky_banks.TEST
    return rows[earlier], rows[~earlier].reset_index(drop=True)


def module_of(experiment: Experiment) -> TreeScores:
    (module, *_) = experiment.models()
    assert isinstance(module, TreeScores)
    return module


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_trees_grow_inside_the_link_where_banks_share_counts_and_see_all_columns_of_their_own(
    data: Path, source: PartitionedTable
) -> None:
    plan = RunPlan.new(config(data), source)
    assert plan.config.model.inputs == "risk" and plan.config.model.history_days == 56
    assert plan.feature_names == (*plan.own_names, RISK) and WINDOW in plan.feature_names
    assert plan.sharing is not None and plan.sharing.counts_frauds
    outline = tree_outline(plan)
    assert outline.linked and any("inside the noisy-or link" in each for each in outline.sentences)
    assert outline.numbers == len(plan.own_names)


def test_without_the_link_trees_see_shared_windows_in_which_few_banks_are_suppressed(
    data: Path, source: PartitionedTable
) -> None:
    plan = RunPlan.new(config(data, inputs="own"), source)
    assert plan.config.model.inputs == "own" and plan.config.model.history_days == 0
    assert RISK not in plan.feature_names and f"{WINDOW}_all_banks" in plan.feature_names
    assert plan.config.statistics is not None and plan.config.statistics.min_banks == 3
    assert "have no noisy-or link" in tree_outline(plan).sentences[2]


@pytest.mark.parametrize("asked", [{}, {"inputs": "own"}, {"history_days": 28}])
def test_both_kinds_of_trees_survive_the_file_and_a_later_run_of_it(asked: dict[str, Any]) -> None:
    asking = configuration({**SMALL, **asked})
    assert config_from_toml(config_to_toml(asking)) == asking
    assert configuration({}, asking) == asking


def test_the_link_can_be_left_off_and_put_back_on_top_of_a_file() -> None:
    linked, own = configuration(SMALL), configuration({**SMALL, "inputs": "own"})
    assert configuration({"inputs": "own"}, linked) == own
    assert configuration({"inputs": "risk"}, own) == linked
    for model in ("mlp", "noisy-or"):
        expected = replace(configuration({"no_dp": True, "model": model}), trees=None)
        assert configuration({"model": model}, linked) == configuration({"model": model}, own) == expected


def test_an_option_of_trees_is_refused_beside_another_model() -> None:
    with pytest.raises(fl.errors.OptionError, match="give --model trees"):
        configuration({"no_dp": True, "inputs": "own"})


def test_without_shared_counts_there_is_no_link_and_the_plan_says_so(data: Path, source: PartitionedTable) -> None:
    alone = replace(source, table=replace(source.table, schema=_sharing_nothing()))
    for found in (
        RunPlan.new(config(data), alone),
        RunPlan.new(config(data, no_shared_statistics=True), source),
    ):
        assert found.config.model.inputs == "own" and found.config.model.history_days == 0
        assert found.feature_names == found.own_names
        assert "no shared counts" in tree_outline(found).sentences[2]
    with pytest.raises(ModelError, match="history_days: got 28"):
        RunPlan.new(config(data, history_days=28, no_shared_statistics=True), source)


def _sharing_nothing() -> Any:
    return parse_schema(risky_banks.SCHEMA_TEXT.replace('shared = ["terminal"]\n', ""), "risky.toml")


def test_counts_of_frauds_are_not_suppressed_and_a_threshold_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StatisticsError, match="min_banks"):
        begun(config(data, min_banks=3), tmp_path / "run")


# --- one whole run --------------------------------------------------------------------------------------------------


def test_the_trees_of_pooled_rows_with_the_same_risk_are_the_same_bit_for_bit(run: fl.Run) -> None:
    trees, baselines = run.result["trees"], run.result["baselines"]
    assert trees["linked"] is True and trees["same_as_pooled"] is True
    assert WINDOW in trees["columns"] and RISK not in trees["columns"]
    assert tuple(baselines) == baselines_of(run.config) == ("alone_trees", "pooled_trees", "network")
    assert baselines["pooled_trees"]["average_precision"] == run.metrics["average_precision"]
    assert run.metrics["own_evidence"]["average_precision"] > 0
    assert run.result["statistics"]["mode"] == "exact fraud counts" and "episodes" in run.result["statistics"]


def test_another_risk_of_the_same_rows_gives_other_trees(data: Path, tmp_path: Path) -> None:
    """The control of the comparison above: q enters the gradients."""
    experiment = played(begun(config(data, aggregation="plain"), tmp_path / "run"))
    assert isinstance(experiment, TreeExperiment)
    pooled = pooled_local(experiment.federation)
    grown = model_to_json(grown_in_one_place(pooled, experiment.columns, experiment.settings))
    assert grown == model_to_json(module_of(experiment).trees)
    q = tree_rows(pooled.train, experiment.columns).q
    assert q is not None and q.max() > 0.5 > q.min() >= 0
    x = pooled.train.x.copy()
    x[:, -1] = 0
    without = replace(pooled, train=replace(pooled.train, x=x))
    assert model_to_json(grown_in_one_place(without, experiment.columns, experiment.settings)) != grown


def test_a_score_is_the_noisy_or_of_the_trees_and_the_risk(
    run: fl.Run, split: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    past, new = split
    q = run.inputs(new, past)[RISK].to_numpy(np.float64)
    own = run._trees().trees.scores(run.tree_inputs(new, past).to_numpy()) * 2.0**-16
    expected = 1 - (1 - 1 / (1 + np.exp(-own))) * (1 - q)
    np.testing.assert_allclose(run.score(new, past).to_numpy(), expected, atol=1e-12)
    assert q.max() > 0.5
    assert run.calibrated(new, past).notna().all()


def test_where_the_risk_is_none_the_log_odds_are_those_of_the_trees_to_the_last_bit() -> None:
    own = np.array([-700.0, -30.0, -2.5, 0.0, 3.25, 40.0, 700.0])
    np.testing.assert_array_equal(beside(own, np.zeros(7)), own)
    q = np.array([0.0, 1e-12, 0.3, 0.999, 1.0])
    p = 1 / (1 + np.exp(-2.5))
    odds = beside(np.full(5, 2.5), q)
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), 1 - (1 - p) * (1 - q), atol=1e-6)
    assert np.isfinite(odds).all() and (np.diff(odds) > 0).all()


def test_a_bank_that_scores_at_home_adds_its_own_labels_to_the_risk(
    run: fl.Run, split: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    past, new = split
    home = run.as_bank("bank-1", past)
    assert isinstance(home.model.shared, RiskColumns) and home.model.shared.own is not None
    assert home.model.home is not None and isinstance(home.model.home.module, NoisyOr)
    assert WINDOW not in home.model.home.columns.names and WINDOW in home.model.shared.names
    mine = (new.BANK == "bank-1").to_numpy()
    known, released = home.score(new, past).to_numpy()[mine], run.score(new, past).to_numpy()[mine]
    assert np.isfinite(known).all() and (known != released).any()


def test_the_onnx_file_has_the_risk_as_its_last_input_and_scores_as_the_run_does(
    run: fl.Run, data: Path, rows: pd.DataFrame
) -> None:
    session = open_session(onnx_model(run.model).SerializeToString())
    agreed = disagreement(run.model, session, data / "transactions.csv")
    assert agreed.rows == len(rows) and agreed.largest <= 1e-9
    assert run.model.features[-1] == RISK
    module = run._trees()
    fewer = TreeScores(replace(module.trees, trees=module.trees.trees[:-1]), module.columns)
    other = open_session(onnx_model(replace(run.model, module=fewer)).SerializeToString())
    assert not disagreement(run.model, other, data / "transactions.csv").close, "the control"


def test_xgboost_gets_the_trees_and_is_said_to_give_p(
    run: fl.Run, data: Path, split: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed (extra `trees`)")
    file = data / "trees.json"
    said = CliRunner().invoke(cli, ["export", str(run.folder), "--xgboost", str(file)], catch_exceptions=False)
    assert said.exit_code == 0 and "log odds of p" in " ".join(said.output.split())
    booster = xgboost.Booster()
    booster.load_model(file)
    past, new = split
    x = run.tree_inputs(new, past)
    margins = booster.predict(xgboost.DMatrix(x, feature_names=booster.feature_names), output_margin=True)
    np.testing.assert_array_equal(margins.astype(np.float64), run._trees().trees.scores(x.to_numpy()) * 2.0**-16)


def test_thresholds_reports_cards_and_ablations_know_the_link(run: fl.Run, data: Path) -> None:
    pytest.importorskip("xgboost", reason="xgboost is not installed (extra `trees`)")
    said = CliRunner().invoke(cli, ["threshold", str(run.folder), "--f1"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    report = examine(run.folder)
    explained = report["explanations"]
    assert explained["exact"] and explained["linked"] and explained["mean_gap"] < 1e-5
    assert explained["usual"]["importance"].keys() == {*run.result["trees"]["columns"], RISK}
    assert explained["usual"]["importance"][RISK] > 0
    card = cards(read_run(run.folder))
    assert "inside the noisy-or link" in card.model_card
    assert "exact counts of frauds, none suppressed" in card.dpia
    without = COMPONENTS["filter"].without(run.config)
    assert without is not None and without.model.inputs == "own"
    assert without.statistics is not None and without.statistics.min_banks == 3
    assert COMPONENTS["trees"].without(run.config) is not None


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before_it_is_kept", [False, True])
def test_a_linked_run_that_was_killed_grows_the_same_trees_from_the_same_release(
    run: fl.Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_it_is_kept: bool
) -> None:
    where, after = tmp_path / "killed", 6  # the opening, one tree, and two of three levels of the second

    def play(watch: killed_trees.Watch) -> None:
        experiment = begun(config(data), where)
        for record in experiment.rounds():
            watch("growing", record.number, SUMS)

    killed_trees.killed(where, play, after, before_it_is_kept=before_it_is_kept)
    before, totals = records(where)[: after - before_it_is_kept], (where / "statistics" / release.TOTALS).read_bytes()
    again = resumed(where)
    played(again)
    result = again.result()
    assert result["trees"]["model_hash"] == run.result["trees"]["model_hash"]
    assert result["metrics"] == run.metrics
    assert (where / "statistics" / release.TOTALS).read_bytes() == totals, "the counts were released again"
    assert records(where)[: len(before)] == before, "a sum that was kept was made again"
    assert isinstance(release.load_release(where / "statistics")[0], Totals)
