"""`--model auto`: every model that fits is trained, held-out rows choose one, and its run is the run of the folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import claims
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from forked import in_a_child

import fl
from demos.train import train
from fl.counts.columns import SharedColumns
from fl.data.held_out import held_out_days
from fl.errors import AggregationError, BudgetError, MetricError, OptionError, RunFolderError
from fl.learning.thresholds import HeldOut
from fl.reports.cards import cards, read_run
from fl.reports.chosen import choice_sentence
from fl.reports.examination.findings import _chosen
from fl.runs import choosing
from fl.runs.asked import configuration
from fl.runs.candidates import Candidates, asked_for
from fl.runs.choice import CANDIDATES, CHOICE, HeldOutFigures, ModelChoice, read_choice
from fl.runs.held_out import _covering_early_days
from fl.runs.plan import read_source

AUTO = {"model": "auto", "no_dp": True, "aggregation": "plain", "no_baselines": True}
QUICK = {**AUTO, "trees": 8, "depth": 3, "bins": 16, "local_epochs": 2}


def asked(folder: Path, **changed: Any) -> dict[str, Any]:
    data, schema = claims.write(folder)
    return {"data": str(data), "schema": str(schema), **QUICK, **changed}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="module")
def run(folder: Path) -> fl.Run:
    return fl.train(run_dir=folder / "run", **asked(folder))


def figures_of(run: fl.Run) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = run.result["choice"]["figures"]
    return found


# --- the choice -----------------------------------------------------------------------------------------------------


def test_the_model_with_the_best_figure_on_held_out_rows_is_the_run_of_the_folder(run: fl.Run) -> None:
    choice, figures = run.result["choice"], figures_of(run)
    assert choice["tried"] == ["trees", "mlp"] and set(figures) == {"trees", "mlp"}
    best = max(figures, key=lambda kind: figures[kind]["average_precision"])
    assert choice["chosen"] == best == run.config.model.kind
    assert len({(each["rows"], each["frauds"]) for each in figures.values()}) == 1
    assert all(0 < each["log_loss"] < 1 for each in figures.values())
    assert choice["left_out"] == {"noisy-or": "the schema names no parties that banks share and count"}


def test_the_chosen_run_is_the_run_of_that_model_alone(run: fl.Run, folder: Path, tmp_path: Path) -> None:
    options = {name: value for name, value in asked(folder).items() if name not in ("trees", "depth", "bins")}
    kind = run.config.model.kind
    if kind == "trees":
        options = {name: value for name, value in asked(folder).items() if name != "local_epochs"}
    alone = fl.train(run_dir=tmp_path / "alone", **{**options, "model": kind})
    assert alone.config == run.config and alone.metrics == run.metrics
    assert alone.result["choice"] is None and choice_sentence(alone.result) is None


def test_the_other_models_stay_in_the_folder_as_runs(run: fl.Run) -> None:
    (other,) = {"trees", "mlp"} - {run.config.model.kind}
    assert sorted(each.name for each in (run.folder / CANDIDATES).iterdir()) == sorted(
        [other, "trees.toml", "mlp.toml"]
    )
    kept = fl.load(run.folder / CANDIDATES / other)
    assert kept.config.model.kind == other and kept.metrics["average_precision"] > 0


def test_labels_of_test_rows_change_no_choice(run: fl.Run, folder: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(folder / "claims.csv")
    tested = frame["day"] >= frame["day"].quantile(0.62)
    frame.loc[tested, "fraud"] = 1 - frame.loc[tested, "fraud"]
    frame.to_csv(tmp_path / "claims.csv", index=False)
    other = fl.train(run_dir=tmp_path / "run", **{**asked(folder), "data": str(tmp_path / "claims.csv")})
    assert other.result["choice"] == run.result["choice"]
    assert other.metrics["average_precision"] != run.metrics["average_precision"]


def test_the_best_figure_decides_and_of_equal_ones_the_first() -> None:
    def of(figure: float) -> HeldOutFigures:
        return HeldOutFigures(figure, 0.1, 100, 5)

    begun = ModelChoice(("trees", "noisy-or", "mlp"), {})
    for figures, chosen in (((0.2, 0.3, 0.1), "noisy-or"), ((0.2, 0.2, 0.2), "trees"), ((0.1, 0.3, 0.3), "noisy-or")):
        choice = begun
        for kind, figure in zip(begun.tried, figures, strict=True):
            assert choice.chosen is None
            choice = choice.measured(kind, of(figure))
        assert choice.chosen == chosen


def test_held_out_rows_without_a_fraud_choose_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = {"a": HeldOut(np.zeros(5), np.linspace(0.1, 0.2, 5), 1.0)}
    monkeypatch.setattr(choosing, "held_out_scores", lambda *_: none)
    with pytest.raises(MetricError, match="0 frauds in 5 held-out rows"):
        fl.train(run_dir=tmp_path / "run", **asked(folder))


def test_models_with_shared_windows_have_them_on_every_held_out_day(tmp_path: Path) -> None:
    """Else they were measured without these columns on days that the noisy-or model learned from."""
    embedded = {"customers": 60, "clients": 3, "fraud_share": 0.1, "model": "mlp", "rounds": 1, "local_epochs": 1}
    run = fl.train(no_dp=True, no_baselines=True, aggregation="plain", run_dir=tmp_path / "run", **embedded)
    source = read_source(run.config.data, run.config.seed)
    schema = source.table.schema

    def last_days(learned_days: int) -> set[int]:
        """Of the windows that are known."""
        covered = _covering_early_days(source, run.model.shared, learned_days)
        assert isinstance(covered, SharedColumns)
        return {period.last for period in covered.totals.plan.periods}

    for learned_days in (0, 14, 28):
        first = held_out_days(source.periods, schema, source.first_day, learned_days=learned_days).start
        assert min(last_days(learned_days)) == first - schema.label.delay_days - 1
    assert last_days(0) < last_days(14)


# --- what is said ---------------------------------------------------------------------------------------------------


def test_the_output_and_the_card_and_the_report_say_why(run: fl.Run, folder: Path, tmp_path: Path) -> None:
    why = choice_sentence(run.result)
    assert why is not None and "chosen of 2 models by average precision on" in why
    assert "no test row among them" in why and "the noisy-or model was not tried" in why
    for figures in figures_of(run).values():
        assert f"{figures['average_precision']:.3f} (log loss {figures['log_loss']:.4f})" in why
    card = cards(read_run(run.folder)).model_card
    assert "Why this model: " in card and "chosen of 2 models" in card
    assert [each["kind"] for each in _chosen({"choice": why})] == ["note"] and _chosen({"choice": None}) == []
    options = asked(folder)
    command = ["--data", options["data"], "--schema", options["schema"], "--no-dp", "--model", "auto", "--trees", "3"]
    command += ["--local-epochs", "1", "--aggregation", "plain", "--no-baselines", "--run-dir", str(tmp_path / "run")]
    done = CliRunner().invoke(train, command, catch_exceptions=False)
    said = " ".join(done.output.split())
    assert done.exit_code == 0 and "chosen of 2 models by average precision on" in said
    assert said.count("plan: ") == 2 and "trees: growing 3 trees" in said and "mlp: training, 10 rounds" in said
    again = CliRunner().invoke(train, ["--resume", str(tmp_path / "run"), "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["choice"]["tried"] == ["trees", "mlp"]


# --- killed ---------------------------------------------------------------------------------------------------------


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(where: Path, options: dict[str, Any], prepare: Callable[[pytest.MonkeyPatch], Any]) -> None:
    """A run in a forked process, which `prepare` arranges to be killed; it may return a function that is told."""

    def work() -> None:
        fl.train(run_dir=where, progress=prepare(pytest.MonkeyPatch()), **options)

    assert in_a_child(work) == "", "the run ended before it was killed"


def in_the_middle_of_the_first(_: pytest.MonkeyPatch) -> Any:
    return lambda what, done, total: die() if what.startswith("trees: growing") and done == 9 else None


def in_the_middle_of_the_second(_: pytest.MonkeyPatch) -> Any:
    return lambda what, done, total: die() if what.startswith("mlp: training") and done == 16 else None


def before_the_second_has_a_manifest(patch: pytest.MonkeyPatch) -> None:
    made = choosing.begun

    def begun(config: Any, path: Path) -> Any:
        if path.name == "mlp":
            path.mkdir(parents=True)
            (path / "config.toml").write_text("half")
            die()
        return made(config, path)

    patch.setattr(choosing, "begun", begun)


def before_the_choice_is_kept(patch: pytest.MonkeyPatch) -> None:
    write = choosing.write_choice
    patch.setattr(choosing, "write_choice", lambda run, choice: die() if choice.chosen else write(run, choice))


def while_the_files_move(patch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []

    def replace(old: Path, new: Path) -> None:
        moved.append(new)
        if len(moved) == 4:
            die()
        os.replace(old, new)

    patch.setattr(choosing, "os", SimpleNamespace(replace=replace))


def before_the_manifest_moves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        choosing,
        "os",
        SimpleNamespace(replace=lambda old, new: die() if old.name == "manifest.json" else os.replace(old, new)),
    )


@pytest.mark.parametrize(
    "prepare",
    [
        in_the_middle_of_the_first,
        in_the_middle_of_the_second,
        before_the_second_has_a_manifest,
        before_the_choice_is_kept,
        while_the_files_move,
        before_the_manifest_moves,
    ],
)
def test_a_choice_that_was_killed_is_finished_with_the_same_figures_and_the_same_run(
    run: fl.Run, folder: Path, tmp_path: Path, prepare: Callable[[pytest.MonkeyPatch], Any]
) -> None:
    where = tmp_path / "killed"
    killed(where, asked(folder), prepare)
    assert not (where / "manifest.json").exists()
    finished = (where / CANDIDATES / "trees" / "trees_training.json").exists() and read_choice(where)
    before = _lines(where / CANDIDATES / "trees")
    again = fl.resume(where)
    assert again.result["choice"] == run.result["choice"] and again.metrics == run.metrics
    assert sorted(each.name for each in where.iterdir()) == sorted(each.name for each in run.folder.iterdir())
    if finished and finished.figures:
        (after,) = [each for each in (where, where / CANDIDATES / "trees") if (each / "trees_training.json").exists()]
        assert before in ([], _lines(after)), "a model that was finished was trained again"


def _lines(run: Path) -> list[str]:
    path = run / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_a_finished_choice_is_not_made_again(run: fl.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "play_rounds", lambda *_: pytest.fail("a candidate was trained again"))
    assert fl.resume(run.folder).metrics == run.metrics


def test_another_process_that_chooses_is_noticed(folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "run"
    killed(where, asked(folder), in_the_middle_of_the_first)
    with choosing.locked(where / choosing.LOCK), pytest.raises(RunFolderError, match="another process"):
        fl.resume(where)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"epsilon": 3.0}, {"epsilon": 3.0, "noise": "shared"}])
def test_a_choice_under_differential_privacy_is_refused_with_what_to_do(
    options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"spend a part of every bank's epsilon.*--model noisy-or.*--no-dp"):
        fl.train(model="auto", run_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 3),
        ("lr", 0.1),
        ("algorithm", "fedprox"),
        ("robust", "outliers"),
        ("attack", "sign-flip"),
        ("fraction", 0.5),
        ("limits", "limits.toml"),
        ("bits", "1:8"),
    ],
)
def test_options_that_mean_different_things_to_the_models_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} does not mean the same to every model"):
        asked_for({**QUICK, name: value})


def test_an_option_goes_to_the_models_that_it_means_something_to() -> None:
    tried = asked_for({**QUICK, "history_days": 28, "value_bits": 20, "seed": 4})
    assert isinstance(tried, Candidates)
    trees, noisy_or, network = (tried.configs[kind] for kind in ("trees", "noisy-or", "mlp"))
    assert trees.trees is not None and trees.trees.trees == 8 and trees.trees.seed == 4
    assert (noisy_or.model.history_days, network.model.history_days) == (28, 0)
    assert noisy_or.aggregation.value_bits == network.aggregation.value_bits == 20
    assert network.training.epochs == 2 and {each.seed for each in tried.configs.values()} == {4}


def test_without_shared_counts_the_noisy_or_model_is_left_out_with_the_reason() -> None:
    tried = asked_for({**QUICK, "no_shared_statistics": True})
    assert isinstance(tried, Candidates)
    assert list(tried.configs) == ["trees", "mlp"] and "--no-shared-statistics" in tried.left_out["noisy-or"]


def test_monotone_columns_leave_the_choice_to_trees(folder: Path) -> None:
    schema = folder / "directed.toml"
    schema.write_text(claims.SCHEMA.replace("missing = 45.0", 'missing = 45.0\nmonotone = "down"'))
    tried = asked_for({**asked(folder), "schema": str(schema)})
    assert isinstance(tried, Candidates)
    assert list(tried.configs) == ["trees"] and "monotone" in tried.left_out["mlp"]
    both = asked_for({**asked(folder), "schema": str(schema), "ignore_monotone": True})
    assert isinstance(both, Candidates) and list(both.configs) == ["trees", "mlp"]


def test_what_one_model_cannot_do_is_refused_before_any_is_trained(tmp_path: Path) -> None:
    with pytest.raises(AggregationError, match="at least 3 banks, got 2"):
        fl.train(customers=60, fraud_share=0.1, clients=2, no_shared_statistics=True, run_dir=tmp_path / "run", **AUTO)
    assert not (tmp_path / "run").exists()


def test_what_takes_one_configuration_names_auto_as_none() -> None:
    with pytest.raises(OptionError, match="names no single model"):
        configuration(QUICK)


# --- a record that a stranger wrote ---------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "another format": lambda content: content.update(format="choice 2"),
    "no model": lambda content: content.update(tried=[], figures={}, chosen=None),
    "an unknown model": lambda content: content.update(tried=["trees", "../mlp"]),
    "a model twice": lambda content: content.update(tried=["trees", "trees"]),
    "a choice without figures": lambda content: content.update(figures={}),
    "a choice of what was not tried": lambda content: content.update(chosen="noisy-or"),
    "a figure beyond 1": lambda content: content["figures"]["trees"].update(average_precision=1.5),
    "a figure that is none": lambda content: content["figures"]["trees"].update(log_loss="low"),
    "an unknown figure": lambda content: content["figures"]["trees"].update(recall=0.5),
    "no figures": lambda content: content.pop("figures"),
    "figures as a list": lambda content: content.update(figures=[1]),
    "reasons that are none": lambda content: content.update(left_out={"mlp": 3}),
    "an unknown key": lambda content: content.update(more=1),
    "days below zero": lambda content: content.update(learned_days=-1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_record_that_no_choice_wrote_is_refused(
    run: fl.Run, tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    content = json.loads((run.folder / CHOICE).read_text())
    (tmp_path / CHOICE).write_text(json.dumps(content))
    assert read_choice(tmp_path) == read_choice(run.folder)
    change(content)
    (tmp_path / CHOICE).write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=r"choice\.json"):
        read_choice(tmp_path)


@pytest.mark.long
def test_with_shared_counts_the_noisy_or_model_is_tried_too(tmp_path: Path) -> None:
    embedded = {"customers": 200, "clients": 3, "fraud_share": 0.05}
    run = fl.train(run_dir=tmp_path / "run", **{**QUICK, **embedded, "no_baselines": None})
    figures = figures_of(run)
    assert set(figures) == {"trees", "noisy-or", "mlp"} and run.result["choice"]["left_out"] == {}
    assert len({(each["rows"], each["frauds"]) for each in figures.values()}) == 1
    assert run.result["baselines"] and run.config.model.kind == run.result["choice"]["chosen"]
    before = run.metrics
    shutil.move(run.folder, tmp_path / "moved")
    assert fl.load(tmp_path / "moved").metrics == before
