"""A Flower `Grid` without Flower's processes: every node is a ClientApp called in this process, over real messages.

For tests and for studying the protocol. Messages are converted to bytes and back in both directions, as Flower's
runtime does, so that nothing works here that would not work over a network. `Fault` functions may answer in a node's
place, change a message, or drop it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fl.flower import key_holder_app
from fl.flower.local_parties import AGGREGATOR, KEY_HOLDER, LocalParties
from fl.flower.parties.aggregator import AggregatorParty
from fl.flower.settings import PlanSettings, load_settings

Deliver = Callable[[Message], Message | None]
Fault = Callable[[Message, Deliver], Message | None]
"""(message to a node, function that delivers it) -> the node's answer; None: there is no answer."""


def honest(message: Message, deliver: Deliver) -> Message | None:
    """Delivers the message without a fault."""
    return deliver(message)


@dataclass
class Node:
    """One node. config: its node-config. fault: what happens to its messages."""

    app: Callable[[Message, Context], Message]  # a ClientApp, or one behind `admission.GuardedApp`
    config: Mapping[str, str | int]
    fault: Fault = honest
    online: bool = True
    state: RecordDict = field(default_factory=RecordDict, repr=False)


class LoopbackGrid(Grid):
    """Nodes 1, 2, ... in this process. A message is answered when it is pushed; a None is never delivered."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = dict(enumerate(nodes, start=1))
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def get_node_ids(self) -> Iterable[int]:
        return [number for number, node in self.nodes.items() if node.online]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        numbers = []
        for message in messages:
            number = f"message {next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = number
            node = self.nodes[message.metadata.dst_node_id]
            reply = node.fault(_carried(message), partial(self._delivered, node))
            if reply is not None:
                self._replies[number] = _carried(reply)
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(number) for number in list(message_ids) if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=number) for number in self.get_node_ids()]

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def _delivered(self, node: Node, message: Message) -> Message | None:
        if not node.online:
            return None
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config=cast(UserConfig, dict(node.config)),
            state=node.state,
            run_config={},
        )
        return node.app(message, context)


def _carried(message: Message) -> Message:
    """The message as a network delivers it: split into objects of at most 5 MiB and joined again."""
    metadata = message.metadata
    if message.has_error():
        return Message(  # type: ignore[call-overload,no-any-return]  # flwr's overloads leave out `metadata`
            Error(message.error.code, message.error.reason), metadata=metadata
        )
    number = metadata.message_id
    with no_object_id_recompute():
        contents = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
        arrived = cast(Message, inflate_object_from_contents(message.object_id, contents))
    arrived.metadata.__dict__["_message_id"] = number
    return arrived


def local_federation(
    folder: str | Path, app: ClientApp, banks: int, plan: PlanSettings
) -> tuple[LoopbackGrid, AggregatorParty]:
    """A key holder and `banks` nodes that run `app`, with keys and files in a new folder; the grid, and the aggregator.

    Node-config "partition-id" counts the banks from 0.
    """
    names = [f"bank-{number}" for number in range(banks)]
    parties = LocalParties(Path(folder) / "parties", plan, {name: {} for name in names})
    parties.make()
    nodes = [Node(key_holder_app.app, {"party": str(parties.file(KEY_HOLDER))})]
    nodes += [
        Node(app, {"party": str(parties.file(name)), "partition-id": number}) for number, name in enumerate(names)
    ]
    return LoopbackGrid(nodes), AggregatorParty(load_settings(parties.file(AGGREGATOR)))
