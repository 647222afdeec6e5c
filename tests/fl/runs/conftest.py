"""The small banks of `risky_banks`, on disk and read: once for each module of tests that asks for them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import risky_banks

from fl.data.federation import PartitionedTable


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return risky_banks.frame()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, rows: pd.DataFrame) -> Path:
    """The folder of their file and schema."""
    folder = tmp_path_factory.mktemp("data")
    risky_banks.written(folder, rows)
    return folder


@pytest.fixture(scope="module")
def source(data: Path, rows: pd.DataFrame) -> PartitionedTable:
    return risky_banks.source(data, rows)
