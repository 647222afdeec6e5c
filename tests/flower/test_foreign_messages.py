"""Whatever a SuperLink sends, a bank's model stays there: every message type and shape that Flower 1.41 can carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flower_federation import first_model, update_of
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.app.metadata import validate_legacy_message_type, validate_message_type
from flwr.clientapp import ClientApp
from flwr.common.constant import MessageTypeLegacy
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from superlink import (
    CATEGORIES,
    LEGACY,
    TYPES,
    Eager,
    arrays_in,
    as_flower_runs,
    everything,
    foreign,
    started,
    tells,
    the_mod_of_before,
    trained_by,
)

from fl.flower import key_holder_app
from fl.flower.admission import GuardedApp
from fl.flower.local_parties import KEY_HOLDER
from fl.flower.logs import RoleLog, read_log
from fl.flower.loopback import LoopbackGrid, Node
from fl.flower.mod import secagg_mod
from fl.flower.transport import Call, from_records, to_records

BANKS = 3
REFUSED = ("MessageRefused: ", "<class 'ValueError'>:<'No ", "<class 'ValueError'>:<'Invalid message type")
"""How refusals begin; the last two are Flower's own, for types that an app without a resident has no function for."""

Wrapped = Callable[[Message, Context], Message]


def behind(wrap: Callable[[Eager], Wrapped], here, eager: Eager) -> LoopbackGrid:  # type: ignore[no-untyped-def]
    """Banks that run an eager app behind `wrap`, in Flower's executor."""
    app = as_flower_runs(wrap(eager))
    nodes = [here.nodes[f"bank-{number}"] for number in range(BANKS)]
    return LoopbackGrid([Node(app, node.config) for node in nodes])


def guarded(app: ClientApp) -> GuardedApp:
    return GuardedApp(app, RoleLog("resident", "app"))


SHIPPED: dict[str, Callable[[Eager], Wrapped]] = {
    "the mod": lambda eager: eager.app(secagg_mod),
    "the mod around an old app": lambda eager: eager.old_app(secagg_mod),
    "the resident process": lambda eager: guarded(eager.app()),
    "the resident process around an old app": lambda eager: guarded(eager.old_app()),
    "both": lambda eager: guarded(eager.app(secagg_mod)),
}
BEFORE: dict[str, Callable[[Eager], Wrapped]] = {
    "the mod of before": lambda eager: eager.app(the_mod_of_before),
    "the mod of before around an old app": lambda eager: eager.old_app(the_mod_of_before),
}


class Collecting(FedAvg):
    """Flower's FedAvg, whose operator looks at what the banks send."""

    collected: list[np.ndarray]

    def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
        replies = list(replies)
        self.collected = [
            array.numpy() for reply in replies if reply.has_content() for array in reply.content["arrays"].values()
        ]
        # What FedAvg itself would do with lists among the metrics is no matter here.
        return None, None


def collected_by_fedavg(grid: LoopbackGrid) -> list[np.ndarray]:
    strategy = Collecting(fraction_evaluate=0.0, min_train_nodes=BANKS, min_available_nodes=BANKS)
    strategy.start(grid, first_model(), num_rounds=1, timeout=1)
    return strategy.collected


# --- nothing leaves -------------------------------------------------------------------------------------------------


def test_the_sweep_knows_every_message_type_of_this_flower() -> None:
    named = {value for name, value in vars(MessageType).items() if name.isupper()}
    old = {value for name, value in vars(MessageTypeLegacy).items() if name.isupper()}
    assert set(CATEGORIES) == named | {SYSTEM_MESSAGE_TYPE} and set(LEGACY) == old | {"reconnect"}
    assert all(validate_message_type(kind) or validate_legacy_message_type(kind) for kind in TYPES)
    assert not validate_message_type("other") and not validate_message_type("train.a.b")


@pytest.mark.parametrize("wrap", SHIPPED.values(), ids=SHIPPED)
def test_flowers_stock_fedavg_collects_no_model(federation, wrap) -> None:
    here, eager = federation(banks=BANKS), Eager()
    before = collected_by_fedavg(behind(BEFORE["the mod of before"], here, Eager()))
    after = collected_by_fedavg(behind(wrap, here, eager))
    assert all(any(np.array_equal(got, trained_by(bank)) for got in before) for bank in range(BANKS))
    assert len(before) == BANKS
    assert after == [] and eager.called == []
    print(f"models that stock FedAvg collects: {len(after)} of {BANKS}; before: {len(before)} of {BANKS}")


