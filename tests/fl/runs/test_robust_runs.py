"""Runs with a rule and with simulated attackers, from their options to their result."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import fl
from demos.train import train as train_command
from fl.errors import AggregationError, AlgorithmError, BudgetError, FederationError, OptionError, ResourceError
from fl.reports.cards import cards, read_run
from fl.reports.compared import baselines_of
from fl.rounds.attackers import AttackSettings
from fl.runs.asked import configuration
from fl.runs.config import AggregationSettings, RunConfig, config_from_toml, config_to_toml
from fl.runs.refusals import require_possible
from fl.secure.robust import RobustSettings
from secagg.errors import RuleNeedsMoreClients

PLAIN: dict[str, Any] = {"no_dp": True, "aggregation": "plain"}


def asked(**options: Any) -> RunConfig:
    return configuration({**PLAIN, **options})


# --- options --------------------------------------------------------------------------------------------------------


def test_rule_and_attack_are_off_unless_asked_for() -> None:
    config = configuration({})
    assert (config.robust, config.attack) == (None, None)


def test_options_become_tables_of_the_configuration_and_come_back_from_its_file() -> None:
    config = asked(robust="nnm", byzantine=2, attack="alie", attackers=2)
    assert (config.robust, config.attack) == (RobustSettings("nnm", 2), AttackSettings("alie", 2))
    assert config_from_toml(config_to_toml(config)) == config
    again = configuration({"byzantine": 1, "attack": "ipm"}, config)
    assert (again.robust, again.attack) == (RobustSettings("nnm", 1), AttackSettings("ipm", 2))
    assert configuration({"robust": "outliers"}, config).robust == RobustSettings("outliers")


def test_none_leaves_out_the_rule_of_a_configuration_and_asks_for_nothing_else() -> None:
    config = asked(robust="nnm", byzantine=2)
    assert configuration({"robust": "none"}, config) == replace(config, robust=None)
    assert configuration({"robust": "none"}) == configuration({})
    with pytest.raises(OptionError, match="--robust none leaves out what --byzantine is a number for"):
        configuration({"robust": "none", "byzantine": 1}, config)


def test_none_leaves_out_the_attackers_of_a_configuration() -> None:
    config = asked(attack="ipm", attackers=2)
    assert configuration({"attack": "none"}, config) == replace(config, attack=None)
    assert configuration({"attack": "none"}) == configuration({})
    with pytest.raises(OptionError, match="--attack none leaves out what --attackers is a number for"):
        configuration({"attack": "none", "attackers": 1}, config)


def test_a_rule_or_an_attack_asks_for_the_network_under_privacy() -> None:
    assert configuration({"robust": "outliers"}).model.kind == "mlp"
    assert configuration({"attack": "ipm", "attackers": 1}).model.kind == "mlp"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"byzantine": 1}, "--byzantine is a number for a rule: give --robust as well"),
        ({"attack": "ipm"}, "--attack needs --attackers as well"),
        ({"attackers": 1}, "--attackers needs --attack as well"),
    ],
)
def test_half_of_a_pair_is_refused(options: dict, said: str) -> None:
    with pytest.raises(OptionError, match=re.escape(said)):
        asked(**options)


# --- refusals -------------------------------------------------------------------------------------------------------

PRIVATE = {"aggregation": "encrypted", "robust": "outliers"}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({**PRIVATE, "noise": "shared"}, BudgetError, "--robust judges each bank by its own update"),
        ({**PRIVATE, "unit": "client"}, BudgetError, "--robust judges each bank by its own update"),
        ({**PLAIN, "robust": "outliers", "algorithm": "fedbuff"}, AlgorithmError, "equal weights"),
        ({**PLAIN, "robust": "outliers", "vanish_after": 0.1}, AlgorithmError, "shows an update to the rule once"),
        ({**PLAIN, "robust": "outliers", "bank_bytes": 10**6}, ResourceError, "send them in pieces"),
        (
            {**PLAIN, "robust": "nnm", "byzantine": 5},
            RuleNeedsMoreClients,
            "nnm against 5 attackers.* 11",
        ),
        ({**PLAIN, "robust": "krum", "byzantine": 4}, RuleNeedsMoreClients, "expected at least 11 members"),
        ({"no_dp": True, "robust": "krum", "byzantine": 1}, AggregationError, "an encrypted average of one hides"),
        ({"attack": "ipm", "attackers": 1, "noise": "shared"}, AlgorithmError, "--attack changes what a bank sends"),
        ({**PLAIN, "attack": "ipm", "attackers": 9}, AlgorithmError, "at least 11 banks, got 10"),
    ],
)
def test_what_a_rule_cannot_judge_is_refused_by_name(options: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        require_possible(configuration(options), 10)


def test_a_rule_is_asked_about_the_banks_of_a_round_and_not_about_all() -> None:
    config = asked(robust="outliers", byzantine=2, fraction=0.4)
    with pytest.raises(RuleNeedsMoreClients, match="at least 5 members of a round, got 4"):
        require_possible(config, 10)
    require_possible(config, 13)


def test_an_encrypted_round_must_keep_three_banks() -> None:
    config = configuration({"no_dp": True, "robust": "nnm", "byzantine": 1})
    with pytest.raises(AggregationError, match="may keep 2 of 3 banks, and an encrypted average needs at least 3"):
        require_possible(config, 3)
    with pytest.raises(AggregationError, match="may keep 2 of 3 banks"):
        require_possible(configuration({"no_dp": True, "robust": "outliers"}), 3)


def test_settings_that_no_option_gives_are_refused_for_the_noisy_or_model(tmp_path: Path) -> None:
    config = replace(configuration({}), robust=RobustSettings())
    with pytest.raises(FederationError, match="--robust judges each bank"):
        require_possible(config, 10)


# --- a run ----------------------------------------------------------------------------------------------------------

RUN = ("--no-dp", "--no-shared-statistics", "--aggregation", "plain", "--customers", "300", "--fraud-share", "0.04")
ATTACKED = (*RUN, "--clients", "5", "--rounds", "2", "--local-epochs", "2", "--attack", "ipm", "--attackers", "1")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robust") / "run"
    done = CliRunner().invoke(train_command, [*ATTACKED, "--robust", "norm", "--run-dir", str(folder)])
    assert done.exit_code == 0, done.output
    (folder / "shown.txt").write_text(done.stdout)
    return folder


def test_the_result_says_who_was_left_out_and_how_often_and_no_score(attacked: Path) -> None:
    result = fl.load(attacked).result
    (attacker,) = result["attack"]["attackers"]
    assert result["attack"] == {"name": "ipm", "strength": "-10 times the honest mean", "attackers": [attacker]}
    assert result["robust"] == {"rule": "norm", "byzantine": None, "rejected": {attacker: 2}}
    lines = [json.loads(line) for line in (attacked / "metrics.jsonl").read_text().splitlines()]
    assert [line["rejected"] for line in lines] == [[attacker], [attacker]]
    assert all(attacker not in line["members"] and len(line["members"]) == 4 for line in lines)


def test_the_baselines_tell_what_the_attack_would_have_cost(attacked: Path) -> None:
    run = fl.load(attacked)
    figures = {name: each["average_precision"] for name, each in run.result["baselines"].items()}
    assert set(figures) == set(baselines_of(run.config))
    assert figures["without_attackers"] == figures["plain"] == run.metrics["average_precision"]
    assert figures["undefended"] != figures["plain"]


def test_the_tables_name_the_attack_and_the_rule(attacked: Path) -> None:
    shown = (attacked / "shown.txt").read_text()
    for words in ("without the attackers", "under attack, no rule", "-10 times the honest mean", "rule norm"):
        assert words in shown


def test_the_card_says_what_the_rule_did_and_what_the_attack_was(attacked: Path) -> None:
    run = read_run(attacked)
    (attacker,) = run.result["attack"]["attackers"]
    made = cards(run)
    said = " ".join(made.model_card.split())
    assert f"rule norm: rounds in which it left a bank out, of 2: {attacker} 2" in said
    assert "simulated attack ipm" in said
    encrypted = replace(run, config=replace(run.config, aggregation=AggregationSettings("encrypted")))
    assert "nobody saw a single one" not in cards(encrypted).model_card
    assert "inner products of sketches" in " ".join(cards(encrypted).dpia.split())


def test_an_undefended_run_has_no_rule_in_its_result(tmp_path: Path) -> None:
    options = [*ATTACKED, "--no-baselines", "--json", "--run-dir", str(tmp_path / "run")]
    done = CliRunner().invoke(train_command, options)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["robust"] is None and result["attack"]["name"] == "ipm"


def test_an_encrypted_run_leaves_out_whom_the_plain_one_leaves_out(attacked: Path, tmp_path: Path) -> None:
    hidden = [each for each in ATTACKED if each not in ("--aggregation", "plain")]
    options = [*hidden, "--robust", "norm", "--no-baselines", "--run-dir", str(tmp_path / "run")]
    done = CliRunner().invoke(train_command, options)
    assert done.exit_code == 0, done.output
    plain, encrypted = fl.load(attacked), fl.load(tmp_path / "run")
    assert encrypted.result["aggregation"] == "encrypted" and encrypted.result["robust"] == plain.result["robust"]
    assert encrypted.metrics["average_precision"] == pytest.approx(plain.metrics["average_precision"], abs=1e-3)
    assert encrypted.result["overhead"]["max_abs_error"] <= encrypted.result["overhead"]["error_bound"]
    assert "sketches" in done.stdout and "nothing: masked" in done.stdout
