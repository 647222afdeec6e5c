"""The aggregator's end of the transport: calls to nodes over a Flower `Grid`, each with a time limit.

Flower's own `send_and_receive` looks for answers every three seconds and returns what came; here every node that was
asked gets an `Answer`, its failure included, as soon as there is one. Nothing waits without a limit, and a message that
was not answered in time has expired at the SuperLink too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from fl.flower.errors import PartyFailed, TransferError
from fl.flower.transport import PART_BYTES, Call, Incoming, Outgoing, from_records, message_type, parts_of, to_records

NO_ANSWER = "NoAnswer"
NODE_FAILED = "NodeFailed"
_POLL_S = 0.2
_GRACE_S = 5.0  # a SuperNode that has nothing to do looks for messages every three seconds


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Answer:
    """What a node said. error: empty, the name of its refusal, `NO_ANSWER`, or `NODE_FAILED` for a defect there."""

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
        """Ask several nodes at once; yields answers as they come, and at the end who did not answer.

        enough: asked while waiting; once true, only `_GRACE_S` more are waited for the rest.
        """
        records = {node: to_records(call, action) for node, call in calls.items()}
        for call in calls.values():
            self._note(call)
        return self._exchange(message_type(action), records, timeout_s, enough)

    def start(self, nodes: Sequence[int], arrays: ArrayRecord, timeout_s: float) -> dict[int, Answer]:
        """Send the first model as Flower's own arrays."""
        records = {}
        for node in nodes:
            records[node] = to_records(Call(), "start")
            records[node]["arrays"] = arrays
        return {answer.node: answer for answer in self._exchange("train", records, timeout_s)}

    def send_ahead(self, nodes: Sequence[int], name: str, wire: Outgoing, timeout_s: float) -> dict[int, Answer]:
        """Send a long byte string to several nodes in parts; the last answer of each, or its first failure."""
        answers: dict[int, Answer] = {}
        left = list(nodes)
        for index, part in parts_of(wire):
            call = Call({"name": name, "index": index, "total": len(wire)}, {"part": part})
            answers |= self.ask("put", dict.fromkeys(left, call), timeout_s)
            left = [node for node in left if not answers[node].error]
        return answers

    def call_with(
        self, action: str, nodes: Sequence[int], name: str, wire: Outgoing, timeout_s: float, part_s: float
    ) -> dict[int, Answer]:
        """A call that carries one byte string, inline where it is short, sent ahead where it is long."""
        if len(wire) <= PART_BYTES:
            return self.ask(action, dict.fromkeys(nodes, Call({}, {name: wire.whole()})), timeout_s)
        sent = self.send_ahead(nodes, name, wire, part_s)
        ready = [node for node in nodes if not sent[node].error]
        return sent | self.ask(action, dict.fromkeys(ready, Call({}, {}, {name: len(wire)})), timeout_s)

    def wire(self, answer: Answer, name: str, limit: int, timeout_s: float) -> bytes | bytearray | memoryview:
        """A byte string of an answer, fetched in parts when it was held back.

        limit: the most bytes it may have. timeout_s: for each part. Raises `TransferError` or `PartyFailed`.
        """
        if name in answer.call.wires:
            return answer.call.wires[name]
        if name not in answer.call.held:
            raise TransferError(f"the answer has no {name!r}")
        incoming = Incoming(answer.call.held[name], limit)
        for index in range(-(-answer.call.held[name] // PART_BYTES)):
            asked = Call({"name": name, "index": index})
            part = self.one("get", answer.node, asked, timeout_s).require(f"node {answer.node}", f"part of {name}")
            incoming.put(index, part.wire("part"))
        return incoming.take()

    # --- inside

    def _exchange(
        self,
        kind: str,
        records: Mapping[int, RecordDict],
        timeout_s: float,
        enough: Callable[[], bool] = _never,
    ) -> Iterator[Answer]:
        group, deadline = str(self.step), time.monotonic() + timeout_s
        messages = [
            Message(content, dst_node_id=node, message_type=kind, ttl=timeout_s, group_id=group)
            for node, content in records.items()
        ]
        waiting = dict(zip(self._grid.push_messages(messages), records, strict=True))
        del messages
        while waiting and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    answer = _answer(node, reply)
                    self._note(answer.call)
                    yield answer
            if enough():
                deadline = min(deadline, time.monotonic() + _GRACE_S)
                enough = _never
            if waiting:
                time.sleep(_POLL_S)
        for node in waiting.values():
            yield Answer(node, Call(), NO_ANSWER, f"nothing came within {timeout_s:g} s")

    def _note(self, call: Call) -> None:
        self.largest_message = max(self.largest_message, sum(len(wire) for wire in call.wires.values()))


def _answer(node: int, reply: Message) -> Answer:
    if reply.has_error():
        return Answer(node, Call(), NODE_FAILED, f"code {reply.error.code}: {reply.error.reason}")
    try:
        call = from_records(reply.content)
    except TransferError as error:
        return Answer(node, Call(), type(error).__name__, str(error))
    refusal = str(call.fields.get("error", ""))
    return Answer(node, call, refusal, str(call.fields.get("message", "")) if refusal else "")
