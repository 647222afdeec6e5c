"""The faults of a real network with real processes: SuperLink, SuperNodes, a key holder and banks, TLS, node keys.

One network lives through one run of six rounds; each round has its own faults, and the tests look at what became of
them. A power cut is SIGKILL to a party's SuperNode and resident at a point where a marker file says it stands.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.flower.errors import NetworkError, RunFailed
from fl.flower.local_network import KEY_HOLDER, SUPERLINK, LocalNetwork
from fl.flower.local_parties import AGGREGATOR, LocalParties
from fl.flower.logs import read_log
from fl.flower.models import FlatModel
from fl.flower.settings import PlanSettings

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LENGTH = 500
BANKS = 5
PLAN = PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=1, max_length=1_000)
LIMITS = {"train_s": 25.0, "contribute_s": 25.0, "call_s": 25.0, "release_s": 25.0, "recover_s": 180.0, "ready_s": 60.0}
ROUNDS = 6
FAULTS = {
    "bank-3": {"2": {"contribute": "garbage"}, "3": {"join": "slow"}, "4": {"contribute": "hang"}},
    "bank-4": {"2": {"contribute": "replay"}, "3": {"join": "hang"}},
    KEY_HOLDER: {},
}
"""Round 2: one bank sends garbage, another replays round 1. Round 3: one is slow, another dies before the roster
closed. Round 4: one dies after the roster closed. Round 5: the key holder dies after it released, before it answered.
Round 6: the SuperLink dies, is started again, and a new run goes on."""


@dataclass
class Story:
    """What happened. results: of the run that the SuperLink's death ended (its aggregator's log) and of the next."""

    network: LocalNetwork
    parties: LocalParties
    result: dict[str, Any] = field(default_factory=dict)
    first_failure: str = ""
    seconds: float = 0.0

    def events(self, organisation: str, event: str) -> list[dict[str, Any]]:
        return [each for each in read_log(self.network.log(organisation)) if each["event"] == event]

    def round(self, number: int) -> dict[str, Any]:
        return next(each for each in self.events(AGGREGATOR, "round done") if each["round"] == number)

    def lost(self, number: int) -> str:
        return "; ".join(each["message"] for each in self.events(AGGREGATOR, "round lost") if each["round"] == number)

    def model(self, organisation: str) -> tuple[FlatModel, int, int]:
        return FlatModel.from_bytes((self.parties.home(organisation) / "model.npz").read_bytes())


def _ask(parties: LocalParties, organisation: str, faults: dict[str, Any]) -> None:
    (parties.home(organisation) / "faults.json").write_text(json.dumps(faults))


class PowerCuts(threading.Thread):
    """Kills a party that stands at its marker, and starts it again after a moment."""

    def __init__(self, network: LocalNetwork, parties: LocalParties) -> None:
        super().__init__(daemon=True)
        self._network, self._parties, self.stop = network, parties, threading.Event()
        self.killed: list[str] = []

    def run(self) -> None:
        while not self.stop.wait(0.1):
            for name in ("bank-3", "bank-4", KEY_HOLDER):
                marker = self._parties.home(name) / "hanging"
                if marker.exists():
                    marker.unlink()
                    self._network.kill_node(name)
                    self.killed.append(name)
                    if self.stop.wait(1.0):
                        return
                    self._network.restart_node(name)


def _wait_for(what: str, ready: Any, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("network")
    banks = {f"bank-{number}": {"length": LENGTH, "number": number} for number in range(BANKS)}
    parties = LocalParties(folder / "parties", PLAN, banks, outsiders={"outsider": {"length": LENGTH, "number": 9}})
    parties.make()
    for name, faults in FAULTS.items():
        _ask(parties, name, faults)
    network = LocalNetwork(
        parties,
        folder / "work",
        bank_app="faulty_apps:app",
        key_holder_app="faulty_apps:key_holder",
        environment={"PYTHONPATH": f"{ROOT}:{HERE}"},
    )
    story = Story(network, parties)
    started = time.monotonic()
    with network:
        cuts = PowerCuts(network, parties)
        cuts.start()
        try:
            network.submit(ROUNDS, evaluate=False, **LIMITS)
            _wait_for("round 4", lambda: network.rounds_done() >= 4, 300)
            _ask(parties, KEY_HOLDER, {"release": "hang-done"})
            _wait_for("round 5", lambda: network.rounds_done() >= 5, 240)
            last = story.round(5)["step"]
            _wait_for("round 6's roster", lambda: any(e["step"] > last for e in story.events(KEY_HOLDER, "roster")), 60)
            network.processes.kill(SUPERLINK)
            time.sleep(1.0)
            network.start_superlink()
            try:
                network.result(5)
            except RunFailed as error:
                story.first_failure = str(error)
            story.result = network.run(ROUNDS, 120, evaluate=False, **LIMITS)
        finally:
            cuts.stop.set()
            cuts.join()
        story.seconds = time.monotonic() - started
        yield story
    assert network.processes.marked() == []


def exact_update(story: Story, number: int, members: list[str]) -> np.ndarray:
    """The mean of the updates that these members' training gave for a round, read from their own folders."""
    updates = [np.load(story.parties.home(name) / f"update-{number}.npy").astype(np.float64) for name in members]
    return np.mean(updates, axis=0)


