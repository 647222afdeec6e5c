"""A key holder and a SuperLink that are cut off in the middle of a round, in a real network, and started again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from faulty_network import (
    AGGREGATOR,
    KEY_HOLDER,
    PATIENT,
    PLAN,
    Story,
    network_of,
    parties_of,
    step_of,
    story_of,
    wait_for,
)

from fl.flower.errors import RunFailed
from fl.flower.local_network import SUPERLINK

pytestmark = pytest.mark.long

ROUNDS = 2


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Round 1: the key holder is cut off after it released and before it answered. Round 2: the SuperLink is cut off
    once the roster closed; it is started again, and so is the run.
    """
    folder = tmp_path_factory.mktemp("restarts")
    parties = parties_of(folder, banks=3)
    with story_of(network_of(parties, folder), parties) as story:
        story.order(KEY_HOLDER, {"release": "hang-done"})
        story.cut_power(KEY_HOLDER)
        story.network.submit(ROUNDS, evaluate=False, **{**PATIENT, "release_s": 30.0})
        wait_for("round 1", lambda: story.network.rounds_done() >= 1, 400)
        step = story.round(1)["step"]
        wait_for("round 2's roster", lambda: any(e["step"] > step for e in story.events(KEY_HOLDER, "roster")), 120)
        story.network.processes.kill(SUPERLINK)
        story.network.start_superlink()
        with pytest.raises(RunFailed) as failed:
            story.network.result(120)
        story.result = story.network.run(ROUNDS, 300, evaluate=False, **PATIENT)
        story.result["first run"] = str(failed.value)
        yield story


def test_a_key_holder_that_dies_in_the_middle_of_a_release_sends_the_stored_one(story: Story) -> None:
    step = story.round(1)["step"]
    assert [event["step"] for event in story.events(AGGREGATOR, "release not received")][:1] == [step]
    assert len([event for event in story.events(KEY_HOLDER, "released") if event["step"] == step]) == 1
    assert story.lost(1) == ""


def test_a_superlink_restart_ends_the_run_by_name_and_the_next_one_goes_on(story: Story) -> None:
    assert story.result["first run"].startswith("the run ended without a result")
    assert [each["number"] for each in story.result["rounds"]] == [2]


def test_every_bank_ends_with_the_exact_average(story: Story) -> None:
    models = [story.model(name) for name in story.parties.banks]
    assert {model.digest.hex() for model, _, _ in models} == {story.result["model"]}
    assert {rounds for _, rounds, _ in models} == {ROUNDS}
    assert np.abs(models[0][0].vector - story.exact(ROUNDS)).max() <= ROUNDS * step_of(PLAN)


def test_all_of_it_stays_within_its_time(story: Story) -> None:
    print(f"two rounds with restarts: {story.seconds:.0f} s")
    assert story.seconds < 480
