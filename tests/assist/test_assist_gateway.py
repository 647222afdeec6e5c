"""The gateway against a real HTTP server that speaks the API, and misbehaves in every way it can."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl.assist import traits
from fl.assist.account import OVERHEAD_TOKENS, SpendingLimits, read_log
from fl.assist.answers import Traits
from fl.assist.errors import (
    ColumnNotAllowed,
    CredentialsRefused,
    CustomerListMissing,
    InsecureEndpoint,
    LeakRefused,
    ProviderFailed,
    ProviderTimedOut,
    ProviderUnreachable,
    RateLimited,
    RequestRejected,
    SpendLimitReached,
)
from fl.assist.gateway import ITEMS_PER_REQUEST, Gateway, ItemAnswer
from fl.assist.openai_provider import OpenAIProvider
from fl.assist.redact import Redactor
from fl.assist.release import Policy
from fl.assist.session import status
from fl.data.schema import Schema
from tests.assist.model_server import USAGE, Misbehaviour, ModelServer, traits_of

GatewayTo = Callable[..., Gateway]
TEXTS = ("rent", "groceries", "urgent release of parcel 123")


def ask(gateway: Gateway, *texts: str) -> list[ItemAnswer[Traits]]:
    return gateway.ask_each(traits.task(), [{"DESCRIPTION": text} for text in texts or TEXTS])


def spent(tmp_path: Path) -> int:
    lines = read_log(tmp_path / "gateway.jsonl")
    return sum(line["event"] == "sent" for line in lines)


# --- right answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_structured_answer_comes_back_typed(gateway_to: GatewayTo, server: ModelServer, api: str) -> None:
    server.answer = lambda content: traits_of(content, category="housing", urgency="high")
    outcomes = ask(gateway_to(api=api), "rent", "groceries")
    assert [outcome.value.category for outcome in outcomes if outcome.value] == ["housing", "housing"]
    assert outcomes[0].made_by.provider == "openai" and outcomes[0].made_by.model == "a-model"
    assert "traits v1" in outcomes[0].made_by.prompt


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_request_asks_for_no_storage_no_stream_and_no_tool(
    gateway_to: GatewayTo, server: ModelServer, api: str
) -> None:
    ask(gateway_to(api=api))
    (body,) = server.requests
    assert body["store"] is False
    assert not body.get("stream") and "tools" not in body and "previous_response_id" not in body
    form = body["text"]["format"] if api == "responses" else body["response_format"]["json_schema"]
    assert form["strict"] is True


def test_equal_descriptions_are_asked_about_once(gateway_to: GatewayTo, server: ModelServer) -> None:
    outcomes = ask(gateway_to(), "rent 1", "rent 2", "rent 3")
    assert len(outcomes) == 3 and len(json.loads(server.requests[0]["input"])["items"]) == 1


def test_what_was_answered_is_never_paid_for_again(gateway_to: GatewayTo, server: ModelServer) -> None:
    first = ask(gateway_to())
    again = ask(gateway_to(), *reversed(TEXTS))
    assert len(server.bodies) == 1
    assert [o.value for o in reversed(again)] != [None] * 3
    assert {o.value.category for o in first if o.value} == {o.value.category for o in again if o.value}


def test_another_model_or_endpoint_is_another_question(
    gateway_to: GatewayTo, server: ModelServer, schema: Schema
) -> None:
    ask(gateway_to())
    ask(gateway_to(api="chat"))
    assert len(server.bodies) == 2


def test_usage_replaces_the_bound(gateway_to: GatewayTo, server: ModelServer, tmp_path: Path) -> None:
    ask(gateway_to())
    sent, settled = read_log(tmp_path / "gateway.jsonl")
    assert (settled["input_tokens"], settled["output_tokens"]) == USAGE
    assert sent["bytes"] == len(server.bodies[0])


# --- what servers do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_a_429_is_retried_after_the_time_it_names(gateway_to: GatewayTo, server: ModelServer, api: str) -> None:
    server.misbehaviours = [Misbehaviour(429, {"retry-after": "1"})]
    start = time.monotonic()
    assert all(outcome.value for outcome in ask(gateway_to(api=api)))
    assert time.monotonic() - start >= 1.0 and len(server.bodies) == 2


def test_a_429_that_stays_ends_in_its_error_and_costs_nothing(
    gateway_to: GatewayTo, server: ModelServer, tmp_path: Path
) -> None:
    server.misbehaviours = [Misbehaviour(429, {"retry-after-ms": "10"})] * 3
    with pytest.raises(RateLimited, match="429"):
        ask(gateway_to())
    settled = [line for line in read_log(tmp_path / "gateway.jsonl") if line["event"] == "settled"]
    assert len(settled) == 3 and all(line["input_tokens"] == 0 for line in settled)
    assert all(outcome.value for outcome in ask(gateway_to()))


def test_a_500_is_retried_and_one_that_stays_ends_in_its_error(gateway_to: GatewayTo, server: ModelServer) -> None:
    server.misbehaviours = [Misbehaviour(500, {"retry-after-ms": "10"})]
    assert all(outcome.value for outcome in ask(gateway_to()))
    server.misbehaviours = [Misbehaviour(503, {"retry-after-ms": "10"})] * 3
    with pytest.raises(ProviderFailed, match="503"):
        ask(gateway_to(), "diesel")


def test_a_timeout_ends_in_its_error_and_stays_at_its_bound(
    gateway_to: GatewayTo, server: ModelServer, tmp_path: Path
) -> None:
    server.misbehaviours = [Misbehaviour(delay_s=1.0)]
    with pytest.raises(ProviderTimedOut):
        ask(gateway_to(timeout_s=0.2, max_retries=0))
    lines = read_log(tmp_path / "gateway.jsonl")
    assert [line["event"] for line in lines] == ["sent"]
    assert all(outcome.value for outcome in ask(gateway_to()))


def test_no_server_ends_in_its_error(gateway_to: GatewayTo) -> None:
    with pytest.raises(ProviderUnreachable):
        ask(gateway_to(base_url="http://127.0.0.1:9/v1", max_retries=0))


def test_a_batch_interrupted_half_way_resumes_without_paying_twice(gateway_to: GatewayTo, server: ModelServer) -> None:
    heads, tails = ["rent", "groceries", "diesel", "weekly", "shop", "lunch"], ["the", "today", "for", "of", "fee"]
    texts = [f"{head} {tail}" for head in heads for tail in tails]
    assert len(texts) > ITEMS_PER_REQUEST
    server.answer = lambda content: traits_of(content)
    server.misbehaviours = [Misbehaviour(), Misbehaviour(500)]
    with pytest.raises(ProviderFailed):
        ask(gateway_to(max_retries=0), *texts)
    asked = len(server.bodies)
    assert all(outcome.value for outcome in ask(gateway_to(), *texts))
    answered = server.requests[:1] + server.requests[asked:]
    items = [item["DESCRIPTION"] for body in answered for item in json.loads(body["input"])["items"]]
    assert sorted(items) == sorted(texts)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, RequestRejected), (404, RequestRejected), (401, CredentialsRefused), (403, CredentialsRefused)],
)
def test_a_refused_request_ends_at_once(
    gateway_to: GatewayTo, server: ModelServer, status: int, error: type[Exception]
) -> None:
    server.misbehaviours = [Misbehaviour(status, body=lambda _: {"error": {"message": "rent groceries", "code": "no"}})]
    with pytest.raises(error) as raised:
        ask(gateway_to())
    assert len(server.bodies) == 1
    assert "groceries" not in str(raised.value), "an error body may echo what was sent"
    assert raised.value.__cause__ is None and raised.value.__context__ is None, "the SDK's exception holds bodies"


def test_a_redirect_is_not_followed(gateway_to: GatewayTo, server: ModelServer) -> None:
    server.misbehaviours = [Misbehaviour(307, {"location": server.url + "/chat/completions"})]
    with pytest.raises(RequestRejected, match="307"):
        ask(gateway_to())
    assert len(server.bodies) == 1


# --- what models do -------------------------------------------------------------------------------------------------


def _message(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["output"][0] if "output" in body else body["choices"][0]["message"]
    return found


def _with_text(text: str) -> Callable[[dict[str, Any]], Any]:
    def change(body: dict[str, Any]) -> Any:
        if "output" in body:
            _message(body)["content"][0]["text"] = text
        else:
            _message(body)["content"] = text
        return body

    return change


def _incomplete(body: dict[str, Any]) -> Any:
    if "output" in body:
        return {**body, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    body["choices"][0]["finish_reason"] = "length"
    return body


def _refusal(body: dict[str, Any]) -> Any:
    if "output" in body:
        _message(body)["content"] = [{"type": "refusal", "refusal": "no"}]
    else:
        _message(body).update(content=None, refusal="no")
    return body


def _tool(body: dict[str, Any]) -> Any:
    if "output" in body:
        call = {"type": "function_call", "name": "pay", "arguments": "{}", "call_id": "1", "id": "1"}
        body["output"].append(call)
    else:
        call = {"id": "1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}
        _message(body)["tool_calls"] = [call]
    return body


def _without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda body: {name: value for name, value in body.items() if name != key}


def _with_item(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    plain = traits_of({"items": [{"item": 0}]})["answers"][0]
    return _with_text(json.dumps({"answers": [{**plain, **changes}]}))


BAD = {
    "truncated JSON in the text": (_with_text('{"answers": [{"item": 0, "cat'), "AnswerMalformed"),
    "no JSON in the text": (_with_text("I think this is rent."), "AnswerMalformed"),
    "the wrong structure": (_with_text('{"labels": []}'), "AnswerMalformed"),
    "an unknown category": (_with_item(category="bribes"), "AnswerMalformed"),
    "a number for a word": (_with_item(urgency=1), "AnswerMalformed"),
    "an extra field": (_with_item(pay=1), "AnswerMalformed"),
    "an answer about another item": (_with_item(item=7), "AnswerMalformed"),
    "an invented entity": (_with_item(entities=[{"kind": "party", "text": "Zbigniew"}]), "AnswerMalformed"),
    "a body cut off": (lambda body: json.dumps(body).encode()[:200], "AnswerMalformed"),
    "a body of another kind": (lambda _: [1, 2, 3], "AnswerMalformed"),
    "the output limit": (_incomplete, "AnswerTruncated"),
    "a refusal": (_refusal, "AnswerRefused"),
    "a tool call": (_tool, "AnswerUnexpected"),
    "no output": (lambda body: {**body, "output": [], "choices": []}, "AnswerMalformed"),
}


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("name", BAD)
def test_an_unusable_answer_becomes_a_reason_and_is_not_paid_for_again(
    gateway_to: GatewayTo, server: ModelServer, name: str, api: str
) -> None:
    body, reason = BAD[name]
    server.misbehaviours = [Misbehaviour(body=body)]
    (outcome,) = ask(gateway_to(api=api), "rent")
    assert outcome.value is None and outcome.reason == reason
    (again,) = ask(gateway_to(api=api), "rent")
    assert again.reason == reason and len(server.bodies) == 1


def test_one_hostile_description_does_not_cost_the_others_their_answers(
    gateway_to: GatewayTo, server: ModelServer
) -> None:
    def answer(content: dict[str, Any]) -> Any:
        hostile = any("urgent" in item["DESCRIPTION"] for item in content["items"])
        return {"obeyed": True} if hostile else traits_of(content)

    server.answer = answer
    outcomes = ask(gateway_to(), *TEXTS)
    assert [outcome.reason for outcome in outcomes] == [None, None, "AnswerMalformed"]
    asked = len(server.bodies)
    assert [outcome.reason for outcome in ask(gateway_to(), *TEXTS)] == [None, None, "AnswerMalformed"]
    assert len(server.bodies) == asked


def test_asking_again_is_a_decision(
    gateway_to: GatewayTo, server: ModelServer, tmp_path: Path, schema: Schema, redactor: Redactor
) -> None:
    from fl.assist.cache import Cache

    server.misbehaviours = [Misbehaviour(body=_refusal)]
    assert ask(gateway_to(), "rent")[0].reason == "AnswerRefused"
    gateway = gateway_to()
    gateway._cache = Cache(tmp_path / "cache", ask_again=True)
    assert ask(gateway, "rent")[0].value is not None


def test_an_answer_without_usage_stays_at_its_bound(gateway_to: GatewayTo, server: ModelServer, tmp_path: Path) -> None:
    server.misbehaviours = [Misbehaviour(body=_without("usage"))]
    ask(gateway_to(), "rent")
    assert [line["event"] for line in read_log(tmp_path / "gateway.jsonl")] == ["sent", "unsettled"]


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize(
    "usage",
    [
        [1],
        7,
        "many",
        True,
        {},
        {"input_tokens": -1, "output_tokens": 2},
        {"input_tokens": True, "output_tokens": True},
        {"prompt_tokens": 1.5, "completion_tokens": [2]},
        {"input_tokens": 10**400, "prompt_tokens": 10**400},
    ],
)
def test_an_answer_whose_usage_cannot_be_read_is_kept_and_counts_at_its_bound(
    gateway_to: GatewayTo, server: ModelServer, tmp_path: Path, usage: object, api: str
) -> None:
    server.misbehaviours = [Misbehaviour(body=lambda good: {**good, "usage": usage})]
    assert ask(gateway_to(api=api), "rent")[0].value is not None
    bound = len(server.bodies[0]) + OVERHEAD_TOKENS + traits.TOKENS_PER_ITEM
    told = status(tmp_path)
    assert (told["tokens"], told["answered_without_usage"], told["without_answer"]) == (bound, 1, 0)
    assert ask(gateway_to(api=api), "rent")[0].value is not None and len(server.bodies) == 1, "and is not paid again"


@pytest.mark.parametrize("trickled", ["head", "body"])
def test_an_answer_that_trickles_ends_when_the_time_of_its_attempt_is_up(
    gateway_to: GatewayTo, trickling: Callable[[str], str], tmp_path: Path, trickled: str
) -> None:
    gateway = gateway_to(base_url=trickling(trickled), timeout_s=0.5, max_retries=0)
    with pytest.raises(ProviderTimedOut):
        ask(gateway, "rent")
    assert status(tmp_path)["without_answer"] == 1


# --- what the gateway refuses ---------------------------------------------------------------------------------------


def test_the_budget_stops_the_request_that_could_exceed_it(
    gateway_to: GatewayTo, server: ModelServer, tmp_path: Path
) -> None:
    ask(gateway_to(), "rent")
    bound = len(server.bodies[0]) + OVERHEAD_TOKENS + traits.TOKENS_PER_ITEM
    with pytest.raises(SpendLimitReached):
        ask(gateway_to(limits=SpendingLimits(tokens=sum(USAGE) + bound - 1)), "shop")
    assert len(server.bodies) == 1, "nothing was sent"
    assert ask(gateway_to(limits=SpendingLimits(tokens=sum(USAGE) + bound)), "shop")[0].value is not None
    assert ask(gateway_to(limits=SpendingLimits(tokens=0)), "rent")[0].value is not None, "what is cached costs nothing"


def test_the_budget_stops_retries_too(gateway_to: GatewayTo, server: ModelServer) -> None:
    server.misbehaviours = [Misbehaviour(delay_s=0.6)] * 5
    with pytest.raises(SpendLimitReached):
        ask(gateway_to(timeout_s=0.1, max_retries=5, limits=SpendingLimits(tokens=8000)), "rent")
    assert 1 <= len(server.bodies) < 5


def test_a_column_without_a_word_for_it_is_not_sent(gateway_to: GatewayTo, server: ModelServer) -> None:
    with pytest.raises(ColumnNotAllowed):
        ask(gateway_to(allow=()))
    assert server.bodies == []


def test_text_is_not_sent_without_a_customer_list(
    gateway_to: GatewayTo, server: ModelServer, redactor: Redactor
) -> None:
    gateway = gateway_to()
    gateway._redactor = Redactor(redactor.names, redactor.full_names, redactor.identifiers, redactor.common)
    with pytest.raises(CustomerListMissing):
        ask(gateway)
    assert server.bodies == []


class _Blind(Redactor):
    """A redactor with a hole: the checks behind it must hold."""

    def redact(self, text: str) -> str:
        return text


def test_a_hole_in_redaction_is_caught_before_sending(
    gateway_to: GatewayTo, server: ModelServer, redactor: Redactor
) -> None:
    gateway = gateway_to()
    r = redactor
    gateway._redactor = _Blind(r.names, r.full_names, r.identifiers, r.common, has_customer_list=True)
    for text in ("rent 4711", "rent Zbigniew", "rent Maria", "rent a@b"):
        with pytest.raises(LeakRefused):
            ask(gateway, text)
    assert server.bodies == []


class _BlindTwice(_Blind):
    def leaks(self, redacted: str) -> list[str]:
        return []


def test_the_guard_on_the_wire_catches_what_two_checks_let_through(
    gateway_to: GatewayTo, server: ModelServer, redactor: Redactor, tmp_path: Path
) -> None:
    gateway = gateway_to()
    r = redactor
    gateway._redactor = _BlindTwice(r.names, r.full_names, r.identifiers, r.common, has_customer_list=True)
    numbers = ("rent 4111 1111 1111 1111", "rent DE89 3704 0044 0532 0130 00", "C00012")
    for text in (*numbers, "me@example.com", "Maria González"):
        with pytest.raises(LeakRefused, match="Nothing was sent"):
            ask(gateway, text)
    assert server.bodies == [] and not (tmp_path / "gateway.jsonl").exists()


def test_plain_http_to_another_machine_is_refused(gateway_to: GatewayTo) -> None:
    with pytest.raises(InsecureEndpoint):
        gateway_to(base_url="http://models.example.com/v1")
    gateway_to(base_url="https://models.example.com/v1")


def test_without_a_key_nothing_starts(gateway_to: GatewayTo, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway_to()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(CredentialsRefused, match="offline"):
        gateway_to()


def test_a_dry_run_shows_the_very_bytes_and_sends_none(
    gateway_to: GatewayTo, server: ModelServer, tmp_path: Path
) -> None:
    shown: list[bytes] = []
    ask(gateway_to(dry_run=shown.append))
    assert server.bodies == [] and not (tmp_path / "gateway.jsonl").exists()
    ask(gateway_to())
    assert shown == server.bodies


def test_no_log_record_holds_what_is_sent(
    gateway_to: GatewayTo, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.DEBUG):
        ask(gateway_to(), "groceries today")
    assert "groceries" not in caplog.text and "a key" not in caplog.text


def test_reprs_show_no_content(gateway_to: GatewayTo, schema: Schema, redactor: Redactor) -> None:
    from fl.assist.provider import Request

    request = Request(traits.task().prompt, "groceries", traits.task().answer, 10, redactor.identifiers_in)
    assert "groceries" not in repr(request)
    assert OpenAIProvider.leaves_machine and Policy.of(schema, []).allowed == frozenset()
