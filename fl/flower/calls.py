"""The aggregator's end of the transport: calls to nodes over a Flower `Grid`, each with a time limit.

Flower's `send_and_receive` looks for answers every three seconds and returns those that came. Here every node that was
asked gives an `Answer`, which may be a failure, as soon as there is one. No wait is without a limit, and a message that
was not answered in time has expired at the SuperLink too.

# Strategy: a SuperNode looks for messages every three seconds, so the parts of a long byte string are sent in windows
# of `WINDOW_PARTS`. This process handles the byte strings of all nodes, so it makes and takes their parts one by one.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fl.flower.errors import PartyFailed, TransferError
from fl.flower.transport import (
    PART_BYTES,
    Bytes,
    Call,
    Fields,
    Incoming,
    Outgoing,
    from_records,
    message_type,
    to_records,
)
from fl.text import printable

NO_ANSWER = "NoAnswer"
NODE_FAILED = "NodeFailed"
NOT_SENT = "NotSent"
WINDOW_PARTS = 8
_AT_ONCE = 8  # answers fetched at once: at most this many parts are in memory together
_POLL_S = 0.2
# The SuperLink's answer for a node that did not answer in the message's time or that is no longer there.
_GONE = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
_GRACE_S = 5.0  # an idle SuperNode looks for messages every three seconds


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Answer:
    """A node's answer.

    error: empty, the name of its refusal, `NO_ANSWER`, `NODE_FAILED` for a defect there, or `NOT_SENT` when the
    SuperLink did not take the message.
    """

    node: int
    call: Call
    error: str = ""
    message: str = ""

    def require(self, who: str, what: str) -> Call:
        """The answer's call. Raises `PartyFailed`, naming who and what, unless it is one."""
        if self.error:
            raise PartyFailed(f"{who}: {what}: {self.error}: {self.message}")
        return self.call


