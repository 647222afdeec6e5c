"""Encrypted rounds over Flower messages with nodes that fail: the exact average of those who stayed, or a named error.

The nodes run in this process; tests/flower/test_network_faults.py plays the same faults with real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flower_federation import LENGTH, QUICK, only, silent, silent_after_work, update_of
from flwr.app import Message

from fl.flower.errors import FlowerError, ModelMismatch, PartiesMissing, RoundFailed
from fl.flower.local_parties import KEY_HOLDER
from fl.flower.logs import read_log
from fl.flower.loopback import honest
from fl.flower.models import FlatModel
from fl.flower.transport import PART_BYTES, Call, Outgoing, action_of, from_records, to_records

BOUND = 2e-6 * 3  # three rounds of at most one quantisation step of 1 / (2^19 - 1) each, in float32


def weights(outcome) -> np.ndarray:  # type: ignore[no-untyped-def]
    return outcome.arrays.to_numpy_ndarrays()[0]


def altered(action: str, change):  # type: ignore[no-untyped-def]
    """A fault: the node's answers to one action, changed by `change(call) -> call`."""

    def fault(message: Message, deliver):  # type: ignore[no-untyped-def]
        reply = deliver(message)
        return Message(to_records(change(from_records(reply.content)), action), reply_to=message)

    return only(action, fault)


# --- nothing fails --------------------------------------------------------------------------------------------------


def test_rounds_give_the_exact_average_and_equal_models_everywhere(federation) -> None:
    here = federation()
    outcome = here.rounds().run(3, evaluate=True)
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 3)).max() <= BOUND
    digests = {here.model_of(f"bank-{number}").digest.hex() for number in range(4)}
    assert digests == {outcome.model} == {FlatModel.from_record(outcome.arrays).digest.hex()}
    assert [sorted(each.members) for each in outcome.rounds] == [[f"bank-{n}" for n in range(4)]] * 3
    assert {bank: said["sum"] for bank, said in outcome.reports.items()} == dict.fromkeys(
        [f"bank-{n}" for n in range(4)], float(weights(outcome).sum())
    )


def test_banks_weigh_by_their_examples_when_the_plan_says_so(federation) -> None:
    here = federation(max_weight=10)
    outcome = here.rounds().run(1)
    examples = np.arange(1, 5)
    exact = np.average([update_of(bank, 1, 0) for bank in range(4)], axis=0, weights=examples)
    assert np.abs(weights(outcome) - exact).max() <= BOUND


def test_a_long_update_travels_in_parts_and_no_message_is_larger(federation, monkeypatch) -> None:
    part = 150_000
    for module in ("transport", "endpoint", "calls"):
        monkeypatch.setattr(f"fl.flower.{module}.PART_BYTES", part)
    monkeypatch.setattr("fl.flower.calls.WINDOW_PARTS", 2)
    here = federation(length=60_000)
    outcome = here.rounds().run(1)
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 1)).max() <= BOUND
    assert outcome.rounds[0].bytes_up > 3 * part  # more than one window
    assert outcome.largest_message <= part


def test_offers_of_every_parameter_set_fit_one_part() -> None:
    from secagg import plan_round, wire
    from secagg.messages import Offer
    from secagg.parameters import ALLOWED

    plans = [plan_round(1_000, 8, value_bits=8, params=params) for params in ALLOWED]
    assert max(wire.message_bytes(Offer, plan) for plan in plans) < PART_BYTES


def test_a_run_goes_on_where_an_earlier_one_stopped(federation) -> None:
    here = federation()
    here.rounds().run(1)
    outcome = here.rounds().run(3)
    assert [each.number for each in outcome.rounds] == [2, 3]
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 3)).max() <= BOUND


def test_restarted_parties_go_on_with_what_they_wrote_down(federation) -> None:
    here = federation()
    here.rounds().run(1)
    for name in here.nodes:
        here.restart(name)
    outcome = here.rounds().run(2)
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 2)).max() <= BOUND


# --- banks ----------------------------------------------------------------------------------------------------------


def test_a_bank_that_vanishes_before_the_roster_closed_is_left_out(federation) -> None:
    here = federation()
    here.fail("bank-2", only("join", silent))
    outcome = here.rounds().run(1)
    assert sorted(outcome.rounds[0].members) == ["bank-0", "bank-1", "bank-3"]
    assert outcome.rounds[0].left_out == ("bank-2",) and outcome.rounds[0].lost == ()
    assert np.abs(weights(outcome) - here.exact([0, 1, 3], 1)).max() <= BOUND


