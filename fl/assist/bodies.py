"""Check response bodies of both interfaces: anything but one complete message without tools raises a named error.

The check runs before the SDK parses the body. It distinguishes a body that is cut off, refused or calls a tool from
one of the wrong structure.
"""

from __future__ import annotations

import json
from typing import Any

from fl.assist.errors import AnswerMalformed, AnswerRefused, AnswerTruncated, AnswerUnexpected


def body_of(content: bytes) -> dict[str, Any]:
    """The JSON object in a response's bytes. Raises `AnswerMalformed`."""
    try:
        body = json.loads(content)
    except ValueError:
        raise AnswerMalformed("the response is not JSON, or was cut off") from None
    if not isinstance(body, dict):
        raise AnswerMalformed("the response is not a JSON object")
    return body


def refuse_response(body: dict[str, Any]) -> None:
    """Raise for a Responses body that is anything but one complete message."""
    incomplete = body.get("incomplete_details") or {}
    if body.get("status") == "incomplete":
        if incomplete.get("reason") == "content_filter":
            raise AnswerRefused("the endpoint's filter stopped the answer")
        raise AnswerTruncated("the answer ended at the output limit")
    if body.get("status") != "completed":
        raise AnswerMalformed("the response is not marked as completed")
    output = [item for item in _objects(body.get("output")) if item.get("type") != "reasoning"]
    if any(item.get("type") != "message" for item in output):
        raise AnswerUnexpected("the answer calls a tool, and none was offered")
    contents = [part for item in output for part in _objects(item.get("content"))]
    if any(part.get("type") == "refusal" for part in contents):
        raise AnswerRefused("the model declined to answer")
    if len(contents) != 1 or contents[0].get("type") != "output_text":
        raise AnswerMalformed("expected exactly one message with one text")


def refuse_completion(body: dict[str, Any]) -> None:
    """Raise for a Chat Completions body that is anything but one complete message."""
    choices = _objects(body.get("choices"))
    if len(choices) != 1:
        raise AnswerMalformed("expected exactly one choice in the response")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise AnswerMalformed("expected a message in the response, got none")
    if message.get("tool_calls") or message.get("function_call"):
        raise AnswerUnexpected("the answer calls a tool, and none was offered")
    if message.get("refusal") or choices[0].get("finish_reason") == "content_filter":
        raise AnswerRefused("the model declined to answer")
    if choices[0].get("finish_reason") == "length":
        raise AnswerTruncated("the answer ended at the output limit")
    if choices[0].get("finish_reason") != "stop":
        raise AnswerMalformed("the answer is not marked as finished")


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise AnswerMalformed("the response does not fit this interface: check --api")
    return value
