"""The transactions that a run's configuration asks for: when it trains, and again when it is examined."""

from __future__ import annotations

from fl.data.federation import SIMULATED, PartitionedTable, read_partitioned
from fl.data.simulate import embedded
from fl.runs.config import DataSettings, random_banks


def read_source(data: DataSettings, seed: int) -> PartitionedTable:
    """The transactions of a run, partitioned and split. Raises what `fl.data.federation.read_partitioned` does."""
    simulation = None
    if data.source == SIMULATED:
        simulation = embedded(data.customers, data.clients, data.fraud_share, seed)
    banks = random_banks(data)
    windows = data.test_windows
    return read_partitioned(
        data.source, data.schema, data.partition, banks, seed, test_windows=windows, simulation=simulation
    )
