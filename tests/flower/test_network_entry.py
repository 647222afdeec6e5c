"""Who is not let into a real network at all: a node whose key nobody registered, a server whose certificate expired."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_network import KEY_HOLDER, network_of, parties_of, wait_for

from fl.flower.errors import NetworkError
from fl.flower.local_network import SUPERLINK

pytestmark = pytest.mark.long


def test_a_supernode_whose_key_is_not_registered_is_turned_away(tmp_path: Path) -> None:
    with network_of(parties_of(tmp_path, banks=1), tmp_path, unregistered=["bank-0"]) as network:
        node = network.node("bank-0")
        wait_for("the SuperNode's end", lambda: not network.processes.alive(node), 90)
        assert "Failed to initialize the connection" in network.processes.tail(node, 4_000)
        assert network.processes.alive(network.node(KEY_HOLDER))
    assert network.processes.marked() == []


def test_an_expired_certificate_ends_the_start_by_name_and_leaves_nothing_behind(tmp_path: Path) -> None:
    network = network_of(parties_of(tmp_path, banks=1), tmp_path, expired_certificate=True)
    with pytest.raises(NetworkError, match="certificate has expired"):
        network.start()
    network.processes.stop_all()
    assert network.processes.marked() == []


def test_a_supernode_does_not_talk_to_a_superlink_whose_certificate_expired(tmp_path: Path) -> None:
    with network_of(parties_of(tmp_path, banks=1), tmp_path) as network:
        network.kill_node("bank-0")
        network.processes.kill(SUPERLINK)
        network.certificate = network.authority.server("expired", expired=True)
        network.start_superlink()
        network.start_node("bank-0")
        node = network.node("bank-0")
        wait_for("the SuperNode's end", lambda: not network.processes.alive(node), 90)
        assert "certificate has expired" in network.processes.tail(node, 6_000)
    assert network.processes.marked() == []
