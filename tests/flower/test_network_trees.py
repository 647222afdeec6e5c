"""Trees between real processes: a bank is killed in the middle of a tree, comes back, and the run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faulty_network import AGGREGATOR, PATIENT, ROOT, wait_for
from tree_federation import DATA, MEMBERS, config_of, planned

from fl.flower.local_network import LocalNetwork
from fl.flower.local_parties import LocalParties
from fl.flower.logs import read_log
from fl.flower.trees.local import in_one_process, tree_parties
from fl.flower.trees.plan import TreeCourse

pytestmark = pytest.mark.long

KILLED = MEMBERS[1]


@dataclass
class Story:
    """A run in which a bank was killed."""

    course: TreeCourse
    parties: LocalParties
    expected: str
    result: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """After two sums a bank is killed, and comes back."""
    folder = tmp_path_factory.mktemp("trees")
    source, plan = planned(config_of())
    course = TreeCourse.of(plan, plan.at(source))
    parties = tree_parties(folder / "parties", plan, course, dict.fromkeys(MEMBERS, DATA))
    story = Story(course, parties, in_one_process(course, source).model_hash)
    network = LocalNetwork(parties, folder / "work", environment={"PYTHONPATH": str(ROOT)})
    with network:
        network.submit(course.most_sums, **PATIENT)
        wait_for("two sums", lambda: network.rounds_done() >= 2, 300)
        network.kill_node(KILLED)
        network.restart_node(KILLED)
        story.result = network.result(600)
        story.events = list(read_log(network.log(AGGREGATOR)))
        yield story
    assert network.processes.marked() == []


def test_the_trees_are_those_of_one_process(story: Story) -> None:
    said = {bank: told["model_hash"] for bank, told in story.result["reports"].items()}
    assert said == dict.fromkeys(MEMBERS, story.expected)


def test_no_sum_that_is_on_the_banks_disks_is_made_again(story: Story) -> None:
    done = [event["round"] for event in story.events if event["event"] == "round done"]
    assert done == sorted(set(done)) and done[0] == 1
    assert [each["number"] for each in story.result["rounds"]][-1] == story.course.most_sums


def test_every_bank_compares_at_home_and_sends_a_hash(story: Story) -> None:
    assert all(set(told) == {"model_hash"} for told in story.result["reports"].values())
    for bank in MEMBERS:
        home: Path = story.parties.home(bank)
        assert json.loads((home / "comparison.json").read_bytes())["bank"] == bank
        assert (home / "run" / "model.safetensors").exists()
