"""Everything a role holds, public and private, as a value that can be compared: did a failed call change anything?"""

from __future__ import annotations

import dataclasses
import hashlib
from enum import Enum

import numpy as np

from secagg.eventlog import EventLog
from secagg.journal import Journal
from secagg.stages import StageClock


def snapshot(thing: object) -> object:
    """A deep copy of the state in plain values. Native objects (keys, SEAL's) count by identity, logs by their head."""
    match thing:
        case None | bool() | int() | float() | str() | bytes():
            return thing
        case Enum():
            return thing.name
        case bytearray() | memoryview():
            return hashlib.sha256(thing).hexdigest()
        case np.ndarray():
            return (thing.shape, thing.dtype.str, hashlib.sha256(np.ascontiguousarray(thing)).hexdigest())
        case EventLog():
            return ("log", len(thing), thing.head)
        case Journal():
            return ("journal", snapshot(thing._log))  # what it remembers of its log is no state
        case StageClock():
            return "clock"  # time passes in failed calls as well
        case dict():
            return tuple((snapshot(key), snapshot(value)) for key, value in thing.items())
        case list() | tuple():
            return tuple(map(snapshot, thing))
    if type(thing).__module__.startswith("secagg.") and hasattr(thing, "__dict__"):
        fields = vars(thing)
        if dataclasses.is_dataclass(thing) and type(thing).__dataclass_params__.frozen:  # type: ignore[attr-defined]
            # Cached properties are not state.
            fields = {name.name: getattr(thing, name.name) for name in dataclasses.fields(thing)}
        return (type(thing).__name__, snapshot(fields))
    return (type(thing).__name__, id(thing))
