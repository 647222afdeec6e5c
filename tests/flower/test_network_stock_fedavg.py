"""Flower's stock FedAvg on a real SuperLink, over TLS, against a key holder and two banks: it collects nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_network import KEY_HOLDER, PLAN, ROOT

from fl.flower.local_network import LocalNetwork
from fl.flower.local_parties import LocalParties
from fl.flower.logs import read_log

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
APPS = {"bank-0": "foreign_flower_app:app", "bank-1": "unprotected_app:app"}  # with the mod, and without it


class TwoApps(LocalNetwork):
    """A network whose banks run an app each."""

    def start_node(self, organisation: str) -> None:
        self.bank_app = APPS.get(organisation, self.bank_app)
        super().start_node(organisation)


def test_stock_fedavg_on_a_superlink_collects_no_array_from_banks_in_real_processes(tmp_path: Path) -> None:
    parties = LocalParties(tmp_path / "parties", PLAN, {name: {} for name in APPS})
    parties.make()
    network = TwoApps(
        parties,
        tmp_path / "work",
        server_app=HERE / "stock_server",
        node_config={name: f"partition-id={number}" for number, name in enumerate(APPS)},
        environment={"PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}:{HERE}"},
    )
    with network:
        told = network.run(1, 85)
    print(f"arrays in {told['replies']} replies to stock FedAvg on a SuperLink: {told['arrays']}")
    assert told["arrays"] == 0 and told["replies"] == len(told["reasons"]) == 2 * len([KEY_HOLDER, *APPS])
    assert all(reason.startswith("MessageRefused: ") for reason in told["reasons"])
    for name in (KEY_HOLDER, *APPS):
        events = [event["event"] for event in read_log(network.log(name))]
        assert events.count("message refused") == 2, name
