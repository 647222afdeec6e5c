"""A private federation whose parties all live on this machine: for demos and tests. No real deployment is made here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from fl.counts.key_slots import SALT_BYTES
from fl.data.federation import PartitionedTable
from fl.durable import replace_durably
from fl.flower.federation_plan import FEDERATION, FederationPlan
from fl.flower.local_parties import AppTable, LocalParties
from fl.flower.private.plan import Course

REPORTS = {"hashes": ["model_hash"]}


def private_parties(
    folder: Path, plan: FederationPlan, source: PartitionedTable, tables: Mapping[str, AppTable]
) -> LocalParties:
    """Folders of a key holder, an aggregator and the plan's members, each with the plan and the members with a salt.

    `tables`: by member, entries of its [app] table beside those of the plan.
    """
    course, members = Course.of(plan.at(source)), len(plan.members)
    own = {"federation": FEDERATION, "salt": "salt"}
    banks = {name: {**own, "bank": name, **tables[name]} for name in plan.members}
    parties = LocalParties(folder, course.settings(members), banks, members, model_repeats=0, reports=REPORTS)
    parties.make()
    salt = secrets.token_bytes(SALT_BYTES)
    for name in plan.members:
        plan.write(parties.home(name))
        path = parties.home(name) / "salt"
        replace_durably(path, salt)
        path.chmod(0o600)
    return parties
