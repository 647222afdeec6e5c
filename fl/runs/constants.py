"""The scaling constants of a run: which the banks compute together, under which noise, and what that costs.

What it does: `settings_of` decides whether a run has such a round, `with_noise_of_constants` calibrates its noise,
`with_constants` plays it once and gives a table whose schema holds the constants, and `told_constants` tells of it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from fl.counts.shared_constants import (
    CONSTANTS,
    ConstantsPlan,
    SharedConstants,
    constants_plan,
    moved_counts,
    share_constants,
)
from fl.data.federation import PartitionedTable
from fl.data.scaling import counted_columns
from fl.data.schema import DAY_US
from fl.durable import replace_durably
from fl.errors import BudgetError, BudgetExhausted
from fl.plural import plural
from fl.privacy.accounting import epsilon
from fl.privacy.calibrate import calibrate_counts, require_left
from fl.privacy.mechanisms import COUNTS_UNIT, DAY, Entry
from fl.privacy.noise_shares import plan_noise
from fl.runs.budgets import CountsPayment, ledgers_folder, open_ledgers
from fl.runs.config import ConstantsSettings, PrivacySettings, RunConfig
from fl.runs.folder import RunFolder, read_object

SCHEMA_FILE = "schema.toml"  # of a run: its schema with all constants
ALL_DAYS = (DAY.low, DAY.high)
TOLD = "constants.json"  # of a run: what `train --json` says of the round
EXACT_WARNING = (
    "exact counts of all banks' rows by logarithm: they hide which bank a row is from, and nothing else; use "
    "differential privacy where that matters"
)


def settings_of(config: RunConfig, source: PartitionedTable) -> ConstantsSettings | None:
    """How this run computes constants; None where its schema lacks none.

    Raises `BudgetError` where epsilon protects a bank's whole update, which the round's epsilon cannot be added to.
    """
    if not source.table.schema.lacking("shared"):
        return None
    privacy = config.privacy
    if privacy is not None and privacy.unit == "client":
        raise BudgetError(
            "the schema leaves scaling constants to a round whose epsilon protects a transaction, and --unit client "
            "protects a bank's whole update: name center and scale in the schema, or take the schema.toml of a run"
        )
    settings = config.constants or ConstantsSettings()
    if privacy is not None and privacy.noise == "own":
        # Nobody else is trusted: a bank's share suffices if every other bank colludes.
        settings = replace(settings, colluders=len(source.banks) - 1)
    return settings


def training_days(source: PartitionedTable) -> tuple[int, int]:
    """(first, last) day of the training period; all days where it has none, so that nothing counts as another day's."""
    train, time = source.periods.train, source.table.schema.time
    if train is None or time is None or not time.measures_days:
        return ALL_DAYS
    return train.start // DAY_US, (train.end - 1) // DAY_US


def with_noise_of_constants(
    settings: ConstantsSettings, source: PartitionedTable, privacy: PrivacySettings, histories: list[list[Entry]]
) -> ConstantsSettings:
    """The settings with the least noise that a small share of what is left of every bank's epsilon allows.

    Raises `BudgetExhausted` where that share allows none.
    """
    schema = source.table.schema
    counted, sigmas = counted_columns(schema, "shared"), []
    for history in histories:
        already = require_left(history, privacy.epsilon, privacy.delta)
        share = settings.budget_share * (privacy.epsilon - already)
        try:
            noise = calibrate_counts(
                history,
                columns=moved_counts(counted),
                days=training_days(source),
                banks=len(source.banks),
                colluders=settings.colluders,
                epsilon_limit=already + share,
                delta=privacy.delta,
                reports=schema.parties.reports,
            )
        except BudgetExhausted as fault:
            raise BudgetExhausted(
                f"the scaling constants of {plural(len(counted), 'column')} do not fit into their share of epsilon, "
                f"{share:.2g}: "
                'raise --epsilon or --option constants_share=, or name constants in the schema (constants = "given")'
            ) from fault
        sigmas.append(noise.sigma)
    return replace(settings, sigma=max(sigmas))


def plan_of_constants(config: RunConfig, source: PartitionedTable) -> ConstantsPlan:
    """The round that computes the constants that the schema of `source` lacks, under the run's noise."""
    settings, noise = config.constants, None
    if config.privacy is not None:
        assert settings is not None and settings.sigma is not None
        noise = plan_noise(settings.sigma, len(source.banks), settings.colluders)
    return constants_plan(source.table.schema, noise, training_days(source))


def with_constants(config: RunConfig, source: PartitionedTable, folder: RunFolder) -> PartitionedTable:
    """`source` with the constants of the run: read from its folder, or computed in a secure round that is paid for.

    The caller holds the folder's lock, unless `constants_are_known`.
    """
    plan, payment, where = plan_of_constants(config, source), None, folder.path / "statistics"
    if privacy := config.privacy:
        assert plan.entry is not None
        names = [name for name, _, _ in source.banks]
        ledgers = open_ledgers(ledgers_folder(folder.path, privacy), privacy, names)
        payment = CountsPayment(ledgers, folder.run_id, plan.entry)
        if privacy.budget_dir is None and not (where / CONSTANTS).exists():
            folder.require_original()
    engine = None if config.aggregation.mode == "plain" else config.aggregation.engine
    shared = share_constants(list(source.training_rows()), plan, where, payment=payment, engine=engine)
    resolved = source.with_shared_constants(shared.constants)
    delta = None if config.privacy is None else config.privacy.delta
    if not (folder.path / TOLD).exists():
        replace_durably(folder.path / SCHEMA_FILE, resolved.table.schema.source.encode())
        folder.write_json(TOLD, _told(shared, plan, delta))
    return resolved


def constants_are_known(run: Path) -> bool:
    """Whether the round of the run in folder `run` has been played and told of."""
    return (run / "statistics" / CONSTANTS).exists() and (run / TOLD).exists()


def told_constants(config: RunConfig, run: Path) -> dict[str, Any] | None:
    """What `train --json` says of the round for constants; None where the run had none."""
    return None if config.constants is None else read_object(run / TOLD)


def _told(shared: SharedConstants, plan: ConstantsPlan, delta: float | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "columns": {each.column: {"center": each.center, "scale": each.scale} for each in shared.constants},
        "integers_per_bank": plan.length,
        "seconds": shared.seconds,
        "bytes_up": shared.bytes_up,
        "bytes_down": shared.bytes_down,
    }
    if plan.entry is None or delta is None:
        return {**told, "epsilon": None, "warning": EXACT_WARNING}
    return {
        **told,
        "epsilon": epsilon([plan.entry], delta),
        "unit": COUNTS_UNIT,
        "counts_moved": plan.moved,
        "released_sigma": shared.sigma,
    }
