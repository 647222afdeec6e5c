"""What a party says about itself, signed: who is at a node, which model it holds, which step comes next, and whether
a round follows that model.

The aggregator sends each node its own challenge and accepts only an answer that an enrolled party signed over it. So no
node can answer for another, and no answer can be used later or for another node.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_STATEMENT = struct.Struct("<32s16s32s32sQQQQQ")
_STATEMENT_TAG = b"secagg flower v2 status"
CHALLENGE_BYTES = 32


def statement(session: bytes, challenge: bytes, fields: Mapping[str, object]) -> bytes:
    """The bytes that a status answer's signature covers. fields: of the answer, checked; 0 for those a role lacks."""
    model, numbers = fields.get("model", ""), []
    for name in ("length", "rounds", "step", "next_step", "finished"):
        value = fields.get(name, 0)
        assert isinstance(value, int)  # the table of fields says so
        numbers.append(value)
    assert isinstance(model, str)
    return _STATEMENT.pack(_STATEMENT_TAG.ljust(32, b"\0"), session, challenge, bytes.fromhex(model), *numbers)
