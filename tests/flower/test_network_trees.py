"""Trees between real processes: a bank and then the SuperLink are cut off in the middle of a tree; the run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faulty_network import AGGREGATOR, PATIENT, ROOT, wait_for
from tree_federation import DATA, MEMBERS, config_of, planned

from fl.flower.errors import RunFailed
from fl.flower.local_network import SUPERLINK, LocalNetwork
from fl.flower.local_parties import LocalParties
from fl.flower.logs import read_log
from fl.flower.trees.local import in_one_process, tree_parties
from fl.flower.trees.plan import TreeCourse

pytestmark = pytest.mark.long

KILLED = MEMBERS[1]


@dataclass
class Story:
    """A run that was cut off twice. `first`: how the first run ended. `lost`: attempts that ended, by sum."""

    course: TreeCourse
    parties: LocalParties
    expected: str
    result: dict[str, Any] = field(default_factory=dict)
    first: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)


def run_again(network: LocalNetwork, sums: int) -> dict[str, Any]:
    """What an operator does after the SuperLink came back: start a run, and once more where it names missing parties.

    A SuperNode can hand the first message of a run to a program that still ends the run before; Flower drops it (401).
    """
    try:
        return network.run(sums, 600, **PATIENT)
    except RunFailed as fault:
        if "PartiesMissing" not in str(fault):
            raise
    return network.run(sums, 600, **PATIENT)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """After two sums a bank is killed, and comes back; after three the SuperLink, and with it the run."""
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
        wait_for("the third sum", lambda: network.rounds_done() >= 3, 400)
        network.processes.kill(SUPERLINK)
        network.start_superlink()
        with pytest.raises(RunFailed) as failed:
            network.result(120)
        story.first = str(failed.value)
        story.result = run_again(network, course.most_sums)
        story.events = list(read_log(network.log(AGGREGATOR)))
        yield story
    assert network.processes.marked() == []


def test_the_trees_are_those_of_one_process(story: Story) -> None:
    said = {bank: told["model_hash"] for bank, told in story.result["reports"].items()}
    assert said == dict.fromkeys(MEMBERS, story.expected)


def test_no_sum_that_is_on_the_banks_disks_is_made_again(story: Story) -> None:
    assert story.first.startswith("the run ended without a result")
    done = [event["round"] for event in story.events if event["event"] == "round done"]
    assert done == sorted(set(done)) and done[0] == 1
    assert [each["number"] for each in story.result["rounds"]][-1] == story.course.most_sums


def test_every_bank_compares_at_home_and_sends_a_hash(story: Story) -> None:
    assert all(set(told) == {"model_hash"} for told in story.result["reports"].values())
    for bank in MEMBERS:
        home: Path = story.parties.home(bank)
        assert json.loads((home / "comparison.json").read_bytes())["bank"] == bank
        assert (home / "run" / "model.safetensors").exists()
