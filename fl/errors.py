"""Every exception that `fl` raises on purpose.

One base, leaves named for the fact. A message says where (file, column, row), what was expected, what was
found, and what to do. Rows are counted as an editor counts them: the header is row 1.

Errors of the encrypted sum itself are `secagg.errors`; they pass through `fl` unchanged.
"""

from __future__ import annotations


class FederationError(Exception):
    """Base of all errors raised by `fl`."""


class SchemaError(FederationError):
    """A schema file is malformed, contradicts itself, or does not describe the data it is used with."""


class DataError(FederationError):
    """A data file cannot be read as its schema says: a missing column, an unparsable value, no fraud."""


class PartitionError(FederationError):
    """Rows cannot be assigned to banks, or an assignment leaves a bank without training rows."""


class SplitError(FederationError):
    """Training and test periods do not fit the data or the label delay."""


class OrderError(DataError):
    """Streamed transactions arrive earlier than transactions already seen."""
