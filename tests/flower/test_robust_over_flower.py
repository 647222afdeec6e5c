"""Robust rounds over Flower messages: the poisoner is left out, and the model is that of rounds in one process.

The nodes run in this process; tests/flower/test_network_robust.py plays such rounds with real ones.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
from flower_federation import alike_of, first_model, only, silent, silent_after_work
from flwr.app import Message

import secagg
from fl.flower.errors import FlowerError, RoundFailed, SettingsError
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER
from fl.flower.logs import read_log
from fl.flower.loopback import honest
from fl.flower.models import FlatModel
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.parties.party import largest_message, plan_of
from fl.flower.settings import PlanSettings, load_settings
from fl.flower.transport import Call, from_records, to_records
from fl.flower.workflow import WaitLimits
from fl.secure.rule_settings import RobustSettings
from secagg import wire
from secagg.audit import audit
from secagg.errors import LateOutlier
from secagg.journal import audit_journal
from secagg.ledger import Outcome, audit_ledger, compare_journal
from secagg.messages import AbortReason, Products
from secagg.robust_keyholder import RobustKeyHolder

IDENTITY, COUNT = 60, 9_000  # values: a sketch is the update itself, or a count sketch
OUTLIERS = RobustSettings()
# Nodes in this process have answered when they have been asked: only an answer that never comes is waited for.
BRIEF = WaitLimits(
    ready_s=10, call_s=0.1, train_s=0.1, contribute_s=0.1, release_s=0.1, part_s=0.1, recover_s=0.1, attempts=3
)
BANKS = [f"bank-{number}" for number in range(5)]
LENGTHS = pytest.mark.parametrize("length", [IDENTITY, COUNT], ids=["identity", "count"])


def robust_of(federation, length=IDENTITY, **options):
    """Five banks and a rule; bank-1 turns its update round, four times as long."""
    given = {"banks": 5, "robust": OUTLIERS, "poison": {"bank-1": -4.0}, **options}
    return federation(length=length, **given)


def in_one_process(length, rounds, robust=OUTLIERS, banks=5, poison=(1,)):
    """The model after the same rounds of the same updates in one process, and who was left out of each."""
    model, left_out = FlatModel.from_record(first_model(length)), []
    plan = plan_of(PlanSettings(max_clients=8, clip=1.0, value_bits=20, max_weight=1, max_length=100_000), length)
    for number in range(1, rounds + 1):
        updates = []
        for bank in range(banks):
            update = alike_of(bank, number, 0, length, -4.0 if bank in poison else 1.0)
            updates.append(model.update_to(model.moved_by(update.astype(np.float64))))
        result = secagg.run_round(updates, plan=plan, robust=secagg.Robust(robust.asked))
        model = model.moved_by(result.average)
        left_out.append(result.left_out)
    return model, left_out


def events(here, organisation, event):
    log = here.folder.parent / "log.jsonl"
    return [each for each in read_log(log) if each["event"] == event and each.get("organisation") == organisation]


def require_sound(here):
    """All logs keep their rules: one release a step at most, and no update in two rosters, or shown twice."""
    ledger_file = here.parties.home(KEY_HOLDER) / "ledger.db"
    for name in here.nodes:
        here.restart(name)
    entries = audit(ledger_file).entries
    for step, _, _ in audit_ledger(ledger_file).steps:
        kinds = [entry.kind for entry in entries if entry.step == step]
        assert kinds.count("consumed") <= 1 and kinds.count("released") <= 1
    for name in here.parties.banks:
        journal_file = here.parties.home(name) / "journal.db"
        if not journal_file.exists():
            continue
        compare_journal(ledger_file, journal_file)
        seen = audit(journal_file).entries
        once = [(entry.step, entry.kind) for entry in seen]
        assert len(once) == len(set(once))
    return audit_ledger(ledger_file)


# --- nothing fails ----------------------------------------------------------------------------------------------------


@LENGTHS
def test_the_poisoner_is_left_out_and_the_model_is_that_of_one_process_bit_for_bit(federation, length) -> None:
    here = robust_of(federation, length)
    outcome = here.rounds(BRIEF).run(2)
    expected, left_out = in_one_process(length, 2)
    assert left_out == [(1,), (1,)]
    assert {here.model_of(name).digest for name in BANKS} == {expected.digest}
    for each in outcome.rounds:
        assert each.rejected == ("bank-1",) == each.left_out and "bank-1" not in each.members and each.lost == ()
    said = json.loads(json.dumps(outcome.as_json()))
    assert said["robust"] == {"rule": "outliers", "byzantine": None, "rejected": {"bank-1": 2}}
    log = [each for each in read_log(here.folder.parent / "log.jsonl") if each["event"] == "left out"]
    assert {each["role"] for each in log} == {"aggregator", "bank"}
    require_sound(here)


def test_a_rule_that_counts_attackers_and_a_federation_without_one(federation) -> None:
    nnm = RobustSettings("nnm", 1)
    here = robust_of(federation, robust=nnm)
    assert here.rounds(BRIEF).run(1).rounds[0].rejected == ("bank-1",)
    expected, _ = in_one_process(IDENTITY, 1, nnm)
    assert here.model_of("bank-0").digest == expected.digest
    honest = robust_of(federation, poison={})
    assert honest.rounds(BRIEF).run(1).as_json()["robust"]["rejected"] == {}


def test_products_travel_in_parts_where_they_are_longer_than_a_message(federation, monkeypatch) -> None:
    part = 300_000
    for module in ("transport", "endpoint", "calls"):
        monkeypatch.setattr(f"fl.flower.{module}.PART_BYTES", part)
    here = robust_of(federation, COUNT)
    outcome = here.rounds(BRIEF).run(1)
    assert outcome.rounds[0].rejected == ("bank-1",) and outcome.largest_message <= part
    plan = plan_of(load_settings(here.parties.file(KEY_HOLDER)).plan, COUNT)
    assert wire.message_bytes(Products, plan, 5) > 2 * part


def test_a_party_takes_the_longest_products_of_every_length_that_it_accepts(federation) -> None:
    settings = load_settings(robust_of(federation).parties.file(KEY_HOLDER))
    limit = largest_message(settings)
    for length in (1, 4_096, 4_097, 8_192, 8_193, 50_000, 100_000):
        assert wire.message_bytes(Products, plan_of(settings.plan, length), 8) <= limit


# --- what every party agreed on ---------------------------------------------------------------------------------------


def written(here, organisation, old, new):
    """Change a party's file."""
    file = here.parties.file(organisation)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_bank_that_expects_plain_rounds_refuses_a_robust_offer_and_the_round_goes_on_without_it(federation) -> None:
    here = robust_of(federation)
    written(here, "bank-4", '[robust]\nrule = "outliers"\n', "")
    outcome = here.rounds(BRIEF).run(1)
    assert sorted(outcome.rounds[0].members) == ["bank-0", "bank-2", "bank-3"]
    (why,) = [each for each in outcome.rounds[0].refused if each.startswith("bank-4")]
    assert why.startswith("bank-4: WrongPlan: offer: expected a plain round, got a robust one")


