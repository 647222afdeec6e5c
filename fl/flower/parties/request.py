"""Requests of the aggregator, signed.

A SuperLink can therefore neither burn the key holder's steps nor give a bank its first model.

    open      open `step` for `model` with updates of `length`          joins, close, abort    the round of `step`
    stored    releases after `step` that move `model` (any when zero)   start           `model` is a bank's first one
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fl.flower.errors import RequestRefused, TransferError
from fl.flower.fields import FIELDS
from secagg import Enrolment
from secagg.errors import BadSignature

_REQUEST = struct.Struct("<32s16s16sQ32sQ")
_REQUEST_TAG = b"secagg flower v1 request"


@dataclass(frozen=True)
class ControlRequest:
    """One request. A replay can name an earlier step, read public data, or give a model to a bank without one."""

    action: str
    session: bytes
    step: int
    model: bytes
    length: int
    signature: bytes = b""

    def signed_bytes(self) -> bytes:
        tag, action = _REQUEST_TAG.ljust(32, b"\0"), self.action.encode().ljust(16, b"\0")
        return _REQUEST.pack(tag, action, self.session, self.step, self.model, self.length)

    def encode(self) -> bytes:
        return self.signed_bytes() + self.signature

    @classmethod
    def parse(cls, data: bytes) -> ControlRequest:
        """Raises `TransferError` for anything but the one encoding."""
        if len(data) != _REQUEST.size + 64:
            raise TransferError(f"request: expected {_REQUEST.size + 64} bytes, got {len(data)}")
        tag, action, session, step, model, length = _REQUEST.unpack(data[: _REQUEST.size])
        name = action.rstrip(b"\0").decode("ascii", errors="replace")
        request = cls(name, session, step, model, length, data[_REQUEST.size :])
        if tag.rstrip(b"\0") != _REQUEST_TAG or request.encode() != data:
            raise TransferError("request: expected a control request of this version: update a party")
        for name, value in (("step", step), ("length", length)):
            if not FIELDS[name].holds(value):
                raise TransferError(f"request: {name}: expected {FIELDS[name]}, got {value}")
        return request

    @classmethod
    def verified(cls, data: bytes, action: str, enrolment: Enrolment) -> ControlRequest:
        """Raises `RequestRefused` unless the enrolled aggregator signed it for this action and federation."""
        request = cls.parse(data)
        if request.action != action or request.session != enrolment.session:
            raise RequestRefused(f"request: expected {action!r} in this federation, got {request.action!r} or others")
        try:
            enrolment.aggregator.verify(request.signature, request.signed_bytes())
        except BadSignature as error:
            raise RequestRefused("the request is not signed by the enrolled aggregator: ignored") from error
        return request
