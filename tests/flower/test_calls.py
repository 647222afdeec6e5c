"""The aggregator's calls: what is under way, what is in memory, and what happens to a message that was not taken."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from flwr.app import Message

from fl.flower.calls import NOT_SENT, Calls
from fl.flower.transport import Call, action_of, from_records


def test_parts_are_under_way_in_windows_and_fetched_one_at_a_time(federation, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("transport", "endpoint", "calls"):
        monkeypatch.setattr(f"fl.flower.{module}.PART_BYTES", 150_000)
    monkeypatch.setattr("fl.flower.calls.WINDOW_PARTS", 2)
    here = federation(length=60_000)
    push, pull = here.grid.push_messages, here.grid.pull_messages
    asked: list[int] = []  # parts under way after each request for one
    together: list[int] = []  # parts that came in one look

    def pushed(messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        if action_of(messages[0].content) == "get":
            asked.append(len(asked) + 1 - sum(together))
        return push(messages)

    def pulled(numbers: Iterable[str]) -> Iterable[Message]:
        replies = list(pull(numbers))
        parts = sum("part" in from_records(reply.content).wires for reply in replies)
        together.extend([parts] if parts else [])
        return replies

    monkeypatch.setattr(here.grid, "push_messages", pushed)
    monkeypatch.setattr(here.grid, "pull_messages", pulled)
    here.rounds().run(1)
    assert len(together) >= 4 * 4  # four contributions of four parts each
    assert set(together) == {1} and set(asked) == {1, 2}


def test_a_message_that_the_superlink_does_not_take_is_answered_as_such(
    federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = federation()
    for nothing in ([None], []):
        monkeypatch.setattr(here.grid, "push_messages", lambda _, nothing=nothing: nothing)
        answer = Calls(here.grid).one("status", 1, Call(), timeout_s=1.0)
        assert answer.error == NOT_SENT and answer.node == 1


def test_an_answer_that_is_there_counts_even_when_sending_took_all_the_time(federation) -> None:
    here = federation()
    here.fail("bank-0", lambda message, deliver: time.sleep(0.3) or deliver(message))
    answers = Calls(here.grid).ask("status", dict.fromkeys(here.grid.get_node_ids(), Call()), timeout_s=0.2)
    assert [answer.error for answer in answers.values()] == [""] * 5