def test_a_bank_that_expects_another_rule_refuses_the_offer(federation) -> None:
    here = robust_of(federation)
    written(here, "bank-4", 'rule = "outliers"', 'rule = "nnm"\nbyzantine = 1')
    (why,) = [each for each in here.rounds(BRIEF).run(1).rounds[0].refused if each.startswith("bank-4")]
    assert why.startswith("bank-4: WrongPlan: rule: the offer names another rule")


def test_banks_that_expect_robust_rounds_refuse_a_plain_offer_and_train_nothing(federation) -> None:
    here = robust_of(federation)
    for name in (KEY_HOLDER, AGGREGATOR):
        written(here, name, '[robust]\nrule = "outliers"\n', "")
    here.party = AggregatorParty(load_settings(here.parties.file(AGGREGATOR)))
    with pytest.raises(FlowerError, match="WrongPlan: offer: expected a robust round, got a plain one"):
        here.rounds(replace(BRIEF, attempts=1)).run(1)
    assert not events(here, "bank-0", "joined")


def test_an_aggregator_and_a_key_holder_that_differ_end_the_run_by_name(federation) -> None:
    here = robust_of(federation)
    written(here, AGGREGATOR, '[robust]\nrule = "outliers"\n', "")
    here.party = AggregatorParty(load_settings(here.parties.file(AGGREGATOR)))
    with pytest.raises(FlowerError):
        here.rounds(replace(BRIEF, attempts=1)).run(1)
    other = robust_of(federation)
    written(other, KEY_HOLDER, '[robust]\nrule = "outliers"\n', "")
    with pytest.raises(RoundFailed, match="WrongPlan: offer: expected a robust round, got a plain one"):
        other.rounds(replace(BRIEF, attempts=1)).run(1)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('rule = "outliers"', 'rule = "krum"\nbyzantine = 1', r"\[robust\] rule: krum keeps one update"),
        ('rule = "outliers"', 'rule = "nnm"', "nnm leaves out by count"),
        ('rule = "outliers"', 'rule = "median"', "rule: expected one of"),
        ('rule = "outliers"', 'rule = "nnm"\nbyzantine = 4', "max_clients in .plan. is too small: nnm against 4"),
        ('rule = "outliers"', "slack = 2.0", "slack: unknown key"),
        ("max_weight = 1", "max_weight = 2", "expected max_weight = 1"),
        ("quorum = 3", "quorum = 3\nallow_reuse = true", "set allow_reuse = false"),
    ],
)
def test_settings_of_rounds_that_cannot_be_are_refused_by_name(federation, old, new, error) -> None:
    here = robust_of(federation)
    written(here, "bank-0", old, new)
    with pytest.raises(SettingsError, match=error):
        load_settings(here.parties.file("bank-0"))


