"""Every exception that `fl` raises on purpose.

One base class; each subclass is named for the fact. A message says where (file, column, row), what was expected, what
was got, and what to do. Rows are counted as an editor counts them: the header is row 1.

Errors of the encrypted sum itself are `secagg.errors`; they pass through `fl` unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence


class FederationError(Exception):
    """Base of all errors raised by `fl`."""


class OptionError(FederationError):
    """An option is of another type than it is declared with, or outside its range."""


class SchemaError(FederationError):
    """A schema file is malformed, contradicts itself, or does not describe the data it is used with."""


class DataError(FederationError):
    """A data file cannot be read as its schema says: a missing column, an unparsable value, no fraud."""


class CellRefused(DataError):
    """Cells of a column are not what the schema says.

    `bad`: bool[n], the rows with such cells; `column` and `expected` name what was wrong.
    """

    def __init__(self, message: str, column: str, bad: Sequence[bool], expected: str) -> None:
        super().__init__(message)
        self.column = column
        self.bad = bad
        self.expected = expected


class NoRows(DataError):
    """There are no transactions, or the schema drops all of them."""


class PartitionError(FederationError):
    """Rows cannot be assigned to banks, or an assignment leaves a bank without training rows."""


class SplitError(FederationError):
    """Training and test periods do not fit the data or the label delay."""


class OrderError(DataError):
    """Streamed transactions arrive earlier than transactions already seen."""


class FarAhead(DataError):
    """A transaction is dated far ahead: after it, transactions with the right time would be refused as earlier."""


class ModelError(FederationError):
    """A module and its vector do not fit each other, or a module cannot be federated as it is."""


class TrainingError(FederationError):
    """Local training cannot start or has diverged."""


class DeviceError(FederationError):
    """The requested device is not available."""


class BudgetError(FederationError):
    """A privacy parameter is out of range or contradicts what a bank's ledger allows."""


class BudgetExhausted(BudgetError):
    """The next steps would spend more epsilon than the bank allows; nothing was trained."""


class BudgetLedgerError(FederationError):
    """A bank's privacy ledger is damaged or belongs to another bank."""


class MetricError(FederationError):
    """A metric cannot be computed from these labels and scores."""


class RunFolderError(FederationError):
    """A run folder cannot be created, read or continued."""


class ExportError(FederationError):
    """A model cannot be written in another format as requested, or a file is no export of a run."""


class FileRefused(FederationError):
    """A file cannot be written because its path is a link, a device, a pipe or a folder, which are never replaced."""


class TreesError(FederationError):
    """Trees cannot be trained, read or used as requested."""


class AggregationError(FederationError):
    """The updates do not fit the requested aggregation."""


class AlgorithmError(FederationError):
    """An algorithm's options are out of range, or do not fit each other or the run."""


class CompressionError(FederationError):
    """A compression schedule is impossible or does not fit the run."""


class ResourceError(FederationError):
    """A bank's limits are too small for the run, or the limits file is invalid."""


class BanksVanished(AggregationError):
    """Banks did not send their contributions when they were due.

    `banks` names them. The round can be offered again without them.
    """

    def __init__(self, message: str, banks: tuple[str, ...]) -> None:
        super().__init__(message)
        self.banks = banks


class RuleRefusedRound(AggregationError):
    """A robust rule keeps too few banks, or a second look at those it kept has found one of them out.

    `banks` names those who were found out. The round can be offered again without them, with fresh updates.
    """

    def __init__(self, message: str, banks: tuple[str, ...]) -> None:
        super().__init__(message)
        self.banks = banks


class StatisticsError(FederationError):
    """Shared statistics cannot be planned, summed or used as requested."""


class FeatureError(FederationError):
    """The schema names no column that a feature can be computed from."""


class ExaminationError(FederationError):
    """A finished run cannot be examined as requested: its data are missing or changed, or a column is missing."""


class AblationError(FederationError):
    """An ablation cannot be planned from this configuration, or one of its runs has failed."""
