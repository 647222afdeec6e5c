"""What all parties have in common: settings, an enrolled identity, the list, messages as bytes and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import secagg
from fl.flower.errors import SettingsError, TransferError
from fl.flower.logs import RoleLog
from fl.flower.parties.statement import statement
from fl.flower.settings import PartySettings, PlanSettings
from fl.flower.transport import Bytes, Call, Outgoing
from secagg import wire
from secagg.errors import (
    SecAggError,
)
from secagg.messages import Abort, Contribution, EncryptedSum, Join, Message, Offer, Release, Roster

Refusal = SecAggError  # errors that answers of these roles may name, in addition to the app's own

M = TypeVar("M", Offer, Join, Roster, Contribution, EncryptedSum, Release, Abort)

Fields = dict[str, str | int | float | bytes]  # plain values of an answer

_LONGEST_FRAME = 2**20  # bytes of offers, rosters and joins: checked again, exactly, when they are decoded


def expect(data: Bytes, kind: type[M], plan: secagg.RoundPlan) -> M:
    message: Message = wire.decode(data, plan)
    if not isinstance(message, kind):
        raise TransferError(f"expected a {kind.__name__}, got a {type(message).__name__}")
    return message


def outgoing(message: Message, plan: secagg.RoundPlan) -> Outgoing:
    return Outgoing(*wire.encode_parts(message, plan))


def plan_of(settings: PlanSettings, length: int) -> secagg.RoundPlan:
    if not 0 < length <= settings.max_length:
        raise SettingsError(
            f"length: expected 1..{settings.max_length} values (max_length in the party file), got {length}"
        )
    return secagg.plan_round(length, settings.max_clients, settings.clip, settings.value_bits, settings.max_weight)


def largest_message(settings: PlanSettings) -> int:
    """Length of the longest message that this party accepts, in bytes."""
    plan = plan_of(settings, settings.max_length)
    members = plan.max_clients
    sizes = [wire.message_bytes(kind, plan, members) for kind in (Offer, Roster, Contribution, EncryptedSum, Release)]
    return max(*sizes, _LONGEST_FRAME)


class Party:
    """What all parties have: settings, an enrolled identity, the list."""

    def __init__(self, settings: PartySettings, role: str) -> None:
        if settings.role != role:
            raise SettingsError(f"role: expected {role}, got {settings.role} in {settings.folder}: name another")
        self.settings = settings
        self.enrolment = secagg.Enrolment.load(settings.enrolment)
        self.identity = secagg.Identity.load(settings.identity, passphrase=settings.passphrase)
        self.log = RoleLog(role, self.identity.member.organisation)

    @property
    def organisation(self) -> str:
        return self.identity.member.organisation

    def introduced(self, call: Call, said: Mapping[str, str | int]) -> Fields:
        """The answer to a status call, signed over its challenge when it has one. said: what this role adds."""
        fields: Fields = {"role": self.settings.role, "organisation": self.organisation, **said}
        fields["key"] = self.identity.key.hex()
        if "challenge" in call.fields:
            signed = statement(self.enrolment.session, call.octets("challenge"), fields)
            fields["signature"] = self.identity.sign(signed)
        return fields