@pytest.mark.parametrize("wrap", SHIPPED.values(), ids=SHIPPED)
def test_no_message_that_flower_can_carry_makes_a_bank_send_its_model(federation, tmp_path: Path, wrap) -> None:
    here, eager = federation(banks=BANKS, reports={}), Eager()
    grid, weights = behind(wrap, here, eager), trained_by(0)
    endings: Counter[str] = Counter()
    for sent in everything(node=1, party=here.party):
        called = len(eager.called)
        reply = next(iter(grid.send_and_receive([sent.message])))
        assert arrays_in(reply) == [] and not tells(reply, weights), sent.what
        if sent.admissible:
            assert reply.has_error() or set(reply.content) <= {"secagg", "secagg.wires"}, sent.what
        else:
            assert reply.has_error() and reply.error.reason.startswith(REFUSED), sent.what
            assert len(eager.called) == called, sent.what
        endings[reply.error.reason.split(":")[0] if reply.has_error() else "answered"] += 1
    told = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "message refused"]
    assert len(told) == endings["MessageRefused"] > 500
    print(f"{endings.total()} messages, 0 arrays in their replies: {dict(endings)}")


@pytest.mark.parametrize("wrap", BEFORE.values(), ids=BEFORE)
def test_the_same_messages_took_the_model_before(federation, wrap) -> None:
    """The control of the sweep: it finds what there is to find."""
    here = federation(banks=BANKS)
    grid, leaks = behind(wrap, here, Eager()), 0
    for partition in range(BANKS):
        told = [
            tells(next(iter(grid.send_and_receive([sent.message]))), trained_by(partition))
            for sent in foreign(node=partition + 1)
        ]
        leaks += any(told)
    assert leaks == BANKS
    print(f"models that leave: {leaks} of {BANKS}")


@pytest.mark.parametrize("wrap", [lambda app: app, guarded], ids=["the app", "the resident process"])
def test_the_key_holder_answers_nothing_but_its_protocol(federation, wrap) -> None:
    here = federation(banks=BANKS)
    config = here.nodes[KEY_HOLDER].config
    grid = LoopbackGrid([Node(as_flower_runs(wrap(key_holder_app.app)), config)])
    for sent in everything(node=1, party=here.party):
        (reply,) = grid.send_and_receive([sent.message])
        assert arrays_in(reply) == [], sent.what
        if not sent.admissible:
            assert reply.has_error() and reply.error.reason.startswith(REFUSED), sent.what


def test_a_bank_that_cannot_read_its_own_files_answers_strangers_no_more_than_others(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SECAGG_LOG", str(tmp_path / "log.jsonl"))
    eager, gone = Eager(), {"party": str(tmp_path / "gone.toml"), "partition-id": 0}
    grid = LoopbackGrid([Node(as_flower_runs(eager.app(secagg_mod)), gone)])
    plain = Message(RecordDict({"arrays": first_model()}), dst_node_id=1, message_type="train")
    (reply,) = grid.send_and_receive([plain])
    assert reply.error.reason.startswith("MessageRefused: this bank is not ready") and "gone" not in reply.error.reason
    (reply,) = grid.send_and_receive([Message(to_records(Call(), "status"), 1, "train")])
    assert from_records(reply.content).text("error") == "SettingsError" and eager.called == []
    assert {event["event"] for event in read_log(tmp_path / "log.jsonl")} == {"not ready"}


# --- what the operator lets through ---------------------------------------------------------------------------------

NAMED = {"messages": ["evaluate", "query.health"], "metrics": ["loss", "num-examples"], "hashes": ["model_hash"]}


def answering(records: dict[str, object]):  # type: ignore[no-untyped-def]
    """An app function that answers with these records."""

    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict(records), reply_to=message)

    return answer


def asked_to_evaluate(here, answer, wrap=lambda app: app, kind="evaluate") -> Message:  # type: ignore[no-untyped-def]
    """The reply of bank 0, whose party file has NAMED, when a foreign ServerApp sends `kind`."""
    app = ClientApp(mods=[secagg_mod])
    for register in (app.evaluate, app.query):
        register()(answer)
        register("health")(answer)
    grid = LoopbackGrid([Node(as_flower_runs(wrap(app)), here.nodes["bank-0"].config)])
    content = RecordDict({"arrays": first_model(), "config": ConfigRecord({"server-round": 1})})
    (reply,) = grid.send_and_receive([Message(content, dst_node_id=1, message_type=kind)])
    return reply


