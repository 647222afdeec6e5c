"""Three small banks that share terminals, some of them compromised for days: for tests of the noisy-or model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fl.data.federation import PartitionedTable, read_partitioned
from fl.data.schema import Schema
from fl.data.schema_file import parse_schema
from fl.runs.asked import configuration
from fl.runs.config import RunConfig

BANKS = ("bank-0", "bank-1", "bank-2")
FIRST, DAYS, DELAY = pd.Timestamp("2024-01-15"), 49, 7
FIRST_DAY = 19_737  # of FIRST, since 1970-01-01
TEST = pd.Timestamp("2024-02-26")  # the first test day
SCHEMA_TEXT = f"""
name = "risky"
[label]
column = "FRAUD"
delay_days = {DELAY}
[time]
column = "TIME"
[amount]
column = "AMOUNT"
typical = 50.0
spread = 0.6
[parties]
customer = "CARD"
terminal = "TERMINAL"
shared = ["terminal"]
[partition]
column = "BANK"
[split]
train = [2024-02-05, 2024-02-18]
test = [[2024-02-26, 2024-03-03]]
validation_share = 0.2
"""


def schema() -> Schema:
    return parse_schema(SCHEMA_TEXT, "risky.toml")


def frame(seed: int = 0, rows_per_day: int = 60, terminals: int = 24) -> pd.DataFrame:
    """49 days of rows in the order of time. Every third terminal is compromised for 20 days, at nine frauds of ten."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(DAYS), rows_per_day)
    terminal, card = rng.integers(0, terminals, len(day)), rng.integers(0, 600, len(day))
    began = rng.integers(-5, DAYS - 10, terminals)
    compromised = (terminal % 3 == 0) & (day >= began[terminal]) & (day < began[terminal] + 20)
    fraud = rng.random(len(day)) < np.where(compromised, 0.9, 0.01)
    return pd.DataFrame(
        {
            "TIME": FIRST + pd.to_timedelta(day, unit="D") + pd.to_timedelta(np.arange(len(day)) % rows_per_day, "min"),
            "CARD": [f"C{each}" for each in card],
            "TERMINAL": [f"T{each}" for each in terminal],
            "BANK": [BANKS[each % 3] for each in card],
            "AMOUNT": np.round(np.exp(rng.normal(3.5 + fraud, 0.6)), 2),
            "FRAUD": fraud.astype(int),
        }
    )


def written(folder: Path, rows: pd.DataFrame) -> Path:
    """The file of these rows in `folder`, and beside it risky.toml."""
    (folder / "risky.toml").write_text(SCHEMA_TEXT)
    rows.to_csv(folder / "transactions.csv", index=False)
    return folder / "transactions.csv"


def source(folder: Path, rows: pd.DataFrame) -> PartitionedTable:
    return read_partitioned(written(folder, rows), schema(), "BANK")


def config(folder: Path, **given: Any) -> RunConfig:
    """Of a run on the rows that `written` wrote to `folder`; few terminals are off the register, and few buckets do."""
    asked = {"data": folder / "transactions.csv", "schema": folder / "risky.toml", "partition": "BANK", "seed": 3}
    found = configuration({**asked, "no_baselines": True, **given})
    return found if found.statistics is None else replace(found, statistics=replace(found.statistics, buckets=8))
