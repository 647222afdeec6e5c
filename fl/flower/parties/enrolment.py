"""Identities and one enrolment list for parties that all live on one machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import secagg


def enrol_locally(
    folder: Path, key_holder: str, aggregator: str, banks: Sequence[str], outsiders: Sequence[str]
) -> None:
    """Identities and one enrolment list for parties that all live on this machine, each in folder/<organisation>.

    outsiders: organisations that get an identity and the list but are not on it. In a real deployment every party makes
    its own (`demos enrol`).
    """
    members = {}
    for name in (key_holder, aggregator, *banks, *outsiders):
        identity = secagg.Identity.generate(name)
        identity.save(folder / name / "identity.json")
        members[name] = identity.member
    enrolment = secagg.Enrolment.of(members[key_holder], members[aggregator], [members[name] for name in banks])
    for name in members:
        enrolment.save(folder / name / "enrolment.json")