# --- banks that fail --------------------------------------------------------------------------------------------------


@LENGTHS
def test_a_bank_that_vanishes_before_the_verdict_is_not_compared(federation, length) -> None:
    here = robust_of(federation, length)
    here.fail("bank-2", only("join", silent))
    outcome = here.rounds(BRIEF).run(1)
    assert sorted(outcome.rounds[0].members) == ["bank-0", "bank-3", "bank-4"] and outcome.rounds[0].lost == ()
    assert outcome.rounds[0].rejected == ("bank-1",)
    require_sound(here)


@pytest.mark.parametrize(
    ("action", "length", "fault"),
    [
        ("contribute", IDENTITY, silent),
        ("contribute", COUNT, silent_after_work),
        ("sketch", COUNT, silent),
        pytest.param("sketch", COUNT, silent_after_work, marks=pytest.mark.long),
    ],
)
def test_a_bank_that_vanishes_after_the_verdict_costs_the_round_and_all_show_new_updates(
    federation, action, length, fault
) -> None:
    here = robust_of(federation, length)
    here.fail("bank-2", only(action, fault, times=1))
    outcome = here.rounds(BRIEF).run(1)
    (lost,) = outcome.rounds[0].lost
    assert lost.startswith("bank-2: ") and "NoAnswer" in lost
    assert sorted(outcome.rounds[0].members) == ["bank-0", "bank-3", "bank-4"]
    report = require_sound(here)
    assert [outcome for _, _, outcome in report.steps] == [Outcome.ABORTED, Outcome.RELEASED]
    for name in ("bank-0", "bank-3", "bank-4"):
        first, second = audit_journal(here.parties.home(name) / "journal.db").rounds
        assert first.aborted and second.release is not None and first.contribution != second.contribution


