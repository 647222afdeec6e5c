"""What the aggregator asks of the key holder: signed, so that a SuperLink cannot burn the key holder's steps."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fl.flower.errors import TransferError

_REQUEST = struct.Struct("<32s16s16sQ32sQ")
_REQUEST_TAG = b"secagg flower v1 request"


@dataclass(frozen=True)
class ControlRequest:
    """What the aggregator asks of the key holder, signed. A replay names a step that is over."""

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
            raise TransferError("request: not a control request of this version")
        return request
