"""A run of trees from its options to its exports: encrypted sums, a kill in the middle of a tree, scores, reports."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import claims
import killed_trees
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from killed_trees import records

import fl
from demos.export import export
from fl.data.federation import pooled_local
from fl.errors import (
    AggregationError,
    AlgorithmError,
    BudgetError,
    ExportError,
    ModelError,
    OptionError,
    RunFolderError,
)
from fl.reports.cards import cards, read_run
from fl.reports.compared import baselines_of
from fl.reports.examination.report import examine
from fl.reports.trees_told import grown_sentence
from fl.rounds.attackers import AttackSettings
from fl.runs.asked import configuration
from fl.runs.config import config_from_toml, config_to_toml
from fl.runs.kinds import begun
from fl.runs.onnx_file import disagreement, onnx_model, open_session
from fl.runs.plan import RunPlan, read_source
from fl.runs.refusals import require_possible
from fl.runs.tree_baselines import grown_in_one_place
from fl.runs.tree_experiment import TRAINING, TreeExperiment
from fl.runs.tree_module import TreeScores
from fl.runs.tree_outline import tree_outline
from fl.trees.model_file import model_to_json

SMALL = {"model": "trees", "no_dp": True, "trees": 4, "depth": 3, "bins": 16}
SUMS = 1 + 4 * 3
NO_XGBOOST = "xgboost is not installed (extra `trees`)"


def asked(folder: Path, **changed: Any) -> dict[str, Any]:
    data, schema = claims.write(folder)
    return {"data": str(data), "schema": str(schema), **SMALL, **changed}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def run(folder: Path) -> fl.Run:
    """A finished run with its baselines, on encrypted sums."""
    return fl.train(run_dir=folder / "run", **asked(folder))


# --- one whole run --------------------------------------------------------------------------------------------------


def test_the_run_says_what_it_grew_and_that_pooled_rows_give_the_same_trees(run: fl.Run) -> None:
    trees = run.result["trees"]
    assert trees["trees"] == 4 and trees["same_as_pooled"] is True
    assert trees["columns"] == ["amount", "age", "kind"]
    baselines = run.result["baselines"]
    assert tuple(baselines) == baselines_of(run.config) == ("alone_trees", "pooled_trees", "network")
    assert baselines["pooled_trees"]["average_precision"] == run.metrics["average_precision"]
    assert baselines["alone_trees"]["gain_of_joining"]["banks"].keys() == {"a", "b", "c"}
    assert "its own trees" in run.result["verdict"]


def test_pooled_trees_that_differ_are_reported(run: fl.Run) -> None:
    """The control: the sentence follows from the hashes."""
    result = json.loads(json.dumps(run.result))
    assert "bit for bit" in str(grown_sentence(result))
    result["trees"]["same_as_pooled"] = False
    assert "report this as a fault" in str(grown_sentence(result))


def test_the_sums_are_one_for_edges_and_one_for_each_level(run: fl.Run) -> None:
    kinds = [(record["kind"], record["tree"], record["level"]) for record in records(run.folder)]
    assert kinds[0] == ("opening", 0, 0)
    assert kinds[1:] == [("level", tree, level) for tree in range(1, 5) for level in range(3)]


def test_cells_with_one_row_are_counted_as_they_were_released(run: fl.Run) -> None:
    told = run.result["trees"]["told"]
    assert told["root"]["level"] == 0 and told["deepest"]["level"] == 2
    assert 0 <= told["root"]["share"] < told["deepest"]["share"] < 1


def test_the_plan_foresees_the_sums_and_nearly_their_bytes(run: fl.Run) -> None:
    config = run.config
    planned = tree_outline(RunPlan.new(config, read_source(config.data, config.seed)))
    sent = [record["bytes_up"] for record in records(run.folder)]
    assert planned.sums == SUMS == len(sent)
    assert 0.5 * 3 * planned.bytes_up < sum(sent) < 1.1 * 3 * planned.bytes_up
    assert max(sent) == sent[0] == 3 * planned.largest_bytes


def test_another_run_of_its_configuration_has_the_same_trees(run: fl.Run, tmp_path: Path) -> None:
    text = config_to_toml(run.config)
    assert config_from_toml(text) == run.config
    again = fl.train(config=run.folder, aggregation="plain", no_baselines=True, run_dir=tmp_path / "again")
    assert again.result["trees"]["model_hash"] == run.result["trees"]["model_hash"]
    assert again.metrics == run.metrics


def test_sampling_weight_and_early_stopping_leave_pooled_trees_the_same(folder: Path, tmp_path: Path) -> None:
    drawn = {"patience": 2, "row_share": 0.7, "column_share": 0.7, "class_weight": 4, "trees": 12, "seed": 3}
    config = configuration(asked(folder, aggregation="plain", no_baselines=True, **drawn))
    experiment = begun(config, tmp_path / "run")
    for _ in experiment.rounds():
        pass
    assert isinstance(experiment, TreeExperiment)
    pooled = grown_in_one_place(pooled_local(experiment.federation), experiment.columns, experiment.settings)
    assert model_to_json(pooled) == model_to_json(module_of(experiment).trees)
    other = replace(experiment.settings, seed=4)
    assert model_to_json(
        grown_in_one_place(pooled_local(experiment.federation), experiment.columns, other)
    ) != model_to_json(pooled)


def module_of(experiment: TreeExperiment) -> TreeScores:
    (module, *_) = experiment.models()
    assert isinstance(module, TreeScores)
    return module


# --- killed ---------------------------------------------------------------------------------------------------------


def killed(where: Path, options: dict[str, Any], after: int, *, before_it_is_kept: bool) -> None:
    def play(watch: killed_trees.Watch) -> None:
        fl.train(run_dir=where, progress=watch, **options)

    killed_trees.killed(where, play, after, before_it_is_kept=before_it_is_kept)


@pytest.mark.parametrize("before_it_is_kept", [False, True])
def test_a_run_that_was_killed_in_the_middle_of_a_tree_grows_the_same_trees_and_repeats_no_sum_that_it_kept(
    run: fl.Run, folder: Path, tmp_path: Path, before_it_is_kept: bool
) -> None:
    where, after = tmp_path / "killed", 6  # the opening, one tree, and two of three levels of the second
    killed(where, asked(folder, no_baselines=True), after, before_it_is_kept=before_it_is_kept)
    kept = json.loads((where / TRAINING).read_text())
    assert len(kept["trees"]) == 1 and len(kept["sums"]) == (1 if before_it_is_kept else 2)
    assert not (where / "model.safetensors").exists()
    before = records(where)[: after - before_it_is_kept]
    again = fl.resume(where)
    assert again.result["trees"]["model_hash"] == run.result["trees"]["model_hash"]
    assert again.metrics == run.metrics
    lines = records(where)
    assert [line["round"] for line in lines] == list(range(1, SUMS + 1))
    assert lines[: len(before)] == before, "a sum that was kept was made again"


def test_a_state_that_no_sums_lead_to_is_refused(folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "run"
    killed(where, asked(folder, no_baselines=True, aggregation="plain"), 6, before_it_is_kept=False)
    content = json.loads((where / TRAINING).read_text())
    content["sums"][-1][0] += 1
    (where / TRAINING).write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match="damaged"):
        fl.resume(where)


def test_a_state_without_its_records_is_refused(folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "run"
    killed(where, asked(folder, no_baselines=True, aggregation="plain"), 6, before_it_is_kept=False)
    (where / "metrics.jsonl").unlink()
    with pytest.raises(RunFolderError, match="expected the sums 1 to 6"):
        fl.resume(where)


# --- the model afterwards -------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_trees_calibrated_and_flagged(run: fl.Run) -> None:
    new = claims.claims(300, seed=1).assign(insurer="a")
    scores = run.score(new)
    dropped = (new["kind"] == "test").to_numpy()
    assert scores.isna().to_numpy().tolist() == dropped.tolist()
    x = run.tree_inputs(new).to_numpy()[~dropped]
    assert np.isnan(x[:, 1]).any() and set(x[:, 2]) == {0.0, 1.0, 2.0, 3.0, 4.0}
    odds = run._trees().trees.scores(x) * 2.0**-16
    np.testing.assert_allclose(scores.to_numpy()[~dropped], 1 / (1 + np.exp(-odds)), atol=1e-15)
    calibrated = run.calibrated(new)
    assert calibrated.notna().sum() == (~dropped).sum()
    (chunk,) = run.score_file(_written(new, run.folder.parent / "new.csv"))
    np.testing.assert_array_equal(chunk.flagged, chunk.score >= run.threshold)


def _written(frame: Any, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def test_an_altered_model_file_is_refused(run: fl.Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    content = path.read_bytes()
    at = content.index(b'"leaf":')
    digit = next(i for i in range(at + 7, at + 20) if content[i : i + 1].isdigit())
    other = b"1" if content[digit : digit + 1] != b"1" else b"2"
    path.write_bytes(content[:digit] + other + content[digit + 1 :])
    with pytest.raises(RunFolderError, match="hash differs"):
        fl.load(tmp_path / "copy")


def test_the_onnx_file_scores_as_the_run_does_categories_and_missing_values_included(run: fl.Run) -> None:
    file = _written(claims.claims(400, seed=2), run.folder.parent / "compared.csv")
    agreed = disagreement(run.model, open_session(onnx_model(run.model).SerializeToString()), file)
    assert agreed.rows > 300 and agreed.largest <= 1e-12


def test_the_onnx_file_of_other_trees_would_be_noticed(run: fl.Run) -> None:
    """The control: one leaf less is more than the tolerance."""
    module = run._trees()
    fewer = TreeScores(replace(module.trees, trees=module.trees.trees[:-1]), module.columns)
    file = _written(claims.claims(400, seed=2), run.folder.parent / "compared.csv")
    session = open_session(onnx_model(replace(run.model, module=fewer)).SerializeToString())
    assert not disagreement(run.model, session, file).close


def test_xgboost_gives_the_margins_of_the_exported_trees_to_the_last_bit(run: fl.Run) -> None:
    xgboost = pytest.importorskip("xgboost", reason=NO_XGBOOST)
    path = run.folder.parent / "fraud.json"
    run.export_xgboost(path)
    booster = xgboost.Booster()
    booster.load_model(path)
    new = claims.claims(300, seed=3)
    x = run.tree_inputs(new[new["kind"] != "test"])
    rows = xgboost.DMatrix(
        x.to_numpy(),
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
    )
    assert booster.feature_names == list(x.columns)
    margins = booster.predict(rows, output_margin=True).astype(np.float64)
    np.testing.assert_array_equal(margins, run._trees().trees.scores(x.to_numpy()) * 2.0**-16)


def test_the_command_exports_to_xgboost_and_beside_an_onnx_file_it_tells_of_both(run: fl.Run, tmp_path: Path) -> None:
    trees, network = tmp_path / "fraud.json", tmp_path / "fraud.onnx"
    asked = [str(run.folder), "--xgboost", str(trees)]
    alone = CliRunner().invoke(export, [*asked, "--json"], catch_exceptions=False)
    assert alone.exit_code == 0, alone.output
    size = trees.stat().st_size
    assert json.loads(alone.stdout) == {"xgboost": str(trees), "xgboost_bytes": size, "linked": False}
    assert json.loads(trees.read_text())["learner"]["gradient_booster"]["name"] == "gbtree"
    both = CliRunner().invoke(export, [*asked, "--onnx", str(network), "--json"], catch_exceptions=False)
    said = json.loads(both.stdout)
    assert said["xgboost_bytes"] == size and said["bytes"] == network.stat().st_size
    assert (said["xgboost"], said["onnx"]) == (str(trees), str(network))
    told = CliRunner().invoke(export, [*asked, "--onnx", str(network)], catch_exceptions=False).output
    assert f"{trees}: {size:,} bytes" in told and f"{network}: {network.stat().st_size:,} bytes" in told


def test_a_run_of_another_model_is_not_exported_to_xgboost(run: fl.Run, tmp_path: Path) -> None:
    target, config = tmp_path / "fraud.json", run.config
    other = fl.train(config=run.folder, model="mlp", rounds=1, no_baselines=True, run_dir=tmp_path / "network")
    assert config.model.kind == "trees" and other.config.model.kind == "mlp"
    done = CliRunner().invoke(export, [str(other.folder), "--xgboost", str(target)])
    assert isinstance(done.exception, ExportError) and not target.exists()


def test_a_report_explains_trees_exactly_and_says_what_histograms_tell(run: fl.Run) -> None:
    pytest.importorskip("xgboost", reason=NO_XGBOOST)
    report = examine(run.folder)
    explained = report["explanations"]
    assert explained["exact"] and explained["mean_gap"] < 1e-5
    assert set(explained["usual"]["importance"]) == {"amount", "age", "kind"}
    said = [finding["text"] for finding in report["findings"]]
    assert said[0] == run.result["verdict"]
    assert any("bit for bit" in text for text in said)
    assert any("sum over 3 banks" in text for text in said)
    assert any("hold a single one at the root" in text for text in said)


def test_a_card_says_trees_and_no_rounds_of_updates(run: fl.Run) -> None:
    card = cards(read_run(run.folder))
    assert "Boosted trees of" in card.model_card and "rounds of" not in card.model_card
    assert "single one at the root" in card.model_card
    assert "sends histograms of its own rows, in 13 sums" in card.dpia
    assert "every sum of histograms" in card.dpia and "every round's average" not in card.dpia
    assert "a cell of a histogram with one row gives away its label" in card.dpia


# --- monotone columns ------------------------------------------------------------------------------------------------


def directed(folder: Path, **changed: Any) -> dict[str, Any]:
    """`asked` with a schema that gives two columns a direction: of age against what the rows say of it."""
    options = asked(folder, aggregation="plain", no_baselines=True, **changed)
    text = claims.SCHEMA.replace('column = "paid"', 'column = "paid"\nmonotone = "up"')
    schema = folder / "directed.toml"
    schema.write_text(text.replace("missing = 45.0", 'missing = 45.0\nmonotone = "down"'), encoding="utf-8")
    return {**options, "schema": str(schema)}


def moved_by(run: fl.Run, column: str, values: list[float]) -> np.ndarray:
    """[rows, values]: scores of claims in which only `column` differs."""
    new = claims.claims(80, seed=5)
    new = new[new["kind"] != "test"]
    return np.stack([run.score(new.assign(**{column: value})).to_numpy() for value in values], axis=1)


def test_scores_move_in_the_direction_that_the_schema_gives_a_column(folder: Path, tmp_path: Path) -> None:
    more = {"trees": 12, "depth": 4, "bins": 64}
    free = fl.train(run_dir=tmp_path / "free", **asked(folder, aggregation="plain", no_baselines=True, **more))
    bound = fl.train(run_dir=tmp_path / "bound", **directed(folder, **more))
    ages, amounts = [float(age) for age in range(18, 90)], [float(v) for v in np.exp(np.linspace(1.0, 8.0, 60))]
    by_age, by_amount = moved_by(bound, "age", ages), moved_by(bound, "paid", amounts)
    assert (np.diff(by_age, axis=1) <= 0).all() and (np.diff(by_amount, axis=1) >= 0).all()
    assert by_amount.max() > by_amount.min()
    # The control: without directions the same columns move scores both ways.
    for column, values in (("age", ages), ("paid", amounts)):
        steps = np.diff(moved_by(free, column, values), axis=1)
        assert (steps < 0).any() and (steps > 0).any()
    assert bound.result["trees"]["monotone"] == {"amount": "up", "age": "down"}
    assert "whose score may only go down with age, up with amount" in str(grown_sentence(bound.result))
    planned = tree_outline(RunPlan.new(bound.config, read_source(bound.config.data, bound.config.seed)))
    assert "the score may only go down with age, up with amount" in planned.sentences
    assert fl.load(bound.folder).result["trees"]["same_as_pooled"] is None


def test_a_model_that_keeps_no_column_monotone_is_refused_with_such_a_schema(folder: Path, tmp_path: Path) -> None:
    network = {"model": "mlp", "rounds": 1, "trees": None, "depth": None, "bins": None}
    with pytest.raises(AlgorithmError, match=r"age down, amount up.*--model trees.*ignore_monotone"):
        fl.train(run_dir=tmp_path / "refused", **directed(folder, **network))
    assert not (tmp_path / "refused").exists()
    run = fl.train(run_dir=tmp_path / "asked", **directed(folder, **network, ignore_monotone=True))
    assert run.config.model.ignore_monotone
    with pytest.raises(AlgorithmError, match="ignore_monotone: trees that learn their splits keep"):
        fl.train(run_dir=tmp_path / "trees", **directed(folder, ignore_monotone=True))


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"epsilon": 3.0}, BudgetError, "--epsilon"),
        ({"rounds": 5}, OptionError, "--rounds"),
        ({"lr": 0.1}, OptionError, "--lr"),
        ({"algorithm": "fedprox"}, OptionError, "--algorithm"),
        ({"local_epochs": 2}, OptionError, "--local-epochs"),
        ({"robust": "outliers"}, OptionError, "--robust"),
        ({"attack": "sign-flip", "attackers": 1}, OptionError, "--attack"),
        ({"fraction": 0.5}, OptionError, "--fraction"),
        ({"value_bits": 16}, OptionError, "--value-bits"),
        ({"clip": 2.0}, OptionError, "--clip"),
        ({"history_days": 7, "inputs": "own"}, ModelError, "history_days"),
        ({"bits": "1:8"}, OptionError, "bits"),
        ({"class_weight": 3}, fl.errors.FederationError, "power of two"),
    ],
)
def test_options_that_do_not_fit_trees_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        configuration({**SMALL, **options})


@pytest.mark.parametrize("name", ["trees", "depth", "learning_rate", "bins", "patience"])
def test_options_of_trees_without_trees_are_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match="give --model trees"):
        configuration({"no_dp": True, name: 2 if name == "bins" else 1})


def test_a_configuration_of_trees_becomes_one_of_the_network() -> None:
    config = configuration({"model": "mlp"}, configuration(SMALL))
    assert config.trees is None and config.model.kind == "mlp"


def test_the_seed_of_a_run_draws_its_trees() -> None:
    config = configuration({**SMALL, "seed": 5})
    assert config.trees is not None and config.trees.seed == 5
    assert replace(config, seed=6).trees == replace(config.trees, seed=6)


def test_two_banks_are_refused_with_plain_sums_too() -> None:
    config = configuration({**SMALL, "aggregation": "plain"})
    with pytest.raises(AggregationError, match="at least 3 banks, got 2"):
        require_possible(replace(config, statistics=None), 2)


def test_a_file_that_asks_for_attackers_is_refused() -> None:
    config = replace(configuration(SMALL), attack=AttackSettings("sign-flip", 1))
    with pytest.raises(AlgorithmError, match="leave out other algorithms"):
        require_possible(config, 4)


def test_a_run_of_another_model_exports_no_trees(folder: Path) -> None:
    network = fl.Run(folder, replace(fl.load(folder / "run").model, module=torch.nn.Linear(8, 1)))
    with pytest.raises(ExportError, match="expected a run of trees"):
        network.export_xgboost(folder / "no.json")


@pytest.mark.long
def test_shared_counts_are_columns_of_the_trees_of_pooled_rows(tmp_path: Path) -> None:
    embedded = {"customers": 200, "clients": 3, "fraud_share": 0.05, "inputs": "own"}
    run = fl.train(run_dir=tmp_path / "run", **{**SMALL, **embedded})
    trees = run.result["trees"]
    assert "terminal_risk_7d_all_banks" in trees["columns"] and trees["same_as_pooled"] is True
    report = examine(run.folder)
    assert "terminal_risk_7d_all_banks" in report["explanations"]["usual"]["importance"]


@pytest.mark.long
def test_a_run_that_was_killed_in_the_middle_of_tree_37_grows_the_same_trees(folder: Path, tmp_path: Path) -> None:
    options = asked(folder, trees=40, depth=4, bins=64, no_baselines=True)
    whole = fl.train(run_dir=tmp_path / "whole", **options)
    after = 1 + 36 * 4 + 2
    killed(tmp_path / "killed", options, after, before_it_is_kept=False)
    assert len(json.loads((tmp_path / "killed" / TRAINING).read_text())["trees"]) == 36
    before = records(tmp_path / "killed")
    again = fl.resume(tmp_path / "killed")
    assert again.result["trees"]["model_hash"] == whole.result["trees"]["model_hash"]
    lines = records(tmp_path / "killed")
    assert lines[:after] == before and [line["round"] for line in lines] == list(range(1, 162))
