"""Among which banks this bank's trees were grown so far: a lasting record beside its journal.

A contribution to a sum of trees is an exact function of the bank's rows, without noise. The first sum of every training
holds the same counts of the same rows. If one training is among banks A, B, C and D, and another among A, B and C,
their first sums differ by the counts of D alone. Within one training members never change (`bank.py`). Across trainings
the journal is no help: another number of members makes other integers of the same counts. So a bank remembers with
whom it grew trees, and refuses others.

# Strategy: members are remembered by organisation and signing key, since another bank may take a name over. The record
# is on disk before anything is sealed for them. It is the bank's own file; whoever removes it removes the protection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl import options
from fl.durable import replace_durably
from fl.flower.errors import PartnersDiffer, SettingsError

FILE = "trees_partners.json"
FORMAT = "fl trees partners 1"

Members = Mapping[str, str]  # organisation -> signing key, 64 hexadecimal digits


class Partners:
    """The record in a bank's folder. `changed`: the bank's operator accepts other members than before."""

    def __init__(self, folder: Path, *, changed: bool) -> None:
        self._path, self._changed = folder / FILE, changed

    def require(self, members: Members) -> None:
        """Raise `PartnersDiffer` where this bank's trees were grown among other members than these.

        Raises `SettingsError` for a file that cannot be read as a record.
        """
        if self._changed:
            return
        for earlier in self._read():
            if earlier != dict(members):
                raise PartnersDiffer(
                    f"this bank grew trees among {_named(earlier)}, and is asked for a sum among {_named(members)}, "
                    f"{_difference(earlier, members)}: sums of trees have no noise, and the difference of both would "
                    "show what one bank added; keep the members, or set app.changed_members = true in this bank's "
                    "party file"
                )

    def note(self, members: Members) -> None:
        """Keep these members, durably, before anything is sealed for them. Raises as `require`."""
        self.require(members)
        known = self._read()
        if dict(members) in known:
            return
        content = {"format": FORMAT, "members": [*known, dict(members)]}
        replace_durably(self._path, json.dumps(content, indent=1).encode())
        self._path.chmod(0o600)

    def _read(self) -> list[dict[str, str]]:
        if not self._path.exists() and not self._path.is_symlink():
            return []
        try:
            content: Any = json.loads(self._path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"format: expected {FORMAT!r}, got {options.shown(content['format'])}")
            known = [dict(each) for each in content["members"]]
            if any(type(each) is not str for found in known for each in (*found, *found.values())):
                raise ValueError("members: expected organisations and keys as texts")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
            raise SettingsError(
                f"{self._path}: expected the record of earlier trees ({fault}): restore it from the bank's backup"
            ) from fault
        return known


def _named(members: Members) -> str:
    return ", ".join(sorted(members))


def _difference(earlier: Members, members: Members) -> str:
    """Who came, who left, and whose key is another."""
    came, left = sorted(set(members) - set(earlier)), sorted(set(earlier) - set(members))
    rekeyed = sorted(name for name in set(earlier) & set(members) if earlier[name] != members[name])
    parts = [
        *([f"with {', '.join(came)}"] if came else []),
        *([f"without {', '.join(left)}"] if left else []),
        *([f"with another key of {', '.join(rekeyed)}"] if rekeyed else []),
    ]
    return ", ".join(parts)