def test_a_bank_that_sends_no_sketch_or_a_damaged_one_is_not_compared(federation) -> None:
    def damaged(message: Message, deliver):  # type: ignore[no-untyped-def]
        call = from_records(deliver(message).content)
        sketch = bytearray(call.wires["sketch"])
        sketch[-40] ^= 1
        return Message(to_records(Call(call.fields, {**call.wires, "sketch": bytes(sketch)}), "join"), reply_to=message)

    def without(message: Message, deliver):  # type: ignore[no-untyped-def]
        call = from_records(deliver(message).content)
        return Message(to_records(Call(call.fields, {"join": call.wires["join"]}), "join"), reply_to=message)

    here = robust_of(federation, banks=6)
    here.fail("bank-2", only("join", damaged))
    here.fail("bank-3", only("join", without))
    (one,) = here.rounds(BRIEF).run(1).rounds
    assert sorted(one.members) == ["bank-0", "bank-4", "bank-5"]
    assert one.rejected == ("bank-1", "bank-2", "bank-3")
    reasons = "\n".join(one.refused)
    assert re.search("bank-2: DigestMismatch", reasons) and re.search("bank-3: TransferError: wire 'sketch'", reasons)


def test_a_bank_that_sends_the_sketch_of_another_is_not_compared_and_loses_nobody_the_round(federation) -> None:
    """The other one has joined nothing: products of its sketch would be refused as a whole, and nobody be named."""
    here, kept = robust_of(federation, banks=6), {}

    def gives_its_sketch_away(message: Message, deliver):  # type: ignore[no-untyped-def]
        kept.update(from_records(deliver(message).content).wires)

    def with_that_sketch(message: Message, deliver):  # type: ignore[no-untyped-def]
        call = from_records(deliver(message).content)
        wires = {**call.wires, "sketch": kept["sketch"]}
        return Message(to_records(Call(call.fields, wires), "join"), reply_to=message)

    here.fail("bank-2", only("join", gives_its_sketch_away))
    here.fail("bank-3", only("join", with_that_sketch))
    (one,) = here.rounds(BRIEF).run(1).rounds
    assert one.lost == () and sorted(one.members) == ["bank-0", "bank-4", "bank-5"]
    assert any(
        each.startswith("bank-3: TransferError: sketch: expected bank-3's, got bank-2's") for each in one.refused
    )


def test_a_join_that_the_key_holder_refuses_costs_its_bank_the_round_and_nobody_else(federation) -> None:
    here = robust_of(federation, banks=6)
    here.rounds(BRIEF).run(1)

    def altered(message: Message, deliver):  # type: ignore[no-untyped-def]
        call = from_records(deliver(message).content)
        plan = plan_of(load_settings(here.parties.file("bank-2")).plan, IDENTITY)
        data = wire.encode(replace(wire.decode(call.wires["join"], plan), signature=bytes(64)), plan)
        return Message(to_records(Call(call.fields, {**call.wires, "join": data}), "join"), reply_to=message)

    here.fail("bank-2", only("join", altered))
    one = here.rounds(BRIEF).run(2).rounds[0]
    assert sorted(one.members) == ["bank-0", "bank-3", "bank-4", "bank-5"] and one.rejected == ("bank-1",)
    assert any("joins refused: BadSignature" in each for each in one.refused)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_a_rule_that_keeps_too_few_loses_every_attempt_and_the_run_ends_by_name(federation) -> None:
    here = robust_of(federation, banks=4, quorum=4)
    with pytest.raises(RoundFailed, match="RuleRefused: 3 members stay, fewer than the quorum of 4"):
        here.rounds(BRIEF).run(1)
    report = require_sound(here)
    assert {outcome for _, _, outcome in report.steps} == {Outcome.ABORTED}
    for name in here.parties.banks:
        rounds = audit_journal(here.parties.home(name) / "journal.db").rounds
        assert len(rounds) == 3 and all(each.aborted and each.contribution is None for each in rounds)