def test_a_bank_that_vanishes_after_the_roster_closed_costs_the_round_and_no_more(federation) -> None:
    here = federation()
    here.fail("bank-2", only("contribute", silent))
    outcome = here.rounds().run(1)
    (report,) = outcome.rounds
    assert sorted(report.members) == ["bank-0", "bank-1", "bank-3"]
    assert len(report.lost) == 1 and "bank-2: contribution: NoAnswer" in report.lost[0]
    # The others' first updates were rostered with bank-2; among other members they train anew, never reuse.
    exact = np.mean([update_of(bank, 1, 1).astype(np.float64) for bank in (0, 1, 3)], axis=0)
    assert np.abs(weights(outcome) - exact).max() <= BOUND


def test_a_retry_without_the_bank_that_vanished_needs_the_others_consent(federation) -> None:
    here = federation(model_repeats=0)
    here.fail("bank-2", only("contribute", silent))
    with pytest.raises(FlowerError, match="ModelRepeated"):
        here.rounds().run(1)
    here.fail("bank-2", honest)
    (report,) = here.rounds().run(1).rounds  # the members of the first roster are together again
    assert len(report.members) == 4 and report.lost == ()


def test_after_a_signed_abort_the_same_members_use_the_same_updates(federation) -> None:
    here = federation()
    # The aggregator loses one answer; the key holder aborts in writing; everyone is back for the second attempt.
    here.fail(KEY_HOLDER, only("close", silent_after_work, times=1))
    outcome = here.rounds().run(1)
    assert len(outcome.rounds[0].lost) == 1 and "NoAnswer" in outcome.rounds[0].lost[0]
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 1)).max() <= BOUND


def test_training_that_ignores_the_attempt_is_told_so_and_nothing_is_reused(federation, monkeypatch) -> None:
    import flower_federation

    here = federation(banks=4)
    monkeypatch.setattr(
        flower_federation, "update_of", lambda bank, number, _, length: update_of(bank, number, 0, length)
    )
    here.fail("bank-2", only("contribute", silent))
    with pytest.raises(FlowerError, match=r"ModelMismatch: training gives the same update|enrolled banks"):
        here.rounds().run(1)


def test_a_bank_that_missed_a_round_catches_up_with_the_stored_release(federation, tmp_path: Path) -> None:
    here = federation()
    here.fail("bank-2", silent)
    here.rounds().run(2)
    here.fail("bank-2", lambda message, deliver: deliver(message))
    outcome = here.rounds().run(3)
    assert sorted(outcome.rounds[0].members) == [f"bank-{n}" for n in range(4)]
    assert here.model_of("bank-2").digest.hex() == outcome.model
    caught = [event for event in read_log(tmp_path / "log.jsonl") if event.get("how") == "caught up"]
    assert [event["step"] for event in caught] == [1, 2] and {event["organisation"] for event in caught} == {"bank-2"}


def test_a_bank_that_was_away_in_one_round_takes_part_in_the_next(federation) -> None:
    here = federation()
    here.fail("bank-2", only("join", silent, times=1))
    outcome = here.rounds().run(2)
    assert "bank-2" not in outcome.rounds[0].members and "bank-2" in outcome.rounds[1].members
    assert here.model_of("bank-2").digest.hex() == outcome.model


def test_a_bank_whose_acceptance_is_lost_is_settled_and_not_moved_twice(federation) -> None:
    here = federation()
    here.fail("bank-2", only("accept", silent_after_work, times=1))
    outcome = here.rounds().run(2)
    assert here.model_of("bank-2").digest.hex() == outcome.model
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 2)).max() <= BOUND


def test_a_bank_restarted_after_it_contributed_settles_the_release_from_its_journal(federation, tmp_path) -> None:
    here = federation()

    def restart_first(message: Message, deliver):  # type: ignore[no-untyped-def]
        here.restart("bank-2")
        return deliver(message)

    here.fail("bank-2", only("accept", restart_first, times=1))
    outcome = here.rounds().run(1)
    assert here.model_of("bank-2").digest.hex() == outcome.model
    assert any(event.get("how") == "settled" for event in read_log(tmp_path / "log.jsonl"))


