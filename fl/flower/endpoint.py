"""A party's end of the transport: turns Flower messages into calls on its role and answers into Flower messages.

Roles are kept in this process, one for each party file, because a round's secrets never leave memory. Stock Flower
starts a process for every message; `resident.py` keeps one, and a simulation must keep to one actor.

Expected refusals (`SecAggError`, `FederationError`) travel as answers with a name and a message. Anything else is a
defect, and Flower reports it as such.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from flwr.app import Context, Message

from fl.errors import FederationError
from fl.flower.errors import TransferError
from fl.flower.fields import LONGEST_TEXT
from fl.flower.parties.bank import BankParty
from fl.flower.parties.key_holder import KeyHolderParty
from fl.flower.parties.party import Refusal, largest_message
from fl.flower.settings import PartySettings, load_settings, party_file
from fl.flower.transfers import Transfers
from fl.flower.transport import PART_BYTES, Bytes, Call, Outgoing, action_of, from_records, to_records

P = TypeVar("P", BankParty, KeyHolderParty)
Answer = tuple[dict[str, str | int | float | bytes], dict[str, Outgoing]]


class Endpoint(Generic[P]):
    """One party in this process."""

    def __init__(self, party: P) -> None:
        self.party: P = party
        self._incoming = Transfers(largest_message(party.settings))
        self._outgoing: dict[str, Outgoing] = {}

    def answer(self, message: Message, role: Callable[[str, Call], Answer]) -> Message:
        """Answer one message; `role` carries out every action but the transport's own."""
        action = action_of(message.content)
        assert action is not None
        self._incoming.expire()
        try:
            call = from_records(message.content)
            answer = self._transfer(action, call) or self._carried_out(action, call, role)
        except (Refusal, FederationError) as error:
            answer = _refusal(error)
            self.party.log("refused", action=action, error=type(error).__name__, message=str(error))
        return Message(to_records(answer, action), reply_to=message)

    def _transfer(self, action: str, call: Call) -> Call | None:
        """The transport's own actions: receive a part, or send one that is asked for."""
        if action == "put":
            index = call.number("index")
            self._incoming.put(call.text("name"), index, call.number("total"), call.wire("part"))
            return Call({"index": index})
        if action == "get":
            name, index = call.text("name"), call.number("index")
            if name not in self._outgoing:
                raise TransferError(f"{name!r} is not held here; repeat the action whose answer has it")
            return Call({"index": index}, {"part": self._outgoing[name].part(index)})
        return None

    def _carried_out(self, action: str, call: Call, role: Callable[[str, Call], Answer]) -> Call:
        wires: dict[str, Bytes] = dict(call.wires)
        for name, length in call.held.items():
            wires[name] = self._incoming.take(name, length)
        fields, outgoing = role(action, Call(call.fields, wires))
        held = {name: wire for name, wire in outgoing.items() if len(wire) > PART_BYTES}
        if outgoing:
            self._outgoing = held  # replaces what an earlier answer held
        inline = {name: wire.whole() for name, wire in outgoing.items() if name not in held}
        return Call(fields, inline, {name: len(wire) for name, wire in held.items()})


_ENDPOINTS: dict[Path, Endpoint[Any]] = {}  # by party file, each of which is only ever read by one `make`


def endpoint_of(context: Context, make: Callable[[PartySettings], P]) -> Endpoint[P]:
    """The endpoint of this node's party, made on first use. Raises `SettingsError` and `SecAggError`."""
    path = party_file(context).resolve()
    endpoint = _ENDPOINTS.get(path)
    if endpoint is None:
        endpoint = _ENDPOINTS[path] = Endpoint(make(load_settings(path)))
    return endpoint


def failed_before_it_had_an_endpoint(message: Message, error: Exception) -> Message:
    """The answer of a party that cannot even read its settings."""
    return Message(to_records(_refusal(error), action_of(message.content) or ""), reply_to=message)


def _refusal(error: Exception) -> Call:
    return Call({"error": type(error).__name__, "message": str(error)[:LONGEST_TEXT]})
