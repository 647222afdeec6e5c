"""Made-up insurance claims that are nearly all categories, whose frauds are combinations of several columns.

A ring is a garage and an assessor who work together; each of them alone is as honest as others. A story is what a
forged claim says: a theft at night without a witness and without the police, a new policy and a dear car. No single
column tells a fraud from an honest claim by much, as in the claims that insurers publish.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

GARAGES, ASSESSORS, RINGS = 40, 25, 8
WORDS: dict[str, tuple[str, ...]] = {
    "garage": tuple(f"garage {i}" for i in range(GARAGES)),
    "assessor": tuple(f"assessor {i}" for i in range(ASSESSORS)),
    "cause": ("collision", "theft", "fire", "glass", "storm", "vandalism"),
    "hour": ("night", "morning", "noon", "evening"),
    "witness": ("yes", "no"),
    "police": ("yes", "no"),
    "age_of_policy": ("below 1 month", "1 to 6 months", "6 to 12 months", "1 to 3 years", "more than 3 years"),
    "price_of_car": ("below 10", "10 to 20", "20 to 30", "30 to 50", "above 50"),
    "channel": ("agent", "broker", "web"),
    "place": ("town", "village", "motorway", "abroad"),
    "driver": ("holder", "partner", "child", "other"),
    **{f"answer_{i:02d}": ("a", "b", "c", "d") for i in range(17)},
}


def claims(rows: int, seed: int) -> pd.DataFrame:
    """`rows` claims in random order: 28 categories, two numbers and the answer."""
    rng = np.random.default_rng([47, seed])
    columns = {name: rng.integers(len(words), size=rows) for name, words in WORDS.items()}
    rings = rng.permutation(GARAGES)[:RINGS], rng.permutation(ASSESSORS)[:RINGS]
    ring = np.zeros(rows, bool)
    for garage, assessor in zip(*rings, strict=True):
        ring |= (columns["garage"] == garage) & (columns["assessor"] == assessor)
        moved = (columns["garage"] == garage) & (rng.random(rows) < 0.1)  # the ring sends its claims there
        columns["assessor"][moved] = assessor
        ring |= moved
    is_theft, at_night = columns["cause"] == 1, columns["hour"] == 0
    alone = (columns["witness"] == 1) & (columns["police"] == 1)
    new, dear = columns["age_of_policy"] <= 1, columns["price_of_car"] >= 3
    story = (is_theft & at_night & alone) | (new & dear & alone)
    chance = np.select([ring & (new | dear), ring, story], [0.7, 0.35, 0.4], 0.02)
    made = pd.DataFrame({name: np.array(words)[columns[name]] for name, words in WORDS.items()})
    made["age_of_driver"] = rng.integers(18, 90, rows)
    made["damage"] = np.round(rng.lognormal(7.5, 0.8, rows), 2)
    made["fraud"] = np.where(rng.random(rows) < chance, "yes", "no")
    return made


def schema() -> str:
    """What an analyst would write of such a file."""
    tables = [
        f'[[categorical]]\ncolumn = "{name}"\nvocabulary = [{", ".join(f"{word!r}" for word in words)}]'
        for name, words in WORDS.items()
    ]
    return "\n".join(
        [
            '[label]\ncolumn = "fraud"\npositive = ["yes"]\nnegative = ["no"]',
            '[amount]\ncolumn = "damage"\ntypical = 2000.0',
            '[[numeric]]\ncolumn = "age_of_driver"\ncenter = 50.0\nscale = 20.0',
            *tables,
            "[split]\ntrain_fraction = 0.7\ntest_fraction = 0.3\n",
        ]
    )


def write(folder: Path, rows: int, seed: int) -> tuple[Path, Path]:
    """(file of claims, schema) in `folder`."""
    data, written = folder / f"rings-{seed}.csv", folder / "rings.toml"
    claims(rows, seed).to_csv(data, index=False)
    written.write_text(schema(), encoding="utf-8")
    return data, written
