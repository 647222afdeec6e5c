"""Random trees under differential privacy: what is drawn, paid and kept, and what a run that was killed does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import risky_banks
from click.testing import CliRunner
from finished_runs import played
from forked import in_a_child

import fl
from demos.__main__ import cli
from fl.counts.risk_columns import RISK
from fl.data.federation import PartitionedTable
from fl.errors import BudgetError, FederationError, OptionError
from fl.privacy.accounting import reckoned
from fl.privacy.mechanisms import LaplaceCounts, SharedSteps
from fl.reports.ablation import COMPONENTS
from fl.reports.cards import cards, read_run
from fl.reports.compared import baselines_of
from fl.reports.examination.report import examine
from fl.reports.trees_told import histogram_sentences
from fl.runs import random_tree_experiment, tree_drafts
from fl.runs.asked import configuration
from fl.runs.config import RunConfig, config_from_toml, config_to_toml
from fl.runs.experiment import Experiment
from fl.runs.kinds import begun, resumed
from fl.runs.noise import with_noise
from fl.runs.onnx_file import disagreement, onnx_model, open_session
from fl.runs.plan import RunPlan
from fl.runs.random_tree_experiment import RandomTreeExperiment
from fl.runs.refusals import require_possible
from fl.runs.tree_columns import TreeColumns, columns_to_split

TREES = 4
SMALL = {"model": "trees", "epsilon": 3.0, "trees": TREES}


def config(data: Path, **given: Any) -> RunConfig:
    return risky_banks.config(data, **{**SMALL, **given})


@pytest.fixture(scope="module")
def run(data: Path) -> fl.Run:
    """A finished run with its baselines."""
    experiment = played(begun(config(data, no_baselines=False), data / "run"))
    assert list(experiment.baselines())
    experiment.result()
    return fl.load(data / "run")


def spends(run: Path) -> dict[str, list[dict[str, Any]]]:
    """By bank: the lines of its ledger."""
    return {
        path.stem.rpartition("-")[0]: json.loads(path.read_text())["spent"]
        for path in sorted((run / "budget").glob("*.json"))
    }


def trees_of(experiment: Experiment) -> Any:
    assert isinstance(experiment, RandomTreeExperiment)
    return experiment.module.trees


# --- what is asked for ----------------------------------------------------------------------------------------------


def test_trees_with_a_budget_are_random_ones_with_settings_of_their_own(data: Path, source: PartitionedTable) -> None:
    asked = configuration({"model": "trees", "epsilon": 3.0})
    trees, privacy = asked.trees, asked.privacy
    assert trees is not None and privacy is not None and privacy.noise == "shared"
    assert asked.rounds == trees.trees == 60 and trees.penalty == 200
    assert config_from_toml(config_to_toml(asked)) == asked
    assert configuration({"no_dp": True}, asked) == configuration({"no_dp": True, "model": "trees"})
    assert configuration({"epsilon": 3.0}, configuration({"no_dp": True, "model": "trees"})) == asked
    plan = with_noise(RunPlan.new(config(data), source))
    assert plan.feature_names[-1] == RISK and "terminal_risk_7d" not in plan.feature_names
    columns = TreeColumns.of(source.table.schema, plan.feature_names, linked=True)
    chosen = [columns.names[place] for place in columns_to_split(source.table.schema, columns)]
    assert chosen == ["amount", "customer_amount_zscore", "customer_amount_log_ratio"]
    assert plan.joint_noise is not None and plan.joint_noise.dimension == 2 * 2**trees.depth


def test_counts_have_the_share_of_epsilon_that_they_have_beside_the_noisy_or_model() -> None:
    shares = [configuration({"model": model, "epsilon": 3.0}).statistics for model in ("trees", "noisy-or")]
    assert shares[0] == shares[1] is not None


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"inputs": "own"}, BudgetError, "inputs=own"),
        ({"aggregation": "plain"}, BudgetError, "encrypted"),
        ({"class_weight": 4}, OptionError, "class_weight"),
        ({"least_rows": 4}, OptionError, "least_rows"),
        ({"row_share": 0.5}, OptionError, "row_share"),
        ({"patience": 3}, OptionError, "patience"),
        ({"rows_per_bank": 8000}, OptionError, "--rows-per-bank"),
        ({"rounds": 5}, OptionError, "--rounds"),
        ({"unit": "client"}, OptionError, "--unit"),
        ({"max_grad_norm": 1.0}, BudgetError, "max_grad_norm"),
    ],
)
def test_what_does_not_fit_random_trees_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        require_possible(configuration({**SMALL, **options}), 3)


def test_a_file_that_sets_what_belongs_to_learned_splits_is_refused() -> None:
    text = config_to_toml(configuration(SMALL)).replace("class_weight = 1\n", "class_weight = 4\n")
    with pytest.raises(FederationError, match="belongs to learned splits"):
        require_possible(config_from_toml(text), 3)


# --- what is paid and reported --------------------------------------------------------------------------------------


def test_the_epsilon_is_that_of_all_releases_and_stays_within_the_budget(run: fl.Run) -> None:
    told, held = run.result["privacy"], spends(run.folder)
    assert held.keys() == set(risky_banks.BANKS)
    for lines in held.values():
        assert len(lines) == 1 + TREES  # the counts, and one sum for each tree
        assert len({line["bound_to"] for line in lines}) == 1 + TREES and all(line["bound_to"] for line in lines)
    ledger = resumed(run.folder).ledgers["bank-0"]
    kinds = [type(entry) for entry in ledger.history()]
    assert kinds == [LaplaceCounts] + [SharedSteps] * TREES
    assert told["epsilon"] == reckoned(ledger.history(), 1e-5).epsilon
    assert 0.95 * 3.0 < told["epsilon"] <= 3.0
    assert told["delta"] == 1e-5 and told["accountant"]
    assert told["unit"] == "training row, features fixed; transaction in shared counts"


def test_the_same_trees_with_other_noise_have_the_same_splits_and_other_leaves(
    run: fl.Run, data: Path, tmp_path: Path
) -> None:
    other = trees_of(played(begun(config(data), tmp_path / "other")))
    mine = run._trees().trees
    for one, two in zip(mine.trees, other.trees, strict=True):
        assert [node.split for node in one.nodes] == [node.split for node in two.nodes]
        assert [node.leaf for node in one.nodes] != [node.leaf for node in two.nodes]
    assert mine.base == other.base and mine.edges == other.edges


def test_without_shared_counts_all_of_epsilon_is_for_the_trees(data: Path, tmp_path: Path) -> None:
    experiment = played(begun(config(data, no_shared_statistics=True, trees=2), tmp_path / "run"))
    assert {len(lines) for lines in spends(tmp_path / "run").values()} == {2}
    assert experiment.result()["privacy"]["unit"] == "training row, features fixed"
    assert fl.load(tmp_path / "run").model.features[-1] == RISK


# --- killed ---------------------------------------------------------------------------------------------------------


def killed(where: Path, data: Path, name: str, after: int) -> None:
    """A run in a forked process that is killed at the call of this function of its module, after so many trees."""

    def die(*given: Any, **named: Any) -> Any:
        metrics = where / "metrics.jsonl"
        done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return go_on(*given, **named)

    go_on: Callable[..., Any] = getattr(random_tree_experiment, name)

    def work() -> None:
        pytest.MonkeyPatch().setattr(random_tree_experiment, name, die)  # in the forked process alone
        played(begun(config(data), where))

    assert in_a_child(work) == "", "the run ended before it was killed"


def draft(where: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((where / tree_drafts.FILE).read_bytes())
    return content


def test_a_draft_that_was_paid_for_and_not_sent_is_sent_by_the_resumed_run_and_no_noise_is_drawn_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "run"
    killed(where, data, "encrypted_sum", after=2)
    before, paid = draft(where), spends(where)
    assert {len(lines) for lines in paid.values()} == {1 + 3}
    sent: list[list[int]] = []

    def watched(draws: Any, **named: Any) -> Any:
        sent.append([draw(len(draws)).tolist() for draw in draws])
        return go_on(draws, **named)

    go_on = random_tree_experiment.encrypted_sum
    monkeypatch.setattr(random_tree_experiment, "encrypted_sum", watched)
    again = resumed(where)
    assert again.rounds_lost == 0
    played(again)
    assert sent[0] == list(before["parts"].values()) and len(sent) == 2
    after = spends(where)
    for bank, lines in after.items():
        assert len(lines) == 1 + TREES and lines[:4] == paid[bank]
    assert len(trees_of(again).trees) == TREES and not (where / tree_drafts.FILE).exists()


def test_a_draft_that_was_not_paid_for_is_drawn_anew_and_costs_no_tree(data: Path, tmp_path: Path) -> None:
    where = tmp_path / "run"
    killed(where, data, "kept_draft", after=1)  # the second tree is looked for on disk, and nothing is drawn
    first = json.loads((where / "metrics.jsonl").read_text().splitlines()[0])
    again = resumed(where)
    sums = again._state.memory["sums"].tolist()  # type: ignore[union-attr]
    played(again)
    assert again.rounds_lost == 0 and len(trees_of(again).trees) == TREES
    assert again._state.memory["sums"][: len(sums)].tolist() == sums  # type: ignore[union-attr]
    assert json.loads((where / "metrics.jsonl").read_text().splitlines()[0]) == first
    assert {len(lines) for lines in spends(where).values()} == {1 + TREES}


@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_a_paid_draft_that_is_lost_or_changed_is_paid_for_again_and_one_tree_is_lost(
    data: Path, tmp_path: Path, harm: str
) -> None:
    where = tmp_path / "run"
    killed(where, data, "encrypted_sum", after=1)
    if harm == "lost":
        (where / tree_drafts.FILE).unlink()
    else:
        content = draft(where)
        content["parts"]["bank-1"][0] += 1
        (where / tree_drafts.FILE).write_text(json.dumps(content, separators=(",", ":")))
    again = resumed(where)
    assert again.rounds_lost == 1
    played(again)
    result = again.result()
    assert len(trees_of(again).trees) == TREES - 1 == result["trees"]["trees"] and result["rounds_lost"] == 1
    assert {len(lines) for lines in spends(where).values()} == {1 + TREES}
    assert result["privacy"]["epsilon"] <= 3.0


def test_a_draft_whose_tree_is_on_disk_already_is_removed_and_not_sent(data: Path, tmp_path: Path) -> None:
    where = tmp_path / "run"
    killed(where, data, "drop_draft", after=TREES)  # the last tree is kept, and its draft is there still
    assert (where / tree_drafts.FILE).exists()
    before = spends(where)
    again = resumed(where)
    assert again.rounds_lost == 0 and len(trees_of(played(again)).trees) == TREES
    assert spends(where) == before and not (where / tree_drafts.FILE).exists()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format":"fl tree draft 1","name":1,"parts":[]}', "9" * 5000, "[" * 100_000],
)
def test_a_file_that_is_no_draft_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / tree_drafts.FILE).write_text(content)
    assert tree_drafts.kept_draft(tmp_path, "0" * 64, ("a", "b"), 2, 100) is None


def test_a_draft_is_read_as_it_was_written_and_one_of_another_size_is_none(tmp_path: Path) -> None:
    parts = (np.array([1, -100]), np.array([0, 5]))
    written = tree_drafts.TreeDraft("0" * 64, ("a", "b"), parts)
    written.write(tmp_path)
    read = tree_drafts.kept_draft(tmp_path, "0" * 64, ("a", "b"), 2, 100)
    assert read is not None and read.digest == written.digest
    for name, banks, length, largest in (
        ("1" * 64, ("a", "b"), 2, 100),
        ("0" * 64, ("a", "c"), 2, 100),
        ("0" * 64, ("a", "b"), 3, 100),
        ("0" * 64, ("a", "b"), 2, 99),
    ):
        assert tree_drafts.kept_draft(tmp_path, name, banks, length, largest) is None


# --- the model afterwards -------------------------------------------------------------------------------------------


def test_a_private_run_of_trees_scores_exports_and_reports(
    run: fl.Run, data: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    earlier = rows.TIME < risky_banks.TEST
    past, new = rows[earlier], rows[~earlier].reset_index(drop=True)
    assert run.score(new, past).between(0, 1).all() and run.calibrated(new, past).notna().all()
    home = run.as_bank("bank-2", past).score(new, past)
    assert home[(new.BANK == "bank-2").to_numpy()].between(0, 1).all()
    agreed = disagreement(run.model, open_session(onnx_model(run.model).SerializeToString()), data / "transactions.csv")
    assert agreed.close and agreed.rows == len(rows)
    said = CliRunner().invoke(cli, ["threshold", str(run.folder), "--f1"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert tuple(run.result["baselines"]) == baselines_of(run.config)
    assert histogram_sentences(run.result) == ()
    card = cards(read_run(run.folder))
    assert f"{TREES} random trees of depth" in card.model_card and "no differential privacy:" not in card.model_card
    assert "every tree's noisy sum" in card.dpia and "histogram" not in card.dpia
    pytest.importorskip("xgboost", reason="xgboost is not installed (extra `trees`)")
    report = examine(run.folder)
    assert report["explanations"]["exact"] and report["explanations"]["mean_gap"] < 1e-4
    shown = CliRunner().invoke(cli, ["export", str(run.folder), "--xgboost", str(tmp_path / "t.json")])
    assert shown.exit_code == 0 and "log odds of p" in " ".join(shown.output.split())


def test_an_ablation_of_private_trees_leaves_out_what_can_be_left_out(data: Path) -> None:
    asked = config(data)
    left_out = {name: component.without(asked) for name, component in COMPONENTS.items()}
    assert left_out["encryption"] is None and left_out["filter"] is None
    for name, kind in (("privacy", "trees"), ("trees", "mlp"), ("shared noise", "trees"), ("statistics", "trees")):
        without = left_out[name]
        assert without is not None and without.model.kind == kind, name
        require_possible(without, 3)


def test_train_says_what_was_drawn_and_spent(data: Path, tmp_path: Path) -> None:
    asked = ["--data", str(data / "transactions.csv"), "--schema", str(data / "risky.toml"), "--partition", "BANK"]
    trees = ["--model", "trees", "--epsilon", "2", "--trees", "2", "--no-baselines", "--run-dir", str(tmp_path / "run")]
    shown = CliRunner().invoke(cli, ["train", *asked, *trees], catch_exceptions=False)
    words = " ".join(shown.output.split())
    assert shown.exit_code == 0, shown.output
    for expected in ("2 random trees of depth", "splits are drawn among amount", "every tree's noisy sum"):
        assert expected in words
    assert "leavess" not in words
