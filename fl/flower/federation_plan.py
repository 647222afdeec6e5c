"""What all banks of a run by a plan agree on before anybody looks at a row, as a file, and its fingerprint.

    [federation]
    format = "fl federation 1"
    name = "network"                             # of the run, in the banks' ledgers; another name is another plan
    members = ["Bank A", "Bank B", "Bank C"]     # organisations as on the enrolment list, in this order
    schema_sha256 = "..."                        # of the schema that every bank reads its rows by
    first_day = 19723                            # of the data, in days since 1970-01-01
    registers = ["terminal"]                     # public lists of parties: terminal.txt beside this file, one a line

and the configuration of a run (`fl.runs.config`). It is that of a private run (`private/`) or of trees (`trees/`). The
fingerprint is a hash over all of it. It is in the model that every offer names, so that a bank refuses an offer for any
other plan.

The noise of a private run is calibrated for ledgers in which nothing was spent. A bank whose ledger has no room for the
run refuses to join before it has paid for anything.

What it leaves to others: making a plan on the command line (`private/plan.py`, `trees/plan.py`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from fl import options
from fl.counts.settings import shared_kinds
from fl.data.federation import Agreed, PartitionedTable
from fl.durable import replace_durably
from fl.errors import FederationError
from fl.flower.app_table import require_constants
from fl.flower.errors import SettingsError
from fl.options import LEAST_BANKS
from fl.runs.config import DataSettings, RunConfig, config_of, config_to_toml
from fl.runs.noise import with_noise
from fl.runs.plan import RunPlan
from fl.runs.refusals import require_possible
from fl.toml import Fields, literal, parsed, text_of

FEDERATION = "federation.toml"
FORMAT = "fl federation 1"
NAME = options.Text("a name of the run")


@dataclass(frozen=True)
class FederationPlan:
    """Everything public about a run by a plan. Raises `SettingsError` for a run that cannot be played over Flower."""

    config: RunConfig
    members: tuple[str, ...]
    schema_sha256: str
    agreed: Agreed
    name: str = "network"

    def __post_init__(self) -> None:
        config, members = self.config, self.members
        if len(set(members)) != len(members) or len(members) < LEAST_BANKS:
            raise SettingsError(f"members: expected {LEAST_BANKS} or more names, each once, got {list(members)}")
        if config.trees is None:
            _require_private(config)
        else:
            _require_trees(config, len(members))
        if config != _public(config):
            raise SettingsError("expected [data] with test_windows alone, and neither budget_dir nor limits of banks")

    @property
    def text(self) -> str:
        """As `FEDERATION` has it."""
        table: dict[str, str | int | list[str]] = {
            "format": FORMAT,
            "name": self.name,
            "members": list(self.members),
            "schema_sha256": self.schema_sha256,
            "first_day": self.agreed.first_day,
            "registers": sorted(self.agreed.registers),
        }
        lines = "\n".join(f"{name} = {literal(value)}" for name, value in table.items())
        return f"{config_to_toml(self.config)}\n[federation]\n{lines}\n"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the file and the registers, 64 hexadecimal digits; for people to compare."""
        registers = {kind: list(names) for kind, names in sorted(self.agreed.registers.items())}
        return hashlib.sha256(json.dumps([FORMAT, self.text, registers]).encode()).hexdigest()

    @property
    def run(self) -> str:
        """The run's name in the banks' ledgers."""
        return f"{self.name}-{self.fingerprint[:16]}"

    def at(self, source: PartitionedTable) -> RunPlan:
        """The plan as a run in one process has it. Raises `SettingsError` where it does not fit the schema."""
        if source.table.schema.sha256 != self.schema_sha256:
            raise SettingsError(
                f"schema {source.table.schema.name!r} is not the one that the plan names: expected SHA-256 "
                f"{self.schema_sha256[:16]}, got {source.table.schema.sha256[:16]}; take the plan's schema"
            )
        plan = RunPlan.new(self.config, source)
        if plan.config != self.config:
            raise SettingsError(f"{FEDERATION}: its noise or its counts do not fit the schema; make the plan anew")
        plan.require_calibrated()
        return plan

    def write(self, folder: Path) -> Path:
        """Write the plan's files; returns that of the plan."""
        folder.mkdir(parents=True, exist_ok=True)
        for kind, names in self.agreed.registers.items():
            replace_durably(folder / f"{kind}.txt", "".join(f"{name}\n" for name in names).encode())
        replace_durably(folder / FEDERATION, self.text.encode())
        return folder / FEDERATION


