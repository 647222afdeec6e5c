"""A robust run of real processes over TLS: the poisoner is left out, and the model is that of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_network import HERE, ROOT

from fl.flower.comparison import in_process
from fl.flower.local_network import LocalNetwork
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.logs import read_log
from fl.flower.settings import PlanSettings
from fl.rounds.attackers import Attackers
from fl.secure.rule_settings import RobustSettings
from secagg.audit import audit
from secagg.ledger import Outcome, audit_ledger, compare_journal

pytestmark = pytest.mark.long

BANKS, POISONER, ROUNDS = 5, 1, 2


def test_real_processes_leave_the_poisoner_out_and_end_with_the_model_of_one_process(tmp_path: Path) -> None:
    plan = PlanSettings(max_clients=BANKS, clip=1.0, value_bits=20, max_weight=1, max_length=1_000_000)
    shared = {"data": "simulated", "banks": BANKS, "customers": 150, "seed": 1}
    tables = {f"bank-{number}": {**shared, "bank": f"bank-{number}"} for number in range(BANKS)}
    tables[f"bank-{POISONER}"]["poison"] = "sign-flip"
    robust, attackers = RobustSettings(), Attackers("sign-flip", frozenset({POISONER}), 1)
    expected = in_process(tables["bank-0"], plan, ROUNDS, robust=robust, attackers=attackers)
    assert expected.rejected["bank-1"] == ROUNDS

    reports = {"hashes": ["model_hash"]}
    parties = LocalParties(tmp_path / "parties", plan, tables, reports=reports, robust=robust)
    parties.make()
    environment = {"PYTHONPATH": f"{ROOT}:{HERE}"}
    with LocalNetwork(parties, tmp_path / "network", "poisoned_app:app", environment=environment) as network:
        result = network.run(ROUNDS, 400)
    assert result["robust"] == {"rule": "outliers", "byzantine": None, "rejected": dict(expected.rejected)}
    assert {said["model_hash"] for said in result["reports"].values()} == {expected.model_hash}
    assert len(result["reports"]) == BANKS and [each["lost"] for each in result["rounds"]] == [[]] * ROUNDS
    own = [each for each in read_log(network.log(f"bank-{POISONER}")) if each["event"] == "left out"]
    assert len(own) == ROUNDS
    assert any(each["event"] == "left out" for each in read_log(network.log(AGGREGATOR)))

    ledger = parties.home(KEY_HOLDER) / "ledger.db"
    assert [outcome for _, _, outcome in audit_ledger(ledger).steps] == [Outcome.RELEASED] * ROUNDS
    for name in tables:
        journal = parties.home(name) / "journal.db"
        compare_journal(ledger, journal)
        kinds = [entry.kind for entry in audit(journal).entries]
        assert ("contributing" in kinds) == (name not in expected.rejected or expected.rejected[name] < ROUNDS)
