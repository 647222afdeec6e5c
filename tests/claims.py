"""Made-up claims of three insurers: categories, missing values, rows to leave out, and fraud that follows from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

SCHEMA = """
name = "claims"

[label]
column = "fraud"
delay_days = 0

[time]
column = "day"
unit = "days"

[amount]
column = "paid"
typical = 100.0
spread = 1.0

[partition]
column = "insurer"

[split]
train_fraction = 0.6
test_fraction = 0.4
validation_share = 0.2

[[numeric]]
column = "age"
center = 45.0
scale = 15.0
missing = 45.0

[[categorical]]
column = "kind"
vocabulary = ["glass", "fire", "water", "theft"]

[drop]
kind = ["test"]
"""


def claims(rows: int = 1200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng([31, seed])
    kind = rng.choice(["glass", "fire", "water", "theft", "other", "test"], rows, p=[0.3, 0.1, 0.2, 0.2, 0.15, 0.05])
    age, paid = rng.integers(18, 90, rows).astype(float), np.round(np.exp(rng.normal(4.5, 1.0, rows)), 2)
    age[rng.random(rows) < 0.2] = np.nan
    logit = -3.5 + 2.5 * np.isin(kind, ["theft", "other"]) + 1.5 * np.isnan(age) + 0.8 * (paid > 200)
    fraud = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    insurer = rng.choice(["a", "b", "c"], rows, p=[0.5, 0.3, 0.2])
    columns = {"day": np.arange(rows) // 10, "insurer": insurer, "paid": paid, "age": age, "kind": kind, "fraud": fraud}
    return pd.DataFrame(columns)


def write(folder: Path, rows: int = 1200) -> tuple[Path, Path]:
    """(file of claims, schema) in `folder`."""
    data, schema = folder / "claims.csv", folder / "claims.toml"
    claims(rows).to_csv(data, index=False)
    schema.write_text(SCHEMA, encoding="utf-8")
    return data, schema
