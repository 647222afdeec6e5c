"""Party folders for a federation on one machine: demos, tests, simulations. Not for real deployments.

In a real deployment each party makes its own key and files on its own machine (fl/flower/deploy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fl.durable import replace_durably
from fl.flower.parties.enrolment import enrol_locally
from fl.flower.settings import PlanSettings
from fl.secure.rule_settings import RobustSettings
from fl.toml import literal

KEY_HOLDER = "key-holder"
AGGREGATOR = "aggregator"

AppTable = Mapping[str, str | int | float]


@dataclass(frozen=True)
class LocalParties:
    """A folder for each party, named like its organisation, with party.toml in it.

    banks: organisation -> [app] table.  outsiders: the same, for banks that are not on the enrolment list.
    model_repeats: of every bank. One person runs all of them here and may lose rounds on purpose.  reports: the
    [reports] table of every bank.  robust: the [robust] table of every party; None for plain rounds.
    """

    folder: Path
    plan: PlanSettings
    banks: Mapping[str, AppTable]
    quorum: int = 3
    outsiders: Mapping[str, AppTable] = field(default_factory=dict)
    model_repeats: int = 8
    reports: Mapping[str, Sequence[str]] = field(default_factory=dict)
    robust: RobustSettings | None = None

    def make(self) -> None:
        """Create keys, list and party files."""
        for name in self.names:
            self.home(name).mkdir(parents=True, mode=0o700)
        enrol_locally(self.folder, KEY_HOLDER, AGGREGATOR, list(self.banks), list(self.outsiders))
        self._write(KEY_HOLDER, "key_holder", {})
        self._write(AGGREGATOR, "aggregator", {})
        for name, table in {**self.banks, **self.outsiders}.items():
            self._write(name, "bank", table)

    @property
    def names(self) -> Sequence[str]:
        """All organisations: key holder, aggregator, banks, outsiders."""
        return (KEY_HOLDER, AGGREGATOR, *self.banks, *self.outsiders)

    def home(self, organisation: str) -> Path:
        return self.folder / organisation

    def file(self, organisation: str) -> Path:
        """The party file."""
        return self.home(organisation) / "party.toml"

    def _write(self, organisation: str, role: str, app: AppTable) -> None:
        plan = "\n".join(f"{name} = {literal(value)}" for name, value in vars(self.plan).items())
        table = "\n".join(f"{name} = {literal(value)}" for name, value in app.items())
        reports = "\n".join(f"{name} = {literal(list(names))}" for name, names in self.reports.items())
        rule = {} if self.robust is None else vars(self.robust)
        robust = "\n".join(f"{name} = {literal(value)}" for name, value in rule.items() if value is not None)
        ruled = f"[robust]\n{robust}\n\n" if robust else ""
        reported = f"[reports]\n{reports}\n\n" if reports and role == "bank" else ""
        text = (
            f'role = "{role}"\nidentity = "identity.json"\nenrolment = "enrolment.json"\nquorum = {self.quorum}\n'
            f"model_repeats = {self.model_repeats}\n\n[plan]\n{plan}\n\n{ruled}{reported}[app]\n{table}\n"
        )
        replace_durably(self.file(organisation), text.encode())
