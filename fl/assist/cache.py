"""Answers that were paid for, by the hash of the question, so that a resumed run does not ask again.

The key covers everything that decides an answer: provider, endpoint, interface, model, prompt file, the
structure asked for, and the item itself. One file per request holds its items, written before the attempt is
settled. The cache holds contents (redacted questions stay out of it, answers do not) and belongs to the bank.

An answer that was refused or malformed is remembered as such: the same question would be paid for again only
when someone asks again on purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl.durable import replace_durably

UNANSWERED = "unanswered"  # key of an entry that holds a reason in place of an answer


def content_key(*parts: str) -> str:
    """SHA-256 (64 hexadecimal digits) over `parts`, each preceded by its length, so no two lists share one."""
    digest = hashlib.sha256(b"fl assist v1")
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


class Cache:
    """Answers in a folder. `ask_again`: remembered failures count as not asked."""

    def __init__(self, folder: Path, *, ask_again: bool = False) -> None:
        self._folder = folder
        self._answers: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            entries = json.loads(path.read_text(encoding="utf-8"))
            self._answers.update(
                (key, entry) for key, entry in entries.items() if not (ask_again and UNANSWERED in entry)
            )

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer as it was given, or `{"unanswered": reason}`; None when it was never asked for."""
        return self._answers.get(key)

    def put(self, entries: Mapping[str, dict[str, Any]]) -> None:
        """Make the answers of one request lasting."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = content_key(*sorted(entries))
        replace_durably(self._folder / f"{name}.json", json.dumps(dict(entries)).encode())
        self._answers.update(entries)
