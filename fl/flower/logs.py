"""Structured logs: one JSON object per line, with role and step. Payloads cannot be logged.

Values are numbers, short strings and short lists of them. Bytes and arrays are refused where the line is written, so a
key, a seed or a plaintext cannot get into a log through `**fields`. Text of a peer cannot break its line (`fl.text`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fl.durable import JsonLines
from fl.text import printable_json

MAX_TEXT = 400  # characters
MAX_ITEMS = 200

Value = bool | int | float | str | None | Sequence[str] | Sequence[int]

LOG_FILE = "SECAGG_LOG"  # environment: append here instead of standard error


class RoleLog:
    """Writes events of one role. path: a file to append to; None for SECAGG_LOG or standard error."""

    def __init__(self, role: str, organisation: str, path: str | Path | None = None) -> None:
        self._fixed = {"role": role, "organisation": organisation}
        self._path = path or os.environ.get(LOG_FILE)

    def __call__(self, event: str, *, step: int | None = None, **fields: Value) -> None:
        """Write one line. step: of the round, where there is one. Raises `TypeError` for anything but plain values."""
        line: dict[str, Value] = {"time": round(time.time(), 3), **self._fixed, "event": event, "step": step}
        line.update({name: _plain(name, value) for name, value in fields.items()})
        text = printable_json(json.dumps(line, ensure_ascii=False, allow_nan=False)) + "\n"
        if self._path is None:
            sys.stderr.write(text)
            sys.stderr.flush()
            return
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(text)


def _plain(name: str, value: Value) -> Value:
    if isinstance(value, str):
        return _short(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple)) and len(value) <= MAX_ITEMS and all(type(item) in (str, int) for item in value):
        return [_short(item) if isinstance(item, str) else item for item in value]
    raise TypeError(
        f"log field {name}: expected a number, a string or a short list of them, got {type(value).__name__}"
    )


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."


def read_log(path: str | Path) -> list[dict[str, object]]:
    """The events in a log file, in order. Incomplete lines are skipped."""
    return JsonLines(Path(path)).read(shared=True)