@pytest.mark.parametrize("wrap", [lambda app: app, guarded], ids=["the mod", "behind the resident process"])
def test_a_type_that_the_party_file_names_is_answered_with_numbers_that_it_names(federation, wrap) -> None:
    here = federation(banks=BANKS, reports=NAMED)
    records = {"mine": MetricRecord({"loss": 0.25}), "more": ConfigRecord({"num-examples": 7})}
    for kind in ("evaluate", "query.health"):
        reply = asked_to_evaluate(here, answering(records), wrap, kind)
        assert reply.metadata.message_type == kind and list(reply.content) == ["metrics"]
        assert dict(reply.content.metric_records["metrics"]) == {"loss": 0.25, "num-examples": 7}
    for kind in ("query", "evaluate.default", "evaluate.health"):
        assert asked_to_evaluate(here, answering(records), wrap, kind).error.reason.startswith("MessageRefused: ")


def test_flowers_fedavg_evaluates_at_banks_that_let_it(federation) -> None:
    here = federation(banks=BANKS, reports=NAMED)
    app = ClientApp(mods=[secagg_mod])

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        metrics = MetricRecord({"loss": float(number), "num-examples": number + 1})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    grid = LoopbackGrid([Node(app, here.nodes[f"bank-{number}"].config) for number in range(BANKS)])
    strategy = FedAvg(fraction_train=0.0, min_evaluate_nodes=BANKS, min_available_nodes=BANKS)
    result = strategy.start(grid, first_model(), num_rounds=1, timeout=1)
    assert result.evaluate_metrics_clientapp[1]["loss"] == pytest.approx((0 * 1 + 1 * 2 + 2 * 3) / 6)


WEIGHTS = trained_by(0)
LEAKS: dict[str, dict[str, object]] = {
    "arrays": {"arrays": ArrayRecord([WEIGHTS])},
    "arrays under a listed name": {"loss": ArrayRecord([WEIGHTS])},
    "bytes": {"config": ConfigRecord({"loss": WEIGHTS.tobytes()})},
    "text": {"config": ConfigRecord({"loss": WEIGHTS.tobytes().hex()})},
    "a hash, where only numbers may be": {"config": ConfigRecord({"model_hash": "0" * 64})},
    "a list of numbers": {"metrics": MetricRecord({"loss": WEIGHTS.astype(float).tolist()})},
    "a number under another name": {"metrics": MetricRecord({"loss": 0.5, "weight-0": float(WEIGHTS[0])})},
    "a name": {"metrics": MetricRecord({WEIGHTS.tobytes().hex(): 1})},
    "a number twice": {"a": MetricRecord({"loss": 0.5}), "b": MetricRecord({"loss": float(WEIGHTS[0])})},
    "true": {"config": ConfigRecord({"loss": True})},
    "not a number": {"metrics": MetricRecord({"loss": float("nan")})},
    "infinity": {"metrics": MetricRecord({"loss": float("inf")})},
    "an integer of many bits": {"metrics": MetricRecord({"loss": int.from_bytes(WEIGHTS.tobytes())})},
}


@pytest.mark.parametrize("records", LEAKS.values(), ids=LEAKS)
def test_a_reply_that_holds_anything_else_is_replaced_by_an_error(federation, tmp_path, records) -> None:
    here = federation(banks=BANKS, reports=NAMED)
    for wrap in (lambda app: app, guarded):
        reply = asked_to_evaluate(here, answering(records), wrap)
        assert reply.error.reason.startswith("ReplyRefused: ") and not tells(reply, WEIGHTS)
    events = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "reply refused"]
    assert {event["role"] for event in events} == {"bank", "resident"} and str(events[0]["withheld"])


def raising(message: Message, context: Context) -> Message:
    raise ValueError(f"could not convert {WEIGHTS.tolist()}")


def failing(message: Message, context: Context) -> Message:
    return Message(Error(99, f"could not convert {WEIGHTS.tolist()}"), reply_to=message)


@pytest.mark.parametrize("answer", [raising, failing])
def test_the_text_of_an_apps_error_stays_in_the_banks_log(federation, tmp_path, answer) -> None:
    here = federation(banks=BANKS, reports=NAMED)
    for wrap in (lambda app: app, guarded):
        reply = asked_to_evaluate(here, answer, wrap)
        assert reply.has_error() and not tells(reply, WEIGHTS) and "convert" not in reply.error.reason
    assert "could not convert" in (tmp_path / "log.jsonl").read_text()