def test_a_bank_whose_process_forgot_the_round_says_so_by_name(federation) -> None:
    here = federation()

    def restart_first(message: Message, deliver):  # type: ignore[no-untyped-def]
        here.restart("bank-2")
        return deliver(message)

    here.fail("bank-2", only("contribute", restart_first, times=1))
    outcome = here.rounds().run(1)
    assert "RoundStateLost" in outcome.rounds[0].lost[0] and "resident" in outcome.rounds[0].lost[0]


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (lambda wire: b"garbage" * 100, "MalformedMessage"),
        (lambda wire: wire[:-7], "TruncatedMessage"),
        (lambda wire: wire + b"\0", "OversizedMessage"),
        (lambda wire: wire[:900] + bytes([wire[900] ^ 1]) + wire[901:], "DigestMismatch"),
    ],
)
def test_a_bank_that_sends_garbage_is_named_and_left_out(federation, what, named) -> None:
    here = federation()
    change = lambda call: Call(call.fields, {"contribution": what(bytes(call.wires["contribution"]))})  # noqa: E731
    here.fail("bank-1", altered("contribute", change))
    outcome = here.rounds().run(1)
    (report,) = outcome.rounds
    assert sorted(report.members) == ["bank-0", "bank-2", "bank-3"]
    assert f"bank-1: {named}" in report.lost[0]


def test_a_contribution_recorded_in_an_earlier_round_is_refused_as_a_replay(federation) -> None:
    here = federation()
    recorded: list[bytes] = []

    def replay(call: Call) -> Call:
        recorded.append(bytes(call.wires["contribution"]))
        return Call(call.fields, {"contribution": recorded[0]})

    here.fail("bank-1", altered("contribute", replay))
    outcome = here.rounds().run(2)
    assert outcome.rounds[0].lost == () and "bank-1: WrongRound" in outcome.rounds[1].lost[0]
    assert "bank-1" not in outcome.rounds[1].members


def test_a_join_recorded_in_an_earlier_round_is_refused_by_the_key_holder(federation, tmp_path) -> None:
    here = federation()
    recorded: list[bytes] = []

    def replay(call: Call) -> Call:
        recorded.append(bytes(call.wires["join"]))
        return Call(call.fields, {"join": recorded[0]})

    here.fail("bank-1", altered("join", replay))
    outcome = here.rounds().run(2)
    assert "bank-1" in outcome.rounds[0].members and "bank-1" not in outcome.rounds[1].members
    refused = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "join refused"]
    assert [event["error"] for event in refused] == ["WrongRound"]


def test_another_banks_contribution_passed_off_as_ones_own_is_refused(federation) -> None:
    here = federation()
    seen: dict[str, bytes] = {}

    def note(call: Call) -> Call:
        seen["contribution"] = bytes(call.wires["contribution"])
        return call

    here.fail("bank-0", altered("contribute", note))
    here.fail("bank-1", altered("contribute", lambda call: Call(call.fields, dict(seen))))
    outcome = here.rounds().run(1)
    assert "bank-1: TransferError: contribution: expected bank-1's, got bank-0's" in outcome.rounds[0].lost[0]
    assert "bank-1" not in outcome.rounds[0].members


def test_an_unenrolled_bank_takes_part_in_nothing(federation, tmp_path) -> None:
    here = federation(outsiders=1)
    outcome = here.rounds().run(1)
    assert sorted(outcome.rounds[0].members) == [f"bank-{n}" for n in range(4)]
    set_aside = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "node set aside"]
    assert {event["error"] for event in set_aside} == {"UnknownClient"}


def test_a_bank_of_another_architecture_is_set_aside_by_name(federation) -> None:
    here = federation()
    here.rounds().run(1)
    stored = here.parties.home("bank-3") / "model.npz"
    stored.write_bytes(FlatModel({"0": np.ones(LENGTH, np.float32)}).to_bytes(1, 1))
    here.restart("bank-3")
    (report,) = here.rounds(replace(QUICK, ready_s=0.1)).run(2).rounds
    assert report.left_out == ("bank-3",)


def test_too_few_banks_end_the_run_by_name(federation) -> None:
    here = federation(banks=3)
    here.fail("bank-0", silent)
    with pytest.raises(PartiesMissing, match="at least 3 enrolled banks"):
        here.rounds().run(1)