def test_a_bank_can_show_updates_of_one_model_however_many_rounds_were_lost(federation, monkeypatch) -> None:
    """Each lost round uses an update up. What is bounded is how often a bank trains for one round."""
    monkeypatch.setattr("fl.flower.parties.bank._MAX_ATTEMPTS", 1)
    here = robust_of(federation, banks=4, quorum=4)
    for runs in (1, 2):
        with pytest.raises(RoundFailed, match="RuleRefused: 3 members stay"):
            here.rounds(BRIEF).run(1)
        for name in here.parties.banks:
            here.restart(name)
            assert len(audit_journal(here.parties.home(name) / "journal.db").rounds) == 3 * runs


def test_whom_the_second_look_finds_out_is_named_and_the_round_is_played_without_it(federation, monkeypatch) -> None:
    here = robust_of(federation, COUNT, poison={})
    looked, aborts = RobustKeyHolder.judge_again, []

    def found_out(self, products):  # type: ignore[no-untyped-def]
        looked(self, products)
        monkeypatch.setattr(RobustKeyHolder, "judge_again", looked)
        raise LateOutlier(("bank-3",))

    ended = RobustKeyHolder.abort
    monkeypatch.setattr(RobustKeyHolder, "judge_again", found_out)
    monkeypatch.setattr(RobustKeyHolder, "abort", lambda self, reason: aborts.append(reason) or ended(self, reason))
    (one,) = here.rounds(BRIEF).run(1).rounds
    assert one.lost == ("bank-3: found out by the second look; the step is lost",)
    assert sorted(one.members) == ["bank-0", "bank-1", "bank-2", "bank-4"]
    assert aborts == [AbortReason.OUTLIER]
    require_sound(here)


# --- restarts ---------------------------------------------------------------------------------------------------------


def restarts(here, organisation, *, after):
    """The party's process ends before it sees the message, or after its work and before its answer."""

    def fault(message: Message, deliver):  # type: ignore[no-untyped-def]
        if after:
            deliver(message)
        here.restart(organisation)
        return None

    return fault


def moments(by_default, others):
    """Actions, before or after which a process ends; `others` take minutes together and say nothing new."""
    names = [*by_default, *others]
    return pytest.mark.parametrize(
        ("action", "after"),
        [
            pytest.param(*each, id="-".join((each[0], "after" if each[1] else "before")), marks=marks)
            for each in names
            for marks in [[pytest.mark.long] if each in others else []]
        ],
    )


@moments(
    [("close", True), ("compare", False), ("release", True)],
    [
        *(("open", False), ("open", True), ("joins", False), ("joins", True), ("close", False), ("reveal", False)),
        *(("reveal", True), ("compare", True), ("release", False)),
    ],
)
def test_a_key_holder_that_restarts_in_the_middle_costs_the_attempt_at_most(federation, action, after) -> None:
    here = robust_of(federation, COUNT)
    here.fail(KEY_HOLDER, only(action, restarts(here, KEY_HOLDER, after=after), times=1))
    outcome = here.rounds(BRIEF).run(1)
    assert sorted(outcome.rounds[0].members) == ["bank-0", "bank-2", "bank-3", "bank-4"]
    assert outcome.rounds[0].resent == (action == "release" and after)
    report = require_sound(here)
    assert [outcome for _, _, outcome in report.steps].count(Outcome.RELEASED) == 1


@moments(
    [("join", True), ("sketch", False)],
    [
        *(("join", False), ("contribute", False), ("contribute", True), ("sketch", True)),
        *(("accept", False), ("accept", True)),
    ],
)
def test_a_bank_that_restarts_in_the_middle_sends_no_update_twice(federation, action, after) -> None:
    here = robust_of(federation, COUNT)
    here.fail("bank-2", only(action, restarts(here, "bank-2", after=after), times=1))
    outcome = here.rounds(BRIEF).run(2)
    assert len(outcome.rounds) == 2 and outcome.rejected == {"bank-1": 2}
    assert here.model_of("bank-2").digest == here.model_of("bank-0").digest
    require_sound(here)


class Stopped(Exception):
    """The aggregator's process ends."""