def test_what_an_app_does_to_its_message_changes_nothing_in_the_reply(federation) -> None:
    here = federation(banks=BANKS, reports=NAMED)

    def meddling(message: Message, context: Context) -> Message:
        message.metadata.group_id = WEIGHTS.tobytes().hex()
        message.metadata.dst_node_id = 7
        reply = Message(RecordDict({"metrics": MetricRecord({"loss": 0.5})}), reply_to=message)
        reply.metadata.message_type = "train"
        return reply

    for wrap in (lambda app: app, guarded):
        reply = asked_to_evaluate(here, meddling, wrap)
        assert dict(reply.content.metric_records["metrics"]) == {"loss": 0.5} and not tells(reply, WEIGHTS)
        assert (reply.metadata.message_type, reply.metadata.src_node_id) == ("evaluate", 1)


# --- what an app tells inside the rounds ----------------------------------------------------------------------------


def app_of(train, evaluate) -> ClientApp:  # type: ignore[no-untyped-def]
    app = ClientApp(mods=[secagg_mod])
    app.train()(train)
    app.evaluate()(evaluate)
    return app


def honest_train(message: Message, context: Context) -> Message:
    config = message.content.config_records["config"]
    partition, number, attempt = context.node_config["partition-id"], config["server-round"], config["attempt"]
    (weights,) = message.content.array_records["arrays"].to_numpy_ndarrays()
    records = {"arrays": ArrayRecord([weights + update_of(partition, number, attempt)])}
    return Message(RecordDict(records), reply_to=message)


def test_a_bank_reports_the_numbers_and_hashes_that_its_party_file_names(federation) -> None:
    here = federation(reports=NAMED)
    records = {"a": MetricRecord({"loss": 0.5, "num-examples": 3}), "b": ConfigRecord({"model_hash": "ab" * 32})}
    here.nodes["bank-0"].app = app_of(honest_train, answering(records))
    said = here.rounds().run(1, evaluate=True).reports
    assert said["bank-0"] == {"loss": 0.5, "num-examples": 3, "model_hash": "ab" * 32}
    assert said["bank-1"]["error"] == "ReplyRefused"  # its app reports "sum", which these party files do not name


EVALUATED = {name: records for name, records in LEAKS.items() if "hash" not in name}
EVALUATED["a hash of another length"] = {"config": ConfigRecord({"model_hash": WEIGHTS.tobytes().hex()})}
EVALUATED["a hash under another name"] = {"config": ConfigRecord({"other_hash": "ab" * 32})}


@pytest.mark.parametrize("records", EVALUATED.values(), ids=EVALUATED)
def test_a_report_that_the_rounds_ask_for_holds_nothing_else_either(federation, records) -> None:
    here = federation(banks=BANKS, reports=NAMED)
    app = as_flower_runs(guarded(app_of(honest_train, answering(records))))
    grid = LoopbackGrid([Node(app, here.nodes["bank-0"].config)])
    asked = Message(to_records(Call(), "evaluate"), dst_node_id=1, message_type="evaluate")
    _, reply = (*grid.send_and_receive([started(1, here.party)]), *grid.send_and_receive([asked]))
    assert from_records(reply.content).text("error") == "ReplyRefused" and not tells(reply, WEIGHTS)


TELLING = {
    "raises": (raising, "AppFailed"),
    "answers with an error": (failing, "AppFailed"),
    "gives no arrays": (answering({"config": ConfigRecord({"bytes": WEIGHTS.tobytes()})}), "ModelMismatch"),
    "counts examples with a list": (
        answering({"arrays": first_model(), "metrics": MetricRecord({"num-examples": WEIGHTS.astype(float).tolist()})}),
        "ModelMismatch",
    ),
    "names an array after its values": (
        answering({"arrays": ArrayRecord({WEIGHTS.tobytes().hex(): next(iter(first_model().values()))})}),
        "ModelMismatch",
    ),
}


@pytest.mark.parametrize(("train", "error"), TELLING.values(), ids=TELLING)
def test_training_that_fails_tells_the_aggregator_nothing_in_its_own_words(federation, tmp_path, train, error) -> None:
    here, replies = federation(), []

    def recorded(message: Message, deliver):  # type: ignore[no-untyped-def]
        replies.append(deliver(message))
        return replies[-1]

    here.nodes["bank-0"].app = app_of(train, raising)
    here.fail("bank-0", recorded)
    here.rounds().run(1)
    (event,) = [event for event in read_log(tmp_path / "log.jsonl") if event["event"] == "did not join"]
    assert (event["bank"], event["error"]) == ("bank-0", error)
    assert len(replies) > 2 and not any(tells(reply, WEIGHTS) for reply in replies)