def read_plan(path: Path) -> FederationPlan:
    """The plan in a file, and the registers beside it. Raises `SettingsError`, naming the entry."""
    tables = parsed(text_of(path, SettingsError), str(path), SettingsError)
    table = tables.pop("federation", None)
    if not isinstance(table, dict):
        raise SettingsError(
            f"{path}: expected a table [federation]; make the file with fl.flower.private.plan or fl.flower.trees.plan"
        )
    fields = Fields(table, "[federation]", SettingsError)
    try:
        if (said := fields.string("format", "")) != FORMAT:
            raise SettingsError(f"[federation] format: expected {FORMAT!r}, got {said!r}")
        members, kinds = fields.strings("members"), fields.strings("registers")
        schema, first_day = fields.string("schema_sha256", ""), fields.option("first_day", options.DAY)
        name = fields.option("name", NAME)
        fields.done()
        registers = {}
        for kind in kinds:
            if not kind.isidentifier():
                raise SettingsError(f"[federation] registers: expected kinds of parties, got {kind!r}")
            registers[kind] = read_register(path.parent / f"{kind}.txt")
        return FederationPlan(config_of(tables, str(path)), members, schema, Agreed(first_day, registers), name)
    except FederationError as error:
        raise SettingsError(f"{path}: {error}") from None


def read_register(path: Path) -> tuple[str, ...]:
    """The identifiers in a file, one a line. Raises `SettingsError` for one that comes twice."""
    names = tuple(line for line in text_of(path, SettingsError).split("\n") if line)
    if len(set(names)) != len(names):
        raise SettingsError(f"{path}: expected each identifier once, got some more than once; remove them")
    return names


def make_plan(config: RunConfig, source: PartitionedTable, name: str = "network") -> FederationPlan:
    """The plan of a new run, with its noise calibrated where it has any.

    `source`: all rows (for a demo), or `fl.data.federation.without_rows`.
    Raises `SettingsError`, `BudgetError` and what `fl.runs.refusals.require_possible` does.
    """
    require_possible(config, len(source.banks))
    require_constants(source.table.schema, f"schema {source.table.schema.name!r}")
    plan = with_noise(RunPlan.new(_public(config), source))
    agreed = source.agreed
    if agreed is None:
        statistics = plan.config.statistics
        listed = {} if statistics is None else {k: d for k, d, _ in shared_kinds(source, statistics) if d}
        agreed = Agreed(source.first_day, listed)
    return FederationPlan(plan.config, plan.banks, source.table.schema.sha256, agreed, name)


def _require_private(config: RunConfig) -> None:
    if config.privacy is None or config.privacy.unit != "row" or not _joint(config):
        raise SettingsError(
            "a private run over Flower takes steps of all banks together under privacy of rows: expected model "
            "noisy-or, or noise shared, with [privacy]"
        )
    if config.robust is not None:
        raise SettingsError(
            f"[robust]: {config.robust.rule} judges each bank by its own update, and a private run over Flower "
            "sums steps of all banks, whose noise is for all of them: leave it out"
        )
    others = (config.participation, config.compression)
    if any(each is not None for each in others) or config.algorithm.name != "fedavg":
        raise SettingsError("every bank takes every step: leave out participation, compression, other algorithms")


def _require_trees(config: RunConfig, banks: int) -> None:
    if config.statistics is not None:
        raise SettingsError("trees over Flower grow on each bank's own columns: leave out [statistics]")
    require_possible(config, banks)


def _joint(config: RunConfig) -> bool:
    return config.model.kind == "noisy-or" or (config.privacy is not None and config.privacy.noise == "shared")


def _public(config: RunConfig) -> RunConfig:
    """`config` with nothing of a single bank or machine."""
    privacy = None if config.privacy is None else replace(config.privacy, budget_dir=None)
    data = DataSettings(test_windows=config.data.test_windows)
    return replace(config, data=data, privacy=privacy, device="cpu", threads=1, with_baselines=True, resources=None)
