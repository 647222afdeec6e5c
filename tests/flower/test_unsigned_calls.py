"""What comes unsigned reads, or is refused: it replaces no role, ends no round and takes no memory it did not bring."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flower_federation import LENGTH, QUICK, Federation, first_model, only, silent_after_work
from flwr.app import ConfigRecord, Message, RecordDict

from fl.flower import endpoint
from fl.flower.calls import Answer, Calls
from fl.flower.errors import TransferError
from fl.flower.fields import FIELDS, LARGEST_LENGTH, LARGEST_STEP, LONGEST_TEXT
from fl.flower.local_parties import KEY_HOLDER
from fl.flower.logs import read_log
from fl.flower.models import FlatModel
from fl.flower.parties.key_holder import KeyHolderParty
from fl.flower.transport import Call, action_of, from_records, to_records

BOUND = 2e-6


def ask(here: Federation, node: int, action: str, call: Call) -> Answer:
    return Calls(here.grid).one(action, node, call, 1.0)


def raw(here: Federation, node: int, action: str, fields: dict[str, object], **wires: bytes) -> Message:
    """What a node answers to fields that no honest sender writes."""
    records = to_records(Call({}, wires), action)
    config = records.config_records["secagg"]
    for name, value in fields.items():
        config[name] = value  # type: ignore[assignment]
    (reply,) = here.grid.send_and_receive([Message(records, node, "train")])
    return reply


def offered(here: Federation, step: int = 1) -> Call:
    """Have the key holder open a round for the first model; its offer."""
    model = FlatModel.from_record(first_model()).digest
    request = here.party.request("open", step, model, LENGTH)
    return ask(here, 1, "open", Call({}, {"request": request})).require("key holder", "open")


def closed(here: Federation, step: int = 1) -> Answer:
    """What the key holder says to closing a round in which four banks were to join."""
    return ask(here, 1, "close", Call({}, {"request": here.party.request("close", step)}))


def key_holder(here: Federation) -> KeyHolderParty:
    party = endpoint._ENDPOINTS[here.parties.file(KEY_HOLDER).resolve()].party
    assert isinstance(party, KeyHolderParty)
    return party


# --- the key holder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["stored", "status", "open", "close", "abort", "release"])
def test_no_unsigned_call_of_another_length_ends_an_open_round(federation, action: str) -> None:
    here = federation()
    offered(here)
    role = key_holder(here)._role
    for length in (1, LENGTH + 10, 99_999):
        raw(here, 1, action, {"after": 0, "length": length, "model": "", "step": 1})
    assert key_holder(here)._role is role and role is not None and role.state.value == "offered"
    assert closed(here).error == "QuorumNotMet"  # the round is there: it was only that nobody joined


def test_a_signed_look_at_stored_releases_of_another_length_ends_no_round_either(federation) -> None:
    here = federation()
    offered(here)
    request = here.party.request("stored", 0, bytes(32), LENGTH + 10)
    answer = ask(here, 1, "stored", Call({}, {"request": request}))
    assert not answer.error and answer.call.number("step") == 0
    assert closed(here).error == "QuorumNotMet"


@pytest.mark.parametrize("after", [0, LARGEST_STEP])
def test_a_look_at_stored_releases_is_answered_at_once_from_any_step(federation, after: int) -> None:
    here = federation()
    here.rounds().run(1)
    answer = ask(here, 1, "stored", Call({}, {"request": here.party.request("stored", after, bytes(32), LENGTH)}))
    assert not answer.error
    assert answer.call.number("step") == (1 if after == 0 else 0)


@pytest.mark.parametrize("after", [-(10**12), -1, 2**63 - 1])
def test_steps_out_of_range_are_refused_by_name_wherever_they_stand(federation, after: int) -> None:
    here = federation()
    reply = from_records(raw(here, 1, "stored", {"after": after, "length": LENGTH, "model": ""}).content)
    assert reply.fields["error"] == "TransferError"
    if after >= 0:
        signed = ask(here, 1, "stored", Call({}, {"request": here.party.request("stored", after, bytes(32), LENGTH)}))
        assert signed.error == "TransferError" and f"0..{LARGEST_STEP}" in signed.message


def test_a_signed_request_for_a_length_that_no_model_has_is_refused_and_changes_nothing(federation) -> None:
    here = federation()
    offered(here)
    for length in (0, 100_001, LARGEST_LENGTH + 1, 2**64 - 1):
        request = here.party.request("open", 2, bytes(32), length)
        assert ask(here, 1, "open", Call({}, {"request": request})).error in ("SettingsError", "TransferError")
    assert closed(here).error == "QuorumNotMet"


# --- who is at a node ----------------------------------------------------------------------------------------------


def claims(fields: dict[str, object]):  # type: ignore[no-untyped-def]
    """A fault: the node's status claims something, under the signature that it made for something else."""

    def fault(message: Message, deliver):  # type: ignore[no-untyped-def]
        reply = from_records(deliver(message).content)
        records = to_records(Call({**reply.fields, **fields}, reply.wires), "status")  # type: ignore[arg-type]
        return Message(records, reply_to=message)

    return only("status", fault)