def test_a_bank_that_always_fails_after_the_roster_ends_the_run_by_name(federation) -> None:
    here = federation(banks=3)
    here.fail("bank-0", only("contribute", silent))
    with pytest.raises(RoundFailed, match="3 attempts failed: bank-0: contribution"):  # it is waited for: 3 are needed
        here.rounds().run(1)


def test_banks_without_a_first_model_are_told_how_to_get_one(federation) -> None:
    from fl.flower.workflow import EncryptedRounds

    here = federation()
    with pytest.raises(ModelMismatch, match="initial"):
        EncryptedRounds(here.grid, here.party, limits=QUICK).run(1)


# --- key holder -----------------------------------------------------------------------------------------------------


def test_a_key_holder_restarted_after_it_released_sends_the_same_bytes_again(federation, tmp_path) -> None:
    here = federation()
    seen: list[bytes] = []

    def restart_after_release(message: Message, deliver) -> None:  # type: ignore[no-untyped-def]
        seen.append(bytes(from_records(deliver(message).content).wires["release"]))
        here.restart(KEY_HOLDER)

    def note_stored(call: Call) -> Call:
        seen.append(bytes(call.wires["release"]))
        return call

    crash, note = only("release", restart_after_release, times=1), altered("stored", note_stored)
    here.fail(KEY_HOLDER, lambda m, d: crash(m, lambda again: note(again, d)))
    outcome = here.rounds().run(2)
    assert outcome.rounds[0].resent and not outcome.rounds[1].resent
    assert seen[0] == seen[1]
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 2)).max() <= BOUND


def test_a_key_holder_restarted_before_it_decrypted_gives_the_round_up_in_writing(federation, tmp_path) -> None:
    here = federation()

    def restart_first(message: Message, deliver):  # type: ignore[no-untyped-def]
        here.restart(KEY_HOLDER)
        return deliver(message)

    here.fail(KEY_HOLDER, only("release", restart_first, times=1))
    outcome = here.rounds().run(1)
    assert "abandoned" in outcome.rounds[0].lost[0]
    # The abort was signed and reached all members, so the same updates among the same members were used again.
    assert np.abs(weights(outcome) - here.exact([0, 1, 2, 3], 1)).max() <= BOUND
    aborted = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "aborted"]
    assert {event["role"] for event in aborted} == {"bank", "key_holder"}


def test_a_key_holder_that_stays_away_ends_the_run_by_name(federation) -> None:
    here = federation()
    died = False

    def dies_at_the_release(message: Message, deliver):  # type: ignore[no-untyped-def]
        nonlocal died
        died = died or action_of(message.content) == "release"
        return None if died else deliver(message)

    here.fail(KEY_HOLDER, dies_at_the_release)
    with pytest.raises(FlowerError, match="key holder"):
        here.rounds().run(1)


@pytest.mark.parametrize("action", ["open", "close", "abort"])
def test_the_key_holder_carries_out_nothing_that_the_aggregator_did_not_sign(federation, action: str) -> None:
    here = federation()
    rounds = here.rounds()
    rounds.run(1)
    forged = bytearray(here.party.request(action, 2, bytes(32), LENGTH))
    for position in (0, 40, 50, 80, 130, len(forged) - 1):
        tampered = bytes(forged[:position]) + bytes([forged[position] ^ 1]) + bytes(forged[position + 1 :])
        answer = rounds._calls.one(action, 1, Call({}, {"request": tampered}), 1.0)
        assert answer.error in ("RequestRefused", "TransferError")
    other = "close" if action == "open" else "open"
    replayed = Call({}, {"request": here.party.request(other, 2, bytes(32), LENGTH)})
    assert rounds._calls.one(action, 1, replayed, 1.0).error == "RequestRefused"


def test_a_replayed_open_request_burns_no_step(federation) -> None:
    here = federation()
    requests: list[Message] = []
    here.fail(KEY_HOLDER, only("open", lambda m, d: requests.append(m) or d(m)))
    here.rounds().run(1)
    replayed = Call({}, {"request": from_records(requests[0].content).wires["request"]})
    answer = here.rounds()._calls.one("open", 1, replayed, 1.0)
    assert answer.error == "RoundAlreadyReleased"


# --- the aggregator, or whoever owns the SuperLink, lies --------------------------------------------------------------


