"""What a bank reads and refuses when it computes by a plan that all banks agreed on, whatever is computed.

The party file's [app] table says where the plan and this bank's rows are, for example

    [app]
    federation = "federation.toml"   # the plan, the same at every bank (federation_plan.py)
    data = "transactions.csv"        # this bank's rows
    schema = "schema.toml"
    partition = "BANK"               # column that names the bank of a row; leave it out where all rows are this bank's
    bank = "Bank A"                  # name in that column, and among the plan's members

Every round of a plan is a sum over all its members, so the quorum is their number and a smaller roster is refused.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from fl import options
from fl.data.federation import PartitionedTable, read_member, resolve_schema
from fl.flower.app_table import require_entries, simulation_of
from fl.flower.errors import SettingsError
from fl.flower.federation_plan import FederationPlan, read_plan
from fl.flower.logs import RoleLog
from fl.flower.settings import PartySettings, PlanSettings
from fl.runs.config import DataSettings
from fl.runs.plan import RunPlan

OF_ROWS = ("federation", "data", "schema", "partition", "bank")  # texts
OF_SIMULATION = ("seed", "banks", "customers", "fraud_share")


def plan_of(settings: PartySettings) -> FederationPlan:
    """The plan that a bank's [app] table names. Raises `SettingsError`."""
    file = settings.folder / "party.toml"
    require_entries(settings.app, {"federation", "data", "bank"}, file)
    named = settings.app["federation"]
    if not (isinstance(named, str) and named):
        raise SettingsError(f"{file}: app.federation: expected a text, got {options.shown(named)}")
    return read_plan(settings.folder / named)


class PlannedBank:
    """A bank's settings, its plan and its rows. Raises `SettingsError` for a party file that does not fit the plan.

    `what`: the kind of run, for errors. `texts`, `others`: entries of [app] beside `OF_ROWS` and `OF_SIMULATION`.
    """

    what = "a run by a plan"
    no_rule = "sums over all its members, and no rule can leave one out"
    texts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def __init__(self, settings: PartySettings, log: RoleLog) -> None:
        self._settings, self._log = settings, log
        self._file = settings.folder / "party.toml"
        app = settings.app
        self.plan: FederationPlan = plan_of(settings)
        texts, known = (*OF_ROWS, *self.texts), (*OF_ROWS, *self.texts, *OF_SIMULATION, *self.others)
        if unknown := sorted(set(app) - set(known)):
            raise SettingsError(f"{self._file}: app.{unknown[0]}: {self.what} knows {', '.join(known)}")
        for name in texts:
            if name in app and not (isinstance(app[name], str) and app[name]):
                raise SettingsError(f"{self._file}: app.{name}: expected a text, got {options.shown(app[name])}")
        if settings.robust is not None:
            raise SettingsError(f"{self._file}: [robust]: {self.what} {self.no_rule}: remove it")
        self.bank: str = app["bank"]
        if self.bank not in self.plan.members:
            raise SettingsError(f"{self._file}: app.bank: {self.bank!r} is no member of the plan")

    @cached_property
    def rows(self) -> PartitionedTable:
        """This bank's rows; the other members are there by name alone."""
        import torch

        torch.set_num_threads(1)
        app, folder = self._settings.app, self._settings.folder
        simulation = simulation_of(app)
        data = "simulated" if simulation is not None else str(folder / app["data"])
        schema = resolve_schema(data, self._schema_named)
        partition = app.get("partition", schema.partition if simulation is not None else None)
        return read_member(
            data,
            schema,
            partition,
            self.bank,
            self.plan.members,
            self.plan.config.seed,
            self.plan.agreed,
            test_windows=self.plan.config.data.test_windows,
            simulation=simulation,
        )

    @cached_property
    def run(self) -> RunPlan:
        """The plan as a run in one process has it."""
        return self.plan.at(self.rows)

    @property
    def _data(self) -> DataSettings:
        """Where this bank's rows are, as the configuration of a run has it."""
        app, windows, schema = self._settings.app, self.plan.config.data.test_windows, self._schema_named
        if simulation_of(app) is not None:
            banks, customers = app.get("banks", 3), app.get("customers", 150)
            return DataSettings(
                clients=banks, customers=customers, fraud_share=app.get("fraud_share"), test_windows=windows
            )
        data = str(self._settings.folder / app["data"])
        return DataSettings(data, schema, app.get("partition"), test_windows=windows)

    @property
    def _schema_named(self) -> str | None:
        """A shipped schema's name or a file's path; None: recognised by the header."""
        named: Any = self._settings.app.get("schema")
        return str(Path(self._settings.folder / named)) if named is not None and named.endswith(".toml") else named

    @property
    def _position(self) -> int:
        return self.plan.members.index(self.bank)

    # --- what it refuses --------------------------------------------------------------------------------------------

    def _require_plan_of_rounds(self, expected: PlanSettings) -> None:
        """The party file's plan of rounds must sum the plan's integers exactly, over all members."""
        settings, members = self._settings, len(self.plan.members)
        if settings.plan != expected:
            wanted = ", ".join(f"{name} = {value}" for name, value in vars(expected).items())
            raise SettingsError(f"{self._file}: [plan]: {self.what} by this plan needs {wanted}")
        if settings.quorum != members or settings.allow_reuse:
            raise SettingsError(
                f"{self._file}: expected quorum = {members}, as many as the plan's members, and allow_reuse = "
                f"false; got {settings.quorum} and {settings.allow_reuse}"
            )

    def _require_members(self, roster: Collection[str], why: str) -> None:
        """Raise `SettingsError` for a roster of others than the plan's members. `why`: what is for all of them."""
        if sorted(roster) != sorted(self.plan.members):
            raise SettingsError(
                f"the roster holds {', '.join(sorted(roster))}, and {why} for {', '.join(self.plan.members)}"
            )
