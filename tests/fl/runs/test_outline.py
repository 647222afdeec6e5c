"""A run is planned before a bank trains: sums that cannot be encrypted are refused, and nothing has begun then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_banks import CPU, make_banks, make_schedule

import fl
from fl.data.federation import PartitionedTable
from fl.errors import AggregationError, CompressionError
from fl.learning.model import flatten
from fl.rounds.algorithms.fedavg import FedAvg
from fl.rounds.algorithms.participation import Everyone
from fl.rounds.play import Rounds, play_rounds
from fl.runs import api
from fl.runs.asked import configuration
from fl.runs.config import DataSettings, RunConfig, config_from_toml, config_to_toml
from fl.runs.noise import with_noise
from fl.runs.outline import Outline, outline
from fl.runs.plan import RunPlan, read_source
from fl.secure.session import InProcessRounds, plain_sum
from secagg.errors import EngineUnavailable

SMALL: dict[str, Any] = {"customers": 200, "clients": 3, "fraud_share": 0.05, "seed": 1}


@pytest.fixture(scope="module")
def source() -> PartitionedTable:
    return read_source(DataSettings("simulated", clients=3, customers=200, fraud_share=0.05), 1)


def planned(source: PartitionedTable, banks: int = 3, **options: Any) -> RunPlan:
    """The plan of a run of the banks of `source`, again and again until there are `banks`."""
    many = replace(source, banks=(source.banks * banks)[:banks])
    return RunPlan.new(configuration({**SMALL, "no_shared_statistics": True, **options}), many)


def test_two_hundred_banks_at_forty_bits_are_refused_with_the_bits_that_fit(source: PartitionedTable) -> None:
    with pytest.raises(AggregationError, match=r"40-bit values of 200 banks .*--value-bits 39 or fewer.*has trained"):
        outline(planned(source, 200, no_dp=True))
    assert outline(planned(source, 200, no_dp=True, value_bits=39)).banks == 200
    assert outline(planned(source, 200, no_dp=True, aggregation="plain")).bytes_up == 0
    with pytest.raises(AggregationError, match=r"with weights up to 8 .*--value-bits 38 or fewer"):
        outline(planned(source, 40, no_dp=True, algorithm="fedbuff", buffer=40))


def test_bits_of_a_round_that_is_not_played_need_not_fit(source: PartitionedTable) -> None:
    assert outline(planned(source, 200, no_dp=True, rounds=2, bits="1:8,3:40")).value_bits == ((1, 8), (3, 40))
    with pytest.raises(AggregationError, match="40-bit"):
        outline(planned(source, 200, no_dp=True, rounds=3, bits="1:8,3:40"))


def test_a_quorum_out_of_reach_missing_layers_and_an_absent_engine_are_refused(
    source: PartitionedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AggregationError, match=r"at most 3 banks and a quorum of 5.*lower --quorum to 3"):
        outline(planned(source, no_dp=True, vanish_after=0.1, quorum=5))
    with pytest.raises(CompressionError, match="a round would send nothing"):
        outline(planned(source, no_dp=True, algorithm="heads", head="logit", layers="hidden1/logit"))
    monkeypatch.setattr("secagg.engines.available_engines", lambda: ("seal",))
    with pytest.raises(EngineUnavailable, match="needs numba"):
        outline(planned(source, no_dp=True, engine="fast"))


def test_a_run_that_cannot_be_encrypted_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AggregationError, match="quorum of 5"):
        fl.train(**SMALL, no_dp=True, vanish_after=0.1, quorum=5, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_outline_is_told_before_the_first_training_and_says_what_is_sent(tmp_path: Path) -> None:
    told: list[Outline | str] = []
    asked = configuration({**SMALL, "no_dp": True, "rounds": 1, "local_epochs": 1, "no_baselines": True})
    run = api.start(asked, tmp_path / "run", lambda what, *_: told.append(what), told.append)
    (said,) = [each for each in told if isinstance(each, Outline)]
    assert told.index(said) < told.index("training, 1 round at 3 banks")
    sent, result = said.bytes_up, run.result
    assert 3 * sent == pytest.approx(result["overhead"]["bytes_up"], rel=0.01)
    assert (said.parameters, said.trainings, said.epsilon) == (result["parameters"], 3, None)
    assert said.counts == result["statistics"]["integers_per_bank"]


@pytest.mark.parametrize(("bits", "equal"), [(40, True), (8, False)])
def test_a_run_that_says_its_averages_were_plain_ones_is_the_plain_run(bits: int, equal: bool) -> None:
    banks, schedule = make_banks(), replace(make_schedule(), applied_grid=1e-6)

    def models(aggregate: Any) -> tuple[list[float], bool]:
        rounds = Rounds(banks, schedule, FedAvg(Everyone(4)), aggregate, clip=1.0, device=CPU, quorum=4)
        played = list(play_rounds(rounds))
        return played[-1][1].model.tolist(), all(record.as_in_plain_sight for record, _ in played)

    encrypted = InProcessRounds([bank.name for bank in banks], clip=1.0, quorum=4)
    model, said = models(lambda joined: encrypted.average(joined, bits))
    plain, always = models(lambda joined: plain_sum(joined, clip=1.0))
    assert always and said is equal and (model == plain) is equal
    assert model != flatten(schedule.first_model(3)).tolist()


# --- a configuration gives the run that it is of ---------------------------------------------------------------------

RUNS: dict[str, dict[str, Any]] = {
    "noisy-or": {},
    "noisy-or, own noise": {"noise": "own", "epsilon": 8.0},
    "noisy-or without privacy": {"model": "noisy-or", "no_dp": True},
    "network, own noise": {"model": "mlp", "local_steps": 4, "rounds": 3},
    "network, shared noise": {"model": "mlp", "noise": "shared", "colluders": 2, "rounds": 5},
    "whole banks": {"unit": "client", "no_shared_statistics": True, "rounds": 2},
    "gaussian counts": {"count_noise": "gaussian", "increment_days": 3},
    "without privacy": {"no_dp": True, "bits": "1:8,6:16", "layers": "hidden1/hidden2,logit"},
    "without counts": {"no_dp": True, "no_shared_statistics": True, "fraction": 0.9, "quorum": 3, "retries": 1},
}


@pytest.mark.parametrize("name", RUNS)
def test_the_configuration_that_a_run_leaves_plans_the_same_run_again(source: PartitionedTable, name: str) -> None:
    def calibrated(config: RunConfig) -> RunConfig:
        return with_noise(RunPlan.new(config, source)).config

    first = calibrated(configuration({**SMALL, **RUNS[name]}))
    kept = config_from_toml(config_to_toml(first))
    assert kept == first
    assert calibrated(configuration({}, kept)) == first