class Kill:
    """Ends one process at one message, before the message is handled or after it: its receiver's, or the sender's."""

    def __init__(self, here, at, *, after, whose) -> None:  # type: ignore[no-untyped-def]
        self.here, self.at, self.after, self.whose, self.seen = here, at, after, whose, 0
        for name in here.nodes:
            here.fail(name, self.fault_of(name))

    def fault_of(self, name):  # type: ignore[no-untyped-def]
        def fault(message: Message, deliver):  # type: ignore[no-untyped-def]
            self.seen += 1
            if self.seen != self.at:
                return deliver(message)
            if self.after:
                deliver(message)
            if self.whose == AGGREGATOR:
                raise Stopped
            self.here.restart(name)
            return None

        return fault


def killed_rounds(here, count, draw) -> list[str]:
    """Rounds of which each has one process killed at a random message; returns who and where, in order.

    The run is started again after the aggregator's end, by an aggregator that remembers nothing.
    """
    story: list[str] = []
    undisturbed = Kill(here, -1, after=False, whose=KEY_HOLDER)
    here.rounds(BRIEF).run(1)
    messages = undisturbed.seen
    for number in range(2, count + 2):
        kill = Kill(here, draw.randint(1, messages), after=draw.random() < 0.5, whose=draw.choice([AGGREGATOR, "", ""]))
        for _ in range(4):
            try:
                here.rounds(BRIEF).run(number)
                break
            except (Stopped, FlowerError) as error:
                story.append(type(error).__name__)
                here.party = AggregatorParty(load_settings(here.parties.file(AGGREGATOR)))
        story.append(f"{kill.at} of {messages}")
    for name in here.nodes:
        here.fail(name, honest)
    here.rounds(BRIEF).run(count + 2)  # whoever missed the last one catches up
    return story


def require_one_end_of_every_round(here, rounds):
    """Every bank holds one model after all rounds, and no two contributions of a bank were of one step."""
    report = require_sound(here)
    assert [outcome for _, _, outcome in report.steps].count(Outcome.RELEASED) == rounds
    assert len({here.model_of(name).digest for name in BANKS}) == 1
    stored = (here.parties.home("bank-0") / "model.npz").read_bytes()
    assert FlatModel.from_bytes(stored)[1] == rounds
    for name in BANKS:
        rounds_of = audit_journal(here.parties.home(name) / "journal.db").rounds
        sealed = [each.contribution for each in rounds_of if each.contribution is not None]
        assert len(sealed) == len(set(sealed))


@LENGTHS
def test_processes_killed_at_random_messages_release_and_contribute_nothing_twice(federation, length) -> None:
    here, count = robust_of(federation, length), 3
    killed_rounds(here, count, random.Random(length))
    require_one_end_of_every_round(here, count + 2)


@pytest.mark.long
@LENGTHS
def test_processes_killed_at_100_random_messages_release_and_contribute_nothing_twice(federation, length) -> None:
    here = robust_of(federation, length)
    story = killed_rounds(here, 100, random.Random(length + 1))
    require_one_end_of_every_round(here, 102)
    assert "Stopped" in story


# --- noise ------------------------------------------------------------------------------------------------------------


def test_an_update_with_noise_of_its_own_is_judged_as_any_other(federation) -> None:
    here = robust_of(federation)
    for name in here.parties.banks:
        written(here, name, "model_repeats = 8", 'model_repeats = "fresh-noise"')
    assert here.rounds(BRIEF).run(1).rounds[0].rejected == ("bank-1",)


def test_an_app_that_draws_its_noise_for_a_closed_roster_is_refused_by_name(federation, monkeypatch) -> None:
    from fl.flower import mod
    from fl.flower.parties.bank import Trained

    def drawn(self, model, number, attempt):  # type: ignore[no-untyped-def]
        return Trained(np.empty(0, np.float32), draw=lambda roster: np.zeros(model.length))

    monkeypatch.setattr(mod._CalledApp, "train", drawn)
    here = robust_of(federation)
    with pytest.raises(FlowerError, match=r"SettingsError: \[robust\]: this app draws its noise for a closed roster"):
        here.rounds(replace(BRIEF, attempts=1)).run(1)