class Calls:
    """Calls over one Grid. step: shown as Flower's group of the messages; set it for each round."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.step = 0
        self.largest_message = 0  # bytes of wires in one Flower message

    def nodes(self) -> list[int]:
        """Nodes that the SuperLink says are online."""
        return list(self._grid.get_node_ids())

    def ask(self, action: str, calls: Mapping[int, Call], timeout_s: float) -> dict[int, Answer]:
        """Ask several nodes at once and wait for all of them."""
        return {answer.node: answer for answer in self.each(action, calls, timeout_s)}

    def one(self, action: str, node: int, call: Call, timeout_s: float) -> Answer:
        """Ask one node."""
        return self.ask(action, {node: call}, timeout_s)[node]

    def each(
        self,
        action: str,
        calls: Mapping[int, Call],
        timeout_s: float,
        enough: Callable[[], bool] = _never,
    ) -> Iterator[Answer]:
        """Ask several nodes at once; yields answers as they come, and at the end those of nodes that did not answer.

        enough: called while waiting. Once it is true, the others have `_GRACE_S` seconds more.
        """
        asked = ((node, self._request(action, call)) for node, call in calls.items())
        return self._exchange(message_type(action), asked, timeout_s, enough)

    def start(
        self,
        nodes: Sequence[int],
        arrays: ArrayRecord,
        request: bytes,
        timeout_s: float,
        fields: Mapping[int, Fields] | None = None,
    ) -> dict[int, Answer]:
        """Send the first model as Flower's own arrays. request: signed, names the model. fields: by node."""
        calls = {node: Call((fields or {}).get(node, {}), {"request": request}) for node in nodes}
        asked = ((node, _with_arrays(to_records(call, "start"), arrays)) for node, call in calls.items())
        return {answer.node: answer for answer in self._exchange("train", asked, timeout_s)}

    def send_ahead(self, nodes: Sequence[int], name: str, wire: Outgoing, timeout_s: float) -> dict[int, Answer]:
        """Send a long byte string to several nodes in parts; the last answer of each, or its first failure.

        timeout_s: for each window of parts.
        """
        answers: dict[int, Answer] = {}
        left = list(nodes)
        # The first part opens the byte string at its receiver, so it must be there before any other comes.
        for window in (range(1), *_windows(1, wire.parts)):
            for answer in self._exchange(message_type("put"), self._parts(left, name, wire, window), timeout_s):
                if answer.node not in answers or not answers[answer.node].error:
                    answers[answer.node] = answer
            left = [node for node in left if not answers[node].error]
        return answers

    def call_with(
        self,
        action: str,
        nodes: Sequence[int],
        name: str,
        wire: Outgoing,
        timeout_s: float,
        part_s: float,
        beside: Mapping[str, Bytes] | None = None,
        fields: Mapping[int, Fields] | None = None,
    ) -> dict[int, Answer]:
        """A call that carries one byte string, inline where it is short, sent ahead where it is long.

        beside: short byte strings that go with it. fields: by node.
        """
        short, own = dict(beside or {}), fields or {}
        if len(wire) <= PART_BYTES:
            wires = {name: wire.whole(), **short}
            return self.ask(action, {node: Call(own.get(node, {}), wires) for node in nodes}, timeout_s)
        sent = self.send_ahead(nodes, name, wire, part_s)
        ready = [node for node in nodes if not sent[node].error]
        calls = {node: Call(own.get(node, {}), short, {name: len(wire)}) for node in ready}
        return sent | self.ask(action, calls, timeout_s)

    def wire(self, answer: Answer, name: str, limit: int, timeout_s: float) -> bytes | bytearray | memoryview:
        """A byte string of an answer, fetched in parts when it was held back.

        limit: the most bytes it may have. timeout_s: for each window of parts. Raises `TransferError` or `PartyFailed`.
        """
        if name in answer.call.wires:
            return answer.call.wires[name]
        if name not in answer.call.held:
            raise TransferError(f"answer: expected the byte string {name!r}, got none")
        incoming = Incoming(answer.call.held[name], limit)
        for window in _windows(0, incoming.parts):
            asked = ((answer.node, self._request("get", Call({"name": name, "index": index}))) for index in window)
            for part in self._exchange(message_type("get"), asked, timeout_s, at_once=1):
                call = part.require(f"node {answer.node}", f"part of {name}")
                incoming.put(call.number("index"), call.wire("part"))
                # Free this part before the next one: Flower's client leaves what it received in reference cycles.
                del part, call
                gc.collect(1)
        return incoming.take()

    # --- inside

    def _request(self, action: str, call: Call) -> RecordDict:
        self._note(call)
        return to_records(call, action)

    def _parts(
        self, nodes: Sequence[int], name: str, wire: Outgoing, window: range
    ) -> Iterator[tuple[int, RecordDict]]:
        for index in window:
            part = wire.part(index)
            for node in nodes:
                call = Call({"name": name, "index": index, "total": len(wire)}, {"part": part})
                yield node, self._request("put", call)

    def _exchange(
        self,
        kind: str,
        asked: Iterable[tuple[int, RecordDict]],
        timeout_s: float,
        enough: Callable[[], bool] = _never,
        at_once: int = _AT_ONCE,
    ) -> Iterator[Answer]:
        """Send (node, content) after (node, content), then yield an answer for each. at_once: answers in one look."""
        deadline = time.monotonic() + timeout_s
        waiting: dict[str, int] = {}
        for node, content in asked:
            number = self._sent(Message(content, node, kind, ttl=timeout_s, group_id=str(self.step)))
            if number is None:
                yield Answer(node, Call(), NOT_SENT, "the SuperLink did not take the message")
            else:
                waiting[number] = node
        late = False
        while waiting and not late:
            late = time.monotonic() >= deadline  # look once more: sending, or the caller, may have taken all the time
            numbers = list(waiting)
            for start in range(0, len(numbers), at_once):
                yield from self._come(numbers[start : start + at_once], waiting)
            if enough():
                deadline = min(deadline, time.monotonic() + _GRACE_S)
                enough = _never
            if waiting and not late:
                time.sleep(_POLL_S)
        for node in waiting.values():
            yield Answer(node, Call(), NO_ANSWER, f"no answer within {timeout_s:g} s")

    def _come(self, numbers: Sequence[str], waiting: dict[str, int]) -> Iterator[Answer]:
        """Answers to these messages that the SuperLink has. They are removed from `waiting`."""
        for reply in self._grid.pull_messages(numbers):
            sender = waiting.pop(reply.metadata.reply_to_message_id, None)
            if sender is not None:
                answer = _answer(sender, reply)
                self._note(answer.call)
                yield answer

    def _sent(self, message: Message) -> str | None:
        """The number that the SuperLink gave a message; None when it did not take it."""
        return next(iter(self._grid.push_messages([message])), None)

    def _note(self, call: Call) -> None:
        self.largest_message = max(self.largest_message, sum(len(wire) for wire in call.wires.values()))


def _with_arrays(records: RecordDict, arrays: ArrayRecord) -> RecordDict:
    records["arrays"] = arrays
    return records


def _windows(start: int, stop: int) -> list[range]:
    """Parts start..stop-1 in windows."""
    return [range(at, min(at + WINDOW_PARTS, stop)) for at in range(start, stop, WINDOW_PARTS)]


def _answer(node: int, reply: Message) -> Answer:
    """The answer in a reply. A peer wrote its text, which is shown in errors, logs and terminals."""
    if reply.has_error():
        error = NO_ANSWER if reply.error.code in _GONE else NODE_FAILED
        return Answer(node, Call(), error, printable(f"code {reply.error.code}: {reply.error.reason}"))
    try:
        call = from_records(reply.content)
    except TransferError as error:
        return Answer(node, Call(), type(error).__name__, printable(str(error)))
    refusal = printable(str(call.fields.get("error", "")))
    return Answer(node, call, refusal, printable(str(call.fields.get("message", ""))) if refusal else "")
