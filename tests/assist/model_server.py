"""A local HTTP server that speaks both interfaces of the API, records every body and misbehaves on demand.

Answers come from a function of the request's JSON; before that, each queued `Misbehaviour` is played once.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

Answer = Callable[[dict[str, Any]], Any]  # the request's content -> what to answer, as JSON
USAGE = (123, 45)  # input and output tokens of every answer


@dataclass(frozen=True)
class Misbehaviour:
    """One response that is not an answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Callable[[dict[str, Any]], Any] | None = None  # changes a good body; returns bytes or JSON
    delay_s: float = 0.0


class ModelServer:
    """Answers /v1/responses and /v1/chat/completions; `bodies` holds every request body as it came."""

    def __init__(self, server: HTTPServer, answer: Answer) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.misbehaviours: list[Misbehaviour] = []
        self.url = server.url_for("/v1")
        for path, chat in (("/v1/responses", False), ("/v1/chat/completions", True)):
            server.expect_request(path, method="POST").respond_with_handler(self._handler(chat))

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    def _handler(self, chat: bool) -> Callable[[Request], Response]:
        def handle(request: Request) -> Response:
            self.bodies.append(request.get_data())
            self.headers.append(dict(request.headers))
            asked = json.loads(self.bodies[-1])
            content = asked["messages"][1]["content"] if chat else asked["input"]
            good = (completion if chat else response)(json.dumps(self.answer(json.loads(content))))
            if not self.misbehaviours:
                return Response(json.dumps(good), content_type="application/json")
            bad = self.misbehaviours.pop(0)
            time.sleep(bad.delay_s)
            body = good if bad.body is None else bad.body(good)
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            return Response(raw, bad.status, bad.headers, content_type="application/json")

        return handle


def response(text: str) -> dict[str, Any]:
    """A complete body of the Responses API with one message."""
    message = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": text, "annotations": []}],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "model": "any",
        "status": "completed",
        "output": [message],
        "parallel_tool_calls": False,
        "tool_choice": "none",
        "tools": [],
        "usage": {
            "input_tokens": USAGE[0],
            "output_tokens": USAGE[1],
            "total_tokens": sum(USAGE),
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def completion(text: str) -> dict[str, Any]:
    """A complete body of the Chat Completions API with one choice."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chat_1",
        "object": "chat.completion",
        "created": 0,
        "model": "any",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": USAGE[0], "completion_tokens": USAGE[1], "total_tokens": sum(USAGE)},
    }


def traits_of(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A good answer to a request for traits."""
    plain = {"category": "other", "sentiment": "neutral", "urgency": "none", "entities": []}
    return {"answers": [{"item": item["item"], **plain, **changes} for item in content["items"]]}


class TricklingServer:
    """Takes one request and gives a whole, good answer to it, but so slowly that it takes three seconds: in sixty
    pieces of its head or of its body, none of which comes late.
    """

    def __init__(self, slow: str, answer: Answer) -> None:
        self._slow, self._answer = slow, answer
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the client has gone, or the test has ended
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as asked:
                head = b"".join(iter(asked.readline, b"\r\n"))
                length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
                content = json.loads(asked.read(length))["input"]
                body = json.dumps(response(json.dumps(self._answer(json.loads(content))))).encode()
                start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Slow: "
                end = b"x" * 60 + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
                parts = (start, end, body) if self._slow == "head" else (start + end, body, b"")
                connection.sendall(parts[0])
                step = -(-len(parts[1]) // 60)
                for at in range(0, len(parts[1]), step):
                    if self._stop.wait(0.05):
                        return
                    connection.sendall(parts[1][at : at + step])
                connection.sendall(parts[2])

    def close(self) -> None:
        self._stop.set()
        self._listener.close()
        self._thread.join()
