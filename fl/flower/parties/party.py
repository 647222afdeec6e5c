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
from fl.secure.rule_settings import RobustSettings
from secagg import wire
from secagg.errors import PlanError, SecAggError
from secagg.messages import (
    Contribution,
    EncryptedSum,
    Message,
    Offer,
    Products,
    Release,
    RobustOffer,
    RobustSum,
    Roster,
)
from secagg.parameters import ALLOWED

Refusal = SecAggError  # errors that answers of these roles may name, in addition to the app's own

M = TypeVar("M", bound=Message)

Fields = dict[str, str | int | float | bytes]  # plain values of an answer

_LONGEST_FRAME = 2**20  # bytes of offers, rosters and joins: checked again, exactly, when they are decoded


def expect(data: Bytes, kind: type[M], plan: secagg.RoundPlan) -> M:
    message = wire.decode(data, plan)
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


def rule_of(settings: RobustSettings | None) -> secagg.Robust | None:
    """What the roles of robust rounds are asked for; None for plain rounds."""
    return None if settings is None else secagg.Robust(settings.asked)


def largest_message(settings: PartySettings) -> int:
    """Length of the longest message that this party accepts, in bytes."""
    plan = plan_of(settings.plan, settings.plan.max_length)
    members = plan.max_clients
    kinds = [Offer, Roster, Contribution, EncryptedSum, Release]
    sizes = [wire.message_bytes(kind, plan, members) for kind in kinds]
    if settings.robust is not None:
        # How updates are compared depends on their length, and the longest one need not have the longest products.
        for length in {plan.length, *(params.degree for params in ALLOWED if params.degree < plan.length)}:
            shorter = plan_of(settings.plan, length)
            sizes += [wire.message_bytes(kind, shorter, members) for kind in (RobustOffer, Products, RobustSum)]
    return max(*sizes, _LONGEST_FRAME)


def _require_robust(robust: secagg.Robust, settings: PartySettings) -> None:
    """Raise `SettingsError` where updates of the greatest length cannot be compared."""
    try:
        robust.check(plan_of(settings.plan, settings.plan.max_length), masking=True)
    except PlanError as fault:
        raise SettingsError(f"[robust]: not possible with this [plan]: {fault}") from fault


class Party:
    """What all parties have: settings, an enrolled identity, the list."""

    def __init__(self, settings: PartySettings, role: str) -> None:
        if settings.role != role:
            raise SettingsError(f"role: expected {role}, got {settings.role} in {settings.folder}: name another")
        self.settings = settings
        self.enrolment = secagg.Enrolment.load(settings.enrolment)
        self.identity = secagg.Identity.load(settings.identity, passphrase=settings.passphrase)
        self.robust = rule_of(settings.robust)
        if self.robust is not None:
            _require_robust(self.robust, settings)
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
