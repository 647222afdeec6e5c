"""A time limit on a whole attempt of a request: connecting, sending, waiting, and every byte of the answer.

The timeout of an HTTP client limits each read alone, so a server that sends single bytes can keep a request open for
ever. Here a thread sends the request and reads the whole answer. When the time is up, the caller gets a timeout and the
connections are closed, which ends the thread at its next read.

What it leaves to others: what is sent (`openai_provider`, which passes the HTTP library in), and retries.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class WholeAttempt:
    """A transport for the client of `library` (httpx2) that reads an answer to its end within `seconds`.

    `connect`: makes the client that connects, with its proxies and certificates; called again after a timeout.
    """

    def __init__(self, library: Any, connect: Callable[[], Any], seconds: float) -> None:
        self._library = library
        self._connect = connect
        self._seconds = seconds
        self._client = connect()

    def handle_request(self, request: Any) -> Any:
        """The response with all of its body. Raises the library's `ReadTimeout` when the time is up."""
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        client = self._client
        threading.Thread(target=lambda: ended.put(_answered(client, request)), daemon=True).start()
        try:
            outcome = ended.get(timeout=self._seconds)
        except queue.Empty:
            self._client = self._connect()
            client.close()
            raise self._library.ReadTimeout(f"no whole answer within {self._seconds:g} s", request=request) from None
        if isinstance(outcome, BaseException):
            raise outcome
        response, raw = outcome
        return self._library.Response(
            response.status_code, headers=response.headers, stream=self._library.ByteStream(raw), request=request
        )

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> WholeAttempt:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _answered(client: Any, request: Any) -> Any:
    """(response, its raw bytes), or the exception that was raised, for the waiting thread."""
    try:
        response = client.send(request, stream=True, follow_redirects=False)
        try:
            return response, b"".join(response.iter_raw())
        finally:
            response.close()
    except BaseException as fault:
        return fault
