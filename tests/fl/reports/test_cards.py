"""Cards say what the run knows, mark what it does not, and promise nothing that did not happen."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from finished_runs import open_config, train

from fl.errors import RunFolderError
from fl.privacy.protection import Protection
from fl.reports.card_templates import DPIA, MODEL_CARD
from fl.reports.cards import FIELD, MARK, Cards, FinishedRun, cards, read_run
from fl.runs.config import AggregationSettings, DataSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    data = DataSettings("simulated", clients=3, customers=200, fraud_share=0.05)
    return read_run(train(open_config(data, rounds=2, baselines=True), tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def made(run: FinishedRun) -> Cards:
    return cards(run)


def test_the_four_parts_of_article_35_7_stand_in_their_order(made: Cards) -> None:
    parts = ["## (a) Description", "## (b) Necessity", "## (c) Risks", "## (d) Measures"]
    places = [made.dpia.index(part) for part in parts]
    assert places == sorted(places)


def test_every_field_of_the_templates_becomes_a_mark_and_nothing_else_is_open(made: Cards) -> None:
    assert made.open_in_model_card == len(FIELD.findall(MODEL_CARD))
    judgements = made.dpia.count(f"{MARK}: judge.")
    assert made.open_in_dpia == len(FIELD.findall(DPIA)) + judgements and judgements == 7
    for text in (made.model_card, made.dpia):
        assert not re.search(r"\[\[(?!\")|\$[a-z]", text)


def test_figures_are_those_of_the_run(run: FinishedRun, made: Cards) -> None:
    own = f"{run.result['metrics']['average_precision']:.3f}"
    assert f"| this model | {own} |" in made.model_card
    assert f"{run.result['baselines']['alone']['average_precision']:.3f}" in made.dpia
    assert f"{run.result['parameters']:,} parameters" in made.model_card


def test_averages_in_plain_sight_are_called_no_measure(run: FinishedRun, made: Cards) -> None:
    assert "None: this run averaged updates in plain sight" in made.dpia
    hidden = cards(replace(run, config=replace(run.config, aggregation=AggregationSettings("encrypted"))))
    assert "masked pairwise" in hidden.dpia and "plain sight. It must not" not in hidden.dpia


def test_a_run_without_privacy_claims_none(made: Cards) -> None:
    assert "Trained without differential privacy." in made.model_card
    assert "epsilon" not in made.model_card.lower().split("## limits")[0]


def test_a_private_run_says_what_its_epsilon_means_and_what_has_none(run: FinishedRun) -> None:
    gained = asdict(Protection(0.93, 0.001, 0.02, 5, 0.9996))
    privacy = {"epsilon": 2.98, "delta": 1e-5, "accountant": "exact", "colluders": 1, "protection": gained}
    own = {**run.result["metrics"], "average_precision": 0.987}
    metrics = {**run.result["metrics"], "own_evidence": own}
    result = {**run.result, "metrics": metrics, "privacy": {**run.result["privacy"], **privacy}}
    result["baselines"] = {**run.result["baselines"], "alone_filter": own, "alone_private": own, "at_home": own}
    both = cards(replace(run, result=result))
    for text in (both.model_card, both.dpia):
        assert "in at most 93.0 % of cases" in text and "Joining brings" in text
        assert "have no epsilon: whoever sees them may learn single labels" in text
    assert "| this model, own labels when scoring | 0.987 |" in both.model_card
    assert "| own models at home, with the release | 0.987 |" in both.model_card
    assert "| scores give away single labels of a bank |" in both.dpia


def test_what_was_not_examined_is_said(made: Cards) -> None:
    assert made.model_card.count("Not examined: run") == 2
    assert "Drift was not looked for yet." in made.dpia


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected a run folder"):
        read_run(tmp_path)


HOSTILE = "<img src=x onerror=alert(1)> [click](http://x) | **bold** `code` _it_\n# heading"


def test_names_from_outside_are_text_in_a_card_and_never_markup(run: FinishedRun) -> None:
    schema = replace(run.schema, never=(f"{HOSTILE} never",))
    result = {**run.result, "baselines": {HOSTILE: run.result["metrics"]}}
    data = {**run.manifest["data"], "source": HOSTILE, "partition": HOSTILE, "schema": HOSTILE}
    report = {
        "findings": [{"kind": "note", "text": f"bank {HOSTILE}"}],
        "fairness": {
            "columns": [{"column": HOSTILE, "groups": [{"group": HOSTILE, "recall": 0.5, "frauds": 2, "small": False}]}]
        },
        "drift": {"available": False, "why": HOSTILE},
    }
    hostile = replace(
        run,
        schema=schema,
        features=(HOSTILE, *run.features),
        manifest={**run.manifest, "data": data},
        result=result,
        report=report,
    )
    both = cards(hostile)
    plain = cards(run)
    for card, sound in ((both.model_card, plain.model_card), (both.dpia, plain.dpia)):
        without_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\.", "", card))
        assert "<img" not in without_code and "](http" not in without_code and "**bold**" not in without_code
        assert [line for line in card.splitlines() if line.startswith("#")] == [
            line for line in sound.splitlines() if line.startswith("#")
        ]
    row = next(line for line in both.model_card.splitlines() if "onerror" in line and line.startswith("|"))
    assert row.count("|") == both.model_card.splitlines()[both.model_card.splitlines().index(row) - 2].count("|")
