"""Synthetic rows for a file that spans hours, with a column of codes: they are learnt from, or it is said that not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from demos.__main__ import cli
from fl.assist.errors import ScenarioError

SCHEMA = """
name = "hours"

[label]
column = "fraud"
delay_days = 0

[time]
column = "when"
unit = "datetime"

[parties]
customer = "card"

[amount]
column = "amount"
typical = 20.0
spread = 1.0

[[categorical]]
column = "code"
hash_width = 8

[partition]
column = "bank"

[split]
train_fraction = 0.6
test_fraction = 0.3
validation_share = 0.2
"""


def demos(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `assist synth` for ten hours of transactions at three banks."""
    folder, rng, rows = tmp_path_factory.mktemp("hours"), np.random.default_rng(0), 900
    seconds = np.sort(rng.integers(0, 10 * 3600, rows))
    frame = pd.DataFrame(
        {
            "when": pd.Timestamp("2026-03-03 08:00") + pd.to_timedelta(seconds, unit="s"),
            "card": [f"C{card}" for card in rng.integers(0, 200, rows)],
            "amount": np.round(np.exp(rng.normal(3.0, 1.0, rows)), 2),
            "code": rng.choice(["a", "b", "c"], rows),
            "bank": rng.choice(["north", "south", "west"], rows),
            "fraud": (rng.random(rows) < 0.1).astype(int),
        }
    )
    frame.to_csv(folder / "hours.csv", index=False)
    (folder / "hours.toml").write_text(SCHEMA)
    data = ["--data", folder / "hours.csv", "--schema", folder / "hours.toml", "--work", folder]
    demos("assist", "synth", "--scenario", "a stolen card", "--rows", "80", *data)
    return folder / "synthetic"


def test_what_is_accepted_for_a_file_of_hours_is_learnt_from(asked: Path) -> None:
    demos("assist", "approve", asked, "--accept-unflagged", "--by", "a person")
    compared = demos("assist", "compare", asked, "--rounds", "1", "--repeats", "1", "--replicates", "100", "--json")
    assert '"training_rows_added_per_bank": 0' not in compared.output
    assert '"verdict"' in compared.output


def test_rows_of_which_none_can_be_learnt_are_no_comparison(asked: Path) -> None:
    demos("assist", "approve", asked, "--accept-unflagged", "--by", "a person")
    rows = pd.read_csv(asked / "rows.csv", dtype=str)
    rows["when"] = "2026-03-01 12:00:00"
    (asked / "rows.csv").write_text(rows.to_csv(index=False))
    refused = demos("assist", "compare", asked, "--rounds", "1", "--repeats", "1", "--replicates", "100", code=1)
    assert isinstance(refused.exception, ScenarioError) and "got none among" in str(refused.exception)
