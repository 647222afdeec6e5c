"""Keep paid answers by the hash of their question, so that a resumed command does not ask again.

The key covers everything that decides an answer: provider, endpoint, interface, model, prompt file, the
expected structure, and the item itself. One file per request holds its items, written before the attempt is
settled. The cache holds answers in clear text and no questions. It belongs to the bank.

A refused or malformed answer is kept as such: the question is sent and paid for again only when a person asks for it
(`--ask-again`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl.durable import replace_durably

UNANSWERED = "unanswered"  # key of an entry that holds a reason instead of an answer


def content_key(*parts: str) -> str:
    """SHA-256 (64 hexadecimal digits) over `parts`, each preceded by its length, so that no two lists share a key."""
    digest = hashlib.sha256(b"fl assist v1")
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


class Cache:
    """Answers in a folder. `ask_again`: whether kept failures count as not asked."""

    def __init__(self, folder: Path, *, ask_again: bool = False) -> None:
        self._folder = folder
        self._answers: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob("*.json")):
            entries = json.loads(path.read_text(encoding="utf-8"))
            self._answers.update(
                (key, entry) for key, entry in entries.items() if not (ask_again and UNANSWERED in entry)
            )

    def get(self, key: str) -> dict[str, Any] | None:
        """The answer, or `{"unanswered": reason}`, or None when the question was never asked."""
        return self._answers.get(key)

    def put(self, entries: Mapping[str, dict[str, Any]]) -> None:
        """Write the answers of one request to disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = content_key(*sorted(entries))
        replace_durably(self._folder / f"{name}.json", json.dumps(dict(entries)).encode())
        self._answers.update(entries)
