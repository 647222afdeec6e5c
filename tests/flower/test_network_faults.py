"""Banks that fail in a real network: slow, cut off, sending garbage, replaying, not enrolled; and what became of it.

Four runs of one network of processes, one round each, so that every fault meets the banks that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from faulty_network import AGGREGATOR, KEY_HOLDER, PATIENT, PLAN, Story, network_of, parties_of, step_of, story_of

pytestmark = pytest.mark.long

BANKS = 5
ROUNDS = 4


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Round 2: bank-3 is slow, and bank-4 dies before the roster closed. Round 3: bank-3 dies after it closed. Round 4:
    both are back, bank-3 sends garbage and bank-4 replays its message of round 1.
    """
    folder = tmp_path_factory.mktemp("network")
    parties = parties_of(folder, BANKS, outsiders={"outsider": {"length": 500, "number": 9}})
    with story_of(network_of(parties, folder), parties) as story:
        story.network.run(1, 300, evaluate=False, **PATIENT)
        limit_s = max(20.0, story.round(1)["seconds"])  # an honest answer takes a fraction of an honest round
        story.order("bank-3", {"2": {"join": "slow"}, "3": {"contribute": "hang"}, "4": {"contribute": "garbage"}})
        story.order("bank-4", {"2": {"join": "hang"}, "4": {"contribute": "replay"}})
        story.let_go_when("bank-3", lambda: bool(story.did_not_join("bank-3")))
        for name in ("bank-3", "bank-4"):
            story.cut_power(name)
        story.network.run(2, 300, evaluate=False, **{**PATIENT, "train_s": limit_s})
        story.network.run(3, 300, evaluate=False, banks=BANKS - 1, **{**PATIENT, "contribute_s": limit_s})
        story.everybody_is_back(240)
        story.result = story.network.run(ROUNDS, 300, evaluate=False, **PATIENT)
        yield story


def test_an_honest_round_has_everybody_in_it(story: Story) -> None:
    assert sorted(story.round(1)["members"]) == sorted(story.parties.banks)
    assert story.lost(1) == ""


def test_a_slow_bank_costs_its_place_and_not_the_round(story: Story) -> None:
    assert "bank-3" not in story.round(2)["members"]
    assert story.did_not_join("bank-3")[0]["error"] == "NoAnswer"
    assert story.lost(2) == ""


def test_a_bank_that_dies_before_the_roster_closed_is_left_out(story: Story) -> None:
    assert "bank-4" not in story.round(2)["members"]
    assert story.did_not_join("bank-4")[0]["error"] == "NoAnswer"
    assert len(story.round(2)["members"]) == 3


def test_a_bank_that_dies_after_the_roster_closed_costs_the_round_and_the_others_finish_it(story: Story) -> None:
    assert "bank-3: contribution: NoAnswer" in story.lost(3)
    assert "bank-3" not in story.round(3)["members"] and len(story.round(3)["members"]) >= 3


def test_a_bank_that_sends_garbage_is_named_and_left_out(story: Story) -> None:
    assert "bank-3: MalformedMessage" in story.lost(4)
    assert "bank-3" not in story.round(4)["members"]


def test_a_replayed_message_recorded_from_an_earlier_round_is_refused(story: Story) -> None:
    assert "bank-4: WrongRound" in story.lost(4)
    assert "bank-4" not in story.round(4)["members"]


def test_banks_that_come_back_catch_up_with_what_they_missed(story: Story) -> None:
    caught_up = {name for event in story.events(AGGREGATOR, "catching up") for name in event["banks"]}
    assert caught_up == {"bank-3", "bank-4"}
    assert all(story.model(name)[1] >= 3 for name in caught_up)


def test_an_unenrolled_node_is_never_asked_to_take_part(story: Story) -> None:
    assert all("outsider" not in event["members"] for event in story.events(AGGREGATOR, "round done"))
    assert {"UnknownClient"} <= {event.get("error") for event in story.events(AGGREGATOR, "node set aside")}


def test_the_model_is_the_exact_average_of_those_who_stayed(story: Story) -> None:
    current = [story.model(name)[0] for name in story.round(ROUNDS)["members"]]
    assert len(current) >= 3 and {model.digest.hex() for model in current} == {story.result["model"]}
    assert np.abs(current[0].vector - story.exact(ROUNDS)).max() <= ROUNDS * step_of(PLAN)


def test_all_of_it_stays_within_its_time(story: Story) -> None:
    print(f"four rounds with faulty banks: {story.seconds:.0f} s")
    assert story.seconds < 480


def test_logs_of_all_processes_hold_no_payload(story: Story) -> None:
    for name in (AGGREGATOR, KEY_HOLDER, *story.parties.banks):
        for line in story.network.log(name).read_text().splitlines():
            assert len(line) < 1_500
