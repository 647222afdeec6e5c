"""What banks are about to send of one random tree: their sums with noise, on disk before any of it is sent.

Noise must not be drawn twice for one tree: two releases of the same sums under two noises tell more than one. So a
draft is on disk, synced, before the banks' ledgers hold it, and they hold it before it is sent. Its line in a ledger
names its hash, and pays for these integers and no others. A process that was killed sends the same integers again. A
draft that is lost or changed, or that no ledger holds, is drawn anew and paid for anew.

In a deployment each bank keeps its own part; here one process plays all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl.durable import replace_durably

FORMAT = "fl tree draft 1"
FILE = "tree_draft.json"

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class TreeDraft:
    """`name`: 64 hexadecimal digits, of the run and of all that was released before. `parts`: int64[values] by bank."""

    name: str
    banks: tuple[str, ...]
    parts: tuple[Integers, ...] = field(repr=False)

    @property
    def content(self) -> bytes:
        """The file's content: the same draft has the same bytes."""
        held = {bank: part.tolist() for bank, part in zip(self.banks, self.parts, strict=True)}
        return json.dumps({"format": FORMAT, "name": self.name, "parts": held}, separators=(",", ":")).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hexadecimal digits: what a ledger pays for."""
        return hashlib.sha256(self.content).hexdigest()

    def write(self, folder: Path) -> None:
        """Keep the draft, which only the owner of the folder may read."""
        replace_durably(folder / FILE, self.content)
        (folder / FILE).chmod(0o600)


def kept_draft(folder: Path, name: str, banks: Sequence[str], length: int, largest: int) -> TreeDraft | None:
    """The draft in `folder`; None where there is none, or another file than a draft of this name and these banks.

    `length`, `largest`: of each bank's integers.
    """
    try:
        read = json.loads((folder / FILE).read_bytes())
        if read["format"] != FORMAT or read["name"] != name or list(read["parts"]) != list(banks):
            return None
        parts = tuple(np.array(part, np.int64) for part in read["parts"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    if any(part.shape != (length,) or int(np.abs(part).max(initial=0)) > largest for part in parts):
        return None
    return TreeDraft(name, tuple(banks), parts)


def drop_draft(folder: Path) -> None:
    """Remove the draft, once what was released of it is on disk."""
    (folder / FILE).unlink(missing_ok=True)