def test_an_honest_round_has_everybody_in_it(story: Story) -> None:
    assert sorted(story.round(1)["members"]) == sorted(f"bank-{number}" for number in range(BANKS))
    assert story.lost(1) == ""


def test_a_bank_that_sends_garbage_is_named_and_left_out(story: Story) -> None:
    assert "bank-3: MalformedMessage" in story.lost(2)
    assert "bank-3" not in story.round(2)["members"]


def test_a_replayed_message_recorded_from_an_earlier_round_is_refused(story: Story) -> None:
    assert "bank-4: WrongRound" in story.lost(2)
    assert "bank-4" not in story.round(2)["members"]


def test_a_slow_bank_costs_its_place_and_not_the_round(story: Story) -> None:
    assert "bank-3" not in story.round(3)["members"]
    assert any(
        event["bank"] == "bank-3" and event["step"] == story.round(3)["step"]
        for event in story.events(AGGREGATOR, "did not join")
    )
    assert story.lost(3) == ""


def test_a_bank_that_dies_before_the_roster_closed_is_left_out(story: Story) -> None:
    assert "bank-4" not in story.round(3)["members"]
    assert len(story.round(3)["members"]) == 3


def test_a_bank_that_dies_after_the_roster_closed_costs_the_round_and_the_others_finish_it(story: Story) -> None:
    assert "bank-3: contribution: NoAnswer" in story.lost(4)
    assert "bank-3" not in story.round(4)["members"] and len(story.round(4)["members"]) >= 3


def test_a_key_holder_that_dies_in_the_middle_of_a_release_sends_the_stored_one(story: Story) -> None:
    step = story.round(5)["step"]
    assert any(event["step"] == step for event in story.events(AGGREGATOR, "release not received"))
    released = [event for event in story.events(KEY_HOLDER, "released") if event["step"] == step]
    assert len(released) == 1 and story.lost(5) == ""


def test_a_superlink_restart_ends_the_run_and_the_next_one_goes_on(story: Story) -> None:
    assert story.first_failure.startswith(("no result", "the run ended without"))
    assert [each["number"] for each in story.result["rounds"]] == [6]


def test_an_unenrolled_node_is_never_asked_to_take_part(story: Story) -> None:
    assert all("outsider" not in event["members"] for event in story.events(AGGREGATOR, "round done"))
    assert {"UnknownClient"} <= {event.get("error") for event in story.events(AGGREGATOR, "node set aside")}


def test_every_bank_ends_with_the_same_model_and_it_is_the_exact_average_of_those_who_stayed(story: Story) -> None:
    models = {name: story.model(name) for name in story.parties.banks}
    current = [model for model, rounds, _ in models.values() if rounds == ROUNDS]
    assert len(current) >= 3 and {model.digest.hex() for model in current} == {story.result["model"]}
    exact = np.zeros(LENGTH)
    for number in range(1, ROUNDS + 1):
        exact += exact_update(story, number, story.round(number)["members"])
    step = PLAN.clip / (2 ** (PLAN.value_bits - 1) - 1)
    assert np.abs(current[0].vector - exact).max() <= ROUNDS * step


def test_all_of_it_stays_within_its_time(story: Story) -> None:
    print(f"six rounds with their faults: {story.seconds:.0f} s")
    assert story.seconds < 470


def test_logs_of_all_processes_hold_no_payload(story: Story) -> None:
    for name in (AGGREGATOR, KEY_HOLDER, *story.parties.banks):
        for line in story.network.log(name).read_text().splitlines():
            assert len(line) < 1_500


# --- not let in at all ------------------------------------------------------------------------------------------------


def one_bank(folder: Path, **options: Any) -> LocalNetwork:
    parties = LocalParties(folder / "parties", PLAN, {"bank-0": {"length": LENGTH, "number": 0}})
    parties.make()
    return LocalNetwork(
        parties, folder / "work", bank_app="faulty_apps:app", environment={"PYTHONPATH": f"{ROOT}:{HERE}"}, **options
    )


def test_a_supernode_whose_key_is_not_registered_is_turned_away(tmp_path: Path) -> None:
    with one_bank(tmp_path, unregistered=["bank-0"]) as network:
        node = network.node("bank-0")
        _wait_for("the SuperNode's end", lambda: not network.processes.alive(node), 40)
        assert "Failed to initialize the connection" in network.processes.tail(node, 4_000)
        assert network.processes.alive(network.node(KEY_HOLDER))
    assert network.processes.marked() == []


def test_an_expired_certificate_ends_the_start_by_name_and_leaves_nothing_behind(tmp_path: Path) -> None:
    network = one_bank(tmp_path, expired_certificate=True)
    with pytest.raises(NetworkError, match="certificate has expired"):
        network.start()
    network.processes.stop_all()
    # A SuperNode does not talk to it either.
    with one_bank(tmp_path / "again") as other:
        other.processes.stop(SUPERLINK)
        other.kill_node("bank-0")
        other._certificate = other.authority.server("expired", expired=True)
        other.start_superlink()
        other.start_node("bank-0")
        node = other.node("bank-0")
        _wait_for("the SuperNode's end", lambda: not other.processes.alive(node), 40)
        assert "certificate has expired" in other.processes.tail(node, 6_000)
    assert network.processes.marked() == other.processes.marked() == []