@pytest.mark.parametrize("next_step", [1, 7, 0, -1, -(2**63), 2**63 - 1])
def test_a_node_that_claims_the_key_holders_key_is_set_aside_and_the_run_is_exact(
    federation, tmp_path: Path, next_step: int
) -> None:
    here = federation(outsiders=1)
    key = here.party.enrolment.key_holder.key.hex()
    here.fail("outsider-0", claims({"key": key, "role": "key_holder", "next_step": next_step}))
    outcome = here.rounds().run(1)
    assert np.abs(outcome.arrays.to_numpy_ndarrays()[0] - here.exact([0, 1, 2, 3], 1)).max() <= BOUND
    aside = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "node set aside"]
    assert {event["error"] for event in aside} <= {"BadSignature", "TransferError"} and aside


def test_a_node_that_claims_a_banks_key_takes_nobodys_place(federation) -> None:
    here = federation(outsiders=1)
    (bank,) = [each for each in here.party.enrolment.clients if each.organisation == "bank-1"]
    here.fail("outsider-0", claims({"key": bank.key.hex(), "organisation": "bank-1", "rounds": 9}))
    outcome = here.rounds().run(1)
    assert sorted(outcome.rounds[0].members) == [f"bank-{number}" for number in range(4)]


def test_an_honest_answer_of_another_node_or_of_an_earlier_look_is_not_believed(federation, tmp_path: Path) -> None:
    here = federation(outsiders=1)
    said: list[Call] = []

    def note(message: Message, deliver):  # type: ignore[no-untyped-def]
        reply = deliver(message)
        said.append(from_records(reply.content))
        return reply

    def repeat(message: Message, deliver):  # type: ignore[no-untyped-def]
        deliver(message)
        return Message(to_records(said[0], "status"), reply_to=message)

    here.fail(KEY_HOLDER, only("status", note))
    here.fail("outsider-0", only("status", repeat))
    here.rounds().run(1)
    here.rounds().run(2)
    aside = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "node set aside"]
    assert [event["error"] for event in aside] == ["BadSignature"] * 2


@pytest.mark.parametrize(("field", "value"), [("model", "f" * 64), ("length", 41), ("rounds", 3), ("step", 5)])
def test_what_a_bank_says_about_its_model_is_under_its_signature(federation, field: str, value: object) -> None:
    here = federation()
    here.fail("bank-3", claims({field: value}))
    outcome = here.rounds(replace(QUICK, ready_s=0.1)).run(1)
    assert outcome.rounds[0].left_out == ("bank-3",)


def test_of_two_nodes_with_one_banks_key_the_second_is_set_aside(federation, tmp_path: Path) -> None:
    here = federation()
    here.nodes["bank-1 again"] = here._node("bank-1", 2)
    here.grid.nodes[6] = here.nodes.pop("bank-1 again")
    here.rounds().run(1)
    aside = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "node set aside"]
    assert ["bank-1 is at another node already" in str(event["message"]) for event in aside] == [True]


def test_a_status_without_a_challenge_is_answered_without_a_signature(federation) -> None:
    here = federation()
    assert "signature" not in ask(here, 1, "status", Call()).call.fields


# --- a bank ---------------------------------------------------------------------------------------------------------


def test_an_offer_that_comes_again_ends_no_round_and_trains_nothing(federation) -> None:
    here = federation()
    offers: list[Message] = []
    here.fail("bank-0", only("join", lambda message, deliver: offers.append(message) or deliver(message), times=1))
    here.fail(KEY_HOLDER, only("close", silent_after_work, times=1))  # the first attempt is lost

    def replay_first(message: Message, deliver):  # type: ignore[no-untyped-def]
        offer = from_records(offers[0].content).wires["offer"]
        again = ask(here, 4, "join", Call({}, {"offer": bytes(offer)}))
        assert again.error == "StepNotIncreasing"
        return deliver(message)

    here.fail("bank-2", only("contribute", replay_first, times=1))
    outcome = here.rounds().run(1)
    assert len(outcome.rounds[0].lost) == 1  # the second attempt was not lost to the first one's offer
    assert len(outcome.rounds[0].members) == 4


def test_a_bank_takes_its_first_model_from_nobody_but_the_aggregator(federation) -> None:
    here = federation()
    honest, trap = FlatModel.from_record(first_model()), FlatModel({"0": np.full(LENGTH, 9.0, np.float32)})
    calls = Calls(here.grid)
    requests = {
        "RequestRefused": bytearray(here.party.request("start", 0, trap.digest, LENGTH)),
        "ModelMismatch": bytearray(here.party.request("start", 0, honest.digest, LENGTH)),
        "TransferError": b"",
    }
    requests["RequestRefused"][-1] ^= 1
    for error, request in requests.items():
        assert calls.start([2], trap.record(), bytes(request), 1.0)[2].error == error
    other = here.party.request("open", 0, trap.digest, LENGTH)
    assert calls.start([2], trap.record(), other, 1.0)[2].error == "RequestRefused"
    assert not (here.parties.home("bank-0") / "model.npz").exists()
    good = here.party.request("start", 0, honest.digest, LENGTH)
    assert not calls.start([2], honest.record(), good, 1.0)[2].error