def test_a_trap_model_sent_to_one_bank_is_refused_there(federation) -> None:
    here = federation()
    here.rounds().run(1)
    trap = FlatModel({"0": np.full(LENGTH, 9.0, np.float32)})
    request = here.party.request("start", 0, trap.digest, LENGTH)
    answers = here.rounds()._calls.start([2], trap.record(), request, 1.0)
    assert answers[2].error == "ModelMismatch"


def test_a_sum_that_leaves_a_member_out_is_refused_without_a_reason(federation) -> None:
    here = federation()
    key_holder = here.nodes[KEY_HOLDER]

    def halve(message: Message, deliver):  # type: ignore[no-untyped-def]
        wire = bytearray(from_records(message.content).wires["sum"])
        wire[-100] ^= 1
        return deliver(_with(message, Call({}, {"sum": bytes(wire)}), "release"))

    key_holder.fault = only("release", halve, times=1)
    outcome = here.rounds().run(1)
    assert "without a release" in outcome.rounds[0].lost[0]


def _with(message: Message, call: Call, action: str) -> Message:
    message.content = to_records(call, action)
    return message


def test_a_release_with_one_bit_changed_moves_no_bank(federation) -> None:
    here = federation()
    before = {}

    def tamper(message: Message, deliver):  # type: ignore[no-untyped-def]
        wire = bytearray(from_records(message.content).wires["release"])
        wire[-40] ^= 1
        before.update({n: here.model_of(f"bank-{n}").digest for n in range(4)})
        return deliver(_with(message, Call({}, {"release": bytes(wire)}), "accept"))

    for number in range(4):
        here.fail(f"bank-{number}", only("accept", tamper))
    with pytest.raises(FlowerError):
        here.rounds().run(1)
    assert before == {n: here.model_of(f"bank-{n}").digest for n in range(4)}


# --- what is written down ---------------------------------------------------------------------------------------------


def test_logs_carry_round_and_role_and_no_payload(federation, tmp_path) -> None:
    here = federation()
    here.rounds().run(2)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert all(len(line) < 1_000 for line in lines)
    events = [json.loads(line) for line in lines]
    assert {event["role"] for event in events} == {"aggregator", "key_holder", "bank"}
    of_rounds = [
        event for event in events if event["event"] in ("joined", "contributed", "released", "accepted", "added")
    ]
    assert of_rounds and {event["step"] for event in of_rounds} == {1, 2}


def test_a_log_refuses_bytes_and_arrays(tmp_path: Path) -> None:
    from fl.flower.logs import RoleLog

    log = RoleLog("bank", "north", tmp_path / "log.jsonl")
    for payload in (b"key", np.zeros(3), [1.5, 2.5], {"update": 1}, ["x"] * 1_000):
        with pytest.raises(TypeError, match="log field"):
            log("event", value=payload)  # type: ignore[arg-type]
    log("event", step=3, members=["a"], text="x" * 10_000)
    (event,) = read_log(tmp_path / "log.jsonl")
    assert event["step"] == 3 and len(str(event["text"])) < 500


def test_a_round_that_is_lost_thrice_fails_with_all_reasons(federation) -> None:
    here = federation()
    here.fail(KEY_HOLDER, only("close", silent_after_work))
    with pytest.raises(RoundFailed, match=r"round 1: 3 attempts failed: .*NoAnswer.*NoAnswer.*NoAnswer"):
        here.rounds().run(1)


def test_importing_the_app_turns_off_what_would_call_home() -> None:
    program = (
        "import fl.flower.mod, os, flwr.supercore.telemetry as telemetry\n"
        "print(telemetry.FLWR_TELEMETRY_ENABLED, os.environ['FLWR_DISABLE_UPDATE_CHECK'])"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=kept, timeout=60
    )
    assert done.stdout.split() == ["0", "1"]


@pytest.mark.parametrize("module", ["server_app", "key_holder_app", "mod", "resident", "workflow"])
def test_only_the_banks_training_loads_torch_and_the_aggregator_no_crypto_library(module: str) -> None:
    program = f"import fl.flower.{module}, sys; print('torch' in sys.modules, 'tenseal' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]


def test_outgoing_shows_no_bytes() -> None:
    assert "secret" not in repr(Outgoing(b"secret")) and "secret" not in repr(Call({}, {"wire": b"secret"}))