# --- ranges ---------------------------------------------------------------------------------------------------------

OUTSIDE: dict[str, list[object]] = {
    "index": [-1, 2**31, "0", 1.0, True],
    "total": [0, -1, 2**48 + 1, b"1"],
    "name": ["x" * 33, 3],
    "challenge": [b"", bytes(31), bytes(33), "0" * 32],
    "signature": [b"", bytes(63), "0" * 64],
    "role": ["x" * 17, 1],
    "organisation": ["x" * 257, 1],
    "key": ["", "g" * 64, "A" * 64, "a" * 63, b"a" * 64],
    "model": ["zz", "a" * 63, "a" * 64 + "\n", 0],
    "length": [-1, 2**40 + 1, 1.5],
    "rounds": [-1, 2**31],
    "step": [-1, 2**63 - 1],
    "next_step": [0, -1, 2**63 - 1],
    "finished": [2, -1],
    "outcome": ["x" * 17, "RELEASED", "re\nleased"],
    "stored": [2, -1],
    "refused": ["x" * (2**16 + 1)],
    "taken": ["a" * 63, "a" * 64 + ",", ",", "A" * 64, "a" * 64 + "\n", b"a" * 64],
    "found_out": ["bank-1", "a" * 64 + "," + "b" * 63, 0],
    "error": ["x" * 65, 5],
    "message": ["x" * (2**16 + 1), 5],
}


def test_every_field_but_durations_has_values_outside_its_range_in_the_next_test() -> None:
    assert set(OUTSIDE) == {name for name in FIELDS if not name.endswith("_seconds")}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_field_outside_its_range_is_refused_by_name_where_records_become_calls(name: str) -> None:
    for value in OUTSIDE[name]:
        config = {"action": "put", "held_names": [], "held_lengths": [], "short_names": [], "short_wires": []}
        records = RecordDict({"secagg": ConfigRecord({**config, name: value})})  # type: ignore[dict-item]
        with pytest.raises(TransferError, match=f"field {name}: expected"):
            from_records(records)


def test_a_long_explanation_of_a_party_is_cut_and_not_an_answer_out_of_range(federation, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise TransferError("x" * (LONGEST_TEXT + 1))

    monkeypatch.setattr(KeyHolderParty, "_stored", refuse)
    answer = ask(federation(), 1, "stored", Call())
    assert answer.error == "TransferError" and answer.message == "x" * LONGEST_TEXT


@pytest.mark.parametrize("field", ["after", "secret", "x" * 100])
def test_a_field_that_no_call_has_is_refused(field: str) -> None:
    with pytest.raises(TransferError, match="expected a field of the protocol"):
        from_records(to_records(Call({field: 1}), "stored"))


@pytest.mark.parametrize(("name", "length"), [("sum", 0), ("sum", -5), ("sum", 2**62), ("x" * 33, 5)])
def test_a_byte_string_held_back_under_a_length_that_none_has_is_refused(name: str, length: int) -> None:
    with pytest.raises(TransferError, match="held"):
        from_records(to_records(Call({}, {}, {name: length}), "release"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300, "long", True])
def test_no_duration_that_a_party_makes_up_costs_a_round(federation, value: object) -> None:
    here = federation()

    def fault(message: Message, deliver):  # type: ignore[no-untyped-def]
        reply = from_records(deliver(message).content)
        changed = Call({**reply.fields, "train_seconds": value}, reply.wires)  # type: ignore[dict-item]
        return Message(to_records(changed, "join"), reply_to=message)

    here.fail("bank-0", only("join", fault))
    seconds = here.rounds().run(1).rounds[0].train_seconds
    assert 0.0 <= seconds < QUICK.train_s + 1


# --- memory ---------------------------------------------------------------------------------------------------------


def test_small_parts_of_long_byte_strings_take_no_more_memory_than_they_bring(federation) -> None:
    here = federation()
    ask(here, 1, "status", Call())
    limit = endpoint._ENDPOINTS[here.parties.file(KEY_HOLDER).resolve()]._incoming._limit
    tracemalloc.start()
    try:
        for number in range(8):
            raw(here, 1, "put", {"name": f"sum-{number}", "index": 0, "total": limit}, part=b"x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit  # one of the eight alone would have been so many bytes


def test_a_look_at_who_is_there_drops_no_answer_that_is_being_fetched(federation, monkeypatch) -> None:
    for module in ("transport", "endpoint", "calls"):
        monkeypatch.setattr(f"fl.flower.{module}.PART_BYTES", 150_000)
    here = federation(length=60_000)

    def look_first(message: Message, deliver):  # type: ignore[no-untyped-def]
        if action_of(message.content) == "get":
            assert not ask(here, 2, "status", Call({"challenge": bytes(32)})).error
        return deliver(message)

    here.fail("bank-0", look_first)
    assert len(here.rounds().run(1).rounds[0].members) == 4
